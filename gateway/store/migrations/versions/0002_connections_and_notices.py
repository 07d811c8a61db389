"""Connections that pause, notices, and a place at the end of a lane."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables, and index what is due by where it goes."""
    op.create_table(
        "connections",
        sa.Column("connection", sa.Text, primary_key=True),
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("cause", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("paused_at", sa.Double),
        sa.Column("resumes_at", sa.Double),
        sa.Column("level", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("suspects", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("paused_for", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("probe", sa.BigInteger),
        sa.Column("probe_until", sa.Double),
    )
    op.create_table(
        "notices",
        sa.Column("id", _serial, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("tell_at", sa.Double),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "notices_open",
        "notices",
        ["kind", "subject"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.add_column("deliveries", sa.Column("position", sa.BigInteger))
    op.add_column("deliveries", sa.Column("paused_before", sa.Double))
    op.execute("UPDATE deliveries SET region = '' WHERE region IS NULL")
    op.execute("INSERT INTO connections (connection, region) SELECT DISTINCT connection, region FROM deliveries")
    for name in ("due", "parked", "merge", "other_merge"):
        op.drop_index(f"deliveries_{name}", "deliveries")
    place = sa.text("coalesce(position, id)")
    pending, parked = "status = 'pending'", "status = 'parked'"
    in_two_lanes = "other_lane IS NOT NULL AND status IN ('parked', 'pending')"
    _partial_index("deliveries_due", ["connection", "region", "due_at", "id"], pending)
    _partial_index("deliveries_parked", ["lane", place], parked)
    _partial_index("deliveries_merge", ["lane", place], in_two_lanes)
    _partial_index("deliveries_other_merge", ["other_lane", place], in_two_lanes)
    _partial_index("deliveries_failed", ["id"], "status = 'failed'")
    if op.get_context().dialect.name == "postgresql":
        # By default a fifth of a table may be dead rows before it is vacuumed, and claims read past them all.
        op.execute(
            "ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)"
        )


def _partial_index(name: str, columns: list[str | sa.TextClause], where: str) -> None:
    op.create_index(name, "deliveries", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
