"""A disk or a database that takes no more: 503 before anything is written, and all is well again by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, make_url, select
from werkzeug.test import TestResponse

from gateway.app import create_app
from gateway.config import load
from gateway.customerio.retry import Attempt, Delivered
from gateway.errors import StoreError
from gateway.store import ClaimRequest, Outcome, Store
from gateway.store.database import Database, connect
from gateway.store.disk_space import DiskSpace
from gateway.store.schema import migrate
from gateway.store.tables import deliveries, events
from tests.deliver.test_worker import wait_until
from tests.store.test_record_and_claim import event

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


def web_on(database: Database, mappings: Path) -> FlaskClient:
    environ = {
        "DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "GATEWAY_MAPPINGS": str(mappings),
    }
    return create_app(environ, database=database).test_client()


def post(web: FlaskClient, key: str, size: int = 0) -> TestResponse:
    return web.post("/hooks/shop", json={"key": key, "customer": 7, "filling": "x" * size})


def assert_refused(answer: TestResponse) -> None:
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.json == {"error": "the webhook could not be recorded; send it again later"}


def count(database: Database) -> tuple[int, int]:
    with database.engine.connect() as connection:
        return (
            connection.scalar(select(func.count()).select_from(events)) or 0,
            connection.scalar(select(func.count()).select_from(deliveries)) or 0,
        )


# Room on the disk


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_look_at_the_disk_holds_for_a_second(tmp_path: Path) -> None:
    clock = Seconds()
    directory = tmp_path / "data"
    space = DiskSpace(directory, clock=clock)
    with pytest.raises(StoreError, match="No such file"):
        space.require()
    directory.mkdir()
    with pytest.raises(StoreError):
        space.require()
    clock.now = 1.0
    space.require()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MiB, of which a tenth has to stay free."""
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
    web = web_on(database, mappings)
    assert post(web, "a").status_code == 202

    room = os.statvfs(small_disk)
    filling = small_disk / "filling"
    filling.write_bytes(bytes(room.f_bavail * room.f_frsize - 3 * MIB))
    # The last look at the disk may be some moments old.
    wait_until(lambda: post(web, "b").status_code == 503)
    before = count(database)
    assert_refused(post(web, "c"))
    assert count(database) == before
    assert "nearly full (3 MiB are free, 4 MiB are reserved" in caplog.text
    store = Store(database)
    while claimed := store.settle_and_claim([], ClaimRequest(limit=5, lease=1, lease_seconds=60)).claimed:
        attempt = Attempt(status=200)
        outcomes = [Outcome(delivery=each, attempt=attempt, decision=Delivered()) for each in claimed]
        store.settle_and_claim(outcomes, ClaimRequest(limit=0, lease=1, lease_seconds=60))
    assert store.counts()["deliveries"] == {"delivered": before[1]}

    filling.unlink()
    wait_until(lambda: post(web, "c").status_code == 202)
    assert count(database) == (before[0] + 1, before[1] + 1)
    web.application.extensions["writer"].close()
    database.engine.dispose()


def test_with_less_room_than_asked_for_nothing_is_recorded(tmp_path: Path, mappings: Path) -> None:
    """What the test above does on a disk of its own, for machines where none can be mounted."""
    url = f"sqlite:///{tmp_path}/gateway.db"
    database = connect(url, least_free=shutil.disk_usage(tmp_path).total + 1)
    migrate(database)
    web = web_on(database, mappings)
    assert_refused(post(web, "a"))
    assert count(database) == (0, 0)
    web.application.extensions["writer"].close()
    database.engine.dispose()


# A database that is full


def test_a_full_sqlite_file_refuses_whole_webhooks_and_takes_them_when_it_may_grow(
    tmp_path: Path, mappings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = connect(f"sqlite:///{tmp_path}/gateway.db")
    migrate(database)
    web = web_on(database, mappings)
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
    web.application.extensions["writer"].close()
    database.engine.dispose()


def allow_pages(database: Database, *, more: int) -> None:
    """Set a limit for each connection of the pool: it is no part of the file."""
    connections = [database.engine.connect() for _ in range(2)]
    for connection in connections:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {int(pages or 0) + more}")
        connection.rollback()
    for connection in connections:
        connection.close()


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"not a database" * 1_000)
    database = connect(f"sqlite:///{tmp_path}/gateway.db")
    with pytest.raises(StoreError, match="file is not a database"):
        Store(database).record([event("a")])
    database.engine.dispose()


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
    """The database as that role uses it; its tables are the role's own."""
    url = make_url(database_url).set(username=role).render_as_string(hide_password=False)
    database = connect(load({"DATABASE_URL": url}).database_url)
    migrate(database)
    yield database
    database.engine.dispose()


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
@pytest.mark.parametrize("said", LIMITS)
def test_postgresql_that_takes_nothing_refuses_webhooks_until_it_does(
    database_url: str,
    limited: Database,
    role: str,
    said: str,
    mappings: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def order(statement: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(statement.format(role=role).encode())

    def posted(key: str) -> TestResponse:
        """Post over a new connection; it is closed when nobody is left who might still use it."""
        web = web_on(limited, mappings)
        answer = post(web, key)
        web.application.extensions["writer"].close()
        limited.engine.dispose()
        return answer

    limit, lift = LIMITS[said]
    assert posted("a").status_code == 202
    order(limit)
    assert_refused(posted("b"))
    assert said in caplog.text
    assert "refused a write" not in caplog.text  # it is the database's fault, not the webhook's
    order(lift)
    assert count(limited) == (1, 1)
    assert posted("b").status_code == 202
