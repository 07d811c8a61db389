"""Waiting where it stops nobody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def run_in_native_thread(function: Callable[[], Result]) -> Result:
    """Run what blocks, and wait for its result; what it raises is raised here.

    Under gevent a wait for the disk or for a file lock would stop every request of the process: there a real
    thread waits for it. Elsewhere the caller's own thread is as good.
    """
    if is_gevent_patched():
        from gevent import get_hub

        result: Result = get_hub().threadpool.apply(function)
        return result
    return function()


def is_gevent_patched() -> bool:
    """Tell whether the threads of this process are gevent's, of which one runs until it waits."""
    if "gevent.monkey" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("threading"))
