"""HTTP requests as Customer.io's Track API takes them, and what all calls use to build theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from gateway.event import JSON
from gateway.text import number_text

REGION_PATH = "/api/v1/accounts/region"
ENTITY_PATH = "/api/v2/entity"
BATCH_PATH = "/api/v2/batch"

# Customer.io says "smaller than" 500 kb and 32 kb, and not whether its kb has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 499_999
MAX_ITEM_BYTES = 31_999


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request below a region's host, without credentials.

    Attributes:
        path: With the query, as it stands in the request line.
        headers: Those that describe the body, and those of a raw request.
        response_type: What the answer has to be: ``json``, ``text`` or ``binary``.
        timeout: Seconds that the attempt may take; None leaves it to the client.
        debug: Keep request and answer, without credentials, on the attempt.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    response_type: str = "json"
    timeout: float | None = None
    debug: bool = False


def json_request(method: str, path: str, body: JSON) -> HttpRequest:
    """Return a request with a JSON body."""
    return HttpRequest(method=method, path=path, body=dump(body), headers={"Content-Type": "application/json"})


def batch(items: Iterable[bytes]) -> HttpRequest:
    """Return one request for several items. The caller keeps `batch_size` within MAX_BATCH_BYTES."""
    body = b'{"batch":[' + b",".join(items) + b"]}"
    return HttpRequest(method="POST", path=BATCH_PATH, body=body, headers={"Content-Type": "application/json"})


def batch_size(sizes: Sequence[int]) -> int:
    """Return how many bytes the body of a batch has whose items have these sizes."""
    return len('{"batch":[]}') + sum(sizes) + max(len(sizes) - 1, 0)


def dump(body: JSON) -> bytes:
    """Encode JSON as it is sent."""
    return _encode(body).encode()


# Made once: json.dumps makes a new encoder for each text.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def path_segment(text: str) -> str:
    """Encode a text as one segment of a path."""
    return quote(text, safe="")


def plain_text(value: JSON) -> str:
    """Write a text, number, boolean or null for a query or a form."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if value is None or isinstance(value, bool) else number_text(value)  # type: ignore[arg-type]  # the limits refuse lists and objects
