"""The escrow's events as values. Mirrors the events of `IComputeEscrow`.

In JSON (`event_to_json`, `event_from_json`) bytes are 0x hex, and integers of 2^53 or more are
decimal strings.
"""

from dataclasses import dataclass, fields
from typing import Any, get_args

from settlement.errors import FieldError


@dataclass(frozen=True, slots=True)
class Deposited:
    """The free balance of `account` grew by `amount` atoms that came in."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """`amount` atoms of `account`'s free balance went out to the address `to`."""

    account: str
    to: str
    amount: int


@dataclass(frozen=True, slots=True)
class OpeningTerms:
    """What a lease opens with.

    `rate` is in 1e-12 token/h, `end` is chain time in seconds, `funded` is in seconds, of which
    `start_seconds` only make up for a late start, and `bid_salt` is the salt of the buyer's bid.
    """

    lease_no: bytes
    buyer: str
    provider: str
    witness: str
    meter: str
    bid_hash: bytes
    ask_hash: bytes
    prices_hash: bytes
    rate: int
    gpu_milli: int
    node: int
    seat: int
    end: int
    funded: int
    start_seconds: int
    bid_salt: int


@dataclass(frozen=True, slots=True)
class Opened(OpeningTerms):
    """A lease opened: its terms are fixed, and `locked` atoms left the buyer's free balance."""

    locked: int


@dataclass(frozen=True, slots=True)
class OpenedCounted:
    """The lease also sells counted resources: prices in 1e-9 token, caps in MiB and units."""

    lease_no: bytes
    egress_gib: int
    unit: int
    egress_cap_mib: int
    units_cap: int


@dataclass(frozen=True, slots=True)
class SettledEntry:
    """The cumulative usage of one paid voucher. Only a metered settlement counts MiB and units."""

    lease_no: bytes
    ms: int
    egress_mib: int = 0
    units: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """Vouchers for time were paid to one provider."""

    provider: str
    entries: tuple[SettledEntry, ...]


@dataclass(frozen=True, slots=True)
class SettledMetered(Settled):
    """Vouchers for time and counted resources were paid to one provider."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The lease now ends at `end` (chain time, s); `unlocked` atoms went back to the buyer."""

    lease_no: bytes
    buyer: str
    provider: str
    end: int
    unlocked: int


@dataclass(frozen=True, slots=True)
class ClosedCounted:
    """A closing lease's final use of counted resources. Its Closed event follows."""

    lease_no: bytes
    egress_mib: int
    units: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The lease closed. `released` is gross over its whole life, `refunded` what went back now."""

    lease_no: bytes
    buyer: str
    provider: str
    ms: int
    released: int
    refunded: int


@dataclass(frozen=True, slots=True)
class MarkedAgain:
    """The seat of the lease's bid may open once more: the buyer's side said so."""

    lease_no: bytes
    buyer: str
    provider: str


@dataclass(frozen=True, slots=True)
class ToppedUp:
    """The lease now ends later, at `end`; `locked` more atoms left the buyer's free balance."""

    lease_no: bytes
    buyer: str
    provider: str
    end: int
    locked: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The account's order or signed call of this salt is void; with `and_older` also lower ones."""

    account: str
    kind: int
    salt: int
    and_older: bool


@dataclass(frozen=True, slots=True)
class Relayed:
    """`relayer` sent a call that the account signed, and got `fee` atoms of its free balance."""

    account: str
    relayer: str
    salt: int
    fee: int


@dataclass(frozen=True, slots=True)
class PurseCreated:
    """`operator` may sign bids for `purse` until `expiry` (chain time, seconds)."""

    purse: str
    owner: str
    operator: str
    salt: int
    expiry: int


@dataclass(frozen=True, slots=True)
class PurseExpiryMoved:
    """The purse's expiry is now `expiry`, earlier than before."""

    purse: str
    expiry: int


@dataclass(frozen=True, slots=True)
class PurseFunded:
    """`amount` atoms moved from the owner's free balance to the purse's."""

    purse: str
    owner: str
    amount: int


@dataclass(frozen=True, slots=True)
class PurseSwept:
    """`amount` atoms moved from the purse's free balance to the owner's."""

    purse: str
    owner: str
    amount: int


@dataclass(frozen=True, slots=True)
class FeesCollected:
    """Fees kept back from a provider's income went to the recipient's free balance."""

    provider: str
    recipient: str
    amount: int


LeaseEvent = Opened | OpenedCounted | ToppedUp | Stopped | ClosedCounted | Closed | MarkedAgain
"""The events that each concern one lease."""
PurseEvent = PurseCreated | PurseExpiryMoved | PurseFunded | PurseSwept
ChainEvent = (
    LeaseEvent
    | PurseEvent
    | Settled
    | SettledMetered
    | Deposited
    | Withdrawn
    | Relayed
    | Cancelled
    | FeesCollected
)
KINDS: dict[str, type[ChainEvent]] = {kind.__name__: kind for kind in get_args(ChainEvent)}


def lease_numbers(event: ChainEvent) -> tuple[bytes, ...]:
    """The leases that an event concerns, in the event's order."""
    if isinstance(event, Settled):
        return tuple(entry.lease_no for entry in event.entries)
    return (event.lease_no,) if isinstance(event, LeaseEvent) else ()


def event_to_json(event: ChainEvent | SettledEntry) -> dict[str, Any]:
    """The event's fields as JSON, without its name."""
    return {f.name: _to_json(getattr(event, f.name)) for f in fields(event)}


def event_from_json(name: str, document: dict[str, Any]) -> ChainEvent:
    """Inverse of `event_to_json`. Raises FieldError on an unknown event or a missing field."""
    if name not in KINDS:
        raise FieldError("/name", f"{name!r} is not an event of the escrow")
    try:
        event: ChainEvent = _parsed(KINDS[name], document)
    except KeyError as error:
        raise FieldError(f"/{error.args[0]}", "missing") from None
    return event


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple):
        return [event_to_json(entry) for entry in value]
    return str(value) if isinstance(value, int) and value >= 1 << 53 else value


def _parsed(kind: Any, document: dict[str, Any]) -> Any:
    return kind(**{f.name: _from_json(f.type, document[f.name]) for f in fields(kind)})


def _from_json(kind: Any, value: Any) -> Any:
    if kind is int:
        return int(value)
    if kind is bytes:
        return bytes.fromhex(value[2:])
    return tuple(_parsed(SettledEntry, v) for v in value) if isinstance(value, list) else value
