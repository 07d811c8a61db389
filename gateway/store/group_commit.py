"""Group commit: one thread of each process commits all waiting items together; each caller waits for its own.

A commit costs a write to the disk however much it holds, so a group of items costs as little as one.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gateway.errors import StoreError
from gateway.store.gevent_support import is_gevent_patched

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds that a caller waits for the commit of its item.
PATIENCE = 3.0
LARGEST_GROUP = 256
#: Under gevent a group is complete when nobody joins it in so many turns of the event loop, or after so many seconds.
TURNS = 3
LONGEST_GATHERING = 0.01
#: Seconds between two calls of *then*, at least.
SILENCE = 0.01


class _Waiting(Generic[Item, Result]):
    """An item and the caller that waits for its result. A future does the same at several times the cost."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.abandoned = False
        self._done = threading.Lock()
        self._done.acquire()
        self._result: Result | Exception

    def wait(self, patience: float) -> Result:
        if not self._done.acquire(timeout=patience):
            self.abandoned = True  # the sender gets an error, so an item that is still in the queue is left out
            raise StoreError(f"the database did not take the write within {patience:g} s")
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def finish(self, result: Result | Exception) -> None:
        self._result = result
        self._done.release()


class GroupCommit(Generic[Item, Result]):
    """Commits items in groups, in a thread that starts with the first item: threads do not survive a fork.

    Args:
        commit: Commits a group, all or none, and returns a result for each item, or for the first of them: the rest is
            committed next. An error in the place of a result is raised to the caller that waits for it.
        then: Called after commits: at once, but not more often than every SILENCE seconds.
        patience: Seconds that a caller waits for its commit.
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
        self._thread: threading.Thread | None = None
        self._waiting: queue.SimpleQueue[_Waiting[Item, Result] | None]  # None: close

    def write(self, item: Item) -> Result:
        """Commit an item together with others, and return its result.

        Raises:
            StoreError: It was not committed in time, or could not be. It may still be committed later.
        """
        if self._process != os.getpid():
            self._start()
        waiting: _Waiting[Item, Result] = _Waiting(item)
        self._waiting.put(waiting)
        return waiting.wait(self._patience)

    def close(self) -> None:
        """Commit what waits and end the thread. Nothing can be written afterwards."""
        if self._thread is not None and self._process == os.getpid():
            self._waiting.put(None)
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._process != os.getpid():
                self._waiting = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
                self._thread.start()
                self._process = os.getpid()

    def _run(self) -> None:
        """Commit group after group, and call *then* between them, until `close` is called."""
        then_is_due = False  # something was committed since the last call
        then_at = 0.0
        closing = False
        while not closing:
            try:
                first = self._waiting.get(timeout=max(then_at - time.monotonic(), 0.0) if then_is_due else None)
            except queue.Empty:
                pass  # nobody else has come: it is time to call *then*
            else:
                group, closing = self._gather(first)
                self._commit_group(group)
                then_is_due = then_is_due or bool(group)
            if then_is_due and (closing or time.monotonic() >= then_at):
                then_is_due, then_at = False, time.monotonic() + SILENCE
                self._call_then()

    def _gather(self, first: _Waiting[Item, Result] | None) -> tuple[list[_Waiting[Item, Result]], bool]:
        """Return the group that begins with *first*, and whether to close after it."""
        group: list[_Waiting[Item, Result]] = []
        gathered_at = time.monotonic() + LONGEST_GATHERING
        waiting = first
        while waiting is not None:
            if not waiting.abandoned:
                group.append(waiting)
            if len(group) == LARGEST_GROUP or not self._has_more(gathered_at):
                return group, False
            waiting = self._waiting.get()
        return group, True

    def _has_more(self, until: float) -> bool:
        """Return whether another item waits. Under gevent, first let those run who are about to write one.

        There all requests of the process and this thread run in turn, in one real thread. A request that has just
        arrived cannot put its item into the queue before it has its turn; `sleep(0)` gives all others one.
        """
        turns = TURNS if is_gevent_patched() else 0
        while self._waiting.empty():
            if not turns or time.monotonic() > until:
                return False
            turns -= 1
            time.sleep(0)
        return True

    def _commit_group(self, group: list[_Waiting[Item, Result]]) -> None:
        while group:
            done = self._commit_some(group)
            group = [waiting for waiting in group[done:] if not waiting.abandoned]

    def _commit_some(self, group: list[_Waiting[Item, Result]]) -> int:
        """Commit the first items of a group, and return how many."""
        results: Sequence[Result | Exception]
        try:
            results = self._commit([waiting.item for waiting in group])
        except StoreError as error:
            results = [error] * len(group)  # the database cannot be used: trying one by one would fail as well
        except Exception as error:  # noqa: BLE001  # whatever one item does to the database, its neighbours go on
            if len(group) > 1:
                for waiting in group:
                    self._commit_some([waiting])
                return len(group)
            # The error's text may quote the item, so only its kind is logged.
            log.error("the database refused a write: %s", type(error).__name__)
            results = [StoreError("the database refused the write")]
        assert results, "a commit makes progress"
        for waiting, result in zip(group, results, strict=False):
            waiting.finish(result)
        return len(results)

    def _call_then(self) -> None:
        try:
            self._then()
        except Exception as error:  # noqa: BLE001  # it is for speed only, and the items are committed
            log.warning("after a commit: %s", error if isinstance(error, StoreError) else type(error).__name__)
