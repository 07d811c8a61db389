"""The room on the disk that a SQLite file is on: webhooks are refused before it runs out, and not in the middle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import StoreError

#: Bytes to leave for what has been recorded: settling needs little, and the backlog is to drain.
LEAST_FREE = 128 * 1_048_576
#: A small disk keeps this part of itself free, if that is less.
LEAST_PART = 10
#: Seconds for which one look holds.
LOOK_EVERY = 1.0


class DiskSpace:
    """Says whether there is room for more on the disk of a directory.

    Args:
        least: Bytes that have to be free; by default LEAST_FREE, or less on a small disk.
        clock: Counts seconds.
    """

    def __init__(
        self, directory: Path, *, least: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._least = least
        self._clock = clock
        self._looked_at: float | None = None
        self._problem: str | None = None

    def require(self) -> None:
        """Refuse to go on when too little is left.

        Raises:
            StoreError: There is no room; the text tells the operator what to do.
        """
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY:
            self._problem, self._looked_at = self._look(), now
        if self._problem is not None:
            raise StoreError(self._problem)

    def _look(self) -> str | None:
        try:
            disk = shutil.disk_usage(self._directory)
        except OSError as error:
            return f"the database's directory cannot be examined ({error.strerror})"
        least = min(LEAST_FREE, disk.total // LEAST_PART) if self._least is None else self._least
        if disk.free >= least:
            return None
        free, wanted = (f"{size / 1_048_576:.0f} MiB" for size in (disk.free, least))
        return (
            f"the database's disk is nearly full ({free} are free, {wanted} are kept for what is recorded already):"
            " free some space on it, or lower GATEWAY_RETENTION_DAYS; webhooks are taken again by themselves"
        )
