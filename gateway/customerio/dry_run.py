"""A sender that prints each request instead of sending it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

from gateway.customerio.connection import Connection
from gateway.customerio.retry import Attempt, Probe
from gateway.customerio.wire import HttpRequest


class DryRun:
    """A sender for trying things out. Threads may share it."""

    def __init__(self, connections: Mapping[str, Connection], out: TextIO = sys.stdout) -> None:
        self._connections = dict(connections)
        self._out = out
        self._lock = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Print a request as it would go out, without credentials, and return a good attempt."""
        known = self._connections.get(connection) or Connection(name=connection, site_id="", api_key="")
        lines = [f"{request.method} {known.host(region)}{request.path}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines += ["", request.body.decode(errors="replace")] if request.body is not None else []
        with self._lock:
            print("\n".join(lines), end="\n\n", file=self._out, flush=True)
        return Attempt(status=200, at=time.time())

    def probe(self, connection: str, region: str | None = None) -> Probe:  # noqa: ARG002  # as every sender
        """Return that all is well: nothing is sent that could fail."""
        return Probe()

    def break_off(self, within: float) -> None:
        """Do nothing: what is printed takes no time."""
