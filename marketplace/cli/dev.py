"""`coulomb dev up`: a whole market on this machine, with one command."""

from pathlib import Path
from typing import Annotated

import typer

from marketplace.cli.context import current
from marketplace.cli.output import note

app = typer.Typer(name="dev", help="A market on this machine.", no_args_is_help=True)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Where the API listens; 0 picks one.")] = 8420,
    rpc_port: Annotated[int, typer.Option(help="Where the chain listens; 0 picks one.")] = 8545,
    folder: Annotated[
        Path | None, typer.Option(help="Where everything lies (default: in the XDG state folder).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew, and forget the market of the last time.")
    ] = False,
    interval_ms: Annotated[int, typer.Option(min=500, help="Between attestations.")] = 10_000,
    fee_bps: Annotated[int, typer.Option(min=0, max=1000, help="The market's fee.")] = 100,
) -> None:
    """Chain, contracts, funded accounts, server and profiles, until stopped.

    The next time goes on from there. The accounts are Anvil's well-known ones: their keys are
    public, their money is play money.
    """
    from marketplace.sdk.profile import state_dir

    place = folder or state_dir() / "dev"
    if current().dry_run:
        note(f"would start a chain on port {rpc_port} and a server on port {port} in {place}")
        return
    from marketplace.cli.devmarket import DevMarket
    from marketplace.cli.serve import quiet_logs

    market = DevMarket(place, port, rpc_port, interval_ms, fee_bps)
    quiet_logs()
    raise typer.Exit(market.run(fresh))
