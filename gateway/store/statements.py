"""Statements of the hot path: made and compiled once, and handed to the driver itself.

SQLAlchemy writes them, for both databases alike; its way of running one takes longer than the database does.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

Given: TypeAlias = Mapping[str, Any]


class Prepared:
    """A statement of one dialect, whose values and columns need no conversion: numbers, texts and bytes."""

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self._text = str(compiled)
        self._binds = {compiled.bind_names[bind]: bind for bind in compiled.binds.values()}
        self._order = compiled.positiontup
        self._row: Callable[[Iterable[Any]], Any] | None = None

    def rows(self, connection: Connection, given: Given | None = None) -> list[Any]:
        """Run it and give its rows, whose columns are attributes."""
        with driver_cursor(connection) as cursor:
            cursor.execute(self._text, self._values(given or {}))
            if self._row is None:
                names = [each[0] for each in cursor.description]
                self._row = namedtuple("Row", names)._make  # type: ignore[attr-defined]  # its columns are known here only
            return list(map(self._row, cursor))

    def run(self, connection: Connection, given: Given | None = None) -> int:
        """Run it and tell how many rows it has changed."""
        with driver_cursor(connection) as cursor:
            cursor.execute(self._text, self._values(given or {}))
            return int(cursor.rowcount)

    def run_for_each(self, connection: Connection, given: Sequence[Given]) -> None:
        """Run it once for each of several sets of values."""
        with driver_cursor(connection) as cursor:
            cursor.executemany(self._text, [self._values(each) for each in given])

    def _values(self, given: Given) -> Any:
        values = {
            name: given[bind.key] if bind.required else bind.effective_value for name, bind in self._binds.items()
        }
        return values if self._order is None else [values[name] for name in self._order]


@contextmanager
def driver_cursor(connection: Connection) -> Iterator[Any]:
    """Open a cursor of the driver's own, whose errors are SQLAlchemy's all the same."""
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
