"""Orders as the book holds them, what is done to a book, and what it answers."""

from dataclasses import dataclass, fields
from enum import StrEnum

from marketplace.domain.job import JobSpec
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_SHARED, Ask, Bid, Prices, Terms
from settlement.units import UINT32_MAX, Sizes


@dataclass(frozen=True, slots=True)
class BookMarket:
    """What every lease of this market is subject to. `decimals` are the token's."""

    fee_bps: int = 0
    opener: str = ZERO_ADDRESS
    decimals: int = 18


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the market knows of a node besides what its ask signs. Reliability in thousandths.

    The sizes are what the node has now, which may be less than an ask of it once offered.
    """

    node_id: str
    region: str
    runtime: str = "process"
    simulated: bool = False
    verified: bool = False
    reliability_milli: int = 1000
    cpu_milli: int = UINT32_MAX
    memory_mib: int = UINT32_MAX
    storage_mib: int = UINT32_MAX


@dataclass(frozen=True, slots=True)
class RestingAsk:
    """An ask in the book; `seq` is its place in the order log and breaks ties of price."""

    id: str
    ask: Ask
    node: NodeFacts
    seq: int

    @property
    def shared(self) -> bool:
        """Whether shares of a GPU are sold."""
        return bool(self.ask.flags & FLAG_SHARED)

    @property
    def interruptible(self) -> bool:
        """Whether the node may be taken back, after notice."""
        return bool(self.ask.flags & FLAG_INTERRUPTIBLE)


@dataclass(frozen=True, slots=True)
class Wants:
    """What a job demands besides what its bid signs. `regions` empty: any."""

    regions: tuple[str, ...] = ()
    runtime: str = "process"
    verified_only: bool = False
    min_reliability_milli: int = 0
    start_deadline_seconds: int = 600
    rests: bool = False

    @classmethod
    def of(cls, spec: JobSpec) -> "Wants":
        """The demands of a job spec."""
        return cls(*(getattr(spec, field.name) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class RestingBid:
    """A bid in the book. `tried` names asks it cannot open again: one lease per pair of orders.

    `budget_left` (atoms) is what fail-over may still spend; None: the whole budget.
    """

    id: str
    bid: Bid
    wants: Wants
    seq: int
    tried: frozenset[str] = frozenset()
    budget_left: int | None = None


def region_matches(wanted: tuple[str, ...], region: str) -> bool:
    """Whether a region is one of the wanted, or lies in one: `eu-west` is in `eu`."""
    return not wanted or any(region == w or region.startswith(w + "-") for w in wanted)


class RejectReason(StrEnum):
    """Why an order is refused or an ask does not fit a bid. Stable codes."""

    TIER = "tier_not_accepted"
    RUNTIME = "runtime_differs"
    REGION = "region_not_accepted"
    SHARE = "share_not_sold"
    NO_GPU = "only_with_gpu"
    INTERRUPTIBLE = "interruption_not_accepted"
    NOTICE = "notice_too_short"
    VERIFIED = "node_not_verified"
    RELIABILITY = "reliability_too_low"
    PARTY = "witness_is_a_party"
    UNIT = "unit_differs"
    GPU_COUNT = "too_few_gpus"
    CPU = "too_little_cpu"
    MEMORY = "too_little_memory"
    STORAGE = "too_little_storage"
    DURATION_LONG = "duration_above_maximum"
    DURATION_SHORT = "duration_below_minimum"
    START_LIMIT = "starts_too_late"
    ALREADY_TRIED = "already_tried"
    NOT_STARTED = "ask_not_started"
    CAPACITY = "no_capacity"
    RATE = "rate_above_limit"
    EGRESS_PRICE = "egress_price_above_limit"
    UNIT_PRICE = "unit_price_above_limit"
    BUDGET = "budget_too_small"
    # of one order alone
    DUPLICATE = "duplicate_order"
    UNKNOWN_ORDER = "unknown_order"
    EXPIRED = "expired"
    FEE = "fee_not_accepted"
    OPENER = "opener_differs"
    GPU_SIZE = "invalid_gpu_size"
    NODES = "nodes_unsupported"
    NO_MATCH = "no_match"


@dataclass(frozen=True, slots=True)
class Fill:
    """One match: the bid takes these GPUs (indices on the node) at the ask's prices.

    The pair (bid, ask) names the capacity until it is freed.
    """

    bid_id: str
    ask_id: str
    provider: str
    node: int
    node_id: str
    tier: str
    prices: Prices
    terms: Terms
    gpus: tuple[int, ...]
    notice_seconds: int | None = None  # None: the node is not taken back


@dataclass(frozen=True, slots=True)
class Hold:
    """The capacity that the open lease of a pair of orders holds on a node."""

    bid_id: str
    ask_id: str
    provider: str
    node: int
    sizes: Sizes
    gpus: tuple[int, ...]


# Commands; they carry the time in Unix seconds


@dataclass(frozen=True, slots=True)
class AddAsk:
    at: int
    order: RestingAsk


@dataclass(frozen=True, slots=True)
class CancelAsk:
    """An ask takes no new fills; its leases go on."""

    at: int
    ask_id: str


@dataclass(frozen=True, slots=True)
class AddBid:
    """A bid enters: it is filled, rests, or is refused with NO_MATCH."""

    at: int
    order: RestingBid


@dataclass(frozen=True, slots=True)
class CancelBid:
    at: int
    bid_id: str


@dataclass(frozen=True, slots=True)
class Free:
    """The lease of this pair ended, or never opened: its capacity is given back."""

    at: int
    bid_id: str
    ask_id: str


@dataclass(frozen=True, slots=True)
class SetNode:
    """What the market knows of a node changed (verified, reliability…)."""

    at: int
    provider: str
    node: int
    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class Pause:
    """The buyer's bids match nothing until a time: those that rest, and those that come. A time
    that is over ends the pause."""

    at: int
    buyer: str
    until: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes: orders expire, asks start, pauses end."""

    at: int


Command = AddAsk | CancelAsk | AddBid | CancelBid | Free | SetNode | Pause | Tick


@dataclass(frozen=True, slots=True)
class Filled:
    fill: Fill


@dataclass(frozen=True, slots=True)
class Rested:
    order_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A command had no effect, and why."""

    order_id: str
    reason: RejectReason


class Cause(StrEnum):
    """Why a resting order left without a fill."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    START_DEADLINE = "start_deadline_passed"


@dataclass(frozen=True, slots=True)
class Removed:
    """A resting order left the book without a fill."""

    order_id: str
    cause: Cause


Event = Filled | Rested | Refused | Removed
