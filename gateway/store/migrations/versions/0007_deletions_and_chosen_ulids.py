"""Deletions, after which no older call to the person is sent; and the ULIDs that mappings chose, one call each."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_IS_ON_ITS_WAY = "status IN ('parked', 'pending', 'delivered')"
_HOLDS_ULID = sa.text(f"chosen_ulid IS NOT NULL AND ({_IS_ON_ITS_WAY} OR status = 'failed' AND tries > 0)")


def upgrade() -> None:
    """Create the table, and a column that is null for what was recorded before."""
    op.create_table(
        "deletions",
        sa.Column("lane", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("delivery_id", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
        sa.Column("deleted_at", sa.Double, nullable=False),
    )
    op.add_column("deliveries", sa.Column("chosen_ulid", sa.Text))
    op.create_index(
        "deliveries_ulid",
        "deliveries",
        ["chosen_ulid", "connection"],
        unique=True,
        sqlite_where=_HOLDS_ULID,
        postgresql_where=_HOLDS_ULID,
    )
