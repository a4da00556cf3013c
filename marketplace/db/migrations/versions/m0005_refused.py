"""How many attestations of a lease were refused; only the newest are kept as rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what was refused before is not counted."""
    column = sa.Column("refused_count", sa.Integer(), nullable=False, server_default="0")
    op.add_column("leases", column)


def downgrade() -> None:
    """Take it away."""
    op.drop_column("leases", "refused_count")
