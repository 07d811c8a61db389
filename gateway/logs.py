"""Logging: its format, and a bound on the lines that strangers can cause."""

from __future__ import annotations

import logging
import threading


def configure_logging() -> None:
    """Log to standard error, one line a record."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)


class LogThrottle:
    """Allows a few lines of each kind in a period; anybody can cause floods of some.

    Args:
        most: Lines of a kind.
        every: Seconds of a period.
    """

    def __init__(self, most: int = 5, every: float = 10.0) -> None:
        self._most = most
        self._every = every
        self._lock = threading.Lock()
        self._periods: dict[str, tuple[float, int]] = {}

    def allows(self, kind: str, now: float) -> bool:
        """Return whether one more line may be logged. Never use a stranger's text as *kind*: each one is remembered."""
        return self.count(kind, now) <= self._most

    def count(self, kind: str, now: float) -> int:
        """Count one more line of this kind, and return their number in the present period."""
        with self._lock:
            began, lines = self._periods.get(kind, (now, 0))
            # A clock that was set back also begins a new period.
            if not 0 <= now - began < self._every:
                began, lines = now, 0
            self._periods[kind] = (began, lines + 1)
            return lines + 1
