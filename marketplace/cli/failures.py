"""Errors for people and exit codes for programs: `marketplace.errors` has the table of both."""

from marketplace import errors as market
from marketplace.agent.errors import AgentConfigError, AgentError
from marketplace.errors import ExitCode
from marketplace.sdk import errors as sdk
from settlement import errors as settlement

# Every error that is shown in words; anything else is a fault of ours, with its trace.
KNOWN = (sdk.CoulombError, settlement.SettlementError, market.MarketError, AgentError)
# Packages that a client does without, by the extra that brings them.
EXTRAS = {
    "agent": ("psutil", "pynvml"),
    "postgres": ("psycopg",),
    "server": (
        *("alembic", "fastapi", "prometheus_client", "pydantic_settings", "sqlalchemy"),
        *("sqlmodel", "sse_starlette", "uuid_utils", "uvicorn"),
    ),
}
# The first row that fits. Domain errors that a command met before it sent anything are mistakes in
# its input.
EXIT_CODES: dict[ExitCode, tuple[type[Exception], ...]] = {
    ExitCode.AUTH: (sdk.AuthError, settlement.KeystoreError),
    ExitCode.NOT_FOUND: (sdk.NotFound,),
    ExitCode.CONFLICT: (sdk.Conflict,),
    ExitCode.FUNDS: (sdk.FundsError, sdk.NotEnough),
    ExitCode.RETRY_LATER: (sdk.RateLimited, sdk.Unavailable, sdk.TransportError),
    ExitCode.TIMED_OUT: (sdk.WaitTimeout,),
    ExitCode.CHAIN: (sdk.RelayFailed, settlement.ChainError, settlement.DeploymentError),
    ExitCode.USAGE: (
        *(sdk.ConfigError, sdk.InputError, settlement.FieldError),
        *(market.InvalidInput, AgentConfigError),
    ),
}
FIXES: dict[type[Exception], str] = {
    AgentConfigError: "correct it; docs/agent-file.md lists every member",
    market.Unavailable: "check COULOMB_DATABASE_URL; `coulomb db upgrade` makes a new database",
    sdk.ConnectFailed: "check api_url in the profile, or COULOMB_API_URL; is the server up?",
    settlement.ChainUnavailable: "check ETH_RPC_URL, or rpc_url in the profile; is the node up?",
    settlement.OutcomeUnknown: (
        "`cast receipt HASH` or a block explorer says whether it was mined; until it is, or "
        "another transaction has its nonce, a repeat may pay twice"
    ),
    settlement.FeeAboveCap: (
        "wait until fees fall; if other nodes ask for less, change ETH_RPC_URL, or rpc_url in "
        "the profile"
    ),
    settlement.WrongChain: "set ETH_RPC_URL, or rpc_url in the profile, to a node of it",
    settlement.DeploymentError: (
        "name the folder with --deployments or COULOMB_DEPLOYMENTS; see `contract deploy`"
    ),
}


def missing_extra(error: ModuleNotFoundError) -> sdk.ConfigError | None:
    """What to install, if a package that only some commands need is missing; else None."""
    for extra, packages in EXTRAS.items():
        if error.name in packages:
            why = f"this command needs the package {error.name}, which is not installed"
            fix = f"pip install 'coulomb[{extra}] @ git+REPOSITORY', with the URL of the repository"
            return sdk.ConfigError(why, fix)
    return None


def exit_code_of(error: Exception) -> ExitCode:
    """What a command ends with: a server's code says it, else the first row that fits."""
    if isinstance(error, sdk.ApiError) and error.kind is not None:
        return error.kind.exit_code
    fitting = (code for code, kinds in EXIT_CODES.items() if isinstance(error, kinds))
    return next(fitting, ExitCode.ERROR)


def describe(error: Exception) -> list[str]:
    """What is wrong, where, and what to do: one line each, as far as known."""
    lines = [str(error) or type(error).__name__]
    problem = getattr(error, "problem", None)
    if code := getattr(error, "code", ""):
        request = f", request {problem.request_id}" if problem and problem.request_id else ""
        lines.append(f"  code {code}{request}")
    if problem is not None and problem.shortfall is not None:
        lines.append(f"  short of {problem.shortfall}")
    fitting = (text for kind, text in FIXES.items() if isinstance(error, kind))
    if fix := getattr(error, "fix", "") or next(fitting, ""):
        lines.append(f"  fix: {fix}")
    return lines
