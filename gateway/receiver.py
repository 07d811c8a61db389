"""POST /hooks/<source>: receive, verify, translate, record, and only then answer 2xx."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from werkzeug.exceptions import ClientDisconnected
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_content_length, get_input_stream

from gateway import payloads, signatures
from gateway.config import Config, Source
from gateway.errors import RequestError, StoreError, VerificationError
from gateway.events import Webhook
from gateway.intake import take
from gateway.mapping import Mapping
from gateway.signatures import Scheme
from gateway.sources import Sources
from gateway.store import NewEvent, Recorded
from gateway.writer import Writer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

#: What to say, the HTTP status, and further headers.
Answer: TypeAlias = tuple[dict[str, Any], int, dict[str, str]]

#: Seconds after which a sender may try again what we could not take.
RETRY_AFTER_DATABASE = "5"
RETRY_AFTER_CLOSED = "60"
WRONG_METHOD = "this address does not take that method; webhooks are sent with POST"


@dataclass(kw_only=True, slots=True)
class Arrived:
    """A webhook that is trusted, and when it came, in unix seconds."""

    mapping: Mapping
    webhook: Webhook
    at: float


@dataclass(kw_only=True, slots=True)
class Taken:
    """What was made of a webhook, and what it was recorded as."""

    new: NewEvent
    recorded: Recorded


def translate_and_record(
    record: Callable[[Sequence[NewEvent]], Sequence[Recorded]], group: Sequence[Arrived]
) -> list[Taken | Exception]:
    """Translate webhooks and record them together; one that cannot be taken leaves its error in its place.

    Translating is done here, in one go, and not as each webhook comes: taking turns with the web server's own
    work it takes twice as long, as the processor finds nothing of either in its caches.
    """
    made = [_new(arrived) for arrived in group]
    news = [each for each in made if isinstance(each, NewEvent)]
    try:
        recorded = iter(record(news) if news else ())
    except StoreError as error:
        return [error if isinstance(each, NewEvent) else each for each in made]
    return [Taken(new=each, recorded=next(recorded)) if isinstance(each, NewEvent) else each for each in made]


def _new(arrived: Arrived) -> NewEvent | Exception:
    try:
        return take(arrived.mapping, arrived.webhook, arrived.at)
    except Exception as error:  # noqa: BLE001  # raised again where its webhook is answered
        return error


class Receiver:
    """The WSGI application below /hooks.

    It stands beside Flask's views and not among them: the way to a view and back costs more than a webhook's
    verification and translation together.

    Args:
        unexpected: Tells the log of a defect of ours, and gives what its sender is answered.
    """

    def __init__(
        self,
        config: Config,
        sources: Sources,
        writer: Writer[Arrived, Taken],
        *,
        unexpected: Callable[[Exception], Answer],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._sources = sources
        self._writer = writer
        self._unexpected = unexpected
        self._clock = clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Take one request."""
        try:
            said, status, headers = self._answer(environ)
        except Exception as error:  # noqa: BLE001  # the last resort, as Flask has one for its views
            said, status, headers = self._unexpected(error)
        body = (_COMPACT.encode(said) + "\n").encode()
        described = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(_STATUS_LINES[status], [*described, *headers.items()])
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        name = environ["PATH_INFO"][1:]
        # A name that is not one of ours is a stranger's text, and has no place in the log.
        source = self._sources.get(name)
        if source is None:
            log.info("a webhook came for a source that is not known")
            return {"error": "there is no such source; its name is the last part of the address"}, 404, {}
        if environ["REQUEST_METHOD"] != "POST":
            return {"error": WRONG_METHOD}, 405, {"Allow": "POST"}
        try:
            return self._receive(source, environ)
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

    def _receive(self, source: Source, environ: WSGIEnvironment) -> Answer:
        mapping = source.mapping
        if mapping is None or source.closed is not None:
            log.error("source %s is closed: %s", source.name, source.closed)
            answer = {"error": "this source is closed for now: its operator finds the reason in the log"}
            return answer, 503, {"Retry-After": RETRY_AFTER_CLOSED}
        now = self._clock()
        webhook = _webhook(environ, self._config)
        verified = _verified(mapping.verify.scheme, source.secrets, webhook, self._config.max_body, now)
        return _told(self._writer.write(Arrived(mapping=mapping, webhook=verified, at=now)))


_COMPACT = json.JSONEncoder(separators=(",", ":"))
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def _told(taken: Taken) -> Answer:
    recorded, new = taken.recorded, taken.new
    if recorded.duplicate:
        return {"event": recorded.id, "duplicate": True}, 200, {}
    answer: dict[str, Any] = {"event": recorded.id, "calls": len(new.deliveries)}
    if new.status == "failed":
        answer["error"] = new.problem
        log.error("event %d: failed: %s", recorded.id, new.problem)
    return answer, 202, {}


# Receive


def _webhook(environ: WSGIEnvironment, config: Config) -> Webhook:
    return Webhook(
        method=environ["REQUEST_METHOD"],
        url=(config.public_url or "") + environ["RAW_URI"],
        headers=_headers(environ),
        query=dict(Request(environ).args.items()) if environ.get("QUERY_STRING") else {},
        body=_body(environ, config.max_body),
    )


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
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
    except (ClientDisconnected, OSError):
        raise RequestError(400, "the body ended too early") from None
    if max(length or 0, len(body)) > limit:
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
