"""POST /hooks/<source>: read, verify, translate and record a webhook, and only then answer 2xx."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
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
from gateway.errors import RequestError, StoreError, VerificationError, printable
from gateway.event import Webhook
from gateway.logs import LogThrottle
from gateway.mapping.model import Network
from gateway.receive.record import Recorder, VerifiedWebhook
from gateway.receive.refusals import RefusalLog
from gateway.receive.reload import Sources
from gateway.receive.request import address_of, read_webhook, unpack
from gateway.receive.sources import Source
from gateway.store import NewEvent, Recorded
from gateway.verify import Handshake, Scheme

log = logging.getLogger(__name__)

#: Seconds after which a sender may try again: while the database is unavailable, and while the source is closed.
RETRY_AFTER_DATABASE = 5
RETRY_AFTER_CLOSED = 60
#: Bytes of a body from which on only one is verified at a time. Verification takes milliseconds then, during which
#: nothing else runs under gevent, and anybody can request it. After each, all other requests get so many turns.
LARGE_BODY = 65_536
TURNS = 4
#: Characters of a sender's text that are shown to the operator.
MAX_SENDER_TEXT = 200
#: All that a sender learns about a refused webhook. The operator learns the reason from the log.
REFUSED = "this webhook is not proven to come from the sender of this source"
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

    # Refuse what can be refused without the body.
    g.source = source = receiver.find_source(name, rest)  # 404
    if source.mapping is None:
        raise receiver.closed(source, now)  # 503
    scheme = source.mapping.verify.scheme
    receiver.check_network(source, source.mapping.verify.networks, now)  # 403
    if request.method not in scheme.methods:
        raise MethodNotAllowed(sorted(scheme.methods))  # 405
    if source.closed is not None and not scheme.handshakes:
        raise receiver.closed(source, now)

    sent = read_webhook(request, public_url=config.public_url, limit=config.max_body, rest=rest)  # 400, 413, 431
    webhook = unpack(sent, config.max_body)  # 400, 413, 415

    # A handshake comes before the first webhook, and some come before the operator knows the secret.
    handshake = verify.handshake_in(scheme, webhook)
    if handshake is None and webhook.method != "POST":
        raise MethodNotAllowed(sorted(scheme.methods))
    if handshake is not None and not handshake.signed:
        return receiver.answer_handshake(source, scheme, handshake, webhook, source.secrets, now)
    if source.closed is not None:
        raise receiver.closed(source, now)

    proof = receiver.verify(source, scheme, webhook, sent, now)  # 401
    if handshake is not None:
        return receiver.answer_handshake(source, scheme, handshake, webhook, (proof,), now)
    verified = VerifiedWebhook(mapping=source.mapping, webhook=webhook, proof=proof, received_at=now)
    event, recorded = receiver.recorder.translate_and_record(verified)  # 400 and 415: it cannot be decoded; 503
    return accepted(event, recorded, scheme)


def accepted(event: NewEvent, recorded: Recorded, scheme: Scheme) -> ResponseReturnValue:
    """Return the response to a webhook that is committed: the scheme's own if it prescribes one."""
    body: dict[str, Any] = {"event": recorded.id}
    if recorded.duplicate:
        body["duplicate"] = True
    else:
        body["calls"] = len(event.deliveries)
        if event.status == "failed":
            body["error"] = event.problem
            log.error("event %d: failed: %s", recorded.id, event.problem)
    if scheme.answer is None:
        return body, 200 if recorded.duplicate else 202
    if scheme.answer.text is None:
        return body, scheme.answer.status
    return text_response(scheme.answer.text, scheme.answer.status)


def text_response(text: str, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Response:
    """Return a response with a text; an empty one has no Content-Type, because some senders check for that."""
    response = Response(text.encode("utf-8", "surrogatepass"), status, content_type=content_type)
    if not text:
        del response.headers["Content-Type"]
    return response


@hooks.errorhandler(VerificationError)
def unproven(error: VerificationError) -> ResponseReturnValue:
    """Refuse a webhook without a reason; with an empty body where the scheme prescribes the text of responses."""
    mapping = g.source.mapping
    answer = mapping.verify.scheme.answer if mapping is not None else None
    if answer is not None and answer.text is not None:
        return text_response("", error.status)
    return {"error": REFUSED}, error.status


@hooks.errorhandler(RequestError)
def unreadable(error: RequestError) -> ResponseReturnValue:
    """Refuse a request that cannot be read, and tell the sender why."""
    receiver: Receiver = current_app.extensions["receiver"]
    if receiver.throttle.allows(g.source.name, receiver.clock()):
        log.info("source %s: HTTP %d: %s", g.source.name, error.status, error)
    return {"error": str(error)}, error.status


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
        large_bodies: Held while a large body is verified.
    """

    config: Config
    sources: Sources
    recorder: Recorder
    refusals: RefusalLog
    clock: Callable[[], float]
    throttle: LogThrottle = field(default_factory=LogThrottle)
    large_bodies: threading.Lock = field(default_factory=threading.Lock)

    def find_source(self, name: str, rest: str) -> Source:
        """Return the source of an address.

        Raises:
            NotFound: There is none of this name, or it has no secret in its path and something follows the name.
        """
        # Flask matches a path with more than one slash, or none, before it too. A source has one address only.
        if not request.environ["PATH_INFO"].startswith("/hooks/"):
            raise NotFound
        source = self.sources.get(name)
        if source is None or (rest and not source.has_secret_path):
            # The name is a stranger's text, so it is not logged.
            if self.throttle.allows("", self.clock()):
                log.info("a webhook came for an unknown source")
            raise NotFound(UNKNOWN)
        return source

    def closed(self, source: Source, now: float) -> ServiceUnavailable:
        """Log that a webhook came for a closed source, and return the error to raise."""
        self.refusals.log_closed(source.name, source.closed or "", now)
        return ServiceUnavailable(
            "this source is closed for now: its operator finds the reason in the log", retry_after=RETRY_AFTER_CLOSED
        )

    def check_network(self, source: Source, networks: Sequence[Network], now: float) -> None:
        """Check the address that the request comes from.

        Raises:
            Forbidden: It is in none of the source's networks.
        """
        if not networks:
            return
        address = address_of(request.environ, self.config.proxies)
        if address is None or not any(address in network for network in networks):
            self.refusals.log_network(source.name, address, now)
            raise Forbidden("webhooks of this source are not accepted from this address")

    def verify(self, source: Source, scheme: Scheme, webhook: Webhook, sent: Webhook, now: float) -> str:
        """Return the secret that proves a webhook.

        Raises:
            VerificationError: Nothing proves it. The reason is logged for the operator.
        """
        is_large = len(webhook.body) >= LARGE_BODY
        with self.large_bodies if is_large else contextlib.nullcontext():
            try:
                return verify.verify(scheme, source.secrets, webhook, now)
            except VerificationError as error:
                if sent is not webhook:
                    # Some senders sign the body before it is packed, and some after. Both prove the secret.
                    with contextlib.suppress(VerificationError):
                        return verify.verify(scheme, source.secrets, sent, now)
                self.refusals.log_unproven(source.name, scheme, source.secrets, webhook, now, error)
                raise
            finally:
                for _ in range(TURNS if is_large else 0):
                    time.sleep(0)

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
                text = printable(reply.for_operator, MAX_SENDER_TEXT)
                log.warning("source %s: the sender asks you to set this as its secret: %s", source.name, text)
        response = text_response(reply.body, content_type=reply.content_type)
        response.headers.extend(reply.headers)
        return response
