"""From a webhook that is trusted to what is recorded of it: the one path of what is received, ingested or replayed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from secrets import token_hex
from urllib.parse import quote

from gateway import payload, verify
from gateway.errors import TranslationError, printable
from gateway.event import Event, Webhook
from gateway.mapping.model import MappingFile
from gateway.mapping.translate import PlannedCall, Translation, event_key, translate
from gateway.store import NewDelivery, NewEvent

MAX_EVENT_TYPE = 200
REDACTED = "[redacted]"


def take(mapping: MappingFile, webhook: Webhook, now: float, *, key: str | None = None, proof: str = "") -> NewEvent:
    """Translate a webhook and make what is to be recorded of it.

    A mapping that fails on it gives an event that is kept as failed, with the problem.

    Args:
        webhook: Verified, its body unpacked.
        now: When it was received, in unix seconds.
        key: What makes a repeat of it the same where the mapping says that nothing does (`event_key: none`).
        proof: The secret that proved it.

    Raises:
        RequestError: The body cannot be decoded.
    """
    scheme = mapping.verify.scheme
    if scheme.content_type is not None:
        # The header is not signed. It is recorded as it is read, so that a replay reads the same.
        headers = {**webhook.headers, "content-type": scheme.content_type}
        webhook = replace(webhook, headers=headers)
    event = Event(
        source=mapping.source,
        key="",
        payload=payload.decode(webhook.body, webhook.headers.get("content-type", "")),
        headers=webhook.headers,
        query=webhook.query,
        received_at=int(now),
    )
    key, problem = _key(mapping, webhook, event, key)
    event = replace(event, key=hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest())
    if problem is None:
        translation = translate(mapping, event)
    else:
        translation = Translation(status="failed", event_type=None, problem=problem)
    # A secret that is sent along may stand elsewhere too: proxies write the address into headers of their own.
    sent = proof if scheme.kind in verify.SENT_SECRETS else ""
    headers = _redacted(webhook.headers, verify.secret_headers(scheme), sent)
    query = _redacted(webhook.query, verify.secret_parameters(scheme), sent)
    return NewEvent(
        source=event.source,
        key=bytes.fromhex(event.key),
        received_at=now,
        headers=json.dumps(headers).encode(),
        query=json.dumps(query).encode() if query else b"{}",
        body=webhook.body,
        event_type=shown_type(translation),
        status=translation.status,
        problem=said(translation),
        deliveries=tuple(map(delivery_of, translation.planned)),
    )


def _redacted(values: Mapping[str, str], secret: frozenset[str], sent: str) -> dict[str, str]:
    shown = {sent, quote(sent, safe="")} - {""}
    return {
        name: REDACTED if name in secret or any(each in value for each in shown) else value
        for name, value in values.items()
    }


def event_of(source: str, key: bytes, headers: bytes, query: bytes, body: bytes, received_at: float) -> Event:
    """Make a recorded event what it was when it was received, to be translated again.

    Raises:
        RequestError: The body cannot be decoded.
    """
    sent: Mapping[str, str] = json.loads(headers)
    return Event(
        source=source,
        key=key.hex(),
        payload=payload.decode(body, sent.get("content-type", "")),
        headers=sent,
        query=json.loads(query),
        received_at=int(received_at),
    )


def delivery_of(planned: PlannedCall) -> NewDelivery:
    """Make what is recorded of a call."""
    return NewDelivery(
        identity=planned.identity,
        connection=planned.connection,
        region=planned.region,
        lanes=planned.lanes,
        call=planned.text,
    )


def said(translation: Translation) -> str | None:
    """Give the problem or the reason of a translation that came to nothing."""
    return str(translation.problem) if translation.problem else translation.reason


def shown_type(translation: Translation) -> str | None:
    """Give the event type of a translation as it is shown to people."""
    return None if translation.event_type is None else printable(translation.event_type, MAX_EVENT_TYPE)


def _key(
    mapping: MappingFile, webhook: Webhook, event: Event, given: str | None
) -> tuple[str, TranslationError | None]:
    """Find what makes a repeat of this webhook the same; a mapping that fails to say it fails the event."""
    if not mapping.deduplicate:
        return given or token_hex(16), None
    own, problem = None, None
    try:
        own = event_key(mapping, event)
    except TranslationError as error:
        problem = error
    default = verify.delivery_id(mapping.verify.scheme, webhook)
    return own or default or verify.fingerprint(mapping.verify.scheme, webhook), problem
