"""Which ask fits which bid: the constraints, and the views they read.

`CHECKS` names each refusal for explanations; `fits` decides the same at speed, and
tests/property/test_book.py holds the two together. Source of the constraints that the chain checks
again when a lease opens: `Orders.requireFit`, `Opening._fund` in contracts.
"""

from collections.abc import Callable, Iterator

from marketplace.domain.order import (
    BookMarket,
    RejectReason,
    RestingAsk,
    RestingBid,
    region_matches,
)
from marketplace.domain.placing import NodeUse, sizes_of
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_NO_GPU, FLAG_SHARED, TierLimit
from settlement.units import MS_PER_HOUR, RATE_SCALE, Sizes, counted_lock


class AskView:
    """An ask's fields laid flat for the search, and its place in the index."""

    __slots__ = (
        "ask", "cpu_hour", "flat", "gpu_hour", "in_level", "key", "lead_hour", "live",
        "memory_hour", "node", "offered", "order", "seq", "started", "storage_hour", "use",
    )  # fmt: skip

    def __init__(self, order: RestingAsk, use: NodeUse) -> None:
        ask = order.ask
        self.order = order
        self.ask = ask
        self.seq = order.seq
        self.use = use
        self.node = order.node
        self.offered = offered_of(order)
        self.gpu_hour = ask.floor.gpu_hour
        self.cpu_hour = ask.floor.cpu_hour
        self.memory_hour = ask.floor.memory_gib_hour
        self.storage_hour = ask.floor.storage_gib_hour
        # of one GPU, or of one core if no GPU is sold: it bounds what any bid would pay
        self.lead_hour = self.gpu_hour if ask.gpu_milli else self.cpu_hour
        others = self.memory_hour or self.storage_hour
        self.flat = not (others or (self.cpu_hour if ask.gpu_milli else self.gpu_hour))
        self.key = bucket_key(order)
        self.live = False  # in the index and open for matches
        self.in_level = False  # a reference is (still) in a price level
        self.started = False

    def rate(self, bid: "BidView") -> int:
        """All-in rate for the bid's sizes. Mirrors `Prices.rate`."""
        rate = self.gpu_hour * bid.gpu_milli + self.cpu_hour * bid.cpu_milli
        if self.flat:
            return rate
        mib = self.memory_hour * bid.memory_mib + self.storage_hour * bid.storage_mib
        return rate + mib * 125 // 128


# The members of an ask that, with its tier, name its bucket.
BucketKey = tuple[str, str, bool, bool, bool, bytes, int]
# The members of a bid that decide which buckets it may search.
Shape = tuple[tuple[str, ...], str, bool, bool, bool, bytes | None, int]


def bucket_key(order: RestingAsk) -> BucketKey:
    """Region, runtime, shared, verified, interruptible, unit and GPUs offered."""
    ask, node = order.ask, order.node
    flags = (order.shared, node.verified, order.interruptible)
    return node.region, node.runtime, *flags, ask.unit, ask.gpu_milli


def offered_of(order: RestingAsk) -> Sizes:
    """What an ask offers of what its node has now."""
    ask, node = order.ask, order.node
    return Sizes(
        ask.gpu_milli,
        min(ask.cpu_milli, node.cpu_milli),
        min(ask.memory_mib, node.memory_mib),
        min(ask.storage_mib, node.storage_mib),
    )


def shape_fits(shape: Shape, key: BucketKey) -> bool:
    """Whether a bid of this shape may match asks of this bucket."""
    regions, runtime, needs_share, verified_only, interruptible, unit, gpu_milli = shape
    region, bucket_runtime, shared, verified, is_interruptible, bucket_unit, offered = key
    return (
        bucket_runtime == runtime
        and (offered >= gpu_milli if gpu_milli else not offered)
        and (interruptible or not is_interruptible)
        and (shared or not needs_share)
        and (verified or not verified_only)
        and (unit is None or unit == bucket_unit)
        and region_matches(regions, region)
    )


class BidView:
    """A bid's fields laid flat for the search, and its place in the index."""

    __slots__ = (
        "bid", "budget", "cpu_milli", "decimals", "ends", "gpu_milli", "lead_milli", "limits",
        "live", "memory_mib", "order", "seq", "shape", "sizes", "start_seconds", "storage_mib",
        "wants",
    )  # fmt: skip

    def __init__(self, order: RestingBid, market: BookMarket) -> None:
        bid, wants = order.bid, order.wants
        self.order = order
        self.bid = bid
        self.wants = wants
        self.seq = order.seq
        self.gpu_milli = bid.gpu_milli
        self.cpu_milli = bid.cpu_milli
        self.memory_mib = bid.memory_mib
        self.storage_mib = bid.storage_mib
        self.lead_milli = bid.gpu_milli or bid.cpu_milli  # what an ask's `lead_hour` is for
        whole = bid.cpu_milli and bid.memory_mib and bid.storage_mib
        self.sizes = bid.sizes() if whole else None  # None: some are shares of the ask
        self.start_seconds = min(wants.start_deadline_seconds, bid.max_start_seconds)
        self.decimals = market.decimals
        self.budget = bid.budget if order.budget_left is None else order.budget_left
        self.limits: dict[bytes, TierLimit] = {}
        for limit in bid.limits:
            self.limits.setdefault(limit.tier, limit)  # the chain takes the first, too
        self.shape: Shape = (
            wants.regions,
            wants.runtime,
            0 < bid.gpu_milli < 1000,
            wants.verified_only,
            bool(bid.flags & FLAG_INTERRUPTIBLE),
            bid.unit if bid.units else None,
            bid.gpu_milli,
        )
        self.live = False
        self.ends = 0  # when it leaves the book unfilled


def least_seconds(ask: AskView) -> int:
    """The shortest paid time the chain opens this ask for. Source: `Opening._fund`."""
    return max(1, ask.ask.min_seconds)


def affords(ask: AskView, bid: BidView, rate: int) -> bool:
    """Whether the budget funds the least time after the counted caps are locked."""
    left = bid.budget
    signed = bid.bid
    if signed.egress_mib or signed.units:
        floor = ask.ask.floor
        left -= counted_lock(
            floor.egress_gib, floor.unit, signed.egress_mib, signed.units, bid.decimals
        )
    per_second = rate * 1000 * int(10**bid.decimals)
    return left * MS_PER_HOUR * RATE_SCALE >= least_seconds(ask) * per_second


Check = Callable[[AskView, BidView], bool]


def _limit_passed(ask: AskView, bid: BidView) -> bool:
    limit = bid.limits.get(ask.ask.tier)
    return limit is not None and ask.rate(bid) > limit.rate


def _egress_passed(ask: AskView, bid: BidView) -> bool:
    limit = bid.limits.get(ask.ask.tier)
    passed = limit is not None and ask.ask.floor.egress_gib > limit.egress_gib
    return bid.bid.egress_mib > 0 and passed


def _unit_passed(ask: AskView, bid: BidView) -> bool:
    limit = bid.limits.get(ask.ask.tier)
    return bid.bid.units > 0 and limit is not None and ask.ask.floor.unit > limit.unit


def _is_party(ask: AskView, bid: BidView) -> bool:
    return bid.bid.witness in (ask.ask.provider, ask.ask.meter)


def _share_refused(ask: AskView, bid: BidView) -> bool:
    return 0 < bid.gpu_milli < 1000 and not ask.ask.flags & bid.bid.flags & FLAG_SHARED


def _needs_gpu(ask: AskView, bid: BidView) -> bool:
    """An ask sells leases without a GPU only if it has none: one that has is priced by it."""
    return not bid.gpu_milli and not ask.ask.flags & bid.bid.flags & FLAG_NO_GPU


def _interruption_refused(ask: AskView, bid: BidView) -> bool:
    return ask.order.interruptible and not bid.bid.flags & FLAG_INTERRUPTIBLE


def _notice_refused(ask: AskView, bid: BidView) -> bool:
    return ask.order.interruptible and ask.ask.notice_seconds < bid.bid.min_notice_seconds


def sizes_for(ask: AskView, bid: BidView) -> Sizes:
    """What the bid's lease takes of the ask's node."""
    return bid.sizes or sizes_of(ask.ask, bid.bid)


def find_room(ask: AskView, bid: BidView) -> tuple[int, ...] | None:
    """The GPUs that the bid's lease gets of the ask's node, if all it takes is free there."""
    return ask.use.place(ask.offered, sizes_for(ask, bid))


def _is_taken(ask: AskView, bid: BidView) -> bool:
    """The ask offers enough, but others hold too much of it now."""
    has = ask.offered
    offers = (
        has.gpu_milli >= bid.gpu_milli
        and has.cpu_milli >= bid.cpu_milli
        and has.memory_mib >= bid.memory_mib
        and has.storage_mib >= bid.storage_mib
    )
    return offers and find_room(ask, bid) is None


# In the order in which they are reported; each says whether the ask is refused.
CHECKS: dict[RejectReason, Check] = {
    RejectReason.TIER: lambda a, b: a.ask.tier not in b.limits,
    RejectReason.RUNTIME: lambda a, b: a.node.runtime != b.wants.runtime,
    RejectReason.REGION: lambda a, b: not region_matches(b.wants.regions, a.node.region),
    RejectReason.SHARE: _share_refused,
    RejectReason.NO_GPU: _needs_gpu,
    RejectReason.INTERRUPTIBLE: _interruption_refused,
    RejectReason.NOTICE: _notice_refused,
    RejectReason.VERIFIED: lambda a, b: b.wants.verified_only and not a.node.verified,
    RejectReason.RELIABILITY: lambda a, b: a.node.reliability_milli < b.wants.min_reliability_milli,
    RejectReason.PARTY: _is_party,
    RejectReason.UNIT: lambda a, b: b.bid.units > 0 and b.bid.unit != a.ask.unit,
    RejectReason.GPU_COUNT: lambda a, b: a.ask.gpu_milli < b.gpu_milli,
    RejectReason.CPU: lambda a, b: a.offered.cpu_milli < b.cpu_milli,
    RejectReason.MEMORY: lambda a, b: a.offered.memory_mib < b.memory_mib,
    RejectReason.STORAGE: lambda a, b: a.offered.storage_mib < b.storage_mib,
    RejectReason.DURATION_LONG: lambda a, b: a.ask.max_seconds < b.bid.max_seconds,
    RejectReason.DURATION_SHORT: lambda a, b: a.ask.min_seconds > b.bid.max_seconds,
    RejectReason.START_LIMIT: lambda a, b: a.ask.start_limit_seconds > b.start_seconds,
    RejectReason.ALREADY_TRIED: lambda a, b: a.order.id in b.order.tried,
    RejectReason.NOT_STARTED: lambda a, b: not a.started,
    RejectReason.CAPACITY: _is_taken,
    RejectReason.RATE: _limit_passed,
    RejectReason.EGRESS_PRICE: _egress_passed,
    RejectReason.UNIT_PRICE: _unit_passed,
    RejectReason.BUDGET: lambda a, b: not affords(a, b, a.rate(b)),
}


def refusals(ask: AskView, bid: BidView) -> Iterator[RejectReason]:
    """Every reason why this ask does not fit this bid; none if it fits."""
    return (reason for reason, refused in CHECKS.items() if refused(ask, bid))


def rate_if_match(ask: AskView, bid: BidView) -> int | None:
    """The all-in rate at which this live ask fits the bid, or None if it does not."""
    limit = bid.limits.get(ask.ask.tier)
    if limit is None or not ask.live or not shape_fits(bid.shape, ask.key):
        return None
    rate = ask.rate(bid)
    return rate if rate <= limit.rate and fits(ask, bid, rate) else None


def fits(ask: AskView, bid: BidView, rate: int) -> bool:
    """Whether a started ask of a bucket that the bid may search fits it.

    Same answer as `refusals` being empty, cheapest checks first; tier, rate limit and what
    `shape_fits` covers are the caller's.
    """
    terms, has, signed, wants = ask.ask, ask.offered, bid.bid, bid.wants
    if (
        terms.max_seconds < signed.max_seconds
        or terms.min_seconds > signed.max_seconds
        or has.memory_mib < bid.memory_mib
        or has.cpu_milli < bid.cpu_milli
        or has.storage_mib < bid.storage_mib
        or terms.start_limit_seconds > bid.start_seconds
        or ask.node.reliability_milli < wants.min_reliability_milli
        or ask.order.id in bid.order.tried
    ):
        return False
    return not (
        _is_party(ask, bid)
        or _share_refused(ask, bid)
        or _needs_gpu(ask, bid)
        or _notice_refused(ask, bid)
        or _egress_passed(ask, bid)
        or _unit_passed(ask, bid)
        or not affords(ask, bid, rate)
        or find_room(ask, bid) is None
    )
