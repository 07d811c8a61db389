"""Notices: changes of state that the operator should know of, written in the transaction that makes the change.

A notice is sent when it begins and when it ends. Several workers may look for notices to send: the one that claims a
notice sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, null, select, update

from gateway.store.database import Database, reading, writing
from gateway.store.tables import IS_FAILED, IS_OPEN, deliveries, events, notices

KINDS = ("paused", "failed", "late", "broken", "repeats")
#: Seconds that a notice belongs to the worker that claimed it: more than sending MOST_AT_ONCE takes.
LEASE = 60.0
MOST_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A notice that has begun or ended, claimed to be sent.

    Attributes:
        text: For people who may see the database: that of a failed delivery quotes Customer.io.
        over: It has ended.
        seconds: How long the state has lasted, or did last.
        waiting: Seconds since it began or ended.
        is_first: It was not claimed before, since it began or ended.
        lease_ends_at: When others may claim it, in unix seconds; it also says whether a claim is still the last one.
    """

    id: int
    kind: str
    subject: str
    text: str
    over: bool
    seconds: float
    waiting: float
    is_first: bool
    lease_ends_at: float


class Notices:
    """The notices of one database. Of one kind and subject, at most one is open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.now
        begin = database.insert(notices).values(began_at=now, tell_at=now, ended_at=null())
        # SQLAlchemy keeps the number of inserted rows on demand only.
        self._begin = begin.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        self._end = (
            update(notices)
            .where(notices.c.kind == bindparam("of_kind"), notices.c.subject == bindparam("of_subject"), IS_OPEN)
            .values(ended_at=now, tell_at=now)
        )
        self._due = select(notices, now.label("now")).where(notices.c.tell_at <= now).order_by(notices.c.id)
        is_notice = notices.c.id == bindparam("notice")
        is_held = notices.c.tell_at == bindparam("lease_ends_at")
        self._claim = update(notices).where(is_notice).values(tell_at=bindparam("lease_ends_at"))
        self._mark_sent = update(notices).where(is_notice, is_held).values(tell_at=null())
        self._postpone = update(notices).where(is_notice, is_held).values(tell_at=now + bindparam("seconds"))
        # A subquery makes the database search failed deliveries first; a join may read all events of the source.
        source = select(events.c.source).where(events.c.id == deliveries.c.event_id).scalar_subquery()
        self._select_failed = select(deliveries.c.id).where(IS_FAILED, source == bindparam("of_source")).limit(1)

    def begin(self, connection: Connection, kind: str, subject: str, text: str) -> bool:
        """Begin a notice unless it is open already, and return whether it is new."""
        return connection.execute(self._begin, {"kind": kind, "subject": subject, "text": text}).rowcount > 0

    def end(self, connection: Connection, kind: str, subject: str) -> bool:
        """End a notice, and return whether it was open."""
        return connection.execute(self._end, {"of_kind": kind, "of_subject": subject}).rowcount > 0

    def has_failed(self, connection: Connection, source: str) -> bool:
        """Return whether a source has a failed delivery."""
        return connection.scalar(self._select_failed, {"of_source": source}) is not None

    def end_failed(self, connection: Connection, source: str) -> bool:
        """End the notice of a source's failed deliveries unless one is left, and return whether it has ended.

        Call it last in a transaction that writes.
        """
        # A worker that is about to commit one more failure has found this notice open: wait for its failure.
        self._database.lock_table(connection, notices)
        return not self.has_failed(connection, source) and self.end(connection, "failed", source)

    def open_texts(self, kind: str) -> dict[str, str]:
        """Return the texts of the open notices of one kind, by subject.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            rows = connection.execute(select(notices.c.subject, notices.c.text).where(notices.c.kind == kind, IS_OPEN))
            return {row.subject: row.text for row in rows}

    def claim(self) -> list[Notice]:
        """Claim some notices that are due to be sent, for LEASE seconds.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            if connection.execute(self._due.limit(1)).first() is None:
                return []
        with writing(self._database) as connection:
            due = self._due.limit(MOST_AT_ONCE).with_for_update(skip_locked=True)
            claimed = [_notice(row) for row in connection.execute(due)]
            for notice in claimed:
                connection.execute(self._claim, {"notice": notice.id, "lease_ends_at": notice.lease_ends_at})
        return claimed

    def mark_sent(self, notice: Notice) -> None:
        """Send a notice no more, unless it has changed since it was claimed.

        Raises:
            StoreError: The database cannot be used.
        """
        self._write(self._mark_sent, notice)

    def postpone(self, notice: Notice, seconds: float) -> None:
        """Send a notice later, unless it has changed since it was claimed.

        Raises:
            StoreError: The database cannot be used.
        """
        self._write(self._postpone, notice, seconds=seconds)

    def _write(self, statement: Any, notice: Notice, **values: float) -> None:
        with writing(self._database) as connection:
            connection.execute(statement, {"notice": notice.id, "lease_ends_at": notice.lease_ends_at, **values})


def _notice(row: Row[Any]) -> Notice:
    changed_at = row.began_at if row.ended_at is None else row.ended_at
    return Notice(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        text=row.text,
        over=row.ended_at is not None,
        seconds=max((row.ended_at or row.now) - row.began_at, 0.0),
        waiting=max(row.now - changed_at, 0.0),
        is_first=row.tell_at == changed_at,
        lease_ends_at=row.now + LEASE,
    )
