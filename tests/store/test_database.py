"""The schema of both databases, and how processes share one SQLite file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from gateway.errors import StoreError
from gateway.store import Store
from gateway.store.database import Database, reading, writing
from gateway.store.lease_owners import WorkerLock
from gateway.store.schema import migrate, require_schema
from gateway.store.tables import metadata
from tests.support.databases import opened, opened_again
from tests.support.rows import event

# The schema


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # the next test compares those
def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    assert require_schema(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_web_side_does_not_import_alembic() -> None:
    """It takes 9 MB in each process, and only `gateway migrate` uses it."""
    script = "import sys, gateway.app; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_migrations_make_the_indexes_of_the_tables(database: Database) -> None:
    migrated = indexes(database)
    metadata.drop_all(database.engine)
    metadata.create_all(database.engine)
    assert migrated == indexes(database)
    assert "deliveries_parked" in migrated


def indexes(database: Database) -> dict[str, str]:
    """Return the definition of each index, with its conditions and expressions, as the database writes it."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if database.engine.dialect.name == "postgresql":
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    with database.engine.connect() as connection:
        definitions = {name: " ".join(sql.split()) for name, sql in connection.exec_driver_sql(query)}
    return {name: definition for name, definition in definitions.items() if not name.startswith("alembic")}


def test_a_database_without_the_tables_says_what_to_run(database_url: str) -> None:
    with opened(database_url) as empty, pytest.raises(StoreError, match="gateway migrate"):
        Store(empty).record([event("a")])


# SQLite


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Iterator[Database]:
    with opened(f"sqlite:///{tmp_path / 'gateway.db'}") as database:
        migrate(database)
        yield database


def test_the_files_are_those_of_this_user_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        with opened(f"sqlite:///{tmp_path / 'gateway.db'}") as database:
            migrate(database)
            files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    assert files == dict.fromkeys(("gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.db.lock"), 0o600)


def test_pipes_of_workers_are_not_followed_through_links(sqlite_file: Database, tmp_path: Path) -> None:
    elsewhere, pipes = tmp_path / "elsewhere", tmp_path / "gateway.db.workers"
    elsewhere.mkdir()
    (elsewhere / "7").write_text("precious")
    pipes.symlink_to(elsewhere)
    with pytest.raises(StoreError, match=r"gateway\.db\.workers is no directory of this user: remove it"):
        sqlite_file.notify()
    pipes.unlink()
    pipes.mkdir()
    (pipes / "7").symlink_to(elsewhere / "7")
    (pipes / "8").write_text("precious")
    with pytest.raises(StoreError, match="a worker cannot be woken"):
        sqlite_file.notify()
    assert (elsewhere / "7").read_text() == "precious"


def test_a_connection_opens_while_another_process_writes(sqlite_file: Database) -> None:
    with opened_again(sqlite_file) as other, writing(sqlite_file), reading(other) as connection:
        assert connection.execute(text("PRAGMA auto_vacuum")).scalar_one() == 2  # free space can be given back


def test_workers_are_woken_while_others_end(sqlite_file: Database) -> None:
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            ended = threading.Event()
            sqlite_file.listen(ended.set, ended, WorkerLock())

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        # A byte for a pipe whose reader has just gone raised an error within the first hundred.
        for _ in range(2_000):
            sqlite_file.notify()
    finally:
        done.set()
        for thread in threads:
            thread.join()
