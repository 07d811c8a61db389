"""Known answers of real senders (signature_vectors.json), and webhooks signed here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from gateway.event import JSON, Webhook

_FILE = Path(__file__).parents[1] / "verify" / "signature_vectors.json"
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))

NOW = 1_700_000_000
SECRET = "s3cr3t-of-the-sender"
BODY = b'{"type": "user.created", "name": "Z\xc3\xb6e"}'
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
HMAC: dict[str, JSON] = {"kind": "hmac", "header": "X-Signature"}


def vector_called(name: str) -> dict[str, Any]:
    return next(vector for vector in VECTORS if vector["id"] == name)


def secrets_of(vector: dict[str, Any]) -> list[str]:
    secret: str | list[str] = vector["secret"]
    return secret if isinstance(secret, list) else [secret]


def webhook(
    headers: Mapping[str, str],
    body: bytes = BODY,
    *,
    method: str = "POST",
    url: str = "https://example.com/h",
    rest: str = "",
) -> Webhook:
    lowered = {name.lower(): value for name, value in headers.items()}
    query = dict(reversed(parse_qsl(url.partition("?")[2], keep_blank_values=True)))
    return Webhook(method=method, url=url, headers=lowered, query=query, body=body, rest=rest)


def mac(signed: bytes, key: bytes = SECRET.encode(), algorithm: str = "sha256") -> bytes:
    return hmac.new(key, signed, getattr(hashlib, algorithm)).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stripe_header(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    return f"t={at},v1={mac(f'{at}.'.encode() + body, secret.encode()).hex()}"
