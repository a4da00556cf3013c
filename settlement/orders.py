"""What accounts sign: a provider's Ask and Quote, a buyer's Bid, a Cancel, relayed calls, a Permit.

Mirrors `IComputeEscrow` field by field; see `settlement.units` for the units of every number.
"""

from dataclasses import dataclass
from enum import IntEnum

from settlement import units as arithmetic
from settlement.eip712 import (
    Address,
    Bytes16,
    Bytes32,
    Domain,
    Struct,
    Uint8,
    Uint16,
    Uint24,
    Uint32,
    Uint40,
    Uint64,
    Uint96,
    Uint128,
    Uint256,
    checksum,
    from_text32,
)
from settlement.errors import FieldError
from settlement.hashing import keccak

FLAG_SHARED = 1  # ask: fractions of a GPU are sold; bid: a fraction is accepted
FLAG_NO_GPU = 2  # ask: leases without a GPU are sold; bid: none is wanted
FLAG_INTERRUPTIBLE = 4  # ask: the node may be taken back after notice; bid: that is accepted


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
    """A provider's signed offer of one node. `floor` holds its list prices.

    `start_limit_seconds` is the longest time from opening to the first usage. An interruptible
    node is taken back no sooner than `notice_seconds` after its provider says so.
    """

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
    start_limit_seconds: Uint16
    notice_seconds: Uint16
    unit: Bytes32
    starts_at: Uint40
    flags: Uint16
    max_fee_bps: Uint16
    expiry: Uint40
    salt: Uint64

    @property
    def tier_name(self) -> str:
        return from_text32(self.tier)

    @property
    def notice(self) -> int | None:
        """Seconds of notice after which the node may be taken back; None: it never is."""
        return self.notice_seconds if self.flags & FLAG_INTERRUPTIBLE else None


@dataclass(frozen=True, slots=True)
class Quote(Struct):
    """Other prices for one ask, not below its floor, signed by its meter key."""

    ask_hash: Bytes32
    prices: Prices
    expiry: Uint40


@dataclass(frozen=True, slots=True)
class Bid(Struct):
    """A buyer's signed order for one job: what it needs, the most it pays, who may witness.

    `max_seconds` bounds paid time, `max_start_seconds` the ask's start limit, which is neither
    locked nor paid, and `min_notice_seconds` the notice of an interruptible ask.
    """

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
    max_start_seconds: Uint16
    min_notice_seconds: Uint16
    budget: Uint128
    nodes: Uint16
    flags: Uint16
    max_fee_bps: Uint16
    expiry: Uint40
    salt: Uint64

    def sizes(self) -> arithmetic.Sizes:
        """What the bid allocates."""
        return arithmetic.Sizes(self.gpu_milli, self.cpu_milli, self.memory_mib, self.storage_mib)


class Numbered(IntEnum):
    """What an account numbers apart, and so cancels apart."""

    ORDERS = 0
    CALLS = 1


@dataclass(frozen=True, slots=True)
class Cancel(Struct):
    """Voids the account's order, or signed call, of this salt; with `and_older` also lower ones.

    `kind` is a `Numbered`.
    """

    account: Address
    kind: Uint8
    salt: Uint64
    and_older: bool


@dataclass(frozen=True, slots=True)
class Withdraw(Struct):
    """Moves `amount` atoms of the account's free balance to `to`, less `fee` for the sender.

    `relayer` is who may send it (zero: anyone), until `deadline` (chain time, seconds). Signed
    calls have salts of their own.
    """

    account: Address
    to: Address
    amount: Uint256
    salt: Uint64
    deadline: Uint40
    relayer: Address
    fee: Uint96


@dataclass(frozen=True, slots=True)
class TopUp(Struct):
    """Adds paid seconds to a lease; `fee` atoms go to the sender on top. As `Withdraw` else."""

    buyer: Address
    provider: Address
    lease_no: Bytes16
    add_seconds: Uint32
    salt: Uint64
    deadline: Uint40
    relayer: Address
    fee: Uint96


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


def terms_hash(bid_hash: bytes, ask_hash: bytes, prices_hash: bytes, seat: int) -> bytes:
    """What a lease is opened from, in one word. Source: `Orders.termsHash` in contracts."""
    return keccak(bid_hash + ask_hash + prices_hash + seat.to_bytes(32, "big"))


def lease_no(terms: bytes, meter: str) -> bytes:
    """The number of the lease of these terms (`terms_hash`): 16 bytes. Source: `leaseNoOf`."""
    return keccak(terms + bytes(12) + bytes.fromhex(meter[2:]))[:16]


@dataclass(frozen=True, slots=True)
class OpenedFrom:
    """What a lease is opened from. A top-up sends it again."""

    ask: Ask
    bid: Bid
    prices: Prices
    seat: int = 0

    @property
    def terms_hash(self) -> bytes:
        """It in one word, which proves the lease's meter."""
        hashes = (self.bid.struct_hash(), self.ask.struct_hash(), self.prices.struct_hash())
        return terms_hash(*hashes, self.seat)

    @property
    def lease_no(self) -> bytes:
        """The number of its lease."""
        return lease_no(self.terms_hash, self.ask.meter)


def purse_of(domain: Domain, owner: str, operator: str, salt: int) -> str:
    """The purse that `owner` makes for `operator`. Source: `purseOf` in contracts."""
    words = (bytes(12) + bytes.fromhex(owner[2:]), bytes(12) + bytes.fromhex(operator[2:]))
    word = keccak(domain.separator() + b"".join(words) + salt.to_bytes(32, "big"))
    return checksum(word[12:].hex())


@dataclass(frozen=True, slots=True)
class Terms:
    """What one ask and one bid agree to if a lease opens with `budget_left` atoms to spend."""

    rate: int
    paid_seconds: int
    start_seconds: int
    time_lock: int
    counted_lock: int
    budget_limited: bool

    @property
    def funded_seconds(self) -> int:
        """Seconds from opening to the end: paid time after a late start."""
        return self.paid_seconds + self.start_seconds

    @property
    def lock(self) -> int:
        """Atoms the buyer must hold free for the lease to open."""
        return self.time_lock + self.counted_lock


def terms_of(
    ask: Ask, bid: Bid, prices: Prices, budget_left: int | None = None, decimals: int = 18
) -> Terms:
    """The terms that `ComputeEscrow.open` would freeze; they may pay for zero seconds.

    Every node of a bid gets an equal share of its budget. The caller compares `paid_seconds`
    with the ask's minimum. Source: `ComputeEscrow.open`.
    """
    left = bid.budget // max(1, bid.nodes) if budget_left is None else budget_left
    rate = prices.rate(bid.sizes())
    caps = (bid.egress_mib, bid.units)
    counted = arithmetic.counted_lock(prices.egress_gib, prices.unit, *caps, decimals)
    affordable = arithmetic.affordable_seconds(rate, max(0, left - counted), decimals)
    paid = min(bid.max_seconds, affordable, arithmetic.MAX_PAID_SECONDS)
    lock = arithmetic.time_lock(rate, paid, decimals)
    limited = affordable < bid.max_seconds
    return Terms(rate, paid, ask.start_limit_seconds, lock, counted, limited)
