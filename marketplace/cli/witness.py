"""`coulomb witness`: the buyer's side of metering, as a program of its own."""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer import Option

from marketplace.cli.context import current
from marketplace.cli.output import columns, note, plain, show, stream_rows, warn
from marketplace.sdk import PASSING, Coulomb
from marketplace.sdk.keyring import parse_address
from settlement.errors import host_of

app = typer.Typer()
ACTS = columns("at", "lease=lease_id", "kind", "sequence", "ms", "refused=refusal", "problem")


@app.command()
def run(
    buyer: Annotated[
        list[str] | None,
        Option(
            parser=parse_address,
            metavar="ADDRESS",
            help="A buyer to witness for (default: the profile's account).",
        ),
    ] = None,
    poll_seconds: Annotated[float, Option(min=0.1, help="Seconds between two looks.")] = 0.5,
    once: Annotated[bool, Option("--once", help="Look once, then exit.")] = False,
) -> None:
    """Countersign the usage of your jobs, after checking it, until you stop it.

    It puts down what it signs first, so you may kill it and start it again.
    """
    cli = current()
    buyers = tuple(buyer or (cli.account(),))
    with cli.client() as client:
        note(f"witness {client.witness.address()} for {', '.join(buyers)}")
        tell_trust(client)
        stream_rows(acts(client, buyers, poll_seconds, once), ACTS)


@app.command()
def address() -> None:
    """Show the address of this machine's witness key, which is made on first use."""
    with current().client() as client:
        show({"address": client.witness.address()}, columns("address"))


def tell_trust(client: Coulomb) -> None:
    """Say whose word the witness takes for what was opened on chain."""
    if client.session.rpc_url:
        note(f"every lease is first compared with the chain, at {host_of(client.session.rpc_url)}")
    else:
        warn("the witness takes the market's word for what was opened on chain:")
        warn("name a node that you trust in ETH_RPC_URL, or as rpc_url in the profile")


def acts(
    client: Coulomb, buyers: Iterable[str], poll_seconds: float, once: bool
) -> Iterator[dict[str, Any]]:
    """What the witness does, as it does it; bears with a server that is away."""
    refused: dict[tuple[str, str], str] = {}
    while True:
        try:
            for act in client.witness.tick(buyers):
                at = datetime.now(UTC).isoformat(timespec="seconds")
                why = str(act.refusal or act.problem or "")
                if why and refused.get((act.lease_id, act.kind)) == why:
                    continue
                refused[act.lease_id, act.kind] = why
                yield {"at": at, **plain(act)}
        except PASSING as error:
            warn(f"{error}; trying again")
        if once:
            return
        time.sleep(poll_seconds)
