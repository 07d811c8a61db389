"""What an event holds, where its type is not signed: the same content must not come back as a deletion."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_HAS_CONTENT = sa.text("content IS NOT NULL")


def upgrade() -> None:
    """Add the column, which is null for what was recorded before."""
    op.add_column("events", sa.Column("content", sa.LargeBinary))
    op.create_index(
        "events_content",
        "events",
        ["source", "content"],
        sqlite_where=_HAS_CONTENT,
        postgresql_where=_HAS_CONTENT,
    )
