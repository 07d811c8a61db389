"""A connection to PostgreSQL that waits for each answer for a limited time.

A server that is stopped, or a proxy that has lost it, keeps a connection open and never answers. The driver would wait
for ever: TCP's own timeouts end only connections whose packets are lost.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg


class NoAnswerError(psycopg.OperationalError):
    """The server did not answer in time. The connection is closed: a late answer would be taken for the next one."""


class TimelyConnection(psycopg.Connection[Any]):
    """A connection of the driver that is closed when an answer takes longer than *answer_within* seconds.

    It is also closed when the server refuses to write: a standby that takes its place has another address, or the same.

    Attributes:
        answer_within: Seconds; None: there is no limit. It may be changed between two statements.
    """

    answer_within: float | None = None

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait for an answer, as the driver's own method does.

        Raises:
            NoAnswerError: It did not come in time.
        """
        waiting = gen if self.answer_within is None else _limited(gen, self.answer_within)
        try:
            return super().wait(waiting, *args, **options)
        except (NoAnswerError, psycopg.errors.ReadOnlySqlTransaction):
            self.close()
            raise


def _limited(waiting: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Pass on what the driver waits for, which is asked ten times a second, until the time is over."""
    ends = time.monotonic() + seconds
    try:
        event = next(waiting)
        while True:
            ready = yield event
            # What is ready is read, however late: a process that was busy elsewhere has not waited for the server.
            if not ready and time.monotonic() > ends:
                raise NoAnswerError(f"the server did not answer within {seconds:g} s")
            event = waiting.send(ready) or event
    except StopIteration as end:
        return end.value
