"""What the services keep, as frozen values: one class per kind of row, its first field the key.

Times are Unix milliseconds (`_ms`) or chain seconds (`_s`); money is atoms; JSON members are plain
dicts and lists. `marketplace.db.tables` declares the same fields as columns, and a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from marketplace.domain.reliability import NEWCOMER_MILLI

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    """An address that has used the market. `next_salt` is the next unused bid or ask salt, and
    `orders_from` the lowest that it has not cancelled together with all older ones."""

    address: str
    next_salt: int
    created_ms: int
    orders_from: int = 0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key's hash and what it allows; the key itself is shown once and never kept."""

    id: str
    account: str
    name: str
    secret_hash: str
    hint: str
    scopes: str
    nonce: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    spend_cap: int | None
    spent: int


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a provider, under the number its asks name."""

    id: str
    provider: str
    number: int
    name: str
    region: str
    tier: str
    gpu_count: int
    simulated: bool
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    runtime: str
    shared: bool
    interval_ms: int
    state: str
    seen_ms: int
    created_ms: int
    reliability_milli: int = NEWCOMER_MILLI

    @property
    def verified(self) -> bool:
        """Whether somebody has checked its hardware: that is not possible yet."""
        return False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Its UUID is the key: the market lists it once."""

    uuid: str
    node_id: str
    position: int
    model: str
    memory_mib: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class AskRecord:
    """A signed ask. `state`: open, cancelled, suspended or expired."""

    id: str
    provider: str
    node_id: str
    hash: str
    tier: str
    meter: str
    message: Json
    signature: str
    state: str
    reason: str | None
    expiry_s: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class BidRecord:
    """A signed bid; (buyer, salt) is unique. A cancelled one opens no further lease."""

    id: str
    account: str
    job_id: str
    hash: str
    salt: str
    message: Json
    signature: str
    expiry_s: int
    created_ms: int
    cancelled_ms: int | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The workload a bid buys compute for.

    `reserve` is what its next lease will lock at most, held against the buyer's free balance until
    the chain shows the lock. `spent` is what its earlier leases may still cost. `ending` says why a
    running job is being ended, before it has ended.
    """

    id: str
    account: str
    key_id: str | None
    bid_id: str
    name: str
    state: str
    reason: str | None
    detail: str | None
    spec: Json
    job_hash: str
    lease_id: str | None
    ending: str | None
    requeue_after: str | None
    excluded: list[str]
    explanation: Json | None
    exit_code: int | None
    outputs: str | None
    reserve: int
    spent: int
    key_charge: int
    created_ms: int
    rest_until_ms: int | None
    retry_until_ms: int | None
    matched_ms: int | None
    started_ms: int | None
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class OrderEntry:
    """One row of the order log, from which the book is rebuilt. `seq` is given by the store."""

    seq: int
    kind: str
    subject: str
    payload: Json
    at_ms: int


@dataclass(frozen=True, slots=True)
class FillRecord:
    """One match: which entry of the order log caused it, and at what terms."""

    id: str
    seq: int
    job_id: str
    bid_id: str
    ask_id: str
    lease_id: str
    rate: int
    prices: Json
    gpus: list[int]
    created_ms: int


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The entitlement a fill opens on chain: its terms, and how far it has come."""

    id: str
    lease_no: str
    job_id: str
    bid_id: str
    ask_id: str
    node_id: str
    buyer: str
    provider: str
    witness: str
    meter: str
    state: str
    reason: str | None
    rate: int
    prices: Json
    lock: int
    gpu_milli: int
    funded_seconds: int
    max_seconds: int
    start_limit_seconds: int
    budget_limited: bool
    metered: bool
    unit: str
    units_cap: int
    egress_cap_mib: int
    interval_ms: int
    previous: Json | None
    created_ms: int
    start_s: int | None = None
    end_s: int | None = None
    ready_ms: int | None = None
    seen_ms: int = 0
    sequence: int = -1
    attested: Json = field(default_factory=dict)
    countersigned: Json = field(default_factory=dict)
    settled: Json = field(default_factory=dict)
    released: int = 0
    refunded: int = 0
    stop_requested: str | None = None
    stop_requested_ms: int | None = None
    heartbeat_count: int = 0
    heartbeat_ms: int | None = None
    witness_ms: int | None = None
    outcome: Json | None = None
    finished_ms: int | None = None
    close: Json | None = None
    meter_signature: str | None = None
    witness_signature: str | None = None
    stop_signature: str | None = None
    log_next: Json = field(default_factory=dict)
    opened_tx: str | None = None
    closed_tx: str | None = None
    closed_ms: int | None = None
    refused_count: int = 0


@dataclass(frozen=True, slots=True)
class AttestationRecord:
    """One attestation as it came, accepted or refused, and the voucher that answered it.

    Of a lease's refused ones the newest few are kept; the lease's `refused_count` has them all.
    """

    id: str
    lease_id: str
    sequence: int
    state: str
    code: str | None
    ms: int
    message: Json
    signature: str
    received_ms: int
    voucher: Json | None
    voucher_signature: str | None


@dataclass(frozen=True, slots=True)
class VoucherRecord:
    """The best voucher of a lease. `intent` is the settlement it was last put into."""

    lease_id: str
    attestation_id: str
    ms: int
    egress_mib: int
    units: int
    signature: str
    received_ms: int
    paid: bool
    intent: str | None


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """Usage → rate → cost → transactions of one closed lease."""

    id: str
    job_id: str
    lease_id: str
    buyer: str
    provider: str
    document: Json
    created_ms: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event of a job's stream: status, log, metric, cost or receipt. `seq` by the store."""

    seq: int
    job_id: str
    type: str
    data: Json
    at_ms: int


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes known by their SHA-256 that one account has uploaded; the bytes lie elsewhere."""

    id: str
    sha256: str
    owner: str
    size: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class IdempotentReply:
    """The stored answer to one idempotency key of one account."""

    id: str
    body_hash: str
    status: int
    headers: Json
    body: Json
    created_ms: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A named number that only grows: how far the matcher or another reader has come."""

    name: str
    value: int
