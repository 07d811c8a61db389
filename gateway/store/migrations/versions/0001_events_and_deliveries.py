"""Events, deliveries and attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables and the indexes of the hot queries."""
    op.create_table(
        "events",
        sa.Column("id", _serial, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("query", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("event_type", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("problem", sa.Text),
        sa.UniqueConstraint("source", "key", name="events_source_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", _serial, primary_key=True),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        sa.Column("identity", sa.LargeBinary, nullable=False),
        sa.Column("connection", sa.Text, nullable=False),
        sa.Column("region", sa.Text),
        sa.Column("lane", sa.BigInteger),
        sa.Column("other_lane", sa.BigInteger),
        sa.Column("call", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("lease", sa.BigInteger),
        sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("first_failed_at", sa.Double),
        sa.Column("settled_at", sa.Double),
        sa.Column("reason", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "attempts",
        sa.Column("id", _serial, primary_key=True),
        sa.Column("delivery_id", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attempts_delivery_id", "attempts", ["delivery_id"])
    op.create_index("deliveries_identity", "deliveries", ["identity"], unique=True)
    op.create_index("deliveries_event", "deliveries", ["event_id"])
    pending, parked = "status = 'pending'", "status = 'parked'"
    in_two_lanes = "other_lane IS NOT NULL AND status IN ('parked', 'pending')"
    _partial_index("deliveries_head", ["lane"], pending, unique=True)
    _partial_index("deliveries_other_head", ["other_lane"], pending, unique=True)
    _partial_index("deliveries_due", ["due_at", "id"], pending)
    _partial_index("deliveries_parked", ["lane", "id"], parked)
    _partial_index("deliveries_merge", ["lane", "id"], in_two_lanes)
    _partial_index("deliveries_other_merge", ["other_lane", "id"], in_two_lanes)


def _partial_index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name,
        "deliveries",
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
