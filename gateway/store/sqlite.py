"""SQLite, the embedded database: all that is true of it and not of PostgreSQL."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Table,
    Text,
    Transaction,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    text,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.sql import ClauseElement

from gateway.errors import StoreError
from gateway.store.disk_space import DiskSpace
from gateway.store.gevent_support import is_gevent_patched, run_in_native_thread
from gateway.store.lease_owners import ASK_EVERY, WorkerLock
from gateway.store.statements import (
    BEGIN_WITH,
    CompiledStatement,
    begin_transactions_with,
    driver_cursor,
    on_conflict_do_nothing,
)

#: Seconds that a commit may usually take to be made in the calling thread, where it blocks the process under gevent.
QUICK_COMMIT = 0.002
#: How often the file lock is tried under gevent before a thread waits for it, and the seconds between two tries.
LOCK_TRIES = 200
LOCK_PAUSE = 0.0005

# The value of PRAGMA auto_vacuum in a file whose free pages can be given back.
_INCREMENTAL = 2


class SQLite:
    """A database file that several processes share. `Database` describes the methods.

    Args:
        clock: Returns the time in unix seconds.
        least_free: Bytes that have to be free on the file's disk to record more; see DiskSpace.
    """

    #: What the operator can do about an error, by words of its text.
    advice: Mapping[str, str] = {
        "database or disk is full": "free some space on its disk",
        "readonly database": "make the file and its directory writable for the gateway's user",
    }

    def __init__(self, url: str, *, clock: Callable[[], float], least_free: int | None) -> None:
        path = Path(make_url(url).database or "")
        self._write_lock = _FileLock(path.with_name(path.name + ".lock"))
        self._pipes = path.with_name(path.name + ".workers")
        self._space = DiskSpace(path.parent, least_free=least_free)
        self._usual_commit = 0.0  # seconds
        self._clock = clock
        # The clock is read whenever a statement runs, so a statement can be compiled once.
        self.now: ColumnElement[float] = bindparam("now", callable_=clock, type_=Double())
        self.engine = create_engine(url, pool_size=2, max_overflow=2, hide_parameters=True)
        event.listen(self.engine, "do_connect", lambda *_: _create_private(path))
        event.listen(self.engine, "connect", _configure)
        begin_transactions_with(self.engine, "BEGIN")

    @contextmanager
    def transaction(self, lanes: Collection[int] = ()) -> Iterator[Connection]:  # noqa: ARG002  # the file lock covers all lanes
        """Open a transaction that may write, one at a time among all processes."""
        with self.engine.connect() as connection:
            # A deferred transaction that reads first and writes later fails under load, whatever the timeout.
            connection = connection.execution_options(**{BEGIN_WITH: "BEGIN IMMEDIATE"})
            with self._write_lock.held(), connection.begin() as transaction:
                yield connection
                self._commit(transaction)

    def _commit(self, transaction: Transaction) -> None:
        """Commit, in a native thread where the disk is slow: of a transaction only the commit waits for the disk."""
        began = time.monotonic()
        if self._usual_commit < QUICK_COMMIT:
            transaction.commit()  # a thread would cost more than the wait
        else:
            run_in_native_thread(transaction.commit)
        # A moving average: a single commit may take long because it copies the log back into the file.
        self._usual_commit += (time.monotonic() - began - self._usual_commit) / 8

    # Statements

    def compile(self, statement: ClauseElement) -> CompiledStatement:
        return CompiledStatement(statement, self.engine.dialect)

    def compile_insert(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> _RowInsert:
        names = (*columns, *now)
        statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608  # our own names
        return _RowInsert(statement + on_conflict_do_nothing(returning), clock=self._clock, times=len(now))

    def insert(self, table: Table) -> Insert:
        return insert(table)

    def number_rows(self, name: str) -> FromClause:
        return func.json_each(bindparam(name, type_=Text)).table_valued("value", name=name)

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        return column.in_(self.number_rows(name).select())

    def numbers(self, values: Collection[int]) -> str:
        # A JSON array.
        return "[" + ",".join(map(str, values)) + "]"

    def take_ids(self, connection: Connection, table: Table, number: int) -> list[int]:
        values = {"number": number, "table": table.name}
        last = connection.scalar(_ADVANCE_SEQUENCE, values)
        if last is None:  # the table has never had a row
            connection.execute(_BEGIN_SEQUENCE, values)
            last = number
        return list(range(last - number + 1, last + 1))

    # Locks: the file lock of each writing transaction excludes all others.

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        """Do nothing: the file lock covers all lanes."""

    def lock_table(self, connection: Connection, table: Table) -> None:
        """Do nothing: the file lock covers all tables."""

    def lock_schema(self, connection: Connection) -> None:
        """Do nothing: the file lock covers the schema."""

    # The disk

    def require_writable(self, connection: Connection) -> None:
        """Do nothing: a transaction that may write has written the file lock."""

    def require_space(self) -> None:
        self._space.require()

    def give_back_space(self, connection: Connection, *, pages: int, spare: float) -> bool:
        def pragma(name: str) -> int:
            return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())

        free = pragma("freelist_count")
        surplus = free - int(pragma("page_count") * spare)
        if surplus <= 0:
            return False
        # Each step of the statement frees one page, and the driver runs all steps of a script only.
        driver: Any = connection.connection.driver_connection
        driver.executescript(f"PRAGMA incremental_vacuum({min(surplus, pages)})")
        return pragma("freelist_count") < free and surplus > pages

    # Errors

    def lacks_schema(self, error: DBAPIError) -> bool:
        return str(error.orig).startswith(("no such table", "no such column"))

    def is_unusable(self, error: DBAPIError) -> bool:
        """Return whether the file cannot be used: SQLite's errors of single statements are of subclasses."""
        return type(error) is DatabaseError

    # Waking workers: each listens at a named pipe of its own, in a directory beside the database.

    def notify(self) -> None:
        """Write a byte into each worker's pipe."""
        for pipe in self._pipes_of_workers():
            try:
                descriptor = _open_pipe(pipe)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO):
                    raise StoreError(f"a worker cannot be woken ({error.strerror})") from error
                pipe.unlink(missing_ok=True)  # it has no reader: its worker was killed
                continue
            try:
                os.write(descriptor, b".")
            except (BlockingIOError, BrokenPipeError):
                pass  # the pipe is full, so its worker is being woken already; or its worker has just ended
            finally:
                os.close(descriptor)

    def listen(self, wake: Callable[[], None], stopping: threading.Event, lock: WorkerLock) -> None:
        """Make a pipe and call *wake* for what is written to it, until *stopping* is set. Its reader is the lock."""
        self._pipes.mkdir(mode=0o700, exist_ok=True)
        self._pipes_of_workers()  # nobody else's directory
        number = lock.new_number()
        hidden, pipe = self._pipes / f".{number}", self._pipes / str(number)
        os.mkfifo(hidden, 0o600)
        descriptor = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
        hidden.rename(pipe)  # others may find it only now that it has a reader: they remove pipes without one
        try:
            wake()  # for what was written before the pipe existed
            while not stopping.is_set():
                asked_at = time.monotonic()
                if not pipe.exists():
                    raise StoreError(f"somebody has removed {pipe}")
                lock.confirm(number, asked_at)
                if select.select([descriptor], [], [], ASK_EVERY)[0]:
                    os.read(descriptor, 65_536)
                    wake()
        finally:
            pipe.unlink(missing_ok=True)
            os.close(descriptor)

    def living_workers(self, connection: Connection) -> set[int]:  # noqa: ARG002  # the directory tells
        living = set()
        for pipe in self._pipes_of_workers():
            if not pipe.name.isdecimal():
                continue  # of a version before
            try:
                os.close(_open_pipe(pipe))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENXIO):
                    raise StoreError(f"the pipe of a worker cannot be opened ({error.strerror})") from error
            else:
                living.add(int(pipe.name))
        return living

    def _pipes_of_workers(self) -> list[Path]:
        """Return the pipes. Raises StoreError: their directory is a link, or another user's."""
        try:
            directory = self._pipes.lstat()
        except FileNotFoundError:
            return []
        if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.geteuid():
            raise StoreError(f"{self._pipes} is no directory of this user: remove it, and the gateway makes its own")
        return list(self._pipes.glob("[!.]*"))


class _RowInsert:
    """An INSERT of many rows.

    For rows that are to be returned the driver has to run one INSERT at a time, and RETURNING makes each take several
    times as long: only events, whose ids are needed, are inserted this way.
    """

    def __init__(self, statement: str, *, clock: Callable[[], float], times: int) -> None:
        self._text = statement
        self._clock = clock
        self._times = times  # the number of columns that are set to the present time

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        with driver_cursor(connection) as cursor:
            return int(cursor.executemany(self._text, self._with_times(rows)).rowcount)

    def rows(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with driver_cursor(connection) as cursor:
            return [inserted for row in self._with_times(rows) for inserted in cursor.execute(self._text, row)]

    def _with_times(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        times = (self._clock(),) * self._times
        return [(*row, *times) for row in rows]


class _FileLock:
    """A lock that the threads of all processes take in turn.

    SQLite's own busy handler sleeps and tries again, so that others overtake a writer for seconds; `flock` is a queue.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._descriptor = -1
        self._process: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._threads:
            if self._process != os.getpid():
                # A descriptor that was inherited through a fork would share its lock with the parent.
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._process = os.getpid()
            self._acquire()
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _acquire(self) -> None:
        # Under gevent it may take long until the caller runs again after a thread was given the lock, and all other
        # processes would wait meanwhile. So the caller, who runs now, tries again and again before it uses a thread.
        for left in reversed(range(LOCK_TRIES if is_gevent_patched() else 1)):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if left:
                    time.sleep(LOCK_PAUSE)
            else:
                return
        run_in_native_thread(partial(fcntl.flock, self._descriptor, fcntl.LOCK_EX))


# SQLite keeps the last id of each table with AUTOINCREMENT here.
_ADVANCE_SEQUENCE = text("UPDATE sqlite_sequence SET seq = seq + :number WHERE name = :table RETURNING seq")
_BEGIN_SEQUENCE = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)")


def _open_pipe(pipe: Path) -> int:
    """Open the pipe of a worker to write. Raises OSError: ENXIO, nobody reads it."""
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "this is no pipe")
    return descriptor


def _create_private(path: Path) -> None:
    """Create the database file for this user alone, whatever the umask; SQLite gives its other files the same mode.

    A file that exists stays as its owner has set it. It is not opened here: closing it would release SQLite's locks.
    """
    with suppress(OSError):  # it exists; or it cannot be created, and SQLite says why
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _configure(connection: Any, _record: object) -> None:
    """Configure a new connection of the driver."""
    connection.isolation_level = None  # the driver begins no transactions; see begin_transactions_with
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")  # milliseconds
    # Setting auto_vacuum writes, and would wait for SQLite's unfair lock. Only an empty file can be changed.
    if cursor.execute("PRAGMA auto_vacuum").fetchone() != (_INCREMENTAL,):
        cursor.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # a 202 is a promise that outlives a power cut
        "wal_autocheckpoint = 4000",  # pages: the longer the log, the less often the same index page is copied back
        "journal_size_limit = 67108864",
        "secure_delete = ON",  # the default is the build's; FAST leaves the content of freed pages
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
