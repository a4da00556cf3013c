"""Every table once: the rows that the services hold and change in place.

Times are Unix milliseconds (`_ms`) or chain seconds (`_s`); money is atoms. A JSON member is
replaced, never changed in place.
"""

from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from marketplace.db.types import Atoms, Serial, Word
from marketplace.domain.drafts import AskState, NodeState
from marketplace.domain.life import JobState, LeaseState, Outcome, StopReason
from marketplace.domain.reliability import NEWCOMER_MILLI
from settlement.leases import Side
from settlement.ports import IntentKind, IntentState

Json = dict[str, Any]
Part = tuple[int, str | None]
"""Which part of a list is wanted: how many rows, and the key that they come after."""
JSON_TYPE: Final = JSON(none_as_null=True)
NUMBERED: Final = {"sqlite_autoincrement": True}
ACCEPTED: Final = text("state = 'accepted'")


class AccountRow(SQLModel, table=True):
    """An address that has used the market. `next_salt` is the next unused salt of its orders;
    those below `orders_from` were cancelled together. `last_call`: the key of the intent of the
    newest call that it signed for the relayer to send."""

    __tablename__ = "accounts"
    address: str = Field(primary_key=True, max_length=42)
    next_salt: int = Field(sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    orders_from: int = Field(default=0, sa_type=BigInteger)
    last_call: str | None = Field(default=None, max_length=200)


class ApiKeyRow(SQLModel, table=True):
    """An API key's hash and what it allows; the key itself is shown once and never kept."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("account", "nonce", name="uq_api_keys_account_nonce"),)
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    name: str
    secret_hash: str = Field(unique=True, max_length=64)
    hint: str
    scopes: str
    nonce: str
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int | None = Field(default=None, sa_type=BigInteger)
    revoked_ms: int | None = Field(default=None, sa_type=BigInteger)
    spend_cap: int | None = Field(default=None, sa_type=Atoms)
    spent: int = Field(default=0, sa_type=Atoms)


class NodeRow(SQLModel, table=True):
    """One machine of a provider, under the number that its asks name."""

    __tablename__ = "nodes"
    __table_args__ = (UniqueConstraint("provider", "number", name="uq_nodes_provider_number"),)
    id: str = Field(primary_key=True, max_length=40)
    provider: str = Field(index=True, max_length=42)
    number: int = Field(sa_type=BigInteger)
    name: str
    region: str
    tier: str
    gpu_count: int
    simulated: bool
    cpu_milli: int = Field(sa_type=BigInteger)
    memory_mib: int = Field(sa_type=BigInteger)
    storage_mib: int = Field(sa_type=BigInteger)
    runtime: str
    shared: bool
    meter: str | None = Field(default=None, max_length=42)
    interval_ms: int
    state: NodeState = Field(sa_type=Word(NodeState))
    seen_ms: int = Field(sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    reliability_milli: int = NEWCOMER_MILLI

    @property
    def verified(self) -> bool:
        """Whether somebody has checked its hardware. Nothing in the market can check that yet."""
        return False


class GpuRow(SQLModel, table=True):
    """One GPU. Its UUID is the key: the market lists it once."""

    __tablename__ = "gpus"
    uuid: str = Field(primary_key=True, max_length=96)
    node_id: str = Field(index=True, foreign_key="nodes.id")
    position: int
    model: str
    memory_mib: int = Field(sa_type=BigInteger)
    simulated: bool


class AskRow(SQLModel, table=True):
    """A signed ask."""

    __tablename__ = "asks"
    id: str = Field(primary_key=True, max_length=40)
    provider: str = Field(index=True, max_length=42)
    node_id: str = Field(index=True, foreign_key="nodes.id")
    hash: str = Field(unique=True, max_length=66)
    tier: str = Field(index=True)
    meter: str = Field(max_length=42)
    message: Json = Field(sa_type=JSON_TYPE)
    signature: str
    state: AskState = Field(sa_type=Word(AskState), index=True)
    reason: str | None = None
    expiry_s: int = Field(sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)


class BidRow(SQLModel, table=True):
    """A signed bid; a buyer's salt is used once. A cancelled bid opens no further lease."""

    __tablename__ = "bids"
    __table_args__ = (UniqueConstraint("account", "salt", name="uq_bids_account_salt"),)
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    job_id: str = Field(index=True)
    hash: str = Field(unique=True, max_length=66)
    salt: str
    message: Json = Field(sa_type=JSON_TYPE)
    signature: str
    expiry_s: int = Field(sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    cancelled_ms: int | None = Field(default=None, sa_type=BigInteger)


class JobRow(SQLModel, table=True):
    """The workload that a bid buys compute for.

    `reserve`: what its next lease will lock at most, held against the buyer's free balance until
    the chain shows the lock. `spent`: what its earlier leases may still cost. `ending`: why a
    running job is being ended, before it has ended.
    """

    __tablename__ = "jobs"
    id: str = Field(primary_key=True, max_length=40)
    account: str = Field(index=True, max_length=42)
    key_id: str | None = None
    bid_id: str = Field(foreign_key="bids.id")
    name: str
    state: JobState = Field(sa_type=Word(JobState), index=True)
    reason: str | None = None
    detail: str | None = None
    spec: Json = Field(sa_type=JSON_TYPE)
    job_hash: str
    lease_id: str | None = None
    ending: Outcome | None = Field(default=None, sa_type=Word(Outcome))
    requeue_after: str | None = None
    excluded: list[str] = Field(default_factory=list, sa_type=JSON_TYPE)
    explanation: Json | None = Field(default=None, sa_type=JSON_TYPE)
    exit_code: int | None = None
    outputs: str | None = Field(default=None, index=True)
    reserve: int = Field(default=0, sa_type=Atoms)
    spent: int = Field(default=0, sa_type=Atoms)
    key_charge: int = Field(default=0, sa_type=Atoms)
    created_ms: int = Field(sa_type=BigInteger)
    rest_until_ms: int | None = Field(default=None, sa_type=BigInteger)
    retry_until_ms: int | None = Field(default=None, sa_type=BigInteger)
    matched_ms: int | None = Field(default=None, sa_type=BigInteger)
    started_ms: int | None = Field(default=None, sa_type=BigInteger)
    finished_ms: int | None = Field(default=None, sa_type=BigInteger)


class OrderEntryRow(SQLModel, table=True):
    """One row of the order log, from which the book is rebuilt. The store numbers it."""

    __tablename__ = "order_log"
    __table_args__ = NUMBERED
    seq: int = Field(default=None, sa_type=Serial, primary_key=True)
    kind: str
    subject: str = Field(index=True)
    payload: Json = Field(sa_type=JSON_TYPE)
    at_ms: int = Field(sa_type=BigInteger)


class BookSnapshotRow(SQLModel, table=True):
    """The book as it was after one row of the order log. `data`: see `domain.snapshot`."""

    __tablename__ = "book_snapshots"
    seq: int = Field(sa_type=BigInteger, primary_key=True)
    data: bytes


class LeaseRow(SQLModel, table=True):
    """What a match opens on chain: terms from the match, progress from attestations, money from the
    chain's events. `seq`: the row of the order log that made the match. `stopped_ms`: when it was
    stopped before it was ready; `stopped_by` null: nobody has found out yet."""

    __tablename__ = "leases"
    __table_args__ = (UniqueConstraint("bid_id", "ask_id", name="uq_leases_bid_ask"),)
    id: str = Field(primary_key=True, max_length=40)
    lease_no: str = Field(unique=True, max_length=34)
    seq: int = Field(sa_type=BigInteger)
    job_id: str = Field(index=True, foreign_key="jobs.id")
    bid_id: str = Field(foreign_key="bids.id")
    ask_id: str = Field(index=True, foreign_key="asks.id")
    node_id: str = Field(index=True, foreign_key="nodes.id")
    buyer: str = Field(index=True, max_length=42)
    provider: str = Field(index=True, max_length=42)
    witness: str = Field(index=True, max_length=42)
    meter: str = Field(max_length=42)
    state: LeaseState = Field(sa_type=Word(LeaseState), index=True)
    reason: str | None = None
    rate: int = Field(sa_type=Atoms)
    prices: Json = Field(sa_type=JSON_TYPE)
    lock: int = Field(sa_type=Atoms)
    gpu_milli: int = Field(sa_type=BigInteger)
    gpus: list[int] = Field(sa_type=JSON_TYPE)
    paid_seconds: int = Field(sa_type=BigInteger)
    max_seconds: int = Field(sa_type=BigInteger)
    start_limit_seconds: int = Field(sa_type=BigInteger)
    budget_limited: bool
    metered: bool
    unit: str
    units_cap: int = Field(sa_type=BigInteger)
    egress_cap_mib: int = Field(sa_type=BigInteger)
    interval_ms: int
    previous: Json | None = Field(default=None, sa_type=JSON_TYPE)
    created_ms: int = Field(sa_type=BigInteger)
    start_s: int | None = Field(default=None, sa_type=BigInteger)
    end_s: int | None = Field(default=None, sa_type=BigInteger)
    ready_ms: int | None = Field(default=None, sa_type=BigInteger)
    notice_seconds: int | None = None
    notice_ms: int | None = Field(default=None, sa_type=BigInteger)
    seen_ms: int = Field(default=0, sa_type=BigInteger)
    sequence: int = Field(default=-1, sa_type=BigInteger)
    attested: Json = Field(default_factory=dict, sa_type=JSON_TYPE)
    countersigned: Json = Field(default_factory=dict, sa_type=JSON_TYPE)
    settled: Json = Field(default_factory=dict, sa_type=JSON_TYPE)
    released: int = Field(default=0, sa_type=Atoms)
    refunded: int = Field(default=0, sa_type=Atoms)
    stop_requested: StopReason | None = Field(default=None, sa_type=Word(StopReason))
    stop_requested_ms: int | None = Field(default=None, sa_type=BigInteger)
    again: bool = False
    stopped_ms: int | None = Field(default=None, sa_type=BigInteger, index=True)
    stopped_by: Side | None = Field(default=None, sa_type=Word(Side))
    heartbeat_count: int = Field(default=0, sa_type=BigInteger)
    heartbeat_ms: int | None = Field(default=None, sa_type=BigInteger)
    witness_ms: int | None = Field(default=None, sa_type=BigInteger)
    outcome: Json | None = Field(default=None, sa_type=JSON_TYPE)
    finished_ms: int | None = Field(default=None, sa_type=BigInteger)
    close: Json | None = Field(default=None, sa_type=JSON_TYPE)
    meter_signature: str | None = None
    witness_signature: str | None = None
    stop_signature: str | None = None
    log_next: Json = Field(default_factory=dict, sa_type=JSON_TYPE)
    opened_tx: str | None = None
    closed_tx: str | None = None
    closed_ms: int | None = Field(default=None, sa_type=BigInteger)
    refused_count: int = 0

    @property
    def lease_bytes(self) -> bytes:
        """The 16 bytes that name the lease on chain."""
        return bytes.fromhex(self.lease_no[2:])


class AttestationRow(SQLModel, table=True):
    """One attestation as it came, accepted or refused, and the voucher that answered it.

    Of one lease and sequence at most one is ever accepted. Of a lease's refused ones the newest few
    are kept; the lease's `refused_count` has them all.
    """

    __tablename__ = "attestations"
    __table_args__ = (
        Index(
            "uq_attestations_accepted", "lease_id", "sequence",
            unique=True, sqlite_where=ACCEPTED, postgresql_where=ACCEPTED,
        ),
    )  # fmt: skip
    id: str = Field(primary_key=True, max_length=40)
    lease_id: str = Field(index=True, foreign_key="leases.id")
    sequence: int = Field(sa_type=BigInteger)
    state: str
    code: str | None = None
    ms: int = Field(sa_type=Atoms)
    message: Json = Field(sa_type=JSON_TYPE)
    signature: str
    received_ms: int = Field(sa_type=BigInteger)
    voucher: Json | None = Field(default=None, sa_type=JSON_TYPE)
    voucher_signature: str | None = None


class VoucherRow(SQLModel, table=True):
    """The best voucher of a lease. `intent` is the settlement it was last put into."""

    __tablename__ = "vouchers"
    lease_id: str = Field(primary_key=True, foreign_key="leases.id", max_length=40)
    attestation_id: str
    ms: int = Field(sa_type=BigInteger)
    egress_mib: int = Field(sa_type=BigInteger)
    units: int = Field(sa_type=BigInteger)
    signature: str
    received_ms: int = Field(sa_type=BigInteger)
    paid: bool = Field(index=True)
    intent: str | None = None


class ReceiptRow(SQLModel, table=True):
    """Usage → rate → cost → transactions of one closed lease."""

    __tablename__ = "receipts"
    id: str = Field(primary_key=True, max_length=40)
    job_id: str = Field(index=True, foreign_key="jobs.id")
    lease_id: str = Field(unique=True, foreign_key="leases.id")
    buyer: str = Field(index=True, max_length=42)
    provider: str = Field(index=True, max_length=42)
    document: Json = Field(sa_type=JSON_TYPE)
    created_ms: int = Field(sa_type=BigInteger)


class JobEventRow(SQLModel, table=True):
    """One event of a job's stream: status, log, metric, cost or receipt. The store numbers it."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_seq", "job_id", "seq"), NUMBERED)
    seq: int = Field(default=None, sa_type=Serial, primary_key=True)
    job_id: str
    type: str
    data: Json = Field(sa_type=JSON_TYPE)
    at_ms: int = Field(sa_type=BigInteger)


class BlobRow(SQLModel, table=True):
    """Bytes known by their SHA-256 that one account has uploaded; the bytes lie elsewhere."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("owner", "sha256", name="uq_blobs_owner_sha256"),)
    id: str = Field(primary_key=True, max_length=40)
    sha256: str = Field(index=True, max_length=64)
    owner: str = Field(max_length=42)
    size: int = Field(sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)


class IdempotentReplyRow(SQLModel, table=True):
    """The stored answer to one idempotency key of one account."""

    __tablename__ = "idempotent_replies"
    id: str = Field(primary_key=True, max_length=128)
    body_hash: str
    status: int
    headers: Json = Field(sa_type=JSON_TYPE)
    body: Json = Field(sa_type=JSON_TYPE)
    created_ms: int = Field(sa_type=BigInteger, index=True)


class MarkRow(SQLModel, table=True):
    """A named number that only grows: how far the matcher or another reader has come."""

    __tablename__ = "marks"
    name: str = Field(primary_key=True, max_length=64)
    value: int = Field(sa_type=BigInteger)


class IntentRow(SQLModel, table=True):
    """The outbox: effects wanted on chain. A nonce of a sender belongs to one intent for good."""

    __tablename__ = "intents"
    __table_args__ = (UniqueConstraint("sender", "nonce", name="uq_intents_sender_nonce"), NUMBERED)
    id: int = Field(default=None, sa_type=Serial, primary_key=True)
    kind: IntentKind = Field(sa_type=Word(IntentKind))
    key: str = Field(unique=True, max_length=200)
    payload: Json = Field(sa_type=JSON_TYPE)
    first_payload: Json = Field(sa_type=JSON_TYPE)
    state: IntentState = Field(sa_type=Word(IntentState), index=True)
    created_ms: int = Field(sa_type=BigInteger)
    sender: str | None = Field(default=None, max_length=42)
    nonce: int | None = Field(default=None, sa_type=BigInteger)
    raw: bytes | None = None
    tx_hash: str | None = None
    replaced: list[str] = Field(sa_type=JSON_TYPE)
    mined_hash: str | None = None
    block_number: int | None = Field(default=None, sa_type=BigInteger)
    block_hash: str | None = None
    attempts: int
    error: str | None = None


class ChainBlockRow(SQLModel, table=True):
    """Blocks the indexer has taken in."""

    __tablename__ = "chain_blocks"
    number: int = Field(sa_type=BigInteger, primary_key=True)
    hash: str
    parent_hash: str
    timestamp: int = Field(sa_type=BigInteger)


class ChainEventRow(SQLModel, table=True):
    """The escrow's events, in chain order by (block number, log index)."""

    __tablename__ = "chain_events"
    __table_args__ = (
        UniqueConstraint("block_hash", "log_index", name="uq_chain_events_block_log"),
        NUMBERED,
    )
    id: int = Field(default=None, sa_type=Serial, primary_key=True)
    block_number: int = Field(sa_type=BigInteger, index=True)
    block_hash: str
    tx_hash: str
    log_index: int
    name: str
    document: Json = Field(sa_type=JSON_TYPE)


class ChainEventLeaseRow(SQLModel, table=True):
    """Which leases an event touches."""

    __tablename__ = "chain_event_leases"
    event_id: int = Field(sa_type=Serial, primary_key=True, foreign_key="chain_events.id")
    lease_no: str = Field(primary_key=True, max_length=34, index=True)
