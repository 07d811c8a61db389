"""What the operator does: retry failed deliveries, cancel what is not to be sent, replay events.

Everything that goes out again goes to the end of its lane: what came later may have been sent already.
Each method is one transaction over few rows; `in_portions` does much work in many, with pauses between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, bindparam, null, select, update

from gateway.errors import RequestError
from gateway.mapping import model as mappings
from gateway.mapping.translate import SALT, translate
from gateway.receive.record import delivery_of, event_of, said, shown_type
from gateway.store import NewDelivery
from gateway.store.connection_state import ConnectionStateTable, Target
from gateway.store.database import Database, readable_errors, reading, writing
from gateway.store.lanes import Lanes
from gateway.store.notices import Notices
from gateway.store.recording import DELIVERY_COLUMNS, EventStatus
from gateway.store.tables import PLACE, deliveries, events

#: Deliveries of one transaction: it takes some hundredths of a second.
PORTION = 500

BY_THE_OPERATOR = "cancelled by the operator"
NO_LONGER_WANTED = "cancelled by a replay: today's mapping does not ask for it"

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a retry or a cancellation: the ids it was done to, and why not to others."""

    ids: list[int]
    refused: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay of one event does to its calls, in numbers.

    Attributes:
        status: What today's mapping makes of the event.
        problem: Why it makes nothing of it.
        new: Calls that were not asked for before.
        retried: Calls that had failed or were cancelled.
        again: Calls that had been delivered, and go out once more because it was asked for.
        cancelled: Deliveries that were not sent yet and are not asked for any more.
        delivered: Calls that are left alone, because they arrived already.
        waiting: Calls that are left alone, because they wait to be sent, or are being sent now.
    """

    status: EventStatus
    problem: str | None = None
    new: int = 0
    retried: int = 0
    again: int = 0
    cancelled: int = 0
    delivered: int = 0
    waiting: int = 0


def in_portions(work: Callable[[Sequence[int]], _Result], ids: Sequence[int], size: int = PORTION) -> Iterator[_Result]:
    """Do work in portions, and rest after each for as long as it took: the receiver needs the database too."""
    for first in range(0, len(ids), size):
        began = time.monotonic()
        result = work(ids[first : first + size])
        took = time.monotonic() - began
        yield result
        if first + size < len(ids):
            time.sleep(took)


class Rework:
    """The operator's hand on one database. Every method is one transaction.

    All raise StoreError when the database cannot be reached or used for now.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes = Lanes(database)
        self._pauses = ConnectionStateTable(database)
        self._notices = Notices(database)
        ids = database.among(deliveries.c.id, "ids")
        self._select = select(*_COLUMNS).where(ids).order_by(deliveries.c.id)
        self._cancel = (
            update(deliveries)
            .where(ids)
            .values(
                status="cancelled",
                settled_at=database.now,
                lease=null(),
                reason=bindparam("why", type_=Text),
            )
        )
        self._to_the_end = (
            update(deliveries)
            .where(deliveries.c.id == bindparam("delivery"))
            .values(
                status=bindparam("new_status"),
                position=bindparam("place"),
                due_at=database.now,
                tries=0,
                lease=null(),
                first_failed_at=null(),
                paused_before=null(),
                settled_at=null(),
                reason=null(),
            )
        )
        self._insert = database.compile_insert(deliveries, (*DELIVERY_COLUMNS, "position"), now=("due_at",))

    # Retrying and cancelling

    def retry(self, ids: Sequence[int]) -> Done:
        """Send failed deliveries to the end of their lanes, in the order that they are given."""
        with writing(self._database) as connection:
            found = self._locked(connection, ids)
            refused = _refusals(ids, found, _why_not_retried)
            failed = [found[id_] for id_ in dict.fromkeys(ids) if id_ not in refused]
            statuses = self._lanes.join(connection, [_lanes(row) for row in failed])
            places = self._database.take_ids(connection, deliveries, len(failed))
            self._move(connection, failed, statuses, places)
        self._end_notices([row.event_id for row in failed])
        if "pending" in statuses:
            self._notify()
        return Done(ids=[row.id for row in failed], refused=refused)

    def cancel(self, ids: Sequence[int], reason: str = BY_THE_OPERATOR) -> Done:
        """Cancel deliveries that have not arrived, but for those that are being sent."""
        with writing(self._database) as connection:
            found = self._locked(connection, ids)
            refused = _refusals(ids, found, _why_not_cancelled)
            cancelled = [row for id_, row in found.items() if id_ not in refused]
            self._cancel_rows(connection, cancelled, reason)
        self._end_notices([row.event_id for row in cancelled if row.status == "failed"])
        self._notify()
        return Done(ids=[row.id for row in cancelled], refused=refused)

    def refusals(self, ids: Sequence[int], *, cancel: bool = False) -> dict[int, str]:
        """Tell which deliveries would be refused, and why; nothing is changed."""
        with reading(self._database) as connection:
            found = self._read(connection, self._select, ids)
        return _refusals(ids, found, _why_not_cancelled if cancel else _why_not_retried)

    # Replaying

    def plan(self, event_id: int, mapping: mappings.MappingFile, *, again: bool = False) -> Replayed | None:
        """Tell what a replay would do; nothing is changed. None: there is no such event."""
        wanted = self._translated(event_id, mapping, again=again)
        if wanted is None or wanted.is_nothing:
            return None if wanted is None else wanted.summary()
        with reading(self._database) as connection:
            return self._compare(connection, event_id, wanted).summary(wanted)

    def replay(self, event_id: int, mapping: mappings.MappingFile, *, again: bool = False) -> Replayed | None:
        """Translate an event with this mapping, and bring its deliveries into line; None: there is no such event.

        What arrived stays as it is, unless it is to go out *again*. An event on which the mapping fails keeps
        its deliveries; if it fails on some of its parts only, the calls of the others go out.
        """
        wanted = self._translated(event_id, mapping, again=again)
        if wanted is None:
            return None
        with writing(self._database) as connection:
            # Retention takes the same lock: an event is not deleted while it gets deliveries.
            event = select(events.c.status).where(events.c.id == event_id).with_for_update()
            before = connection.scalar(event)
            if before is None:
                return None
            if not wanted.is_nothing:
                changes, met = self._bring_into_line(connection, event_id, wanted)
            if wanted.status != "failed" or before == "failed":  # else it came to something once: that stays
                self._write_event(connection, event_id, wanted)
        if wanted.is_nothing:
            return wanted.summary()
        self._pauses.remember(met)
        self._end_notices([event_id])
        self._notify()
        return changes.summary(wanted)

    def _translated(self, event_id: int, mapping: mappings.MappingFile, *, again: bool) -> _Wanted | None:
        with reading(self._database) as connection:
            row = connection.execute(select(events).where(events.c.id == event_id)).one_or_none()
        if row is None:
            return None
        try:
            event = event_of(row.source, row.key, row.headers, row.query, row.body, row.received_at)
        except RequestError as error:
            return _Wanted(status="failed", event_type=row.event_type, problem=f"the body: {error}")
        translation = translate(mapping, event)
        salted = translate(mapping, event, salt=token_bytes(SALT)).planned if again else ()
        return _Wanted(
            status=translation.status,
            event_type=shown_type(translation),
            problem=said(translation),
            calls=tuple(map(delivery_of, translation.planned)),
            repeats=tuple(map(delivery_of, salted)),
        )

    def _bring_into_line(self, connection: Connection, event_id: int, wanted: _Wanted) -> tuple[_Changes, set[Target]]:
        """Cancel what is no longer wanted, and put the rest behind what waits, in the order of the calls."""
        own = connection.execute(_of_event(event_id)).all()
        lanes = {lane for row in own for lane in _lanes(row)}
        lanes |= {lane for each in (*wanted.calls, *wanted.repeats) for lane in each.lanes}
        self._database.lock_lanes(connection, lanes)
        changes = self._compare(connection, event_id, wanted, lock=True)
        self._cancel_rows(connection, changes.unwanted, NO_LONGER_WANTED)
        going = changes.going
        statuses = self._lanes.join(connection, [each.lanes for each in going])
        places = self._database.take_ids(connection, deliveries, len(going))
        moved = [number for number, each in enumerate(going) if each.row is not None]
        self._move(
            connection,
            [row for each in going if (row := each.row) is not None],
            [statuses[number] for number in moved],
            [places[number] for number in moved],
        )
        made = [
            (*each.call.row(event_id, status), place)
            for each, status, place in zip(going, statuses, places, strict=True)
            if each.row is None
        ]
        # Another event may have been given the same call since: what waits behind it may be first now.
        if made and self._insert.run(connection, made) < len(made):
            self._lanes.promote(connection, lanes)
        met = self._pauses.add(connection, {Target(each.call.connection, each.call.region or "") for each in going})
        return changes, met

    def _compare(self, connection: Connection, event_id: int, wanted: _Wanted, *, lock: bool = False) -> _Changes:
        """Set the calls that are wanted against the deliveries that the event has."""
        found = _of_event(event_id)
        if lock:
            found = found.with_for_update(of=deliveries)
        rows = connection.execute(found.add_columns(self._leased())).all()
        its: dict[bytes, list[Row[Any]]] = {}
        for row in rows:
            its.setdefault(_kin(row.identity), []).append(row)
        unknown = [each.identity for each in wanted.calls if _kin(each.identity) not in its]
        elsewhere = self._known(connection, unknown)
        changes = _Changes()
        for number, call in enumerate(wanted.calls):
            repeat = wanted.repeats[number] if wanted.repeats else None
            changes.weigh(call, its.pop(_kin(call.identity), []), call.identity in elsewhere, repeat)
        if wanted.status != "failed":  # the part that fails now may have asked for it
            changes.leave_out(row for group in its.values() for row in group)
        return changes

    def _known(self, connection: Connection, identities: Collection[bytes]) -> set[bytes]:
        """Find the calls that another event has asked for: two webhooks may carry one `event_id`."""
        if not identities:
            return set()
        found = select(deliveries.c.identity).where(deliveries.c.identity.in_(identities))
        return set(connection.scalars(found))

    def _write_event(self, connection: Connection, event_id: int, wanted: _Wanted) -> None:
        connection.execute(
            update(events)
            .where(events.c.id == event_id)
            .values(status=wanted.status, event_type=wanted.event_type, problem=wanted.problem)
        )

    # What they share

    def _locked(self, connection: Connection, ids: Sequence[int]) -> dict[int, Row[Any]]:
        """Lock deliveries and their lanes, and read them as they are then."""
        seen = self._read(connection, self._select, ids)
        self._database.lock_lanes(connection, {lane for row in seen.values() for lane in _lanes(row)})
        return self._read(connection, self._select.with_for_update(), ids)

    def _read(self, connection: Connection, found: Select[Any], ids: Sequence[int]) -> dict[int, Row[Any]]:
        rows = connection.execute(found.add_columns(self._leased()), {"ids": self._database.numbers(ids)})
        return {row.id: row for row in rows}

    def _leased(self) -> ColumnElement[bool]:
        lasts = deliveries.c.lease.is_not(None) & (deliveries.c.due_at > self._database.now)
        return lasts.label("leased")

    def _cancel_rows(self, connection: Connection, rows: Sequence[Row[Any]], reason: str) -> None:
        ids = [row.id for row in rows]
        if ids:
            given = {"ids": self._database.numbers(ids), "why": reason}
            connection.execute(self._cancel, given)
            self._lanes.promote(connection, {lane for row in rows for lane in _lanes(row)})

    def _move(
        self,
        connection: Connection,
        rows: Sequence[Row[Any]],
        statuses: Sequence[str],
        places: Sequence[int],
    ) -> None:
        if rows:
            moved = [
                {"delivery": row.id, "new_status": status, "place": place}
                for row, status, place in zip(rows, statuses, places, strict=True)
            ]
            connection.execute(self._to_the_end, moved)

    def _end_notices(self, event_ids: Collection[int]) -> None:
        """End the notice of each source that has no failed delivery any more."""
        if not event_ids:
            return
        its = {"ids": self._database.numbers(set(event_ids))}
        of_events = select(events.c.source).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            sources = set(connection.scalars(of_events, its))
        for source in sorted(sources):
            with writing(self._database) as connection:
                self._notices.end_failed(connection, source)

    def _notify(self) -> None:
        with readable_errors(self._database):
            self._database.notify()


_COLUMNS = (
    deliveries.c.id,
    deliveries.c.event_id,
    deliveries.c.identity,
    deliveries.c.lane,
    deliveries.c.other_lane,
    deliveries.c.status,
)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What today's mapping makes of an event; *repeats* are its calls once more, under other identities."""

    status: EventStatus
    event_type: str | None
    problem: str | None
    calls: tuple[NewDelivery, ...] = ()
    repeats: tuple[NewDelivery, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether the mapping fails on the event as a whole."""
        return self.status == "failed" and not self.calls

    def summary(self) -> Replayed:
        return Replayed(status=self.status, problem=self.problem)


@dataclass(frozen=True, kw_only=True)
class _Going:
    """A call that goes to the end of its lane: a delivery that there is, or a new one."""

    call: NewDelivery
    row: Row[Any] | None = None

    @property
    def lanes(self) -> tuple[int, ...]:
        return self.call.lanes if self.row is None else _lanes(self.row)


@dataclass
class _Changes:
    """What a replay does, as it is found out call by call."""

    going: list[_Going] = field(default_factory=list)
    unwanted: list[Row[Any]] = field(default_factory=list)
    new: int = 0
    again: int = 0
    delivered: int = 0
    waiting: int = 0

    def weigh(self, call: NewDelivery, its: Sequence[Row[Any]], elsewhere: bool, repeat: NewDelivery | None) -> None:
        """Decide on a call that is wanted; *its* are its delivery, and its repeats that were asked for."""
        latest: Mapping[str, Row[Any]] = {row.status: row for row in its}
        if latest.keys() & {"parked", "pending"}:
            self.waiting += 1
        elif "failed" in latest:
            self.going.append(_Going(call=call, row=latest["failed"]))
        elif "delivered" in latest or elsewhere:
            if repeat is None:
                self.delivered += 1
            else:
                self.again += 1
                self.going.append(_Going(call=repeat))
        elif "cancelled" in latest:
            self.going.append(_Going(call=call, row=latest["cancelled"]))
        else:
            self.new += 1
            self.going.append(_Going(call=call))

    def leave_out(self, rows: Iterator[Row[Any]]) -> None:
        """Decide on deliveries that are not wanted any more."""
        for row in rows:
            if _why_not_cancelled(row) is None:
                self.unwanted.append(row)
            elif row.status == "delivered":
                self.delivered += 1
            elif row.status == "pending":
                self.waiting += 1

    def summary(self, wanted: _Wanted) -> Replayed:
        return Replayed(
            status=wanted.status,
            problem=wanted.problem,
            new=self.new,
            retried=len(self.going) - self.new - self.again,
            again=self.again,
            cancelled=len(self.unwanted),
            delivered=self.delivered,
            waiting=self.waiting,
        )


def _of_event(event_id: int) -> Select[Any]:
    return select(*_COLUMNS).where(deliveries.c.event_id == event_id).order_by(PLACE)


def _kin(identity: bytes) -> bytes:
    """Give what a delivery and its repeats share."""
    return identity[:-SALT]


def _lanes(row: Row[Any]) -> tuple[int, ...]:
    return tuple(lane for lane in (row.lane, row.other_lane) if lane is not None)


def _refusals(
    ids: Sequence[int], found: Mapping[int, Row[Any]], why_not: Callable[[Row[Any]], str | None]
) -> dict[int, str]:
    refused = {}
    for id_ in ids:
        why = why_not(found[id_]) if id_ in found else f"there is no delivery {id_}"
        if why is not None:
            refused[id_] = why
    return refused


def _why_not_retried(row: Row[Any]) -> str | None:
    if row.status == "failed":
        return None
    why = f"delivery {row.id} is {row.status}; only failed ones are retried"
    if row.status == "delivered":
        return f"{why} (to send it once more: gateway events replay {row.event_id} --again)"
    if row.status == "cancelled":
        return f"{why} (to send it after all: gateway events replay {row.event_id})"
    return why


def _why_not_cancelled(row: Row[Any]) -> str | None:
    if row.status in ("delivered", "cancelled"):
        return f"delivery {row.id} is {row.status} already"
    if row.status == "pending" and row.leased:
        return f"delivery {row.id} is being sent now"
    return None
