"""Whose a lease is: its token holds the number of the worker, as long as that holds its lock (`worker_locks`)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

#: Seconds between two questions whether the lock is held, and for the answer.
ASK_EVERY = 0.5
ANSWER_WITHIN = 1.5
#: Seconds after a question that was answered in which a worker may send. Longer than the two together.
TRUSTED = 2.2


def owner_of(lease: int) -> int:
    """Return the number of the worker whose lease this is. Only negative leases have an owner."""
    return -lease >> 32


class WorkerLock:
    """The number of a worker, and until when it surely holds the lock of that number.

    The thread that listens holds the lock; those that claim and send ask.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: tuple[int, float] | None = None  # the number, and until when

    def new_number(self) -> int:
        """Return a number that nobody has had. It counts once it is confirmed."""
        return secrets.randbelow(2**31 - 1) + 1

    def confirm(self, number: int, asked_at: float) -> None:
        """Note that the lock of *number* was held when it was asked for, or later."""
        self._held = (number, asked_at + TRUSTED)

    def lose(self) -> float:
        """Give the number up, and return the seconds after which nothing may be sent under it any more."""
        held, self._held = self._held, None
        return 0.0 if held is None else max(held[1] - self._clock(), 0.0)

    def new_lease(self) -> int:
        """Return a new token: of this worker if it holds its lock, else of nobody, which ends by itself."""
        held = self._held
        if held is None or self._clock() >= held[1]:
            return secrets.randbits(63)
        return -(held[0] << 32 | secrets.randbits(32))

    def may_send(self, lease: int) -> bool:
        """Return whether an attempt may begin under a lease."""
        held = self._held
        return lease >= 0 or (held is not None and owner_of(lease) == held[0] and self._clock() < held[1])
