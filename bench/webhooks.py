"""The webhooks that the benchmarks send: signed invoices, over connections that are kept open."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

SECRET = "bench-secret"

_HEAD = """\
version: 1
source: bench
verify: {scheme: github, secret_env: BENCH_SECRET}
event_type: =type
event_key: =id
defaults:
  id: =data.object.customer
  timestamp: =created
events:
  invoice.paid:
    - call: track
      name: Invoice Paid
      event_id: =id
      attributes:
        key: =id
        total: =divide(data.object.total, `100`)
        currency: =upper(data.object.currency)
        number: =data.object.number
        lines: =length(data.object.lines)
"""
ONE_CALL = _HEAD
TWO_CALLS = (
    _HEAD
    + """\
    - call: identify
      email: =data.object.customer_email
      attributes:
        plan: =data.object.lines[0].plan
        last_paid_at: =created
"""
)

_LINES = [{"id": f"il_{n}", "plan": "pro", "amount": 4900, "description": "Pro plan, monthly " * 3} for n in range(8)]


def environment(directory: Path, mapping: str, database_url: str, **more: str) -> Mapping[str, str]:
    """Write the mapping into *directory*, and give the environment of a gateway that takes these webhooks."""
    (directory / "bench.yaml").write_text(mapping)
    own = {"DATABASE_URL": database_url, "GATEWAY_MAPPINGS": str(directory), "BENCH_SECRET": SECRET}
    return {**os.environ, **own, **more}


def connect(port: int) -> socket.socket:
    """Open a connection to a web."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(connection: socket.socket, webhook: bytes) -> int:
    """Send a webhook, and give the status of its answer."""
    connection.sendall(webhook)
    answer = b""
    while not _is_whole(answer):
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("the web closed the connection before its answer was whole")
        answer += more
    return int(answer[9:12])


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def written(key: str, *, customer: str) -> bytes:
    """Write a webhook out as HTTP."""
    body = json.dumps(
        {
            "id": key,
            "type": "invoice.paid",
            "created": 1767225600,
            "data": {"object": _invoice(key, customer)},
        }
    ).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        "POST /hooks/bench HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _invoice(key: str, customer: str) -> dict[str, object]:
    return {
        "id": f"in_{key}",
        "customer": customer,
        "customer_email": "ann@example.com",
        "total": 4900,
        "currency": "eur",
        "number": "A-1",
        "lines": _LINES,
    }
