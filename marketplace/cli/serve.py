"""`coulomb serve`: the market's server, or some of its roles."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.context import current
from marketplace.cli.output import note

if TYPE_CHECKING:
    from marketplace.bootstrap import Settings


def serve(
    role: Annotated[
        list[str] | None, typer.Option(help="api, matcher, relayer, indexer (default: all).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where the API listens.")] = None,
    port: Annotated[int | None, typer.Option(help="0 picks one.")] = None,
) -> None:
    """Run the roles until stopped; settings come from COULOMB_… variables and ETH_RPC_URL."""
    from marketplace.bootstrap import run_roles

    settings = settings_of_env()
    if role:
        settings = with_roles(settings, tuple(role))
    if host is not None:
        settings = replace(settings, host=host)
    if port is not None:
        settings = replace(settings, port=port)
    if "api" in settings.roles:
        require_free(settings.host, settings.port, "--port")
    quiet_logs()
    code = run_roles(settings, ready=lambda url: note(f"ready {url or ', '.join(settings.roles)}"))
    raise typer.Exit(code)


def settings_of_env() -> Settings:
    """The operator's settings; which chain, the profile says where the environment doesn't.

    Raises ConfigError naming what is missing or wrong.
    """
    from marketplace.bootstrap import Settings
    from marketplace.sdk.errors import ConfigError

    profile = current().profile()
    known = {"ETH_RPC_URL": profile.rpc_url, "COULOMB_CHAIN_ID": profile.chain_id}
    env = {name: str(value) for name, value in known.items() if value}
    env |= {name: value for name, value in os.environ.items() if value}
    try:
        return Settings.from_env(env)
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is not set", fix="export it, or see `dev up`") from None
    except ValueError as error:
        raise ConfigError(f"a COULOMB_… variable is wrong: {error}") from None


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


def with_roles(settings: Settings, roles: tuple[str, ...]) -> Settings:
    """The settings for these roles only. Raises ConfigError where one is unknown."""
    from marketplace.sdk.errors import ConfigError

    try:
        return replace(settings, roles=roles)
    except ValueError as error:
        raise ConfigError(str(error)) from None


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
