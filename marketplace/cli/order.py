"""`coulomb order`: asks and bids made void, on the book and on chain."""

from typing import Annotated

import typer

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show_rows

app = typer.Typer(name="order", help="Asks and bids, made void.", no_args_is_help=True)


@app.callback()
def orders() -> None:
    """Keeps `cancel` a command of its own."""


@app.command()
def cancel(
    order_id: Annotated[str | None, typer.Argument(help="An ask, a bid or a job.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every order signed so far.")] = False,
) -> None:
    """Sign that orders open no further lease; leases that are open go on."""
    from marketplace.sdk.errors import InputError

    if (order_id is None) is not all_:
        raise InputError("name one order, or say --all")
    cli = current()
    what = order_id or "every order so far"
    if cli.dry_run:
        note(f"would cancel {what}")
        return
    signer = cli.signer()
    confirm(f"Cancel {what}?")
    with cli.client() as client:
        done = client.orders.cancel(order_id, signer=signer)
    show_rows([{"order": name} for name in done.orders], columns("order"))
