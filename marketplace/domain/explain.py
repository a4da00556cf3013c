"""Why nothing matches a bid: what each constraint eliminates, and the cheapest way out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from marketplace.domain.book import Book
from marketplace.domain.matching import (
    CHECKS,
    AskView,
    BidView,
    RejectReason,
    least_seconds,
    refusals,
)
from marketplace.domain.order import RestingBid, Wants
from marketplace.domain.pricing import from_nano, from_scaled
from marketplace.domain.reader import duration_text, milli_text, size_text
from settlement.orders import Bid, TierLimit, terms_of
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
        note = " No node is verified yet." if self._none_verified else ""
        return f"{self.considered} asks, refused by {worst or 'nothing'}.{note} {hint}"

    @property
    def _none_verified(self) -> bool:
        refusing = (e for e in self.eliminations if e.reason is RejectReason.VERIFIED)
        return any(e.alone == self.considered for e in refusing)


def explain(book: Book, order: RestingBid) -> Explanation:
    """Check every ask in the book against every constraint; linear, so not for the hot path."""
    bid = book.view(order)
    asks = sorted(book.asks(), key=lambda ask: ask.seq)
    refused = [frozenset(refusals(ask, bid)) for ask in asks]
    return Explanation(len(asks), _count(refused), _cheapest(book, order, asks, refused))


def _count(refused: list[frozenset[RejectReason]]) -> tuple[Elimination, ...]:
    left = list(refused)
    rows = []
    for reason, _ in CHECKS:
        before = len(left)
        left = [reasons for reasons in left if reason not in reasons]
        alone = sum(reason in reasons for reasons in refused)
        if alone:
            rows.append(Elimination(reason, alone, before - len(left), len(left)))
    return tuple(rows)


def _cheapest(
    book: Book, order: RestingBid, asks: list[AskView], refused: list[frozenset[RejectReason]]
) -> tuple[Relaxation, ...]:
    """Fewest changes first, then lowest cost; one relaxation for each set of members to change."""
    found = []
    for ask, reasons in zip(asks, refused, strict=True):
        if reasons and reasons <= _RELAX.keys():
            relaxed = _relax(book, order, ask)
            if relaxed is not None:
                found.append((len(relaxed.changes), relaxed.max_cost, ask.seq, relaxed))
    chosen: dict[tuple[RejectReason, ...], Relaxation] = {}
    for *_, relaxed in sorted(found, key=lambda item: item[:3]):
        chosen.setdefault(tuple(c.reason for c in relaxed.changes), relaxed)
    return tuple(chosen.values())[:_RELAXATIONS_MAX]


def _relax(book: Book, order: RestingBid, ask: AskView) -> Relaxation | None:
    changes: list[Change] = []
    bid = book.view(order)
    while (reason := next(refusals(ask, bid), None)) is not None:
        # one change may uncover another, such as a budget too small, but none comes twice
        if reason not in _RELAX or reason in {change.reason for change in changes}:
            return None
        order, change = _RELAX[reason](order, ask, bid)
        changes.append(change)
        bid = book.view(order)
    terms = terms_of(ask.ask, order.bid, ask.ask.floor, bid.budget, bid.decimals)
    return Relaxation(
        ask_id=ask.order.id,
        tier=ask.ask.tier_name,
        region=ask.node.region,
        changes=tuple(changes),
        rate=terms.rate,
        max_cost=terms.lock,
    )


Relaxed = tuple[RestingBid, Change]
Relax = Callable[[RestingBid, AskView, BidView], Relaxed]


def _bid(order: RestingBid, **changes: Any) -> RestingBid:
    return replace(order, bid=replace(order.bid, **changes))


def _wants(order: RestingBid, **changes: Any) -> RestingBid:
    wants: Wants = replace(order.wants, **changes)
    return replace(order, wants=wants)


def _relax_tier(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    first = order.bid.limits[0] if order.bid.limits else TierLimit(ask.ask.tier, 0)
    limit = replace(first, tier=ask.ask.tier)
    name = ask.ask.tier_name
    wider = _bid(order, limits=(*order.bid.limits, limit))
    return wider, Change(RejectReason.TIER, "/resources/gpu", name)


def _relax_region(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    region = ask.node.region
    wider = _wants(order, regions=(*order.wants.regions, region))
    return wider, Change(RejectReason.REGION, "/placement/regions", region)


def _relax_verified(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    change = Change(RejectReason.VERIFIED, "/placement/verified_only", "false")
    return _wants(order, verified_only=False), change


def _relax_reliability(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    milli = ask.node.reliability_milli
    change = Change(RejectReason.RELIABILITY, "/placement/min_reliability", milli_text(milli))
    return _wants(order, min_reliability_milli=milli), change


def _relax_size(reason: RejectReason, field: str, member: str) -> Relax:
    def relax(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
        offered: int = getattr(ask.ask, field)
        text = milli_text(offered) if field == "cpu_milli" else size_text(offered)
        return _bid(order, **{field: offered}), Change(reason, f"/resources/{member}", text)

    return relax


def _relax_duration(reason: RejectReason, field: str) -> Relax:
    def relax(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
        seconds: int = getattr(ask.ask, field)
        return _bid(order, max_seconds=seconds), Change(
            reason, "/max_duration", duration_text(seconds)
        )

    return relax


def _relax_start(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    seconds = ask.ask.start_limit_seconds
    change = Change(RejectReason.START_LIMIT, "/start_deadline", duration_text(seconds))
    return _wants(order, start_deadline_seconds=seconds), change


def _limits(order: RestingBid, ask: AskView, **changes: Any) -> RestingBid:
    tier = ask.ask.tier
    limits = (replace(x, **changes) if x.tier == tier else x for x in order.bid.limits)
    return _bid(order, limits=tuple(limits))


def _relax_rate(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    per_gpu = -(-ask.rate(bid) // bid.gpu_milli)
    change = Change(RejectReason.RATE, "/pricing/max_gpu_hour", from_nano(per_gpu))
    return _limits(order, ask, rate=per_gpu * bid.gpu_milli), change


def _relax_counted(reason: RejectReason, field: str, pointer: str) -> Relax:
    def relax(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
        price: int = getattr(ask.ask.floor, "unit" if field == "unit" else "egress_gib")
        return _limits(order, ask, **{field: price}), Change(reason, pointer, from_nano(price))

    return relax


def _relax_budget(order: RestingBid, ask: AskView, bid: BidView) -> Relaxed:
    signed: Bid = order.bid
    floor = ask.ask.floor
    needed = cost_up(ask.rate(bid), least_seconds(ask) * 1000, bid.decimals) + counted_lock(
        floor.egress_gib, floor.unit, signed.egress_mib, signed.units, bid.decimals
    )
    more = replace(_bid(order, budget=needed), budget_left=None)
    text = from_scaled(needed, bid.decimals)
    return more, Change(RejectReason.BUDGET, "/budget/max_total", text)


_RELAX: dict[RejectReason, Relax] = {
    RejectReason.TIER: _relax_tier,
    RejectReason.REGION: _relax_region,
    RejectReason.VERIFIED: _relax_verified,
    RejectReason.RELIABILITY: _relax_reliability,
    RejectReason.CPU: _relax_size(RejectReason.CPU, "cpu_milli", "cpu"),
    RejectReason.MEMORY: _relax_size(RejectReason.MEMORY, "memory_mib", "memory"),
    RejectReason.STORAGE: _relax_size(RejectReason.STORAGE, "storage_mib", "disk"),
    RejectReason.DURATION_LONG: _relax_duration(RejectReason.DURATION_LONG, "max_seconds"),
    RejectReason.DURATION_SHORT: _relax_duration(RejectReason.DURATION_SHORT, "min_seconds"),
    RejectReason.START_LIMIT: _relax_start,
    RejectReason.RATE: _relax_rate,
    RejectReason.EGRESS_PRICE: _relax_counted(
        RejectReason.EGRESS_PRICE, "egress_gib", "/egress/max_price"
    ),
    RejectReason.UNIT_PRICE: _relax_counted(RejectReason.UNIT_PRICE, "unit", "/units/max_price"),
    RejectReason.BUDGET: _relax_budget,
}
