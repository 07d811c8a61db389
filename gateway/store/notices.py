"""What the operator should know of: changes of state, written in the transaction that makes them.

A notice is told when it begins and when it ends; of several workers that would tell it, the one that takes it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, null, select, text, update

from gateway.store.database import Database, insert_into, reading, writing
from gateway.store.tables import IS_FAILED, IS_OPEN, deliveries, events, notices

KINDS = ("paused", "failed", "late", "broken")
#: Seconds that a notice belongs to the one who took it: more than telling that many takes.
LEASE = 60.0
MOST_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A change of state that is ours to tell for now.

    Attributes:
        text: For those who may see the database: of a failed delivery it holds Customer.io's own words.
        seconds: How long the state has lasted, or did last.
        waiting: Seconds since the change.
        taken_until: The end of our lease, by which the notice is known to be ours still.
    """

    id: int
    kind: str
    subject: str
    text: str
    over: bool
    seconds: float
    waiting: float
    is_first: bool
    taken_until: float


class Notices:
    """The notices of one database: each begins once, and ends when what it is about is over."""

    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.now
        begin = insert_into(database, notices).values(began_at=now, tell_at=now, ended_at=null())
        # Of an INSERT the rows are counted on demand only.
        self._begin = begin.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        self._end = (
            update(notices)
            .where(notices.c.kind == bindparam("of"), notices.c.subject == bindparam("about"), IS_OPEN)
            .values(ended_at=now, tell_at=now)
        )
        self._due = select(notices, now.label("now")).where(notices.c.tell_at <= now).order_by(notices.c.id)
        ours = (notices.c.id == bindparam("notice"), notices.c.tell_at == bindparam("taken_until"))
        self._take = update(notices).where(notices.c.id == bindparam("notice"))
        self._take = self._take.values(tell_at=bindparam("taken_until"))
        self._told = update(notices).where(*ours).values(tell_at=null())
        self._put_off = update(notices).where(*ours).values(tell_at=now + bindparam("seconds"))
        # The order of the search is said, or the search goes through all events of the source.
        source = select(events.c.source).where(events.c.id == deliveries.c.event_id).scalar_subquery()
        self._find_failed = select(deliveries.c.id).where(IS_FAILED, source == bindparam("about")).limit(1)

    def begin(self, connection: Connection, kind: str, subject: str, text: str) -> bool:
        """Note that something has begun; one that is noted already stays as it is. Tells whether it is new."""
        return connection.execute(self._begin, {"kind": kind, "subject": subject, "text": text}).rowcount > 0

    def end(self, connection: Connection, kind: str, subject: str) -> bool:
        """Note that it is over. Tells whether it had begun."""
        return connection.execute(self._end, {"of": kind, "about": subject}).rowcount > 0

    def has_failed(self, connection: Connection, source: str) -> bool:
        """Tell whether a failed delivery of a source is left."""
        return connection.scalar(self._find_failed, {"about": source}) is not None

    def end_failed(self, connection: Connection, source: str) -> bool:
        """End the notice of a source's failed deliveries unless one is left. Tells whether it has ended.

        To be called last in a transaction that writes.
        """
        if connection.dialect.name == "postgresql":
            # A worker that has just met this notice as open, and is about to commit one more failure, goes first.
            connection.execute(_LOCK)
        return not self.has_failed(connection, source) and self.end(connection, "failed", source)

    def take(self) -> list[Notice]:
        """Take some notices that are to be told; they are ours for a minute.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            if connection.execute(self._due.limit(1)).first() is None:
                return []
        with writing(self._database) as connection:
            due = self._due.limit(MOST_AT_ONCE).with_for_update(skip_locked=True)
            taken = [_notice(row) for row in connection.execute(due)]
            for each in taken:
                connection.execute(self._take, {"notice": each.id, "taken_until": each.taken_until})
        return taken

    def told(self, notice: Notice) -> None:
        """Tell it no more, unless it has changed since it was taken.

        Raises:
            StoreError: The database cannot be used.
        """
        self._write(self._told, notice)

    def put_off(self, notice: Notice, seconds: float) -> None:
        """Have it told later, unless it has changed since it was taken.

        Raises:
            StoreError: The database cannot be used.
        """
        self._write(self._put_off, notice, seconds=seconds)

    def _write(self, statement: Any, notice: Notice, **given: float) -> None:
        with writing(self._database) as connection:
            connection.execute(statement, {"notice": notice.id, "taken_until": notice.taken_until, **given})


_LOCK = text("LOCK TABLE notices IN SHARE ROW EXCLUSIVE MODE")


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
        taken_until=row.now + LEASE,
    )
