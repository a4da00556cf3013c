"""`coulomb purse`: accounts that an operator may spend from, straight on the chain."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer import Argument, Option

from marketplace.cli.context import agreed, atoms_of, current, money_text
from marketplace.cli.output import columns, plain, show, show_rows
from marketplace.cli.wallet import MOVED, SENT
from marketplace.domain.reader import duration_text, seconds_of
from marketplace.limits import TIME_SECONDS_MAX
from marketplace.sdk import PurseInfo, Unit
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import parse_address
from marketplace.sdk.onchain import check_amount
from marketplace.sdk.onpurse import IN_PURSE

app = typer.Typer()
PURSE = columns("purse", "owner", "operator", "expires", "expired", "free")
MADE = columns("purse", "owner", "operator", "expires", "free", "tx_hash", "block=block_number")
Purse = Annotated[str, Argument(parser=parse_address, metavar="PURSE", help="The purse's address.")]


def _seconds(text: str) -> int:
    """A duration as somebody typed it. Raises InputError."""
    try:
        return seconds_of(text)
    except ValueError as error:
        raise InputError(str(error)) from None


@app.command()
def create(
    operator: Annotated[
        str,
        Argument(
            parser=parse_address, metavar="OPERATOR", help="The account that may spend from it."
        ),
    ],
    amount: Annotated[
        str, Option(help="Tokens of your balance in the escrow to put into it at once.")
    ] = "0",
    expires_in: Annotated[
        str, Option(help="How long the operator may spend from it, e.g. 12h.")
    ] = "30d",
) -> None:
    """Make a purse: an account without a key, whose operator buys compute with what you put in.

    The operator can lose what is in it, and not an atom more. Take back what is free at any time.
    """
    cli = current()
    seconds = _seconds(expires_in)
    with cli.client() as client:
        unit = client.wallet.unit()
        atoms = atoms_of(amount, unit)
        account = cli.own_account()
        if atoms:
            check_amount(atoms, client.wallet.funds(account).free, unit)
        money = money_text(atoms, unit)
        what = f"make a purse for {operator} with {money} of {account}"
        if agreed(f"{what}, from which it may spend for {duration_text(seconds)}"):
            made = client.purses.create(operator, seconds, atoms, signer=cli.signer())
            row = _row(client.purses.get(made.address), unit)
            show({**row, **plain(made.moved)}, MADE)


@app.command()
def fund(purse: Purse, amount: Annotated[str, Argument(help="Tokens, e.g. 12.5.")]) -> None:
    """Move tokens from your balance in the escrow into a purse of yours."""
    cli = current()
    with cli.client() as client:
        unit = client.wallet.unit()
        atoms = atoms_of(amount, unit)
        check_amount(atoms, client.wallet.funds(cli.own_account()).free, unit)
        money = money_text(atoms, unit)
        operator = client.purses.get(purse).operator
        if agreed(f"put {money} into {purse}, from which {operator} may spend"):
            moved = client.purses.fund(purse, atoms, signer=cli.signer())
            show({**plain(moved), "amount": money}, MOVED)


@app.command()
def sweep(
    purse: Purse, amount: Annotated[str, Argument(help="Tokens, or `all` that is free.")] = "all"
) -> None:
    """Move what is free in a purse of yours back to your balance in the escrow."""
    cli = current()
    with cli.client() as client:
        unit = client.wallet.unit()
        free = client.purses.get(purse).free
        atoms = free if amount == "all" else atoms_of(amount, unit)
        check_amount(atoms, free, unit, IN_PURSE)
        money = money_text(atoms, unit)
        if agreed(f"take {money} out of {purse}"):
            moved = client.purses.sweep(purse, atoms, signer=cli.signer())
            show({**plain(moved), "amount": money}, MOVED)


@app.command()
def expire(
    purse: Purse,
    in_: Annotated[
        str, Option("--in", help="Let it expire so much later, e.g. 2h (default: now).")
    ] = "0s",
) -> None:
    """Bring the expiry of a purse forward: nothing new opens after it. What runs goes on."""
    cli = current()
    seconds = _seconds(in_)
    when = f"in {duration_text(seconds)}" if seconds else "now"
    with cli.client() as client:
        if agreed(f"let {purse} expire {when}"):
            show(client.purses.expire(purse, seconds, signer=cli.signer()), SENT)


@app.command(name="list")
def list_(
    address: Annotated[
        str | None,
        Argument(parser=parse_address, metavar="ADDRESS", help="An account other than your own."),
    ] = None,
    from_block: Annotated[
        int, Option(min=0, help="Search from this block on, e.g. that of the escrow.")
    ] = 0,
) -> None:
    """List the purses that you own or operate, read from the chain."""
    cli = current()
    with cli.client() as client:
        unit = client.wallet.unit()
        found = client.purses.list(address or cli.own_account(), from_block=from_block)
    show_rows([_row(info, unit) for info in found], PURSE)


@app.command(name="show")
def show_purse(purse: Purse) -> None:
    """Show a purse: whose it is, who may spend from it until when, and what is free in it."""
    with current().client() as client:
        unit = client.wallet.unit()
        show(_row(client.purses.get(purse), unit), PURSE)


def _row(info: PurseInfo, unit: Unit) -> dict[str, Any]:
    expires = datetime.fromtimestamp(min(info.expiry, TIME_SECONDS_MAX), UTC)
    return {
        "purse": info.address,
        "owner": info.owner,
        "operator": info.operator,
        "expires": expires,
        "expired": expires < datetime.now(UTC),
        "free": money_text(info.free, unit),
        "free_atoms": str(info.free),
    }
