"""An HTTP session whose exchanges end in time, however slowly the answer trickles.

The timeout of requests is per read, so an answer of one byte a second would never end. Here a thread shuts the
socket of an exchange that has passed its deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from gateway import __version__

#: What requests and urllib3 raise when an exchange fails.
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class DeadlineError(Exception):
    """An exchange was ended because its deadline had passed."""


class DeadlineSession(requests.Session):
    """A session without cookies and retries, with one total deadline for each exchange.

    Args:
        pool: Connections kept open to each host.

    Attributes:
        adapter: What sends the requests, for callers that prepare them themselves. Threads may share it.
    """

    def __init__(self, *, pool: int = 1) -> None:
        super().__init__()
        self.headers["User-Agent"] = f"customerio-gateway/{__version__}"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.adapter = _DeadlineAdapter(pool_connections=8, pool_maxsize=pool)
        self.mount("https://", self.adapter)
        self.mount("http://", self.adapter)
        self._running: dict[int, tuple[float, _Exchange]] = {}
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Give the exchange of this block *seconds* in all, connecting included. A thread has one block at a time.

        Raises:
            DeadlineError: The exchange was cut off.
        """
        exchange = _Exchange()
        _current.exchange = exchange
        with self._changed:
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._watcher.start()
            self._running[id(exchange)] = (time.monotonic() + seconds, exchange)
            self._changed.notify()
        try:
            yield
        except NETWORK_ERRORS as error:
            if exchange.cut_off:
                raise DeadlineError from error
            raise
        finally:
            _current.exchange = None
            with self._changed:
                del self._running[id(exchange)]
        if exchange.cut_off:
            # An answer that was cut off in the middle of its headers looks like a whole one.
            raise DeadlineError

    def break_off(self, within: float) -> None:
        """Cut off the exchanges that are being made and do not end within so many seconds."""
        ends = time.monotonic() + within
        with self._changed:
            for key, (until, exchange) in self._running.items():
                self._running[key] = (min(until, ends), exchange)
            self._changed.notify()

    def close(self) -> None:
        """Close the connections and end the watching thread."""
        super().close()
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for ends, exchange in self._running.values():
                    if ends <= now:
                        exchange.cut()
                pending = [ends - now for ends, _ in self._running.values() if ends > now]
                # An exchange that is late and has no socket yet is looked at again soon.
                self._changed.wait(max(min(pending, default=60.0), 0.05))


class _Exchange:
    """The exchange that a thread is making, and the connection that it uses."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None
        self.cut_off = False
        self._is_shut = False

    def cut(self) -> None:
        """Shut the socket that the thread waits on. While it connects there is none; then it will send nothing."""
        self.cut_off = True
        socket = self.connection.sock if self.connection is not None else None
        if socket is not None and not self._is_shut:
            self._is_shut = True
            try:
                socket.shutdown(2)
            except OSError:
                return  # closed already: the exchange has its answer or its error


#: The exchange of each thread. urllib3 chooses the connection deep inside, where no argument reaches.
_current = threading.local()


class _NotedConnection(HTTPConnection):
    """A connection that notes which exchange uses it."""

    def connect(self) -> None:
        super().connect()
        exchange = getattr(_current, "exchange", None)
        if exchange is not None and exchange.cut_off:
            self.close()
            raise TimeoutError("the exchange was cut off while it connected")

    def request(self, *args: Any, **kwargs: Any) -> None:
        if exchange := getattr(_current, "exchange", None):
            exchange.connection = self
        super().request(*args, **kwargs)


class _NotedTLSConnection(_NotedConnection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _NotedConnection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _NotedTLSConnection


_POOLS = {"http": _Pool, "https": _TLSPool}


class _DeadlineAdapter(HTTPAdapter):
    """The adapter of requests, on noted connections. It retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
