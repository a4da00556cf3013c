"""What operators run: `coulomb serve`, `reconcile`, `settle` and `db`."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from typer import Option

from marketplace.cli.context import agreed, current
from marketplace.cli.output import columns, note, show_rows
from marketplace.errors import ExitCode, Unavailable
from marketplace.sdk.errors import ConfigError
from marketplace.server.settings import DATABASES, Settings, variable_of

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
        list[str] | None,
        Option(help="api, matcher, relayer or indexer; may be repeated (default: all four)."),
    ] = None,
    host: Annotated[str | None, Option(help="Address at which the API listens.")] = None,
    port: Annotated[int | None, Option(help="Port of the API; 0 picks a free one.")] = None,
) -> None:
    """Run the market's server until it is stopped. COULOMB_… variables and ETH_RPC_URL hold its
    settings; docs/operating.md lists them. The database's schema is upgraded first."""
    settings = settings_of_env(roles=tuple(role) if role else None, host=host, port=port)
    if "api" in settings.roles:
        require_free(settings.host, settings.port, "--port")
        try:
            settings.blobs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fix = "set it to a folder that the server may write to"
            raise ConfigError(f"COULOMB_BLOBS cannot be used: {error}", fix) from None
    from marketplace.server.roles import run_roles  # takes seconds: what is wrong is said first

    quiet_logs()
    with _database_named():
        roles = ", ".join(settings.roles)
        raise typer.Exit(run_roles(settings, ready=lambda url: note(f"ready {url or roles}")))


def reconcile() -> None:
    """Compare chain, database and running jobs to the atom. Exits with 1 if they differ."""
    from marketplace.server.operations import compare

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
    """Queue payments for usage that is countersigned and unpaid. The role relayer sends them."""
    from marketplace.server.operations import settle_now

    settings = settings_of_env()
    if current().dry_run:
        note(f"would settle from {settings.database_url.rpartition('@')[2]}")
        return
    with _database_named():
        settled, refunds = settle_now(settings)
    note(f"{settled} vouchers and {refunds} refunds are in the outbox")


@settle_app.command()
def status(
    limit: Annotated[int, Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List the transactions that the market sends, newest first, and why any of them failed."""
    from marketplace.server.operations import recent_intents

    rows = recent_intents(settings_of_env(), limit)
    show_rows([{name: getattr(row, name) for name in INTENT} for row in rows], INTENTS)
    dead = sum(row.state == "dead" for row in rows)
    if dead:
        note(f"{dead} are dead: nothing sends them again")


@db_app.command()
def upgrade(
    url: Annotated[str | None, Option(help="Database URL (default: COULOMB_DATABASE_URL).")] = None,
) -> None:
    """Upgrade the database's schema to this version. Does nothing if it is up to date."""
    from marketplace.server.operations import migrate

    target = url or os.environ.get("COULOMB_DATABASE_URL") or "sqlite:///coulomb.db"
    if not target.startswith(DATABASES):
        fix = "use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        raise ConfigError("the database's URL is wrong", fix)
    shown = target.rpartition("@")[2]  # without a password
    if agreed(f"upgrade {shown}"):
        with _database_named():
            migrate(target)
        note(f"{shown} is up to date")


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
        why = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{variable} is wrong: {why}") from None


@contextmanager
def _database_named() -> Iterator[None]:
    """A database that cannot be used is a mistake in the settings: say which of them."""
    try:
        yield
    except Unavailable as error:
        fix = "correct COULOMB_DATABASE_URL, or start the database that it names"
        raise ConfigError(str(error), fix) from error


def require_free(host: str, port: int, option: str) -> None:
    """Raise ConfigError if nothing can listen on a port; `option` is what names another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
        raise ConfigError(
            f"nothing can listen on port {port} of {host}: {why}",
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
