"""What the escrow says happened, as values. Mirrors the events of `IComputeEscrow`.

`to_json` / `event_from_json` carry an event through a database: bytes as 0x hex, integers above
2^53 as decimal strings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args

from settlement.errors import FieldError


@dataclass(frozen=True, slots=True)
class Deposited:
    """Tokens came in: `account`'s free balance grew by `amount` atoms."""

    name: ClassVar[str] = "Deposited"
    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Tokens went out of `account`'s free balance to the address `to`."""

    name: ClassVar[str] = "Withdrawn"
    account: str
    to: str
    amount: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A lease began: its terms are frozen and `locked` atoms left the buyer's free balance.

    `rate` is 1e-12 token/h, `end` chain time in seconds, `funded` seconds; `bid_salt` is the bid's
    number at its buyer.
    """

    name: ClassVar[str] = "Opened"
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
    locked: int
    bid_salt: int


@dataclass(frozen=True, slots=True)
class OpenedCounted:
    """The lease also sells counted resources: prices in 1e-9 token, caps in MiB and units."""

    name: ClassVar[str] = "OpenedCounted"
    lease_no: bytes
    egress_gib: int
    unit: int
    egress_cap_mib: int
    units_cap: int


@dataclass(frozen=True, slots=True)
class SettledEntry:
    """One voucher that was paid: cumulative figures. Counted ones are zero in a plain settle."""

    lease_no: bytes
    ms: int
    egress_mib: int = 0
    units: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """Vouchers for time were paid to one provider."""

    name: ClassVar[str] = "Settled"
    provider: str
    entries: tuple[SettledEntry, ...]


@dataclass(frozen=True, slots=True)
class SettledMetered:
    """Vouchers for time and counted resources were paid to one provider."""

    name: ClassVar[str] = "SettledMetered"
    provider: str
    entries: tuple[SettledEntry, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The lease ends at `end` (chain time, seconds); `unlocked` atoms went back to the buyer."""

    name: ClassVar[str] = "Stopped"
    lease_no: bytes
    buyer: str
    provider: str
    end: int
    unlocked: int


@dataclass(frozen=True, slots=True)
class ClosedCounted:
    """What of its counted resources a lease has used in the end; its Closed follows."""

    name: ClassVar[str] = "ClosedCounted"
    lease_no: bytes
    egress_mib: int
    units: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The lease is over. `released` is gross over its whole life, `refunded` what went back now."""

    name: ClassVar[str] = "Closed"
    lease_no: bytes
    buyer: str
    provider: str
    ms: int
    released: int
    refunded: int


@dataclass(frozen=True, slots=True)
class OpenedSeat:
    """The lease just opened is one of several nodes of a bid: which one, from 0."""

    name: ClassVar[str] = "OpenedSeat"
    lease_no: bytes
    bid_hash: bytes
    seat: int


@dataclass(frozen=True, slots=True)
class ToppedUp:
    """The lease ends later, at `end`; `locked` atoms more left the buyer's free balance."""

    name: ClassVar[str] = "ToppedUp"
    lease_no: bytes
    buyer: str
    provider: str
    end: int
    locked: int


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """The account's order of this salt is void; with `and_older` all of lower salts are, too."""

    name: ClassVar[str] = "OrderCancelled"
    account: str
    salt: int
    and_older: bool


@dataclass(frozen=True, slots=True)
class FeesCollected:
    """Fees held on a provider's income went to the recipient's free balance."""

    name: ClassVar[str] = "FeesCollected"
    provider: str
    recipient: str
    amount: int


LeaseEvent = Opened | OpenedSeat | OpenedCounted | ToppedUp | Stopped | ClosedCounted | Closed
"""Events of one lease each."""
ChainEvent = (
    LeaseEvent | Settled | SettledMetered | Deposited | Withdrawn | OrderCancelled | FeesCollected
)
KINDS: dict[str, type[ChainEvent]] = {kind.name: kind for kind in get_args(ChainEvent)}


def lease_numbers(event: ChainEvent) -> tuple[bytes, ...]:
    """The leases an event touches, in its own order."""
    if isinstance(event, Settled | SettledMetered):
        return tuple(entry.lease_no for entry in event.entries)
    if isinstance(event, LeaseEvent):
        return (event.lease_no,)
    return ()


def event_to_json(event: ChainEvent) -> dict[str, Any]:
    """The event's fields as JSON; its name travels beside them."""
    return {f.name: _to_json(getattr(event, f.name)) for f in fields(event)}


def event_from_json(name: str, document: dict[str, Any]) -> ChainEvent:
    """Inverse of `event_to_json`. Raises FieldError on an unknown event or a missing field."""
    if name not in KINDS:
        raise FieldError("/name", f"{name!r} is no event of the escrow")
    kind = KINDS[name]
    try:
        values = {f.name: _from_json(str(f.type), document[f.name]) for f in fields(kind)}
    except KeyError as error:
        raise FieldError(f"/{error.args[0]}", "missing") from None
    return kind(**values)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple):
        return [{f.name: _to_json(getattr(v, f.name)) for f in fields(v)} for v in value]
    return str(value) if isinstance(value, int) and value >= 1 << 53 else value


def _from_json(kind: str, value: Any) -> Any:
    if kind == "int":
        return int(value)
    if kind == "bytes":
        return bytes.fromhex(value[2:])
    if kind.startswith("tuple"):
        return tuple(
            SettledEntry(
                **{f.name: _from_json(str(f.type), v[f.name]) for f in fields(SettledEntry)}
            )
            for v in value
        )
    return value
