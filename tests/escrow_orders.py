"""What the escrow stores of orders and seats, replayed from its events."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from settlement.events import ChainEvent, Opened, OpenedCounted, OpenedSeat, OrderCancelled
from settlement.leases import EscrowState, Params

Seat = tuple[bytes, int]
"""A bid's hash and the number of one of its nodes, from 0."""


@dataclass(slots=True)
class EscrowOrders(EscrowState):
    """The escrow's books with its orders.

    `used` and `cancelled` hold (account, salt) pairs; `lowest` is the lowest salt that an account's
    orders may still have. `seats` holds each seat's latest lease and the most that its earlier
    leases may cost, for the seats of which the escrow keeps a record.
    """

    used: set[tuple[str, int]] = field(default_factory=set)
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    lowest: dict[str, int] = field(default_factory=dict)
    seats: dict[Seat, tuple[bytes, int]] = field(default_factory=dict)
    _latest: dict[Seat, bytes] = field(default_factory=dict)
    _opening: Opened | None = None

    def take(self, event: ChainEvent) -> None:
        if isinstance(event, OpenedSeat):  # follows its Opened
            self._opening = None
            self._sit((event.bid_hash, event.seat), event.lease_no, several=True)
        elif not isinstance(event, OpenedCounted):
            self.sit_down()
        if isinstance(event, Opened):
            self.used.add((event.buyer, event.bid_salt))
            self._opening = event
        if isinstance(event, OrderCancelled) and event.and_older:
            lowest = max(self.lowest.get(event.account, 0), event.salt + 1)
            self.lowest[event.account] = lowest
        elif isinstance(event, OrderCancelled):
            self.cancelled.add((event.account, event.salt))
        EscrowState.take(self, event)

    def sit_down(self) -> None:
        """A lease whose Opened no OpenedSeat followed sits in seat 0."""
        if self._opening is not None:
            self._sit((self._opening.bid_hash, 0), self._opening.lease_no, several=False)
            self._opening = None

    def _sit(self, seat: Seat, number: bytes, several: bool) -> None:
        """Note a seat's latest lease. The first has a record only if the bid has `several`."""
        before = self._latest.get(seat)
        if before is not None:
            earlier = self.seats.get(seat, (b"", 0))[1]
            self.seats[seat] = (number, earlier + self.leases[before].most_released(self.params))
        elif several:
            self.seats[seat] = (number, 0)
        self._latest[seat] = number


def replay_orders(events: Iterable[ChainEvent], params: Params) -> EscrowOrders:
    """The escrow's storage after all of its events in chain order."""
    state = EscrowOrders(params)
    for event in events:
        state.take(event)
    state.sit_down()
    return state
