"""What differs between SQLite and PostgreSQL: how to connect, to lock, to tell the time and to wake a worker."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import resources
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, Protocol, TypeAlias

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
    Table,
    Text,
    Transaction,
    any_,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql import ClauseElement

from gateway.errors import StoreError
from gateway.store.disk_space import DiskSpace
from gateway.store.gevent_support import is_gevent_patched, run_in_native_thread
from gateway.store.statements import Prepared, driver_cursor

#: Lanes share this many locks on PostgreSQL: one lock a lane would run out of its lock table.
LOCKS = 1024
_LOCK_SPACE = 0x6361  # keeps our advisory locks apart from other users of the same database
_MIGRATION_LOCK = 0x636167
CHANNEL = "gateway_deliveries"


#: Seconds for which a commit of SQLite may hold up the requests of its process.
QUICK = 0.002
#: How often SQLite's lock is tried under gevent before a thread waits in its queue, and seconds between.
LOCK_TRIES = 200
LOCK_PAUSE = 0.0005


class Inserted(NamedTuple):
    """What an inserter did: how many rows are new, and what it was to give back of each."""

    number: int
    rows: Sequence[tuple[Any, ...]]


Inserter: TypeAlias = Callable[[Connection, Sequence[tuple[Any, ...]]], Inserted]


class Database(Protocol):
    """One of the two databases; the rest of the store's SQL is the same for both."""

    engine: Engine

    #: The time to write and to compare with, in unix seconds.
    now: ColumnElement[float]

    def transaction(self, lanes: Collection[int] = ()) -> Any:
        """Open a transaction that may write, as a context manager that gives the connection.

        Args:
            lanes: Locked with its beginning, as by `lock_lanes`.
        """

    def prepare(self, statement: ClauseElement) -> Prepared:
        """Compile a statement that is run again and again."""

    def require_space(self) -> None:
        """Raise StoreError when the disk has no room for more, as far as that can be seen from here."""

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        """Let no other process insert into or settle in these lanes until the transaction ends."""

    def each(self, name: str) -> FromClause:
        """Make the numbers of one bound parameter something to select from, with one column "value"."""

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Say that a column's value is one of those numbers, so that its index is searched for each of them."""

    def numbers(self, values: Collection[int]) -> Any:
        """Make numbers the value of such a parameter."""

    def inserter(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> Inserter:
        """Make a function that inserts many rows and leaves out those that conflict.

        Args:
            columns: What each row gives, in this order.
            now: Columns that are set to the present time.
            returning: Columns that are to be given back of each row that was inserted.
        """

    def notify(self) -> None:
        """Wake the workers that listen."""

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Call *wake* whenever another process has made work, until *stopping*."""


def connect(url: str, *, clock: Callable[[], float] = time.time, least_free: int | None = None) -> Database:
    """Choose the database by its URL; nothing is opened until the first use.

    Args:
        clock: Tells SQLite the time; PostgreSQL has its own.
        least_free: Bytes that have to be free on the disk of a SQLite file to record more; by default as `space` says.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return SQLite(url, clock=clock, least_free=least_free)
    return PostgreSQL(url)


class SQLite:
    """One file. Writers of all processes take turns by a blocking file lock: SQLite's own waiting is unfair."""

    def __init__(self, url: str, *, clock: Callable[[], float], least_free: int | None) -> None:
        self._path = Path(make_url(url).database or "")
        self._pipes = self._path.with_name(self._path.name + ".workers")
        self._space = DiskSpace(self._path.parent, least=least_free)
        self._turn = threading.Lock()
        self._lock_file: tuple[int, int] | None = None
        self._usual_commit = 0.0
        self._clock = clock
        # Asked for whenever a statement runs, so that a statement can be made once.
        self.now: ColumnElement[float] = bindparam("now", callable_=clock, type_=Double())
        self.engine = create_engine(url, pool_size=2, max_overflow=2, hide_parameters=True)
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", partial(_begin, "BEGIN"))

    @contextmanager
    def transaction(self, lanes: Collection[int] = ()) -> Iterator[Connection]:  # noqa: ARG002  # the file lock holds all
        with self.engine.connect() as connection:
            # A transaction that reads first and writes later would fail under load, whatever the timeout.
            connection = connection.execution_options(gateway_begins="BEGIN IMMEDIATE")
            with self._turn, self._file_lock(), connection.begin() as transaction:
                yield connection
                self._commit(transaction)

    def prepare(self, statement: ClauseElement) -> Prepared:
        return Prepared(statement, self.engine.dialect)

    def require_space(self) -> None:
        self._space.require()

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        """The file lock holds all lanes already."""

    def each(self, name: str) -> FromClause:
        return func.json_each(bindparam(name, type_=Text)).table_valued("value", name=name)

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        return column.in_(self.each(name).select())

    def numbers(self, values: Collection[int]) -> Any:
        return "[" + ",".join(map(str, values)) + "]"

    def inserter(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> Inserter:
        head, tail = _insert_into(table, (*columns, *now), returning)
        statement = f"{head} VALUES ({', '.join('?' * (len(columns) + len(now)))}) {tail}"

        def insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Inserted:
            times = (self._clock(),) * len(now)
            given = [(*values, *times) for values in rows]
            with driver_cursor(connection) as cursor:
                if not returning:
                    return Inserted(cursor.executemany(statement, given).rowcount, ())
                # The driver gives rows back of one at a time only.
                found = [row for values in given for row in cursor.execute(statement, values)]
                return Inserted(len(found), found)

        return insert

    def notify(self) -> None:
        """Write a byte into the pipe of each worker; one that nobody reads was a worker's that was killed."""
        for pipe in self._pipes.glob("[!.]*"):
            try:
                descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO):
                    raise StoreError(f"a worker cannot be woken ({error.strerror})") from error
                pipe.unlink(missing_ok=True)
                continue
            try:
                os.write(descriptor, b".")
            except (BlockingIOError, BrokenPipeError):
                pass  # it is full: its worker is being woken already; or its worker has just ended
            finally:
                os.close(descriptor)

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        """Wait at a named pipe of our own, beside the database."""
        self._pipes.mkdir(mode=0o700, exist_ok=True)
        name = token_hex(8)
        made, pipe = self._pipes / f".{name}", self._pipes / name
        os.mkfifo(made, 0o600)
        descriptor = os.open(made, os.O_RDWR | os.O_NONBLOCK)
        made.rename(pipe)  # only now that it has a reader may others find it
        try:
            wake()  # for what was written before the listening began
            while not stopping.is_set():
                if select.select([descriptor], [], [], 0.5)[0]:
                    os.read(descriptor, 65_536)
                    wake()
        finally:
            pipe.unlink(missing_ok=True)
            os.close(descriptor)

    def _commit(self, transaction: Transaction) -> None:
        """Wait for the disk, which is all that a commit does: the statements before it only touch memory.

        On a quick disk a thread would cost more than the wait.
        """
        began = time.monotonic()
        if self._usual_commit < QUICK:
            transaction.commit()
        else:
            run_in_native_thread(transaction.commit)
        # Some commits write the log back into the file, which says nothing about the next.
        self._usual_commit += (time.monotonic() - began - self._usual_commit) / 8

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        descriptor = self._descriptor()
        if not _locked_by(descriptor, tries=LOCK_TRIES if is_gevent_patched() else 1):
            run_in_native_thread(partial(fcntl.flock, descriptor, fcntl.LOCK_EX))
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
        # Unlike clock_timestamp() it stands still within a statement, so an index can be searched for it.
        self.now: ColumnElement[float] = cast(func.extract("epoch", func.statement_timestamp()), Double)
        self.engine = create_engine(
            url,
            pool_size=2,
            max_overflow=1,
            hide_parameters=True,
            connect_args={
                "autocommit": True,  # the driver begins no transactions: "begin" below says how one starts
                "connect_timeout": 3,  # seconds
                "tcp_user_timeout": 30_000,  # milliseconds: a server that went away without a word
                "application_name": "gateway",
                # Prepared statements do not survive the poolers that hosted databases put in front.
                "prepare_threshold": None,
            },
        )
        event.listen(self.engine, "checkin", _note_the_time)
        event.listen(self.engine, "checkout", _make_sure)
        event.listen(self.engine, "begin", partial(_begin, _READ_COMMITTED))

    @contextmanager
    def transaction(self, lanes: Collection[int] = ()) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            # In one round trip with the beginning.
            begins = f"{_READ_COMMITTED}; {_taking(lanes)}" if lanes else _READ_COMMITTED
            with connection.execution_options(gateway_begins=begins).begin():
                yield connection

    def prepare(self, statement: ClauseElement) -> Prepared:
        return Prepared(statement, self.engine.dialect)

    def require_space(self) -> None:
        """Only the server sees its disk; a full one it reports with the write, of which it keeps nothing."""

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        if lanes:
            with driver_cursor(connection) as cursor:
                cursor.execute(_taking(lanes))

    def each(self, name: str) -> FromClause:
        array = bindparam(name, type_=ARRAY(BigInteger))
        return func.unnest(cast(array, ARRAY(BigInteger))).table_valued("value", name=name).render_derived()

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        # Of a subquery the planner may make a hash, and read all that the index holds for it.
        return column == any_(cast(bindparam(name, type_=ARRAY(BigInteger)), ARRAY(BigInteger)))

    def numbers(self, values: Collection[int]) -> Any:
        return list(values)

    def inserter(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> Inserter:
        head, tail = _insert_into(table, (*columns, *now), returning)
        types = (table.c[name].type.compile(self.engine.dialect) for name in columns)
        # A list a column: one statement of one text, however many rows. The order is that of the ids to come.
        given = ", ".join(f"%b::{type_}[]" for type_ in types)
        times = str(self.now.compile(dialect=self.engine.dialect))
        selected = ", ".join((*(f"given.{name}" for name in columns), *(times for _ in now)))
        named = ", ".join((*columns, "place"))
        statement = (
            f"{head} SELECT {selected} FROM unnest({given}) WITH ORDINALITY AS given ({named})"  # noqa: S608  # our own names
            f" ORDER BY given.place {tail}"
        )

        def insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> Inserted:
            with driver_cursor(connection) as cursor:
                cursor.execute(statement, tuple(map(list, zip(*rows, strict=True))))
                return Inserted(cursor.rowcount, cursor.fetchall() if returning else ())

        return insert

    def notify(self) -> None:
        """Outside of any transaction: a NOTIFY inside one makes all commits wait for each other."""
        with self.engine.connect() as connection, driver_cursor(connection) as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")

    def listen(self, wake: Callable[[], None], stopping: threading.Event) -> None:
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            connection.detach()  # it listens for good: closed at the end, never handed to another user
            driver.execute(f"LISTEN {CHANNEL}")
            wake()  # for what was written before the listening began
            while not stopping.is_set():
                for _ in driver.notifies(timeout=0.5, stop_after=1):
                    wake()


def _locked_by(descriptor: int, *, tries: int) -> bool:
    """Try to lock a file.

    gevent's turn may come long after a thread was given the lock, and others would wait for it all that while:
    so it is asked for again and again by whoever has the turn already.
    """
    for left in range(tries - 1, -1, -1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(LOCK_PAUSE)
        else:
            return True
    return False


def _insert_into(table: Table, columns: Sequence[str], returning: Sequence[str]) -> tuple[str, str]:
    head = f"INSERT INTO {table.name} ({', '.join(columns)})"
    tail = "ON CONFLICT DO NOTHING" + (f" RETURNING {', '.join(returning)}" if returning else "")
    return head, tail


_READ_COMMITTED = "BEGIN ISOLATION LEVEL READ COMMITTED"


def _taking(lanes: Collection[int]) -> str:
    """Write what takes the lanes' locks: in one order, so that two transactions never wait for each other."""
    locks = ",".join(map(str, sorted({number % LOCKS for number in lanes})))
    return f"SELECT pg_advisory_xact_lock({_LOCK_SPACE}, lock) FROM unnest('{{{locks}}}'::int[]) AS lock"  # noqa: S608  # numbers


OTHER_SCHEMA = "the database's schema is not this version's; run: gateway migrate"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise StoreError for a database that cannot be used for now, without the statement's values.

    What one statement alone is to blame for passes through.
    """
    try:
        yield
    except DBAPIError as error:
        first_line = str(error.orig).strip().partition("\n")[0]
        if _is_of_another_schema(error, first_line):
            raise StoreError(OTHER_SCHEMA) from error
        if not _is_of_the_database(error):
            raise
        advice = next((advice for words, advice in _ADVICE if words in first_line), "")
        raise StoreError(f"the database cannot be used: {first_line}{advice}") from error
    except PoolTimeout as error:
        raise StoreError("the database cannot be used: all connections to it are busy") from error


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Open a transaction that only reads; raises StoreError as `readable_errors` does."""
    with readable_errors(), database.engine.connect() as connection:
        yield connection


@contextmanager
def writing(database: Database, lanes: Collection[int] = ()) -> Iterator[Connection]:
    """Open a transaction that may write, with these lanes locked; raises StoreError as `readable_errors` does."""
    with readable_errors(), database.transaction(lanes) as connection:
        yield connection


# What the operator can do, by the databases' own words.
_ADVICE = (
    ("database or disk is full", "; free some space on its disk"),
    ("No space left on device", "; free some space on the server's disk"),
    ("too many c", "; raise the server's limit of connections, or run fewer processes"),
    ("connection slots", "; raise the server's limit of connections, or run fewer processes"),
    ("readonly database", "; make the file and its directory writable for the gateway's user"),
    ("read-only", "; DATABASE_URL has to name a server and a user that may write"),
    ("permission denied", "; grant the user of DATABASE_URL what it lacks"),
)
_READ_ONLY, _NOT_PERMITTED = "25006", "42501"


def _is_of_the_database(error: DBAPIError) -> bool:
    """Tell an error of the database as a whole, which passes once it is mended, from one of a statement."""
    if isinstance(error, OperationalError | InterfaceError):
        return True
    if getattr(error.orig, "sqlstate", None) in (_READ_ONLY, _NOT_PERMITTED):
        return True
    # SQLite's for a file that is damaged; its errors of statements are of classes below.
    return type(error) is DatabaseError


def _is_of_another_schema(error: DBAPIError, first_line: str) -> bool:
    """Tell that a table or a column is not there, which PostgreSQL says by a code and SQLite in words."""
    undefined = getattr(error.orig, "sqlstate", None) in ("42P01", "42703")
    return undefined or first_line.startswith(("no such table", "no such column"))


def insert_into(database: Database, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT that may go on ON CONFLICT, which both databases say in the same words."""
    insert = postgresql.insert if database.engine.dialect.name == "postgresql" else sqlite.insert
    return insert(table)


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
    settings.set_main_option("script_location", str(resources.files("gateway.store") / "migrations"))
    return settings


_INCREMENTAL = 2  # as SQLite numbers the ways of giving space back


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own transactions are off: "begin" below says how one starts.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")  # milliseconds
    # Setting it writes, and would wait unfairly for SQLite's own lock. Only an empty file takes it.
    if cursor.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
        cursor.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # a 202 is a promise that outlives a power cut
        "wal_autocheckpoint = 4000",  # pages: the longer the log, the seldomer one of an index goes back to the file
        "journal_size_limit = 67108864",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


#: Seconds after which a connection that was not used may have been closed by the server.
_FRESH = 1.0


def _note_the_time(_connection: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()


def _make_sure(connection: Any, record: Any, _proxy: object) -> None:
    """Try out a connection that has lain idle: after a restart of the server it would fail without need.

    SQLAlchemy's own pre-ping would do it each time, and cost every group a round trip.
    """
    if time.monotonic() - record.info.get("used_at", time.monotonic()) < _FRESH:
        return
    try:
        connection.execute("SELECT 1")
    except Exception as error:
        raise DisconnectionError from error


def _begin(begins: str, connection: Connection) -> None:
    with driver_cursor(connection) as cursor:
        cursor.execute(connection.get_execution_options().get("gateway_begins", begins))
