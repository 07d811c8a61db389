"""A disk or a database that takes no more: 503 before anything is written, and 202 again without a restart."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, make_url, select
from werkzeug.test import TestResponse

from gateway.app import create_app
from gateway.customerio.retry import Delivered
from gateway.errors import StoreError
from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.disk_space import DiskSpace
from gateway.store.schema import migrate
from gateway.store.tables import deliveries, events
from tests.deliver.running import wait_until
from tests.support.databases import opened, url_of
from tests.support.rows import event, settle_due

MAPPING = """\
version: 1
source: shop
verify: none
event_key: =key
events:
  "*":
    - call: track
      id: =customer
      name: Ordered
"""
MIB = 1_048_576


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    directory = tmp_path / "mappings"
    directory.mkdir()
    (directory / "shop.yaml").write_text(MAPPING)
    return directory


@contextmanager
def web_on(database: Database, mappings: Path) -> Iterator[FlaskClient]:
    """Run a web process on a database; at the end, close the database's connections."""
    environ = {"DATABASE_URL": url_of(database), "GATEWAY_MAPPINGS": str(mappings)}
    app = create_app(environ, database=database)
    yield app.test_client()
    app.extensions["recorder"].close()
    database.engine.dispose()


def post(web: FlaskClient, key: str, size: int = 0) -> TestResponse:
    return web.post("/hooks/shop", json={"key": key, "customer": 7, "filling": "x" * size})


def assert_refused(response: TestResponse) -> None:
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.json == {"error": "the webhook could not be recorded; send it again later"}


def count(database: Database) -> tuple[int, int]:
    """Count events and deliveries."""
    with database.engine.connect() as connection:
        numbers = [connection.scalar(select(func.count()).select_from(table)) or 0 for table in (events, deliveries)]
        return numbers[0], numbers[1]


# Space on the disk


def test_one_check_of_the_disk_holds_for_a_second(tmp_path: Path) -> None:
    now = 0.0
    directory = tmp_path / "data"
    space = DiskSpace(directory, clock=lambda: now)
    with pytest.raises(StoreError, match="No such file"):
        space.require()
    directory.mkdir()
    with pytest.raises(StoreError):
        space.require()
    now = 1.0
    space.require()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MiB, a tenth of which has to stay free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk takes the rights of root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_before_the_disk_is_full_webhooks_are_refused_and_the_backlog_drains(
    small_disk: Path, mappings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = connect(f"sqlite:///{small_disk}/gateway.db")
    migrate(database)
    with web_on(database, mappings) as web:
        assert post(web, "a").status_code == 202

        room = os.statvfs(small_disk)
        filling = small_disk / "filling"
        filling.write_bytes(bytes(room.f_bavail * room.f_frsize - 3 * MIB))
        # The last check of the disk may be some moments old.
        wait_until(lambda: post(web, "b").status_code == 503)
        before = count(database)
        assert_refused(post(web, "c"))
        assert count(database) == before
        assert "nearly full (3 MiB are free, 4 MiB are reserved" in caplog.text
        store = Store(database)
        while settle_due(store, Delivered()):
            pass
        assert store.counts()["deliveries"] == {"delivered": before[1]}

        filling.unlink()
        wait_until(lambda: post(web, "c").status_code == 202)
        assert count(database) == (before[0] + 1, before[1] + 1)


def test_with_less_space_than_required_nothing_is_recorded(tmp_path: Path, mappings: Path) -> None:
    """The same without a disk of its own, for machines where none can be mounted."""
    database = connect(f"sqlite:///{tmp_path}/gateway.db", least_free=shutil.disk_usage(tmp_path).total + 1)
    migrate(database)
    with web_on(database, mappings) as web:
        assert_refused(post(web, "a"))
        assert count(database) == (0, 0)


# A database that is full


def test_a_full_sqlite_file_refuses_whole_webhooks_until_it_may_grow(
    tmp_path: Path, mappings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = connect(f"sqlite:///{tmp_path}/gateway.db")
    migrate(database)
    with web_on(database, mappings) as web:
        assert post(web, "a").status_code == 202
        before = count(database)
        allow_pages(database, more=2)
        for _ in range(3):
            assert_refused(post(web, "b", size=100_000))
        assert count(database) == before
        assert "database or disk is full; free some space" in caplog.text
        allow_pages(database, more=10_000)
        assert post(web, "b", size=100_000).status_code == 202
        assert count(database) == (2, 2)


def allow_pages(database: Database, *, more: int) -> None:
    """Set a limit for each connection of the pool: it is no part of the file."""
    connections = [database.engine.connect() for _ in range(2)]
    for connection in connections:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {int(pages or 0) + more}")
        connection.rollback()
    for connection in connections:
        connection.close()


def test_a_damaged_file_is_reported_as_one(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"not a database" * 1_000)
    url = f"sqlite:///{tmp_path}/gateway.db"
    with opened(url) as database, pytest.raises(StoreError, match="file is not a database"):
        Store(database).record([event("a")])


# PostgreSQL


@pytest.fixture
def role(database_url: str) -> Iterator[str]:
    """A role that may use the database, for the test to limit."""
    name = f"limited_{uuid.uuid4().hex}"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN".encode())
        admin.execute(f"GRANT ALL ON SCHEMA public TO {name}".encode())
        yield name
        admin.execute(f"DROP OWNED BY {name} CASCADE".encode())
        admin.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def limited(database_url: str, role: str) -> Iterator[Database]:
    """The database as that role uses it; its tables belong to the role."""
    with opened(make_url(database_url).set(username=role).render_as_string(hide_password=False)) as database:
        migrate(database)
        yield database


LIMITS = {
    "read-only transaction; DATABASE_URL has to name": (
        "ALTER ROLE {role} SET default_transaction_read_only = on",
        "ALTER ROLE {role} RESET default_transaction_read_only",
    ),
    "too many connections for role": (
        "ALTER ROLE {role} CONNECTION LIMIT 0",
        "ALTER ROLE {role} CONNECTION LIMIT 9",
    ),
    "permission denied for table events; grant": (
        "REVOKE INSERT ON events FROM {role}",
        "GRANT INSERT ON events TO {role}",
    ),
}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("message", LIMITS)
def test_postgresql_that_takes_nothing_refuses_webhooks_until_it_does(
    database_url: str, limited: Database, role: str, message: str, mappings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def order(statement: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(statement.format(role=role).encode())

    def posted(key: str) -> TestResponse:
        """Post over new connections: a limit holds for those that are opened after it was set."""
        with web_on(limited, mappings) as web:
            return post(web, key)

    limit, lift = LIMITS[message]
    assert posted("a").status_code == 202
    order(limit)
    assert_refused(posted("b"))
    assert message in caplog.text
    assert "refused a write" not in caplog.text  # it is the database's fault, not the webhook's
    order(lift)
    assert count(limited) == (1, 1)
    assert posted("b").status_code == 202
