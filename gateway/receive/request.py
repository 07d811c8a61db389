"""Read a request, within bounds, as a webhook that is not trusted yet."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_content_length, get_input_stream

from gateway import payload
from gateway.errors import RequestError
from gateway.event import Webhook

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.wrappers import Request

#: Characters of all headers together: they are stored with the event, and most of them are not signed.
MAX_HEADERS = 65_536
#: Seconds after which a sender should send again what was cut while it was received.
RETRY_AFTER = 5

_HOW_TO_RAISE = "GATEWAY_MAX_BODY sets the limit"

Address: TypeAlias = IPv4Address | IPv6Address


def read_webhook(request: Request, *, public_url: str | None, limit: int, rest: str = "") -> Webhook:
    """Read a request, its body as it was sent.

    Args:
        public_url: What precedes the path in the address that the sender posts to.
        limit: Bytes of a body.
        rest: What follows the source's name in the path.

    Raises:
        RequestError: 413 or 400, the body is too large or ends too early; 431, the headers are too long.
    """
    environ = request.environ
    return Webhook(
        method=request.method,
        url=(public_url or "") + environ["RAW_URI"],
        headers=_headers(environ),
        query=dict(request.args.items()) if environ.get("QUERY_STRING") else {},
        body=_body(environ, limit) if request.method == "POST" else b"",
        rest=rest,
    )


def unpack(webhook: Webhook, limit: int) -> tuple[Webhook, RequestError | None]:
    """Undo the Content-Encoding of a body; where that is not possible, return the webhook as it was sent, and why.

    Raises:
        RequestError: 413, more than *limit* bytes.
    """
    try:
        body = payload.unpack(webhook.body, webhook.headers.get("content-encoding", ""), limit)
    except RequestError as problem:
        if problem.status == 413:
            raise RequestError(413, str(problem), _HOW_TO_RAISE) from None
        return webhook, problem
    if body is webhook.body:
        return webhook, None
    # Without the header, so that nothing unpacks the body once more: it may be gzip again, and has no limit then.
    headers = {name: value for name, value in webhook.headers.items() if name != "content-encoding"}
    return replace(webhook, headers=headers, body=body), None


def address_of(environ: WSGIEnvironment, proxies: int) -> Address | None:
    """Return the address that a request comes from; None if it is unknown.

    Args:
        proxies: Number of trusted proxies in front of the gateway. Each one appends the address of its caller to
            X-Forwarded-For, so only the last entries can be trusted; the sender may have written the others.
    """
    text = environ.get("REMOTE_ADDR", "")
    if proxies:
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        text = hops[-proxies].strip() if len(hops) >= proxies else ""
    if with_port := re.fullmatch(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+", text):
        text = with_port[1] or with_port[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # without the zone of an IPv6 address
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    # The web server has joined the values of a header that was sent twice.
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH")):
        if value := environ.get(key):
            headers[name] = value
    if sum(map(len, headers.values())) > MAX_HEADERS:
        raise RequestError(431, f"the headers are longer than {MAX_HEADERS:,} characters together")
    return headers


def _body(environ: WSGIEnvironment, limit: int) -> bytes:
    """Read the body, but never more than *limit* + 1 bytes, whether its length was announced or not."""
    length = get_content_length(environ)
    try:
        if length is None:
            # Werkzeug stops at the maximum without an error. One byte more than the limit shows that there is more.
            body = get_input_stream(environ, max_content_length=limit + 1).read()
        else:
            body = environ["wsgi.input"].read(length) if length <= limit else b""
    except (ClientDisconnected, OSError, ParseException):
        raise RequestError(400, "the body ended too early") from None
    if max(length or 0, len(body)) > limit:
        raise RequestError(413, f"the body is larger than {limit} bytes", _HOW_TO_RAISE)
    if length is not None and len(body) < length:
        raise RequestError(400, "the body ended too early")
    return body
