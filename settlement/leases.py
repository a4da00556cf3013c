"""The escrow's books, rebuilt from its events by a pure fold. After a reorg, fold again.

Every amount equals the contract's storage to the atom. Source: `ComputeEscrow` in contracts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

from settlement import units
from settlement.events import (
    ChainEvent,
    Closed,
    ClosedCounted,
    Deposited,
    FeesCollected,
    LeaseEvent,
    Opened,
    OpenedCounted,
    OpenedSeat,
    OrderCancelled,
    Settled,
    SettledEntry,
    SettledMetered,
    Stopped,
    ToppedUp,
    Withdrawn,
)


class LeaseStatus(IntEnum):
    """A lease's status, numbered as in the contract."""

    NONE = 0
    ACTIVE = 1
    STOPPED = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True)
class OrderState:
    """Whether a bid of this salt has opened, and whether the order is cancelled."""

    used: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Params:
    """A deployment's fixed terms: the token's decimals and the fee in basis points."""

    decimals: int = 18
    fee_bps: int = 0


@dataclass(frozen=True, slots=True)
class ChainLease:
    """One lease on chain.

    `end` is chain time and `funded` a duration, both in seconds. `rate` is in 1e-12 token per hour.
    `refunded` atoms went back to the buyer when the lease closed.
    """

    lease_no: bytes
    buyer: str
    provider: str
    witness: str
    meter: str
    bid_hash: bytes
    ask_hash: bytes
    rate: int
    gpu_milli: int
    node: int
    end: int
    funded: int
    bid_salt: int
    status: LeaseStatus = LeaseStatus.ACTIVE
    used_ms: int = 0
    egress_gib: int = 0
    unit: int = 0
    egress_cap_mib: int = 0
    units_cap: int = 0
    egress_mib: int = 0
    units: int = 0
    refunded: int = 0
    seat: int = 0

    @property
    def start(self) -> int:
        """Chain time when it opened, in seconds."""
        return self.end - self.funded

    @property
    def metered(self) -> bool:
        """Whether it sells counted resources."""
        return self.egress_cap_mib > 0 or self.units_cap > 0

    def elapsed_ms(self, now: int) -> int:
        """The most usage that the chain accepts at chain time `now`. It pays at most `funded`."""
        return max(0, now - self.start) * 1000

    def released(self, params: Params) -> int:
        """Gross atoms paid so far, including the fee."""
        return self.time_paid(params) + self.counted_paid(params)

    @property
    def is_open(self) -> bool:
        """Whether usage can still be paid."""
        return self.status in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED)

    def time_paid(self, params: Params) -> int:
        """Gross atoms paid for time."""
        return units.cost(self.rate, self.used_ms, params.decimals)

    def counted_paid(self, params: Params) -> int:
        """Gross atoms paid for egress and units."""
        return units.counted_cost(
            self.egress_gib, self.unit, self.egress_mib, self.units, params.decimals
        )

    def fees(self, params: Params) -> int:
        """The fee inside `released`: its parts for time and counted resources each round down."""
        time = units.fee_of(self.time_paid(params), params.fee_bps)
        return time + units.fee_of(self.counted_paid(params), params.fee_bps)

    def locked(self, params: Params) -> int:
        """Atoms still locked for this lease."""
        return self.most_released(params) - self.released(params)

    def most_released(self, params: Params) -> int:
        """The most gross atoms that it may release over its whole life."""
        return self.lock(params) if self.is_open else self.released(params)

    def lock(self, params: Params) -> int:
        """Atoms that its current terms lock in total, paid or not."""
        time = units.time_lock(self.rate, self.funded, params.decimals)
        return time + units.counted_lock(
            self.egress_gib, self.unit, self.egress_cap_mib, self.units_cap, params.decimals
        )


def opened(event: Opened) -> ChainLease:
    """The lease that an Opened event describes."""
    terms = {f.name: getattr(event, f.name) for f in fields(event) if f.name != "locked"}
    return ChainLease(**terms)


def apply(lease: ChainLease, event: ChainEvent) -> ChainLease:
    """The lease after one more event. Events of other leases change nothing."""
    if isinstance(event, Settled):
        for entry in event.entries:
            if entry.lease_no == lease.lease_no:
                lease = _settled(lease, entry, isinstance(event, SettledMetered))
        return lease
    if isinstance(event, LeaseEvent) and event.lease_no == lease.lease_no:
        return _changed(lease, event)
    return lease


def _changed(lease: ChainLease, event: LeaseEvent) -> ChainLease:
    match event:
        case OpenedSeat():
            return replace(lease, seat=event.seat)
        case OpenedCounted():
            return replace(
                lease,
                egress_gib=event.egress_gib,
                unit=event.unit,
                egress_cap_mib=event.egress_cap_mib,
                units_cap=event.units_cap,
            )
        case ToppedUp():
            return _ending(lease, event.end)
        case Stopped():
            return replace(_ending(lease, event.end), status=LeaseStatus.STOPPED)
        case ClosedCounted():
            return replace(lease, egress_mib=event.egress_mib, units=event.units)
        case Closed():
            return replace(
                lease, status=LeaseStatus.CLOSED, used_ms=event.ms, refunded=event.refunded
            )
    return lease


def _ending(lease: ChainLease, end: int) -> ChainLease:
    """The lease with another end but the same start."""
    return replace(lease, end=end, funded=end - lease.start)


def fold(events: Iterable[ChainEvent]) -> ChainLease | None:
    """One lease after all of its events in chain order; None without an Opened event."""
    lease: ChainLease | None = None
    for event in events:
        if isinstance(event, Opened):
            lease = opened(event)
        elif lease is not None:
            lease = apply(lease, event)
    return lease


Seat = tuple[bytes, int]
"""A bid's hash and the number of one of its nodes, from 0."""


@dataclass(slots=True)
class EscrowState:
    """The whole escrow: leases by number, free balances, uncollected fees, capacity in use.

    `used_orders` and `cancelled_orders` hold (account, salt) pairs; `orders_from` is the lowest
    salt that an account's orders may still have. `seats` holds each seat's latest lease and the
    most that its earlier leases may cost, for the seats of which the escrow keeps a record.
    """

    params: Params
    leases: dict[bytes, ChainLease] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    fees: dict[str, int] = field(default_factory=dict)
    capacity: dict[tuple[str, int], int] = field(default_factory=dict)
    used_orders: set[tuple[str, int]] = field(default_factory=set)
    cancelled_orders: set[tuple[str, int]] = field(default_factory=set)
    orders_from: dict[str, int] = field(default_factory=dict)
    seats: dict[Seat, tuple[bytes, int]] = field(default_factory=dict)
    _latest: dict[Seat, bytes] = field(default_factory=dict)
    _unseated: tuple[bytes | None, tuple[bytes, int] | None] = (None, None)

    def take(self, event: ChainEvent) -> None:
        """Apply the next event in chain order."""
        match event:
            case Deposited():
                self._credit(event.account, event.amount)
            case Withdrawn():
                self._credit(event.account, -event.amount)
            case FeesCollected():
                self._credit(event.recipient, event.amount)
                self.fees[event.provider] -= event.amount
            case OrderCancelled():
                self._cancel(event)
            case Opened():
                self._open(event)
            case Settled():
                for number in {entry.lease_no for entry in event.entries}:
                    self._move(number, event)
            case _:
                self._move(event.lease_no, event)

    def held(self) -> int:
        """Atoms that the escrow must hold: free balances, uncollected fees and locks."""
        in_leases = sum(lease.locked(self.params) for lease in self.leases.values())
        return sum(self.balances.values()) + sum(self.fees.values()) + in_leases

    def _cancel(self, event: OrderCancelled) -> None:
        if event.and_older:
            lowest = max(self.orders_from.get(event.account, 0), event.salt + 1)
            self.orders_from[event.account] = lowest
        else:
            self.cancelled_orders.add((event.account, event.salt))

    def _open(self, event: Opened) -> None:
        self.used_orders.add((event.buyer, event.bid_salt))
        seat = (event.bid_hash, 0)
        self._unseated = self._latest.get(seat), self.seats.get(seat)
        self._sit(seat, event.lease_no, several=False)
        self.leases[event.lease_no] = opened(event)
        self._credit(event.buyer, -event.locked)
        place = (event.provider, event.node)
        self.capacity[place] = self.capacity.get(place, 0) + event.gpu_milli

    def _reseat(self, event: OpenedSeat) -> None:
        """Move the lease just opened from seat 0, where `_open` put it, to its real seat."""
        seat, (latest, record) = (event.bid_hash, 0), self._unseated
        self._latest.pop(seat)
        self.seats.pop(seat, None)
        if latest is not None:
            self._latest[seat] = latest
        if record is not None:
            self.seats[seat] = record
        self._sit((event.bid_hash, event.seat), event.lease_no, several=True)

    def _sit(self, seat: Seat, number: bytes, several: bool) -> None:
        """Note a seat's latest lease. The first has a record only if the bid has `several`."""
        before = self._latest.get(seat)
        if before is not None:
            earlier = self.seats.get(seat, (b"", 0))[1]
            spent = self.leases[before].most_released(self.params)
            self.seats[seat] = (number, earlier + spent)
        elif several:
            self.seats[seat] = (number, 0)
        self._latest[seat] = number

    def _move(self, number: bytes, event: ChainEvent) -> None:
        before = self.leases[number]
        after = apply(before, event)
        gross = after.released(self.params) - before.released(self.params)
        fee = after.fees(self.params) - before.fees(self.params)
        self._credit(after.provider, gross - fee)
        self.fees[after.provider] = self.fees.get(after.provider, 0) + fee
        match event:
            case OpenedSeat():
                self._reseat(event)
            case ToppedUp():
                self._credit(after.buyer, -event.locked)
            case Stopped():
                self._credit(after.buyer, event.unlocked)
            case Closed():
                self._credit(after.buyer, event.refunded)
        if before.is_open and not after.is_open:
            self.capacity[(after.provider, after.node)] -= after.gpu_milli
        self.leases[number] = after

    def _credit(self, account: str, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount


def replay(events: Iterable[ChainEvent], params: Params) -> EscrowState:
    """The escrow's storage after all of its events in chain order."""
    state = EscrowState(params)
    for event in events:
        state.take(event)
    return state


def _settled(lease: ChainLease, entry: SettledEntry, metered: bool) -> ChainLease:
    if not metered:
        return replace(lease, used_ms=entry.ms)
    return replace(lease, used_ms=entry.ms, egress_mib=entry.egress_mib, units=entry.units)
