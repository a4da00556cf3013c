"""`coulomb claim`: time that no witness signed, claimed by a provider, contested by a buyer."""

from __future__ import annotations

from typing import Annotated

import typer

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show, show_rows
from marketplace.cli.wallet import SENT

app = typer.Typer(name="claim", help="Usage that no witness signed.", no_args_is_help=True)
TABLE = columns(
    "lease=lease_id", "state", "claimed ms=ms", "settled ms=settled_ms", "amount", "bond",
    "contested", "until", "awarded", "bonds to provider=bonds_to_provider", "refunded",
)  # fmt: skip
LeaseId = Annotated[str, typer.Argument(help="The lease's id.")]


@app.command()
def create(
    lease_id: LeaseId,
    ms: Annotated[
        int | None, typer.Option(help="Cumulative time (default: all that was attested).")
    ] = None,
) -> None:
    """Claim from the payout account: settles the best voucher, then claims on a bond."""
    cli = current()
    note(f"claim on {lease_id}: a bond as large as the claim is taken from the free balance")
    if cli.dry_run:
        return
    signer = cli.signer()
    confirm("Claim?")
    with cli.client() as client:
        show_rows(client.claims.create(lease_id, ms, signer=signer), SENT)


@app.command(name="list")
def list_(
    role: Annotated[str | None, typer.Option(help="provider, buyer or arbiter.")] = None,
    state: Annotated[str | None, typer.Option(help="claimed, contested or closed.")] = None,
) -> None:
    """Claims that the account made, has to pay, or rules on."""
    with current().client() as client:
        show_rows(client.claims.list(role=role, state=state), TABLE)


@app.command(name="show")
def show_claim(lease_id: LeaseId) -> None:
    """A lease's claim: amount, bonds, until when, what became of it."""
    with current().client() as client:
        show(client.claims.get(lease_id), TABLE)


@app.command()
def contest(lease_id: LeaseId) -> None:
    """Contest a claim as its buyer, on a bond as large as the claim."""
    cli = current()
    with cli.client() as client:
        claim = client.claims.get(lease_id)
        note(f"contest {claim.amount} on {lease_id}; takes a bond of {claim.bond}")
        if cli.dry_run:
            return
        signer = cli.signer()
        confirm("Contest?")
        show_rows(client.claims.contest(lease_id, signer=signer), SENT)


@app.command()
def close(lease_id: LeaseId) -> None:
    """Close a claim whose window is over; the market does so by itself, too."""
    cli = current()
    if cli.dry_run:
        note(f"would close the claim on {lease_id}")
        return
    signer = cli.signer()
    confirm(f"Close the claim on {lease_id}?")
    with cli.client() as client:
        show_rows(client.claims.close(lease_id, signer=signer), SENT)
