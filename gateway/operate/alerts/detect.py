"""Detect what no transaction notices by itself: calls that are late, mappings that fail, failures that are over.

It reads, and writes only when something has changed. Any number of workers may do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Label, Text, bindparam, func, literal_column, select

from gateway.operate.backlog import BacklogReader
from gateway.store.database import Database, reading, writing
from gateway.store.notices import Notices
from gateway.store.tables import IS_BROKEN, IS_OPEN, events, notices

#: Seconds after the last webhook on which a mapping failed until its notice ends.
FIXED_AFTER = 3_600.0
#: A newer event of a source is searched among so many newest events of all sources.
NEWEST = 1_000


@dataclass(frozen=True, kw_only=True)
class NoticeChange:
    """A notice that begins, with its text, or ends (*text* None)."""

    kind: str
    subject: str
    text: str | None = None


class NoticeDetector:
    """Begins and ends the notices "late" and "broken", and ends "failed" and "repeats".

    Args:
        late_after: Seconds after which a delivery that waits is late.
    """

    def __init__(self, database: Database, *, late_after: float) -> None:
        self._database = database
        self._late_after = late_after
        self._notices = Notices(database)
        self._backlog_reader = BacklogReader(database)
        failed_lately = (IS_BROKEN, events.c.received_at > database.now - FIXED_AFTER)
        # An expression instead of the column, or SQLite reads all events in the order of their sources.
        source: Label[str] = literal_column("source || ''", Text).label("source")
        first_failures = select(source, func.min(events.c.received_at).label("at")).where(*failed_lately)
        self._select_first_failures = first_failures.group_by(source)
        self._select_failed_event = select(events.c.id, events.c.problem).where(
            *failed_lately, events.c.source == bindparam("of_source"), events.c.received_at == bindparam("at")
        )
        # No index holds the events of a source in their order, and it may have millions.
        self._select_newer_event = select(events.c.id).where(
            events.c.id > select(func.max(events.c.id)).scalar_subquery() - NEWEST,
            events.c.source.concat("") == bindparam("of_source"),
            events.c.received_at > bindparam("began_at"),
        )

    def run(self) -> None:
        """Write the changes since the last run.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            changes = list(self._changes(connection))
        if not changes:
            return
        with writing(self._database) as connection:
            for change in changes:
                if change.text is not None:
                    self._notices.begin(connection, change.kind, change.subject, change.text)
                elif change.kind == "failed":
                    self._notices.end_failed(connection, change.subject)
                else:
                    self._notices.end(connection, change.kind, change.subject)

    def _changes(self, connection: Connection) -> Iterator[NoticeChange]:
        open_notices = select(notices.c.kind, notices.c.subject, notices.c.began_at).where(IS_OPEN)
        known = {(row.kind, row.subject): row.began_at for row in connection.execute(open_notices)}
        yield from self._late(connection, is_open=("late", "") in known)
        yield from self._broken(connection, {subject for kind, subject in known if kind == "broken"})
        for kind, source in sorted(known):
            if kind == "failed" and not self._notices.has_failed(connection, source):
                yield NoticeChange(kind=kind, subject=source)
            elif kind == "repeats":
                parameters = {"of_source": source, "began_at": known[kind, source]}
                if connection.execute(self._select_newer_event, parameters).first() is not None:
                    yield NoticeChange(kind=kind, subject=source)

    def _late(self, connection: Connection, *, is_open: bool) -> Iterator[NoticeChange]:
        backlog = self._backlog_reader.read(connection)
        # It ends well below the limit, or a backlog that hardly moves would begin and end it again and again.
        if is_open and backlog.oldest < self._late_after / 2:
            yield NoticeChange(kind="late", subject="")
        elif not is_open and backlog.oldest > self._late_after:
            text = (
                f"deliveries are late: the oldest of {backlog.pending + backlog.parked} has waited for more than"
                f" {self._late_after / 60:g} minutes; is the worker running, is a connection paused?"
            )
            yield NoticeChange(kind="late", subject="", text=text)

    def _broken(self, connection: Connection, known_sources: set[str]) -> Iterator[NoticeChange]:
        failed_at = {row.source: row.at for row in connection.execute(self._select_first_failures)}
        for source in sorted(known_sources - failed_at.keys()):
            yield NoticeChange(kind="broken", subject=source)
        for source in sorted(failed_at.keys() - known_sources):
            parameters = {"of_source": source, "at": failed_at[source]}
            event = connection.execute(self._select_failed_event, parameters).first()
            if event is not None:
                text = f"webhooks of source {source} fail, first event {event.id}: {event.problem}"
                yield NoticeChange(kind="broken", subject=source, text=text)
