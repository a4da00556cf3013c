"""`coulomb receipt`: usage → rate → cost → transactions."""

from typing import Annotated

import typer

from marketplace.cli.context import Format, current
from marketplace.cli.output import columns, show, show_rows

app = typer.Typer(name="receipt", help="What was measured, charged and paid.", no_args_is_help=True)
TABLE = columns(
    "receipt=id", "job=job_id", "tier", "measured ms=used_ms", "GPU-s=gpu_seconds",
    "rate/h=rate", "gross", "fee", "refunded", "conserved", "simulated",
)  # fmt: skip


@app.command(name="show")
def show_receipt(job_id: Annotated[str, typer.Argument(help="The job.")]) -> None:
    """The receipt of a job's latest lease."""
    with current().client() as client:
        receipt = client.jobs.get(job_id).receipt()
    if current().output is Format.TABLE:
        print(receipt)
    else:
        show(receipt, TABLE)


@app.command(name="list")
def list_() -> None:
    """Every receipt of the account, as buyer or provider."""
    with current().client() as client:
        show_rows(client.jobs.receipts(), TABLE)
