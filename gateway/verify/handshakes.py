"""Handshakes: requests by which a sender checks an address before it sends webhooks there.

A handshake changes nothing in the gateway. A reply without verification only repeats what the request says, so a
stranger gains nothing from it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import RequestError
from gateway.event import Webhook
from gateway.verify.keys import secret_key
from gateway.verify.providers import braintree_response
from gateway.verify.scheme import Handshake, ReplyValue, Scheme

#: Characters of a text that a reply repeats.
MAX_ECHO = 4096
#: Bytes of a body that can be a handshake: a larger body is not decoded before it is verified.
MAX_BODY = 16_384


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply to a handshake; *for_operator* is the text to log for the operator, if any."""

    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    for_operator: str | None = None


def handshake_in(scheme: Scheme, webhook: Webhook) -> Handshake | None:
    """Return the handshake of the scheme that a request is, or None if it is a webhook."""
    if not scheme.handshakes or len(webhook.body) > MAX_BODY:
        return None
    reader = scheme.reader(webhook)
    carries_signature = reader.has_header(scheme.header)
    for handshake in scheme.handshakes:
        # A webhook that looks like an unsigned handshake has to be verified and stored: its signature tells them apart.
        is_possible = handshake.method == webhook.method and (handshake.signed or not carries_signature)
        if is_possible and handshake.matches(reader):
            return handshake
    return None


def reply_to(
    handshake: Handshake, scheme: Scheme, webhook: Webhook, secrets: Sequence[str], tokens: Sequence[str]
) -> Reply:
    """Return the reply to a handshake.

    Args:
        secrets: The secret that verified the request; for an unsigned handshake all secrets of the source.
        tokens: The tokens that the operator chose for the handshake (`verify_token_env`).

    Raises:
        RequestError: The request shows a wrong token, has no text to reply with, or a secret is required and missing.
    """
    reader = scheme.reader(webhook)
    if handshake.token is not None:
        token = reader.text(handshake.token).encode("utf-8", "surrogatepass")
        # Constant time, as for secrets: the token is one.
        if not any(hmac.compare_digest(own.encode(errors="surrogateescape"), token) for own in tokens):
            raise RequestError(403, "the verify token is not the one of this source")

    def text_of(value: ReplyValue) -> str:
        text = reader.required_text(value.field)
        # Nothing that could end a header line or fill the sender's screen.
        if len(text) > MAX_ECHO or not text.isprintable():
            raise RequestError(400, f"the {value.field} is longer than {MAX_ECHO} characters, or not printable")
        if not value.mac:
            return text
        if not secrets or not secrets[0]:
            raise RequestError(503, "this source has no secret yet, which the reply to this handshake requires")
        if scheme.kind == "braintree":
            return braintree_response(secrets[0], text)
        return hmac.new(secret_key(scheme, secrets[0]), text.encode(), scheme.algorithm).hexdigest()

    for_operator = None if handshake.log is None else reader.text(handshake.log)
    headers = {name: _header_text(text_of(value), value) for name, value in handshake.headers.items()}
    if handshake.json is None:
        body = text_of(handshake.text) if handshake.text else ""
        # The text may be a stranger's: a browser must not guess that it is HTML and run it.
        return Reply(body=body, headers={"X-Content-Type-Options": "nosniff", **headers}, for_operator=for_operator)
    document = {name: value if isinstance(value, int) else text_of(value) for name, value in handshake.json.items()}
    return Reply(body=json.dumps(document), content_type="application/json", headers=headers, for_operator=for_operator)


def _header_text(text: str, value: ReplyValue) -> str:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        raise RequestError(400, f"the {value.field} has characters that no header can have") from None
    return text
