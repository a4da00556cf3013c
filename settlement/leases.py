"""The escrow's books, rebuilt from its events by a pure fold. After a reorg, fold again.

Every amount equals the contract's storage to the atom. Source: `ComputeEscrow` in contracts.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum, StrEnum

from settlement import events, units
from settlement.events import ChainEvent
from settlement.orders import OpenedFrom


class LeaseStatus(IntEnum):
    """A lease's status, numbered as in the contract."""

    NONE = 0
    ACTIVE = 1
    STOPPED = 2
    CLOSED = 3


class Side(StrEnum):
    """Who stopped a lease. The witness is on the buyer's side, the meter on the provider's."""

    BUYER = "buyer"
    PROVIDER = "provider"
    NOBODY = "nobody"  # its time was over, or the node cannot tell


@dataclass(frozen=True, slots=True)
class SaltState:
    """Whether a bid of this salt has opened, or the call was sent; whether it is cancelled."""

    used: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Params:
    """A deployment's fixed terms: the token's decimals and the fee in basis points."""

    decimals: int = 18
    fee_bps: int = 0


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as the contract reports it. Seconds are chain time; atoms include the fee."""

    status: LeaseStatus
    metered: bool
    again: bool
    rate: int
    used_ms: int
    start: int
    end: int
    funded: int
    start_seconds: int
    gpu_milli: int
    node: int
    released: int
    locked: int

    @property
    def paid_seconds(self) -> int:
        """Seconds that are paid at most. The rest of the funded time makes up for a late start."""
        return self.funded - self.start_seconds


Shows = Callable[[str, str, str, bytes], LeaseView]
"""What an own node shows of a lease by buyer, provider, witness, number. Raises ChainError."""


class Unlike(StrEnum):
    """How a lease on chain is not what its signed orders make it; stable codes."""

    NOT_ON_CHAIN = "not_on_chain"
    RATE = "chain_rate_differs"
    PAID_TIME = "chain_paid_time_differs"
    START_LIMIT = "chain_start_limit_differs"
    NODE = "chain_node_differs"
    GPUS = "chain_gpus_differ"
    COUNTED = "chain_counted_differs"


def unlike(view: LeaseView, opened: OpenedFrom) -> Unlike | None:
    """Compare what the chain has under the number of `opened` with these orders.

    The number binds the orders, the prices, the seat and the meter, and whoever asks the chain for
    it names buyer, provider and witness as well. The rest is compared here. A stop may have cut the
    time, and a top-up may have added to it, up to the ask's longest.
    """
    ask, bid = opened.ask, opened.bid
    if view.status is LeaseStatus.NONE:
        return Unlike.NOT_ON_CHAIN
    runs = view.status is LeaseStatus.ACTIVE
    least = (ask.min_seconds, ask.start_limit_seconds) if runs else (0, 0)
    counted = bid.egress_mib > 0 or bid.units > 0
    checks = (
        (view.rate == opened.prices.rate(bid.sizes()), Unlike.RATE),
        (least[0] <= view.paid_seconds <= ask.max_seconds, Unlike.PAID_TIME),
        (least[1] <= view.start_seconds <= ask.start_limit_seconds, Unlike.START_LIMIT),
        (view.node == ask.node, Unlike.NODE),
        (view.gpu_milli == bid.gpu_milli, Unlike.GPUS),
        (view.metered is counted, Unlike.COUNTED),
    )
    return next((found for alike, found in checks if not alike), None)


@dataclass(frozen=True, slots=True)
class ChainLease(events.OpeningTerms):
    """One lease on chain. `refunded` atoms went back to the buyer when the lease closed."""

    status: LeaseStatus = LeaseStatus.ACTIVE
    used_ms: int = 0
    egress_gib: int = 0
    unit: int = 0
    egress_cap_mib: int = 0
    units_cap: int = 0
    egress_mib: int = 0
    units: int = 0
    refunded: int = 0
    again: bool = False

    @property
    def start(self) -> int:
        return self.end - self.funded

    @property
    def paid_seconds(self) -> int:
        """Seconds that are paid at most. The rest of the funded time makes up for a late start."""
        return self.funded - self.start_seconds

    @property
    def metered(self) -> bool:
        return self.egress_cap_mib > 0 or self.units_cap > 0

    @property
    def is_open(self) -> bool:
        """Whether usage can still be paid."""
        return self.status in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED)

    def elapsed_ms(self, now: int) -> int:
        """The most usage that the chain accepts at time `now`; it pays `paid_seconds` at most."""
        return max(0, now - self.start) * 1000

    def _paid(self, params: Params) -> tuple[int, int]:
        """Gross atoms paid for time, and for egress and units."""
        prices, usage = (self.egress_gib, self.unit), (self.egress_mib, self.units)
        time = units.cost(self.rate, self.used_ms, params.decimals)
        return time, units.counted_cost(*prices, *usage, params.decimals)

    def released(self, params: Params) -> int:
        """Gross atoms paid so far, including the fee."""
        return sum(self._paid(params))

    def fees(self, params: Params) -> int:
        """The fee inside `released`: its parts for time and counted resources each round down."""
        return sum(units.fee_of(paid, params.fee_bps) for paid in self._paid(params))

    def locked(self, params: Params) -> int:
        """Atoms still locked for this lease."""
        return self.most_released(params) - self.released(params)

    def most_released(self, params: Params) -> int:
        """The most gross atoms that it may release over its whole life."""
        return self.lock(params) if self.is_open else self.released(params)

    def lock(self, params: Params) -> int:
        """Atoms that its current terms lock in total, paid or not."""
        counted = (self.egress_gib, self.unit, self.egress_cap_mib, self.units_cap)
        time = units.time_lock(self.rate, self.paid_seconds, params.decimals)
        return time + units.counted_lock(*counted, params.decimals)


def _opened(event: events.Opened) -> ChainLease:
    return ChainLease(**{f.name: getattr(event, f.name) for f in fields(events.OpeningTerms)})


def after(lease: ChainLease, event: ChainEvent) -> ChainLease:
    """The lease after one more event. Events of other leases change nothing."""
    if isinstance(event, events.Settled):
        for entry in event.entries:
            if entry.lease_no == lease.lease_no:
                lease = replace(lease, used_ms=entry.ms)
                if isinstance(event, events.SettledMetered):
                    lease = replace(lease, egress_mib=entry.egress_mib, units=entry.units)
    if not isinstance(event, events.LeaseEvent) or event.lease_no != lease.lease_no:
        return lease
    match event:
        case events.OpenedCounted():
            counted = {f.name: getattr(event, f.name) for f in fields(event)}
            return replace(lease, **counted)
        case events.ToppedUp():
            return replace(lease, end=event.end, funded=event.end - lease.start)
        case events.Stopped():  # what is cut off first is the time for a late start
            start = max(0, lease.start_seconds - (lease.end - event.end))
            ended = replace(lease, end=event.end, funded=event.end - lease.start)
            return replace(ended, start_seconds=start, status=LeaseStatus.STOPPED)
        case events.MarkedAgain():
            return replace(lease, again=True)
        case events.ClosedCounted():
            return replace(lease, egress_mib=event.egress_mib, units=event.units)
        case events.Closed():
            closed = replace(lease, status=LeaseStatus.CLOSED, refunded=event.refunded)
            return replace(closed, used_ms=event.ms)
    return lease


def fold(history: Iterable[ChainEvent]) -> ChainLease | None:
    """One lease after all of its events in chain order; None without an Opened event."""
    lease: ChainLease | None = None
    for event in history:
        if isinstance(event, events.Opened):
            lease = _opened(event)
        elif lease is not None:
            lease = after(lease, event)
    return lease


@dataclass(slots=True)
class EscrowState:
    """The escrow's money: leases by number, free balances, uncollected fees, capacity in use."""

    params: Params
    leases: dict[bytes, ChainLease] = field(default_factory=dict)
    balances: Counter[str] = field(default_factory=Counter)
    fees: Counter[str] = field(default_factory=Counter)
    capacity: Counter[tuple[str, int]] = field(default_factory=Counter)

    def take(self, event: ChainEvent) -> None:
        """Apply the next event in chain order."""
        match event:
            case events.Deposited():
                self.balances[event.account] += event.amount
            case events.Withdrawn():
                self.balances[event.account] -= event.amount
            case events.FeesCollected():
                self.balances[event.recipient] += event.amount
                self.fees[event.provider] -= event.amount
            case events.Relayed():
                self.balances[event.account] -= event.fee
                self.balances[event.relayer] += event.fee
            case events.PurseFunded():
                self.balances[event.owner] -= event.amount
                self.balances[event.purse] += event.amount
            case events.PurseSwept():
                self.balances[event.purse] -= event.amount
                self.balances[event.owner] += event.amount
            case events.Cancelled() | events.PurseCreated() | events.PurseExpiryMoved():
                pass
            case events.Opened():
                self.leases[event.lease_no] = _opened(event)
                self.balances[event.buyer] -= event.locked
                self.capacity[event.provider, event.node] += event.gpu_milli
            case events.Settled():
                for number in {entry.lease_no for entry in event.entries}:
                    self._move(number, event)
            case _:
                self._move(event.lease_no, event)

    def _move(self, number: bytes, event: ChainEvent) -> None:
        before = self.leases[number]
        now = self.leases[number] = after(before, event)
        gross = now.released(self.params) - before.released(self.params)
        fee = now.fees(self.params) - before.fees(self.params)
        self.balances[now.provider] += gross - fee
        self.fees[now.provider] += fee
        match event:
            case events.ToppedUp():
                self.balances[now.buyer] -= event.locked
            case events.Stopped():
                self.balances[now.buyer] += event.unlocked
            case events.Closed():
                self.balances[now.buyer] += event.refunded
        if before.status is LeaseStatus.ACTIVE and now.status is not LeaseStatus.ACTIVE:
            self.capacity[now.provider, now.node] -= now.gpu_milli

    def held(self) -> int:
        """Atoms that the escrow must hold: free balances, uncollected fees and locks."""
        in_leases = sum(lease.locked(self.params) for lease in self.leases.values())
        return self.balances.total() + self.fees.total() + in_leases


def replay(history: Iterable[ChainEvent], params: Params) -> EscrowState:
    """The escrow's books after all of its events in chain order."""
    state = EscrowState(params)
    for event in history:
        state.take(event)
    return state
