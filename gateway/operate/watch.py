"""Look after what no transaction of receiver or worker notices by itself: what is late, what has stopped failing.

It only reads, and writes when something has changed; any number of workers may look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Label, Text, bindparam, func, literal_column, select

from gateway.operate.backlog import Backlog, Backlogs
from gateway.store.database import Database, reading, writing
from gateway.store.notices import Notices
from gateway.store.tables import IS_BROKEN, IS_OPEN, events, notices

#: Seconds after the last webhook that a mapping failed on until its source counts as mended.
MENDED_AFTER = 3_600.0


@dataclass(frozen=True, kw_only=True)
class _Change:
    kind: str
    subject: str
    #: None: it is over.
    text: str | None = None


class Watch:
    """Begins and ends the notices "late" and "broken", and ends "failed".

    Args:
        late_after: Seconds after which a delivery that waits is worth a notice.
    """

    def __init__(self, database: Database, *, late_after: float) -> None:
        self._database = database
        self._late_after = late_after
        self._notices = Notices(database)
        self._backlogs = Backlogs(database)
        self._open = select(notices.c.kind, notices.c.subject).where(IS_OPEN)
        since = database.now - MENDED_AFTER
        is_recent = (IS_BROKEN, events.c.received_at > since)
        # An expression, or SQLite goes through all events in the order of their sources.
        source: Label[str] = literal_column("source || ''", Text).label("source")
        self._broken = select(source, func.min(events.c.received_at).label("at")).where(*is_recent)
        self._broken = self._broken.group_by(source)
        self._first = select(events.c.id, events.c.problem).where(
            *is_recent, events.c.source == bindparam("about"), events.c.received_at == bindparam("at")
        )

    def look(self) -> None:
        """Note what has changed.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            changes = list(self._changes(connection))
        if not changes:
            return
        with writing(self._database) as connection:
            for change in changes:
                self._note(connection, change)

    def _changes(self, connection: Connection) -> Iterator[_Change]:
        known = {(row.kind, row.subject) for row in connection.execute(self._open)}
        yield from self._late(self._backlogs.read(connection), was_late=("late", "") in known)
        yield from self._broken_sources(connection, {about for kind, about in known if kind == "broken"})
        for kind, source in sorted(known):
            if kind == "failed" and not self._notices.has_failed(connection, source):
                yield _Change(kind=kind, subject=source)

    def _late(self, backlog: Backlog, *, was_late: bool) -> Iterator[_Change]:
        if was_late and backlog.oldest < self._late_after / 2:
            # Well below, or a backlog that hardly moves would begin and end by turns.
            yield _Change(kind="late", subject="")
        elif not was_late and backlog.oldest > self._late_after:
            waiting = backlog.pending + backlog.parked
            yield _Change(
                kind="late",
                subject="",
                text=f"deliveries are late: the oldest of {waiting} has waited for more than"
                f" {self._late_after / 60:g} minutes; is the worker running, is a connection paused?",
            )

    def _broken_sources(self, connection: Connection, known: set[str]) -> Iterator[_Change]:
        broken = {row.source: row.at for row in connection.execute(self._broken)}
        for source in sorted(known - broken.keys()):
            yield _Change(kind="broken", subject=source)
        for source in sorted(broken.keys() - known):
            first = connection.execute(self._first, {"about": source, "at": broken[source]}).first()
            if first is not None:
                text = f"the mapping of source {source} fails, first on event {first.id}: {first.problem}"
                yield _Change(kind="broken", subject=source, text=text)

    def _note(self, connection: Connection, change: _Change) -> None:
        if change.text is not None:
            self._notices.begin(connection, change.kind, change.subject, change.text)
        elif change.kind == "failed":
            self._notices.end_failed(connection, change.subject)
        else:
            self._notices.end(connection, change.kind, change.subject)
