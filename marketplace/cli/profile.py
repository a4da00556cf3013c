"""`coulomb profile`: which market, and who one is on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.context import current
from marketplace.cli.output import columns, note, show, show_rows

if TYPE_CHECKING:
    from marketplace.sdk.profile import Profile

app = typer.Typer(name="profile", help="Markets and identities.", no_args_is_help=True)
FIELDS = (
    "name", "api_url", "account", "keystore", "chain_id", "escrow", "token", "rpc_url", "has_key",
)  # fmt: skip


@app.command(name="list")
def list_() -> None:
    """Every profile; API keys are not shown."""
    from marketplace.sdk.profile import ProfileFile

    file = ProfileFile()
    rows = [{**_row(file.get(n, {})), "current": n == file.current()} for n in file.names()]
    show_rows(rows, columns("current", *FIELDS))


@app.command(name="show")
def show_profile() -> None:
    """The profile in use, with what the environment and the command line say instead."""
    show(_row(current().profile()), columns(*FIELDS))


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it here.")],
    api_url: Annotated[str, typer.Option(help="Where the market's API is.")],
    rpc_url: Annotated[
        str | None, typer.Option(help="A node of its chain; with it, you leave without the market.")
    ] = None,
) -> None:
    """Join a market that somebody runs: a profile of it, with --account's key, and use it.

    Its contracts are pinned by the first command that asks it, such as `coulomb key create`.
    """
    from marketplace.sdk.errors import InputError
    from marketplace.sdk.keyring import find_keystore
    from marketplace.sdk.profile import Profile, ProfileFile

    cli, file = current(), ProfileFile()
    if name in file.names():
        raise InputError(f"a profile {name!r} exists in {file.path}", fix="take another name")
    if cli.keystore:
        find_keystore(cli.keystore)  # a wrong name is told now, not when something is to be signed
    if cli.dry_run:
        note(f"would add {name} at {api_url} to {file.path}")
        return
    profile = Profile(
        name=name,
        api_url=api_url,
        keystore=cli.keystore,
        password_file=cli.password_file,
        rpc_url=rpc_url,
    )
    file.save(profile, make_current=True)
    note(f"{name} is the current profile")
    note("next: `coulomb key create NAME`; to sell, with --scope provider")


@app.command()
def use(name: Annotated[str, typer.Argument(help="The profile's name.")]) -> None:
    """Make a profile the one used when none is named."""
    from marketplace.sdk.profile import ProfileFile

    file = ProfileFile()
    file.save(file.get(name, {}), make_current=True)
    note(f"{name} is the current profile")


def _row(profile: Profile) -> dict[str, object]:
    """A profile without its API key."""
    shown = {name: value for name, value in asdict(profile).items() if name != "api_key"}
    return {**shown, "has_key": profile.api_key is not None}
