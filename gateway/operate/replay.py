"""Replay events: translate a stored webhook again with today's mapping, and bring its deliveries into line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from secrets import token_bytes
from typing import Any

from sqlalchemy import Connection, Row, select, update

from gateway.errors import RequestError
from gateway.event import NewDelivery
from gateway.mapping.functions import Budget
from gateway.mapping.model import MappingFile
from gateway.mapping.translate import SALT, PlannedCall, translate
from gateway.operate.requeue import Requeue, why_not_cancelled
from gateway.receive.record import printable_type, problem_of, restore_event
from gateway.store.chosen_ulids import ulid_holders, ulid_locks
from gateway.store.connection_state import ConnectionStateTable, Target
from gateway.store.database import Database, reading, writing
from gateway.store.lanes import lanes_of
from gateway.store.recording import DELIVERY_COLUMNS, EventStatus, Recording, UnsentDelivery, delivery_row
from gateway.store.tables import BULK, PLACE, deliveries, events

NO_LONGER_WANTED = "cancelled by a replay: today's mapping does not ask for it"
UNDER_ANOTHER_ID = "cancelled by a replay, which sends it under another event id"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay of one event does, or would do, to its calls, in numbers.

    Attributes:
        status: The event's status by today's mapping.
        problem: Why the mapping fails on it.
        new: Calls that did not exist before.
        retried: Calls that had failed or were cancelled.
        again: Delivered calls that are sent once more, as requested.
        deleted: Calls that are not sent, as their person was deleted later.
        taken: Calls that are not sent, as Customer.io would drop them: it has another one with their event id.
        cancelled: Unsent deliveries that today's mapping does not ask for.
        delivered: Calls left alone because they were delivered.
        waiting: Calls left alone because they wait or are being sent.
    """

    status: EventStatus
    problem: str | None = None
    new: int = 0
    retried: int = 0
    again: int = 0
    deleted: int = 0
    taken: int = 0
    cancelled: int = 0
    delivered: int = 0
    waiting: int = 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What today's mapping makes of an event; *repeats* are the same calls under other identities, for `again`."""

    status: EventStatus
    event_type: str | None
    problem: str | None
    calls: tuple[NewDelivery, ...] = ()
    repeats: tuple[NewDelivery, ...] = ()

    @property
    def fails_as_a_whole(self) -> bool:
        return self.status == "failed" and not self.calls


@dataclass(frozen=True, kw_only=True)
class Step:
    """What becomes of a wanted call.

    Attributes:
        counted_as: The attribute of `Replayed` that counts it.
        row: Its present delivery, which is sent again.
        repeat: The call under another identity and event id, if that was requested.
    """

    counted_as: str
    call: NewDelivery
    row: Row[Any] | None = None
    repeat: NewDelivery | None = None

    @property
    def sends(self) -> bool:
        return self.counted_as in ("new", "retried", "again")


@dataclass
class Plan:
    """What a replay does.

    Attributes:
        to_send: Calls that go to the end of their lanes: each with its present delivery, or None for a new one.
        unsent: Calls to record as cancelled, likewise, each with the reason.
        unwanted: Deliveries to cancel.
        numbers: Those of `Replayed`.
    """

    to_send: list[tuple[NewDelivery, Row[Any] | None]] = field(default_factory=list)
    unsent: list[tuple[NewDelivery, Row[Any] | None, str]] = field(default_factory=list)
    unwanted: list[Row[Any]] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)


class Replay:
    """Replays events of one database. `replay` is one transaction.

    All raise StoreError when the database cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._requeue = Requeue(database)
        self._states = ConnectionStateTable(database)
        self._recording = Recording(database)
        self._insert = database.compile_insert(deliveries, (*DELIVERY_COLUMNS, "position"), now=("due_at",))

    def preview(self, event_id: int, mapping: MappingFile, *, again: bool = False) -> Replayed | None:
        """Return what a replay would do. None: there is no such event. Nothing is changed."""
        wanted = self._translate(event_id, mapping, again=again)
        if wanted is None:
            return None
        if wanted.fails_as_a_whole:
            return Replayed(status=wanted.status, problem=wanted.problem)
        with reading(self._database) as connection:
            plan = self._plan(connection, event_id, wanted)
        return Replayed(status=wanted.status, problem=wanted.problem, **plan.numbers)

    def replay(self, event_id: int, mapping: MappingFile, *, again: bool = False) -> Replayed | None:
        """Translate an event with this mapping, and bring its deliveries into line. None: there is no such event.

        Delivered calls stay, unless they are to be sent *again*. An event on which the mapping fails keeps its
        deliveries; if it fails on some parts only, the calls of the others are sent.
        """
        wanted = self._translate(event_id, mapping, again=again)
        if wanted is None:
            return None
        plan, targets = Plan(), set[Target]()
        with writing(self._database) as connection:
            # Retention takes the same lock: it does not delete an event that is just getting deliveries.
            status_before = connection.scalar(select(events.c.status).where(events.c.id == event_id).with_for_update())
            if status_before is None:
                return None
            if not wanted.fails_as_a_whole:
                plan, targets = self._bring_into_line(connection, event_id, wanted)
            if wanted.status != "failed" or status_before == "failed":  # what it once became stays
                values = {"status": wanted.status, "event_type": wanted.event_type, "problem": wanted.problem}
                connection.execute(update(events).where(events.c.id == event_id).values(**values))
        if not wanted.fails_as_a_whole:
            self._states.remember(targets)
            self._requeue.end_notices([event_id])
            self._requeue.wake_workers()
        return Replayed(status=wanted.status, problem=wanted.problem, **plan.numbers)

    def _translate(self, event_id: int, mapping: MappingFile, *, again: bool) -> Wanted | None:
        with reading(self._database) as connection:
            row = connection.execute(select(events).where(events.c.id == event_id)).one_or_none()
        if row is None:
            return None
        try:
            event = restore_event(mapping, row.key, row.headers, row.query, row.body, row.received_at)
        except RequestError as error:
            return Wanted(status="failed", event_type=row.event_type, problem=str(error))
        translation = translate(mapping, event, budget=Budget(time.thread_time))
        repeats: tuple[PlannedCall, ...] = ()
        if again:
            repeats = translate(mapping, event, salt=token_bytes(SALT), budget=Budget(time.thread_time)).planned
        return Wanted(
            status=translation.status,
            event_type=printable_type(translation),
            problem=problem_of(translation),
            calls=translation.planned,
            repeats=repeats,
        )

    def _bring_into_line(self, connection: Connection, event_id: int, wanted: Wanted) -> tuple[Plan, set[Target]]:
        """Cancel unwanted deliveries, and put the others at the end of their lanes, in the order of the calls."""
        own_rows = connection.execute(self._select_own(event_id)).all()
        lanes = {lane for row in own_rows for lane in lanes_of(row)}
        lanes |= {lane for call in (*wanted.calls, *wanted.repeats) for lane in call.lanes}
        lanes_and_ulids = lanes | ulid_locks(row.chosen_ulid for row in own_rows)
        lanes_and_ulids |= ulid_locks(call.chosen_ulid for call in wanted.calls)
        self._database.lock_lanes(connection, lanes_and_ulids)
        plan = self._plan(connection, event_id, wanted, lock=True)
        self._requeue.cancel_rows(connection, plan.unwanted, NO_LONGER_WANTED)
        for call, row, reason in plan.unsent:
            if row is not None:
                self._requeue.cancel_rows(connection, [row], reason)
            else:
                unsent = UnsentDelivery(event_id=event_id, delivery=call, status="cancelled", reason=reason)
                self._recording.insert_unsent(connection, [unsent])

        all_lanes = [call.lanes if row is None else lanes_of(row) for call, row in plan.to_send]
        statuses = self._requeue.lanes.join(connection, all_lanes)
        positions = self._database.take_ids(connection, deliveries, len(plan.to_send))
        moves, inserts = [], []
        for (call, row), status, position in zip(plan.to_send, statuses, positions, strict=True):
            if row is not None:
                moves.append((row, status, position))
            else:
                inserts.append((*delivery_row(event_id, replace(call, queue=BULK), status), position))
        self._requeue.move_to_end(connection, moves)
        # Another event may have recorded the same call since: then what waits behind it may be the first now.
        if inserts and self._insert.run(connection, inserts) < len(inserts):
            self._requeue.lanes.promote(connection, lanes)
        self._recording.insert_deletions(connection, [call for call, row in plan.to_send if row is None])
        targets = {Target(call.connection, call.region or "") for call, _ in plan.to_send}
        return plan, self._states.add(connection, targets)

    def _plan(self, connection: Connection, event_id: int, wanted: Wanted, *, lock: bool = False) -> Plan:
        """Compare the wanted calls with the deliveries of the event."""
        statement = self._select_own(event_id)
        rows = connection.execute(statement.with_for_update(of=deliveries) if lock else statement).all()
        rows_by_base: dict[bytes, list[Row[Any]]] = {}
        for row in rows:
            rows_by_base.setdefault(_base(row.identity), []).append(row)
        # Two webhooks may carry one `event_id`: then the call belongs to the other event.
        unknown = [call.identity for call in wanted.calls if _base(call.identity) not in rows_by_base]
        select_known = select(deliveries.c.identity).where(deliveries.c.identity.in_(unknown))
        of_other_events = set(connection.scalars(select_known)) if unknown else set()

        plan, steps = Plan(), []
        for number, call in enumerate(wanted.calls):
            repeat = wanted.repeats[number] if wanted.repeats else None
            own = rows_by_base.pop(_base(call.identity), [])
            steps.append(_step_for(call, own, call.identity in of_other_events, repeat))
        if wanted.status != "failed":  # a part that fails now may have asked for the others
            for row in (row for group in rows_by_base.values() for row in group):
                if why_not_cancelled(row) is None:
                    plan.unwanted.append(row)
                    plan.numbers["cancelled"] += 1
                elif row.status == "delivered":
                    plan.numbers["delivered"] += 1
                elif row.status == "pending":
                    plan.numbers["waiting"] += 1
        self._add_steps(connection, plan, steps)
        return plan

    def _add_steps(self, connection: Connection, plan: Plan, steps: Sequence[Step]) -> None:
        """Add the calls to a plan, but those that would undo a deletion and those that Customer.io would drop."""
        calls = [step.call for step in steps]
        cancelled = {row.id for row in plan.unwanted}
        lanes = {lane for call in calls for lane in call.lanes}
        states = self._requeue.lanes.states(connection, lanes, cancelled=cancelled)
        holders = ulid_holders(connection, {call.chosen_ulid for call in calls if call.chosen_ulid is not None})
        for step in steps:
            call = step.call
            holder = holders.get((call.connection, call.chosen_ulid or ""))
            is_taken = holder is not None and holder.identity != call.identity and holder.id not in cancelled
            if not step.sends:
                plan.numbers[step.counted_as] += 1
            elif reason := states.why_undone(call.lanes, call.happened_at):
                plan.numbers["deleted"] += 1
                if step.counted_as != "again":
                    plan.unsent.append((call, step.row, reason))
            elif is_taken and step.repeat is None:
                plan.numbers["taken"] += 1
            else:
                if is_taken and step.repeat is not None:
                    plan.unsent += [] if step.row is None else [(call, step.row, UNDER_ANOTHER_ID)]
                    step = Step(counted_as="again", call=step.repeat)
                plan.numbers[step.counted_as] += 1
                plan.to_send.append((step.call, step.row))
                states.join(call.lanes, call.deleted_at)

    def _select_own(self, event_id: int) -> Any:
        return select(*self._requeue.columns).where(deliveries.c.event_id == event_id).order_by(PLACE)


def _step_for(call: NewDelivery, own: Sequence[Row[Any]], of_other_event: bool, repeat: NewDelivery | None) -> Step:
    """Decide on a wanted call; *own* are its delivery and the repeats of it that were requested before."""
    by_status = {row.status: row for row in own}
    if by_status.keys() & {"parked", "pending"}:
        return Step(counted_as="waiting", call=call)
    if "failed" in by_status:
        return Step(counted_as="retried", call=call, row=by_status["failed"], repeat=repeat)
    if "delivered" in by_status or of_other_event:
        return Step(counted_as="delivered", call=call) if repeat is None else Step(counted_as="again", call=repeat)
    if "cancelled" in by_status:
        return Step(counted_as="retried", call=call, row=by_status["cancelled"], repeat=repeat)
    return Step(counted_as="new", call=call, repeat=repeat)


def _base(identity: bytes) -> bytes:
    """Return what the identities of a delivery and of its repeats have in common: a repeat has a salted end."""
    return identity[:-SALT]
