"""Forget what is done: events and their deliveries go some days after they were received.

What waits, and what the operator has yet to look at, stays. It is done in small steps with rests between,
because the receiver writes to the same database; on SQLite the file gives its free pages back.
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
from gateway.store.tables import IS_FAILED, IS_UNSETTLED, attempts, deliveries, events, notices

#: Events of one step.
STEP = 200
#: Pages of one step of giving them back: 2 MB, some hundredths of a second.
PAGES = 500
#: A rest is so many times as long as the step before it: the receiver has the database four fifths of the time.
REST = 4
#: A part of the file that stays free for what comes next; giving back and taking again costs writes.
SPARE = 1 / 20

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Removed:
    """How many rows went; *done* when all that is old has been looked at."""

    events: int
    deliveries: int
    attempts: int
    done: bool


class Retention:
    """Removes from one database what was received more than *days* days ago and is done with.

    All raise StoreError when the database cannot be reached or used for now.
    """

    def __init__(self, database: Database, days: float) -> None:
        self._database = database
        self._old = database.now - days * DAY
        self._seen = 0
        self._read_on = select(events.c.id, (events.c.received_at < self._old).label("old")).order_by(events.c.id)
        self._chosen = database.among(events.c.id, "ids")
        self._lock = select(events.c.id).where(self._chosen).order_by(events.c.id)
        self._done_with = select(events.c.id).where(
            self._chosen,
            events.c.received_at < self._old,
            events.c.status != "failed",
            ~exists().where(deliveries.c.event_id == events.c.id, or_(IS_UNSETTLED, IS_FAILED)),
        )

    def sweep(self, stopping: threading.Event) -> Removed:
        """Remove all that is to go, with rests, until it is done or *stopping*."""
        removed = _nothing(done=False)
        self._seen = 0
        while not removed.done and not stopping.is_set():
            with _rested(stopping):
                step = self.step()
            removed = Removed(
                events=removed.events + step.events,
                deliveries=removed.deliveries + step.deliveries,
                attempts=removed.attempts + step.attempts,
                done=step.done,
            )
        self._remove_notices()
        while not stopping.is_set():
            with _rested(stopping):
                if not self.give_back():
                    break
        return removed

    def step(self, limit: int = STEP) -> Removed:
        """Look at the next *limit* events, in the order of their receipt, and remove those that are done with.

        Each step goes on where the last ended; the one that finds nothing old any more is the last of its
        sweep, and the next begins anew.
        """
        with reading(self._database) as connection:
            page = connection.execute(self._read_on.where(events.c.id > self._seen).limit(limit)).all()
            old = [row.id for row in page if row.old]
            going = self._ids(connection, old) if old else []
        self._seen = page[-1].id if old else 0
        if not going:
            return _nothing(done=not old)
        return self._remove(going)

    def give_back(self, pages: int = PAGES) -> bool:
        """Shorten an SQLite file by some of its free pages; tells whether there are more to give."""
        with writing(self._database) as connection:
            return self._database.give_back_space(connection, pages=pages, spare=SPARE)

    def _ids(self, connection: Connection, old: Collection[int]) -> list[int]:
        return list(connection.scalars(self._done_with, self._given(old)))

    def _remove(self, ids: Collection[int]) -> Removed:
        """Remove events with all that belongs to them; one that a replay has given deliveries meanwhile stays."""
        with writing(self._database) as connection:
            # A replay holds this lock while it gives an event deliveries. What is done with is judged after
            # it, by a statement of its own: one that had to wait would judge by what it saw before.
            locked = self._lock.with_for_update(skip_locked=True)
            ids = list(connection.scalars(locked, self._given(ids)))
            going = self._given(self._ids(connection, ids))
            of_chosen = self._database.among(deliveries.c.event_id, "ids")
            its = select(deliveries.c.id).where(of_chosen)
            return Removed(
                attempts=connection.execute(delete(attempts).where(attempts.c.delivery_id.in_(its)), going).rowcount,
                deliveries=connection.execute(delete(deliveries).where(of_chosen), going).rowcount,
                events=connection.execute(delete(events).where(self._chosen), going).rowcount,
                done=False,
            )

    def _given(self, ids: Collection[int]) -> dict[str, Any]:
        return {"ids": self._database.numbers(ids)}

    def _remove_notices(self) -> None:
        with writing(self._database) as connection:
            connection.execute(delete(notices).where(notices.c.ended_at < self._old, notices.c.tell_at.is_(None)))


@contextmanager
def _rested(stopping: threading.Event) -> Iterator[None]:
    """Rest after a step for several times as long as it took."""
    began = time.monotonic()
    yield
    stopping.wait((time.monotonic() - began) * REST)


def _nothing(*, done: bool) -> Removed:
    return Removed(events=0, deliveries=0, attempts=0, done=done)
