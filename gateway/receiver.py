"""POST /hooks/<source>: receive, verify, translate, record, and only then answer 2xx."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import replace
from typing import Any, TypeAlias

from flask import Blueprint, Request, request
from werkzeug.exceptions import ClientDisconnected

from gateway import payloads, signatures
from gateway.config import Config, Source
from gateway.errors import RequestError, StoreError, VerificationError
from gateway.events import Webhook
from gateway.intake import take
from gateway.signatures import Scheme
from gateway.store import NewEvent, Recorded
from gateway.writer import Writer

log = logging.getLogger(__name__)

Answer: TypeAlias = tuple[dict[str, Any], int, dict[str, str]]

#: Seconds after which a sender may try again what we could not take.
RETRY_AFTER_DATABASE = "5"
RETRY_AFTER_CLOSED = "60"


def receiver(
    config: Config,
    sources: Map[str, Source],
    writer: Writer[NewEvent, Recorded],
    *,
    clock: Callable[[], float] = time.time,
) -> Blueprint:
    """Make the blueprint that receives webhooks."""
    blueprint = Blueprint("receiver", __name__)

    @blueprint.post("/hooks/<name>")
    def receive(name: str) -> Answer:
        # A name that is not one of ours is a stranger's text, and has no place in the log.
        source = sources.get(name)
        if source is None:
            log.info("a webhook came for a source that is not known")
            return {"error": "there is no such source; its name is the last part of the address"}, 404, {}
        try:
            return _receive(source)
        except VerificationError as error:
            log.warning("source %s: a webhook was refused: %s", name, error)
            return {"error": str(error)}, error.status, {}
        except RequestError as error:
            log.info("source %s: HTTP %d: %s", name, error.status, error)
            return {"error": str(error)}, error.status, {}
        except StoreError as error:
            log.error("source %s: a webhook could not be recorded: %s", name, error)
            answer = {"error": "the webhook could not be recorded; send it again later"}
            return answer, 503, {"Retry-After": RETRY_AFTER_DATABASE}

    def _receive(source: Source) -> Answer:
        mapping = source.mapping
        if mapping is None or source.closed is not None:
            log.error("source %s is closed: %s", source.name, source.closed)
            answer = {"error": "this source is closed for now: its operator finds the reason in the log"}
            return answer, 503, {"Retry-After": RETRY_AFTER_CLOSED}
        now = clock()
        webhook = _webhook(request, config)
        verified = _verified(mapping.verify.scheme, source.secrets, webhook, config.max_body, now)
        new = take(mapping, verified, now)
        return _answer(writer.write(new), new)

    return blueprint


def _answer(recorded: Recorded, new: NewEvent) -> Answer:
    if recorded.duplicate:
        return {"event": recorded.id, "duplicate": True}, 200, {}
    answer: dict[str, Any] = {"event": recorded.id, "calls": len(new.deliveries)}
    if new.status == "failed":
        answer["error"] = new.problem
        log.error("event %d: failed: %s", recorded.id, new.problem)
    return answer, 202, {}


# Receive


def _webhook(received: Request, config: Config) -> Webhook:
    environ = received.environ
    return Webhook(
        method=received.method,
        url=(config.public_url or "") + (environ.get("RAW_URI") or received.full_path.rstrip("?")),
        headers=_headers(environ),
        query=dict(received.args.items()) if environ.get("QUERY_STRING") else {},
        body=_body(received, config.max_body),
    )


def _headers(environ: Map[str, Any]) -> dict[str, str]:
    """Read the headers where WSGI puts them: one that was sent twice has its values joined there already."""
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name, key in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH")):
        if value := environ.get(key):
            headers[name] = value
    return headers


def _body(received: Request, limit: int) -> bytes:
    """Read the body and no more than the limit of it, whether its length was announced or not."""
    length = received.content_length
    # Of a body without a length werkzeug reads as much as its maximum and says nothing of the rest: one byte
    # more than we take tells the two apart.
    received.max_content_length = limit + 1
    try:
        body = received.get_data(cache=False) if length is None or length <= limit else None
    except (ClientDisconnected, OSError):
        raise RequestError(400, "the body ended too early") from None
    if body is None or len(body) > limit:
        raise RequestError(413, f"the body is larger than {limit} bytes (GATEWAY_MAX_BODY)")
    if length is not None and len(body) < length:
        raise RequestError(400, "the body ended too early")
    return body


# Verify


def _verified(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, limit: int, now: float) -> Webhook:
    """Check the signature and unpack the body.

    Some senders sign the bytes on the wire and some the bytes before packing; each is proof of the secret.
    """
    unpacked = _unpacked(webhook, limit)
    try:
        signatures.verify(scheme, secrets, unpacked, now)
    except VerificationError:
        if unpacked is webhook:
            raise
        signatures.verify(scheme, secrets, webhook, now)
    return unpacked


def _unpacked(webhook: Webhook, limit: int) -> Webhook:
    encoding = webhook.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return webhook
    if encoding not in ("gzip", "x-gzip"):
        raise RequestError(415, "the body's Content-Encoding is not known here; send it plain or as gzip")
    return replace(webhook, body=payloads.inflate(webhook.body, limit))
