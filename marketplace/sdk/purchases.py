"""What a buyer gets to see: quotes, plans, jobs, their cost, receipts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from marketplace.sdk.models import Money

JOB_FINAL = frozenset({"succeeded", "failed", "cancelled", "over_budget", "no_match", "lost"})


@dataclass(frozen=True, slots=True)
class Match:
    """One ask that a job could take now, and what it would cost there at most.

    `price` per resource and `rate_per_hour` (all in) are decimal tokens.
    """

    ask_id: str
    provider: str
    tier: str
    region: str
    simulated: bool
    price: Mapping[str, str]
    rate_per_hour: str
    max_cost: Money
    funded_seconds: int
    budget_limited: bool = False


@dataclass(frozen=True, slots=True)
class QuoteAnswer:
    """What a job finds on the book: matches, best first, or why there is none."""

    matches: tuple[Match, ...]
    no_match: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would cost before it is bought; `shortfall` is what the balance lacks for it."""

    matches: tuple[Match, ...]
    max_cost: Money
    balance: Money
    shortfall: Money
    rate_per_hour: str | None = None
    no_match: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PreparedBid:
    """A bid the server wrote out, with the plan it follows from."""

    typed_data: Mapping[str, Any]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job has cost so far and may cost."""

    accrued: Money
    rate_per_hour: str
    locked: Money
    projected: Money
    budget_left: Money
    ms: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """The workload a bid buys compute for, and how far it has come."""

    id: str
    name: str
    state: str
    account: str
    bid_id: str
    job_hash: str
    spec: Mapping[str, Any]
    reason: str | None = None
    detail: str | None = None
    ending: str | None = None
    lease_id: str | None = None
    lease_no: str | None = None
    provider: str | None = None
    witness: str | None = None
    no_match: Mapping[str, Any] | None = None
    exit_code: int | None = None
    outputs: str | None = None
    max_cost: Money | None = None
    cost: Cost | None = None
    created_at: datetime | None = None
    matched_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return self.state in JOB_FINAL


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """One resource on a receipt: how much, at which price, what it cost."""

    resource: str
    quantity: str
    unit: str
    price: str
    price_unit: str
    cost: Money


@dataclass(frozen=True, slots=True)
class ReceiptTransaction:
    """One transaction that moved a lease's money."""

    kind: str
    tx_hash: str
    block: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Usage → rate → cost → transactions of one lease. `conserved`: locked = released + refunded,
    and released is what the usage costs.
    """

    id: str
    job_id: str
    lease_id: str
    tier: str
    simulated: bool
    readings: int
    used_ms: int
    gpu_seconds: str
    rate: str
    lines: tuple[ReceiptLine, ...]
    gross: Money
    fee: Money
    net: Money
    locked: Money
    released: Money
    refunded: Money
    conserved: bool
    transactions: tuple[ReceiptTransaction, ...]
    buyer: str = ""
    provider: str = ""
    lease_no: str = ""
    witness: str = ""
    created_at: datetime | None = None

    def __str__(self) -> str:
        head = f"Receipt {self.id} · job {self.job_id} · {self.tier}"
        rows = [head + (" · simulated GPU" if self.simulated else "")]
        rows.append(
            f"  measured {self.used_ms} ms in {self.readings} readings, {self.gpu_seconds} GPU-s, "
            f"at {self.rate} {self.gross.currency}/h"
        )
        for line in self.lines:
            rows.append(
                f"  {line.resource:<8} {line.quantity} {line.unit} at {line.price} "
                f"{line.price_unit} = {line.cost}"
            )
        rows.append(f"  released {self.released} (fee {self.fee}), refunded {self.refunded}")
        rows.append(f"  locked {self.locked}: {'conserved' if self.conserved else 'NOT CONSERVED'}")
        for name in ("lease_no", "buyer", "provider", "witness"):
            if value := getattr(self, name):  # receipts of earlier versions lack some
                rows.append(f"  {name.removesuffix('_no'):<8} {value}")
        rows += [f"  {line}" for line in transaction_lines(self.transactions)]
        return "\n".join(rows)


def transaction_lines(transactions: Sequence[ReceiptTransaction]) -> list[str]:
    """One line per transaction; of three and more of a kind in a row the first and the last."""
    lines: list[str] = []
    for kind, group in groupby(transactions, key=lambda t: t.kind):
        run = list(group)
        shown = [f"{kind:<8} {t.tx_hash} in block {t.block}" for t in (run[0], run[-1])]
        if len(run) == 1:
            shown = shown[:1]
        elif len(run) > 2:
            shown.insert(1, f"{kind:<8} … {len(run) - 2} more, in JSON …")
        lines += shown
    return lines


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a job's output; `offset` counts the stream's bytes before it."""

    stream: str
    offset: int
    text: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A log event as lists show it."""

    id: int
    data: LogPiece
    at: datetime


@dataclass(frozen=True, slots=True)
class BookAsk:
    """An ask in the book and what is free of it; `price` in decimal tokens."""

    ask_id: str
    provider: str
    tier: str
    region: str
    runtime: str
    simulated: bool
    shared: bool
    price: Mapping[str, str]
    gpu_milli: int
    free_gpu_milli: int
    max_seconds: int
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """Asks best first, how many bids rest, and free GPUs (thousandths) per tier."""

    asks: tuple[BookAsk, ...]
    bids: int
    depth: Mapping[str, int]
    tier: str | None = None
