"""Retry failed deliveries, and cancel unsent ones.

A delivery that is sent again goes to the end of its lane: calls that came later may have been sent already. There may
be many of them, so they wait behind what is live.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Text, bindparam, func, null, select, update

from gateway.customerio.calls import from_json
from gateway.store import Store
from gateway.store.chosen_ulids import Holder, ulid_holders, ulid_locks
from gateway.store.database import Database, reading, writing
from gateway.store.lanes import Lanes, lanes_of
from gateway.store.notices import Notices
from gateway.store.tables import BULK, deletions, deliveries, events

#: Deliveries of one transaction, which takes some hundredths of a second.
PORTION = 500
BY_THE_OPERATOR = "cancelled by the operator"

_Result = TypeVar("_Result")


def in_portions(work: Callable[[Sequence[int]], _Result], ids: Sequence[int], size: int = PORTION) -> Iterator[_Result]:
    """Do work in portions, with a pause as long as each portion took: webhooks need the database too."""
    for first in range(0, len(ids), size):
        start = time.monotonic()
        result = work(ids[first : first + size])
        seconds = time.monotonic() - start
        yield result
        if first + size < len(ids):
            time.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Requeued:
    """The deliveries that were retried or cancelled, and by id why others were not."""

    ids: list[int]
    refused: dict[int, str]


class Requeue:
    """Changes what becomes of deliveries. `retry` and `cancel` are one transaction each.

    All raise StoreError when the database cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self.lanes = Lanes(database)
        self._database = database
        self._notices = Notices(database)
        #: Tells the workers, after the transaction, that there may be something to claim.
        self.wake_workers = Store(database).wake
        lease_lasts = deliveries.c.lease.is_not(None) & (deliveries.c.due_at > database.now)
        received_at = select(events.c.received_at).where(events.c.id == deliveries.c.event_id).scalar_subquery()
        deleted_at = select(func.max(deletions.c.deleted_at)).where(deletions.c.delivery_id == deliveries.c.id)
        #: The columns that decide what may be done to a delivery.
        self.columns: tuple[ColumnElement[Any], ...] = (
            deliveries.c.id,
            deliveries.c.event_id,
            deliveries.c.identity,
            deliveries.c.lane,
            deliveries.c.other_lane,
            deliveries.c.status,
            deliveries.c.connection,
            deliveries.c.chosen_ulid,
            deleted_at.scalar_subquery().label("deleted_at"),
            deliveries.c.call,
            received_at.label("received_at"),
            lease_lasts.label("leased"),
        )
        chosen = database.among(deliveries.c.id, "ids")
        self._select: Select[Any] = select(*self.columns).where(chosen).order_by(deliveries.c.id)
        self._cancel = (
            update(deliveries)
            .where(chosen)
            .values(
                status="cancelled", settled_at=database.now, lease=null(), reason=bindparam("new_reason", type_=Text)
            )
        )
        self._move_to_end = (
            update(deliveries)
            .where(deliveries.c.id == bindparam("delivery"))
            .values(
                status=bindparam("new_status"),
                position=bindparam("new_position"),
                queue=BULK,
                due_at=database.now,
                tries=0,
                lease=null(),
                first_failed_at=null(),
                paused_before=null(),
                settled_at=null(),
                reason=null(),
            )
        )

    def retry(self, ids: Sequence[int]) -> Requeued:
        """Move failed deliveries to the end of their lanes, in the order of *ids*."""
        with writing(self._database) as connection:
            rows = self._lock(connection, ids)
            refused = self._why_not_retried(connection, ids, rows)
            failed = [rows[id_] for id_ in dict.fromkeys(ids) if id_ not in refused]
            statuses = self.lanes.join(connection, [lanes_of(row) for row in failed])
            positions = self._database.take_ids(connection, deliveries, len(failed))
            self.move_to_end(connection, list(zip(failed, statuses, positions, strict=True)))
        self.end_notices([row.event_id for row in failed])
        if "pending" in statuses:
            self.wake_workers()
        return Requeued(ids=[row.id for row in failed], refused=refused)

    def cancel(self, ids: Sequence[int]) -> Requeued:
        """Cancel deliveries that have not arrived and are not being sent."""
        with writing(self._database) as connection:
            rows = self._lock(connection, ids)
            refused = _refusals(ids, rows, why_not_cancelled)
            cancelled = [row for id_, row in rows.items() if id_ not in refused]
            self.cancel_rows(connection, cancelled, BY_THE_OPERATOR)
        self.end_notices([row.event_id for row in cancelled if row.status == "failed"])
        self.wake_workers()
        return Requeued(ids=[row.id for row in cancelled], refused=refused)

    def refusals(self, ids: Sequence[int], *, cancel: bool = False) -> dict[int, str]:
        """Return which deliveries would be refused, and why. Nothing is changed."""
        with reading(self._database) as connection:
            parameters = {"ids": self._database.numbers(ids)}
            rows = {row.id: row for row in connection.execute(self._select, parameters)}
            return _refusals(ids, rows, why_not_cancelled) if cancel else self._why_not_retried(connection, ids, rows)

    def _why_not_retried(
        self, connection: Connection, ids: Sequence[int], rows: Mapping[int, Row[Any]]
    ) -> dict[int, str]:
        """Return which deliveries cannot be retried, and why, if they are retried one after the other."""
        refused = _refusals(ids, rows, why_not_retried)
        failed = [rows[id_] for id_ in dict.fromkeys(ids) if id_ not in refused]
        states = self.lanes.states(connection, {lane for row in failed for lane in lanes_of(row)})
        holders = ulid_holders(connection, {row.chosen_ulid for row in failed if row.chosen_ulid is not None})
        for row in failed:
            lanes, ulid = lanes_of(row), (row.connection, row.chosen_ulid)
            # A call has to be read only where somebody was deleted.
            happened_at = None if states.deleted_at.keys().isdisjoint(lanes) else _happened_at(row)
            if reason := states.why_undone(lanes, happened_at):
                refused[row.id] = f"delivery {row.id} would undo a deletion: {reason}"
            elif ulid in holders and holders[ulid].id != row.id:
                refused[row.id] = f"delivery {row.id}: {holders[ulid].objection()}"
            else:
                states.join(lanes, row.deleted_at)
                if row.chosen_ulid is not None:
                    holders[ulid] = Holder(id=row.id, event_id=row.event_id, identity=row.identity)
        return refused

    def _lock(self, connection: Connection, ids: Sequence[int]) -> dict[int, Row[Any]]:
        """Lock deliveries, their lanes and ULIDs; return the deliveries as they are under the locks."""
        parameters = {"ids": self._database.numbers(ids)}
        rows = connection.execute(self._select, parameters).all()
        lanes = {lane for row in rows for lane in lanes_of(row)}
        self._database.lock_lanes(connection, lanes | ulid_locks(row.chosen_ulid for row in rows))
        locked = connection.execute(self._select.with_for_update(), parameters)
        return {row.id: row for row in locked}

    # Steps of a transaction that holds the locks; a replay uses them too

    def cancel_rows(self, connection: Connection, rows: Sequence[Row[Any]], reason: str) -> None:
        """Cancel deliveries, and promote what waits behind them."""
        if rows:
            parameters = {"ids": self._database.numbers([row.id for row in rows]), "new_reason": reason}
            connection.execute(self._cancel, parameters)
            self.lanes.promote(connection, {lane for row in rows for lane in lanes_of(row)})

    def move_to_end(self, connection: Connection, moves: Sequence[tuple[Row[Any], str, int]]) -> None:
        """Give deliveries a new status and a new position, as if they were recorded now."""
        if moves:
            parameters = [
                {"delivery": row.id, "new_status": status, "new_position": position} for row, status, position in moves
            ]
            connection.execute(self._move_to_end, parameters)

    # After the transaction

    def end_notices(self, event_ids: Collection[int]) -> None:
        """End the notice "failed" of each source of these events that has no failed delivery any more."""
        if not event_ids:
            return
        select_sources = select(events.c.source).where(self._database.among(events.c.id, "ids"))
        with reading(self._database) as connection:
            sources = set(connection.scalars(select_sources, {"ids": self._database.numbers(set(event_ids))}))
        for source in sorted(sources):
            with writing(self._database) as connection:
                self._notices.end_failed(connection, source)


def _happened_at(row: Row[Any]) -> float | None:
    """Return when what a recorded call reports happened; None: it makes nobody exist who did not."""
    call = from_json(json.loads(row.call))
    return (call.moment or row.received_at) if call.creates_person else None


def why_not_retried(row: Row[Any]) -> str | None:
    """Return why a delivery cannot be retried; None: it can."""
    if row.status == "failed":
        return None
    reason = f"delivery {row.id} is {row.status}; only failed ones are retried"
    if row.status == "delivered":
        return f"{reason} (to send it once more: gateway events replay {row.event_id} --again)"
    if row.status == "cancelled":
        return f"{reason} (gateway events replay {row.event_id} sends it, or says why not)"
    return reason


def why_not_cancelled(row: Row[Any]) -> str | None:
    """Return why a delivery cannot be cancelled; None: it can."""
    if row.status in ("delivered", "cancelled"):
        return f"delivery {row.id} is {row.status} already"
    if row.status == "pending" and row.leased:
        return f"delivery {row.id} is being sent now"
    return None


def _refusals(
    ids: Sequence[int], rows: Mapping[int, Row[Any]], why_not: Callable[[Row[Any]], str | None]
) -> dict[int, str]:
    reasons = {id_: why_not(rows[id_]) if id_ in rows else f"there is no delivery {id_}" for id_ in ids}
    return {id_: reason for id_, reason in reasons.items() if reason is not None}
