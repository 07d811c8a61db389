"""What a worker process does beside delivering: repeated tasks, each in a thread of its own."""

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
    """Something to do repeatedly.

    Attributes:
        name: What it does, for the log: "posting alerts".
        every: Seconds between the end of one run and the start of the next.
        run: Receives the event that is set when the process stops; a long run checks it between its steps.
    """

    name: str
    every: float
    run: Callable[[threading.Event], None]


@contextmanager
def housekeeping(tasks: Sequence[Task]) -> Iterator[None]:
    """Run tasks until the block ends. Each has its own thread, so that a long one delays no other."""
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
    last_problem = None
    while not stopping.is_set():
        problem = None
        try:
            task.run(stopping)
        except StoreError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # the other tasks, and the next run of this one, go on
            # The text of an unknown error may quote a payload: only its class is logged.
            problem = f"unexpected {type(error).__name__}"
        # A database that is away for an hour is logged once, not a thousand times.
        if problem is not None and problem != last_problem:
            log.error("%s: %s; trying again", task.name, problem)
        last_problem = problem
        stopping.wait(task.every)
