"""Sources whose webhooks are all repeats of one event: most likely their event key is a constant."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from gateway.errors import StoreError
from gateway.store import Recorded
from gateway.store.database import Database, writing
from gateway.store.group_commit import GroupCommit
from gateway.store.notices import Notices

log = logging.getLogger(__name__)

#: So many repeats of one event in a row are told.
IN_A_ROW = 20


class RepeatLog:
    """Counts the repeats that one process receives. Where there are several processes, the first one tells.

    The notice "repeats" of the source ends with its next event; see `gateway.operate.alerts.detect`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._notices = Notices(database)
        self._group: GroupCommit[tuple[str, str], None] = GroupCommit(self._begin_notices)
        self._lock = threading.Lock()
        #: By source: the event that its last webhooks repeated, and how many they were.
        self._runs: dict[str, tuple[int, int]] = {}

    def add(self, source: str, recorded: Recorded) -> None:
        """Count a webhook, and tell the operator when it is the last of IN_A_ROW repeats."""
        with self._lock:
            if not recorded.duplicate:
                self._runs.pop(source, None)
                return
            event_id, times = self._runs.get(source, (recorded.id, 0))
            times = times + 1 if event_id == recorded.id else 1
            self._runs[source] = (recorded.id, times)
        if times == IN_A_ROW:
            text = (
                f"the last {IN_A_ROW} webhooks of source {source} were all repeats of event {recorded.id}, so none of"
                " them was recorded; if they differ, let 'event_key' in its mapping name what differs"
            )
            log.error("%s", text)
            try:
                self._group.write((source, text))
            except StoreError as error:
                log.error("source %s: this is only in the log: %s", source, error)

    def close(self) -> None:
        """Store what waits; nothing can be stored afterwards."""
        self._group.close()

    def _begin_notices(self, texts: Sequence[tuple[str, str]]) -> list[None]:
        with writing(self._database) as connection:
            for source, text in texts:
                self._notices.begin(connection, "repeats", source, text)
        return [None] * len(texts)
