"""Failed events are found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index the events that a mapping failed on, by the time of their receipt."""
    failed = sa.text("status = 'failed'")
    columns = ["received_at", "source"]
    op.create_index("events_failed", "events", columns, sqlite_where=failed, postgresql_where=failed)
