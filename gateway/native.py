"""Waiting where it stops nobody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def natively(function: Callable[[], Result]) -> Result:
    """Run what blocks, and wait for its result; what it raises is raised here.

    Under gevent a wait for the disk or for a file lock would stop every request of the process: there a real
    thread waits for it. Elsewhere the caller's own thread is as good.
    """
    if "gevent.monkey" in sys.modules:
        from gevent import get_hub, monkey

        if monkey.is_module_patched("threading"):
            result: Result = get_hub().threadpool.apply(function)
            return result
    return function()
