"""POST /hooks/<source>: read, verify, translate and record a webhook, and only then answer 2xx."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Any

from flask import Blueprint, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, MethodNotAllowed, NotFound, ServiceUnavailable
from werkzeug.routing import BaseConverter

from gateway import verify
from gateway.config import Config
from gateway.errors import RequestError, StoreError, VerificationError, did_you_mean, printable
from gateway.event import Webhook
from gateway.logs import LogThrottle
from gateway.mapping.model import MappingFile
from gateway.receive.large_bodies import LargeBodies, NoTurnError
from gateway.receive.record import Recorder, VerifiedWebhook
from gateway.receive.refusals import RefusalLog
from gateway.receive.reload import Sources
from gateway.receive.repeats import RepeatLog
from gateway.receive.request import RETRY_AFTER, address_of, read_webhook, unpack
from gateway.receive.sources import Source
from gateway.store import NewEvent, Recorded
from gateway.verify import Handshake, PrescribedResponse, Scheme

log = logging.getLogger(__name__)

#: Seconds after which a sender may try again: while the database is unavailable, while the source is closed, and while
#: too many large bodies wait.
RETRY_AFTER_DATABASE = 5
RETRY_AFTER_CLOSED = 60
RETRY_AFTER_LARGE = 10
#: Characters of a sender's text that are shown to the operator.
MAX_SENDER_TEXT = 200
#: Texts of handshakes that are remembered, so that each is logged once.
MOST_HANDSHAKE_TEXTS = 1_000
#: All that a sender learns about a refused webhook, and about one on which the mapping fails. The operator learns the
#: reason from the log, and that of a failed event by `gateway events show`.
REFUSED = "this webhook is not proven to come from the sender of this source"
FAILED = "the webhook is kept, but no calls could be made of it; the operator of this gateway finds the reason"
TOO_MANY_LARGE = "too many large webhooks of this source arrive at once; send it again later"
UNKNOWN = "there is no such source; its name is the last part of the address"

hooks = Blueprint("hooks", __name__)
# The scheme of a source decides which methods it accepts (handshakes use GET, HEAD and OPTIONS), so the view gets all.
ANY_METHOD: dict[str, Any] = {"methods": [method.value for method in HTTPMethod], "provide_automatic_options": False}


class AnyText(BaseConverter):
    """Matches the rest of a path with whatever it contains: it may be a secret, with slashes and line breaks."""

    part_isolating = False
    regex = "(?s:.*)"
    weight = 200


hooks.record_once(lambda state: state.app.url_map.converters.update(any_text=AnyText))


@hooks.route("/hooks/<name>", **ANY_METHOD)
@hooks.route("/hooks/<name>/<any_text:rest>", **ANY_METHOD)
def receive(name: str, rest: str = "") -> ResponseReturnValue:
    """Accept one webhook, or answer one handshake."""
    receiver: Receiver = current_app.extensions["receiver"]
    config, now = receiver.config, receiver.clock()

    # What can be refused without the body.
    source = receiver.find_source(name, rest)  # 404
    g.source = source  # for the error handlers below
    mapping = receiver.admit(source, now)  # 503: closed; 403: network; 405: method
    scheme = mapping.verify.scheme

    sent = read_webhook(request, public_url=config.public_url, limit=config.max_body, rest=rest)  # 400, 413, 431
    unpacked, still_packed = unpack(sent, config.max_body)  # 413

    handshake = verify.handshake_in(scheme, unpacked)
    if handshake is None and sent.method == "HEAD":
        return text_response("")  # in this way many senders look whether the address exists
    if handshake is None and sent.method != "POST":
        raise receiver.wrong_method(source, now)
    if handshake is not None and not handshake.signed:
        # Even while the source is closed: some senders show their secret only in a handshake.
        return receiver.answer_handshake(source, scheme, handshake, unpacked, source.secrets, now)
    receiver.require_open(source, now)  # 503

    secret = receiver.verify(source, scheme, unpacked, sent, now, still_packed)  # 401; 400, 413, 415: not readable; 503
    if handshake is not None:
        return receiver.answer_handshake(source, scheme, handshake, unpacked, (secret,), now)

    # Translated and committed by the recorder's thread, together with other webhooks: 503.
    verified = VerifiedWebhook(mapping=mapping, webhook=unpacked, proof=secret, received_at=now)
    event, recorded = receiver.recorder.translate_and_record(verified)
    if event.status == "failed" and not recorded.duplicate:
        log.error("event %d: failed: %s", recorded.id, event.problem)
    receiver.repeats.add(source.name, recorded)
    for unsent in recorded.unsent:
        level = logging.WARNING if unsent.status == "failed" else logging.INFO
        log.log(level, "event %d: a call is not sent: %s", recorded.id, unsent.reason)
    return accepted(event, recorded, mapping.answer)


def accepted(event: NewEvent, recorded: Recorded, answer: PrescribedResponse | None) -> ResponseReturnValue:
    """Return the response to a webhook that is committed: what the mapping or its scheme prescribes, if anything."""
    body: dict[str, Any] = {"event": recorded.id}
    if recorded.duplicate:
        body["duplicate"] = True
    else:
        body["calls"] = len(event.deliveries)
        if event.status == "failed":
            body["error"] = FAILED
    if answer is None:
        return body, 200 if recorded.duplicate else 202
    if answer.text is None:
        return body, answer.status
    return text_response(answer.text, answer.status, answer.content_type)


def text_response(text: str, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Response:
    """Return a response with a text; an empty one has no Content-Type, because some senders check for that."""
    response = Response(text.encode("utf-8", "surrogatepass"), status, content_type=content_type)
    if not text:
        del response.headers["Content-Type"]
    return response


@hooks.errorhandler(VerificationError)
def unproven(error: VerificationError) -> ResponseReturnValue:
    """Refuse a webhook without a reason; with an empty body where the text of responses is prescribed."""
    answer = g.source.mapping.answer
    if answer is not None and answer.text is not None:
        return text_response("", error.status)
    return {"error": REFUSED}, error.status


@hooks.errorhandler(RequestError)
def unreadable(error: RequestError) -> ResponseReturnValue:
    """Refuse a request that cannot be read, or a handshake that lacks something, and say why."""
    receiver: Receiver = current_app.extensions["receiver"]
    receiver.refusals.log_unreadable(g.source.name, error, receiver.clock())
    later = {"Retry-After": str(RETRY_AFTER)} if error.status in (408, 503) else {}
    return {"error": str(error)}, error.status, later


@hooks.errorhandler(StoreError)
def not_recorded(error: StoreError) -> ResponseReturnValue:
    """Ask the sender to try again."""
    log.error("source %s: a webhook could not be recorded: %s", g.source.name, error)
    body = {"error": "the webhook could not be recorded; send it again later"}
    return body, 503, {"Retry-After": str(RETRY_AFTER_DATABASE)}


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """What the view works with; one for each application.

    Attributes:
        clock: Returns the time, in unix seconds.
        throttle: Bounds the log lines that strangers can cause.
        large_bodies: Their turns to be verified.
        handshake_texts: Hashes of the texts of handshakes that were logged for the operator.
    """

    config: Config
    sources: Sources
    recorder: Recorder
    refusals: RefusalLog
    repeats: RepeatLog
    clock: Callable[[], float]
    throttle: LogThrottle = field(default_factory=LogThrottle)
    large_bodies: LargeBodies = field(default_factory=LargeBodies)
    handshake_texts: set[bytes] = field(default_factory=set)

    def find_source(self, name: str, rest: str) -> Source:
        """Return the source of an address.

        Raises:
            NotFound: There is none of this name, or it has no secret in its path and something follows the name.
        """
        name = name.lower()  # as all names of sources are
        source = self.sources.get(name)
        if source is not None and (not rest.strip("/") or source.has_secret_path):
            return source
        if self.throttle.allows("", self.clock()):
            # The name is a stranger's text, so it is not logged.
            meant = did_you_mean(name[:100], self.sources.names()) if source is None else f"; it is {source.path}"
            log.info("a webhook came for an unknown source, or something follows the name in its address%s", meant)
        raise NotFound(UNKNOWN)

    def log_stray(self) -> None:
        """Log a webhook whose address is none of a source."""
        if self.throttle.allows("", self.clock()):
            log.info("a webhook came for another address than /hooks/<source>; correct it at the sender")

    def admit(self, source: Source, now: float) -> MappingFile:
        """Return the mapping of a source that may accept this request.

        Raises:
            ServiceUnavailable: The source is closed; with a mapping and handshakes it may still answer one of those.
            Forbidden: The request comes from none of the source's networks.
            MethodNotAllowed: The scheme does not use the request's method.
        """
        mapping = source.mapping
        if mapping is None:
            raise self._closed(source, now)
        if networks := mapping.verify.networks:
            address = address_of(request.environ, self.config.proxies)
            if address is None or not any(address in network for network in networks):
                self.refusals.log_network(source.name, address, now)
                raise Forbidden("webhooks of this source are not accepted from this address")
        scheme = mapping.verify.scheme
        if request.method not in scheme.methods:
            raise self.wrong_method(source, now)
        if not scheme.handshakes and request.method == "POST":
            self.require_open(source, now)
        return mapping

    def wrong_method(self, source: Source, now: float) -> MethodNotAllowed:
        """Log a request that is no handshake and was not sent with POST; return the error."""
        if self.throttle.allows(f"{source.name} method", now):
            log.warning(
                "source %s: a request with %s was refused: webhooks are sent with POST, so choose POST at the sender;"
                " if it checks the address in this way, add the request to the `handshakes` of the scheme",
                *(source.name, request.method),
            )
        return MethodNotAllowed(sorted(source.require_mapping().verify.scheme.methods))

    def require_open(self, source: Source, now: float) -> None:
        """Raise ServiceUnavailable if the source is closed."""
        if source.closed is not None:
            raise self._closed(source, now)

    def _closed(self, source: Source, now: float) -> ServiceUnavailable:
        self.refusals.log_closed(source.name, source.closed or "", now)
        return ServiceUnavailable(
            "this source is closed for now: its operator finds the reason in the log", retry_after=RETRY_AFTER_CLOSED
        )

    def verify(
        self,
        source: Source,
        scheme: Scheme,
        unpacked: Webhook,
        sent: Webhook,
        now: float,
        still_packed: RequestError | None,
    ) -> str:
        """Return the secret that proves a webhook. Some senders sign the unpacked body, and some the bytes they send.

        Args:
            still_packed: Why the body could not be unpacked.

        Raises:
            VerificationError: Nothing proves it. The reason is logged for the operator.
            RequestError: The body cannot be read, so it is not known whether something would prove it.
            ServiceUnavailable: Too many large bodies of this source wait to be verified.
        """
        try:
            with self.large_bodies.turn(source.name, unpacked.body):
                try:
                    return verify.verify(scheme, source.secrets, unpacked, now, sent_bytes=len(sent.body))
                except RequestError:
                    if sent.body != unpacked.body:
                        with contextlib.suppress(RequestError):
                            return verify.verify(scheme, source.secrets, sent, now)
                    raise
        except NoTurnError:
            self.refusals.log_large(source.name, now)
            raise ServiceUnavailable(TOO_MANY_LARGE, retry_after=RETRY_AFTER_LARGE) from None
        except RequestError as error:
            if still_packed is not None:
                raise still_packed from None
            if isinstance(error, VerificationError):
                self.refusals.log_unproven(source.name, scheme, source.secrets, unpacked, now, error)
            raise

    def answer_handshake(
        self, source: Source, scheme: Scheme, handshake: Handshake, webhook: Webhook, secrets: Sequence[str], now: float
    ) -> Response:
        """Return the response that the sender expects before it sends webhooks.

        Raises:
            RequestError: It shows the wrong verify token, or lacks what the response has to contain.
        """
        reply = verify.reply_to(handshake, scheme, webhook, secrets, source.tokens)
        # Throttled apart from other lines: a secret for the operator may come only once.
        if self.throttle.allows(f"{source.name} handshake", now):
            log.info("source %s: a handshake was answered", source.name)
        if reply.for_operator is not None and source.closed is not None:
            self._log_for_operator(source.name, reply.for_operator, now)
        response = text_response(reply.body, content_type=reply.content_type)
        response.headers.extend(reply.headers)
        return response

    def _log_for_operator(self, source: str, sent: str, now: float) -> None:
        """Log the secret that a handshake shows; each one once, and some in a period: anybody can send any."""
        text = printable(sent, MAX_SENDER_TEXT)
        seen = hashlib.sha256(f"{source} {text}".encode()).digest()
        if seen in self.handshake_texts or not self.throttle.allows(f"{source} secret", now):
            return
        if len(self.handshake_texts) >= MOST_HANDSHAKE_TEXTS:
            self.handshake_texts.clear()
        self.handshake_texts.add(seen)
        log.warning(
            "source %s: a handshake asks for this as the secret: %s -- anybody can have sent it. Set it only if you"
            " have just created the webhook at the sender, and the sender's own page shows or accepts the same text",
            *(source, text),
        )
