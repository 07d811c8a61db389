"""The two databases behind one interface: connect, read, write, and report errors as StoreError."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Table, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql import ClauseElement

from gateway.errors import StoreError
from gateway.store.lease_owners import WorkerLock
from gateway.store.postgresql import AnswerLimits, PostgreSQL
from gateway.store.sqlite import SQLite
from gateway.store.statements import CompiledStatement, InsertStatement

OTHER_SCHEMA = "the database's schema is not this version's; run: gateway migrate"


class Database(Protocol):
    """SQLite or PostgreSQL. What differs between them is behind these methods; all other SQL is the same for both."""

    engine: Engine

    #: The present time in unix seconds, for statements.
    now: ColumnElement[float]

    def transaction(self, lanes: Collection[int] = ()) -> AbstractContextManager[Connection]:
        """Open a transaction that may write. Its lanes are locked when it begins, as by `lock_lanes`."""

    # Statements

    def compile(self, statement: ClauseElement) -> CompiledStatement:
        """Compile a statement that runs often."""

    def compile_insert(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> InsertStatement:
        """Write an INSERT of many rows.

        Args:
            columns: The columns of each row, in the order of its values.
            now: Further columns, which are set to the present time.
            returning: Columns that `InsertStatement.rows` returns.
        """

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Begin an INSERT that may continue with ON CONFLICT, which both databases write alike."""

    def number_rows(self, name: str) -> FromClause:
        """Read the numbers of the bound parameter *name* as rows with one column "value"."""

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Compare a column with the numbers of the bound parameter *name*, by an index of the column."""

    def numbers(self, values: Collection[int]) -> Any:
        """Convert numbers to the value of such a parameter."""

    def take_ids(self, connection: Connection, table: Table, number: int) -> list[int]:
        """Reserve the next ids of a table, in ascending order."""

    # Locks, which last until the end of the transaction

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        """Exclude other transactions from these lanes and ULIDs; see `gateway.store.lanes` and `ulid_locks`."""

    def lock_table(self, connection: Connection, table: Table) -> None:
        """Wait for the transactions that have written to a table, and keep others from writing to it."""

    def lock_schema(self, connection: Connection) -> None:
        """Wait for another process that migrates the schema."""

    # The disk

    def require_writable(self, connection: Connection) -> None:
        """Raise StoreError when the database only lets us read."""

    def require_space(self) -> None:
        """Raise StoreError when the disk has no room for more, where that can be seen."""

    def give_back_space(self, connection: Connection, *, pages: int, spare: float) -> bool:
        """Return free pages of the database file to the disk.

        Args:
            pages: How many at most.
            spare: The part of the file that stays free for new rows.

        Returns:
            Whether there are more to give back.
        """

    # Errors

    #: What the operator can do about an error, by words of its text.
    advice: Mapping[str, str]

    def lacks_schema(self, error: DBAPIError) -> bool:
        """Return whether a table or a column is missing."""

    def is_unusable(self, error: DBAPIError) -> bool:
        """Return whether an error other than a lost connection concerns the whole database, not one statement."""

    # Waking workers

    def notify(self) -> None:
        """Wake the workers that listen."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event, lock: WorkerLock) -> None:
        """Call *wake* whenever another process has called `notify`, and hold a new *lock*, until *stopping* is set.

        Raises whatever ends it sooner: then the lock is lost.
        """

    def living_workers(self, connection: Connection) -> set[int]:
        """Return the numbers of the workers that hold their locks."""


def connect(
    url: str,
    *,
    clock: Callable[[], float] = time.time,
    least_free: int | None = None,
    limits: AnswerLimits | None = None,
) -> Database:
    """Return the database of a URL. Nothing is opened before the first use.

    Args:
        clock: Returns the time for SQLite; PostgreSQL has its own.
        least_free: Bytes that have to be free on the disk of a SQLite file to record more; see DiskSpace.
        limits: How long a PostgreSQL server may take to answer. Web and worker need them, to find out that a connection
            is lost; commands and migrations have statements that may take minutes.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return SQLite(url, clock=clock, least_free=least_free)
    return PostgreSQL(url, limits=limits)


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Open a transaction that only reads; raise StoreError as `readable_errors` does."""
    with readable_errors(database), database.engine.connect() as connection:
        yield connection


@contextmanager
def writing(database: Database, lanes: Collection[int] = ()) -> Iterator[Connection]:
    """Open a transaction that may write, with these lanes locked; raise StoreError as `readable_errors` does."""
    with readable_errors(database), database.transaction(lanes) as connection:
        yield connection


@contextmanager
def readable_errors(database: Database) -> Iterator[None]:
    """Raise StoreError where the database cannot be used, without any value of the statement.

    An error that one statement alone has caused is raised as it is.
    """
    try:
        yield
    except DBAPIError as error:
        if database.lacks_schema(error):
            raise StoreError(OTHER_SCHEMA) from error
        if not (isinstance(error, OperationalError | InterfaceError) or database.is_unusable(error)):
            raise
        reason = str(error.orig).strip().partition("\n")[0]
        advice = next((f"; {advice}" for words, advice in database.advice.items() if words in reason), "")
        raise StoreError(f"the database cannot be used: {reason}{advice}") from error
    except PoolTimeout as error:
        raise StoreError("the database cannot be used: all connections to it are busy") from error
