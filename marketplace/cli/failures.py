"""Errors for people and exit codes for programs: `marketplace.errors` has the table of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketplace.errors import ExitCode

if TYPE_CHECKING:
    from marketplace.sdk.errors import ConfigError

# Packages that a client does without, by the extra that brings them.
EXTRAS = {
    "agent": ("psutil", "pynvml"),
    "postgres": ("psycopg",),
    "server": (
        *("alembic", "fastapi", "prometheus_client", "pydantic_settings", "sqlalchemy"),
        *("sqlmodel", "sse_starlette", "uuid_utils", "uvicorn"),
    ),
}


def known_errors() -> tuple[type[Exception], ...]:
    """Every error that is shown in words; anything else is a fault of ours, with its trace."""
    from marketplace.agent.errors import AgentError
    from marketplace.errors import MarketError
    from marketplace.sdk.errors import CoulombError
    from settlement.errors import SettlementError

    return CoulombError, SettlementError, MarketError, AgentError


def missing_extra(error: ModuleNotFoundError) -> ConfigError | None:
    """What to install, if a package that only some commands need is missing; else None."""
    from marketplace.sdk.errors import ConfigError

    for extra, packages in EXTRAS.items():
        if error.name in packages:
            why = f"this command needs the package {error.name}, which is not installed"
            return ConfigError(why, fix=f"pip install 'coulomb[{extra}]'")
    return None


def exit_code_of(error: Exception) -> ExitCode:
    """What a command ends with: a server's code says it, else the first row that fits."""
    from marketplace.sdk import errors as sdk
    from settlement import errors as settlement

    if isinstance(error, sdk.ApiError) and error.kind is not None:
        return error.kind.exit_code
    table: tuple[tuple[type[Exception], ExitCode], ...] = (
        (sdk.AuthError, ExitCode.AUTH),
        (sdk.NotFound, ExitCode.NOT_FOUND),
        (sdk.Conflict, ExitCode.CONFLICT),
        (sdk.FundsError, ExitCode.FUNDS),
        (sdk.RateLimited, ExitCode.RETRY_LATER),
        (sdk.Unavailable, ExitCode.RETRY_LATER),
        (sdk.TransportError, ExitCode.RETRY_LATER),
        (sdk.WaitTimeout, ExitCode.TIMED_OUT),
        (sdk.NotEnough, ExitCode.FUNDS),
        (sdk.ConfigError, ExitCode.USAGE),
        (sdk.InputError, ExitCode.USAGE),
        (settlement.KeystoreError, ExitCode.AUTH),
        (settlement.ChainError, ExitCode.CHAIN),
        (settlement.DeploymentError, ExitCode.CHAIN),
        (settlement.FieldError, ExitCode.USAGE),
    )
    return next((code for kind, code in table if isinstance(error, kind)), _other(error))


def _other(error: Exception) -> ExitCode:
    """Domain errors that a command met before it sent anything are mistakes in its input."""
    from marketplace.agent.errors import AgentConfigError
    from marketplace.errors import InvalidInput

    return ExitCode.USAGE if isinstance(error, InvalidInput | AgentConfigError) else ExitCode.ERROR


def describe(error: Exception) -> list[str]:
    """What is wrong, where, and what to do: one line each, as far as known."""
    lines = [str(error) or type(error).__name__]
    problem = getattr(error, "problem", None)
    code = getattr(error, "code", "")
    if code:
        request = f", request {problem.request_id}" if problem and problem.request_id else ""
        lines.append(f"  code {code}{request}")
    if problem is not None:
        if problem.shortfall is not None:
            lines.append(f"  short of {problem.shortfall}")
    fix = getattr(error, "fix", "") or _fix_of(error)
    if fix:
        lines.append(f"  fix: {fix}")
    return lines


def _fix_of(error: Exception) -> str:
    from marketplace.errors import Unavailable
    from marketplace.sdk import errors as sdk
    from settlement import errors as settlement

    fixes: tuple[tuple[type[Exception], str], ...] = (
        (Unavailable, "check COULOMB_DATABASE_URL; `coulomb db upgrade` makes a new database"),
        (sdk.ConnectFailed, "check api_url in the profile, or COULOMB_API_URL; is the server up?"),
        (
            settlement.ChainUnavailable,
            "check ETH_RPC_URL, or rpc_url in the profile; is the node up?",
        ),
        (
            settlement.OutcomeUnknown,
            "`cast receipt HASH` or a block explorer says whether it was mined; until it is, or "
            "another transaction has its nonce, a repeat may pay twice",
        ),
        (
            settlement.FeeAboveCap,
            "wait until fees fall; if other nodes ask for less, change ETH_RPC_URL, or rpc_url in "
            "the profile",
        ),
        (settlement.WrongChain, "set ETH_RPC_URL, or rpc_url in the profile, to a node of it"),
        (
            settlement.DeploymentError,
            "name the folder with --deployments or COULOMB_DEPLOYMENTS; see `contract deploy`",
        ),
    )
    return next((fix for kind, fix in fixes if isinstance(error, kind)), "")
