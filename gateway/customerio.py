"""The only network: send one request to Customer.io and report what happened. Never raises for the network."""

from __future__ import annotations

import base64
import email.utils
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol, TextIO

import requests
import urllib3

from gateway import __version__
from gateway.connections import Connection, variable_prefix
from gateway.deadlines import DeadlineAdapter, Deadlines
from gateway.events import JSON
from gateway.retry import Attempt, Probe
from gateway.wire import HOSTS, REGION_PATH, HttpRequest

CONNECT_TIMEOUT = 5.0
DEADLINE = 20.0
#: While a probe is out nothing else is sent: an API that takes longer for it is not well.
PROBE_DEADLINE = 5.0
MAX_ANSWER = 65_536
MAX_REASON = 300
USER_AGENT = f"customerio-gateway/{__version__}"


class Sender(Protocol):
    """What a worker needs of a client."""

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt."""

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Find out whether a connection is well."""


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
        self._deadlines = Deadlines()
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = DeadlineAdapter(pool_connections=8, pool_maxsize=pool)
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
            answer = self._exchange(request, connection, region, self._deadline)
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

    def region_of(self, connection: str, region: str | None = None) -> tuple[str | None, str | None]:
        """Ask Customer.io for a connection's region, at the host of the one given or of its own.

        Gives the region, or what is wrong.
        """
        found, probe = self._asked(connection, region)
        return found, probe.reason

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Find out whether a connection is well: reachable, with the right credentials, in the expected region."""
        found, probe = self._asked(connection, region)
        known = self._connections.get(connection)
        expected = region or (known.region if known else None)
        if found is None or found == expected:
            return probe
        fix = f"set {variable_prefix(connection)}REGION={found}"
        if region is not None:
            fix = f"write region: {found} in the mapping, or leave the region out"
        return Probe(cause="misconfigured", reason=f"the workspace is in {found}, not in {expected}: {fix}")

    def _asked(self, connection: str, region: str | None) -> tuple[str | None, Probe]:
        if connection not in self._connections:
            return None, Probe(cause="misconfigured", reason=_not_known(connection))
        try:
            deadline = min(PROBE_DEADLINE, self._deadline)
            answer = self._exchange(HttpRequest(method="GET", path=REGION_PATH), connection, region, deadline)
        except _NoAnswerError as error:
            return None, Probe(cause="unreachable", reason=str(error))
        found = _json(answer.body)
        if answer.status == 200 and isinstance(found, dict) and isinstance(found.get("region"), str):
            return str(found["region"]), Probe()
        if answer.status == 401:
            prefix = variable_prefix(connection)
            reason = f"HTTP 401: the site id or the API key is wrong ({prefix}SITE_ID, {prefix}API_KEY)"
            return None, Probe(cause="misconfigured", reason=reason)
        return None, Probe(cause="unreachable", reason=_reason(answer))

    def close(self) -> None:
        """Close the pool; the client cannot be used afterwards."""
        self._session.close()
        self._deadlines.stop()

    def _exchange(self, request: HttpRequest, name: str, region: str | None, deadline: float) -> _Answer:
        connection = self._connections.get(name)
        if connection is None:
            raise _NoAnswerError(_not_known(name))
        host = connection.host(region)
        with self._deadlines.attempt(deadline) as current:
            try:
                answer = self._read(self._send(request, connection, host, deadline))
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                late = f"no whole answer within {deadline:g} s" if current.ended else None
                raise _NoAnswerError(late or _network_reason(error)) from error
        if current.ended:
            # Cut off in the middle of its headers, an answer looks like a whole one.
            raise _NoAnswerError(f"no whole answer within {deadline:g} s")
        return answer

    def _send(
        self, request: HttpRequest, connection: Connection, host: str, deadline: float
    ) -> requests.Response:
        prepared = self._session.prepare_request(
            requests.Request(request.method, host, headers=_headers(request, connection), data=request.body)
        )
        # Set past requests' own quoting: the path goes out byte for byte as it was written.
        prepared.url = host + request.path
        timeout = (min(CONNECT_TIMEOUT, deadline), deadline)
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

    def probe(self, connection: str, region: str | None = None) -> Probe:  # noqa: ARG002  # as every sender
        """Find everything well: nothing is sent that could fail."""
        return Probe()


def _not_known(name: str) -> str:
    prefix = variable_prefix(name)
    return f"connection '{name}' is not known: set {prefix}SITE_ID and {prefix}API_KEY"


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
