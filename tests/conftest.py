"""What the tests share: real databases, a fresh one each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from flask import Flask
from hypothesis import settings

from gateway.app import create_app
from gateway.config import load
from gateway.database import Database, connect, migrate
from gateway.store import Store
from tests.machine import missing

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

POSTGRESQL = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind, as DATABASE_URL would hold it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gateway.db"
    url: str = request.getfixturevalue("postgresql_url")
    # A test may have made the database read-only.
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
        admin.execute(_END_OTHERS)
        admin.execute(f'ALTER DATABASE "{admin.info.dbname}" RESET ALL')
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute("CREATE SCHEMA public")
    return url


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of a database of this run's own: to empty one takes a tenth of the time of making one."""
    name = f"gateway_test_{uuid.uuid4().hex}"
    try:
        admin = psycopg.connect(f"{POSTGRESQL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing(f"PostgreSQL does not answer at {POSTGRESQL}; set TEST_POSTGRESQL to one that does ({error})")
    with admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{POSTGRESQL}/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# What the test before has left connected would hold up the emptying.
_END_OTHERS = """\
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database."""
    made = connect(load({"DATABASE_URL": database_url}).database_url)
    migrate(made)
    yield made
    made.engine.dispose()


@pytest.fixture
def store(database: Database) -> Store:
    """A store on an empty database of either kind."""
    return Store(database)


class MakeApp(Protocol):
    """Makes applications, and closes them before the database is."""

    def __call__(self, environ: Mapping[str, str], database: Database | None = None) -> Flask: ...


@pytest.fixture
def make_app(database: Database) -> Iterator[MakeApp]:
    """Makes applications."""
    made: list[Flask] = []

    def make(environ: Mapping[str, str], database: Database | None = None) -> Flask:
        made.append(create_app(environ, database=database))
        return made[-1]

    yield make
    for app in made:
        app.extensions["writer"].close()
