"""What the escrow stores of orders, seats and purses, replayed from its events."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from settlement.chain.contracts import Purse
from settlement.events import (
    Cancelled,
    ChainEvent,
    Opened,
    PurseCreated,
    PurseExpiryMoved,
    Relayed,
)
from settlement.leases import EscrowState, Params
from settlement.orders import Numbered

Seat = tuple[bytes, int]
"""A bid's hash and the number of one of its nodes, from 0."""
Salt = tuple[str, int, int]
"""An account, what it numbers (`Numbered`), and the number."""


@dataclass(slots=True)
class EscrowOrders(EscrowState):
    """The escrow's books with its orders, signed calls and purses.

    `lowest` is the lowest salt that an account may still use. `seats` holds each seat's latest
    lease and the most that its earlier leases may cost; the escrow keeps no record of the first
    lease of a bid for one node.
    """

    used: set[Salt] = field(default_factory=set)
    cancelled: set[Salt] = field(default_factory=set)
    lowest: dict[tuple[str, int], int] = field(default_factory=dict)
    seats: dict[Seat, tuple[bytes, int]] = field(default_factory=dict)
    purses: dict[str, Purse] = field(default_factory=dict)

    def take(self, event: ChainEvent) -> None:
        match event:
            case Opened():
                self.used.add((event.buyer, Numbered.ORDERS, event.bid_salt))
                self._sit((event.bid_hash, event.seat), event.lease_no)
            case Relayed():
                self.used.add((event.account, Numbered.CALLS, event.salt))
            case Cancelled(and_older=True):
                place = (event.account, event.kind)
                self.lowest[place] = max(self.lowest.get(place, 0), event.salt + 1)
            case Cancelled():
                self.cancelled.add((event.account, event.kind, event.salt))
            case PurseCreated():
                self.purses[event.purse] = Purse(event.owner, event.expiry, event.operator)
            case PurseExpiryMoved():
                purse = self.purses[event.purse]
                self.purses[event.purse] = replace(purse, expiry=event.expiry)
        EscrowState.take(self, event)

    def _sit(self, seat: Seat, number: bytes) -> None:
        """Note a seat's latest lease."""
        before, earlier = self.seats.get(seat, (b"", 0))
        if before:
            earlier += self.leases[before].most_released(self.params)
        self.seats[seat] = (number, earlier)


def replay_orders(events: Iterable[ChainEvent], params: Params) -> EscrowOrders:
    """The escrow's storage after all of its events in chain order."""
    state = EscrowOrders(params)
    for event in events:
        state.take(event)
    return state
