"""How fast requests may follow each other: a rate, with some room for a burst."""

from __future__ import annotations

import threading


def burst_of(rate: float) -> int:
    """Return how many requests may go at once after a pause: those of a tenth of a second."""
    return max(int(rate / 10), 1)


class RateLimit:
    """The rate limit of one connection in one process (the generic cell rate algorithm). Threads may share it.

    Times are seconds of the monotonic clock.

    Args:
        rate: Requests a second.
        burst: Requests that may go at once after a pause; by default, `burst_of` the rate.
    """

    def __init__(self, rate: float, burst: int | None = None) -> None:
        self._interval = 1.0 / rate
        self._burst_seconds = self._interval * (burst_of(rate) if burst is None else burst)
        self._booked_until = 0.0
        self._lock = threading.Lock()

    def room(self, now: float) -> int:
        """Return how many requests may go at once."""
        with self._lock:
            free = self._burst_seconds - max(self._booked_until - now, 0.0)
        return max(int(free / self._interval + 1e-9), 0)

    def wait(self, now: float) -> float:
        """Return the seconds until the next request may go."""
        with self._lock:
            return self._wait(now)

    def take(self, now: float) -> float:
        """Book a request, and return the seconds until it may go."""
        with self._lock:
            wait = self._wait(now)
            self._booked_until = max(self._booked_until, now) + self._interval
            return wait

    def _wait(self, now: float) -> float:
        return max(self._booked_until + self._interval - self._burst_seconds - now, 0.0)
