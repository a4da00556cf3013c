"""`coulomb earnings`: what a provider was paid, lease by lease."""

from typing import Annotated

import typer

from marketplace.cli.context import current, money_text
from marketplace.cli.output import columns, note, show_rows
from marketplace.cli.wallet import take_out

app = typer.Typer(name="earnings", help="What a provider was paid.", no_args_is_help=True)
TABLE = columns(
    "lease=lease_id", "tier", "measured ms=used_ms", "gross", "fee", "net", "at=created_at",
    "simulated",
)  # fmt: skip


@app.command(name="show")
def show_earnings() -> None:
    """Receipts of the leases one provided, their sum, and what is free to withdraw."""
    cli = current()
    account = cli.account()
    with cli.client() as client:
        market = client.market.config()
        mine = [r for r in client.jobs.receipts() if r.provider.lower() == account.lower()]
        funds = client.wallet.funds(account)
    show_rows(mine, TABLE)
    net = sum(receipt.net.atoms for receipt in mine)
    note(f"net {money_text(net, market)} in {len(mine)} leases")
    note(f"free in the escrow: {money_text(funds.free, market)}")


@app.command()
def withdraw(
    amount: Annotated[str, typer.Argument(help="Tokens, or `all`.")] = "all",
    to: Annotated[str | None, typer.Option(help="Another address than one's own.")] = None,
) -> None:
    """Move what was earned out of the escrow."""
    take_out(amount, to)
