"""`coulomb book` and `coulomb quote`: what is on offer, and what a job would get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.context import Format, current
from marketplace.cli.output import columns, note, show, show_rows
from marketplace.errors import ExitCode

if TYPE_CHECKING:
    from marketplace.wire.problems import NoMatch

app = typer.Typer(name="book", help="Resting asks and bids.", no_args_is_help=True)
BOOK = columns(
    "ask=ask_id",
    "tier",
    "region",
    "GPU-hour=price.gpu_hour",
    "free GPUs (thousandths)=free_gpu_milli",
    "shared",
    "simulated",
    "reliability",
)
MATCHES = columns(
    "ask=ask_id",
    "tier",
    "region",
    "GPU-hour=price.gpu_hour",
    "all in per hour=rate_per_hour",
    "maximum cost=max_cost",
    "seconds funded=funded_seconds",
    "simulated",
)


@app.command(name="show")
def show_book(tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None) -> None:
    """Resting asks, best first, and how many bids rest."""
    with current().client() as client:
        book = client.market.book(tier)
    if current().output is Format.JSON:
        show(book, BOOK)
        return
    show_rows(book.asks, BOOK)
    note(f"{book.bids} bids rest")


def quote(job_file: Annotated[Path, typer.Argument(help="The job file.")]) -> None:
    """What a job would get now, best first; nothing is sent but the job's terms."""
    with current().client() as client:
        answer = client.market.quote(str(job_file))
    if current().output is Format.JSON:
        show(answer, MATCHES)
    elif answer.matches:
        show_rows(answer.matches, MATCHES)
    if answer.no_match is not None:
        explain(answer.no_match)
        raise typer.Exit(ExitCode.NO_CAPACITY)


def explain(why: NoMatch) -> None:
    """Say why nothing matched: per constraint what it refuses, and the cheapest change."""
    note(f"no match: {why.considered} asks were considered")
    for row in why.eliminations:
        note(f"  {row.reason}: refuses {row.alone}, leaves {row.left}")
    for change in why.relaxations[:3]:
        note(f"  try: {change.text}")
