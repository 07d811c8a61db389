"""Each index of second lanes holds what only its own queries ask for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IN_TWO_LANES = "other_lane IS NOT NULL AND status IN ('parked', 'pending')"


def upgrade() -> None:
    """Make the indexes of calls in two lanes such that no planner can mistake one for another.

    With nearly all pending calls in one lane, SQLite's statistics made the index of second heads look of no use,
    and the table was read whole; PostgreSQL went through a whole index by first lanes in search of a second.
    """
    _replace("deliveries_other_head", ["other_lane"], "status = 'pending' AND other_lane IS NOT NULL", unique=True)
    place = sa.text("coalesce(position, id)")
    _replace("deliveries_parked", ["lane", place], "status = 'parked' AND lane IS NOT NULL")
    _replace("deliveries_merge", ["lane", place], f"{_IN_TWO_LANES} AND lane IS NOT NULL")


def _replace(name: str, columns: list[str | sa.TextClause], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.drop_index(name, "deliveries")
    op.create_index(name, "deliveries", columns, unique=unique, sqlite_where=where, postgresql_where=where)
