"""Why nothing matches a bid: what each constraint eliminates, and the cheapest way out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from marketplace.domain.book import Book
from marketplace.domain.matching import CHECKS, AskView, BidView, least_seconds, refusals
from marketplace.domain.order import RejectReason, RestingBid
from marketplace.domain.pricing import DECIMALS, from_nano, from_scaled
from marketplace.domain.reader import duration_text, milli_text, size_text
from settlement.eip712 import from_text32
from settlement.orders import FLAG_INTERRUPTIBLE, TierLimit, terms_of
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
        none_verified = any(
            e.reason is RejectReason.VERIFIED and e.alone == self.considered
            for e in self.eliminations
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
    left = refused
    rows = []
    for reason in CHECKS:
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
        if reasons and reasons <= _REMEDIES.keys():
            relaxed = _relax(book, order, ask)
            if relaxed is not None:
                found.append(relaxed)
    chosen: dict[tuple[RejectReason, ...], Relaxation] = {}
    for relaxed in sorted(found, key=lambda r: (len(r.changes), r.max_cost)):  # then by arrival
        chosen.setdefault(tuple(change.reason for change in relaxed.changes), relaxed)
    return tuple(chosen.values())[:_RELAXATIONS_MAX]


def _relax(book: Book, order: RestingBid, ask: AskView) -> Relaxation | None:
    changes: list[Change] = []
    bid = book.view(order)
    while (reason := next(refusals(ask, bid), None)) is not None:
        # one change may uncover another, such as a budget too small, but none comes twice
        if reason not in _REMEDIES or reason in {change.reason for change in changes}:
            return None
        remedy = (
            _HOURLY if (reason is RejectReason.RATE and not bid.gpu_milli) else _REMEDIES[reason]
        )
        value = remedy.value(ask, bid)
        changes.append(Change(reason, remedy.pointer, remedy.text(value)))
        order = remedy.put(order, ask, value)
        bid = book.view(order)
    terms = terms_of(ask.ask, order.bid, ask.ask.floor, bid.budget, bid.decimals)
    return Relaxation(
        ask.order.id, ask.ask.tier_name, ask.node.region, tuple(changes), terms.rate, terms.lock
    )


def _with_bid(order: RestingBid, **fields: Any) -> RestingBid:
    return replace(order, bid=replace(order.bid, **fields))


def _with_wants(order: RestingBid, **fields: Any) -> RestingBid:
    return replace(order, wants=replace(order.wants, **fields))


def _with_limit(order: RestingBid, ask: AskView, **fields: Any) -> RestingBid:
    """The order with other limits for the ask's tier."""
    limits = tuple(
        replace(limit, **fields) if limit.tier == ask.ask.tier else limit
        for limit in order.bid.limits
    )
    return _with_bid(order, limits=limits)


def _with_budget(order: RestingBid, ask: AskView, needed: int) -> RestingBid:
    return replace(_with_bid(order, budget=needed), budget_left=None)


def _more_tiers(ask: AskView, bid: BidView) -> tuple[TierLimit, ...]:
    limits = bid.bid.limits
    first = limits[0] if limits else TierLimit(ask.ask.tier, 0)
    return (*limits, replace(first, tier=ask.ask.tier))


def _needed_budget(ask: AskView, bid: BidView) -> int:
    signed, floor = bid.bid, ask.ask.floor
    return cost_up(ask.rate(bid), least_seconds(ask) * 1000, bid.decimals) + counted_lock(
        floor.egress_gib, floor.unit, signed.egress_mib, signed.units, bid.decimals
    )


def _accepting(order: RestingBid, flag: int) -> RestingBid:
    return _with_bid(order, flags=order.bid.flags | flag)


class Remedy(NamedTuple):
    """How a bid comes to fit an ask that refuses it for one reason."""

    pointer: str  # the member of the job file to change
    value: Callable[[AskView, BidView], Any]  # the value that fits
    text: Callable[[Any], str]  # that value as the job file has it
    put: Callable[[RestingBid, AskView, Any], RestingBid]  # the order with that value


_REMEDIES: dict[RejectReason, Remedy] = {
    RejectReason.TIER: Remedy(
        "/resources/gpu",
        _more_tiers,
        lambda limits: from_text32(limits[-1].tier),
        lambda order, ask, limits: _with_bid(order, limits=limits)),
    RejectReason.REGION: Remedy(
        "/placement/regions",
        lambda ask, bid: (*bid.wants.regions, ask.node.region),
        lambda regions: str(regions[-1]),
        lambda order, ask, regions: _with_wants(order, regions=regions)),
    RejectReason.VERIFIED: Remedy(
        "/placement/verified_only",
        lambda ask, bid: False,
        lambda only: "false",
        lambda order, ask, only: _with_wants(order, verified_only=only)),
    RejectReason.RELIABILITY: Remedy(
        "/placement/min_reliability",
        lambda ask, bid: ask.node.reliability_milli,
        milli_text,
        lambda order, ask, milli: _with_wants(order, min_reliability_milli=milli)),
    RejectReason.INTERRUPTIBLE: Remedy(
        "/placement/interruptible",
        lambda ask, bid: FLAG_INTERRUPTIBLE,
        lambda flag: "true",
        lambda order, ask, flag: _accepting(order, flag)),
    RejectReason.NOTICE: Remedy(
        "/placement/min_notice",
        lambda ask, bid: ask.ask.notice_seconds,
        duration_text,
        lambda order, ask, seconds: _with_bid(order, min_notice_seconds=seconds)),
    RejectReason.CPU: Remedy(
        "/resources/cpu",
        lambda ask, bid: ask.offered.cpu_milli,
        milli_text,
        lambda order, ask, milli: _with_bid(order, cpu_milli=milli)),
    RejectReason.MEMORY: Remedy(
        "/resources/memory",
        lambda ask, bid: ask.offered.memory_mib,
        size_text,
        lambda order, ask, mib: _with_bid(order, memory_mib=mib)),
    RejectReason.STORAGE: Remedy(
        "/resources/disk",
        lambda ask, bid: ask.offered.storage_mib,
        size_text,
        lambda order, ask, mib: _with_bid(order, storage_mib=mib)),
    RejectReason.DURATION_LONG: Remedy(
        "/max_duration",
        lambda ask, bid: ask.ask.max_seconds,
        duration_text,
        lambda order, ask, seconds: _with_bid(order, max_seconds=seconds)),
    RejectReason.DURATION_SHORT: Remedy(
        "/max_duration",
        lambda ask, bid: ask.ask.min_seconds,
        duration_text,
        lambda order, ask, seconds: _with_bid(order, max_seconds=seconds)),
    RejectReason.START_LIMIT: Remedy(
        "/start_deadline",
        lambda ask, bid: ask.ask.start_limit_seconds,
        duration_text,
        lambda order, ask, seconds: _with_bid(
            _with_wants(order, start_deadline_seconds=seconds), max_start_seconds=seconds)),
    RejectReason.RATE: Remedy(
        "/pricing/max_gpu_hour",
        lambda ask, bid: -(-ask.rate(bid) // bid.gpu_milli),
        from_nano,
        lambda order, ask, nano: _with_limit(order, ask, rate=nano * order.bid.gpu_milli)),
    RejectReason.EGRESS_PRICE: Remedy(
        "/egress/max_price",
        lambda ask, bid: ask.ask.floor.egress_gib,
        from_nano,
        lambda order, ask, nano: _with_limit(order, ask, egress_gib=nano)),
    RejectReason.UNIT_PRICE: Remedy(
        "/units/max_price",
        lambda ask, bid: ask.ask.floor.unit,
        from_nano,
        lambda order, ask, nano: _with_limit(order, ask, unit=nano)),
    RejectReason.BUDGET: Remedy(
        "/budget/max_total",
        _needed_budget,
        partial(from_scaled, decimals=DECIMALS),
        _with_budget),
}  # fmt: skip
_HOURLY = Remedy(  # of a rate, if the job has no GPU
    "/pricing/max_hour",
    lambda ask, bid: -(-ask.rate(bid) // 1000),
    from_nano,
    lambda order, ask, nano: _with_limit(order, ask, rate=nano * 1000),
)
