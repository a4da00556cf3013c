"""`coulomb settle`: vouchers into settlements, and what became of them."""

from typing import Annotated

import typer

from marketplace.cli.context import current
from marketplace.cli.output import columns, note, show_rows
from marketplace.cli.serve import settings_of_env

app = typer.Typer(name="settle", help="Payments for countersigned usage.", no_args_is_help=True)
INTENTS = columns(
    "id", "kind", "state", "key", "nonce", "tx=tx_hash", "block=block_number", "attempts", "error",
    "created=created_at",
)  # fmt: skip


@app.command()
def run() -> None:
    """Put what is countersigned and unpaid into settlements; the relayer role sends them."""
    from marketplace.server.operations import settle_now

    settings = settings_of_env()
    if current().dry_run:
        note(f"would settle from {settings.database_url.rpartition('@')[2]}")
        return
    settled, refunds = settle_now(settings)
    note(f"{settled} vouchers and {refunds} refunds are in the outbox")


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """Intents in the outbox, newest first."""
    from marketplace.server.operations import recent_intents

    rows = recent_intents(settings_of_env(), limit)
    names = (
        "id", "kind", "state", "key", "nonce", "tx_hash", "block_number", "attempts", "error",
        "created_at",
    )  # fmt: skip
    show_rows([{name: getattr(row, name) for name in names} for row in rows], INTENTS)
    dead = sum(row.state == "dead" for row in rows)
    if dead:
        note(f"{dead} are dead: nothing sends them again")
