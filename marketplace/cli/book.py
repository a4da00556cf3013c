"""`coulomb book`, `tier` and `quote`: what is on offer, and what a job would get."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from marketplace.cli import Format
from marketplace.cli.context import current
from marketplace.cli.output import columns, counted, note, show, show_rows, warn
from marketplace.data import load_tiers
from marketplace.domain.order import RejectReason
from marketplace.errors import ExitCode
from marketplace.wire.problems import NoMatch

app, tier_app = typer.Typer(), typer.Typer()
BOOK = columns(
    "ask=ask_id", "tier", "region", "GPU-hour=price.gpu_hour?gpu_milli",
    "core-hour=price.cpu_hour", "free GPUs (thousandths)=free_gpu_milli?gpu_milli",
    "free cores (thousandths)=free_cpu_milli", "free MiB=free_memory_mib", "shared",
    "notice s=notice_seconds", "simulated", "reliability",
)  # fmt: skip
MATCHES = columns(
    "ask=ask_id", "tier", "region", "GPU-hour=price.gpu_hour?price.gpu_hour",
    "core-hour=price.cpu_hour", "all in per hour=rate_per_hour",
    "maximum cost=max_cost", "seconds paid=paid_seconds",
    "start limit=start_limit_seconds", "notice s=notice_seconds", "simulated",
)  # fmt: skip
TIERS = columns(
    "tier=name", "model", "MiB=memory_mib", "median USD/h=usd_per_gpu_hour.median",
    "low=usd_per_gpu_hour.low", "high=usd_per_gpu_hour.high", "listings",
)  # fmt: skip


@app.command(name="show")
def show_book(tier: Annotated[str | None, Option(help="Only this tier.")] = None) -> None:
    """List the asks on the book, best first, and count the bids that wait."""
    with current().client() as client:
        book = client.market.book(tier)
    if current().output is Format.JSON:
        show(book, BOOK)
        return
    show_rows(book.asks, BOOK)
    if tier and not book.asks and (problem := load_tiers().tier_problem(tier)):
        warn(problem)
    note(f"waiting: {counted(book.bids, 'bid')}")


@tier_app.command(name="list")
def list_tiers() -> None:
    """List the tiers, with what other markets ask for such GPUs, for comparison."""
    with current().client() as client:
        show_rows(client.market.tiers(), TIERS)


def quote(job_file: Annotated[Path, Argument(help="The job file.")]) -> None:
    """Show which asks match a job now, best first. Its working folder is not sent."""
    with current().client() as client:
        answer = client.market.quote(str(job_file))
    if current().output is Format.JSON:
        show(answer, MATCHES)
    elif answer.matches:
        show_rows(answer.matches, MATCHES)
    if answer.no_match is not None:
        explain(answer.no_match)
        raise typer.Exit(ExitCode.NO_CAPACITY)


def explain(why: NoMatch, rests: bool = False) -> None:
    """Say why nothing matched: per constraint what it refuses, and the cheapest change.

    `rests`: the job waits for an ask as it is.
    """
    if not why.considered:
        note("no match: the book is empty, nobody offers anything now")
    else:
        was = "was" if why.considered == 1 else "were"
        note(f"no match: {counted(why.considered, 'ask')} {was} considered")
    for row in why.eliminations:
        note(f"  {row.reason}: refuses {row.alone}, leaves {row.left}")
    for change in why.relaxations[:3]:
        note(f"  try: {change.text}")
    busy = any(row.reason == RejectReason.CAPACITY for row in why.eliminations)
    if not rests and (busy or not why.considered):
        note("  to wait for an ask, put `retry: {on_events: [no-capacity]}` into the job file")
