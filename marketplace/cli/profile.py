"""`coulomb profile`: which market, and who one is on it."""

from __future__ import annotations

from typing import Annotated

import typer

from marketplace.cli.context import current
from marketplace.cli.output import columns, note, show, show_rows

app = typer.Typer(name="profile", help="Markets and identities.", no_args_is_help=True)
FIELDS = ("name", "api_url", "account", "keystore", "chain_id", "escrow", "rpc_url", "has_key")


@app.command(name="list")
def list_() -> None:
    """Every profile; API keys are not shown."""
    from marketplace.sdk.profile import ProfileFile

    file = ProfileFile()
    show_rows([_row(name, file.current()) for name in file.names()], columns("current", *FIELDS))


@app.command(name="show")
def show_profile() -> None:
    """The profile in use, with what the environment and the command line say instead."""
    profile = current().profile()
    row = {name: getattr(profile, name, None) for name in FIELDS}
    show({**row, "has_key": profile.api_key is not None}, columns(*FIELDS))


@app.command()
def use(name: Annotated[str, typer.Argument(help="The profile's name.")]) -> None:
    """Make a profile the one used when none is named."""
    from marketplace.sdk.profile import ProfileFile

    file = ProfileFile()
    file.save(file.get(name, {}), make_current=True)
    note(f"{name} is the current profile")


def _row(name: str, chosen: str) -> dict[str, object]:
    from marketplace.sdk.profile import ProfileFile

    profile = ProfileFile().get(name, {})
    row = {field: getattr(profile, field, None) for field in FIELDS}
    return {**row, "has_key": profile.api_key is not None, "current": name == chosen}
