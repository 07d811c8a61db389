"""An attempt keeps what was sent and answered where that was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is empty for nearly all."""
    op.add_column("attempts", sa.Column("debug", sa.LargeBinary))
