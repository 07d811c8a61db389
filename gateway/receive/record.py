"""From a verified webhook to its event and deliveries: one path for what is received, ingested and replayed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex
from urllib.parse import unquote, unquote_plus

from gateway import payload, verify
from gateway.errors import RequestError, StoreError, TranslationError, printable
from gateway.event import Event, Webhook
from gateway.mapping.functions import Budget
from gateway.mapping.model import MappingFile
from gateway.mapping.translate import Translation, event_key, translate
from gateway.store import NewEvent, Recorded, Store
from gateway.store.group_commit import PATIENCE, GroupCommit

MAX_EVENT_TYPE = 200
#: Seconds of translation after which a group is committed, and other requests get a turn; the seconds of that. Under
#: gevent a pause of 0 seconds would let only those run who need no input.
LONGEST_TURN, PAUSE = 0.02, 0.0005
REDACTED = "[redacted]"
#: Seconds for which a write that failed counts, unless one succeeds. Without an end, a process to which nothing is sent
#: because it is not ready would never be ready again.
FAILING_FOR = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedWebhook:
    """A webhook that proved to come from its sender.

    Attributes:
        webhook: Its body is unpacked, unless it cannot be.
        proof: The secret that proved it; "" where its scheme needs none.
        received_at: Unix seconds.
    """

    mapping: MappingFile
    webhook: Webhook
    proof: str = field(repr=False)
    received_at: float


class Recorder:
    """Records verified webhooks; those that arrive at the same time share one transaction.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._writing_since: float | None = None  # None: nothing is being written
        self._failed_at: float | None = None  # None: the last write has succeeded
        # Translation runs in the group's thread, not in the request: interleaved with the work of the web server it
        # takes twice as long, because each evicts the other's data from the processor's caches.
        self._group: GroupCommit[VerifiedWebhook, tuple[NewEvent, Recorded]] = GroupCommit(
            self._record_group, then=store.wake
        )

    def translate_and_record(self, webhook: VerifiedWebhook) -> tuple[NewEvent, Recorded]:
        """Translate a webhook, and return after its event and deliveries are committed.

        Raises:
            StoreError: The commit failed or took too long. It may still succeed later.
        """
        return self._group.write(webhook)

    def is_failing(self) -> bool:
        """Return whether the last write failed just now, or one is under way for longer than senders wait."""
        now, since, failed_at = self._clock(), self._writing_since, self._failed_at
        is_stuck = since is not None and now - since > PATIENCE
        return is_stuck or (failed_at is not None and now - failed_at < FAILING_FOR)

    def close(self) -> None:
        """Commit what waits; nothing can be recorded afterwards."""
        self._group.close()

    def _record_group(self, group: Sequence[VerifiedWebhook]) -> list[tuple[NewEvent, Recorded] | Exception]:
        """Return a result for each webhook, or for the first of them. An error takes the place of a result.

        So the others succeed; and a webhook that is slow to translate holds up few others.
        """
        results: list[NewEvent | Exception] = []
        began = self._clock()
        for verified in group:
            if results and self._clock() - began > LONGEST_TURN:
                time.sleep(PAUSE)
                break
            try:
                results.append(_event_of(verified))
            except Exception as error:  # noqa: BLE001  # raised again in the request of its webhook
                results.append(error)
        events = [result for result in results if isinstance(result, NewEvent)]
        try:
            recorded = iter(self._record(events) if events else ())
        except StoreError as error:
            return [error if isinstance(result, NewEvent) else result for result in results]
        return [_as_recorded(result, next(recorded)) if isinstance(result, NewEvent) else result for result in results]

    def _record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        self._writing_since = self._clock()
        try:
            recorded = self._store.record(events)
        except StoreError:
            self._failed_at = self._clock()
            raise
        finally:
            self._writing_since = None
        self._failed_at = None
        return recorded


def _as_recorded(event: NewEvent, recorded: Recorded) -> tuple[NewEvent, Recorded]:
    """Return an event as it was recorded: the store may have refused its calls."""
    if recorded.problem is not None:
        event = replace(event, status="failed", problem=recorded.problem, deliveries=())
    return event, recorded


def _event_of(verified: VerifiedWebhook) -> NewEvent:
    """Return the event of a webhook. It is kept whether its body can be read or not: its sender has proven itself."""
    mapping, webhook, now, proof = verified.mapping, verified.webhook, verified.received_at, verified.proof
    try:
        return build_event(mapping, webhook, now, proof=proof)
    except RequestError as problem:
        key = _default_key(mapping, webhook) if mapping.deduplicate else token_hex(16)
        unread = Translation(status="failed", event_type=None, reason=str(problem))
        return _new_event(mapping, _as_received(mapping, webhook), now, proof, _hash(key), unread)


def build_event(
    mapping: MappingFile, webhook: Webhook, now: float, *, key: str | None = None, proof: str = ""
) -> NewEvent:
    """Decode and translate a webhook, and return the event and deliveries to record.

    Where the mapping fails on the webhook, the event has the status failed and holds the problem.

    Args:
        webhook: Verified, its body unpacked.
        now: When it was received, in unix seconds.
        key: The event key for a mapping without one (`event_key: none`).
        proof: The secret that proved the webhook.

    Raises:
        RequestError: The body cannot be decoded.
    """
    webhook = _as_received(mapping, webhook)
    event = Event(
        source=mapping.source,
        key="",
        payload=payload.decode_sent(webhook.body, webhook.headers, mapping.verify.scheme.json_field),
        headers=webhook.headers,
        query=webhook.query,
        received_at=int(now),
    )
    budget = Budget(time.thread_time)
    key, problem = _event_key(mapping, webhook, event, key, budget)
    event = replace(event, key=_hash(key))
    if problem is None:
        translation = translate(mapping, event, budget=budget)
    else:
        translation = Translation(status="failed", event_type=None, problem=problem)
    return _new_event(mapping, webhook, now, proof, event.key, translation)


def _as_received(mapping: MappingFile, webhook: Webhook) -> Webhook:
    """Return a webhook with the headers to record, so that a replay decodes it in the same way."""
    headers = mapping.verify.scheme.as_received(webhook.headers)
    return webhook if headers is webhook.headers else replace(webhook, headers=headers)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def _new_event(
    mapping: MappingFile, webhook: Webhook, now: float, proof: str, key: str, translation: Translation
) -> NewEvent:
    """Return the event to record, without the secrets of its webhook."""
    scheme = mapping.verify.scheme
    # A secret that is sent along may be elsewhere too: proxies copy the address into headers of their own.
    sent_secret = proof if scheme.kind in verify.SENT_SECRETS else ""
    headers = _redact(webhook.headers, verify.secret_headers(scheme), sent_secret)
    query = _redact(webhook.query, verify.secret_parameters(scheme), sent_secret)
    return NewEvent(
        source=mapping.source,
        key=bytes.fromhex(key),
        received_at=now,
        headers=json.dumps(headers).encode(),
        query=json.dumps(query).encode() if query else b"{}",
        body=webhook.body,
        event_type=printable_type(translation),
        status=translation.status,
        problem=problem_of(translation),
        deliveries=translation.planned,
        content=hashlib.sha256(webhook.body).digest() if mapping.type_may_be_unsigned else None,
        erases=any(planned.call.erases for planned in translation.planned),
    )


def restore_event(
    mapping: MappingFile, key: bytes, headers: bytes, query: bytes, body: bytes, received_at: float
) -> Event:
    """Return a recorded event as it was when it was received, to translate it again.

    Raises:
        RequestError: The body cannot be decoded.
    """
    sent: Mapping[str, str] = json.loads(headers)
    return Event(
        source=mapping.source,
        key=key.hex(),
        payload=payload.decode_sent(body, sent, mapping.verify.scheme.json_field),
        headers=sent,
        query=json.loads(query),
        received_at=int(received_at),
    )


def problem_of(translation: Translation) -> str | None:
    """Return why a translation has no calls: its problem, or the reason why the event is ignored or cannot be read."""
    return str(translation.problem) if translation.problem else translation.reason


def printable_type(translation: Translation) -> str | None:
    """Return the event type, cut and without control characters, as it is stored and shown."""
    return None if translation.event_type is None else printable(translation.event_type, MAX_EVENT_TYPE)


def _event_key(
    mapping: MappingFile, webhook: Webhook, event: Event, key: str | None, budget: Budget
) -> tuple[str, TranslationError | None]:
    """Return what makes a repeat of this webhook the same, and the error of a mapping that fails to evaluate it.

    Even then the event needs a key, so that a repeat of the failed webhook is recognized.
    """
    if not mapping.deduplicate:
        return key or token_hex(16), None
    evaluated, problem = None, None
    try:
        evaluated = event_key(mapping, event, budget=budget)
    except TranslationError as error:
        problem = error
    return evaluated or _default_key(mapping, webhook), problem


def _default_key(mapping: MappingFile, webhook: Webhook) -> str:
    scheme = mapping.verify.scheme
    return verify.delivery_id(scheme, webhook) or verify.fingerprint(scheme, webhook)


def _redact(values: Mapping[str, str], names: frozenset[str], sent_secret: str) -> dict[str, str]:
    """Replace the values that are under one of these names, or that contain the secret."""
    return {
        name: REDACTED if name in names or (sent_secret and _contains(value, sent_secret)) else value
        for name, value in values.items()
    }


def _contains(value: str, secret: str) -> bool:
    """Return whether a text contains a secret, as it is or in any spelling of an address, or of one inside another."""
    once, as_form = unquote(value), unquote_plus(value)
    return any(secret in text for text in (value, once, as_form, unquote(once), unquote_plus(as_form)))
