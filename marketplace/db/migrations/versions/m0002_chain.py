"""The relayer's outbox and what the indexer reads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from marketplace.db.types import Serial

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _chain_blocks() -> None:
    op.create_table(
        "chain_blocks",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("parent_hash", sa.String(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )


def _chain_events() -> None:
    op.create_table(
        "chain_events",
        sa.Column("id", Serial, nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("block_hash", sa.String(), nullable=False),
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("block_hash", "log_index", name="uq_chain_events_block_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chain_events_block_number", "chain_events", ["block_number"])


def _intents() -> None:
    op.create_table(
        "intents",
        sa.Column("id", Serial, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("first_payload", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
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
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        sa.UniqueConstraint("sender", "nonce", name="uq_intents_sender_nonce"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_intents_state", "intents", ["state"])


def _chain_event_leases() -> None:
    op.create_table(
        "chain_event_leases",
        sa.Column("event_id", Serial, nullable=False),
        sa.Column("lease_no", sa.String(34), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "lease_no"),
        sa.ForeignKeyConstraint(["event_id"], ["chain_events.id"]),
    )
    op.create_index("ix_chain_event_leases_lease_no", "chain_event_leases", ["lease_no"])


TABLES = (
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
