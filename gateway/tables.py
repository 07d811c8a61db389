"""The database's tables. Their history is in migrations/; a test holds the two together.

Times are unix seconds. Texts that could hold anything a stranger sent are kept as bytes or as ASCII-escaped
JSON, because PostgreSQL refuses a NUL character in text and one refused row would take its neighbours along.
Deliveries refer to events without a foreign key: both are written by one statement group of one module, and
the check would cost every insert.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData()

# SQLite counts rowids only in a column that is declared INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

#: One row a webhook, never changed but by a replay: what arrived, and what translation made of it.
events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("source", Text, nullable=False),
    # SHA-256 of the event key: keys are made by strangers and may be of any size.
    Column("key", LargeBinary, nullable=False),
    Column("received_at", Double, nullable=False),
    # JSON objects, secrets redacted.
    Column("headers", LargeBinary, nullable=False),
    Column("query", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # The kind of event, shortened and made printable: for people, not for decisions.
    Column("event_type", Text),
    # accepted | ignored | failed
    Column("status", Text, nullable=False),
    Column("problem", Text),
    UniqueConstraint("source", "key", name="events_source_key"),
    sqlite_autoincrement=True,
)

#: One row a call that we are responsible for. Narrow: it is written several times.
deliveries = Table(
    "deliveries",
    metadata,
    # The order of a lane is the order of ids: they are given out while the lane is locked.
    Column("id", _Serial, primary_key=True),
    Column("event_id", BigInteger, nullable=False),
    Column("identity", LargeBinary, nullable=False),
    Column("connection", Text, nullable=False),
    Column("region", Text),
    # Null: no order is kept. A call that stands in two lanes (a merge) has its second in other_lane.
    Column("lane", BigInteger),
    Column("other_lane", BigInteger),
    Column("call", Text, nullable=False),
    # parked | pending | delivered | failed | cancelled
    Column("status", Text, nullable=False),
    # When a pending delivery may be claimed; while it is leased, when the lease ends.
    Column("due_at", Double, nullable=False),
    # Who holds the lease: settlement by anybody else is refused.
    Column("lease", BigInteger),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("first_failed_at", Double),
    Column("settled_at", Double),
    Column("reason", Text),
    sqlite_autoincrement=True,
)

# The conditions of the partial indexes, for the queries too: with a bound value in the place of a literal one
# SQLite cannot tell that the index applies, and reads the whole table.
IS_PENDING = deliveries.c.status == literal_column("'pending'")
IS_PARKED = deliveries.c.status == literal_column("'parked'")
IS_UNSETTLED = deliveries.c.status.in_((literal_column("'parked'"), literal_column("'pending'")))
_IN_TWO_LANES = deliveries.c.other_lane.is_not(None) & IS_UNSETTLED


def _partial(name: str, *columns: str, where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(
        name,
        *(deliveries.c[column] for column in columns),
        unique=unique,
        sqlite_where=where,
        postgresql_where=where,
    )


Index("deliveries_identity", deliveries.c.identity, unique=True)
Index("deliveries_event", deliveries.c.event_id)
# A lane has one head at most.
_partial("deliveries_head", "lane", where=IS_PENDING, unique=True)
_partial("deliveries_other_head", "other_lane", where=IS_PENDING, unique=True)
_partial("deliveries_due", "due_at", "id", where=IS_PENDING)
_partial("deliveries_parked", "lane", "id", where=IS_PARKED)
_partial("deliveries_merge", "lane", "id", where=_IN_TWO_LANES)
_partial("deliveries_other_merge", "other_lane", "id", where=_IN_TWO_LANES)

#: One row an HTTP try of a delivery.
attempts = Table(
    "attempts",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("delivery_id", BigInteger, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("status", Integer),
    Column("reason", Text),
    sqlite_autoincrement=True,
)
