"""Signed orders: a provider's Ask and Quote, a buyer's Bid, the Cancel that voids them, a Permit.

Mirrors `IComputeEscrow` field by field; see `settlement.units` for the units of every number.
"""

from dataclasses import dataclass

from settlement import units as arithmetic
from settlement.eip712 import (
    Address,
    Bytes32,
    Struct,
    Uint16,
    Uint24,
    Uint32,
    Uint40,
    Uint64,
    Uint128,
    Uint256,
    from_text32,
)
from settlement.errors import FieldError
from settlement.hashing import keccak

FLAG_SHARED = 1  # ask: fractions of a GPU are sold; bid: a fraction is accepted


@dataclass(frozen=True, slots=True)
class Prices(Struct):
    """Prices in 1e-9 token: per hour for timed resources, per GiB of egress, per unit."""

    gpu_hour: Uint64
    cpu_hour: Uint64 = 0
    memory_gib_hour: Uint64 = 0
    storage_gib_hour: Uint64 = 0
    egress_gib: Uint64 = 0
    unit: Uint64 = 0

    def rate(self, sizes: arithmetic.Sizes) -> int:
        """The sum of timed prices as one rate in 1e-12 token per hour, rounded down.

        Memory and storage are sized in MiB and priced per GiB: 1000/1024 = 125/128 turns MiB into
        thousandths of a GiB. Raises FieldError above uint64. Source: `Units.rate` in contracts.
        """
        mib = self.memory_gib_hour * sizes.memory_mib + self.storage_gib_hour * sizes.storage_mib
        rate = self.gpu_hour * sizes.gpu_milli + self.cpu_hour * sizes.cpu_milli + mib * 125 // 128
        if rate > arithmetic.UINT64_MAX:
            raise FieldError("/prices", f"rate {rate} exceeds 2^64-1 (1e-12 token per hour)")
        return rate


@dataclass(frozen=True, slots=True)
class TierLimit(Struct):
    """The most a bid pays in one tier: all-in `rate` (1e-12 token/h), egress and unit prices."""

    tier: Bytes32
    rate: Uint64
    egress_gib: Uint64 = 0
    unit: Uint64 = 0


@dataclass(frozen=True, slots=True)
class Ask(Struct):
    """A provider's signed offer of one node. `floor` holds its list prices."""

    provider: Address
    meter: Address
    opener: Address
    node: Uint24
    tier: Bytes32
    gpu_milli: Uint32
    cpu_milli: Uint32
    memory_mib: Uint32
    storage_mib: Uint32
    floor: Prices
    min_seconds: Uint32
    max_seconds: Uint32
    start_limit_seconds: Uint32
    unit: Bytes32
    starts_at: Uint40
    flags: Uint16
    max_fee_bps: Uint16
    expiry: Uint40
    salt: Uint64

    @property
    def tier_name(self) -> str:
        return from_text32(self.tier)


@dataclass(frozen=True, slots=True)
class Quote(Struct):
    """Other prices for one ask, not below its floor, signed by its meter key."""

    ask_hash: Bytes32
    prices: Prices
    expiry: Uint40


@dataclass(frozen=True, slots=True)
class Bid(Struct):
    """A buyer's signed order for one job: what it needs, the most it pays, who may witness."""

    buyer: Address
    witness: Address
    opener: Address
    job_hash: Bytes32
    limits: tuple[TierLimit, ...]
    gpu_milli: Uint32
    cpu_milli: Uint32
    memory_mib: Uint32
    storage_mib: Uint32
    egress_mib: Uint32
    units: Uint32
    unit: Bytes32
    max_seconds: Uint32
    budget: Uint128
    nodes: Uint16
    flags: Uint16
    max_fee_bps: Uint16
    expiry: Uint40
    salt: Uint64

    def sizes(self) -> arithmetic.Sizes:
        """What the bid allocates."""
        return arithmetic.Sizes(self.gpu_milli, self.cpu_milli, self.memory_mib, self.storage_mib)


@dataclass(frozen=True, slots=True)
class Cancel(Struct):
    """Voids the account's bid or ask of this salt; with `and_older` also those of lower salts."""

    account: Address
    salt: Uint64
    and_older: bool


@dataclass(frozen=True, slots=True)
class Permit(Struct):
    """`spender` may move `value` atoms of `owner` until `deadline` (chain time, seconds).

    It saves a deposit the approval's transaction. Signed under the token's own domain. Source:
    EIP-2612.
    """

    owner: Address
    spender: Address
    value: Uint256
    nonce: Uint256
    deadline: Uint256


def orders_hash(bid_hash: bytes, ask_hash: bytes) -> bytes:
    """Both orders of a lease in one word. Source: `Orders.pairHash` in contracts."""
    return keccak(bid_hash + ask_hash)


def lease_no(bid_hash: bytes, ask_hash: bytes, meter: str) -> bytes:
    """The number of the lease that one bid opens on one ask: 16 bytes. Source: `leaseNoOf`."""
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
    """The terms that `ComputeEscrow.open` would freeze; they may fund zero seconds.

    Every node of a bid gets an equal share of its budget. The caller compares `funded_seconds`
    with the ask's minimum. Source: `ComputeEscrow.open`.
    """
    left = bid.budget // max(1, bid.nodes) if budget_left is None else budget_left
    rate = prices.rate(bid.sizes())
    caps = (bid.egress_mib, bid.units)
    counted = arithmetic.counted_lock(prices.egress_gib, prices.unit, *caps, decimals)
    wanted = bid.max_seconds + ask.start_limit_seconds
    affordable = arithmetic.affordable_seconds(rate, max(0, left - counted), decimals)
    funded = min(wanted, affordable, arithmetic.MAX_FUNDED_SECONDS)
    lock = arithmetic.time_lock(rate, funded, decimals)
    return Terms(rate, funded, lock, counted, budget_limited=affordable < wanted)
