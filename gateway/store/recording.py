"""Record webhooks: insert events and, behind what waits in their lanes, deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, select

from gateway.event import NewDelivery
from gateway.store.database import Database
from gateway.store.lanes import Lanes
from gateway.store.tables import deliveries, events

EventStatus: TypeAlias = Literal["accepted", "ignored", "failed"]

EVENT_COLUMNS = ("source", "key", "received_at", "headers", "query", "body", "event_type", "status", "problem")
DELIVERY_COLUMNS = ("event_id", "identity", "connection", "region", "lane", "other_lane", "call", "status")


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """A webhook to record together with its deliveries.

    Attributes:
        key: The SHA-256 of the event key; an event is unique by (source, key).
        received_at: In unix seconds.
        headers, query: JSON objects without secrets.
        problem: Why the mapping failed on the webhook or ignored it, or why its body cannot be read.
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


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The id of a webhook's event, or of the event that a duplicate repeats."""

    id: int
    duplicate: bool


class Recording:
    """Inserts events and deliveries, in transactions that hold the locks of the deliveries' lanes."""

    def __init__(self, database: Database) -> None:
        self._lanes = Lanes(database)
        self._insert_events = database.compile_insert(events, EVENT_COLUMNS, returning=("source", "key", "id"))
        self._insert_deliveries = database.compile_insert(deliveries, DELIVERY_COLUMNS, now=("due_at",))

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
            recorded.append(Recorded(id=ids[key], duplicate=key not in fresh))
            fresh.discard(key)
        return recorded

    def _ids_of(self, connection: Connection, keys: set[tuple[str, bytes]]) -> dict[tuple[str, bytes], int]:
        # Column by column, which may find some more: for pairs of values SQLite uses its index for the source only.
        sources, hashes = {source for source, _ in keys}, {hash_ for _, hash_ in keys}
        query = select(events.c.source, events.c.key, events.c.id)
        query = query.where(events.c.source.in_(sources), events.c.key.in_(hashes))
        return {(row.source, row.key): row.id for row in connection.execute(query)}

    def insert_deliveries(self, connection: Connection, new_deliveries: Sequence[tuple[int, NewDelivery]]) -> None:
        """Insert deliveries, each with the id of its event, at the ends of their lanes."""
        if not new_deliveries:
            return
        statuses = self._lanes.join(connection, [delivery.lanes for _, delivery in new_deliveries])
        rows = [
            delivery_row(event_id, delivery, status)
            for (event_id, delivery), status in zip(new_deliveries, statuses, strict=True)
        ]
        if self._insert_deliveries.run(connection, rows) < len(rows):
            # A delivery with a known identity was left out, and the one behind it may be first in its lane now.
            self._lanes.promote(connection, {lane for _, delivery in new_deliveries for lane in delivery.lanes})


_event_row = attrgetter(*EVENT_COLUMNS)


def delivery_row(event_id: int, delivery: NewDelivery, status: str) -> tuple[Any, ...]:
    """Return the values of DELIVERY_COLUMNS."""
    lane, other_lane = (*delivery.lanes, None, None)[:2]
    target = (delivery.connection, delivery.region or "")
    return (event_id, delivery.identity, *target, lane, other_lane, delivery.text, status)
