"""Events and deliveries, and the order of the lanes: the only module that asks the database anything.

Two invariants hold after every transaction: a lane with unsettled deliveries has exactly one that is first,
and a delivery is pending exactly when it is first in every lane that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    ScalarSelect,
    bindparam,
    case,
    func,
    insert,
    null,
    select,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database import Database, readable_errors
from gateway.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.tables import IS_PARKED, IS_PENDING, IS_UNSETTLED, attempts, deliveries, events

EventStatus: TypeAlias = Literal["accepted", "ignored", "failed"]


@dataclass(frozen=True, kw_only=True)
class NewDelivery:
    """A call to record; *lanes* are the one or two in which it keeps its order, or none."""

    identity: bytes
    connection: str
    region: str | None
    lanes: tuple[int, ...]
    call: str


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """A webhook to record together with its deliveries; *key* is the SHA-256 of its event key."""

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
    """What became of a webhook: its event's id, or that of the event it repeats."""

    id: int
    duplicate: bool


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that we alone may send until its lease ends.

    Attributes:
        tries: Attempts that were made before.
        failing_for: Seconds since the first of them that failed.
    """

    id: int
    lease: int
    connection: str
    region: str | None
    lanes: tuple[int, ...]
    call: str
    tries: int
    failing_for: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attempt of a claimed delivery came to."""

    delivery: Claimed
    attempt: Attempt
    decision: Decision


class Store:
    """The events and deliveries of one database. Every method is one transaction.

    All raise StoreError when the database cannot be reached or used for now.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._postgresql = database.engine.dialect.name == "postgresql"
        self._insert = postgresql.insert if self._postgresql else sqlite.insert

    def record(self, batch: Sequence[NewEvent]) -> list[Recorded]:
        """Record webhooks and their deliveries, all or none; a repeat of an event key records nothing."""
        with self._writing() as connection:
            fresh = self._insert_events(connection, batch)
            recorded = self._name(connection, batch, fresh)
            made = [
                (outcome.id, delivery)
                for outcome, new in zip(recorded, batch, strict=True)
                if not outcome.duplicate
                for delivery in new.deliveries
            ]
            woken = self._insert_deliveries(connection, made)
        if woken:
            self._notify()
        return recorded

    def settle_and_claim(
        self, outcomes: Sequence[Outcome], *, limit: int, lease: int, seconds: float
    ) -> list[Claimed]:
        """Write outcomes, promote what waited behind them, then lease up to *limit* deliveries that are due.

        Args:
            lease: The token of the new leases.
            seconds: How long they last.
        """
        with self._writing() as connection:
            if outcomes:
                self._settle(connection, outcomes)
            return self._claim(connection, limit=limit, lease=lease, seconds=seconds) if limit else []

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Give leases back unused, so that others need not wait for their end."""
        if not claimed:
            return
        with self._writing() as connection:
            connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.id.in_([each.id for each in claimed]),
                    deliveries.c.lease.in_({each.lease for each in claimed}),
                )
                .values(lease=null(), due_at=self._database.now)
            )
        self._notify()

    def due_in(self) -> float | None:
        """Tell in how many seconds the next delivery may be claimed; None when none is pending."""
        first = select(func.min(deliveries.c.due_at)).where(IS_PENDING).scalar_subquery()
        with self._reading() as connection:
            due: float | None = connection.scalar(select(first - self._database.now))
        return due

    def counts(self) -> dict[str, dict[str, int]]:
        """Count events and deliveries by their status. For people: it reads the tables whole."""
        with self._reading() as connection:
            return {
                table.name: {
                    row.status: row.number
                    for row in connection.execute(
                        select(table.c.status, func.count().label("number")).group_by(table.c.status)
                    )
                }
                for table in (events, deliveries)
            }

    # Recording

    def _insert_events(
        self, connection: Connection, batch: Sequence[NewEvent]
    ) -> dict[tuple[str, bytes], int]:
        """Insert what is new and give its ids. In the order of the keys: two groups never wait crosswise."""
        rows = {(new.source, new.key): _event_row(new) for new in reversed(batch)}
        statement = self._insert(events).on_conflict_do_nothing()
        returning = statement.returning(events.c.source, events.c.key, events.c.id)
        inserted = connection.execute(returning, [rows[key] for key in sorted(rows)])
        return {(row.source, row.key): row.id for row in inserted}

    def _name(
        self, connection: Connection, batch: Sequence[NewEvent], fresh: dict[tuple[str, bytes], int]
    ) -> list[Recorded]:
        """Give each webhook of the batch its event's id: the first of a new key is fresh, all others repeat."""
        keys = [(new.source, new.key) for new in batch]
        ids = dict(fresh)
        if known := set(keys) - fresh.keys():
            found = select(events.c.source, events.c.key, events.c.id)
            # Column by column, and so maybe a few more than asked: of pairs SQLite's index finds the source only.
            sources, hashes = {source for source, _ in known}, {hash_ for _, hash_ in known}
            found = found.where(events.c.source.in_(sources), events.c.key.in_(hashes))
            ids.update({(row.source, row.key): row.id for row in connection.execute(found)})
        unseen = set(fresh)
        recorded = []
        for key in keys:
            recorded.append(Recorded(id=ids[key], duplicate=key not in unseen))
            unseen.discard(key)
        return recorded

    def _insert_deliveries(self, connection: Connection, made: list[tuple[int, NewDelivery]]) -> bool:
        """Insert deliveries behind what waits in their lanes; tell whether any may be claimed at once."""
        if not made:
            return False
        self._database.lock_lanes(connection, [lane for _, new in made for lane in new.lanes])
        made = self._without_known(connection, made)
        occupied = self._occupied(connection, {lane for _, new in made for lane in new.lanes})
        rows = []
        for event_id, new in made:
            status = "pending" if occupied.isdisjoint(new.lanes) else "parked"
            occupied.update(new.lanes)
            rows.append(_delivery_row(event_id, new, status))
        if rows:
            statement = self._insert(deliveries).values(due_at=self._database.now)
            # Only a call without a lane can meet its own identity here; the others were told apart under the lock.
            connection.execute(statement.on_conflict_do_nothing(), rows)
        return any(row["status"] == "pending" for row in rows)

    def _without_known(
        self, connection: Connection, made: list[tuple[int, NewDelivery]]
    ) -> list[tuple[int, NewDelivery]]:
        known: set[bytes] = set()
        for identities in _portions([new.identity for _, new in made]):
            found = select(deliveries.c.identity).where(deliveries.c.identity.in_(identities))
            known.update(connection.scalars(found))
        kept = []
        for event_id, new in made:
            if new.identity not in known:
                kept.append((event_id, new))
                known.add(new.identity)
        return kept

    def _occupied(self, connection: Connection, lanes: set[int]) -> set[int]:
        """Find the lanes in which something is unsettled: a head, or a call of two lanes that waits in the other."""
        occupied: set[int] = set()
        of_two = deliveries.c.other_lane.is_not(None) & IS_UNSETTLED
        for some in _portions(list(lanes)):
            heads = select(deliveries.c.lane).where(IS_PENDING, deliveries.c.lane.in_(some))
            first = select(deliveries.c.lane).where(of_two, deliveries.c.lane.in_(some))
            second = select(deliveries.c.other_lane).where(of_two, deliveries.c.other_lane.in_(some))
            occupied.update(connection.scalars(union(heads, first, second)))
        return occupied

    # Settling and claiming

    def _settle(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        self._database.lock_lanes(connection, [lane for each in outcomes for lane in each.delivery.lanes])
        held = self._still_held(connection, outcomes)
        if not held:
            return
        connection.execute(insert(attempts), [_attempt_row(each) for each in held])
        delivered = [each.delivery.id for each in held if isinstance(each.decision, Delivered)]
        if delivered:
            self._write_delivered(connection, delivered)
        if others := [each for each in held if not isinstance(each.decision, Delivered)]:
            self._write_failures(connection, others)
        self._promote(connection, [each for each in held if not isinstance(each.decision, Retry)])

    def _still_held(self, connection: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Leave out what another worker has leased since: its outcome counts, not ours."""
        held = select(deliveries.c.id, deliveries.c.lease).where(
            deliveries.c.id.in_([each.delivery.id for each in outcomes])
        )
        if self._postgresql:
            held = held.with_for_update()
        leases = {row.id: row.lease for row in connection.execute(held)}
        return [each for each in outcomes if leases.get(each.delivery.id) == each.delivery.lease]

    def _write_delivered(self, connection: Connection, ids: list[int]) -> None:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(ids))
            .values(
                status="delivered",
                lease=null(),
                tries=deliveries.c.tries + 1,
                settled_at=self._database.now,
                reason=null(),
            )
        )

    def _write_failures(self, connection: Connection, outcomes: list[Outcome]) -> None:
        now = self._database.now
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id == bindparam("delivery"))
            .values(
                status=bindparam("new_status"),
                lease=null(),
                tries=deliveries.c.tries + 1,
                first_failed_at=func.coalesce(deliveries.c.first_failed_at, now),
                due_at=now + bindparam("after", type_=deliveries.c.due_at.type),
                settled_at=case((bindparam("new_status") == "failed", now), else_=null()),
                reason=bindparam("new_reason"),
            ),
            [_failure_row(each) for each in outcomes],
        )

    def _promote(self, connection: Connection, settled: Sequence[Outcome]) -> None:
        """Make the next of each lane pending; one that stands in two lanes has to be first in both."""
        nexts = set(
            self._first_parked(
                connection, {lane for each in settled for lane in each.delivery.lanes}
            ).values()
        )
        promoted = self._make_pending(connection, nexts, deliveries.c.other_lane.is_(None))
        if in_two_lanes := nexts - promoted:
            self._make_pending(connection, self._first_in_both(connection, in_two_lanes))

    def _first_parked(self, connection: Connection, lanes: set[int]) -> dict[int, int]:
        """Find the first parked delivery of each lane that has one."""
        if not lanes:
            return {}
        wanted = self._database.each(sorted(lanes))
        columns = (
            wanted.c.value,
            _next_in(wanted, deliveries.c.lane),
            _next_in(wanted, deliveries.c.other_lane),
        )
        rows = connection.execute(select(*columns).select_from(wanted))
        found = {lane: [each for each in ids if each is not None] for lane, *ids in rows}
        return {lane: min(ids) for lane, ids in found.items() if ids}

    def _first_in_both(self, connection: Connection, ids: set[int]) -> set[int]:
        columns = select(deliveries.c.id, deliveries.c.lane, deliveries.c.other_lane)
        lanes_of = {
            row[0]: {row[1], row[2]} for row in connection.execute(columns.where(deliveries.c.id.in_(ids)))
        }
        lanes = set().union(*lanes_of.values())
        first = self._first_parked(connection, lanes)
        heads = select(deliveries.c.lane).where(IS_PENDING, deliveries.c.lane.in_(lanes))
        others = select(deliveries.c.other_lane).where(IS_PENDING, deliveries.c.other_lane.in_(lanes))
        taken = set(connection.scalars(union(heads, others)))
        return {
            each
            for each, own in lanes_of.items()
            if all(first[lane] == each and lane not in taken for lane in own)
        }

    def _make_pending(
        self, connection: Connection, ids: set[int], *conditions: ColumnElement[bool]
    ) -> set[int]:
        if not ids:
            return set()
        promote = update(deliveries).where(
            deliveries.c.id.in_(ids), deliveries.c.status == "parked", *conditions
        )
        promote = promote.values(status="pending", due_at=self._database.now)
        return set(connection.scalars(promote.returning(deliveries.c.id)))

    def _claim(self, connection: Connection, *, limit: int, lease: int, seconds: float) -> list[Claimed]:
        due = (
            select(deliveries.c.id)
            .where(IS_PENDING, deliveries.c.due_at <= self._database.now)
            .order_by(deliveries.c.due_at, deliveries.c.id)
            .limit(limit)
        )
        if self._postgresql:
            due = due.with_for_update(skip_locked=True)
        claim = (
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            .values(lease=lease, due_at=self._database.now + seconds)
            .returning(*_CLAIMED, (self._database.now - deliveries.c.first_failed_at).label("failing_for"))
        )
        return sorted((_claimed(row) for row in connection.execute(claim)), key=lambda claimed: claimed.id)

    # The connection to the database

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with readable_errors(), self._database.transaction() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with readable_errors(), self._database.engine.connect() as connection:
            yield connection

    def _notify(self) -> None:
        with readable_errors():
            self._database.notify()


_CLAIMED = (
    deliveries.c.id,
    deliveries.c.lease,
    deliveries.c.connection,
    deliveries.c.region,
    deliveries.c.lane,
    deliveries.c.other_lane,
    deliveries.c.call,
    deliveries.c.tries,
)


# How many values one statement names: SQLite takes 32,766 in all, and one group may make many more deliveries.
_PORTION = 5_000

Named = TypeVar("Named")


def _portions(values: Sequence[Named]) -> Iterator[Sequence[Named]]:
    for start in range(0, len(values), _PORTION):
        yield values[start : start + _PORTION]


def _event_row(new: NewEvent) -> dict[str, Any]:
    return {
        "source": new.source,
        "key": new.key,
        "received_at": new.received_at,
        "headers": new.headers,
        "query": new.query,
        "body": new.body,
        "event_type": new.event_type,
        "status": new.status,
        "problem": new.problem,
    }


def _delivery_row(event_id: int, new: NewDelivery, status: str) -> dict[str, Any]:
    lane, other_lane = (*new.lanes, None, None)[:2]
    return {
        "event_id": event_id,
        "identity": new.identity,
        "connection": new.connection,
        "region": new.region,
        "lane": lane,
        "other_lane": other_lane,
        "call": new.call,
        "status": status,
    }


def _attempt_row(outcome: Outcome) -> dict[str, Any]:
    return {
        "delivery_id": outcome.delivery.id,
        "at": outcome.attempt.at,
        "seconds": outcome.attempt.seconds,
        "status": outcome.attempt.status,
        "reason": outcome.attempt.reason,
    }


def _failure_row(outcome: Outcome) -> dict[str, Any]:
    decision = outcome.decision
    assert isinstance(decision, Retry | Failed)
    return {
        "delivery": outcome.delivery.id,
        "new_status": "pending" if isinstance(decision, Retry) else "failed",
        "after": decision.after if isinstance(decision, Retry) else 0.0,
        "new_reason": decision.reason,
    }


def _claimed(row: Row[Any]) -> Claimed:
    return Claimed(
        id=row.id,
        lease=row.lease,
        connection=row.connection,
        region=row.region,
        lanes=tuple(lane for lane in (row.lane, row.other_lane) if lane is not None),
        call=row.call,
        tries=row.tries,
        failing_for=row.failing_for or 0.0,
    )


def _next_in(wanted: FromClause, column: ColumnElement[int | None]) -> ScalarSelect[int]:
    """Select the first delivery that is parked in each wanted lane."""
    parked = select(deliveries.c.id).where(IS_PARKED, IS_UNSETTLED, column == wanted.c.value)
    return parked.order_by(deliveries.c.id).limit(1).correlate(wanted).scalar_subquery()
