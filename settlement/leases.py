"""The escrow's books rebuilt from its events: a pure fold, so a reorg is to drop events and refold.

Every amount equals the contract's storage to the atom. Source: `ComputeEscrow` in contracts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from settlement import units
from settlement.events import (
    ChainEvent,
    Closed,
    Deposited,
    FeesCollected,
    Opened,
    OpenedCounted,
    Settled,
    SettledEntry,
    SettledMetered,
    Stopped,
    Withdrawn,
)


class LeaseStatus(IntEnum):
    """State of a lease, numbered as in the contract's slot."""

    NONE = 0
    ACTIVE = 1
    STOPPED = 2
    CLAIMED = 3
    CONTESTED = 4
    CLOSED = 5


@dataclass(frozen=True, slots=True)
class Params:
    """What one deployment fixed for good: token decimals and the fee in basis points."""

    decimals: int = 18
    fee_bps: int = 0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """One lease as the chain has it. `end` is chain time; seconds, ms and atoms as named."""

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
    min_charge_seconds: int
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

    @property
    def start(self) -> int:
        """Chain time at which it opened."""
        return self.end - self.funded

    @property
    def metered(self) -> bool:
        """Whether it sells counted resources."""
        return self.egress_cap_mib > 0 or self.units_cap > 0

    def elapsed_ms(self, now: int) -> int:
        """The most usage the chain accepts at chain time `now`; it pays up to `funded`."""
        return max(0, now - self.start) * 1000

    def released(self, params: Params) -> int:
        """Gross atoms paid so far, the fee included."""
        return self.time_paid(params) + self.counted_paid(params)

    def time_paid(self, params: Params) -> int:
        """Gross atoms paid for time."""
        return units.time_cost(self.rate, self.used_ms, self.min_charge_seconds, params.decimals)

    def counted_paid(self, params: Params) -> int:
        """Gross atoms paid for egress and units."""
        return units.counted_cost(
            self.egress_gib, self.unit, self.egress_mib, self.units, params.decimals
        )

    def fees(self, params: Params) -> int:
        """The fee inside `released`: rounded down on time and on counted separately."""
        time = units.fee_of(self.time_paid(params), params.fee_bps)
        return time + units.fee_of(self.counted_paid(params), params.fee_bps)

    def locked(self, params: Params) -> int:
        """Atoms still held for this lease: its locks less what was paid; zero once closed."""
        if self.status is LeaseStatus.CLOSED:
            return 0
        return self.lock(params) - self.released(params)

    def lock(self, params: Params) -> int:
        """Atoms its present terms lock in all, paid or not."""
        time = units.time_lock(self.rate, self.funded, self.min_charge_seconds, params.decimals)
        return time + units.counted_lock(
            self.egress_gib, self.unit, self.egress_cap_mib, self.units_cap, params.decimals
        )


def opened(event: Opened) -> LeaseState:
    """The lease that an Opened event begins."""
    return LeaseState(
        lease_no=event.lease_no,
        buyer=event.buyer,
        provider=event.provider,
        witness=event.witness,
        meter=event.meter,
        bid_hash=event.bid_hash,
        ask_hash=event.ask_hash,
        rate=event.rate,
        gpu_milli=event.gpu_milli,
        node=event.node,
        end=event.end,
        funded=event.funded,
        min_charge_seconds=event.min_charge_seconds,
        bid_salt=event.bid_salt,
    )


def apply(lease: LeaseState, event: ChainEvent) -> LeaseState:
    """The lease after one more of its events; others leave it as it is."""
    if isinstance(event, Settled | SettledMetered):
        for entry in event.entries:
            if entry.lease_no == lease.lease_no:
                lease = _settled(lease, entry, isinstance(event, SettledMetered))
        return lease
    if isinstance(event, OpenedCounted) and event.lease_no == lease.lease_no:
        return replace(
            lease,
            egress_gib=event.egress_gib,
            unit=event.unit,
            egress_cap_mib=event.egress_cap_mib,
            units_cap=event.units_cap,
        )
    if isinstance(event, Stopped) and event.lease_no == lease.lease_no:
        start = lease.start
        return replace(lease, status=LeaseStatus.STOPPED, end=event.end, funded=event.end - start)
    if isinstance(event, Closed) and event.lease_no == lease.lease_no:
        return replace(
            lease,
            status=LeaseStatus.CLOSED,
            used_ms=event.ms,
            egress_mib=event.egress_mib,
            units=event.units,
            refunded=event.refunded,
        )
    return lease


def fold(events: Iterable[ChainEvent]) -> LeaseState | None:
    """One lease from all of its events in chain order; None without an Opened."""
    lease: LeaseState | None = None
    for event in events:
        if isinstance(event, Opened):
            lease = opened(event)
        elif lease is not None:
            lease = apply(lease, event)
    return lease


@dataclass(slots=True)
class EscrowState:
    """The whole escrow: leases by number, free balances, fees not yet collected, capacity in use,
    nonce bits flipped, and of each bid with several leases the latest and what came before it."""

    params: Params
    leases: dict[bytes, LeaseState] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    fees: dict[str, int] = field(default_factory=dict)
    capacity: dict[tuple[str, int], int] = field(default_factory=dict)
    nonces: set[tuple[str, int]] = field(default_factory=set)
    bids: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    _latest: dict[bytes, bytes] = field(default_factory=dict)

    def take(self, event: ChainEvent) -> None:
        """Move on by one event, in chain order."""
        if isinstance(event, Deposited):
            self._credit(event.account, event.amount)
        elif isinstance(event, Withdrawn):
            self._credit(event.account, -event.amount)
        elif isinstance(event, FeesCollected):
            self._credit(event.recipient, event.amount)
            self.fees[event.provider] -= event.amount
        elif isinstance(event, Opened):
            self._open(event)
        elif isinstance(event, Settled | SettledMetered):
            for number in {entry.lease_no for entry in event.entries}:
                self._move(number, event)
        else:
            self._move(event.lease_no, event)

    def held(self) -> int:
        """Atoms the escrow must hold: free balances, uncollected fees and locks."""
        locked = sum(lease.locked(self.params) for lease in self.leases.values())
        return sum(self.balances.values()) + sum(self.fees.values()) + locked

    def _open(self, event: Opened) -> None:
        before = self._latest.get(event.bid_hash)
        if before is None:
            self.nonces.add((event.buyer, event.bid_salt))
        else:
            last = self.leases[before]
            closed = last.status is LeaseStatus.CLOSED
            spent = last.released(self.params) if closed else last.lock(self.params)
            earlier = self.bids.get(event.bid_hash, (b"", 0))[1]
            self.bids[event.bid_hash] = (event.lease_no, earlier + spent)
        self._latest[event.bid_hash] = event.lease_no
        self.leases[event.lease_no] = opened(event)
        self._credit(event.buyer, -event.locked)
        place = (event.provider, event.node)
        self.capacity[place] = self.capacity.get(place, 0) + event.gpu_milli

    def _move(self, number: bytes, event: ChainEvent) -> None:
        before = self.leases[number]
        after = apply(before, event)
        gross = after.released(self.params) - before.released(self.params)
        fee = after.fees(self.params) - before.fees(self.params)
        self._credit(after.provider, gross - fee)
        self.fees[after.provider] = self.fees.get(after.provider, 0) + fee
        if isinstance(event, Stopped):
            self._credit(after.buyer, event.unlocked)
        if isinstance(event, Closed):
            self._credit(after.buyer, event.refunded)
            self.capacity[(after.provider, after.node)] -= after.gpu_milli
        self.leases[number] = after

    def _credit(self, account: str, amount: int) -> None:
        self.balances[account] = self.balances.get(account, 0) + amount


def replay(events: Iterable[ChainEvent], params: Params) -> EscrowState:
    """The escrow's storage from all of its events in chain order."""
    state = EscrowState(params)
    for event in events:
        state.take(event)
    return state


def _settled(lease: LeaseState, entry: SettledEntry, metered: bool) -> LeaseState:
    if not metered:
        return replace(lease, used_ms=entry.ms)
    return replace(lease, used_ms=entry.ms, egress_mib=entry.egress_mib, units=entry.units)
