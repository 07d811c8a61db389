"""Statements that are compiled once and run by the driver itself.

SQLAlchemy writes each statement, for both databases alike. Running it through SQLAlchemy takes longer than the
database takes to execute it, so the statements of the hot path (record, claim, settle) skip that part.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

Values: TypeAlias = Mapping[str, Any]

#: The execution option of a connection with the SQL that begins its transactions.
BEGIN_WITH = "gateway_begin_with"


class CompiledStatement:
    """A statement compiled for one database. Its values and columns need no conversion: numbers, texts and bytes."""

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._text = str(compiled)
        self._binds = {compiled.bind_names[bind]: bind for bind in compiled.binds.values()}
        self._order = compiled.positiontup
        self._row: Callable[[Iterable[Any]], Any] | None = None

    def rows(self, connection: Connection, values: Values | None = None) -> list[Any]:
        """Run the statement and return its rows, whose columns are attributes."""
        with driver_cursor(connection) as cursor:
            cursor.execute(self._text, self._parameters(values or {}))
            if self._row is None:
                names = [column[0] for column in cursor.description]
                self._row = namedtuple("Row", names)._make  # type: ignore[attr-defined]  # its columns are known here only
            return list(map(self._row, cursor))

    def run(self, connection: Connection, values: Values | None = None) -> int:
        """Run the statement and return the number of rows that it changed."""
        with driver_cursor(connection) as cursor:
            cursor.execute(self._text, self._parameters(values or {}))
            return int(cursor.rowcount)

    def run_for_each(self, connection: Connection, values: Sequence[Values]) -> None:
        """Run the statement once for each set of values."""
        with driver_cursor(connection) as cursor:
            cursor.executemany(self._text, list(map(self._parameters, values)))

    def _parameters(self, values: Values) -> Any:
        # A parameter that is not required has a value of its own: a constant, or the clock of SQLite.
        parameters = {
            name: values[bind.key] if bind.required else bind.effective_value for name, bind in self._binds.items()
        }
        return parameters if self._order is None else [parameters[name] for name in self._order]


class InsertStatement(Protocol):
    """An INSERT of many rows that leaves out rows which violate a unique index.

    Each database has its own, written by hand: SQLAlchemy's own cost 155 microseconds a webhook on PostgreSQL.
    """

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert rows and return how many of them are new."""

    def rows(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Insert rows and return the RETURNING columns of those that are new."""


def on_conflict_do_nothing(returning: Sequence[str]) -> str:
    """Write the end of an INSERT, which is the same for both databases."""
    return " ON CONFLICT DO NOTHING" + (f" RETURNING {', '.join(returning)}" if returning else "")


@contextmanager
def driver_cursor(connection: Connection) -> Iterator[Any]:
    """Open a cursor of the driver; its errors are raised as SQLAlchemy's."""
    pooled = connection.connection
    cursor = pooled.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        if connection.dialect.is_disconnect(error, pooled, cursor):
            connection.invalidate(error)
        raise DBAPIError.instance(None, None, error, connection.dialect.loaded_dbapi.Error) from error
    finally:
        cursor.close()


def begin_transactions_with(engine: Engine, default: str) -> None:
    """Begin the engine's transactions with this SQL, or with that of the connection's BEGIN_WITH option.

    The drivers are in autocommit mode: how a transaction begins decides what it locks, so the gateway says it itself.
    """

    def begin(connection: Connection) -> None:
        with driver_cursor(connection) as cursor:
            cursor.execute(connection.get_execution_options().get(BEGIN_WITH, default))

    event.listen(engine, "begin", begin)
