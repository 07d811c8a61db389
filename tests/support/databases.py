"""Empty databases for tests, made as fast as possible, and connections of their own to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg

from gateway.config import load
from gateway.store.database import Database, connect
from gateway.store.schema import migrate
from gateway.store.tables import metadata


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """Open the database of a DATABASE_URL, and close its connections at the end."""
    database = connect(load({"DATABASE_URL": url}).database_url)
    try:
        yield database
    finally:
        database.engine.dispose()


@contextmanager
def opened_again(database: Database) -> Iterator[Database]:
    """Open a database once more, with locks and connections of its own, as another process would."""
    with opened(url_of(database)) as again:
        yield again


def url_of(database: Database) -> str:
    """Return the URL of a database with its password."""
    return database.engine.url.render_as_string(hide_password=False)


class Kind(Protocol):
    """A kind of database, which gives each test one."""

    def empty(self, directory: Path, /) -> str: ...

    def migrated(self, directory: Path, /) -> str: ...


class SQLite:
    """Files: a migrated one is copied, which takes a hundredth of the time of the migrations."""

    def __init__(self, directory: Path) -> None:
        self._template = directory / "migrated.db"
        _migrate(f"sqlite:///{self._template}")

    def empty(self, directory: Path) -> str:
        return f"sqlite:///{directory}/gateway.db"

    def migrated(self, directory: Path) -> str:
        shutil.copyfile(self._template, directory / "gateway.db")
        return self.empty(directory)


class PostgreSQL:
    """One database for all tests: deleting its rows takes a tenth of the time of making its tables again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._migrated: str | None = None  # the fingerprint of the migrated schema

    def empty(self, _: Path) -> str:
        with self._alone() as admin:
            admin.execute("DROP SCHEMA public CASCADE")
            admin.execute("CREATE SCHEMA public")
        return self._url

    def migrated(self, directory: Path) -> str:
        with self._alone() as admin:
            if _fingerprint(admin) == self._migrated:
                _delete_rows(admin)
                return self._url
        _migrate(self.empty(directory))
        with self._alone() as admin:
            self._migrated = _fingerprint(admin)
        return self._url

    @contextmanager
    def _alone(self) -> Iterator[psycopg.Connection]:
        """Connect, end the connections that the test before has left, and reset its settings."""
        # The test may have made the database read-only.
        with psycopg.connect(self._url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
            admin.execute(_END_OTHERS)
            admin.execute(f'ALTER DATABASE "{admin.info.dbname}" RESET ALL')
            yield admin


def _migrate(url: str) -> None:
    with opened(url) as database:
        migrate(database)


def _fingerprint(admin: psycopg.Connection) -> str:
    """Return what differs where a test has changed or analysed the schema, or inserted many rows."""
    (fingerprint,) = admin.execute(_FINGERPRINT).fetchone() or ("",)
    return str(fingerprint)


def _delete_rows(admin: psycopg.Connection) -> None:
    for table in metadata.sorted_tables:
        admin.execute(f"DELETE FROM {table.name}".encode())
    admin.execute(f"VACUUM {', '.join(table.name for table in metadata.sorted_tables)}".encode())
    admin.execute(_COUNT_FROM_ONE)


_END_OTHERS = """\
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Each change of an object writes its row in the catalogue again, under another transaction (xmin).
_FINGERPRINT = """\
SELECT string_agg(concat_ws(' ', class.oid, class.xmin, pg_relation_size(class.oid) > 100000, parts.seen), ', '
                  ORDER BY class.oid)
    || (SELECT namespace.xmin::text FROM pg_namespace namespace WHERE nspname = 'public')
FROM pg_class class, LATERAL (
    SELECT concat_ws(' ', string_agg(attribute.xmin::text, ' ' ORDER BY attnum),
                     (SELECT count(*) FROM pg_statistic WHERE starelid = class.oid)) AS seen
    FROM pg_attribute attribute WHERE attrelid = class.oid
) parts
WHERE relnamespace = 'public'::regnamespace
"""
_COUNT_FROM_ONE = """\
SELECT setval(oid::regclass, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace
"""
