"""How processes share one SQLite file."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import text

from gateway.store.database import connect, reading, writing
from gateway.store.schema import migrate


def test_a_connection_opens_while_another_process_writes(tmp_path: Path) -> None:
    # Each has locks and connections of its own, as two processes would.
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    writer, other = connect(url), connect(url)
    migrate(writer)
    with writing(writer), reading(other) as connection:
        assert connection.execute(text("PRAGMA auto_vacuum")).scalar_one() == 2  # the space can be given back


def test_workers_are_woken_while_others_end(tmp_path: Path) -> None:
    database = connect(f"sqlite:///{tmp_path / 'gateway.db'}")
    migrate(database)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            ended = threading.Event()
            database.listen(ended.set, ended)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        # Without care, one of the first hundred writes to a pipe whose reader has gone meanwhile.
        for _ in range(2_000):
            database.notify()
    finally:
        done.set()
        for thread in threads:
            thread.join()
