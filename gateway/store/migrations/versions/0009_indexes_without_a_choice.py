"""Each index of what is not settled can be used by one kind of query only, whatever the statistics say."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Narrow two indexes, and drop the one by first lanes of merges, for which that of parked deliveries does."""
    _narrow("deliveries_head", ["lane"], "status = 'pending' AND lane IS NOT NULL", unique=True)
    _narrow(
        "deliveries_due", ["connection", "region", "queue", "due_at", "id"], "status = 'pending' AND region IS NOT NULL"
    )
    op.drop_index("deliveries_merge", "deliveries")


def _narrow(name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.drop_index(name, "deliveries")
    op.create_index(name, "deliveries", columns, unique=unique, sqlite_where=where, postgresql_where=where)
