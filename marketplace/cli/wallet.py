"""`coulomb wallet` and `coulomb earnings`: keys and tokens, straight on the chain."""

import os
from typing import Annotated

import typer
from typer import Argument, Option

from marketplace.cli.context import agreed, atoms_of, current, money_text, would
from marketplace.cli.output import columns, counted, note, plain, show, show_rows
from marketplace.domain.pricing import from_scaled
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import ask_password, parse_address, read_password
from marketplace.sdk.onchain import check_amount
from marketplace.sdk.profile import config_dir
from settlement import keystore

app, earnings_app = typer.Typer(), typer.Typer()
FUNDS = columns("account", "in the escrow=free", "outside=tokens", "gas (ETH)=gas")
SENT = columns("tx_hash", "block=block_number", "gas_used")
MOVED = columns("tx_hash", "block=block_number", "gas_used", "amount")
RELAYED = columns("id", "state", "tx_hash", "amount", "fee")
EARNED = columns(
    "lease=lease_id", "tier", "measured ms=used_ms", "gross", "fee", "net", "at=created_at",
    "simulated",
)  # fmt: skip
Amount = Annotated[str, Argument(help="Tokens, or `all`.")]
Relayed = Annotated[
    bool,
    Option(
        "--relayed", help="Sign it, and let the market's relayer send it for a fee: no gas needed."
    ),
]
Receiver = Annotated[
    str | None,
    Option(
        parser=parse_address, metavar="ADDRESS", help="Send to this address instead of your own."
    ),
]


@app.command()
def new(name: Annotated[str, Argument(help="The keystore's name.")]) -> None:
    """Make a new key, in an encrypted keystore that Foundry reads, too."""
    if "/" in name or name.startswith("."):
        raise InputError(f"{name!r} is a name, not a path")
    path = config_dir() / "keystores" / name
    if current().dry_run:
        would(f"make {path}")
        return
    file = current().password_file or os.environ.get("COULOMB_PASSWORD_FILE")
    password = read_password(file) if file else ask_password(f"the new key {name}")
    if not file and ask_password(f"the new key {name} (again)") != password:
        raise InputError("the two passwords differ")
    made = keystore.create(path, password)
    note(f"keep {path} and its password: nobody can restore them")
    show({"account": made.address, "keystore": path}, columns("account", "keystore"))


@app.command(name="show")
def show_funds(
    address: Annotated[
        str | None,
        Argument(parser=parse_address, metavar="ADDRESS", help="An account other than your own."),
    ] = None,
) -> None:
    """Show what an account holds, read from the chain. Works while the server is down."""
    cli = current()
    with cli.client() as client:
        unit = client.wallet.unit()
        funds = client.wallet.funds(address or cli.account())
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
    amount: Annotated[str, Argument(help="Tokens, e.g. 12.5.")],
    approve: Annotated[
        bool, Option("--approve", help="Send an approval first, in a transaction of its own.")
    ] = False,
) -> None:
    """Move tokens from your account into the escrow."""
    cli = current()
    with cli.client() as client:
        client.wallet.require_own()
        market = client.market.config()
        atoms = atoms_of(amount, market)
        account = cli.account()
        check_amount(atoms, client.wallet.funds(account).tokens, market, f"are at {account}")
        money = money_text(atoms, market)
        escrow = market.contracts.escrow
        if agreed(f"deposit {money} into {escrow} on chain {market.chain_id}"):
            moved = client.wallet.deposit(atoms, signer=cli.signer(), permit=not approve)
            show({**plain(moved), "amount": money}, MOVED)


@app.command()
def withdraw(amount: Amount, to: Receiver = None, relayed: Relayed = False) -> None:
    """Move tokens out of the escrow. Works while the server is down, unless --relayed."""
    cli = current()
    with cli.client() as client:
        client.wallet.require_own()
        fee = client.calls.fee() if relayed else None
        unit = client.wallet.unit()
        free = client.wallet.funds(cli.account()).free
        atoms = free if amount == "all" else atoms_of(amount, unit)
        check_amount(atoms, free, unit)
        money = money_text(atoms, unit)
        if fee is not None:
            if fee.atoms >= atoms:
                raise InputError(f"the relayer's fee, {fee}, is not below {money}")
            what = f"withdraw {money} to {to or cli.account()}, of which {fee} go to the relayer"
            if agreed(what):
                sent = client.calls.withdraw(atoms, to=to, signer=cli.signer())
                show({**plain(sent), "amount": money, "fee": str(fee)}, RELAYED)
        elif agreed(f"withdraw {money} to {to or cli.account()}"):
            moved = client.wallet.withdraw(atoms, to=to, signer=cli.signer())
            show({**plain(moved), "amount": money}, MOVED)


@earnings_app.command(name="show")
def show_earnings() -> None:
    """List the receipts of jobs that you ran, their sum, and what you can withdraw."""
    cli = current()
    account = cli.account()
    with cli.client() as client:
        market = client.market.config()
        mine = [r for r in client.jobs.receipts() if r.provider.lower() == account.lower()]
        funds = client.wallet.funds(account)
    show_rows(mine, EARNED)
    net = sum(receipt.net.atoms for receipt in mine)
    note(f"net {money_text(net, market)} in {counted(len(mine), 'lease')}")
    note(f"free in the escrow: {money_text(funds.free, market)}")


@earnings_app.command(name="withdraw")
def withdraw_earnings(
    amount: Amount = "all", to: Receiver = None, relayed: Relayed = False
) -> None:
    """Move your earnings out of the escrow."""
    withdraw(amount, to, relayed)
