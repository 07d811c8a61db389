"""What the operator asks: which events and deliveries there are, and what became of each.

All of it only reads: it never holds up the receiver, however much there is to read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)

from gateway.store.database import Database, reading
from gateway.store.tables import IN_TWO_LANES, IS_PARKED, IS_PENDING, PLACE, attempts, deliveries, events

Status: TypeAlias = Literal["parked", "pending", "delivered", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("parked", "pending", "delivered", "failed", "cancelled")
EVENT_STATUSES = ("accepted", "ignored", "failed")

#: Among so many events, the newest of all, the last one of a source is looked for first.
NEWEST = 1_000


@dataclass(frozen=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries are meant; what is not said holds for all.

    Attributes:
        reason: A text within the reason, in capitals or not.
        since, until: When the event was received, in unix seconds; *until* is excluded.
    """

    statuses: tuple[Status, ...] = ()
    source: str | None = None
    connection: str | None = None
    reason: str | None = None
    event_id: int | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events are meant; what is not said holds for all. Times are as in a DeliveryFilter."""

    status: str | None = None
    source: str | None = None
    event_type: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class DeliveryEntry:
    """A delivery as a list shows it. Times are unix seconds.

    Attributes:
        received_at: When its event was received.
        leased: A worker is sending it.
        due_at: When it goes out next, if it is pending and not leased.
        call: As JSON text.
    """

    id: int
    event_id: int
    source: str
    received_at: float
    status: Status
    connection: str
    region: str | None
    call: str
    leased: bool
    due_at: float | None
    tries: int
    first_failed_at: float | None
    settled_at: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class AttemptEntry:
    """One HTTP try; *at* in unix seconds, *status* None when no whole answer came.

    Attributes:
        debug: What was sent and answered, where a raw request asks for it.
    """

    at: float
    seconds: float
    status: int | None
    reason: str | None
    debug: str | None


@dataclass(frozen=True, kw_only=True)
class DeliveryRecord:
    """All that is known of a delivery.

    Attributes:
        ahead: How many wait before it in its lanes; None when it waits no more.
    """

    entry: DeliveryEntry
    attempts: tuple[AttemptEntry, ...]
    ahead: int | None


@dataclass(frozen=True, kw_only=True)
class EventEntry:
    """An event as a list shows it; *calls* is the number of its deliveries."""

    id: int
    source: str
    received_at: float
    event_type: str | None
    status: str
    problem: str | None
    calls: int


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """All that is known of an event; headers and query are JSON, the body is what was sent."""

    entry: EventEntry
    key: bytes
    headers: bytes
    query: bytes
    body: bytes
    deliveries: tuple[DeliveryEntry, ...]


class Queries:
    """What one database keeps. Every method is one transaction that only reads.

    All raise StoreError when the database cannot be reached or used for now.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def deliveries(self, asked: DeliveryFilter, *, limit: int, before: int | None = None) -> list[DeliveryEntry]:
        """List deliveries, the newest first; *before* is the id of the last that is known already."""
        found = self._entries().where(*_conditions(asked)).order_by(deliveries.c.id.desc()).limit(limit)
        if before is not None:
            found = found.where(deliveries.c.id < before)
        with reading(self._database) as connection:
            return list(map(_entry, connection.execute(found)))

    def delivery(self, id_: int) -> DeliveryRecord | None:
        """Give a delivery with its attempts and its place; None when there is none of this id."""
        found = self._entries().add_columns(deliveries.c.lane, deliveries.c.other_lane, PLACE.label("place"))
        tries = select(attempts).where(attempts.c.delivery_id == id_).order_by(attempts.c.id)
        with reading(self._database) as connection:
            row = connection.execute(found.where(deliveries.c.id == id_)).one_or_none()
            if row is None:
                return None
            return DeliveryRecord(
                entry=_entry(row),
                attempts=tuple(map(_attempt, connection.execute(tries))),
                ahead=_ahead(connection, row),
            )

    def delivery_ids(self, asked: DeliveryFilter, *, limit: int | None = None) -> list[int]:
        """List the ids of deliveries in the order of their places, as they are to be worked through."""
        found = select(deliveries.c.id).where(*_conditions(asked)).order_by(PLACE).limit(limit)
        if asked.source is not None or asked.since is not None or asked.until is not None:
            found = found.join(events, events.c.id == deliveries.c.event_id)
        with reading(self._database) as connection:
            return list(connection.scalars(found))

    def events(self, asked: EventFilter, *, limit: int, before: int | None = None) -> list[EventEntry]:
        """List events, the newest first; *before* is the id of the last that is known already."""
        found = select(*_EVENT_COLUMNS).where(*_event_conditions(asked)).order_by(events.c.id.desc())
        if before is not None:
            found = found.where(events.c.id < before)
        with reading(self._database) as connection:
            return list(map(_event_entry, connection.execute(found.limit(limit))))

    def event(self, id_: int) -> EventRecord | None:
        """Give an event with what was received and its deliveries; None when there is none of this id."""
        found: Select[Any] = select(*_EVENT_COLUMNS, events.c.key, events.c.headers, events.c.query, events.c.body)
        its = self._entries().where(deliveries.c.event_id == id_).order_by(deliveries.c.id)
        with reading(self._database) as connection:
            row = connection.execute(found.where(events.c.id == id_)).one_or_none()
            if row is None:
                return None
            return EventRecord(
                entry=_event_entry(row),
                key=row.key,
                headers=row.headers,
                query=row.query,
                body=row.body,
                deliveries=tuple(map(_entry, connection.execute(its))),
            )

    def event_ids(self, asked: EventFilter, *, limit: int | None = None) -> list[int]:
        """List the ids of events in the order of their receipt."""
        found = select(events.c.id).where(*_event_conditions(asked)).order_by(events.c.id).limit(limit)
        with reading(self._database) as connection:
            return list(connection.scalars(found))

    def sources(self, ids: Sequence[int]) -> dict[int, str]:
        """Give the source of each event that there is."""
        found = select(events.c.id, events.c.source).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            rows = connection.execute(found, {"ids": self._database.numbers(ids)})
            return {row.id: row.source for row in rows}

    def last_events(self, names: Collection[str]) -> dict[str, EventEntry]:
        """Give the last event of each of these sources that has one."""
        found: Select[Any] = select(*_EVENT_COLUMNS).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            ids = {row.source: row.id for row in connection.execute(_last_of_newest)}
            asked = [ids.get(name) or connection.scalar(_last_of_source, {"name": name}) for name in names]
            given = self._database.numbers([id_ for id_ in asked if id_ is not None])
            rows = connection.execute(found, {"ids": given})
            return {row.source: _event_entry(row) for row in rows}

    def _entries(self) -> Select[Any]:
        its_lease_lasts = and_(deliveries.c.lease.is_not(None), deliveries.c.due_at > self._database.now)
        return select(
            *_DELIVERY_COLUMNS,
            its_lease_lasts.label("leased"),
        ).join_from(deliveries, events, events.c.id == deliveries.c.event_id)


_DELIVERY_COLUMNS = (
    deliveries.c.id,
    deliveries.c.event_id,
    events.c.source,
    events.c.received_at,
    deliveries.c.status,
    deliveries.c.connection,
    deliveries.c.region,
    deliveries.c.call,
    deliveries.c.due_at,
    deliveries.c.tries,
    deliveries.c.first_failed_at,
    deliveries.c.settled_at,
    deliveries.c.reason,
)
_calls = select(func.count()).where(deliveries.c.event_id == events.c.id).correlate(events)
_EVENT_COLUMNS: tuple[ColumnElement[Any], ...] = (
    events.c.id,
    events.c.source,
    events.c.received_at,
    events.c.event_type,
    events.c.status,
    events.c.problem,
    _calls.scalar_subquery().label("calls"),
)

# No index has the events of a source in their order, and an index for this alone would cost every insert. A source
# with much to do is among the newest events. One that is not there has few, or none: the index of (source, key)
# gives all of them. Asked for the plain max(id), a database may rather go back through the whole table to the first
# event of that source, hence the sum.
_newest = select(events.c.source, events.c.id).order_by(events.c.id.desc()).limit(NEWEST).subquery()
_last_of_newest = select(_newest.c.source, func.max(_newest.c.id).label("id")).group_by(_newest.c.source)
_last_of_source = select(func.max(events.c.id + 0)).where(events.c.source == bindparam("name"))


def _conditions(asked: DeliveryFilter) -> Iterator[ColumnElement[bool]]:
    if asked.statuses:
        # Written out, not bound: only so does SQLite see that a partial index serves.
        yield or_(*(deliveries.c.status == literal_column(f"'{status}'") for status in asked.statuses))
    if asked.connection is not None:
        yield deliveries.c.connection == asked.connection
    if asked.reason is not None:
        yield deliveries.c.reason.icontains(asked.reason, autoescape=True)
    if asked.event_id is not None:
        yield deliveries.c.event_id == asked.event_id
    yield from _received(asked.source, asked.since, asked.until)


def _event_conditions(asked: EventFilter) -> Iterator[ColumnElement[bool]]:
    if asked.status is not None:
        yield events.c.status == asked.status
    if asked.event_type is not None:
        yield events.c.event_type == asked.event_type
    yield from _received(asked.source, asked.since, asked.until)


def _received(source: str | None, since: float | None, until: float | None) -> Iterator[ColumnElement[bool]]:
    if source is not None:
        yield events.c.source == source
    if since is not None:
        yield events.c.received_at >= since
    if until is not None:
        yield events.c.received_at < until


def _ahead(connection: Connection, row: Row[Any]) -> int | None:
    """Count the deliveries that have to be settled before this one may go out."""
    if row.status not in ("parked", "pending"):
        return None
    lanes = [lane for lane in (row.lane, row.other_lane) if lane is not None]
    # Three conditions, so that each finds its index.
    stands = or_(
        and_(IS_PARKED, deliveries.c.lane.in_(lanes)),
        and_(IS_PENDING, deliveries.c.lane.in_(lanes)),
        and_(IN_TWO_LANES, deliveries.c.other_lane.in_(lanes)),
    )
    return connection.scalar(select(func.count()).where(stands, row.place > PLACE))


def _entry(row: Row[Any]) -> DeliveryEntry:
    leased = row.status == "pending" and bool(row.leased)
    return DeliveryEntry(
        id=row.id,
        event_id=row.event_id,
        source=row.source,
        received_at=row.received_at,
        status=row.status,
        connection=row.connection,
        region=row.region or None,
        call=row.call,
        leased=leased,
        due_at=row.due_at if row.status == "pending" and not leased else None,
        tries=row.tries,
        first_failed_at=row.first_failed_at,
        settled_at=row.settled_at,
        reason=row.reason,
    )


def _attempt(row: Row[Any]) -> AttemptEntry:
    return AttemptEntry(
        at=row.at,
        seconds=row.seconds,
        status=row.status,
        reason=row.reason,
        debug=None if row.debug is None else row.debug.decode(),
    )


def _event_entry(row: Row[Any]) -> EventEntry:
    return EventEntry(
        id=row.id,
        source=row.source,
        received_at=row.received_at,
        event_type=row.event_type,
        status=row.status,
        problem=row.problem,
        calls=row.calls,
    )
