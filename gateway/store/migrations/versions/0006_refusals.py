"""The webhooks that were refused, by source."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "refusals",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("times", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
    )
