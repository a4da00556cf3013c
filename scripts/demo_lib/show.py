"""What people see: progress while it runs, then receipts and the books."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from marketplace.domain.pricing import DECIMALS, from_scaled
from marketplace.sdk import Receipt
from marketplace.wire.jobs import transaction_lines
from scripts.demo_lib.books import Sheet
from scripts.demo_lib.people import Provider
from scripts.demo_lib.shopping import Purchase

COLOURS = {
    "succeeded": "green", "running": "cyan", "failed": "red", "cancelled": "yellow",
    "over_budget": "yellow", "no_match": "yellow", "lost": "red",
}  # fmt: skip


def cmp(atoms: int) -> str:
    """Atoms as tokens, for people."""
    return f"{from_scaled(atoms, 18)} CMP"


class Screen:
    """A live table on a terminal; a line per change if stderr is not one.

    Progress goes to stderr, `results` (receipts and the closing sheet) to stdout, unless stdout is
    kept for JSON.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.results = self.console if as_json else Console(highlight=False)
        self._began = time.monotonic()
        self._live: Live | None = None
        self._told: dict[str, str] = {}

    def say(self, text: str, style: str = "") -> None:
        """Print one line with the seconds since the start."""
        seconds = time.monotonic() - self._began
        self.console.print(
            f"[dim]{seconds:5.1f} s[/dim]  {escape(text)}", style=style, soft_wrap=True
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, purchases: Sequence[Purchase]) -> None:
        """Show how far every job is."""
        if self._live is not None:
            self._live.update(_progress(purchases))
            return
        for purchase in purchases:
            text = purchase.outcome + (", lease closed on chain" if purchase.receipt else "")
            if self._told.get(purchase.case.name) != text:
                self._told[purchase.case.name] = text
                self.say(f"{purchase.case.name:<16} {text}")


def _progress(purchases: Sequence[Purchase]) -> Table:
    table = Table("job", "buyer", "state", "measured", "accrued", "lease", box=None)
    for purchase in purchases:
        job, cost = purchase.job, purchase.job.cost
        colour = COLOURS.get(job.state, "white")
        table.add_row(
            purchase.case.name,
            purchase.case.buyer,
            f"[{colour}]{escape(purchase.outcome)}[/{colour}]",
            f"{cost.ms / 1000:.1f} s" if cost else "",
            f"{cost.accrued.amount:.8f} CMP" if cost else "",
            "closed" if purchase.receipt else (job.lease_id or "")[:14],
        )
    return table


def show_offers(screen: Screen, providers: Sequence[Provider]) -> None:
    """Who sells what, and for how much."""
    for provider in providers:
        offer = provider.offer
        unit = f" and {offer.unit_price} per {offer.unit}" if offer.unit else ""
        shared = ", shared" if offer.shared else ""
        screen.say(
            f"{offer.name:<8} {offer.gpus} x {offer.tier} (simulated{shared}) in {offer.region} "
            f"at {offer.gpu_hour} CMP per GPU-hour{unit}"
        )


def show_receipt(screen: Screen, purchase: Purchase) -> None:
    """Readings → GPU-seconds → rate → cost → transactions; or why there is nothing to pay."""
    print_ = screen.results.print
    colour = COLOURS.get(purchase.job.state, "white")
    head = f"[bold]{purchase.case.name}[/bold] · {purchase.case.buyer}"
    print_(f"\n{head} · [{colour}]{escape(purchase.outcome)}[/{colour}]", soft_wrap=True)
    if purchase.receipt is None:
        for line in no_match_lines(purchase):
            print_(f"  {escape(line)}", soft_wrap=True)
        return
    for number, receipt in enumerate(purchase.receipts, 1):
        if receipt is not purchase.receipt:
            print_(f"  lease {number}, whose node was lost:", soft_wrap=True)
        for row in _receipt_rows(receipt):
            print_(f"  {escape(row)}", soft_wrap=True)


def _receipt_rows(receipt: Receipt) -> list[str]:
    gpu = f"{receipt.tier}{' (simulated)' if receipt.simulated else ''}"
    rows = [
        f"{receipt.readings} readings, {receipt.used_ms} ms on {gpu} "
        f"= {receipt.gpu_seconds:f} GPU-seconds, at {receipt.rate:f} CMP per hour"
    ]
    rows += [
        f"{line.resource:<7} {line.quantity:f} {line.unit} at {line.price:f} {line.price_unit} "
        f"= {cmp(line.cost.atoms)}"
        for line in receipt.lines
    ]
    rows.append(
        f"cost    {cmp(receipt.gross.atoms)} = {cmp(receipt.net.atoms)} to the provider "
        f"+ {cmp(receipt.fee.atoms)} fee; {cmp(receipt.refunded.atoms)} back to the buyer"
    )
    return rows + transaction_lines(receipt.transactions)


def no_match_lines(purchase: Purchase) -> list[str]:
    """Why nothing matched: what each constraint refuses, and the cheapest change."""
    why = purchase.job.no_match
    if why is None:
        return []
    lines = [f"no match: {why.considered} asks were considered; nothing was locked"]
    lines += [
        f"{row.reason}: refuses {row.alone}, leaves {row.left}"
        for row in why.eliminations
        if row.alone
    ]
    return lines + [f"what would match: {change.text}" for change in why.relaxations[:1]]


def show_sheet(screen: Screen, sheet: Sheet, sound: bool) -> None:
    """The closing balance sheet."""
    table = Table("read from the chain", "CMP", "atoms", box=None, title_justify="left")
    rows = (
        ("deposits", sheet.deposits),
        ("= released to providers", sheet.earned),
        ("+ fees", sheet.fees),
        ("+ refunds, back with the buyers", sheet.refunds),
        ("+ balances never locked", sheet.untouched),
        ("difference", sheet.deposits - sheet.accounted),
        ("tokens the escrow holds", sheet.held),
    )
    for name, atoms in rows:
        table.add_row(name, from_scaled(atoms, DECIMALS), str(atoms))
    screen.results.print()
    screen.results.print(table)
    verdict = "every atom is accounted for" if sound else "THE BOOKS DO NOT ADD UP"
    style = "bold green" if sound else "bold red"
    screen.results.print(f"Block {sheet.block}: {verdict}.", style=style)
