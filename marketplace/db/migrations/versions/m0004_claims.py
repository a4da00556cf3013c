"""Claims on leases, and orders that were cancelled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from settlement.eip712 import ZERO_ADDRESS

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what the services keep of claims and cancels; rows that are there have none."""
    zero = sa.text("0")
    nobody = sa.text(f"'{ZERO_ADDRESS}'")
    with op.batch_alter_table("leases") as leases:
        leases.add_column(
            sa.Column("arbiter", sa.String(42), nullable=False, server_default=nobody)
        )
        leases.add_column(
            sa.Column("claimed_ms", sa.BigInteger(), nullable=False, server_default=zero)
        )
        leases.add_column(sa.Column("claim", sa.JSON(none_as_null=True), nullable=True))
        leases.create_index("ix_leases_arbiter", ["arbiter"])
    with op.batch_alter_table("bids") as bids:
        bids.add_column(sa.Column("cancelled_ms", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("accounts") as accounts:
        accounts.add_column(
            sa.Column("orders_from", sa.BigInteger(), nullable=False, server_default=zero)
        )


def downgrade() -> None:
    """Forget claims and cancels."""
    with op.batch_alter_table("accounts") as accounts:
        accounts.drop_column("orders_from")
    with op.batch_alter_table("bids") as bids:
        bids.drop_column("cancelled_ms")
    with op.batch_alter_table("leases") as leases:
        leases.drop_index("ix_leases_arbiter")
        leases.drop_column("claim")
        leases.drop_column("claimed_ms")
        leases.drop_column("arbiter")
