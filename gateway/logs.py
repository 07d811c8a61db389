"""What is logged, and how."""

from __future__ import annotations

import logging
import threading


def configure_logging() -> None:
    """Log to standard error, one line a record."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)


class LogThrottle:
    """Lets a few lines of each kind into the log, and no more for some seconds: anybody can cause a flood of some.

    Args:
        most: Lines of a kind.
        every: Seconds.
    """

    def __init__(self, most: int = 5, every: float = 10.0) -> None:
        self._most = most
        self._every = every
        self._lock = threading.Lock()
        self._since: dict[str, tuple[float, int]] = {}

    def allows(self, kind: str, now: float) -> bool:
        """Tell whether one more may be written. The kinds are few: no stranger makes one up."""
        return self.count(kind, now) <= self._most

    def count(self, kind: str, now: float) -> int:
        """Count one more, and give how many they are since the first of these seconds."""
        with self._lock:
            began, lines = self._since.get(kind, (now, 0))
            # A clock that was set back begins anew, too.
            if not 0 <= now - began < self._every:
                began, lines = now, 0
            self._since[kind] = (began, lines + 1)
            return lines + 1
