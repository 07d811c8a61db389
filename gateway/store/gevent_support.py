"""Run blocking calls in a real thread when gevent has patched threading."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def run_in_native_thread(function: Callable[[], Result]) -> Result:
    """Run a function that blocks, and return its result or raise its exception.

    Under gevent, all requests of a process share one thread: one that waits for the disk or for a file lock would
    stop all others. There the function runs in a real thread. Without gevent, the caller has a thread of its own.
    """
    if is_gevent_patched():
        from gevent import get_hub

        result: Result = get_hub().threadpool.apply(function)
        return result
    return function()


def is_gevent_patched() -> bool:
    """Return whether the threads of this process are gevent's, which run one at a time until they wait."""
    if "gevent.monkey" not in sys.modules:
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("threading"))
