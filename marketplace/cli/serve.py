"""What operators run: `coulomb serve`, `reconcile`, `settle` and `db`."""

import logging
import os
import socket
import sys
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from typer import Option

from marketplace.cli.context import agreed, current
from marketplace.cli.output import columns, note, show_rows
from marketplace.errors import ExitCode
from marketplace.sdk.errors import ConfigError
from marketplace.server.operations import compare, migrate, recent_intents, settle_now
from marketplace.server.roles import run_roles
from marketplace.server.settings import Settings, variable_of

db_app, settle_app = typer.Typer(), typer.Typer()
FINDINGS = columns("kind", "subject", "expected", "found")
INTENT = (
    "id", "kind", "state", "key", "nonce", "tx_hash", "block_number", "attempts", "error",
    "created_at",
)  # fmt: skip
HEADERS = {"tx_hash": "tx", "block_number": "block", "created_at": "created"}
INTENTS = columns(*(f"{HEADERS.get(name, name)}={name}" for name in INTENT))


def serve(
    role: Annotated[
        list[str] | None, Option(help="api, matcher, relayer, indexer; all by default.")
    ] = None,
    host: Annotated[str | None, Option(help="Where the API listens.")] = None,
    port: Annotated[int | None, Option(help="0 picks one.")] = None,
) -> None:
    """Run the roles until stopped. Settings come from COULOMB_… variables and ETH_RPC_URL."""
    settings = settings_of_env(roles=tuple(role) if role else None, host=host, port=port)
    if "api" in settings.roles:
        require_free(settings.host, settings.port, "--port")
    quiet_logs()
    code = run_roles(settings, ready=lambda url: note(f"ready {url or ', '.join(settings.roles)}"))
    raise typer.Exit(code)


def reconcile() -> None:
    """Compare chain, database and running jobs to the atom. Ends with 1 if they differ."""
    seen = compare(settings_of_env())
    show_rows(seen.findings, FINDINGS)
    note(
        f"block {seen.block_number}: {seen.leases} leases, {seen.accounts} accounts, "
        f"{len(seen.findings)} differences"
    )
    if seen.findings:
        raise typer.Exit(ExitCode.ERROR)


@settle_app.command()
def run() -> None:
    """Put what is countersigned and unpaid into settlements. The relayer role sends them."""
    settings = settings_of_env()
    if current().dry_run:
        note(f"would settle from {settings.database_url.rpartition('@')[2]}")
        return
    settled, refunds = settle_now(settings)
    note(f"{settled} vouchers and {refunds} refunds are in the outbox")


@settle_app.command()
def status(
    limit: Annotated[int, Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """Intents in the outbox, newest first."""
    rows = recent_intents(settings_of_env(), limit)
    show_rows([{name: getattr(row, name) for name in INTENT} for row in rows], INTENTS)
    dead = sum(row.state == "dead" for row in rows)
    if dead:
        note(f"{dead} are dead: nothing sends them again")


@db_app.command()
def upgrade(
    url: Annotated[str | None, Option(help="Database URL (default: COULOMB_DATABASE_URL).")] = None,
) -> None:
    """Bring the schema to this version. Does nothing if it is there already."""
    target = url or os.environ.get("COULOMB_DATABASE_URL", "sqlite:///coulomb.db")
    shown = target.rpartition("@")[2]  # without a password
    if agreed(f"upgrade {shown}"):
        migrate(target)
        note(f"{shown} is at this version")


def settings_of_env(**chosen: Any) -> Settings:
    """The operator's settings; `chosen` before the environment, the profile after it.

    Raises ConfigError naming the variable that is missing or wrong.
    """
    profile = current().profile()
    for name, value in (("rpc_url", profile.rpc_url), ("chain_id", profile.chain_id)):
        if value and not os.environ.get(variable_of(name)):
            chosen.setdefault(name, value)
    try:
        return Settings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        variable = variable_of(str(first["loc"][0]))
        if first["type"] == "missing":
            raise ConfigError(
                f"{variable} is not set", fix="export it; `coulomb dev up` prints what it uses"
            ) from None
        raise ConfigError(f"{variable} is wrong: {first['msg']}") from None


def require_free(host: str, port: int, option: str) -> None:
    """Raise ConfigError if nothing can listen on a port; `option` is what names another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on port {port} of {host}: {os.strerror(error.errno or 0)}",
            fix=f"name another with {option}, or stop what is there; {option} 0 picks a free one",
        ) from None


def quiet_logs() -> None:
    """Structured logs on stderr, without the line per request that debugging wants."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
