"""How much is waiting to be delivered, and for how long. For all who ask in one process, it is read once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, select

from gateway.store.database import Database
from gateway.store.tables import IS_FAILED, IS_PARKED, IS_PENDING, deliveries

#: Seconds for which one reading holds, at least.
HOLDS = 5.0
#: It holds this many times as long as it took: a backlog of a million is read through in a second or two.
SHARE = 50


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What is not settled, and what failed.

    Attributes:
        oldest: Seconds since the delivery that waits longest was recorded, came to the head of its lane, or
            failed for the first time; 0 when nothing waits. One that is being sent for the first time does not wait.
    """

    pending: int
    parked: int
    failed: int
    oldest: float


class Backlogs:
    """Reads the backlog of one database, no more often than it is worth.

    Args:
        clock: Counts seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, Backlog] | None = None
        waits_since = func.min(func.coalesce(deliveries.c.first_failed_at, deliveries.c.due_at))
        self._pending = select(func.count(), database.now - waits_since).where(IS_PENDING)
        # What is parked has a lane to wait in; said, it finds its index.
        parked = (IS_PARKED, deliveries.c.lane.is_not(None))
        self._parked = select(func.count(), database.now - waits_since).where(*parked)
        self._failed = select(func.count()).select_from(deliveries).where(IS_FAILED)

    def read(self, connection: Connection) -> Backlog:
        """Give the backlog as it was a moment ago."""
        began = self._clock()
        if self._last is None or self._last[0] <= began:
            backlog = self._read(connection)
            ended = self._clock()
            self._last = (ended + max(HOLDS, SHARE * (ended - began)), backlog)
        return self._last[1]

    def _read(self, connection: Connection) -> Backlog:
        pending, oldest_pending = _row(connection, self._pending)
        parked, oldest_parked = _row(connection, self._parked)
        return Backlog(
            pending=pending,
            parked=parked,
            failed=connection.scalar(self._failed) or 0,
            oldest=max(oldest_pending, oldest_parked, 0.0),
        )


def _row(connection: Connection, asked: Select[int, float]) -> tuple[int, float]:
    number, seconds = connection.execute(asked).one()
    return number, seconds or 0.0
