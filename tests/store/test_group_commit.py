"""Group commit: who waits for what, and what a bad item does to its neighbours."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from gateway.errors import StoreError
from gateway.store.group_commit import SILENCE, GroupCommit


class Table:
    """Commits groups of texts when its gate is open, and refuses some of them."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def commit(self, group: Sequence[str]) -> list[str]:
        self.entered.set()
        self.gate.wait(10)
        if "unreachable" in group:
            raise StoreError("the database cannot be used: gone")
        if any(item.startswith("poison") for item in group):
            raise ValueError("canary")
        self.groups.append(list(group))
        return [item.upper() for item in group]


@pytest.fixture
def table() -> Table:
    """A table whose gate is open."""
    table = Table()
    table.gate.set()
    return table


class HeldBack:
    """A writer whose first commit is held back by the table's gate; `write` returns when its items wait behind it."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.table = Table()
        self.writer = GroupCommit(self.table.commit, then=then)
        self._pool = ThreadPoolExecutor(9)
        self.first = self._pool.submit(self.writer.write, "first")
        self.table.entered.wait(5)

    def write(self, *items: str) -> list[Future[str]]:
        writing = [self._pool.submit(self.writer.write, item) for item in items]
        while self.writer._waiting.qsize() < len(items):
            pass
        return writing

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def held_back() -> Iterator[HeldBack]:
    writer = HeldBack()
    yield writer
    writer.close()


def test_an_item_gets_its_own_result(table: Table) -> None:
    writer = GroupCommit(table.commit)
    assert writer.write("a") == "A"
    assert writer.write("b") == "B"


def test_items_that_wait_are_committed_together(held_back: HeldBack) -> None:
    others = held_back.write(*(f"other{number}" for number in range(7)))
    held_back.table.gate.set()
    assert held_back.first.result() == "FIRST"
    assert {other.result() for other in others} == {f"OTHER{number}" for number in range(7)}
    assert [len(group) for group in held_back.table.groups] == [1, 7]


def test_what_a_commit_leaves_is_committed_next() -> None:
    groups: list[list[int]] = []

    def commit_two(group: Sequence[int]) -> list[int]:
        groups.append(list(group[:2]))
        time.sleep(0.05)  # the others come meanwhile
        return [-number for number in group[:2]]

    writer = GroupCommit(commit_two)
    with ThreadPoolExecutor(9) as pool:
        assert set(pool.map(writer.write, range(9))) == {-number for number in range(9)}
    assert sorted(number for group in groups for number in group) == list(range(9))
    assert max(map(len, groups)) == 2


def test_a_bad_item_does_not_make_its_neighbours_fail(held_back: HeldBack, caplog: pytest.LogCaptureFixture) -> None:
    poison, good = held_back.write("poison", "good")
    with caplog.at_level(logging.ERROR):
        held_back.table.gate.set()
        assert good.result() == "GOOD"
        with pytest.raises(StoreError, match="the database refused the write"):
            poison.result()
    assert "canary" not in caplog.text
    assert "ValueError" in caplog.text


def test_a_database_that_is_gone_fails_the_whole_group_and_the_next_one_goes_on(table: Table) -> None:
    writer = GroupCommit(table.commit)
    with pytest.raises(StoreError, match="gone"):
        writer.write("unreachable")
    assert writer.write("a") == "A"


def test_nobody_waits_longer_than_the_patience_and_abandoned_items_are_not_committed() -> None:
    table = Table()
    writer = GroupCommit(table.commit, patience=0.1)
    with pytest.raises(StoreError, match=r"did not take the write within 0\.1 s"):
        writer.write("stuck")
    with pytest.raises(StoreError):
        writer.write("abandoned")
    table.gate.set()
    assert writer.write("later") == "LATER"
    assert table.groups == [["stuck"], ["later"]]


def test_then_is_called_once_for_a_burst_and_always_after_the_last_commit() -> None:
    groups_at_call: list[int] = []
    busy = HeldBack(then=lambda: groups_at_call.append(len(busy.table.groups)))
    others = busy.write(*(f"other{number}" for number in range(7)))
    busy.table.gate.set()
    assert busy.first.result(5) == "FIRST"
    assert len([other.result(5) for other in others]) == 7
    busy.writer.close()
    busy.close()
    assert groups_at_call[-1] == len(busy.table.groups) == 2


def test_then_is_called_at_once_and_soon_again_though_nothing_more_comes(table: Table) -> None:
    calls: queue.SimpleQueue[float] = queue.SimpleQueue()
    writer = GroupCommit(table.commit, then=lambda: calls.put(time.monotonic()))
    writer.write("a")
    writer.write("b")
    first, second = calls.get(timeout=5), calls.get(timeout=5)
    assert second - first >= SILENCE
    assert calls.empty()
    writer.close()


def test_under_gevent_a_group_waits_for_those_who_are_about_to_join_it() -> None:
    script = """
from gevent import monkey; monkey.patch_all()
import gevent
from gateway.store.group_commit import GroupCommit

groups = []
writer = GroupCommit(lambda group: groups.append(len(group)) or group)

def join(turns):
    for _ in range(turns):
        gevent.sleep(0)
    writer.write(turns)

gevent.joinall([gevent.spawn(join, turns) for turns in (0, 0, 2, 4, 6)])
print(groups)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[5]\n"


def test_an_error_of_then_is_logged_without_its_text(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("canary")

    writer = GroupCommit(table.commit, then=fail)
    assert writer.write("a") == "A"
    assert writer.write("b") == "B"
    writer.close()
    assert "OSError" in caplog.text
    assert "canary" not in caplog.text


def test_closing_commits_what_waits(held_back: HeldBack) -> None:
    (second,) = held_back.write("second")
    closing = threading.Thread(target=held_back.writer.close)
    closing.start()
    held_back.table.gate.set()
    closing.join(5)
    assert not closing.is_alive()
    assert (held_back.first.result(5), second.result(5)) == ("FIRST", "SECOND")
