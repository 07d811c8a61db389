"""Turns for large bodies: to verify one takes milliseconds in which, under gevent, nothing else runs in the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Bytes of a large body.
LARGE_BODY = 65_536
#: Large bodies of one source that wait for their turn at most, and for so many seconds at most. Anybody can send them.
MOST_WAITING = 8
PATIENCE = 2.0
#: Turns that all other requests get after each large body.
TURNS = 4


class NoTurnError(Exception):
    """Others of the same source wait already, or the turn did not come in time."""


@dataclass(slots=True)
class _Queue:
    waiting: int = 0
    front: threading.Lock = field(default_factory=threading.Lock)


class LargeBodies:
    """Lets one large body at a time be verified in a process.

    Each source has a queue of its own, and only the first of each queue waits for the turn of the process: a flood of
    one source takes turns with the others. Where a queue is full, it refuses.

    Args:
        patience: Seconds that one may wait.
    """

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def waiting(self, source: str) -> int:
        """Return how many large bodies of a source wait or are verified."""
        with self._lock:
            return self._queues[source].waiting if source in self._queues else 0

    @contextmanager
    def turn(self, source: str, body: bytes) -> Iterator[None]:
        """Wait for the turn of a body of a source; a small one need not wait.

        Raises:
            NoTurnError: The queue of the source is full, or does not move.
        """
        if len(body) < LARGE_BODY:
            yield
            return
        ends = time.monotonic() + self._patience
        with self.queued(source) as queue, _held(queue.front, ends), _held(self._turn, ends):
            try:
                yield
            finally:
                for _ in range(TURNS):
                    time.sleep(0)

    @contextmanager
    def queued(self, source: str) -> Iterator[_Queue]:
        """Take a place in the queue of a source.

        Raises:
            NoTurnError: It is full.
        """
        with self._lock:
            queue = self._queues.setdefault(source, _Queue())
            if queue.waiting >= MOST_WAITING:
                raise NoTurnError
            queue.waiting += 1
        try:
            yield queue
        finally:
            with self._lock:
                queue.waiting -= 1


@contextmanager
def _held(lock: threading.Lock, until: float) -> Iterator[None]:
    if not lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
        raise NoTurnError
    try:
        yield
    finally:
        lock.release()
