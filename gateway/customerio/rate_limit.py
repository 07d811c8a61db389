"""How fast requests may follow each other: a rate, with a little room for those that come together."""

from __future__ import annotations

import threading


class RateLimit:
    """Spaces the requests of one connection (the generic cell rate algorithm). Any number of threads may ask.

    Args:
        rate: Requests a second.
        burst: How many may go at once after a pause; a tenth of a second's by default.
    """

    def __init__(self, rate: float, burst: int | None = None) -> None:
        self._interval = 1.0 / rate
        self._room = self._interval * (max(int(rate / 10), 1) if burst is None else burst)
        self._booked_until = 0.0
        self._turn = threading.Lock()

    def room(self, now: float) -> int:
        """Tell how many requests may go at once."""
        with self._turn:
            free = self._room - max(self._booked_until - now, 0.0)
        return max(int(free / self._interval + 1e-9), 0)

    def wait(self, now: float) -> float:
        """Tell in how many seconds the next request may go."""
        with self._turn:
            return max(self._booked_until + self._interval - self._room - now, 0.0)

    def take(self, now: float) -> float:
        """Book a request, and tell in how many seconds it may go."""
        with self._turn:
            wait = max(self._booked_until + self._interval - self._room - now, 0.0)
            self._booked_until = max(self._booked_until, now) + self._interval
            return wait
