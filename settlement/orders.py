"""The signed orders: a provider's Ask, its Quote, a buyer's Bid, what a pair of them binds, and
the Cancel that makes them void.

Mirrors `IComputeEscrow` field by field; see `settlement.units` for the units of every number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from settlement import units as arithmetic
from settlement.eip712 import Struct, from_text32
from settlement.hashing import keccak

FLAG_SHARED = 1  # ask: fractions of a GPU are sold; bid: a fraction is accepted


@dataclass(frozen=True, slots=True)
class Prices(Struct):
    """Prices in 1e-9 token: per hour for timed resources, per GiB of egress, per unit."""

    primary: ClassVar[str] = "Prices"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("uint64", "gpuHour"),
        ("uint64", "cpuHour"),
        ("uint64", "memoryGibHour"),
        ("uint64", "storageGibHour"),
        ("uint64", "egressGib"),
        ("uint64", "unit"),
    )

    gpu_hour: int
    cpu_hour: int = 0
    memory_gib_hour: int = 0
    storage_gib_hour: int = 0
    egress_gib: int = 0
    unit: int = 0

    def timed(self) -> arithmetic.TimedPrices:
        """The prices that add up to a rate."""
        return arithmetic.TimedPrices(
            self.gpu_hour, self.cpu_hour, self.memory_gib_hour, self.storage_gib_hour
        )


@dataclass(frozen=True, slots=True)
class TierLimit(Struct):
    """The most a bid pays in one tier: all-in `rate` (1e-12 token/h), egress and unit prices."""

    primary: ClassVar[str] = "TierLimit"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("bytes32", "tier"),
        ("uint64", "rate"),
        ("uint64", "egressGib"),
        ("uint64", "unit"),
    )

    tier: bytes
    rate: int
    egress_gib: int = 0
    unit: int = 0


@dataclass(frozen=True, slots=True)
class Ask(Struct):
    """A provider's signed offer of one node. `floor` are its list prices."""

    primary: ClassVar[str] = "Ask"
    members: ClassVar[dict[str, type[Struct]]] = {"Prices": Prices}
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("address", "provider"),
        ("address", "meter"),
        ("address", "opener"),
        ("uint24", "node"),
        ("bytes32", "tier"),
        ("uint32", "gpuMilli"),
        ("uint32", "cpuMilli"),
        ("uint32", "memoryMib"),
        ("uint32", "storageMib"),
        ("Prices", "floor"),
        ("uint32", "minSeconds"),
        ("uint32", "maxSeconds"),
        ("uint32", "startLimitSeconds"),
        ("bytes32", "unit"),
        ("uint40", "startsAt"),
        ("uint16", "flags"),
        ("uint16", "maxFeeBps"),
        ("uint40", "expiry"),
        ("uint64", "salt"),
    )

    provider: str
    meter: str
    opener: str
    node: int
    tier: bytes
    gpu_milli: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    floor: Prices
    min_seconds: int
    max_seconds: int
    start_limit_seconds: int
    unit: bytes
    starts_at: int
    flags: int
    max_fee_bps: int
    expiry: int
    salt: int

    @property
    def tier_name(self) -> str:
        """The tier as text."""
        return from_text32(self.tier)


@dataclass(frozen=True, slots=True)
class Quote(Struct):
    """Other prices for one ask, not below its floor, signed by its meter key."""

    primary: ClassVar[str] = "Quote"
    members: ClassVar[dict[str, type[Struct]]] = {"Prices": Prices}
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("bytes32", "askHash"),
        ("Prices", "prices"),
        ("uint40", "expiry"),
    )

    ask_hash: bytes
    prices: Prices
    expiry: int


@dataclass(frozen=True, slots=True)
class Bid(Struct):
    """A buyer's signed order for one job: what it needs, the most it pays, who may witness."""

    primary: ClassVar[str] = "Bid"
    members: ClassVar[dict[str, type[Struct]]] = {"TierLimit": TierLimit}
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("address", "buyer"),
        ("address", "witness"),
        ("address", "opener"),
        ("bytes32", "jobHash"),
        ("TierLimit[]", "limits"),
        ("uint32", "gpuMilli"),
        ("uint32", "cpuMilli"),
        ("uint32", "memoryMib"),
        ("uint32", "storageMib"),
        ("uint32", "egressMib"),
        ("uint32", "units"),
        ("bytes32", "unit"),
        ("uint32", "maxSeconds"),
        ("uint128", "budget"),
        ("uint16", "nodes"),
        ("uint16", "flags"),
        ("uint16", "maxFeeBps"),
        ("uint40", "expiry"),
        ("uint64", "salt"),
    )

    buyer: str
    witness: str
    opener: str
    job_hash: bytes
    limits: tuple[TierLimit, ...]
    gpu_milli: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    egress_mib: int
    units: int
    unit: bytes
    max_seconds: int
    budget: int
    nodes: int
    flags: int
    max_fee_bps: int
    expiry: int
    salt: int

    def sizes(self) -> arithmetic.Sizes:
        """What the bid allocates, in the units a rate is built from."""
        return arithmetic.Sizes(self.gpu_milli, self.cpu_milli, self.memory_mib, self.storage_mib)


@dataclass(frozen=True, slots=True)
class Cancel(Struct):
    """Makes the account's order of this salt void, bid or ask; `and_older`: lower salts, too."""

    primary: ClassVar[str] = "Cancel"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("address", "account"),
        ("uint64", "salt"),
        ("bool", "andOlder"),
    )

    account: str
    salt: int
    and_older: bool


def orders_hash(bid_hash: bytes, ask_hash: bytes) -> bytes:
    """Both orders of a lease in one word. Source: `Orders.pairHash` in contracts."""
    return keccak(bid_hash + ask_hash)


def lease_no(bid_hash: bytes, ask_hash: bytes, meter: str) -> bytes:
    """The 16 bytes that name the lease of one bid on one ask. Source: `leaseNoOf` in contracts."""
    word = bytes(12) + bytes.fromhex(meter[2:])
    return keccak(orders_hash(bid_hash, ask_hash) + word)[:16]


@dataclass(frozen=True, slots=True)
class Terms:
    """What one ask and one bid agree to if a lease opens with `budget_left` atoms to spend."""

    rate: int
    funded_seconds: int
    time_lock: int
    counted_lock: int
    budget_limited: bool

    @property
    def lock(self) -> int:
        """Atoms the buyer must hold free for the lease to open."""
        return self.time_lock + self.counted_lock


def terms_of(
    ask: Ask, bid: Bid, prices: Prices, budget_left: int | None = None, decimals: int = 18
) -> Terms:
    """Work out the terms that `ComputeEscrow.open` would freeze; may fund zero seconds.

    Each of a bid's nodes has an equal share of its budget. The caller compares `funded_seconds`
    with the ask's minimum. Source: `ComputeEscrow.open`.
    """
    left = bid.budget // max(1, bid.nodes) if budget_left is None else budget_left
    rate = arithmetic.rate_of(prices.timed(), bid.sizes())
    counted = arithmetic.counted_lock(
        prices.egress_gib, prices.unit, bid.egress_mib, bid.units, decimals
    )
    wanted = bid.max_seconds + ask.start_limit_seconds
    affordable = arithmetic.affordable_seconds(rate, max(0, left - counted), decimals)
    funded = min(wanted, affordable, arithmetic.MAX_FUNDED_SECONDS)
    return Terms(
        rate=rate,
        funded_seconds=funded,
        time_lock=arithmetic.time_lock(rate, funded, decimals),
        counted_lock=counted,
        budget_limited=affordable < wanted,
    )
