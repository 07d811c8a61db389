"""Requirements of tests on the machine: programs that may be missing, and free ports."""

from __future__ import annotations

import contextlib
import os
import random
import socket
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
