"""The tables, field by field as in `marketplace.services.records`, with their constraints."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from marketplace.db.types import Atoms, Serial

Json = dict[str, Any]


def _big(**options: Any) -> Any:
    return Field(sa_type=BigInteger, **options)


def _atoms(**options: Any) -> Any:
    return Field(sa_type=Atoms, **options)


def _json(**options: Any) -> Any:
    return Field(sa_type=JSON(none_as_null=True), **options)


def _serial() -> Any:
    return Field(default=None, sa_type=Serial, primary_key=True)


class AccountRow(SQLModel, table=True):
    """Addresses that have used the market."""

    __tablename__ = "accounts"
    address: str = Field(primary_key=True, max_length=42)
    next_salt: int = _big()
    created_ms: int = _big()
    orders_from: int = _big()


class ApiKeyRow(SQLModel, table=True):
    """API keys, hashed."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("account", "nonce", name="uq_api_keys_account_nonce"),)
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    name: str
    secret_hash: str = Field(unique=True, max_length=64)
    hint: str
    scopes: str
    nonce: str
    created_ms: int = _big()
    expires_ms: int | None = _big()
    revoked_ms: int | None = _big()
    spend_cap: int | None = _atoms()
    spent: int = _atoms()


class NodeRow(SQLModel, table=True):
    """Machines of providers."""

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("provider", "number", name="uq_nodes_provider_number"),)
    id: str = Field(primary_key=True, max_length=40)
    provider: str = Field(index=True, max_length=42)
    number: int = _big()
    name: str
    region: str
    tier: str
    gpu_count: int
    simulated: bool
    cpu_milli: int = _big()
    memory_mib: int = _big()
    storage_mib: int = _big()
    runtime: str
    shared: bool
    interval_ms: int
    state: str
    seen_ms: int = _big()
    created_ms: int = _big()
    reliability_milli: int


class GpuRow(SQLModel, table=True):
    """GPUs; the primary key keeps a UUID from being listed twice in the market."""

    __tablename__ = "gpus"
    uuid: str = Field(primary_key=True, max_length=96)
    node_id: str = Field(index=True, foreign_key="nodes.id")
    position: int
    model: str
    memory_mib: int = _big()
    simulated: bool


class AskRow(SQLModel, table=True):
    """Signed asks."""

    __tablename__ = "asks"
    id: str = Field(primary_key=True, max_length=40)
    provider: str = Field(index=True, max_length=42)
    node_id: str = Field(index=True, foreign_key="nodes.id")
    hash: str = Field(unique=True, max_length=66)
    tier: str = Field(index=True)
    meter: str = Field(max_length=42)
    message: Json = _json()
    signature: str
    state: str = Field(index=True)
    reason: str | None
    expiry_s: int = _big()
    created_ms: int = _big()


class BidRow(SQLModel, table=True):
    """Signed bids; a buyer's salt is used once."""

    __tablename__ = "bids"
    __table_args__ = (UniqueConstraint("account", "salt", name="uq_bids_account_salt"),)
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    job_id: str = Field(index=True)
    hash: str = Field(unique=True, max_length=66)
    salt: str
    message: Json = _json()
    signature: str
    expiry_s: int = _big()
    created_ms: int = _big()
    cancelled_ms: int | None = _big()


class JobRow(SQLModel, table=True):
    """Jobs."""

    __tablename__ = "jobs"
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    key_id: str | None
    bid_id: str = Field(foreign_key="bids.id")
    name: str
    state: str = Field(index=True)
    reason: str | None
    detail: str | None
    spec: Json = _json()
    job_hash: str
    lease_id: str | None
    ending: str | None
    requeue_after: str | None
    excluded: list[str] = _json()
    explanation: Json | None = _json()
    exit_code: int | None
    outputs: str | None = Field(index=True)
    reserve: int = _atoms()
    spent: int = _atoms()
    key_charge: int = _atoms()
    created_ms: int = _big()
    rest_until_ms: int | None = _big()
    retry_until_ms: int | None = _big()
    matched_ms: int | None = _big()
    started_ms: int | None = _big()
    finished_ms: int | None = _big()


class OrderEntryRow(SQLModel, table=True):
    """The order log, in the order in which the book takes it."""

    __tablename__ = "order_log"
    __table_args__ = {"sqlite_autoincrement": True}
    seq: int | None = _serial()
    kind: str
    subject: str = Field(index=True)
    payload: Json = _json()
    at_ms: int = _big()


class FillRow(SQLModel, table=True):
    """Matches; one bid fills one ask at most once, as on chain."""

    __tablename__ = "fills"
    __table_args__ = (UniqueConstraint("bid_id", "ask_id", name="uq_fills_bid_ask"),)
    id: str = Field(primary_key=True, max_length=40)
    seq: int = Field(sa_type=BigInteger, index=True)
    job_id: str = Field(index=True, foreign_key="jobs.id")
    bid_id: str = Field(foreign_key="bids.id")
    ask_id: str = Field(index=True, foreign_key="asks.id")
    lease_id: str = Field(index=True)
    rate: int = _atoms()
    prices: Json = _json()
    gpus: list[int] = _json()
    created_ms: int = _big()


class LeaseRow(SQLModel, table=True):
    """Leases: terms from the fill, progress from attestations, money from the chain's events."""

    __tablename__ = "leases"
    id: str = Field(primary_key=True, max_length=40)
    lease_no: str = Field(unique=True, max_length=34)
    job_id: str = Field(index=True, foreign_key="jobs.id")
    bid_id: str = Field(foreign_key="bids.id")
    ask_id: str = Field(index=True, foreign_key="asks.id")
    node_id: str = Field(index=True, foreign_key="nodes.id")
    buyer: str = Field(index=True, max_length=42)
    provider: str = Field(index=True, max_length=42)
    witness: str = Field(index=True, max_length=42)
    meter: str = Field(max_length=42)
    state: str = Field(index=True)
    reason: str | None
    rate: int = _atoms()
    prices: Json = _json()
    lock: int = _atoms()
    gpu_milli: int = _big()
    funded_seconds: int = _big()
    max_seconds: int = _big()
    start_limit_seconds: int = _big()
    budget_limited: bool
    metered: bool
    unit: str
    units_cap: int = _big()
    egress_cap_mib: int = _big()
    interval_ms: int
    previous: Json | None = _json()
    created_ms: int = _big()
    start_s: int | None = _big()
    end_s: int | None = _big()
    ready_ms: int | None = _big()
    seen_ms: int = _big()
    sequence: int = _big()
    attested: Json = _json()
    countersigned: Json = _json()
    settled: Json = _json()
    released: int = _atoms()
    refunded: int = _atoms()
    stop_requested: str | None
    stop_requested_ms: int | None = _big()
    heartbeat_count: int = _big()
    heartbeat_ms: int | None = _big()
    witness_ms: int | None = _big()
    outcome: Json | None = _json()
    finished_ms: int | None = _big()
    close: Json | None = _json()
    meter_signature: str | None
    witness_signature: str | None
    stop_signature: str | None
    log_next: Json = _json()
    opened_tx: str | None
    closed_tx: str | None
    closed_ms: int | None = _big()
    refused_count: int


class AttestationRow(SQLModel, table=True):
    """Attestations; of one lease and sequence at most one is ever accepted."""

    __tablename__ = "attestations"
    __table_args__ = (
        Index(
            "uq_attestations_accepted",
            "lease_id",
            "sequence",
            unique=True,
            sqlite_where=text("state = 'accepted'"),
            postgresql_where=text("state = 'accepted'"),
        ),
    )
    id: str = Field(primary_key=True, max_length=40)
    lease_id: str = Field(index=True, foreign_key="leases.id")
    sequence: int = _big()
    state: str
    code: str | None
    ms: int = _atoms()
    message: Json = _json()
    signature: str
    received_ms: int = _big()
    voucher: Json | None = _json()
    voucher_signature: str | None


class VoucherRow(SQLModel, table=True):
    """The best voucher of each lease."""

    __tablename__ = "vouchers"
    lease_id: str = Field(primary_key=True, foreign_key="leases.id", max_length=40)
    attestation_id: str
    ms: int = _big()
    egress_mib: int = _big()
    units: int = _big()
    signature: str
    received_ms: int = _big()
    paid: bool = Field(index=True)
    intent: str | None


class ReceiptRow(SQLModel, table=True):
    """Receipts of closed leases."""

    __tablename__ = "receipts"
    id: str = Field(primary_key=True, max_length=40)
    job_id: str = Field(index=True, foreign_key="jobs.id")
    lease_id: str = Field(unique=True, foreign_key="leases.id")
    buyer: str = Field(index=True, max_length=42)
    provider: str = Field(index=True, max_length=42)
    document: Json = _json()
    created_ms: int = _big()


class JobEventRow(SQLModel, table=True):
    """Streams of job events."""

    __tablename__ = "job_events"
    __table_args__ = (
        Index("ix_job_events_job_seq", "job_id", "seq"),
        {"sqlite_autoincrement": True},
    )
    seq: int | None = _serial()
    job_id: str
    type: str
    data: Json = _json()
    at_ms: int = _big()


class BlobRow(SQLModel, table=True):
    """Who has uploaded which bytes."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("owner", "sha256", name="uq_blobs_owner_sha256"),)
    id: str = Field(primary_key=True, max_length=40)
    sha256: str = Field(index=True, max_length=64)
    owner: str = Field(max_length=42)
    size: int = _big()
    created_ms: int = _big()


class IdempotentReplyRow(SQLModel, table=True):
    """Stored answers to idempotency keys."""

    __tablename__ = "idempotent_replies"
    id: str = Field(primary_key=True, max_length=128)
    body_hash: str
    status: int
    headers: Json = _json()
    body: Json = _json()
    created_ms: int = Field(sa_type=BigInteger, index=True)


class MarkRow(SQLModel, table=True):
    """Named numbers that only grow."""

    __tablename__ = "marks"
    name: str = Field(primary_key=True, max_length=64)
    value: int = _big()


class IntentRow(SQLModel, table=True):
    """The outbox: effects wanted on chain. A nonce of a sender belongs to one intent for good."""

    __tablename__ = "intents"
    __table_args__ = (
        UniqueConstraint("sender", "nonce", name="uq_intents_sender_nonce"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = _serial()
    kind: str
    key: str = Field(unique=True, max_length=200)
    payload: Json = _json()
    first_payload: Json = _json()
    state: str = Field(index=True)
    created_ms: int = _big()
    sender: str | None = Field(max_length=42)
    nonce: int | None = _big()
    raw: bytes | None
    tx_hash: str | None
    replaced: list[str] = _json()
    mined_hash: str | None
    block_number: int | None = _big()
    block_hash: str | None
    attempts: int
    error: str | None


class ChainBlockRow(SQLModel, table=True):
    """Blocks the indexer has taken in."""

    __tablename__ = "chain_blocks"
    number: int = Field(sa_type=BigInteger, primary_key=True)
    hash: str
    parent_hash: str
    timestamp: int = _big()


class ChainEventRow(SQLModel, table=True):
    """The escrow's events, in chain order by (block number, log index)."""

    __tablename__ = "chain_events"
    __table_args__ = (
        UniqueConstraint("block_hash", "log_index", name="uq_chain_events_block_log"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = _serial()
    block_number: int = Field(sa_type=BigInteger, index=True)
    block_hash: str
    tx_hash: str
    log_index: int
    name: str
    document: Json = _json()


class ChainEventLeaseRow(SQLModel, table=True):
    """Which leases an event touches."""

    __tablename__ = "chain_event_leases"
    event_id: int = Field(sa_type=Serial, primary_key=True, foreign_key="chain_events.id")
    lease_no: str = Field(primary_key=True, max_length=34, index=True)
