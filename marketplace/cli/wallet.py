"""`coulomb wallet`: keys and tokens; deposits and withdrawals go straight to the chain."""

from typing import Annotated

import typer

from marketplace.cli.context import atoms_of, confirm, current, money_text
from marketplace.cli.output import columns, note, plain, show

app = typer.Typer(name="wallet", help="Keys and tokens.", no_args_is_help=True)
FUNDS = columns("account", "in the escrow=free", "outside=tokens", "gas (ETH)=gas")
SENT = columns("tx_hash", "block=block_number", "gas_used")
MOVED = columns("tx_hash", "block=block_number", "gas_used", "amount")


@app.command()
def new(name: Annotated[str, typer.Argument(help="The keystore's name.")]) -> None:
    """Make a key in a Foundry-compatible keystore of its own, readable by you only."""
    from marketplace.sdk.errors import InputError
    from marketplace.sdk.keyring import ask_password, read_password
    from marketplace.sdk.profile import config_dir
    from settlement import keystore

    if "/" in name or name.startswith("."):
        raise InputError(f"{name!r} is a name, not a path")
    path = config_dir() / "keystores" / name
    if current().dry_run:
        note(f"would make {path}")
        return
    file = current().password_file
    if file:
        password = read_password(file)
    else:
        password = ask_password(f"the new key {name}")
        if ask_password(f"the new key {name} (again)") != password:
            raise InputError("the two passwords differ")
    made = keystore.create(path, password)
    note(f"keep {path} and its password: nobody can restore them")
    show({"account": made.address, "keystore": path}, columns("account", "keystore"))


@app.command(name="show")
def show_funds(
    address: Annotated[str | None, typer.Argument(help="Another account than one's own.")] = None,
) -> None:
    """What an account holds, read from the chain; works with the server down."""
    from marketplace.domain.pricing import from_scaled

    cli = current()
    with cli.client() as client:
        unit, funds = client.wallet.unit(), client.wallet.funds(address or cli.account())
    row = {
        "account": funds.address,
        "free": money_text(funds.free, unit),
        "tokens": money_text(funds.tokens, unit),
        "gas": from_scaled(funds.wei, 18),
        "free_atoms": str(funds.free),
        "tokens_atoms": str(funds.tokens),
    }
    show(row, FUNDS)


@app.command()
def deposit(
    amount: Annotated[str, typer.Argument(help="Tokens, such as 12.5.")],
    approve: Annotated[
        bool, typer.Option("--approve", help="Approve and deposit: two transactions.")
    ] = False,
) -> None:
    """Move tokens into the escrow, by permit in one transaction."""
    cli = current()
    with cli.client() as client:
        market = client.market.config()
        atoms = atoms_of(amount, market)
        escrow = market.contracts.escrow
        note(f"deposit {money_text(atoms, market)} into {escrow} on chain {market.chain_id}")
        if cli.dry_run:
            return
        confirm("Deposit?")
        moved = client.wallet.deposit(atoms, signer=cli.signer(), permit=not approve)
    show({**plain(moved), "amount": money_text(atoms, market)}, MOVED)


@app.command()
def withdraw(
    amount: Annotated[str, typer.Argument(help="Tokens, or `all`.")],
    to: Annotated[str | None, typer.Option(help="Another address than one's own.")] = None,
) -> None:
    """Move free balance out of the escrow; works with the server down."""
    take_out(amount, to)


def take_out(amount: str, to: str | None) -> None:
    """Withdraw free balance, for buyers and providers alike."""
    cli = current()
    with cli.client() as client:
        unit = client.wallet.unit()
        if amount == "all":
            atoms = client.wallet.funds(cli.account()).free
        else:
            atoms = atoms_of(amount, unit)
        note(f"withdraw {money_text(atoms, unit)} to {to or cli.account()}")
        if cli.dry_run:
            return
        confirm("Withdraw?")
        moved = client.wallet.withdraw(atoms, to=to, signer=cli.signer())
    show({**plain(moved), "amount": money_text(atoms, unit)}, MOVED)
