"""Record webhooks: insert events and, behind what waits in their lanes, deliveries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from sqlalchemy import BigInteger, BindParameter, Connection, Double, bindparam, func, select

from gateway.event import NewDelivery
from gateway.store.chosen_ulids import ulid_holders
from gateway.store.database import Database
from gateway.store.lanes import Lanes
from gateway.store.tables import deletions, deliveries, events

EventStatus: TypeAlias = Literal["accepted", "ignored", "failed"]

EVENT_COLUMNS = (
    *("source", "key", "received_at", "headers", "query", "body"),
    *("event_type", "status", "problem", "content"),
)
DELIVERY_COLUMNS = (
    *("event_id", "identity", "connection", "region", "lane", "other_lane"),
    *("call", "chosen_ulid", "queue", "status"),
)


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """A webhook to record together with its deliveries.

    Attributes:
        key: The SHA-256 of the event key; an event is unique by (source, key).
        received_at: In unix seconds.
        headers, query: JSON objects without secrets.
        problem: Why the mapping failed on the webhook or ignored it, or why its body cannot be read.
        content: The SHA-256 of the body, where what is not signed says which type it has.
        erases: It has a call that deletes somebody or something: no event of another type may have the same *content*.
        retyped: One had it.
    """

    source: str
    key: bytes
    received_at: float
    headers: bytes
    query: bytes
    body: bytes
    event_type: str | None
    status: EventStatus
    problem: str | None = None
    deliveries: tuple[NewDelivery, ...] = ()
    content: bytes | None = None
    erases: bool = False
    retyped: bool = False


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What became of a webhook.

    Attributes:
        id: The id of its event, or of the event that a duplicate repeats.
        unsent: Its calls that are recorded but not sent.
        problem: Why it was recorded as failed, without its calls.
    """

    id: int
    duplicate: bool
    problem: str | None = None
    unsent: tuple[UnsentDelivery, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UnsentDelivery:
    """A call that is recorded but not sent, with the reason.

    Attributes:
        status: ``cancelled``, or ``failed`` where the operator has something to do.
    """

    event_id: int
    delivery: NewDelivery
    status: Literal["cancelled", "failed"]
    reason: str


#: The problem of an event that deletes somebody by a body which is known under another type.
RETYPED = (
    "the same body came as '{}' before ({}), and this sender does not sign the type: somebody may have captured it and"
    " sent it again as a deletion, so nothing is deleted. If it is genuine, replay this event"
)


class Recording:
    """Inserts events and deliveries, in transactions that hold the locks of the deliveries' lanes."""

    def __init__(self, database: Database) -> None:
        self._lanes = Lanes(database)
        self._insert_events = database.compile_insert(events, EVENT_COLUMNS, returning=("source", "key", "id"))
        self._insert_deliveries = database.compile_insert(deliveries, DELIVERY_COLUMNS, now=("due_at",))
        lane = bindparam("of_lane", type_=BigInteger())
        at: BindParameter[float] = bindparam("at", type_=Double())
        deletion = select(lane, deliveries.c.id, at).where(deliveries.c.identity == bindparam("of_identity"))
        insert = database.insert(deletions).from_select(["lane", "delivery_id", "deleted_at"], deletion)
        self._insert_deletions = insert.on_conflict_do_nothing()
        self._insert_unsent = database.compile_insert(
            deliveries, (*DELIVERY_COLUMNS, "reason"), now=("due_at", "settled_at")
        )

    def insert_events(self, connection: Connection, new_events: Sequence[NewEvent]) -> list[Recorded]:
        """Insert the events whose key is new; return for each webhook its event's id."""
        # Of several webhooks with one key the first is inserted. The rows are sorted by key: each group inserts in
        # the same order, so that two groups which wait for each other's keys cannot deadlock.
        rows = {(event.source, event.key): _event_row(event) for event in reversed(new_events)}
        inserted = self._insert_events.rows(connection, [rows[key] for key in sorted(rows)])
        ids = {(source, key): id_ for source, key, id_ in inserted}
        fresh = set(ids)
        if known := rows.keys() - fresh:
            ids |= self._ids_of(connection, known)
        recorded = []
        for event in new_events:
            key = (event.source, event.key)
            problem = event.problem if event.retyped else None
            recorded.append(Recorded(id=ids[key], duplicate=key not in fresh, problem=problem))
            fresh.discard(key)
        return recorded

    def without_retyped(self, connection: Connection, new_events: Sequence[NewEvent]) -> list[NewEvent]:
        """Return the events, those as failed that delete somebody by a body which is known under another type.

        Whoever has captured a webhook whose type is not signed could send it again as a deletion.
        """
        if not any(event.erases and event.content is not None for event in new_events):
            return list(new_events)
        types: dict[tuple[str, bytes | None], tuple[str | None, str]] = {}
        checked = []
        for event in new_events:
            content = (event.source, event.content)
            if event.erases and event.content is not None:
                known = types.get(content)
                if known is None or known[0] == event.event_type:
                    known = self._other_type(connection, event)
                if known is not None:
                    event = replace(event, status="failed", problem=RETYPED.format(*known), deliveries=(), retyped=True)
            elif event.content is not None:
                types[content] = (event.event_type, "another one of this moment")
            checked.append(event)
        return checked

    def _other_type(self, connection: Connection, event: NewEvent) -> tuple[str | None, str] | None:
        """Return type and id of an event with the same content and another type."""
        query = select(events.c.event_type, events.c.id)
        query = query.where(events.c.source == event.source, events.c.content == event.content)
        query = query.where(func.coalesce(events.c.event_type, "") != (event.event_type or ""))
        row = connection.execute(query.order_by(events.c.id).limit(1)).one_or_none()
        return None if row is None else (row.event_type, f"event {row.id}")

    def _ids_of(self, connection: Connection, keys: set[tuple[str, bytes]]) -> dict[tuple[str, bytes], int]:
        # Column by column, which may find some more: for pairs of values SQLite uses its index for the source only.
        sources, hashes = {source for source, _ in keys}, {hash_ for _, hash_ in keys}
        query = select(events.c.source, events.c.key, events.c.id)
        query = query.where(events.c.source.in_(sources), events.c.key.in_(hashes))
        return {(row.source, row.key): row.id for row in connection.execute(query)}

    def insert_deliveries(
        self, connection: Connection, new_deliveries: Sequence[tuple[int, NewDelivery]]
    ) -> list[UnsentDelivery]:
        """Insert deliveries, each with the id of its event, at the ends of their lanes; return those not to be sent."""
        if not new_deliveries:
            return []
        lanes = {lane for _, delivery in new_deliveries for lane in delivery.lanes}
        states = self._lanes.states(connection, lanes)
        to_send, rows, unsent = [], [], []
        for event_id, delivery in new_deliveries:
            if reason := states.why_undone(delivery.lanes, delivery.happened_at):
                unsent.append(UnsentDelivery(event_id=event_id, delivery=delivery, status="cancelled", reason=reason))
            else:
                to_send.append((event_id, delivery))
                rows.append(delivery_row(event_id, delivery, states.join(delivery.lanes, delivery.deleted_at)))
        if rows and self._insert_deliveries.run(connection, rows) < len(rows):
            # A delivery with a known identity was left out, or one whose ULID another delivery holds, and the one
            # behind it may be first in its lane now.
            self._lanes.promote(connection, lanes)
            unsent += _without_ulid(connection, to_send)
        self.insert_deletions(connection, [delivery for _, delivery in new_deliveries])
        self.insert_unsent(connection, unsent)
        return unsent

    def insert_deletions(self, connection: Connection, inserted: Iterable[NewDelivery]) -> None:
        """Note whom deliveries delete that have just been inserted."""
        rows = [
            {"of_lane": lane, "at": delivery.deleted_at, "of_identity": delivery.identity}
            for delivery in inserted
            if delivery.deleted_at is not None
            for lane in delivery.lanes
        ]
        if rows:
            connection.execute(self._insert_deletions, rows)

    def insert_unsent(self, connection: Connection, unsent: Sequence[UnsentDelivery]) -> None:
        """Insert deliveries that are settled already; of one with a known identity, the first stays."""
        if unsent:
            rows = [
                (*delivery_row(refused.event_id, refused.delivery, refused.status), refused.reason)
                for refused in unsent
            ]
            self._insert_unsent.run(connection, rows)


def _without_ulid(
    connection: Connection, new_deliveries: Sequence[tuple[int, NewDelivery]]
) -> Iterator[UnsentDelivery]:
    """Yield the deliveries whose ULID a delivery with another content holds."""
    ulids = {delivery.chosen_ulid for _, delivery in new_deliveries if delivery.chosen_ulid is not None}
    holders = ulid_holders(connection, ulids)
    for event_id, delivery in new_deliveries:
        holder = holders.get((delivery.connection, delivery.chosen_ulid or ""))
        if holder is not None and holder.identity != delivery.identity:
            reason = holder.objection(counts_once=delivery.counts_once)
            status: Literal["cancelled", "failed"] = "cancelled" if delivery.counts_once else "failed"
            yield UnsentDelivery(event_id=event_id, delivery=delivery, status=status, reason=reason)


_event_row = attrgetter(*EVENT_COLUMNS)


def delivery_row(event_id: int, delivery: NewDelivery, status: str) -> tuple[Any, ...]:
    """Return the values of DELIVERY_COLUMNS."""
    lane, other_lane = (*delivery.lanes, None, None)[:2]
    target = (delivery.connection, delivery.region or "")
    content = (delivery.text, delivery.chosen_ulid, delivery.queue)
    return (event_id, delivery.identity, *target, lane, other_lane, *content, status)
