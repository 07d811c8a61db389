"""One HTTP exchange with Customer.io: a kept-alive connection, a deadline, and no redirects."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import requests
import urllib3

from gateway.customerio.connection import HOSTS, Connection
from gateway.customerio.deadline import NETWORK_ERRORS, DeadlineError, DeadlineSession
from gateway.customerio.response import Response
from gateway.customerio.wire import HttpRequest

#: Seconds to connect, at most.
CONNECT_TIMEOUT = 5.0
#: Bytes of an answer's body that are read, at most.
MAX_ANSWER = 1_048_576


class NoAnswerError(Exception):
    """No whole answer came; the text says why, in words for the operator."""


class Transport:
    """The open connections to Customer.io's hosts. Threads may share it.

    Args:
        pool: How many connections are kept open to each host.
    """

    def __init__(self, connections: Mapping[str, Connection], *, pool: int) -> None:
        self._session = DeadlineSession(pool=pool)
        # Proxies and certificates of the environment are read once and not with every request; .netrc never.
        self._environment: dict[str, dict[str, Any]] = {
            host: dict(self._session.merge_environment_settings(host, {}, True, None, None))
            for host in {connection.host(region) for connection in connections.values() for region in HOSTS}
        }
        self._session.trust_env = False

    def exchange(self, request: HttpRequest, connection: Connection, region: str | None, deadline: float) -> Response:
        """Send a request and read its answer.

        Args:
            deadline: Seconds that the exchange may take in all, connecting and a trickling answer included.

        Raises:
            NoAnswerError: No whole answer came in that time.
        """
        host = connection.host(region)
        credentials = base64.b64encode(f"{connection.site_id}:{connection.api_key}".encode()).decode()
        headers = {**request.headers, "Authorization": f"Basic {credentials}"}
        prepared = self._session.prepare_request(
            requests.Request(request.method, host, headers=headers, data=request.body)
        )
        # Set past the quoting of requests, so that the path goes out byte for byte.
        prepared.url = host + request.path
        timeout = (min(CONNECT_TIMEOUT, deadline), deadline)
        try:
            with self._session.deadline(deadline):
                # By the adapter: the session looks at where a redirect leads even when it does not follow it.
                response = self._session.adapter.send(prepared, timeout=timeout, **self._environment[host])
                return _read(response)
        except (DeadlineError, requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            # The timeout of a read is the deadline too: which of the two comes first is chance.
            raise NoAnswerError(f"no whole answer within {deadline:g} s") from error
        except NETWORK_ERRORS as error:
            raise NoAnswerError(_network_reason(error)) from error

    def break_off(self, within: float) -> None:
        """Cut off the exchanges that are being made and do not end within so many seconds."""
        self._session.break_off(within)

    def close(self) -> None:
        """Close the connections. The transport cannot be used afterwards."""
        self._session.close()


def _read(response: requests.Response) -> Response:
    body = response.raw.read(MAX_ANSWER + 1, decode_content=True)
    if len(body) > MAX_ANSWER:
        response.close()
        raise NoAnswerError(f"HTTP {response.status_code} with an answer of over {MAX_ANSWER} bytes")
    response.raw.release_conn()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(status=response.status_code, body=body, headers=headers)


def _network_reason(error: BaseException) -> str:
    """Describe a network error without the URL's path, which holds the customer's id."""
    if isinstance(error, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
        return "no trusted connection: the certificate or the TLS handshake was refused"
    # What the system said is in the innermost error; those around it quote the URL.
    reason = type(error).__name__
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, urllib3.exceptions.NameResolutionError):
            return "the connection failed: the host's name is not known"
        if isinstance(inner, OSError) and inner.strerror:
            reason = inner.strerror
        causes = (inner.__cause__, inner.__context__, getattr(inner, "reason", None), *inner.args[:1])
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return f"the connection failed: {reason}"
