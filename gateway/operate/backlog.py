"""How many deliveries wait, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from gateway.store.database import Database
from gateway.store.tables import IS_FAILED, IS_PARKED, IS_QUEUED, deliveries

#: Seconds for which a reading is used again, at least.
VALID_FOR = 5.0
#: It is valid for this many times as long as it took: reading a backlog of a million takes a second or two.
VALID_FACTOR = 50


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """The numbers of deliveries that are not settled, and that failed.

    Attributes:
        oldest: The longest wait in seconds, counted from when a delivery was recorded, became the first of its lane,
            or failed for the first time; 0: nothing waits. A delivery whose first attempt is running does not wait.
    """

    pending: int
    parked: int
    failed: int
    oldest: float


class BacklogReader:
    """Reads the backlog of one database, no more often than it is worth.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._backlog: Backlog | None = None
        self._valid_until = 0.0
        waits_since = func.min(func.coalesce(deliveries.c.first_failed_at, deliveries.c.due_at))
        count_and_wait = select(func.count().label("number"), (database.now - waits_since).label("seconds"))
        self._select_pending = count_and_wait.where(IS_QUEUED)
        # Every parked delivery has a lane; with the condition written, the partial index serves.
        self._select_parked = count_and_wait.where(IS_PARKED, deliveries.c.lane.is_not(None))
        self._count_failed = select(func.count()).select_from(deliveries).where(IS_FAILED)

    def read(self, connection: Connection) -> Backlog:
        """Return the backlog as it is, or as it was a moment ago."""
        start = self._clock()
        if self._backlog is None or self._valid_until <= start:
            pending = connection.execute(self._select_pending).one()
            parked = connection.execute(self._select_parked).one()
            self._backlog = Backlog(
                pending=pending.number,
                parked=parked.number,
                failed=connection.scalar(self._count_failed) or 0,
                oldest=max(pending.seconds or 0.0, parked.seconds or 0.0, 0.0),
            )
            end = self._clock()
            self._valid_until = end + max(VALID_FOR, VALID_FACTOR * (end - start))
        return self._backlog
