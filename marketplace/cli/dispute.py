"""`coulomb dispute`: contested claims, for their arbiter."""

from __future__ import annotations

from typing import Annotated

import typer

from marketplace.cli.claim import TABLE, LeaseId
from marketplace.cli.context import confirm, current
from marketplace.cli.output import note, show, show_rows

app = typer.Typer(name="dispute", help="Contested claims, for the arbiter.", no_args_is_help=True)


@app.command(name="list")
def list_() -> None:
    """Contested claims that wait for the account's ruling."""
    with current().client() as client:
        show_rows(client.claims.list(role="arbiter", state="contested"), TABLE)


@app.command()
def rule(
    lease_id: LeaseId,
    award: Annotated[str, typer.Option(help="Tokens of the claim that are the provider's.")],
) -> None:
    """Divide a contested claim; of both bonds the provider gets the same part."""
    cli = current()
    with cli.client() as client:
        claim = client.claims.get(lease_id)
        note(f"award {award} of {claim.amount} on {lease_id} to {claim.provider}")
        if cli.dry_run:
            return
        signer = cli.signer()
        confirm("Rule?")
        show(client.claims.rule(lease_id, award, signer=signer), TABLE)
