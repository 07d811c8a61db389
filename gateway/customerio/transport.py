"""One HTTP exchange with Customer.io: a kept-alive connection, a deadline, and no redirects."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3

from gateway import __version__
from gateway.customerio.connection import HOSTS, Connection
from gateway.customerio.deadline import DeadlineAdapter, Deadlines
from gateway.customerio.response import Response
from gateway.customerio.wire import HttpRequest

CONNECT_TIMEOUT = 5.0
MAX_ANSWER = 1_048_576
USER_AGENT = f"customerio-gateway/{__version__}"


class NoAnswerError(Exception):
    """No whole answer came; the text says why, in words for the operator."""


class Transport:
    """Connections to the hosts of Customer.io; any number of threads may share them.

    Args:
        pool: How many are kept open to each host.
    """

    def __init__(self, connections: Mapping[str, Connection], *, pool: int) -> None:
        self._deadlines = Deadlines()
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._adapter = DeadlineAdapter(pool_connections=8, pool_maxsize=pool)
        # Proxies and certificates of the environment are read once and not with every request; .netrc never.
        self._environment: dict[str, dict[str, Any]] = {
            host: dict(self._session.merge_environment_settings(host, {}, True, None, None))
            for host in {each.host(region) for each in connections.values() for region in HOSTS}
        }
        self._session.trust_env = False

    def exchange(self, request: HttpRequest, connection: Connection, region: str | None, deadline: float) -> Response:
        """Send a request and read its answer.

        Args:
            deadline: Seconds that it may take in all, connecting and a trickling answer included.

        Raises:
            NoAnswerError: No whole answer came in that time.
        """
        host = connection.host(region)
        with self._deadlines.attempt(deadline) as current:
            try:
                answer = self._read(self._send(request, connection, host, deadline))
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                late = f"no whole answer within {deadline:g} s" if current.ended else None
                raise NoAnswerError(late or _network_reason(error)) from error
        if current.ended:
            # Cut off in the middle of its headers, an answer looks like a whole one.
            raise NoAnswerError(f"no whole answer within {deadline:g} s")
        return answer

    def close(self) -> None:
        """Close the connections; none can be used afterwards."""
        self._adapter.close()
        self._session.close()
        self._deadlines.stop()

    def _send(self, request: HttpRequest, connection: Connection, host: str, deadline: float) -> requests.Response:
        prepared = self._session.prepare_request(
            requests.Request(request.method, host, headers=_headers(request, connection), data=request.body)
        )
        # Set past requests' own quoting: the path goes out byte for byte as it was written.
        prepared.url = host + request.path
        timeout = (min(CONNECT_TIMEOUT, deadline), deadline)
        # Not by the session, which looks at where a redirect leads even if it is not to follow.
        return self._adapter.send(prepared, timeout=timeout, **self._environment[host])

    def _read(self, response: requests.Response) -> Response:
        body = response.raw.read(MAX_ANSWER + 1, decode_content=True)
        if len(body) > MAX_ANSWER:
            response.close()
            raise NoAnswerError(f"HTTP {response.status_code} with an answer of over {MAX_ANSWER} bytes")
        response.raw.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(status=response.status_code, body=body, headers=headers)


def _headers(request: HttpRequest, connection: Connection) -> dict[str, str]:
    credentials = base64.b64encode(f"{connection.site_id}:{connection.api_key}".encode()).decode()
    return {**request.headers, "Authorization": f"Basic {credentials}", "User-Agent": USER_AGENT}


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
