"""POST /hooks/<source>: receive, verify, translate, record, and only then answer 2xx."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Map
from dataclasses import replace
from secrets import token_hex
from typing import Any, TypeAlias

from flask import Blueprint, Request, request
from werkzeug.exceptions import ClientDisconnected

from gateway import calls, payloads, signatures
from gateway.config import Config, Source
from gateway.errors import RequestError, StoreError, TranslationError, VerificationError
from gateway.events import JSON, Event, Webhook
from gateway.mapping import Mapping
from gateway.signatures import Scheme
from gateway.store import NewDelivery, NewEvent, Recorded
from gateway.translate import Planned, Translation, event_key, translate
from gateway.writer import Writer

log = logging.getLogger(__name__)

Answer: TypeAlias = tuple[dict[str, Any], int, dict[str, str]]

#: Seconds after which a sender may try again what we could not take.
RETRY_AFTER_DATABASE = "5"
RETRY_AFTER_CLOSED = "60"
MAX_EVENT_TYPE = 200
REDACTED = "[redacted]"


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
        new, translation = _translated(mapping, verified, now)
        return _answer(writer.write(new), translation)

    return blueprint


def _answer(recorded: Recorded, translation: Translation) -> Answer:
    if recorded.duplicate:
        return {"event": recorded.id, "duplicate": True}, 200, {}
    answer: dict[str, Any] = {"event": recorded.id, "calls": len(translation.planned)}
    if translation.problem is not None:
        answer["error"] = str(translation.problem)
        log.error("event %d: failed: %s", recorded.id, translation.problem)
    return answer, 202, {}


# Receive


def _webhook(received: Request, config: Config) -> Webhook:
    headers: dict[str, str] = {}
    for name, value in received.headers.items():
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return Webhook(
        method=received.method,
        url=(config.public_url or "") + received.environ.get("RAW_URI", received.full_path.rstrip("?")),
        headers=headers,
        query=dict(received.args.items()),
        body=_body(received, config.max_body),
    )


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


# Translate


def _translated(mapping: Mapping, webhook: Webhook, now: float) -> tuple[NewEvent, Translation]:
    payload = payloads.decode(webhook.body, webhook.headers.get("content-type", ""))
    key, problem = _key(mapping, webhook, payload, now)
    event = Event(
        source=mapping.source,
        key=hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest(),
        payload=payload,
        headers=webhook.headers,
        query=webhook.query,
        received_at=int(now),
    )
    if problem is None:
        translation = translate(mapping, event)
    else:
        translation = Translation(status="failed", event_type=None, problem=problem)
    secret = signatures.secret_headers(mapping.verify.scheme)
    return _new_event(event, webhook, translation, secret, now), translation


def _key(
    mapping: Mapping, webhook: Webhook, payload: JSON, now: float
) -> tuple[str, TranslationError | None]:
    """Find what makes a repeat of this webhook the same; a mapping that fails to say it fails the event."""
    if not mapping.deduplicate:
        return token_hex(16), None
    own, problem = None, None
    try:
        own = event_key(mapping, payload, webhook.headers, webhook.query, int(now))
    except TranslationError as error:
        problem = error
    default = signatures.delivery_id(mapping.verify.scheme, webhook)
    return own or default or hashlib.sha256(webhook.body).hexdigest(), problem


def _new_event(
    event: Event, webhook: Webhook, translation: Translation, secret: frozenset[str], now: float
) -> NewEvent:
    headers = {name: REDACTED if name in secret else value for name, value in webhook.headers.items()}
    return NewEvent(
        source=event.source,
        key=bytes.fromhex(event.key),
        received_at=now,
        headers=json.dumps(headers).encode(),
        query=json.dumps(dict(webhook.query)).encode(),
        body=webhook.body,
        event_type=_printable(translation.event_type),
        status=translation.status,
        problem=str(translation.problem) if translation.problem else translation.reason,
        deliveries=tuple(_new_delivery(planned) for planned in translation.planned),
    )


def _new_delivery(planned: Planned) -> NewDelivery:
    whom = calls.address(planned.sealed)
    return NewDelivery(
        identity=planned.identity,
        connection=planned.connection,
        region=planned.region,
        lanes=(calls.lane(planned.connection, whom),) if whom is not None else (),
        call=json.dumps(calls.as_json(planned.sealed), separators=(",", ":")),
    )


def _printable(event_type: str | None) -> str | None:
    if event_type is None:
        return None
    return "".join(each if each.isprintable() else "\ufffd" for each in event_type[:MAX_EVENT_TYPE])
