"""The database's tables. Their history is in migrations/; a test compares the two.

Times are unix seconds. What a sender could fill with anything is stored as bytes or as ASCII-escaped JSON: PostgreSQL
refuses a NUL character in text, and one refused row makes its whole group fail. Deliveries refer to events without a
foreign key: one module writes both, and the check would cost every insert.
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
    or_,
    text,
)

metadata = MetaData()

# SQLite gives out ids only in a column that is declared INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

#: One row for each webhook: what arrived, and the result of its translation. Only a replay changes it.
events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("source", Text, nullable=False),
    # SHA-256 of the event key: a sender's keys may be of any size.
    Column("key", LargeBinary, nullable=False),
    Column("received_at", Double, nullable=False),
    # JSON objects; secrets are redacted.
    Column("headers", LargeBinary, nullable=False),
    Column("query", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # Shortened and made printable: for people, not for decisions.
    Column("event_type", Text),
    # accepted | ignored | failed
    Column("status", Text, nullable=False),
    Column("problem", Text),
    # SHA-256 of the body, where what is not signed says which type it has.
    Column("content", LargeBinary),
    UniqueConstraint("source", "key", name="events_source_key"),
    sqlite_autoincrement=True,
)

#: One row for each call. Rows are short because they are updated several times, which on PostgreSQL copies them.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Serial, primary_key=True),
    # The order of a lane is the order of ids, which are given out while the lane is locked. A delivery that the
    # operator retries goes to the end of its lane: it gets a new id here, which counts in the place of its own.
    Column("position", BigInteger),
    Column("event_id", BigInteger, nullable=False),
    Column("identity", LargeBinary, nullable=False),
    Column("connection", Text, nullable=False),
    # The region that the mapping asks for; empty: the connection's own.
    Column("region", Text),
    # Null: the call has no order. A call in two lanes (a merge) has the second in other_lane.
    Column("lane", BigInteger),
    Column("other_lane", BigInteger),
    Column("call", Text, nullable=False),
    # parked | pending | delivered | failed | cancelled
    Column("status", Text, nullable=False),
    # Where it waits for its turn; see RETRIED.
    Column("queue", Text, nullable=False, server_default=text("''")),
    # When a pending delivery may be claimed; while it is leased, when the lease ends.
    Column("due_at", Double, nullable=False),
    # The token of the lease: an outcome with another token is not written.
    Column("lease", BigInteger),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("first_failed_at", Double),
    # Seconds for which the connection had been paused by then: later pauses do not count as failing.
    Column("paused_before", Double),
    Column("settled_at", Double),
    Column("reason", Text),
    # The ULID of a call whose mapping chose it.
    Column("chosen_ulid", Text),
    sqlite_autoincrement=True,
)

#: Two of the queues of a connection, between which workers share what they can send. What is live waits in the queue
#: of its source; what has failed by itself in RETRIED, and what operators send in bulk in BULK: neither holds up the
#: others. No source can have these names. Queues decide nothing about the order of a lane.
RETRIED, BULK = "~retried", "~bulk"

# The conditions of the partial indexes, also for queries. They are literals: with a bound value SQLite cannot know that
# the index applies, and reads the whole table.
IS_PENDING = deliveries.c.status == literal_column("'pending'")
IS_PARKED = deliveries.c.status == literal_column("'parked'")
IS_FAILED = deliveries.c.status == literal_column("'failed'")
IS_UNSETTLED = deliveries.c.status.in_((literal_column("'parked'"), literal_column("'pending'")))
IN_TWO_LANES = deliveries.c.other_lane.is_not(None) & IS_UNSETTLED
# No delivery lacks a region: the condition is there for the index, as below.
IS_QUEUED = IS_PENDING & deliveries.c.region.is_not(None)
IS_BROKEN = events.c.status == literal_column("'failed'")
IS_ON_ITS_WAY = deliveries.c.status.in_([literal_column(f"'{word}'") for word in ("parked", "pending", "delivered")])
# Customer.io has the call's ULID, may have it, or will have it. A call that failed without a try was never sent.
HOLDS_ULID = deliveries.c.chosen_ulid.is_not(None) & or_(
    IS_ON_ITS_WAY, IS_FAILED & (deliveries.c.tries > literal_column("0"))
)


#: A delivery's place in its lane.
PLACE = func.coalesce(deliveries.c.position, deliveries.c.id)


def _partial(name: str, *columns: ColumnElement[Any], where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


Index("deliveries_identity", deliveries.c.identity, unique=True)
Index("deliveries_event", deliveries.c.event_id)
# Each index of what is not settled names one of its columns in its condition. Only a query for that column can use it,
# and none has a choice that statistics could make wrong: those of an empty table make all indexes look alike, and a
# lane was then searched for in the index of all that is due.
# A lane has at most one head, whatever the code does.
_lane, _other_lane = deliveries.c.lane, deliveries.c.other_lane
_partial("deliveries_head", _lane, where=IS_PENDING & _lane.is_not(None), unique=True)
_partial("deliveries_other_head", _other_lane, where=IS_PENDING & _other_lane.is_not(None), unique=True)
_target = (deliveries.c.connection, deliveries.c.region)
_due = (deliveries.c.queue, deliveries.c.due_at, deliveries.c.id)
_partial("deliveries_due", *_target, *_due, where=IS_QUEUED)
_partial("deliveries_parked", _lane, PLACE, where=IS_PARKED & _lane.is_not(None))
_partial("deliveries_other_merge", _other_lane, PLACE, where=IN_TWO_LANES)
# Of two calls with one ULID, Customer.io would drop the second.
_partial("deliveries_ulid", deliveries.c.chosen_ulid, deliveries.c.connection, where=HOLDS_ULID, unique=True)
_partial("deliveries_failed", deliveries.c.id, where=IS_FAILED)
_partial("events_content", events.c.source, events.c.content, where=events.c.content.is_not(None))
_partial("events_failed", events.c.received_at, events.c.source, where=IS_BROKEN)

#: One row for each lane whose person a delivery deletes: older calls to them are not sent. In a column of deliveries it
#: would cost each statement of a lane twice the time, because PostgreSQL's planner looks at all indexes of a table.
deletions = Table(
    "deletions",
    metadata,
    Column("lane", BigInteger, primary_key=True, autoincrement=False),
    Column("delivery_id", BigInteger, primary_key=True, autoincrement=False, index=True),
    # When the person was deleted.
    Column("deleted_at", Double, nullable=False),
)

#: One row for each HTTP try of a delivery.
attempts = Table(
    "attempts",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("delivery_id", BigInteger, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("status", Integer),
    Column("reason", Text),
    # The request and the response, without credentials, in UTF-8; null unless a raw request asks for it.
    Column("debug", LargeBinary),
    sqlite_autoincrement=True,
)

#: One row for each connection and region that deliveries go to: its state, shared by all workers.
connections = Table(
    "connections",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    # Why it is paused: unreachable | misconfigured | throttled | failing. Null: it is open.
    Column("cause", Text),
    Column("reason", Text),
    Column("paused_at", Double),
    # When a pause ends by itself, or when the next probe is due.
    Column("resumes_at", Double),
    # Pauses without a success between them: each is longer than the one before.
    Column("level", Integer, nullable=False, server_default=text("0")),
    # The lanes that failed since the last success, as a JSON list.
    Column("suspects", Text, nullable=False, server_default=text("'[]'")),
    # When the first of them failed.
    Column("failing_since", Double),
    # Seconds of all pauses that have ended.
    Column("paused_for", Double, nullable=False, server_default=text("0")),
    # The token of the right to probe, and until when it lasts.
    Column("probe", BigInteger),
    Column("probe_until", Double),
)

#: One row for each connection with a rate: until when the requests of all workers together are booked.
rates = Table(
    "rates",
    metadata,
    Column("connection", Text, primary_key=True),
    Column("booked_until", Double, nullable=False),
)

#: One row for each change of state that the operator should know of, from its beginning to its end.
notices = Table(
    "notices",
    metadata,
    Column("id", _Serial, primary_key=True),
    # paused | failed | late | broken | repeats
    Column("kind", Text, nullable=False),
    # A connection, a source, or empty.
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("began_at", Double, nullable=False),
    Column("ended_at", Double),
    # When it is sent next; null: it has been sent.
    Column("tell_at", Double),
    sqlite_autoincrement=True,
)

#: One row for each source whose webhooks were refused: the last reason, for the operator.
refusals = Table(
    "refusals",
    metadata,
    Column("source", Text, primary_key=True),
    # How many webhooks were refused; a process adds its own every few seconds.
    Column("times", BigInteger, nullable=False),
    Column("last_at", Double, nullable=False),
    Column("problem", Text, nullable=False),
)

IS_OPEN = notices.c.ended_at.is_(None)
_partial("notices_open", notices.c.kind, notices.c.subject, where=IS_OPEN, unique=True)
