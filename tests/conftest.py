"""Fixtures that all tests share: real databases, a new one for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from flask import Flask
from hypothesis import settings

from gateway.app import create_app
from gateway.store import Store
from gateway.store.database import Database
from tests.support.databases import Kind, PostgreSQL, SQLite, opened
from tests.support.machine import missing

# No deadline: a busy machine is no failure. HYPOTHESIS_PROFILE=thorough runs many more examples.
settings.register_profile("untimed", settings(), deadline=None)
settings.register_profile("thorough", settings(), deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "untimed")

POSTGRESQL = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> SQLite:
    return SQLite(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    name = f"gateway_test_{uuid.uuid4().hex}"
    try:
        admin = psycopg.connect(f"{POSTGRESQL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        missing(f"PostgreSQL does not answer at {POSTGRESQL}; set TEST_POSTGRESQL to one that does ({error})")
    with admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield PostgreSQL(f"{POSTGRESQL}/{name}")
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind, as DATABASE_URL would hold it; `database` is the same, migrated."""
    kind: Kind = request.getfixturevalue(request.param)
    return kind.migrated(tmp_path) if "database" in request.fixturenames else kind.empty(tmp_path)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database."""
    with opened(database_url) as database:
        yield database


@pytest.fixture
def store(database: Database) -> Store:
    """A store on an empty database of either kind."""
    return Store(database)


class MakeApp(Protocol):
    """Creates applications, which are closed before the database is."""

    def __call__(self, environ: Mapping[str, str], database: Database | None = None) -> Flask: ...


@pytest.fixture
def make_app(database: Database) -> Iterator[MakeApp]:
    """Creates applications, and closes them and the databases that it opened for them."""
    apps: list[Flask] = []
    own_databases = ExitStack()

    def make(environ: Mapping[str, str], database: Database | None = None) -> Flask:
        # The application would open its own, and nothing would close it.
        database = database or own_databases.enter_context(opened(environ["DATABASE_URL"]))
        apps.append(create_app(environ, database=database))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["recorder"].close()
        app.extensions["refusals"].close()
        app.extensions["repeats"].close()
    own_databases.close()
