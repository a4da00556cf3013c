"""The whole market: accounts, orders, jobs, leases, their streams, and what the chain says."""

import sqlalchemy as sa
from alembic import op

from marketplace.db.types import Atoms, Serial

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("address", sa.String(42), primary_key=True),
        sa.Column("next_salt", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("orders_from", sa.BigInteger(), nullable=False),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("account", sa.String(42), nullable=False, index=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("spend_cap", Atoms(), nullable=True),
        sa.Column("spent", Atoms(), nullable=False),
        sa.UniqueConstraint("account", "nonce", name="uq_api_keys_account_nonce"),
    )


def _bids() -> None:
    op.create_table(
        "bids",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("account", sa.String(42), nullable=False, index=True),
        sa.Column("job_id", sa.String(), nullable=False, index=True),
        sa.Column("hash", sa.String(66), nullable=False, unique=True),
        sa.Column("salt", sa.String(), nullable=False),
        sa.Column("message", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("expiry_s", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("cancelled_ms", sa.BigInteger(), nullable=True),
        sa.UniqueConstraint("account", "salt", name="uq_bids_account_salt"),
    )


def _blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("owner", sa.String(42), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("owner", "sha256", name="uq_blobs_owner_sha256"),
    )


def _idempotent_replies() -> None:
    op.create_table(
        "idempotent_replies",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("body_hash", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False, index=True),
    )


def _job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("seq", Serial, primary_key=True),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_events_job_seq", "job_events", ["job_id", "seq"])


def _marks() -> None:
    op.create_table(
        "marks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )


def _book_snapshots() -> None:
    op.create_table(
        "book_snapshots",
        sa.Column("seq", sa.BigInteger(), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("provider", sa.String(42), nullable=False, index=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("tier", sa.String(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("cpu_milli", sa.BigInteger(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("storage_mib", sa.BigInteger(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("interval_ms", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("reliability_milli", sa.Integer(), nullable=False),
        sa.UniqueConstraint("provider", "number", name="uq_nodes_provider_number"),
    )


def _order_log() -> None:
    op.create_table(
        "order_log",
        sa.Column("seq", Serial, primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False, index=True),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sqlite_autoincrement=True,
    )


def _asks() -> None:
    op.create_table(
        "asks",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("provider", sa.String(42), nullable=False, index=True),
        sa.Column("node_id", sa.String(), sa.ForeignKey("nodes.id"), nullable=False, index=True),
        sa.Column("hash", sa.String(66), nullable=False, unique=True),
        sa.Column("tier", sa.String(), nullable=False, index=True),
        sa.Column("meter", sa.String(42), nullable=False),
        sa.Column("message", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("expiry_s", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )


def _gpus() -> None:
    op.create_table(
        "gpus",
        sa.Column("uuid", sa.String(96), primary_key=True),
        sa.Column("node_id", sa.String(), sa.ForeignKey("nodes.id"), nullable=False, index=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("account", sa.String(42), nullable=False, index=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("bid_id", sa.String(), sa.ForeignKey("bids.id"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("job_hash", sa.String(), nullable=False),
        sa.Column("lease_id", sa.String(), nullable=True),
        sa.Column("ending", sa.String(), nullable=True),
        sa.Column("requeue_after", sa.String(), nullable=True),
        sa.Column("excluded", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("explanation", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("outputs", sa.String(), nullable=True, index=True),
        sa.Column("reserve", Atoms(), nullable=False),
        sa.Column("spent", Atoms(), nullable=False),
        sa.Column("key_charge", Atoms(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("rest_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("retry_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("matched_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("finished_ms", sa.BigInteger(), nullable=True),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("lease_no", sa.String(34), nullable=False, unique=True),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("bid_id", sa.String(), sa.ForeignKey("bids.id"), nullable=False),
        sa.Column("ask_id", sa.String(), sa.ForeignKey("asks.id"), nullable=False, index=True),
        sa.Column("node_id", sa.String(), sa.ForeignKey("nodes.id"), nullable=False, index=True),
        sa.Column("buyer", sa.String(42), nullable=False, index=True),
        sa.Column("provider", sa.String(42), nullable=False, index=True),
        sa.Column("witness", sa.String(42), nullable=False, index=True),
        sa.Column("meter", sa.String(42), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("rate", Atoms(), nullable=False),
        sa.Column("prices", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("lock", Atoms(), nullable=False),
        sa.Column("gpu_milli", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("funded_seconds", sa.BigInteger(), nullable=False),
        sa.Column("max_seconds", sa.BigInteger(), nullable=False),
        sa.Column("start_limit_seconds", sa.BigInteger(), nullable=False),
        sa.Column("budget_limited", sa.Boolean(), nullable=False),
        sa.Column("metered", sa.Boolean(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("units_cap", sa.BigInteger(), nullable=False),
        sa.Column("egress_cap_mib", sa.BigInteger(), nullable=False),
        sa.Column("interval_ms", sa.Integer(), nullable=False),
        sa.Column("previous", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("start_s", sa.BigInteger(), nullable=True),
        sa.Column("end_s", sa.BigInteger(), nullable=True),
        sa.Column("ready_ms", sa.BigInteger(), nullable=True),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("attested", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("countersigned", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("settled", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("released", Atoms(), nullable=False),
        sa.Column("refunded", Atoms(), nullable=False),
        sa.Column("stop_requested", sa.String(), nullable=True),
        sa.Column("stop_requested_ms", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat_count", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger(), nullable=True),
        sa.Column("witness_ms", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("finished_ms", sa.BigInteger(), nullable=True),
        sa.Column("close", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("meter_signature", sa.String(), nullable=True),
        sa.Column("witness_signature", sa.String(), nullable=True),
        sa.Column("stop_signature", sa.String(), nullable=True),
        sa.Column("log_next", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("opened_tx", sa.String(), nullable=True),
        sa.Column("closed_tx", sa.String(), nullable=True),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
        sa.Column("refused_count", sa.Integer(), nullable=False),
        sa.UniqueConstraint("bid_id", "ask_id", name="uq_leases_bid_ask"),
    )


def _attestations() -> None:
    op.create_table(
        "attestations",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("lease_id", sa.String(), sa.ForeignKey("leases.id"), nullable=False, index=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("ms", Atoms(), nullable=False),
        sa.Column("message", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("voucher", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("voucher_signature", sa.String(), nullable=True),
    )
    op.create_index(
        "uq_attestations_accepted",
        "attestations",
        ["lease_id", "sequence"],
        unique=True,
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    )


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("job_id", sa.String(), sa.ForeignKey("jobs.id"), nullable=False, index=True),
        sa.Column("lease_id", sa.String(), sa.ForeignKey("leases.id"), nullable=False, unique=True),
        sa.Column("buyer", sa.String(42), nullable=False, index=True),
        sa.Column("provider", sa.String(42), nullable=False, index=True),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
    )


def _vouchers() -> None:
    op.create_table(
        "vouchers",
        sa.Column("lease_id", sa.String(40), sa.ForeignKey("leases.id"), primary_key=True),
        sa.Column("attestation_id", sa.String(), nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.Column("egress_mib", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.Boolean(), nullable=False, index=True),
        sa.Column("intent", sa.String(), nullable=True),
    )


def _chain_blocks() -> None:
    op.create_table(
        "chain_blocks",
        sa.Column("number", sa.BigInteger(), primary_key=True),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("parent_hash", sa.String(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
    )


def _chain_events() -> None:
    op.create_table(
        "chain_events",
        sa.Column("id", Serial, primary_key=True),
        sa.Column("block_number", sa.BigInteger(), nullable=False, index=True),
        sa.Column("block_hash", sa.String(), nullable=False),
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.UniqueConstraint("block_hash", "log_index", name="uq_chain_events_block_log"),
        sqlite_autoincrement=True,
    )


def _intents() -> None:
    op.create_table(
        "intents",
        sa.Column("id", Serial, primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False, unique=True),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("first_payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False, index=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("sender", sa.String(42), nullable=True),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("tx_hash", sa.String(), nullable=True),
        sa.Column("replaced", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("mined_hash", sa.String(), nullable=True),
        sa.Column("block_number", sa.BigInteger(), nullable=True),
        sa.Column("block_hash", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.UniqueConstraint("sender", "nonce", name="uq_intents_sender_nonce"),
        sqlite_autoincrement=True,
    )


def _chain_event_leases() -> None:
    op.create_table(
        "chain_event_leases",
        sa.Column("event_id", Serial, sa.ForeignKey("chain_events.id"), primary_key=True),
        sa.Column("lease_no", sa.String(34), index=True, primary_key=True),
    )


TABLES = (
    _accounts,
    _api_keys,
    _bids,
    _blobs,
    _idempotent_replies,
    _job_events,
    _marks,
    _nodes,
    _order_log,
    _book_snapshots,
    _asks,
    _gpus,
    _jobs,
    _leases,
    _attestations,
    _receipts,
    _vouchers,
    _chain_blocks,
    _chain_events,
    _intents,
    _chain_event_leases,
)


def upgrade() -> None:
    """Create every table, referenced ones first."""
    for create in TABLES:
        create()


def downgrade() -> None:
    """Drop them in the opposite order."""
    for create in reversed(TABLES):
        op.drop_table(create.__name__.removeprefix("_"))
