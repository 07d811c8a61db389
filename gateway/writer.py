"""Group commit: one writer commits everything that waits, together, and each waits for its own commit only."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, TypeVar

from gateway.errors import StoreError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 3.0
LARGEST_GROUP = 256


class Writer(Generic[Item, Result]):
    """Hands items to *commit* in groups, from one thread that starts with the first item, after any fork.

    Args:
        commit: Commits a group, all or none, and gives a result for each.
        patience: Seconds that an item waits for its commit.
    """

    def __init__(
        self, commit: Callable[[Sequence[Item]], Sequence[Result]], *, patience: float = PATIENCE
    ) -> None:
        self._commit = commit
        self._patience = patience
        self._starting = threading.Lock()
        self._process: int | None = None
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Result]]]

    def write(self, item: Item) -> Result:
        """Have an item committed and give its result.

        Raises:
            StoreError: It was not committed in time, or could not be. It may still be committed later.
        """
        self._start()
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        try:
            return future.result(self._patience)
        except (FutureTimeout, CancelledError):
            future.cancel()  # what has not begun by now would serve nobody
            raise StoreError(f"the database did not take the write within {self._patience:g} s") from None

    def _start(self) -> None:
        if self._process == os.getpid():
            return
        with self._starting:
            if self._process != os.getpid():
                self._waiting = queue.SimpleQueue()
                threading.Thread(target=self._run, name="writer", daemon=True).start()
                self._process = os.getpid()

    def _run(self) -> None:
        natively = _native_thread()
        while True:
            group = self._gather()
            if group:
                natively(self._commit_group, group)

    def _gather(self) -> list[tuple[Item, Future[Result]]]:
        """Wait for an item, and take all that came with it; leave out those that nobody waits for any more."""
        group = [self._waiting.get()]
        while len(group) < LARGEST_GROUP:
            try:
                group.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return [(item, future) for item, future in group if future.set_running_or_notify_cancel()]

    def _commit_group(self, group: list[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._commit([item for item, _ in group])
        except StoreError as error:
            _fail(group, error)
        except Exception as error:  # noqa: BLE001  # whatever one item does to the database, its neighbours go on
            self._commit_singly(group, error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)

    def _commit_singly(self, group: list[tuple[Item, Future[Result]]], error: Exception) -> None:
        if len(group) > 1:
            for each in group:
                self._commit_group([each])
            return
        # The error's text may hold what the item holds, so only its kind is told.
        log.error("the database refused a write: %s", type(error).__name__)
        _fail(group, StoreError("the database refused the write"))


def _fail(group: Sequence[tuple[Any, Future[Any]]], error: StoreError) -> None:
    for _, future in group:
        future.set_exception(error)


def _native_thread() -> Callable[[Callable[[Any], None], Any], Any]:
    """Give a way to run a function where blocking stops nobody else.

    Under gevent this module's thread is a greenlet, and a wait for the disk or for a file lock would stop every
    request of the process: there the function runs on one real thread, always the same.
    """
    if "gevent.monkey" in sys.modules:
        from gevent import monkey, threadpool

        if monkey.is_module_patched("threading"):
            pool = threadpool.ThreadPool(1)
            return lambda function, argument: pool.spawn(function, argument).get()
    return lambda function, argument: function(argument)
