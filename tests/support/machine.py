"""The machine that tests run on: programs that may be missing, free ports, and what processes hold."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from typing import NoReturn

import pytest


def missing(requirement: str) -> NoReturn:
    """Skip a test that cannot run on this machine; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI all tests have to run: {requirement}")
    pytest.skip(requirement)


def free_port() -> int:
    """Return a free port below those that the system gives to clients.

    A client that retries while the server is down could otherwise be given the server's own port.
    """
    for port in random.sample(range(12_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports were tried and none is free")


def process_family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in process_family(int(child)))]


def memory(pid: int) -> list[float]:
    """Return the resident memory of a process and of each of its descendants, in MiB."""
    statuses = (Path(f"/proc/{member}/status").read_text() for member in process_family(pid))
    return [int(status.partition("VmRSS:")[2].split()[0]) / 1024 for status in statuses]
