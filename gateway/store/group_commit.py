"""Group commit: one writer commits everything that waits, together, and each waits for its own commit only."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from gateway.errors import StoreError
from gateway.store.gevent_support import is_gevent_patched

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 3.0
LARGEST_GROUP = 256
#: Under gevent a group is complete when nobody joins it in so many turns of the event loop, or after so many seconds.
TURNS = 3
LONGEST_GATHERING = 0.01
#: Seconds between two calls of *then*, at least.
SILENCE = 0.01


class _Waiting(Generic[Item, Result]):
    """One item and whoever waits for it. A future does the same, at several times the cost for each request."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.abandoned = False
        self._done = threading.Lock()
        self._done.acquire()
        self._result: Result | Exception

    def wait(self, patience: float) -> Result:
        if not self._done.acquire(timeout=patience):
            self.abandoned = True  # what has not begun by now would serve nobody
            raise StoreError(f"the database did not take the write within {patience:g} s")
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def end(self, result: Result | Exception) -> None:
        self._result = result
        self._done.release()


class GroupCommit(Generic[Item, Result]):
    """Hands items to *commit* in groups, from one thread that starts with the first item, after any fork.

    Args:
        commit: Commits a group, all or none, and gives a result for each; an error in the place of a result is
            raised to whoever waits for it.
        then: Called when items were committed: at once, but not more than a hundred times a second.
        patience: Seconds that an item waits for its commit.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        then: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self._commit = commit
        self._then = then
        self._patience = patience
        self._starting = threading.Lock()
        self._process: int | None = None
        self._owes = False  # something was committed, and "then" not called since
        self._follows_at = 0.0
        self._thread: threading.Thread | None = None
        self._waiting: queue.SimpleQueue[_Waiting[Item, Result] | None]

    def write(self, item: Item) -> Result:
        """Have an item committed and give its result.

        Raises:
            StoreError: It was not committed in time, or could not be. It may still be committed later.
        """
        self._start()
        waiting: _Waiting[Item, Result] = _Waiting(item)
        self._waiting.put(waiting)
        return waiting.wait(self._patience)

    def _start(self) -> None:
        if self._process == os.getpid():
            return
        with self._starting:
            if self._process != os.getpid():
                self._waiting = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
                self._thread.start()
                self._process = os.getpid()

    def close(self) -> None:
        """Commit what waits and end the thread; nothing can be written afterwards."""
        if self._thread is not None and self._process == os.getpid():
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            group, goes_on = self._gather()
            if group:
                self._commit_group(group)
                self._owes = True
            if self._owes and (time.monotonic() >= self._follows_at or not goes_on):
                self._follow_up()

    def _follow_up(self) -> None:
        self._owes, self._follows_at = False, time.monotonic() + SILENCE
        try:
            self._then()
        except Exception as error:  # noqa: BLE001  # it is for speed only, and the items are committed
            said = error if isinstance(error, StoreError) else type(error).__name__
            log.warning("after a commit: %s", said)

    def _next(self) -> _Waiting[Item, Result] | None:
        """Wait for the next item, and follow up meanwhile what was committed; None ends it all."""
        if self._owes:
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=max(self._follows_at - time.monotonic(), 0.0))
            self._follow_up()
        return self._waiting.get()

    def _gather(self) -> tuple[list[_Waiting[Item, Result]], bool]:
        """Wait for an item, and take all that come with it; leave out those that nobody waits for any more.

        Tells also whether more may come.
        """
        group: list[_Waiting[Item, Result]] = []
        taken = self._next()
        ends = time.monotonic() + LONGEST_GATHERING
        while taken is not None:
            if not taken.abandoned:
                group.append(taken)
            if len(group) == LARGEST_GROUP or not self._more_come(ends):
                return group, True
            taken = self._waiting.get()
        return group, False

    def _more_come(self, ends: float) -> bool:
        """Give those who are about to join a group the time for it, where all take turns in one thread."""
        turns = TURNS if is_gevent_patched() else 0
        while self._waiting.empty():
            if not turns or time.monotonic() > ends:
                return False
            turns -= 1
            time.sleep(0)  # it is the turn of all others who need not wait
        return True

    def _commit_group(self, group: list[_Waiting[Item, Result]]) -> None:
        try:
            results = self._commit([each.item for each in group])
        except StoreError as error:
            _fail(group, error)
        except Exception as error:  # noqa: BLE001  # whatever one item does to the database, its neighbours go on
            self._commit_singly(group, error)
        else:
            for each, result in zip(group, results, strict=True):
                each.end(result)

    def _commit_singly(self, group: list[_Waiting[Item, Result]], error: Exception) -> None:
        if len(group) > 1:
            for each in group:
                self._commit_group([each])
            return
        # The error's text may hold what the item holds, so only its kind is told.
        log.error("the database refused a write: %s", type(error).__name__)
        _fail(group, StoreError("the database refused the write"))


def _fail(group: Sequence[_Waiting[Any, Any]], error: StoreError) -> None:
    for each in group:
        each.end(error)
