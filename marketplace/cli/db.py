"""`coulomb db`: the server's database."""

from typing import Annotated

import typer

from marketplace.cli.context import confirm, current
from marketplace.cli.output import note

app = typer.Typer(name="db", help="The server's database.", no_args_is_help=True)


@app.command()
def upgrade(
    url: Annotated[
        str | None, typer.Option(help="Database URL (default: COULOMB_DATABASE_URL).")
    ] = None,
) -> None:
    """Bring the schema to this version; does nothing where it is."""
    import os

    target = url or os.environ.get("COULOMB_DATABASE_URL", "sqlite:///coulomb.db")
    shown = target.rpartition("@")[2]  # without a password
    if current().dry_run:
        note(f"would upgrade {shown}")
        return
    confirm(f"Upgrade {shown}?")
    from marketplace.server.operations import migrate

    migrate(target)
    note(f"{shown} is at this version")
