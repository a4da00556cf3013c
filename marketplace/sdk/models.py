"""What the API answers with, as typed values. Times are aware datetimes, money is integer atoms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from settlement.attestation import Close, UsageAttestation
from settlement.orders import Ask, Bid, Prices


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of the token: `amount` for people, `atoms` for machines."""

    amount: Decimal
    currency: str
    atoms: int

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds in which a lease may still be settled after its end."""

    settle_seconds: int


@dataclass(frozen=True, slots=True)
class MarketConfig:
    """What a client has to know about a market before it signs anything for it."""

    chain_id: int
    contracts: Mapping[str, str]
    currency: str
    decimals: int
    fee_bps: int
    windows: Windows
    opener: str
    interval_ms: int
    confirmations: int
    server_time: datetime
    rpc_url: str | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; `key` is present only in the answer that created it."""

    id: str
    name: str
    scopes: tuple[str, ...]
    account: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    spend_cap: Money | None = None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of GPU and what real markets asked for it, USD per GPU and hour; reference only."""

    name: str
    model: str
    memory_mib: int
    usd_per_gpu_hour: Mapping[str, str] = field(default_factory=dict)
    listings: int = 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a node."""

    uuid: str
    model: str
    memory_mib: int
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a provider."""

    id: str
    number: int
    name: str
    region: str
    tier: str
    gpus: tuple[Gpu, ...]
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    runtime: str
    state: str
    shared: bool = False
    simulated: bool = False
    verified: bool = False
    reliability: str = ""
    provider: str = ""
    interval_ms: int | None = None
    last_heartbeat_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AskInfo:
    """An ask on the book with its signed form."""

    id: str
    ask: Ask
    signature: bytes
    hash: str
    node_id: str
    state: str
    reason: str | None = None
    tier: str = ""
    region: str = ""
    simulated: bool = False
    verified: bool = False
    reliability: str = ""
    shared: bool = False
    prices: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    expires_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class BidInfo:
    """A bid with its signed form."""

    id: str
    bid: Bid
    signature: bytes
    hash: str
    job_id: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document the server proposes to sign. Check it, then sign it."""

    typed_data: Mapping[str, Any]
    message: Mapping[str, Any] = field(default_factory=dict)
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored file, by its content."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Terms:
    """Frozen terms of a lease. `rate` is 1e-12 token per hour, `lock` atoms, times Unix seconds."""

    rate: int
    prices: Prices
    funded_seconds: int
    end: int
    gpu_milli: int
    lock: Money
    start_limit_seconds: int = 0
    max_seconds: int = 0
    budget_limited: bool = False
    metered: bool = False
    unit: str | None = None
    units_cap: int = 0
    egress_cap_mib: int = 0

    @property
    def start(self) -> int:
        """When the lease opened on chain."""
        return self.end - self.funded_seconds


@dataclass(frozen=True, slots=True)
class Used:
    """Cumulative usage."""

    ms: int = 0
    egress_mib: int = 0
    units: int = 0


@dataclass(frozen=True, slots=True)
class JobBrief:
    """The job of a lease, as its parties see it."""

    id: str
    state: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """A Close the meter signed and the witness has not yet."""

    message: Close
    meter_signature: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """A call that the server wrote out for the caller's account to send."""

    call: str
    to: str
    data: bytes
    gas: int


@dataclass(frozen=True, slots=True)
class TopUp:
    """What to send to run a job longer, and what it locks at most."""

    lease_id: str
    transaction: Transaction
    lock: Money


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Orders that a cancel took off the book; the chain follows."""

    orders: tuple[str, ...]
    cancel: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """The entitlement a fill opened."""

    id: str
    lease_no: str
    job_id: str
    ask_id: str
    bid_id: str
    node_id: str
    buyer: str
    provider: str
    witness: str
    meter: str
    state: str
    reason: str | None = None
    terms: Terms | None = None
    used: Used = Used()
    countersigned: Used = Used()
    settled: Used = Used()
    released: Money | None = None
    refunded: Money | None = None
    interval_ms: int = 10_000
    cost: Money | None = None
    stop_requested: str | None = None
    outcome: Mapping[str, Any] | None = None
    final: CloseRequest | None = None
    job: JobBrief | None = None
    opened_tx: str | None = None
    closed_tx: str | None = None
    created_at: datetime | None = None
    closed_at: datetime | None = None
    gpus: tuple[int, ...] = ()  # which of the node's GPUs, by their place in its list


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """What a witness answered an attestation with."""

    message: Mapping[str, Any]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Attestation:
    """A meter's signed statement, as the market stored it."""

    id: str
    lease_id: str
    sequence: int
    state: str
    message: UsageAttestation
    signature: bytes
    code: str | None = None
    voucher: SignedVoucher | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AttestationAnswer:
    """What the market says to a new attestation."""

    id: str
    sequence: int
    state: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Signs of life of a job: how many, and when the market heard the last."""

    count: int
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """What one lease wants from its witness."""

    lease: Lease
    attestation: Attestation | None = None
    close: CloseRequest | None = None
    heartbeat: Heartbeat | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Money of one account in the escrow, and the salt its next bid takes."""

    address: str
    free: Money
    locked: Money
    next_salt: int
