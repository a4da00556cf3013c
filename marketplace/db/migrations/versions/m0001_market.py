"""The whole market: accounts, orders, jobs, leases, their streams, and what the chain says."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from marketplace.db.types import Atoms, Serial

revision = "0001"
down_revision = None

# The columns of each table, referenced tables first: name, type, and what else is said of it.
# `text42` has at most 42 characters, `?` may be null, `>nodes.id` refers to that column.
TABLES = {
    "accounts": """
        address text42 key, next_salt big, created_ms big, orders_from big, last_call text200?
    """,
    "api_keys": """
        id text40 key, account text42 index, name text, secret_hash text64 unique, hint text,
        scopes text, nonce text, created_ms big, expires_ms big?, revoked_ms big?,
        spend_cap atoms?, spent atoms
    """,
    "bids": """
        id text40 key, account text42 index, job_id text index, hash text66 unique, salt text,
        message json, signature text, expiry_s big, created_ms big, cancelled_ms big?
    """,
    "blobs": "id text40 key, sha256 text64 index, owner text42, size big, created_ms big",
    "idempotent_replies": """
        id text128 key, body_hash text, status int, headers json, body json,
        created_ms big index
    """,
    "job_events": "seq serial key, job_id text, type text, data json, at_ms big",
    "marks": "name text64 key, value big",
    "nodes": """
        id text40 key, provider text42 index, number big, name text, region text, tier text,
        gpu_count int, simulated bool, cpu_milli big, memory_mib big, storage_mib big,
        runtime text, shared bool, meter text42?, interval_ms int, state text, seen_ms big,
        created_ms big, reliability_milli int
    """,
    "order_log": "seq serial key, kind text, subject text index, payload json, at_ms big",
    "book_snapshots": "seq big key, data bytes",
    "asks": """
        id text40 key, provider text42 index, node_id text >nodes.id index, hash text66 unique,
        tier text index, meter text42, message json, signature text, state text index,
        reason text?, expiry_s big, created_ms big
    """,
    "gpus": """
        uuid text96 key, node_id text >nodes.id index, position int, model text, memory_mib big,
        simulated bool
    """,
    "jobs": """
        id text40 key, account text42 index, key_id text?, bid_id text >bids.id, name text,
        state text index, reason text?, detail text?, spec json, job_hash text, lease_id text?,
        ending text?, requeue_after text?, excluded json, explanation json?, exit_code int?,
        outputs text? index, reserve atoms, spent atoms, key_charge atoms, created_ms big,
        rest_until_ms big?, retry_until_ms big?, matched_ms big?, started_ms big?,
        finished_ms big?
    """,
    "leases": """
        id text40 key, lease_no text34 unique, seq big, job_id text >jobs.id index,
        bid_id text >bids.id, ask_id text >asks.id index, node_id text >nodes.id index,
        buyer text42 index, provider text42 index, witness text42 index, meter text42,
        state text index, reason text?, rate atoms, prices json, lock atoms, gpu_milli big,
        gpus json, paid_seconds big, max_seconds big, start_limit_seconds big,
        budget_limited bool, metered bool, unit text, units_cap big, egress_cap_mib big,
        interval_ms int, previous json?, created_ms big, start_s big?, end_s big?, ready_ms big?,
        notice_seconds int?, notice_ms big?, seen_ms big, sequence big, attested json,
        countersigned json, settled json, released atoms, refunded atoms, stop_requested text?,
        stop_requested_ms big?, again bool, stopped_ms big? index, stopped_by text?,
        heartbeat_count big, heartbeat_ms big?, witness_ms big?, outcome json?, finished_ms big?,
        close json?, meter_signature text?, witness_signature text?, stop_signature text?,
        log_next json, opened_tx text?, closed_tx text?, closed_ms big?, refused_count int
    """,
    "attestations": """
        id text40 key, lease_id text >leases.id index, sequence big, state text, code text?,
        ms atoms, message json, signature text, received_ms big, voucher json?,
        voucher_signature text?
    """,
    "receipts": """
        id text40 key, job_id text >jobs.id index, lease_id text >leases.id unique,
        buyer text42 index, provider text42 index, document json, created_ms big
    """,
    "vouchers": """
        lease_id text40 key >leases.id, attestation_id text, ms big, egress_mib big, units big,
        signature text, received_ms big, paid bool index, intent text?
    """,
    "chain_blocks": "number big key, hash text, parent_hash text, timestamp big",
    "chain_events": """
        id serial key, block_number big index, block_hash text, tx_hash text, log_index int,
        name text, document json
    """,
    "intents": """
        id serial key, kind text, key text200 unique, payload json, first_payload json,
        state text index, created_ms big, sender text42?, nonce big?, raw bytes?, tx_hash text?,
        replaced json, mined_hash text?, block_number big?, block_hash text?, attempts int,
        error text?
    """,
    "chain_event_leases": "event_id serial key >chain_events.id, lease_no text34 key index",
}
UNIQUE_PAIRS = {
    "api_keys": ("uq_api_keys_account_nonce", "account", "nonce"),
    "bids": ("uq_bids_account_salt", "account", "salt"),
    "blobs": ("uq_blobs_owner_sha256", "owner", "sha256"),
    "chain_events": ("uq_chain_events_block_log", "block_hash", "log_index"),
    "intents": ("uq_intents_sender_nonce", "sender", "nonce"),
    "leases": ("uq_leases_bid_ask", "bid_id", "ask_id"),
    "nodes": ("uq_nodes_provider_number", "provider", "number"),
}
NUMBERED = ("chain_events", "intents", "job_events", "order_log")  # never twice the same number
TYPES: dict[str, Any] = {
    "atoms": Atoms(), "big": sa.BigInteger(), "bool": sa.Boolean(), "bytes": sa.LargeBinary(),
    "int": sa.Integer(), "json": sa.JSON(none_as_null=True), "serial": Serial,
}  # fmt: skip


def _column(said: str) -> "sa.Column[Any]":
    name, kind, *more = said.split()
    word = kind.removesuffix("?")
    return sa.Column(
        name,
        sa.String(int(word[4:] or 0) or None) if word.startswith("text") else TYPES[word],
        *(sa.ForeignKey(flag[1:]) for flag in more if flag.startswith(">")),
        primary_key="key" in more,
        index="index" in more or None,
        unique="unique" in more or None,
        nullable=kind.endswith("?"),
    )


def upgrade() -> None:
    """Create every table, referenced ones first."""
    for table, said in TABLES.items():
        columns = [_column(column) for column in said.split(",")]
        name, *pair = UNIQUE_PAIRS.get(table, ("",))
        unique = [sa.UniqueConstraint(*pair, name=name)] if pair else []
        op.create_table(table, *columns, *unique, sqlite_autoincrement=table in NUMBERED)
    op.create_index("ix_job_events_job_seq", "job_events", ["job_id", "seq"])
    accepted = sa.text("state = 'accepted'")
    op.create_index(
        "uq_attestations_accepted",
        "attestations",
        ["lease_id", "sequence"],
        unique=True,
        sqlite_where=accepted,
        postgresql_where=accepted,
    )


def downgrade() -> None:
    """Drop them in the opposite order."""
    for table in reversed(TABLES):
        op.drop_table(table)
