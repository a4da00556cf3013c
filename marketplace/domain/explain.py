"""Why nothing matches a bid: what each constraint eliminates, and the cheapest way out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from marketplace.domain.book import Book
from marketplace.domain.matching import CHECKS, AskView, BidView, least_seconds, refusals
from marketplace.domain.order import RejectReason, RestingBid
from marketplace.domain.pricing import DECIMALS, from_nano, from_scaled
from marketplace.domain.reader import duration_text, milli_text, size_text
from settlement.eip712 import from_text32
from settlement.orders import TierLimit, terms_of
from settlement.units import cost_up, counted_lock

_RELAXATIONS_MAX = 5


@dataclass(frozen=True, slots=True)
class Elimination:
    """One constraint: asks it refuses by itself, and asks left after it and all before it."""

    reason: RejectReason
    alone: int
    in_turn: int
    left: int


@dataclass(frozen=True, slots=True)
class Change:
    """One member of the job file to change, and to what."""

    reason: RejectReason
    pointer: str
    value: str


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Changes that together make one ask fit, and what the lease would then lock at most."""

    ask_id: str
    tier: str
    region: str
    changes: tuple[Change, ...]
    rate: int
    max_cost: int

    @property
    def text(self) -> str:
        """One line for people."""
        what = ", ".join(f"{c.pointer[1:].replace('/', '.')} to {c.value}" for c in self.changes)
        return f"change {what}: then {self.ask_id} ({self.tier}, {self.region}) fits"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a bid matches nothing: of `considered` asks in the book; relaxations, cheapest first."""

    considered: int
    eliminations: tuple[Elimination, ...]
    relaxations: tuple[Relaxation, ...]

    @property
    def summary(self) -> str:
        """One or two lines for people."""
        if not self.considered:
            return "no asks are in the book"
        worst = "; ".join(f"{e.reason}: {e.alone}" for e in self.eliminations if e.alone)
        hint = self.relaxations[0].text if self.relaxations else "no change to the job helps now"
        none_verified = (RejectReason.VERIFIED, self.considered) in (
            (e.reason, e.alone) for e in self.eliminations
        )
        note = " No node is verified yet." if none_verified else ""
        return f"{self.considered} asks, refused by {worst or 'nothing'}.{note} {hint}"


def explain(book: Book, order: RestingBid) -> Explanation:
    """Check every ask in the book against every constraint; linear, so not for the hot path."""
    bid = book.view(order)
    asks = sorted(book.asks(), key=lambda ask: ask.seq)
    refused = [frozenset(refusals(ask, bid)) for ask in asks]
    return Explanation(len(asks), _count(refused), _cheapest(book, order, asks, refused))


def _count(refused: list[frozenset[RejectReason]]) -> tuple[Elimination, ...]:
    left, rows = refused, []
    for reason in CHECKS:
        before = len(left)
        left = [reasons for reasons in left if reason not in reasons]
        if alone := sum(reason in reasons for reasons in refused):
            rows.append(Elimination(reason, alone, before - len(left), len(left)))
    return tuple(rows)


def _cheapest(
    book: Book, order: RestingBid, asks: list[AskView], refused: list[frozenset[RejectReason]]
) -> tuple[Relaxation, ...]:
    """Fewest changes first, then lowest cost; one relaxation for each set of members to change."""
    found = [
        relaxed
        for ask, reasons in zip(asks, refused, strict=True)
        if reasons and reasons <= _RELAX.keys() and (relaxed := _relax(book, order, ask))
    ]
    chosen: dict[tuple[RejectReason, ...], Relaxation] = {}
    for relaxed in sorted(found, key=lambda r: (len(r.changes), r.max_cost)):  # then by arrival
        chosen.setdefault(tuple(change.reason for change in relaxed.changes), relaxed)
    return tuple(chosen.values())[:_RELAXATIONS_MAX]


def _relax(book: Book, order: RestingBid, ask: AskView) -> Relaxation | None:
    changes: list[Change] = []
    bid = book.view(order)
    while (reason := next(refusals(ask, bid), None)) is not None:
        # one change may uncover another, such as a budget too small, but none comes twice
        if reason not in _RELAX or reason in {change.reason for change in changes}:
            return None
        pointer, value_of, text_of, put = _RELAX[reason]
        value = attrgetter(value_of)(ask) if isinstance(value_of, str) else value_of(ask, bid)
        changes.append(Change(reason, pointer, text_of(value)))
        order = _put(order, ask, put, value) if isinstance(put, str) else put(order, ask, value)
        bid = book.view(order)
    terms = terms_of(ask.ask, order.bid, ask.ask.floor, bid.budget, bid.decimals)
    return Relaxation(
        ask.order.id, ask.ask.tier_name, ask.node.region, tuple(changes), terms.rate, terms.lock
    )


def _put(order: RestingBid, ask: AskView, path: str, value: Any) -> RestingBid:
    """The order with another value at `bid.…` or `wants.…`, or at `limits.…` of the ask's tier."""
    part, _, field = path.partition(".")
    change: dict[str, Any] = {field: value}
    if part == "limits":
        tier, limits = ask.ask.tier, order.bid.limits
        change = {"limits": tuple(replace(x, **change) if x.tier == tier else x for x in limits)}
        part = "bid"
    changed: dict[str, Any] = {part: replace(getattr(order, part), **change)}
    return replace(order, **changed)


def _put_rate(order: RestingBid, ask: AskView, per_gpu: int) -> RestingBid:
    return _put(order, ask, "limits.rate", per_gpu * order.bid.gpu_milli)


def _put_budget(order: RestingBid, ask: AskView, needed: int) -> RestingBid:
    return replace(_put(order, ask, "bid.budget", needed), budget_left=None)


def _more_tiers(ask: AskView, bid: BidView) -> tuple[TierLimit, ...]:
    limits = bid.bid.limits
    first = limits[0] if limits else TierLimit(ask.ask.tier, 0)
    return (*limits, replace(first, tier=ask.ask.tier))


def _needed_budget(ask: AskView, bid: BidView) -> int:
    signed, floor = bid.bid, ask.ask.floor
    return cost_up(ask.rate(bid), least_seconds(ask) * 1000, bid.decimals) + counted_lock(
        floor.egress_gib, floor.unit, signed.egress_mib, signed.units, bid.decimals
    )


ValueOf = str | Callable[[AskView, BidView], Any]
Put = str | Callable[[RestingBid, AskView, Any], RestingBid]
# The member to change, the value that makes an ask fit, its text, and where a bid has it
_RELAX: dict[RejectReason, tuple[str, ValueOf, Callable[[Any], str], Put]] = {
    RejectReason.TIER: (
        "/resources/gpu", _more_tiers, lambda limits: from_text32(limits[-1].tier), "bid.limits"),
    RejectReason.REGION: (
        "/placement/regions", lambda ask, bid: (*bid.wants.regions, ask.node.region),
        lambda regions: str(regions[-1]), "wants.regions"),
    RejectReason.VERIFIED: (
        "/placement/verified_only", lambda *_: False, lambda _: "false", "wants.verified_only"),
    RejectReason.RELIABILITY: (
        "/placement/min_reliability", "node.reliability_milli", milli_text,
        "wants.min_reliability_milli"),
    RejectReason.CPU: ("/resources/cpu", "ask.cpu_milli", milli_text, "bid.cpu_milli"),
    RejectReason.MEMORY: ("/resources/memory", "ask.memory_mib", size_text, "bid.memory_mib"),
    RejectReason.STORAGE: ("/resources/disk", "ask.storage_mib", size_text, "bid.storage_mib"),
    RejectReason.DURATION_LONG: (
        "/max_duration", "ask.max_seconds", duration_text, "bid.max_seconds"),
    RejectReason.DURATION_SHORT: (
        "/max_duration", "ask.min_seconds", duration_text, "bid.max_seconds"),
    RejectReason.START_LIMIT: (
        "/start_deadline", "ask.start_limit_seconds", duration_text,
        "wants.start_deadline_seconds"),
    RejectReason.RATE: (
        "/pricing/max_gpu_hour", lambda ask, bid: -(-ask.rate(bid) // bid.gpu_milli), from_nano,
        _put_rate),
    RejectReason.EGRESS_PRICE: (
        "/egress/max_price", "ask.floor.egress_gib", from_nano, "limits.egress_gib"),
    RejectReason.UNIT_PRICE: ("/units/max_price", "ask.floor.unit", from_nano, "limits.unit"),
    RejectReason.BUDGET: (
        "/budget/max_total", _needed_budget, partial(from_scaled, decimals=DECIMALS), _put_budget),
}  # fmt: skip
