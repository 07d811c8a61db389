"""Refused webhooks and the reasons: written to the log and the database for the operator, never to the sender."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from gateway.errors import RequestError, StoreError, VerificationError, printable
from gateway.event import Webhook
from gateway.logs import LogThrottle
from gateway.store.database import Database, reading, writing
from gateway.store.group_commit import GroupCommit
from gateway.store.tables import refusals
from gateway.verify import Scheme, likely_cause

if TYPE_CHECKING:
    from gateway.receive.request import Address

log = logging.getLogger(__name__)

#: Anybody can cause a flood of refusals. So once in so many seconds one refusal of a source is diagnosed and stored,
#: and until the next one at most so many further lines are logged.
EVERY = 10.0
MOST_LINES = 5
MAX_PROBLEM = 500
#: Seconds of processor time after which the search for the cause begins no further try: nothing else runs meanwhile.
SEARCH_TIME = 0.02


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The last refusal of a source, and how many there were."""

    times: int
    last_at: float
    problem: str


@dataclass(frozen=True, kw_only=True)
class RefusalRecord:
    """What to add to the table: the number of refusals since the last record of this source, and the last problem."""

    source: str
    times: int
    problem: str


class RefusalTable:
    """The refusals in the database, one row for each source."""

    def __init__(self, database: Database) -> None:
        self._database = database
        row = database.insert(refusals).values(last_at=database.now)
        self._add = row.on_conflict_do_update(
            index_elements=[refusals.c.source],
            set_={
                "times": refusals.c.times + row.excluded.times,
                "last_at": row.excluded.last_at,
                "problem": row.excluded.problem,
            },
        )

    def add(self, records: Sequence[RefusalRecord]) -> list[None]:
        """Store refusals.

        Raises:
            StoreError: The database cannot be used.
        """
        with writing(self._database) as connection:
            for record in records:
                connection.execute(self._add, asdict(record))
        return [None] * len(records)

    def read(self) -> dict[str, Refusal]:
        """Return the last refusal of each source that has one.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            rows = connection.execute(select(refusals)).all()
        return {row.source: Refusal(times=row.times, last_at=row.last_at, problem=row.problem) for row in rows}


class RefusalLog:
    """Logs and stores the refusals of one process, at a bounded rate.

    Args:
        stopwatch: Returns the seconds that the calling thread has worked.
    """

    def __init__(self, database: Database, *, stopwatch: Callable[[], float] = time.thread_time) -> None:
        self._stopwatch = stopwatch
        self._group: GroupCommit[RefusalRecord, None] = GroupCommit(RefusalTable(database).add)
        self._throttle = LogThrottle(every=EVERY)
        self._lock = threading.Lock()
        self._not_stored: Counter[str] = Counter()

    def log_unproven(
        self,
        source: str,
        scheme: Scheme,
        secrets: Sequence[str],
        webhook: Webhook,
        now: float,
        error: VerificationError,
    ) -> None:
        """Log a webhook that failed verification; once in a while find out the likely cause."""

        def find_cause() -> str | None:
            ends = self._stopwatch() + SEARCH_TIME
            return likely_cause(scheme, secrets, webhook, now, still_time=lambda: self._stopwatch() < ends)

        self._log(source, str(error), now, find_cause)

    def log_unreadable(self, source: str, error: RequestError, now: float) -> None:
        """Log a request that was refused because it cannot be read, or a handshake that lacks something."""
        self._log(source, f"HTTP {error.status}: {error}" + (f"; {error.hint}" if error.hint else ""), now)

    def log_network(self, source: str, address: Address | None, now: float) -> None:
        """Log a request from a network that the mapping does not allow."""
        origin = address or "an unknown address; is GATEWAY_PROXIES right?"
        self._log(source, f"it came from {origin}, which is in none of its 'networks'", now)

    def log_closed(self, source: str, reason: str, now: float) -> None:
        """Log a webhook for a source that is closed."""
        self._log(source, f"the source is closed: {reason}", now)

    def log_large(self, source: str, now: float) -> None:
        """Log a webhook that was refused because too many large ones wait to be verified."""
        problem = "HTTP 503: too many large webhooks arrive at once; a stranger may have sent most of them"
        self._log(source, problem, now)

    def close(self) -> None:
        """Store what waits; nothing can be stored afterwards."""
        self._group.close()

    def _log(self, source: str, problem: str, now: float, find_cause: Callable[[], str | None] = lambda: None) -> None:
        with self._lock:
            self._not_stored[source] += 1
        count = self._throttle.count(source, now)
        if count > 1:
            if count <= 1 + MOST_LINES:
                log.warning("source %s: a webhook was refused: %s", source, problem)
            return
        if cause := find_cause():
            # The cause answers the question at the end of the problem.
            problem = f"{problem.partition('; is the ')[0]}; {cause}"
        with self._lock:
            times = self._not_stored.pop(source, 0)
        more = f" (the last of {times:,} since the previous report)" if times > MOST_LINES + 1 else ""
        log.warning("source %s: a webhook was refused: %s%s", source, problem, more)
        try:
            self._group.write(RefusalRecord(source=source, times=times, problem=printable(problem, MAX_PROBLEM)))
        except StoreError as error:
            log.error("source %s: this refusal is only in the log: %s", source, error)
