"""Queues, so that claims are shared fairly; one rate for all workers; and since when a connection is in trouble."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_IS_PENDING = sa.text("status = 'pending'")


def upgrade() -> None:
    """Add the columns and the table. What was recorded before is one queue of its own, without a name."""
    op.add_column("deliveries", sa.Column("queue", sa.Text, nullable=False, server_default=sa.text("''")))
    op.drop_index("deliveries_due", "deliveries")
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["connection", "region", "queue", "due_at", "id"],
        sqlite_where=_IS_PENDING,
        postgresql_where=_IS_PENDING,
    )
    op.add_column("connections", sa.Column("failing_since", sa.Double))
    op.create_table(
        "rates",
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("booked_until", sa.Double, nullable=False),
    )
