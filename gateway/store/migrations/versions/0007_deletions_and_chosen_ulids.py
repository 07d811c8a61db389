"""Deletions, after which no older call to the person is sent; and the ULIDs that mappings chose, one call each."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_UNDER_WAY_OR_DELIVERED = "status IN ('parked', 'pending', 'delivered')"
_IS_DELETION = f"deleted_at IS NOT NULL AND {_UNDER_WAY_OR_DELIVERED}"
_HOLDS_ULID = f"chosen_ulid IS NOT NULL AND ({_UNDER_WAY_OR_DELIVERED} OR status = 'failed' AND tries > 0)"


def upgrade() -> None:
    """Add the columns, which are null for what was recorded before, and their indexes."""
    op.add_column("deliveries", sa.Column("deleted_at", sa.Double))
    op.add_column("deliveries", sa.Column("chosen_ulid", sa.Text))
    _index("deliveries_deletion", ["lane", "deleted_at"], f"{_IS_DELETION} AND lane IS NOT NULL")
    _index("deliveries_other_deletion", ["other_lane", "deleted_at"], f"{_IS_DELETION} AND other_lane IS NOT NULL")
    _index("deliveries_ulid", ["chosen_ulid", "connection"], _HOLDS_ULID, unique=True)


def _index(name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "deliveries", columns, unique=unique, sqlite_where=where, postgresql_where=where)
