"""How writers of several processes share one SQLite file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from gateway.database import connect, migrate, writing


def test_a_process_that_connects_waits_for_no_more_than_its_turn_to_write(tmp_path: Path) -> None:
    # Each has locks and connections of its own, as two processes would.
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    busy, other = connect(url), connect(url)
    migrate(busy)
    turns, stopping = 0, threading.Event()

    def write_without_a_pause() -> None:
        nonlocal turns
        while not stopping.is_set():
            with writing(busy):
                turns += 1
                time.sleep(0.005)

    thread = threading.Thread(target=write_without_a_pause)
    thread.start()
    try:
        waited = []
        for _ in range(30):
            before = turns
            with writing(other):
                waited.append(turns - before)
            other.engine.dispose()
            time.sleep(0.007)
    finally:
        stopping.set()
        thread.join()
    assert turns > 30
    assert max(waited) < 10
