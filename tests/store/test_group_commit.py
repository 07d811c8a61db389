"""Group commit: who waits for what, and what a bad item does to its neighbours."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.errors import StoreError
from gateway.store.group_commit import SILENCE, GroupCommit


class Table:
    """Commits groups of texts: a real gate in front, and items that it refuses."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def commit(self, group: Sequence[str]) -> list[str]:
        self.entered.set()
        self.open.wait(10)
        if "unreachable" in group:
            raise StoreError("the database cannot be used: gone")
        if any(item.startswith("poison") for item in group):
            raise ValueError("canary")
        self.groups.append(list(group))
        return [item.upper() for item in group]


def test_an_item_gets_its_own_result() -> None:
    writer = GroupCommit(Table().commit)
    assert writer.write("a") == "A"
    assert writer.write("b") == "B"


def test_what_waits_is_committed_together() -> None:
    table = Table()
    table.open.clear()
    writer = GroupCommit(table.commit)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(writer.write, "first")
        table.entered.wait(5)
        others = [pool.submit(writer.write, f"other{number}") for number in range(7)]
        while writer._waiting.qsize() < 7:  # the point in time when all are waiting
            pass
        table.open.set()
        assert first.result() == "FIRST"
        assert {other.result() for other in others} == {f"OTHER{number}" for number in range(7)}
    assert [len(group) for group in table.groups] == [1, 7]


def test_a_poisonous_item_does_not_take_its_neighbours_along(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    table.open.clear()
    writer = GroupCommit(table.commit)
    with ThreadPoolExecutor(4) as pool:
        pool.submit(writer.write, "first")
        table.entered.wait(5)
        poison, good = pool.submit(writer.write, "poison"), pool.submit(writer.write, "good")
        while writer._waiting.qsize() < 2:  # the point in time when both are waiting
            pass
        with caplog.at_level(logging.ERROR):
            table.open.set()
            assert good.result() == "GOOD"
            with pytest.raises(StoreError, match="the database refused the write"):
                poison.result()
    assert "canary" not in caplog.text
    assert "ValueError" in caplog.text


def test_a_database_that_is_gone_fails_the_whole_group_and_the_next_one_goes_on() -> None:
    writer = GroupCommit(Table().commit)
    with pytest.raises(StoreError, match="gone"):
        writer.write("unreachable")
    assert writer.write("a") == "A"


def test_nobody_waits_longer_than_the_patience_and_what_was_given_up_is_not_committed() -> None:
    table = Table()
    table.open.clear()
    writer = GroupCommit(table.commit, patience=0.1)
    with pytest.raises(StoreError, match=r"did not take the write within 0\.1 s"):
        writer.write("stuck")
    with pytest.raises(StoreError):
        writer.write("given up")
    table.open.set()
    assert writer.write("later") == "LATER"
    assert table.groups == [["stuck"], ["later"]]


def test_what_follows_a_commit_is_done_once_for_a_burst_and_always_for_the_last() -> None:
    table = Table()
    followed: list[int] = []
    writer = GroupCommit(table.commit, then=lambda: followed.append(len(table.groups)))
    table.open.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(writer.write, "first")
        table.entered.wait(5)
        others = [pool.submit(writer.write, f"other{number}") for number in range(7)]
        while writer._waiting.qsize() < 7:  # the point in time when all are waiting
            pass
        table.open.set()
        assert first.result(5) == "FIRST"
        assert len([each.result(5) for each in others]) == 7
    writer.close()
    assert followed[-1] == len(table.groups) == 2


def test_what_follows_a_commit_is_done_at_once_and_soon_again_though_nothing_more_comes() -> None:
    followed: queue.SimpleQueue[float] = queue.SimpleQueue()
    writer = GroupCommit(Table().commit, then=lambda: followed.put(time.monotonic()))
    writer.write("a")
    writer.write("b")
    first, second = followed.get(timeout=5), followed.get(timeout=5)
    assert second - first >= SILENCE
    assert followed.empty()
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


def test_what_follows_a_commit_may_fail_without_harm(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("canary")

    writer = GroupCommit(Table().commit, then=fail)
    assert writer.write("a") == "A"
    assert writer.write("b") == "B"
    writer.close()
    assert "OSError" in caplog.text
    assert "canary" not in caplog.text


def test_closing_commits_what_waits() -> None:
    table = Table()
    table.open.clear()
    writer = GroupCommit(table.commit)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(writer.write, "first")
        table.entered.wait(5)
        second = pool.submit(writer.write, "second")
        while writer._waiting.qsize() < 1:
            pass
        closing = pool.submit(writer.close)
        table.open.set()
        closing.result(5)
        assert (first.result(5), second.result(5)) == ("FIRST", "SECOND")
