"""HTTP attempts that end in time, however slowly the answer trickles: requests' own timeout is per read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection


class Deadlines:
    """Ends attempts that have passed their deadline by shutting their socket."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[float, Current]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @contextmanager
    def attempt(self, seconds: float) -> Iterator[Current]:
        """Give the thread's attempt its seconds, connecting included; its session has a DeadlineAdapter."""
        current = Current()
        _local.current = current
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            self._running[id(current)] = (time.monotonic() + seconds, current)
            self._changed.notify()
        try:
            yield current
        finally:
            _local.current = None
            with self._changed:
                del self._running[id(current)]

    def stop(self) -> None:
        """Watch no longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                now = time.monotonic()
                for ends, current in self._running.values():
                    if ends <= now:
                        current.end()
                pending = [ends - now for ends, _ in self._running.values() if ends > now]
                self._changed.wait(max(min(pending, default=60.0), 0.05))


class Current:
    """The attempt that a thread is making, and the connection that it uses."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None
        self.ended = False

    def end(self) -> None:
        """Shut the socket that is waited on."""
        socket = self.connection.sock if self.connection is not None else None
        if socket is not None and not self.ended:
            self.ended = True
            try:
                socket.shutdown(2)
            except OSError:
                return  # closed already: the attempt has its answer or its error


_local = threading.local()


def _note(connection: HTTPConnection) -> None:
    """Tell the thread's attempt which connection it was given."""
    if current := getattr(_local, "current", None):
        current.connection = connection


class _Watched(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self)
        super().request(*args, **kwargs)


class _WatchedTLS(HTTPSConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        _note(self)
        super().request(*args, **kwargs)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTLS(urllib3.HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


class DeadlineAdapter(HTTPAdapter):
    """The transport of requests, on connections whose attempts can be ended. It retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
        return manager
