"""What differs between SQLite and PostgreSQL: how to connect, to lock, to tell the time and to wake a worker."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Engine,
    FromClause,
    cast,
    create_engine,
    event,
    func,
    literal,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.errors import StoreError

#: Lanes share this many locks on PostgreSQL: one lock a lane would run out of its lock table.
LOCKS = 1024
_LOCK_SPACE = 0x6361  # keeps our advisory locks apart from other users of the same database
_MIGRATION_LOCK = 0x636167
CHANNEL = "gateway_deliveries"


class Database(Protocol):
    """One of the two databases; the rest of the store's SQL is the same for both."""

    engine: Engine

    @property
    def now(self) -> ColumnElement[float]:
        """The time to write and to compare with, in unix seconds."""

    def transaction(self) -> Any:
        """Open a transaction that may write, as a context manager that gives the connection."""

    def lock_lanes(self, connection: Connection, lanes: Sequence[int]) -> None:
        """Let no other process insert into or settle in these lanes until the transaction ends."""

    def each(self, numbers: Sequence[int]) -> FromClause:
        """Make a list of numbers something to select from, with one column "value", in one bound parameter."""

    def notify(self) -> None:
        """Wake the workers that listen."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call *wake* whenever another process has made work, until *stopping*."""


def connect(url: str, *, clock: Callable[[], float] = time.time) -> Database:
    """Choose the database by its URL; nothing is opened until the first use.

    Args:
        clock: Tells SQLite the time; PostgreSQL has its own.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return SQLite(url, clock=clock)
    return PostgreSQL(url)


class SQLite:
    """One file. Writers of all processes take turns by a blocking file lock: SQLite's own waiting is unfair."""

    def __init__(self, url: str, *, clock: Callable[[], float]) -> None:
        self._path = Path(make_url(url).database or "")
        self._clock = clock
        self._turn = threading.Lock()
        self._lock_file: tuple[int, int] | None = None
        self.engine = create_engine(url, pool_size=2, max_overflow=2, hide_parameters=True)
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", _begin)

    @property
    def now(self) -> ColumnElement[float]:
        return literal(self._clock(), Double)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._turn, self._file_lock(), self.engine.connect() as connection:
            connection = connection.execution_options(gateway_writes=True)
            with connection.begin():
                yield connection

    def lock_lanes(self, connection: Connection, lanes: Sequence[int]) -> None:
        """The file lock holds all lanes already."""

    def each(self, numbers: Sequence[int]) -> FromClause:
        return func.json_each("[" + ",".join(map(str, numbers)) + "]").table_valued("value", name="wanted")

    def notify(self) -> None:
        """Workers of other processes look by themselves."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Look ten times a second whether another process has written: a counter that SQLite keeps in memory."""
        with self.engine.connect() as connection:
            seen = None
            while not stopping.wait(0.1):
                version = connection.exec_driver_sql("PRAGMA data_version").scalar()
                connection.rollback()
                if version != seen:
                    wake()
                seen = version

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        descriptor = self._descriptor()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _descriptor(self) -> int:
        # A descriptor that came through a fork would share its lock with the parent.
        if self._lock_file is None or self._lock_file[0] != os.getpid():
            path = self._path.with_name(self._path.name + ".lock")
            self._lock_file = (os.getpid(), os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return self._lock_file[1]


class PostgreSQL:
    """A server. Its clock counts, its locks order the lanes, and its notices wake the workers."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(
            url,
            pool_size=2,
            max_overflow=1,
            pool_pre_ping=True,  # after a restart of the server the first group would fail without need
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": 3,  # seconds
                "tcp_user_timeout": 30_000,  # milliseconds: a server that went away without a word
                "application_name": "gateway",
                # Prepared statements do not survive the poolers that hosted databases put in front.
                "prepare_threshold": None,
            },
        )
        self._notifier = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def now(self) -> ColumnElement[float]:
        # Unlike clock_timestamp() it stands still within a statement, so an index can be searched for it.
        return cast(func.extract("epoch", func.statement_timestamp()), Double)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            yield connection

    def lock_lanes(self, connection: Connection, lanes: Sequence[int]) -> None:
        """Take the lanes' locks in one order, so that two transactions never wait for each other."""
        locks = sorted({number % LOCKS for number in lanes})
        if locks:
            connection.execute(_TAKE_LOCKS, {"space": _LOCK_SPACE, "locks": locks})

    def each(self, numbers: Sequence[int]) -> FromClause:
        array = cast(list(numbers), ARRAY(BigInteger))
        return func.unnest(array).table_valued("value", name="wanted").render_derived()

    def notify(self) -> None:
        """Outside of any transaction: a NOTIFY inside one makes all commits wait for each other."""
        with self._notifier.connect() as connection:
            connection.exec_driver_sql(f"NOTIFY {CHANNEL}")

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            connection.detach()  # it listens for good: closed at the end, never handed to another user
            driver.autocommit = True  # notices come between transactions only
            driver.execute(f"LISTEN {CHANNEL}")
            wake()  # for what was written before the listening began
            while not stopping.is_set():
                for _ in driver.notifies(timeout=0.5, stop_after=1):
                    wake()


_TAKE_LOCKS = text("SELECT pg_advisory_xact_lock(:space, lock) FROM unnest(CAST(:locks AS int[])) AS lock")


OTHER_SCHEMA = "the database's schema is not this version's; run: gateway migrate"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise StoreError for a database that cannot be used for now, without the statement's values.

    What one statement alone is to blame for passes through.
    """
    try:
        yield
    except (OperationalError, InterfaceError, ProgrammingError) as error:
        first_line = str(error.orig).strip().partition("\n")[0]
        if _is_of_another_schema(error, first_line):
            raise StoreError(OTHER_SCHEMA) from error
        if isinstance(error, ProgrammingError):
            raise
        raise StoreError(f"the database cannot be used: {first_line}") from error
    except PoolTimeout as error:
        raise StoreError("the database cannot be used: all connections to it are busy") from error


def _is_of_another_schema(error: DBAPIError, first_line: str) -> bool:
    """Tell that a table or a column is not there, which PostgreSQL says by a code and SQLite in words."""
    undefined = getattr(error.orig, "sqlstate", None) in ("42P01", "42703")
    return undefined or first_line.startswith(("no such table", "no such column"))


def migrate(database: Database) -> None:
    """Bring the database's schema to the newest version. Several processes may try at once.

    Raises:
        StoreError: The database cannot be used.
    """
    with readable_errors(), database.transaction() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        settings = _alembic()
        settings.attributes["connection"] = connection
        alembic.command.upgrade(settings, "head")


def require_schema(database: Database) -> str:
    """Give the version of the database's schema, which is the one that this code needs.

    Raises:
        StoreError: It is another, or the database cannot be used.
    """
    with readable_errors(), database.engine.connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    if version is None or version != _newest_version():
        raise StoreError(OTHER_SCHEMA)
    return version


@cache
def _newest_version() -> str | None:
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> alembic.config.Config:
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(resources.files("gateway") / "migrations"))
    return settings


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own transactions are off: "begin" below says how one starts.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "busy_timeout = 5000",
        "auto_vacuum = INCREMENTAL",  # only an empty file takes it, so it comes before the first table
        "journal_mode = WAL",
        "synchronous = FULL",  # a 202 is a promise that outlives a power cut
        "journal_size_limit = 67108864",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails under load, whatever the timeout.
    writes = connection.get_execution_options().get("gateway_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
