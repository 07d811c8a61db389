"""The only network: send one request to Customer.io and report what happened. Never raises for the network."""

from __future__ import annotations

import base64
import email.utils
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol, TextIO

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from gateway import __version__
from gateway.connections import Connection, variable_prefix
from gateway.events import JSON
from gateway.retry import Attempt
from gateway.wire import HOSTS, REGION_PATH, HttpRequest

CONNECT_TIMEOUT = 5.0
DEADLINE = 20.0
MAX_ANSWER = 65_536
MAX_REASON = 300
USER_AGENT = f"customerio-gateway/{__version__}"


class Sender(Protocol):
    """What a worker needs of a client."""

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]


class _NoAnswerError(Exception):
    """No whole answer came; the text says why, in words for the operator."""


class Client:
    """Sends requests over one pool of kept-alive connections; any number of threads may share it.

    Args:
        pool: How many connections are kept open to each host.
        deadline: Seconds that an attempt may take in all, connecting and a trickling answer included.
    """

    def __init__(
        self, connections: Mapping[str, Connection], *, pool: int = 16, deadline: float = DEADLINE
    ) -> None:
        self._connections = dict(connections)
        self._deadline = deadline
        self._guard = _Guard()
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(pool_connections=8, pool_maxsize=pool)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        # Proxies and certificates of the environment are read once and not with every request; .netrc never.
        self._environment: dict[str, dict[str, Any]] = {
            host: dict(self._session.merge_environment_settings(host, {}, True, None, None))
            for host in {each.host(region) for each in connections.values() for region in HOSTS}
        }
        self._session.trust_env = False

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt of a request, in the region given or the connection's own."""
        at, started = time.time(), time.monotonic()
        try:
            answer = self._exchange(request, connection, region)
        except _NoAnswerError as error:
            return Attempt(status=None, reason=str(error), at=at, seconds=time.monotonic() - started)
        understood = _understood(answer)
        return Attempt(
            status=answer.status,
            reason=None if answer.status < 300 and understood else _reason(answer),
            understood=understood,
            retry_after=_retry_after(answer.headers.get("retry-after"), now=time.time()),
            at=at,
            seconds=time.monotonic() - started,
        )

    def region_of(self, connection: str) -> tuple[str | None, str | None]:
        """Ask Customer.io for a connection's region; gives the region, or what is wrong."""
        try:
            answer = self._exchange(HttpRequest(method="GET", path=REGION_PATH), connection, None)
        except _NoAnswerError as error:
            return None, str(error)
        found = _json(answer.body)
        if answer.status == 200 and isinstance(found, dict) and isinstance(found.get("region"), str):
            return str(found["region"]), None
        if answer.status == 401:
            return None, "HTTP 401: the site id or the API key is wrong"
        return None, _reason(answer)

    def close(self) -> None:
        """Close the pool; the client cannot be used afterwards."""
        self._session.close()
        self._guard.stop()

    def _exchange(self, request: HttpRequest, name: str, region: str | None) -> _Answer:
        connection = self._connections.get(name)
        if connection is None:
            prefix = variable_prefix(name)
            raise _NoAnswerError(f"connection '{name}' is not known: set {prefix}SITE_ID and {prefix}API_KEY")
        host = connection.host(region)
        with self._guard.attempt(self._deadline) as current:
            try:
                return self._read(self._send(request, connection, host))
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                late = f"no whole answer within {self._deadline:g} s" if current.ended else None
                raise _NoAnswerError(late or _network_reason(error)) from error

    def _send(self, request: HttpRequest, connection: Connection, host: str) -> requests.Response:
        prepared = self._session.prepare_request(
            requests.Request(request.method, host, headers=_headers(request, connection), data=request.body)
        )
        # Set past requests' own quoting: the path goes out byte for byte as it was written.
        prepared.url = host + request.path
        timeout = (min(CONNECT_TIMEOUT, self._deadline), self._deadline)
        return self._session.send(prepared, timeout=timeout, allow_redirects=False, **self._environment[host])

    def _read(self, response: requests.Response) -> _Answer:
        body = response.raw.read(MAX_ANSWER + 1, decode_content=True)
        if len(body) > MAX_ANSWER:
            response.close()
            raise _NoAnswerError(f"HTTP {response.status_code} with an answer of over {MAX_ANSWER} bytes")
        response.raw.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return _Answer(status=response.status_code, body=body, headers=headers)


class DryRun:
    """A sender that prints each request instead of sending it."""

    def __init__(self, connections: Mapping[str, Connection], out: TextIO = sys.stdout) -> None:
        self._connections = dict(connections)
        self._out = out
        self._turn = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Print a request as it would go out, without credentials, and report it as delivered."""
        known = self._connections.get(connection) or Connection(name=connection, site_id="", api_key="")
        lines = [f"{request.method} {known.host(region)}{request.path}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines += ["", request.body.decode()] if request.body is not None else []
        with self._turn:
            print("\n".join(lines), end="\n\n", file=self._out, flush=True)  # printing is its job
        return Attempt(status=200, at=time.time())


class _Guard:
    """Ends attempts that have passed their deadline by shutting their socket: requests' timeout is per read."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[float, _Current]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @contextmanager
    def attempt(self, seconds: float) -> Iterator[_Current]:
        current = _Current()
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


class _Current:
    """The attempt that a thread is making, and the connection that it uses."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None
        self.ended = False

    def end(self) -> None:
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


class _Adapter(HTTPAdapter):
    """The transport of requests, on connections whose attempts can be ended. It retries nothing."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
        return manager


def _headers(request: HttpRequest, connection: Connection) -> dict[str, str]:
    credentials = base64.b64encode(f"{connection.site_id}:{connection.api_key}".encode()).decode()
    return {**request.headers, "Authorization": f"Basic {credentials}", "User-Agent": USER_AGENT}


def _understood(answer: _Answer) -> bool:
    return not answer.body or isinstance(_json(answer.body), dict)


def _json(body: bytes) -> JSON:
    try:
        parsed: JSON = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed


def _reason(answer: _Answer) -> str:
    if 300 <= answer.status < 400:
        return f"HTTP {answer.status}: redirected, so the region is probably wrong"
    said = "; ".join(_errors_in(_json(answer.body)))
    if not said and not _understood(answer):
        said = "the answer is not Customer.io's JSON: something else answers at this address"
    return f"HTTP {answer.status}: {said}"[:MAX_REASON] if said else f"HTTP {answer.status}"


def _errors_in(body: JSON) -> Iterator[str]:
    """Read the shapes in which Customer.io reports errors: meta.error, meta.errors, errors of fields."""
    if not isinstance(body, dict):
        return
    meta = body.get("meta")
    if isinstance(meta, dict):
        yield from (str(each) for each in (meta.get("error"), *_as_list(meta.get("errors"))) if each)
    for each in _as_list(body.get("errors")):
        if isinstance(each, dict):
            told = (each.get(name) for name in ("field", "reason", "message", "detail"))
            yield ": ".join(str(part) for part in told if part)


def _as_list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _retry_after(header: str | None, *, now: float) -> float | None:
    """Read Retry-After, which is a number of seconds or a date."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - now)


def _network_reason(error: BaseException) -> str:
    """Say what failed without the address's path, which holds the customer's id."""
    if isinstance(error, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    if isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return "no trusted connection: the certificate or the TLS handshake was refused"
    return f"the connection failed: {_innermost(error)}"


def _innermost(error: BaseException) -> str:
    seen: BaseException | None = error
    found = type(error).__name__
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            found = seen.strerror
        elif isinstance(seen, urllib3.exceptions.NameResolutionError):
            return "the host's name is not known"
        following = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if following is None and seen.args and isinstance(seen.args[0], BaseException):
            following = seen.args[0]
        seen = following if isinstance(following, BaseException) else None
    return found
