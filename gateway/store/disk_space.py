"""Free space on the disk of a SQLite file: refuse webhooks before it is used up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import StoreError

#: Bytes that new webhooks must leave free: settling recorded deliveries needs a little, and has to go on.
LEAST_FREE = 128 * 1_048_576
#: On a small disk, this part of it is enough.
LEAST_FREE_PART = 1 / 10
#: Seconds for which the result of one check holds.
CHECK_EVERY = 1.0


class DiskSpace:
    """Checks the free space on the disk of a directory.

    Args:
        least_free: Bytes that have to be free; by default LEAST_FREE, or less on a small disk.
        clock: Counts seconds.
    """

    def __init__(
        self, directory: Path, *, least_free: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._least_free = least_free
        self._clock = clock
        self._checked_at: float | None = None
        self._problem: str | None = None

    def require(self) -> None:
        """Raise StoreError, with what the operator can do, when too little space is free."""
        now = self._clock()
        if self._checked_at is None or now - self._checked_at >= CHECK_EVERY:
            self._problem, self._checked_at = self._check(), now
        if self._problem is not None:
            raise StoreError(self._problem)

    def _check(self) -> str | None:
        try:
            disk = shutil.disk_usage(self._directory)
        except OSError as error:
            return f"the database's directory cannot be read ({error.strerror})"
        least_free = self._least_free
        if least_free is None:
            least_free = min(LEAST_FREE, int(disk.total * LEAST_FREE_PART))
        if disk.free >= least_free:
            return None
        free, reserved = (f"{size / 1_048_576:.0f} MiB" for size in (disk.free, least_free))
        return (
            f"the database's disk is nearly full ({free} are free, {reserved} are reserved for webhooks that are"
            " recorded already): free some space on it, or lower GATEWAY_RETENTION_DAYS;"
            " the gateway then accepts webhooks again without a restart"
        )
