"""What a worker process does beside delivering, each task at its own pace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.errors import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to do again and again.

    Attributes:
        name: What it does, for the log: "telling notices".
        every: Seconds between the end of one run and the beginning of the next.
        run: Is given the event that is set when the process stops; what takes long looks at it between its steps.
    """

    name: str
    every: float
    run: Callable[[threading.Event], None]


@contextmanager
def housekeeping(tasks: Sequence[Task]) -> Iterator[None]:
    """Run tasks until the end of the context, each in a thread of its own: a long one holds up no other."""
    stopping = threading.Event()
    threads = [threading.Thread(target=_repeat, args=(task, stopping), name=task.name, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _repeat(task: Task, stopping: threading.Event) -> None:
    said = None
    while not stopping.is_set():
        problem = _problem(task, stopping)
        # A database that is away for an hour is one line, not a thousand.
        if problem is not None and problem != said:
            log.error("%s: %s; trying again", task.name, problem)
        said = problem
        stopping.wait(task.every)


def _problem(task: Task, stopping: threading.Event) -> str | None:
    """Run a task once, and tell what went wrong."""
    try:
        task.run(stopping)
    except StoreError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # the other tasks, and the next run of this one, go on
        # The error's text may hold anything, so only its kind is told.
        return f"unexpected {type(error).__name__}"
    return None
