"""`coulomb serve`: the market's server, or some of its roles."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketplace.cli.context import current
from marketplace.cli.output import note

if TYPE_CHECKING:
    from marketplace.server.settings import Settings


def serve(
    role: Annotated[
        list[str] | None, typer.Option(help="api, matcher, relayer, indexer (default: all).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where the API listens.")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks one.")] = None,
) -> None:
    """Run the roles until stopped; settings come from COULOMB_… variables and ETH_RPC_URL."""
    from marketplace.server.roles import run_roles

    settings = settings_of_env(roles=tuple(role) if role else None, host=host, port=port)
    if "api" in settings.roles:
        require_free(settings.host, settings.port, "--port")
    quiet_logs()
    code = run_roles(settings, ready=lambda url: note(f"ready {url or ', '.join(settings.roles)}"))
    raise typer.Exit(code)


def settings_of_env(**chosen: Any) -> Settings:
    """The operator's settings; `chosen` before the environment, the profile after it.

    Raises ConfigError naming the variable that is missing or wrong.
    """
    from pydantic import ValidationError

    from marketplace.sdk.errors import ConfigError
    from marketplace.server.settings import Settings, variable_of

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
    """Raise ConfigError where nothing can listen on a port; `option` is what names another."""
    from marketplace.sdk.errors import ConfigError

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
    import logging
    import sys

    import structlog

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
