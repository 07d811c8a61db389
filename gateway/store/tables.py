"""The database's tables. Their history is in migrations/; a test holds the two together.

Times are unix seconds. Texts that could hold anything a stranger sent are kept as bytes or as ASCII-escaped
JSON, because PostgreSQL refuses a NUL character in text and one refused row would take its neighbours along.
Deliveries refer to events without a foreign key: both are written by one statement group of one module, and
the check would cost every insert.
"""

from __future__ import annotations

from typing import Any

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
    func,
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
    Column("id", _Serial, primary_key=True),
    # The order of a lane is the order of ids, which are given out while the lane is locked; a delivery that
    # the operator sent to the end of its lane has the number of that moment here, and stands in its place.
    Column("position", BigInteger),
    Column("event_id", BigInteger, nullable=False),
    Column("identity", LargeBinary, nullable=False),
    Column("connection", Text, nullable=False),
    # The region that the mapping asks for; empty leaves it to the connection.
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
    # For how long the connection had been paused by then, in all: pauses since do not count as failing.
    Column("paused_before", Double),
    Column("settled_at", Double),
    Column("reason", Text),
    sqlite_autoincrement=True,
)

# The conditions of the partial indexes, for the queries too: with a bound value in the place of a literal one
# SQLite cannot tell that the index applies, and reads the whole table.
IS_PENDING = deliveries.c.status == literal_column("'pending'")
IS_PARKED = deliveries.c.status == literal_column("'parked'")
IS_FAILED = deliveries.c.status == literal_column("'failed'")
IS_UNSETTLED = deliveries.c.status.in_((literal_column("'parked'"), literal_column("'pending'")))
IN_TWO_LANES = deliveries.c.other_lane.is_not(None) & IS_UNSETTLED
IS_BROKEN = events.c.status == literal_column("'failed'")


#: The place of a delivery in its lane.
PLACE = func.coalesce(deliveries.c.position, deliveries.c.id)


def _partial(name: str, *columns: ColumnElement[Any], where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


Index("deliveries_identity", deliveries.c.identity, unique=True)
Index("deliveries_event", deliveries.c.event_id)
# A lane has one head at most.
_partial("deliveries_head", deliveries.c.lane, where=IS_PENDING, unique=True)
_partial(
    "deliveries_other_head",
    deliveries.c.other_lane,
    where=IS_PENDING & deliveries.c.other_lane.is_not(None),
    unique=True,
)
_partial(
    "deliveries_due",
    deliveries.c.connection,
    deliveries.c.region,
    deliveries.c.due_at,
    deliveries.c.id,
    where=IS_PENDING,
)
_partial("deliveries_parked", deliveries.c.lane, PLACE, where=IS_PARKED & deliveries.c.lane.is_not(None))
_partial("deliveries_merge", deliveries.c.lane, PLACE, where=IN_TWO_LANES & deliveries.c.lane.is_not(None))
_partial("deliveries_other_merge", deliveries.c.other_lane, PLACE, where=IN_TWO_LANES)
_partial("deliveries_failed", deliveries.c.id, where=IS_FAILED)
_partial("events_failed", events.c.received_at, events.c.source, where=IS_BROKEN)

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
    # What was sent and answered, without credentials, in UTF-8; null unless a raw request asks for it.
    Column("debug", LargeBinary),
    sqlite_autoincrement=True,
)

#: One row a connection and region that deliveries go to: how the two of them are, for all workers alike.
connections = Table(
    "connections",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    # Why nothing is sent: unreachable | misconfigured | throttled | failing. Null: all is well.
    Column("cause", Text),
    Column("reason", Text),
    Column("paused_at", Double),
    # When a pause ends by itself, or when the next probe is due.
    Column("resumes_at", Double),
    # How many pauses in a row, without a success between: each is longer than the last.
    Column("level", Integer, nullable=False, server_default=text("0")),
    # The lanes that failed since the last success, as a JSON list.
    Column("suspects", Text, nullable=False, server_default=text("'[]'")),
    # Seconds of all pauses that have ended.
    Column("paused_for", Double, nullable=False, server_default=text("0")),
    # Who makes the one probe, and until when it is theirs.
    Column("probe", BigInteger),
    Column("probe_until", Double),
)

#: One row a change of state that the operator should know of, from its beginning to its end.
notices = Table(
    "notices",
    metadata,
    Column("id", _Serial, primary_key=True),
    # paused | failed | late | broken
    Column("kind", Text, nullable=False),
    # What it is about: a connection, a source, or nothing further.
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("began_at", Double, nullable=False),
    Column("ended_at", Double),
    # When it may be told next; null once it has been.
    Column("tell_at", Double),
    sqlite_autoincrement=True,
)

#: One row a source whose webhooks have been refused: the last reason, for the operator to see.
refusals = Table(
    "refusals",
    metadata,
    Column("source", Text, primary_key=True),
    # Of how many webhooks a process has told; of a flood it tells every few seconds.
    Column("times", BigInteger, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("problem", Text, nullable=False),
)

IS_OPEN = notices.c.ended_at.is_(None)
Index(
    "notices_open",
    notices.c.kind,
    notices.c.subject,
    unique=True,
    sqlite_where=IS_OPEN,
    postgresql_where=IS_OPEN,
)
