"""What is done to a book, and what it answers. Commands carry the time in Unix seconds."""

from dataclasses import dataclass
from enum import StrEnum

from marketplace.domain.matching import Fill, RejectReason
from marketplace.domain.order import NodeFacts, RestingAsk, RestingBid


@dataclass(frozen=True, slots=True)
class AddAsk:
    """A provider's ask enters."""

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
    """A resting bid leaves."""

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
class Tick:
    """Time passes: orders expire, asks start."""

    at: int


Command = AddAsk | CancelAsk | AddBid | CancelBid | Free | SetNode | Tick


@dataclass(frozen=True, slots=True)
class Filled:
    """A bid was matched and has left the book."""

    fill: Fill


@dataclass(frozen=True, slots=True)
class Rested:
    """An order is in the book."""

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
