"""PostgreSQL, for several machines and for disks that do not last: all that is true of it and not of SQLite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Table,
    any_,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.exc import DatabaseError, DBAPIError, DisconnectionError
from sqlalchemy.sql import ClauseElement

from gateway.errors import StoreError
from gateway.store.lease_owners import ANSWER_WITHIN, ASK_EVERY, WorkerLock
from gateway.store.statements import (
    BEGIN_WITH,
    CompiledStatement,
    begin_transactions_with,
    driver_cursor,
    on_conflict_do_nothing,
)

#: How many advisory locks all lanes share. A lock of its own for each lane would exceed the server's lock table
#: (about 6,400 entries by default); two lanes that share one only wait for each other now and then.
LANE_LOCKS = 1024
# Advisory locks are numbers that all users of a database share: ours have a first number of their own.
_LANE_LOCK_SPACE = 0x6361
_WORKER_LOCK_SPACE = 0x6362
_MIGRATION_LOCK = 0x636167
_CHANNEL = "gateway_deliveries"

# At this level a statement sees what was committed before it began: also what the lock it waited for has protected.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

#: Seconds after which the server may have closed a connection that was not used.
IDLE_CONNECTION = 1.0
# A pooler between us and the server gives its sessions to others: there the settings are the operator's.
_APPLY_SETTINGS = (
    "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS setting (name, value)"
    " WHERE pg_backend_pid() = %s"
)


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """How long the server may take to answer a statement, in seconds.

    Attributes:
        write: In a transaction that may write.
        read: In any other. To count a large backlog takes some seconds.
        test: The statement that tests a connection which was idle.
    """

    write: float = 6.0
    read: float = 30.0
    test: float = 3.0


_READ_ONLY, _NOT_PERMITTED = "25006", "42501"
_NO_TABLE, _NO_COLUMN = "42P01", "42703"


class PostgreSQL:
    """A database server: its clock counts, advisory locks order the lanes, and NOTIFY wakes the workers.

    `Database` describes the methods.

    Args:
        limits: How long the server may take to answer; None: as long as it likes.
    """

    #: What the operator can do about an error, by words of its text.
    advice: Mapping[str, str] = {
        "No space left on device": "free some space on the server's disk",
        "too many c": "raise the server's limit of connections, or run fewer processes",
        "connection slots": "raise the server's limit of connections, or run fewer processes",
        "read-only": "DATABASE_URL has to name a server and a user that may write",
        "permission denied": "grant the user of DATABASE_URL what it lacks",
    }

    def __init__(self, url: str, *, limits: AnswerLimits | None = None) -> None:
        self._limits = limits
        self._found_dead_at = 0.0  # when a connection proved dead, by the monotonic clock
        # statement_timestamp() does not change within a statement, so that an index can be searched for it;
        # clock_timestamp() does.
        self.now: ColumnElement[float] = cast(func.extract("epoch", func.statement_timestamp()), Double)
        self.engine = create_engine(
            url,
            pool_size=2,
            max_overflow=1,
            hide_parameters=True,
            connect_args={
                "autocommit": True,  # the driver begins no transactions; see begin_transactions_with
                "connect_timeout": 3,  # seconds
                # A connection whose packets are lost ends after 6 s, whether it is being used or not.
                "tcp_user_timeout": 6_000,  # milliseconds
                "keepalives_idle": 3,
                "keepalives_interval": 1,
                "keepalives_count": 3,
                "application_name": "gateway",
                # Prepared statements do not survive the connection poolers of hosted databases.
                "prepare_threshold": None,
            },
        )
        event.listen(self.engine, "do_connect", _connect)
        event.listen(self.engine, "connect", self._configure)
        event.listen(self.engine, "checkin", _note_time_of_use)
        event.listen(self.engine, "checkout", self._test_connection)
        event.listen(self.engine, "invalidate", self._discard_others)
        begin_transactions_with(self.engine, _BEGIN)

    # Connections

    def _configure(self, connection: Any, record: Any) -> None:
        record.info["connected_at"] = time.monotonic()
        if self._limits is not None:
            connection.answer_within = self._limits.test
            settings = _session_settings(self._limits)
            own_session = connection.info.backend_pid
            connection.execute(_APPLY_SETTINGS, (list(settings), list(settings.values()), own_session))

    def _test_connection(self, connection: Any, record: Any, _proxy: object) -> None:
        """Replace a connection that is older than one which proved dead, or that fails a test after it was idle.

        SQLAlchemy's own pre-ping would test every connection that is used, which costs each group a round trip.
        """
        if record.info["connected_at"] <= self._found_dead_at:
            raise DisconnectionError("another connection of its age is dead")
        now = time.monotonic()
        if now - record.info.get("used_at", now) >= IDLE_CONNECTION:
            connection.answer_within = None if self._limits is None else self._limits.test
            try:
                connection.execute("SELECT 1")
            except Exception as error:
                self._found_dead_at = now
                raise DisconnectionError from error
        connection.answer_within = None if self._limits is None else self._limits.read

    def _discard_others(self, _connection: Any, _record: Any, error: BaseException | None) -> None:
        """Replace the whole pool, each connection when it is used next: what has ended one has ended all."""
        if error is not None and not isinstance(error, DisconnectionError):
            self._found_dead_at = time.monotonic()

    @contextmanager
    def transaction(self, lanes: Collection[int] = ()) -> Iterator[Connection]:
        """Open a transaction that may write; its lanes are locked in the round trip that begins it."""
        with self.engine.connect() as connection:
            begin = f"{_BEGIN}; {_lock_lanes_sql(lanes)}" if lanes else _BEGIN
            if self._limits is not None:
                driver: Any = connection.connection.driver_connection
                driver.answer_within = self._limits.write
            with connection.execution_options(**{BEGIN_WITH: begin}).begin():
                yield connection

    # Statements

    def compile(self, statement: ClauseElement) -> CompiledStatement:
        return CompiledStatement(statement, self.engine.dialect)

    def compile_insert(
        self, table: Table, columns: Sequence[str], *, now: Sequence[str] = (), returning: Sequence[str] = ()
    ) -> _ArrayInsert:
        # One array for each column, so that the text is the same however many rows there are.
        arrays = ", ".join(f"%b::{table.c[name].type.compile(self.engine.dialect)}[]" for name in columns)
        present = str(self.now.compile(dialect=self.engine.dialect))
        values = ", ".join((*(f"new.{name}" for name in columns), *(present for _ in now)))
        # Ids are given out in the order of the SELECT. It is that of the rows, which is the order in the lanes.
        statement = (
            f"INSERT INTO {table.name} ({', '.join((*columns, *now))}) SELECT {values}"  # noqa: S608  # our own names
            f" FROM unnest({arrays}) WITH ORDINALITY AS new ({', '.join(columns)}, place) ORDER BY new.place"
        )
        return _ArrayInsert(statement + on_conflict_do_nothing(returning))

    def insert(self, table: Table) -> Insert:
        return insert(table)

    def number_rows(self, name: str) -> FromClause:
        return func.unnest(_number_array(name)).table_valued("value", name=name).render_derived()

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        # Of a subquery the planner may make a hash, and then read the whole index.
        return column == any_(_number_array(name))

    def numbers(self, values: Collection[int]) -> list[int]:
        return list(values)

    def take_ids(self, connection: Connection, table: Table, number: int) -> list[int]:
        return sorted(connection.scalars(_NEXT_IDS, {"table": table.name, "number": number}))

    # Locks

    def lock_lanes(self, connection: Connection, lanes: Collection[int]) -> None:
        if lanes:
            with driver_cursor(connection) as cursor:
                cursor.execute(_lock_lanes_sql(lanes))

    def lock_table(self, connection: Connection, table: Table) -> None:
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")

    def lock_schema(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})

    # The disk

    def require_writable(self, connection: Connection) -> None:
        if connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on":
            raise StoreError("the database cannot be used: its server only lets us read")

    def require_space(self) -> None:
        """Do nothing: only the server sees its disk. Where that is full, the write fails as a whole."""

    def give_back_space(self, connection: Connection, *, pages: int, spare: float) -> bool:  # noqa: ARG002  # for SQLite
        """Do nothing: autovacuum does what can be done."""
        return False

    # Errors

    def lacks_schema(self, error: DBAPIError) -> bool:
        return _sqlstate(error) in (_NO_TABLE, _NO_COLUMN)

    def is_unusable(self, error: DBAPIError) -> bool:
        """Return whether the server refuses all writes and not only this one."""
        return _sqlstate(error) in (_READ_ONLY, _NOT_PERMITTED) or type(error) is DatabaseError

    # Waking workers

    def notify(self) -> None:
        """Notify all listeners, outside any transaction: a NOTIFY inside one makes all commits wait for each other."""
        with self.engine.connect() as connection, driver_cursor(connection) as cursor:
            cursor.execute(f"NOTIFY {_CHANNEL}")

    def listen(self, wake: Callable[[], None], stopping: threading.Event, lock: WorkerLock) -> None:
        """Listen on a connection of its own, whose session holds the lock, until *stopping* is set."""
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            connection.detach()  # it listens until it is closed, so it must not return to the pool
            driver.answer_within = ANSWER_WITHIN
            driver.execute(f"LISTEN {_CHANNEL}")
            wake()  # for what was written before LISTEN
            number, asked_at = lock.new_number(), 0.0
            # Behind a pooler the session is not ours alone, and would keep the lock when we are dead.
            values = {"space": _WORKER_LOCK_SPACE, "number": number, "session": driver.info.backend_pid}
            (is_locked,) = driver.execute(_LOCK_WORKER, values).fetchone()
            while not stopping.is_set():
                if is_locked and time.monotonic() - asked_at >= ASK_EVERY:
                    asked_at = time.monotonic()
                    driver.execute("SELECT 1")  # the session holds the lock as long as it answers
                    lock.confirm(number, asked_at)
                for _ in driver.notifies(timeout=ASK_EVERY, stop_after=1):
                    wake()

    def living_workers(self, connection: Connection) -> set[int]:
        return set(connection.scalars(_LIVING_WORKERS, {"space": _WORKER_LOCK_SPACE}))


class _ArrayInsert:
    """An INSERT of many rows from one array for each column."""

    def __init__(self, statement: str) -> None:
        self._text = statement

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        with driver_cursor(connection) as cursor:
            cursor.execute(self._text, _by_column(rows))
            return int(cursor.rowcount)

    def rows(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        with driver_cursor(connection) as cursor:
            inserted: list[tuple[Any, ...]] = cursor.execute(self._text, _by_column(rows)).fetchall()
            return inserted


def _by_column(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


def _lock_lanes_sql(lanes: Collection[int]) -> str:
    """Write the SELECT that takes the lanes' locks, sorted: in one order, two transactions never deadlock."""
    locks = ",".join(map(str, sorted({lane % LANE_LOCKS for lane in lanes})))
    return f"SELECT pg_advisory_xact_lock({_LANE_LOCK_SPACE}, lock) FROM unnest('{{{locks}}}'::int[]) AS lock"  # noqa: S608  # numbers


_LOCK_WORKER = (
    "SELECT CASE WHEN pg_backend_pid() = %(session)s THEN pg_try_advisory_lock(%(space)s, %(number)s) ELSE false END"
)
_LIVING_WORKERS = text(
    "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = :space"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_NEXT_IDS = text("SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :number)")


def _number_array(name: str) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=ARRAY(BigInteger)), ARRAY(BigInteger))


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _session_settings(limits: AnswerLimits) -> dict[str, str]:
    """Return the settings by which the server ends what holds locks for a client that is gone or has given up.

    It does so before others that wait for the locks take their own connections for lost.
    """
    milliseconds = f"{limits.write * 800:.0f}"
    return {
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        # A session whose client has vanished ends within a minute.
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }


def _connect(_dialect: object, _record: object, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    # Importing the driver takes a tenth of a second, which a gateway on SQLite need not wait.
    from gateway.store.timely_connection import TimelyConnection

    return TimelyConnection.connect(*arguments, **options)


def _note_time_of_use(_connection: Any, record: Any) -> None:
    record.info["used_at"] = time.monotonic()
