"""Delete finished events and their deliveries some days after they were received.

What waits stays. What failed stays longer, because the operator has to look at it. It works in small steps with pauses,
because webhooks are recorded in the same database. On SQLite the file gives its free pages back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, exists, or_, select

from gateway.store.database import Database, reading, writing
from gateway.store.notices import Notices
from gateway.store.tables import IS_BROKEN, IS_FAILED, IS_UNSETTLED, attempts, deletions, deliveries, events, notices

#: Events of one step.
STEP = 200
#: Pages given back in one step: 2 MB, some hundredths of a second.
PAGES = 500
#: A pause lasts this many times as long as the step before it, so webhooks have the database four fifths of the time.
PAUSE_FACTOR = 4
#: The part of the file that stays free for new rows: giving back pages and taking them again costs writes.
SPARE = 1 / 20

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Removed:
    """The numbers of deleted rows, *failed* events among them; *done*: no old event is left to look at."""

    events: int = 0
    failed: int = 0
    deliveries: int = 0
    attempts: int = 0
    done: bool


class Retention:
    """Deletes from one database what was received more than *days* days ago and is finished.

    What failed is deleted after *failed_days*, but not before *days*.

    All methods raise StoreError when the database cannot be used.
    """

    def __init__(self, database: Database, days: float, failed_days: float) -> None:
        self._database = database
        self._is_old = events.c.received_at < database.now - days * DAY
        self._delete_notices = delete(notices).where(
            notices.c.ended_at < database.now - days * DAY, notices.c.tell_at.is_(None)
        )
        self._last_seen_id = 0
        self._select_next = select(events.c.id, self._is_old.label("old")).order_by(events.c.id)
        self._is_chosen = database.among(events.c.id, "ids")
        self._lock = select(events.c.id).where(self._is_chosen).order_by(events.c.id).with_for_update(skip_locked=True)
        of_event = deliveries.c.event_id == events.c.id
        has_failed = or_(IS_BROKEN, exists().where(of_event, IS_FAILED))
        self._select_finished = select(events.c.id).where(
            self._is_chosen,
            self._is_old,
            ~exists().where(of_event, IS_UNSETTLED),
            or_(events.c.received_at < database.now - failed_days * DAY, ~has_failed),
        )
        self._select_failed = select(events.c.source).where(self._is_chosen, has_failed)
        self._of_events = database.among(deliveries.c.event_id, "ids")
        self._lock_deliveries = (
            select(deliveries.c.id).where(self._of_events, IS_FAILED).order_by(deliveries.c.id).with_for_update()
        )
        self._notices = Notices(database)

    def sweep(self, stopping: threading.Event) -> Removed:
        """Delete everything that is old and finished, with pauses, until it is done or *stopping* is set."""
        total = Removed(done=False)
        self._last_seen_id = 0
        while not total.done and not stopping.is_set():
            with _pause_after(stopping):
                step = self.step()
            total = Removed(
                events=total.events + step.events,
                failed=total.failed + step.failed,
                deliveries=total.deliveries + step.deliveries,
                attempts=total.attempts + step.attempts,
                done=step.done,
            )
        with writing(self._database) as connection:
            connection.execute(self._delete_notices)
        has_more_space = True
        while has_more_space and not stopping.is_set():
            with _pause_after(stopping):
                has_more_space = self.give_back()
        return total

    def step(self, limit: int = STEP) -> Removed:
        """Look at the next *limit* events in the order of their receipt, and delete those that are finished.

        Each step continues after the last one. The step that meets no old event ends the sweep, and the next one
        begins again at the first event.
        """
        with reading(self._database) as connection:
            page = connection.execute(self._select_next.where(events.c.id > self._last_seen_id).limit(limit)).all()
            old = [row.id for row in page if row.old]
            finished = self._finished(connection, old) if old else []
        self._last_seen_id = page[-1].id if old else 0
        return self._delete(finished) if finished else Removed(done=not old)

    def give_back(self, pages: int = PAGES) -> bool:
        """Shorten a SQLite file by some of its free pages; return whether there are more to give back."""
        with writing(self._database) as connection:
            return self._database.give_back_space(connection, pages=pages, spare=SPARE)

    def _delete(self, ids: Collection[int]) -> Removed:
        """Delete events with everything that belongs to them."""
        with writing(self._database) as connection:
            # A replay holds this lock while it adds deliveries to an event. Whether an event is finished is decided
            # after the lock, by a statement of its own: one that had waited would decide by what it saw before.
            locked = list(connection.scalars(self._lock, self._parameters(ids)))
            # A retry locks deliveries only: a failed one must not begin to wait while it is deleted.
            connection.execute(self._lock_deliveries, self._parameters(locked)).all()
            finished = self._parameters(self._finished(connection, locked))
            failed_sources = connection.scalars(self._select_failed, finished).all()
            delivery_ids = select(deliveries.c.id).where(self._of_events)
            connection.execute(delete(deletions).where(deletions.c.delivery_id.in_(delivery_ids)), finished)
            statements = {
                "attempts": delete(attempts).where(attempts.c.delivery_id.in_(delivery_ids)),
                "deliveries": delete(deliveries).where(self._of_events),
                "events": delete(events).where(self._is_chosen),
            }
            counts = {name: connection.execute(statement, finished).rowcount for name, statement in statements.items()}
            for source in sorted(set(failed_sources)):
                self._notices.end_failed(connection, source)
            return Removed(**counts, failed=len(failed_sources), done=False)

    def _finished(self, connection: Connection, ids: Collection[int]) -> list[int]:
        return list(connection.scalars(self._select_finished, self._parameters(ids)))

    def _parameters(self, ids: Collection[int]) -> dict[str, Any]:
        return {"ids": self._database.numbers(ids)}


@contextmanager
def _pause_after(stopping: threading.Event) -> Iterator[None]:
    """Pause after a step for several times as long as it took."""
    start = time.monotonic()
    yield
    stopping.wait((time.monotonic() - start) * PAUSE_FACTOR)
