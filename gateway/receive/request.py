"""A request as the web server hands it over, read as a webhook that is not trusted yet."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_content_length, get_input_stream

from gateway.errors import RequestError
from gateway.event import Webhook

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Characters of all headers: they are recorded with a webhook, and are not all signed.
MAX_HEADERS = 65_536

Address: TypeAlias = IPv4Address | IPv6Address


def webhook_of(environ: WSGIEnvironment, *, public_url: str | None, limit: int, rest: str = "") -> Webhook:
    """Read a request.

    Args:
        public_url: What goes before the path in the address that the sender knows.
        limit: Bytes of a body.
        rest: What follows the source's name in the path.

    Raises:
        RequestError: The body is too large, or ends too early; the headers are too long.
    """
    return Webhook(
        method=environ["REQUEST_METHOD"],
        url=(public_url or "") + environ["RAW_URI"],
        headers=_headers(environ),
        query=dict(Request(environ).args.items()) if environ.get("QUERY_STRING") else {},
        body=_body(environ, limit) if environ["REQUEST_METHOD"] == "POST" else b"",
        rest=rest,
    )


def address_of(environ: WSGIEnvironment, proxies: int) -> Address | None:
    """Give the address that a request comes from; None: nobody can tell.

    Args:
        proxies: How many there are before us that can be trusted. Each of them adds to X-Forwarded-For whom it
            was called by, so that only its last entries are not the sender's own words.
    """
    if not proxies:
        return _address(environ.get("REMOTE_ADDR", ""))
    hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
    return _address(hops[-proxies].strip()) if len(hops) >= proxies else None


_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+")


def _address(text: str) -> Address | None:
    found = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address(((found[1] or found[2]) if found else text).partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    """Read the headers where WSGI puts them: one that was sent twice has its values joined there already."""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH")):
        if value := environ.get(key):
            headers[name] = value
    if sum(map(len, headers.values())) > MAX_HEADERS:
        raise RequestError(431, f"the headers are longer than {MAX_HEADERS:,} characters together")
    return headers


def _body(environ: WSGIEnvironment, limit: int) -> bytes:
    """Read the body and no more than the limit of it, whether its length was announced or not."""
    length = get_content_length(environ)
    try:
        if length is None:
            # Werkzeug reads as much as its maximum and says nothing of the rest: one byte more than we take
            # tells the two apart.
            body = get_input_stream(environ, max_content_length=limit + 1).read()
        else:
            body = environ["wsgi.input"].read(length) if length <= limit else b""
    except (ClientDisconnected, OSError, ParseException):
        raise RequestError(400, "the body ended too early") from None
    if max(length or 0, len(body)) > limit:
        raise RequestError(413, f"the body is larger than {limit} bytes (GATEWAY_MAX_BODY)")
    if length is not None and len(body) < length:
        raise RequestError(400, "the body ended too early")
    return body
