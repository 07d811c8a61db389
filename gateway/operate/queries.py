"""What operators ask: which events and deliveries there are, and what became of each.

Everything here only reads, so it never delays a webhook.
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
    case,
    func,
    literal_column,
    null,
    or_,
    select,
)

from gateway.store.database import Database, reading
from gateway.store.tables import IN_TWO_LANES, IS_PARKED, IS_PENDING, PLACE, attempts, deliveries, events

Status: TypeAlias = Literal["parked", "pending", "delivered", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("parked", "pending", "delivered", "failed", "cancelled")
EVENT_STATUSES = ("accepted", "ignored", "failed")

#: The last event of a source is searched among this many newest events first.
NEWEST = 1_000


@dataclass(frozen=True, kw_only=True)
class DeliveryFilter:
    """Which deliveries to list; None and () select all.

    Attributes:
        reason: A text within the reason; upper and lower case are equal.
        since, until: Bounds of when the event was received, in unix seconds; *until* is excluded.
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
    """Which events to list; None selects all. Times are as in a DeliveryFilter."""

    status: str | None = None
    source: str | None = None
    event_type: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class DeliverySummary:
    """A delivery as a list shows it. Times are unix seconds.

    Attributes:
        received_at: When its event was received.
        leased: A worker is sending it.
        due_at: When it is sent next, if it is pending and not leased.
        call: As JSON text.
        tries: Attempts so far.
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
class AttemptDetails:
    """One HTTP attempt.

    Attributes:
        at: In unix seconds; *seconds* is how long it took.
        status: The HTTP status; None: no complete answer.
        debug: The request and the answer, where a raw request asks for them.
    """

    at: float
    seconds: float
    status: int | None
    reason: str | None
    debug: str | None


@dataclass(frozen=True, kw_only=True)
class DeliveryDetails:
    """A delivery with its attempts.

    Attributes:
        ahead: How many deliveries wait before it in its lanes; None: it does not wait.
    """

    summary: DeliverySummary
    attempts: tuple[AttemptDetails, ...]
    ahead: int | None


@dataclass(frozen=True, kw_only=True)
class EventSummary:
    """An event as a list shows it; *calls* is the number of its deliveries."""

    id: int
    source: str
    received_at: float
    event_type: str | None
    status: str
    problem: str | None
    calls: int


@dataclass(frozen=True, kw_only=True)
class EventDetails:
    """An event as it was received, with its deliveries; headers and query are JSON."""

    summary: EventSummary
    key: bytes
    headers: bytes
    query: bytes
    body: bytes
    deliveries: tuple[DeliverySummary, ...]


class Queries:
    """Reads the events and deliveries of one database. Every method is one transaction.

    All raise StoreError when the database cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        is_leased = and_(
            deliveries.c.status == "pending", deliveries.c.lease.is_not(None), deliveries.c.due_at > database.now
        )
        is_waiting = and_(deliveries.c.status == "pending", ~func.coalesce(is_leased, False))
        columns: dict[str, ColumnElement[Any]] = {
            "id": deliveries.c.id,
            "event_id": deliveries.c.event_id,
            "source": events.c.source,
            "received_at": events.c.received_at,
            "status": deliveries.c.status,
            "connection": deliveries.c.connection,
            "region": func.nullif(deliveries.c.region, ""),
            "call": deliveries.c.call,
            "leased": is_leased,
            "due_at": case((is_waiting, deliveries.c.due_at), else_=null()),
            "tries": deliveries.c.tries,
            "first_failed_at": deliveries.c.first_failed_at,
            "settled_at": deliveries.c.settled_at,
            "reason": deliveries.c.reason,
        }
        labelled = [column.label(name) for name, column in columns.items()]
        self._select_deliveries = select(*labelled).join_from(deliveries, events, events.c.id == deliveries.c.event_id)

    def deliveries(self, wanted: DeliveryFilter, *, limit: int, before: int | None = None) -> list[DeliverySummary]:
        """Return deliveries, newest first; *before* is the id of the last one of the previous page."""
        statement = self._select_deliveries.where(*_delivery_conditions(wanted))
        if before is not None:
            statement = statement.where(deliveries.c.id < before)
        with reading(self._database) as connection:
            return _delivery_summaries(connection, statement.order_by(deliveries.c.id.desc()).limit(limit))

    def delivery(self, id_: int) -> DeliveryDetails | None:
        """Return a delivery with its attempts and its place; None: there is none with this id."""
        columns = (attempts.c.at, attempts.c.seconds, attempts.c.status, attempts.c.reason, attempts.c.debug)
        select_attempts = select(*columns).where(attempts.c.delivery_id == id_).order_by(attempts.c.id)
        select_place: Select[Any] = select(
            deliveries.c.status, deliveries.c.lane, deliveries.c.other_lane, PLACE.label("place")
        )
        with reading(self._database) as connection:
            summaries = _delivery_summaries(connection, self._select_deliveries.where(deliveries.c.id == id_))
            if not summaries:
                return None
            place = connection.execute(select_place.where(deliveries.c.id == id_)).one()
            return DeliveryDetails(
                summary=summaries[0],
                attempts=tuple(
                    AttemptDetails(**{**row._mapping, "debug": None if row.debug is None else row.debug.decode()})
                    for row in connection.execute(select_attempts)
                ),
                ahead=_count_ahead(connection, place),
            )

    def delivery_ids(self, wanted: DeliveryFilter, *, limit: int | None = None) -> list[int]:
        """Return the ids of deliveries in the order of their places, which is the order to work in."""
        statement = select(deliveries.c.id).where(*_delivery_conditions(wanted)).order_by(PLACE).limit(limit)
        if wanted.source is not None or wanted.since is not None or wanted.until is not None:
            statement = statement.join(events, events.c.id == deliveries.c.event_id)
        with reading(self._database) as connection:
            return list(connection.scalars(statement))

    def events(self, wanted: EventFilter, *, limit: int, before: int | None = None) -> list[EventSummary]:
        """Return events, newest first; *before* is the id of the last one of the previous page."""
        statement = select(*_EVENT_COLUMNS).where(*_event_conditions(wanted)).order_by(events.c.id.desc())
        if before is not None:
            statement = statement.where(events.c.id < before)
        with reading(self._database) as connection:
            return [EventSummary(**row._mapping) for row in connection.execute(statement.limit(limit))]

    def event(self, id_: int) -> EventDetails | None:
        """Return an event as it was received, with its deliveries; None: there is none with this id."""
        select_summary: Select[Any] = select(*_EVENT_COLUMNS).where(events.c.id == id_)
        select_content = select(events.c.key, events.c.headers, events.c.query, events.c.body).where(events.c.id == id_)
        select_own = self._select_deliveries.where(deliveries.c.event_id == id_).order_by(deliveries.c.id)
        with reading(self._database) as connection:
            summary = connection.execute(select_summary).one_or_none()
            content = connection.execute(select_content).one_or_none()
            if summary is None or content is None:
                return None
            return EventDetails(
                summary=EventSummary(**summary._mapping),
                **content._mapping,
                deliveries=tuple(_delivery_summaries(connection, select_own)),
            )

    def event_ids(self, wanted: EventFilter, *, limit: int | None = None) -> list[int]:
        """Return the ids of events in the order in which they were received."""
        statement = select(events.c.id).where(*_event_conditions(wanted)).order_by(events.c.id).limit(limit)
        with reading(self._database) as connection:
            return list(connection.scalars(statement))

    def sources(self, event_ids: Sequence[int]) -> dict[int, str]:
        """Return the source of each event that exists, by its id."""
        statement = select(events.c.id, events.c.source).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            rows = connection.execute(statement, {"ids": self._database.numbers(event_ids)})
            return {row.id: row.source for row in rows}

    def last_events(self, sources: Collection[str]) -> dict[str, EventSummary]:
        """Return the last event of each of these sources that has one."""
        statement: Select[Any] = select(*_EVENT_COLUMNS).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            newest = {row.source: row.id for row in connection.execute(_last_of_newest)}
            ids = [
                newest.get(source) or connection.scalar(_last_of_source, {"of_source": source}) for source in sources
            ]
            known = self._database.numbers([id_ for id_ in ids if id_ is not None])
            rows = connection.execute(statement, {"ids": known})
            return {row.source: EventSummary(**row._mapping) for row in rows}


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

# No index holds the events of a source in their order, and one for this query alone would cost every insert. A busy
# source is among the newest events. Another one has few events, or none: the index of (source, key) finds them. With
# the plain max(id) a database may go back through the whole table to the first event of the source: hence the sum.
_newest = select(events.c.source, events.c.id).order_by(events.c.id.desc()).limit(NEWEST).subquery()
_last_of_newest = select(_newest.c.source, func.max(_newest.c.id).label("id")).group_by(_newest.c.source)
_last_of_source = select(func.max(events.c.id + 0)).where(events.c.source == bindparam("of_source"))


def _delivery_summaries(connection: Connection, statement: Select[Any]) -> list[DeliverySummary]:
    return [DeliverySummary(**{**row._mapping, "leased": bool(row.leased)}) for row in connection.execute(statement)]


def _delivery_conditions(wanted: DeliveryFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.statuses:
        # As literals, not as parameters: only then SQLite uses its partial indexes.
        yield or_(*(deliveries.c.status == literal_column(f"'{status}'") for status in wanted.statuses))
    if wanted.connection is not None:
        yield deliveries.c.connection == wanted.connection
    if wanted.reason is not None:
        yield deliveries.c.reason.icontains(wanted.reason, autoescape=True)
    if wanted.event_id is not None:
        yield deliveries.c.event_id == wanted.event_id
    yield from _received_conditions(wanted)


def _event_conditions(wanted: EventFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.status is not None:
        yield events.c.status == wanted.status
    if wanted.event_type is not None:
        yield events.c.event_type == wanted.event_type
    yield from _received_conditions(wanted)


def _received_conditions(wanted: DeliveryFilter | EventFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.source is not None:
        yield events.c.source == wanted.source
    if wanted.since is not None:
        yield events.c.received_at >= wanted.since
    if wanted.until is not None:
        yield events.c.received_at < wanted.until


def _count_ahead(connection: Connection, row: Row[Any]) -> int | None:
    """Count the deliveries that have to be settled before this one can be sent."""
    if row.status not in ("parked", "pending"):
        return None
    lanes = [lane for lane in (row.lane, row.other_lane) if lane is not None]
    # Three conditions, so that each uses its index.
    is_in_lanes = or_(
        and_(IS_PARKED, deliveries.c.lane.in_(lanes)),
        and_(IS_PENDING, deliveries.c.lane.in_(lanes)),
        and_(IN_TWO_LANES, deliveries.c.other_lane.in_(lanes)),
    )
    return connection.scalar(select(func.count()).where(is_in_lanes, row.place > PLACE))
