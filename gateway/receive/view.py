"""POST /hooks/<source>: receive, verify, translate, record, and only then answer 2xx."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway import payload, verify
from gateway.config import Config, Source
from gateway.errors import RequestError, StoreError, VerificationError, printable
from gateway.event import Webhook
from gateway.logs import LogThrottle
from gateway.mapping.model import MappingFile
from gateway.receive.record import take
from gateway.receive.refusals import Refusals
from gateway.receive.request import address_of, webhook_of
from gateway.receive.sources import Sources
from gateway.store import NewEvent, Recorded
from gateway.store.group_commit import GroupCommit
from gateway.verify import Handshake, Scheme

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger(__name__)

#: What is answered: the text, or what to say as JSON; the HTTP status; and further headers.
Response: TypeAlias = tuple[dict[str, Any] | str, int, dict[str, str]]

#: Seconds after which a sender may try again what we could not take.
RETRY_AFTER_DATABASE = "5"
RETRY_AFTER_CLOSED = "60"
#: Bytes of a body from which on one is verified at a time, and how often all others get their turn after each:
#: it takes milliseconds in which nothing else is done under gevent, and whoever has no secret can ask for it.
LARGE_BODY = 65_536
TURNS = 4
#: Characters of what a sender says to the operator.
MAX_TOLD = 200
WRONG_METHOD = "this address does not take that method; webhooks are sent with POST"
#: All that a sender is told of a webhook that was refused: the operator is told why.
REFUSED = "this webhook is not proven to come from the sender of this source"
UNKNOWN = {"error": "there is no such source; its name is the last part of the address"}


@dataclass(kw_only=True, slots=True)
class Arrived:
    """A webhook that is trusted, for the secret that proved it, and when it came, in unix seconds."""

    mapping: MappingFile
    webhook: Webhook
    proof: str = field(repr=False)
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
        return take(arrived.mapping, arrived.webhook, arrived.at, proof=arrived.proof)
    except Exception as error:  # noqa: BLE001  # raised again where its webhook is answered
        return error


class Receiver:
    """The WSGI application below /hooks.

    It stands beside Flask's views and not among them: the way to a view and back costs more than a webhook's
    verification and translation together.

    Args:
        refusals: Tells the operator what was refused.
        unexpected: Tells the log of a defect of ours, and gives what its sender is answered.
    """

    def __init__(
        self,
        config: Config,
        sources: Sources,
        writer: GroupCommit[Arrived, Taken],
        refusals: Refusals,
        *,
        unexpected: Callable[[Exception], Response],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._sources = sources
        self._writer = writer
        self._refusals = refusals
        self._unexpected = unexpected
        self._clock = clock
        self._large = threading.Lock()
        self._few = LogThrottle()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Take one request."""
        try:
            said, status, headers = self._answer(environ)
        except Exception as error:  # noqa: BLE001  # the last resort, as Flask has one for its views
            said, status, headers = self._unexpected(error)
        if isinstance(said, str):
            body, kind = said.encode("utf-8", "surrogatepass"), headers.pop("Content-Type", _TEXT)
        else:
            body, kind = (_COMPACT.encode(said) + "\n").encode(), "application/json"
        described = [("Content-Type", kind)] if body else []
        described.append(("Content-Length", str(len(body))))
        start_response(_STATUS_LINES[status], [*described, *headers.items()])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> Response:
        name, _, rest = environ["PATH_INFO"][1:].partition("/")
        # A name that is not one of ours is a stranger's text, and has no place in the log.
        source = self._sources.get(name)
        if source is None or (rest and not _has_secret_path(source)):
            if self._few.allows("", self._clock()):
                log.info("a webhook came for a source that is not known")
            return UNKNOWN, 404, {}
        try:
            return self._receive(source, environ, rest)
        except _ElsewhereError:
            return {"error": "webhooks of this source are not taken from this address"}, 403, {}
        except VerificationError as error:
            return _fixed(source, error.status) or ({"error": REFUSED}, error.status, {})
        except RequestError as error:
            if self._few.allows(name, self._clock()):
                log.info("source %s: HTTP %d: %s", name, error.status, error)
            return {"error": str(error)}, error.status, {}
        except StoreError as error:
            log.error("source %s: a webhook could not be recorded: %s", name, error)
            answer = {"error": "the webhook could not be recorded; send it again later"}
            return answer, 503, {"Retry-After": RETRY_AFTER_DATABASE}

    def _receive(self, source: Source, environ: WSGIEnvironment, rest: str) -> Response:
        mapping = source.mapping
        if mapping is None:
            return self._closed(source)
        self._check_network(source, mapping, environ)
        scheme = mapping.verify.scheme
        if environ["REQUEST_METHOD"] not in scheme.methods:
            return _wrong_method(scheme)
        if source.closed is not None and not scheme.handshakes:
            return self._closed(source)
        now, config = self._clock(), self._config
        webhook = webhook_of(environ, public_url=config.public_url, limit=config.max_body, rest=rest)
        unpacked = _unpacked(webhook, config.max_body)
        handshake = verify.handshake_in(scheme, unpacked)
        if handshake is None and webhook.method != "POST":
            return _wrong_method(scheme)
        if handshake is not None and not handshake.signed:
            return self._greeted(source, handshake, unpacked, source.secrets)
        if source.closed is not None:
            return self._closed(source)
        proof = self._proven(source, scheme, unpacked, webhook, now)
        if handshake is not None:
            return self._greeted(source, handshake, unpacked, (proof,))
        arrived = Arrived(mapping=mapping, webhook=unpacked, proof=proof, at=now)
        return _accepted(self._writer.write(arrived), scheme)

    def _proven(self, source: Source, scheme: Scheme, unpacked: Webhook, webhook: Webhook, now: float) -> str:
        """Check the proof of a webhook, one at a time of those that take long."""
        if len(unpacked.body) < LARGE_BODY:
            return self._verified(source, scheme, unpacked, webhook, now)
        with self._large:
            try:
                return self._verified(source, scheme, unpacked, webhook, now)
            finally:
                for _ in range(TURNS):
                    time.sleep(0)

    def _verified(self, source: Source, scheme: Scheme, unpacked: Webhook, webhook: Webhook, now: float) -> str:
        """Check the proof of a webhook, and give the secret that made it.

        Some senders sign the bytes on the wire and some the bytes before packing; each is proof of the secret.
        """
        try:
            return verify.verify(scheme, source.secrets, unpacked, now)
        except VerificationError as error:
            if unpacked is not webhook:
                try:
                    return verify.verify(scheme, source.secrets, webhook, now)
                except VerificationError:
                    pass  # what was wrong with the unpacked one is told
            self._refusals.tell(source.name, scheme, source.secrets, unpacked, now, error)
            raise

    def _greeted(self, source: Source, handshake: Handshake, webhook: Webhook, secrets: Sequence[str]) -> Response:
        """Answer a handshake."""
        assert source.mapping is not None, "a handshake is one of its scheme"
        reply = verify.reply_to(handshake, source.mapping.verify.scheme, webhook, secrets, source.tokens)
        # Counted apart: what it tells the operator may come only once.
        if self._few.allows(f"{source.name} handshake", self._clock()):
            log.info("source %s: a handshake of its sender was answered", source.name)
            if reply.for_operator is not None and source.closed is not None:
                shown = printable(reply.for_operator, MAX_TOLD)
                log.warning("source %s: its sender says, for you to set as its secret: %s", source.name, shown)
        return reply.body, 200, {"Content-Type": reply.content_type, **reply.headers}

    def _closed(self, source: Source) -> Response:
        self._refusals.tell_closed(source.name, source.closed or "", self._clock())
        answer = {"error": "this source is closed for now: its operator finds the reason in the log"}
        return answer, 503, {"Retry-After": RETRY_AFTER_CLOSED}

    def _check_network(self, source: Source, mapping: MappingFile, environ: WSGIEnvironment) -> None:
        networks = mapping.verify.networks
        if not networks:
            return
        address = address_of(environ, self._config.proxies)
        if address is None or not any(address in network for network in networks):
            self._refusals.tell_network(source.name, address, self._clock())
            raise _ElsewhereError


class _ElsewhereError(Exception):
    """A request comes from none of the source's networks."""


_COMPACT = json.JSONEncoder(separators=(",", ":"))
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_TEXT = "text/plain; charset=utf-8"


def _wrong_method(scheme: Scheme) -> Response:
    return {"error": WRONG_METHOD}, 405, {"Allow": ", ".join(sorted(scheme.methods))}


def _has_secret_path(source: Source) -> bool:
    at = source.mapping.verify.scheme.at if source.mapping is not None else None
    return at is not None and at.part == "path"


def _accepted(taken: Taken, scheme: Scheme) -> Response:
    recorded, new = taken.recorded, taken.new
    if recorded.duplicate:
        answer: dict[str, Any] = {"event": recorded.id, "duplicate": True}
        status = 200
    else:
        answer, status = {"event": recorded.id, "calls": len(new.deliveries)}, 202
    if new.status == "failed" and not recorded.duplicate:
        answer["error"] = new.problem
        log.error("event %d: failed: %s", recorded.id, new.problem)
    if scheme.answer is None:
        return answer, status, {}
    text = scheme.answer.text
    return answer if text is None else text, scheme.answer.status, {}


def _fixed(source: Source, status: int) -> Response | None:
    """Say nothing where the sender wants to hear a fixed text."""
    answer = source.mapping.verify.scheme.answer if source.mapping is not None else None
    return None if answer is None or answer.text is None else ("", status, {})


def _unpacked(webhook: Webhook, limit: int) -> Webhook:
    encoding = webhook.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return webhook
    if encoding not in ("gzip", "x-gzip"):
        raise RequestError(415, "the body's Content-Encoding is not known here; send it plain or as gzip")
    return replace(webhook, body=payload.inflate(webhook.body, limit))
