"""How reliable a node's provider has been, in thousandths; a newcomer's figure for those there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    column = sa.Column("reliability_milli", sa.Integer(), nullable=False, server_default="950")
    op.add_column("nodes", column)


def downgrade() -> None:
    """Take it away."""
    op.drop_column("nodes", "reliability_milli")
