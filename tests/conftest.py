"""What the tests share: real databases, a fresh one each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.config import load
from gateway.database import Database, connect, migrate
from gateway.store import Store

POSTGRESQL = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of either kind, as DATABASE_URL would hold it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/gateway.db"
        return
    name = f"gateway_test_{uuid.uuid4().hex}"
    try:
        admin = psycopg.connect(f"{POSTGRESQL}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("CI"):
            pytest.fail(f"PostgreSQL does not answer, and in CI that is a failure: {error}")
        pytest.skip(f"PostgreSQL does not answer at {POSTGRESQL}; set TEST_POSTGRESQL to one that does")
    with admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{POSTGRESQL}/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


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
