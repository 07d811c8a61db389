"""Webhooks that were refused, and why: told to the operator, by the log and by the database, and to nobody else."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from gateway.errors import StoreError, VerificationError, printable
from gateway.event import Webhook
from gateway.logs import LogThrottle
from gateway.store.database import Database, reading, writing
from gateway.store.tables import refusals
from gateway.verify import Scheme, likely_cause

if TYPE_CHECKING:
    from gateway.receive.request import Address

log = logging.getLogger(__name__)

#: Seconds between two refusals of a source of which the cause is looked for and kept, and how many others are in the
#: log meanwhile: anybody can cause a flood.
EVERY = 10.0
MOST_LINES = 5
MAX_PROBLEM = 500


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The last refusal of a source, and how many there have been."""

    times: int
    last_at: float
    problem: str


class Refusals:
    """Tells of the webhooks that one process refuses.

    Args:
        write: Has the database keep what there is to tell, and waits for it.
    """

    def __init__(self, write: Callable[[Told], object]) -> None:
        self._write = write
        self._few = LogThrottle(every=EVERY)
        self._lock = threading.Lock()
        self._untold: Counter[str] = Counter()

    def tell(
        self,
        source: str,
        scheme: Scheme,
        secrets: Sequence[str],
        webhook: Webhook,
        now: float,
        error: VerificationError,
    ) -> None:
        """Tell of a webhook that its scheme refused, once in a while with the likely cause."""
        self._tell(source, str(error), now, lambda: likely_cause(scheme, secrets, webhook, now))

    def tell_network(self, source: str, address: Address | None, now: float) -> None:
        """Tell of a request that came from a network of which the mapping says nothing."""
        came_from = address or "an address that nobody can tell; is GATEWAY_PROXIES right?"
        self._tell(source, f"it came from {came_from}, which is none of its 'networks'", now)

    def tell_closed(self, source: str, reason: str, now: float) -> None:
        """Tell of a webhook that found its source closed."""
        self._tell(source, f"the source is closed: {reason}", now)

    def _tell(
        self, source: str, problem: str, now: float, look_for_cause: Callable[[], str | None] = lambda: None
    ) -> None:
        with self._lock:
            self._untold[source] += 1
        lines = self._few.count(source, now)
        if lines == 1:
            cause = look_for_cause()
            # A question is answered by the cause.
            self._keep(source, problem if cause is None else f"{problem.partition('; is the ')[0]}; {cause}")
        elif lines <= 1 + MOST_LINES:
            log.warning("source %s: a webhook was refused: %s", source, problem)

    def _keep(self, source: str, problem: str) -> None:
        with self._lock:
            times = self._untold.pop(source, 0)
        more = f" (the last of {times:,} since it was told before)" if times > MOST_LINES + 1 else ""
        log.warning("source %s: a webhook was refused: %s%s", source, problem, more)
        told = Told(source=source, times=times, problem=printable(problem, MAX_PROBLEM))
        try:
            self._write(told)
        except StoreError as error:
            log.error("source %s: this refusal is only in the log: %s", source, error)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a process has to tell: so many more webhooks of a source were refused, the last one for this problem."""

    source: str
    times: int
    problem: str


class Kept:
    """The refusals that the database keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database
        new = database.insert(refusals).values(last_at=database.now)
        self._add = new.on_conflict_do_update(
            index_elements=[refusals.c.source],
            set_={
                "times": refusals.c.times + new.excluded.times,
                "last_at": new.excluded.last_at,
                "problem": new.excluded.problem,
            },
        )

    def add(self, group: Sequence[Told]) -> list[None]:
        """Keep what was told.

        Raises:
            StoreError: The database cannot be used.
        """
        with writing(self._database) as connection:
            for told in group:
                connection.execute(self._add, asdict(told))
        return [None] * len(group)

    def read(self) -> dict[str, Refusal]:
        """Give the last refusal of each source that has one.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            rows = connection.execute(select(refusals)).all()
        return {row.source: Refusal(times=row.times, last_at=row.last_at, problem=row.problem) for row in rows}
