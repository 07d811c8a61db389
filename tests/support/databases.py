"""Empty databases for tests, made anew as fast as it goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from gateway.config import load
from gateway.store.database import connect
from gateway.store.schema import migrate
from gateway.store.tables import metadata


class Kind(Protocol):
    """A kind of database, of which a test is given one."""

    def empty(self, directory: Path, /) -> str: ...

    def migrated(self, directory: Path, /) -> str: ...


class SQLite:
    """Files: what the migrations have made is copied, which takes a hundredth of their time."""

    def __init__(self, directory: Path) -> None:
        self._made = directory / "migrated.db"
        _migrate(f"sqlite:///{self._made}")

    def empty(self, directory: Path) -> str:
        return f"sqlite:///{directory}/gateway.db"

    def migrated(self, directory: Path) -> str:
        shutil.copyfile(self._made, directory / "gateway.db")
        return self.empty(directory)


class PostgreSQL:
    """One database for all: to take the rows out of it takes a tenth of the time of making its tables anew."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._migrated: str | None = None  # what it looks like then

    def empty(self, _: Path) -> str:
        with self._alone() as admin:
            admin.execute("DROP SCHEMA public CASCADE")
            admin.execute("CREATE SCHEMA public")
        return self._url

    def migrated(self, directory: Path) -> str:
        with self._alone() as admin:
            if _look(admin) == self._migrated:
                _remove_rows(admin)
                return self._url
        _migrate(self.empty(directory))
        with self._alone() as admin:
            self._migrated = _look(admin)
        return self._url

    @contextmanager
    def _alone(self) -> Iterator[psycopg.Connection]:
        """Connect, end what the test before has left connected, and take back its settings."""
        # It may have made the database read-only.
        with psycopg.connect(self._url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
            admin.execute(_END_OTHERS)
            admin.execute(f'ALTER DATABASE "{admin.info.dbname}" RESET ALL')
            yield admin


def _migrate(url: str) -> None:
    database = connect(load({"DATABASE_URL": url}).database_url)
    migrate(database)
    database.engine.dispose()


def _look(admin: psycopg.Connection) -> str:
    """Tell an untouched schema from one that was changed or analysed, or that many rows have swollen."""
    (look,) = admin.execute(_LOOK).fetchone() or ("",)
    return str(look)


def _remove_rows(admin: psycopg.Connection) -> None:
    names = ", ".join(table.name for table in metadata.sorted_tables)
    for table in metadata.sorted_tables:
        admin.execute(f"DELETE FROM {table.name}".encode())
    admin.execute(f"VACUUM {names}".encode())
    admin.execute(_COUNT_FROM_ONE)


_END_OTHERS = """\
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Whatever changes an object writes its row in the catalogue anew, under another transaction.
_LOOK = """\
SELECT string_agg(concat_ws(' ', class.oid, class.xmin, pg_relation_size(class.oid) > 100000, its.seen), ', '
                  ORDER BY class.oid)
    || (SELECT namespace.xmin::text FROM pg_namespace namespace WHERE nspname = 'public')
FROM pg_class class, LATERAL (
    SELECT concat_ws(' ', string_agg(attribute.xmin::text, ' ' ORDER BY attnum),
                     (SELECT count(*) FROM pg_statistic WHERE starelid = class.oid)) AS seen
    FROM pg_attribute attribute WHERE attrelid = class.oid
) its
WHERE relnamespace = 'public'::regnamespace
"""
_COUNT_FROM_ONE = """\
SELECT setval(oid::regclass, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
"""
