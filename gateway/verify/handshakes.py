"""Handshakes: what a sender asks of an address before it sends webhooks there.

None of them changes anything here. What is answered without proof is an echo, and of no use to a stranger.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import RequestError
from gateway.event import JSON, Webhook
from gateway.verify.keys import key_of
from gateway.verify.places import Request
from gateway.verify.providers import braintree_answer
from gateway.verify.scheme import ABSENT, ANY, Handshake, Scheme, Shown

#: Characters of what is echoed.
MAX_ECHO = 4096
#: Bytes of a body that can be a handshake: a larger one is not even decoded before it is proven.
MAX_BODY = 16_384


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer a handshake, and what to tell the operator."""

    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    for_operator: str | None = None


def handshake_in(scheme: Scheme, webhook: Webhook) -> Handshake | None:
    """Tell which handshake of its scheme a request is, if it is one.

    One that needs no proof never bears a signature: a webhook is not taken for it.
    """
    if not scheme.handshakes or len(webhook.body) > MAX_BODY:
        return None
    request = Request(webhook, scheme.content_type)
    is_signed = request.bears(scheme.header)
    for each in scheme.handshakes:
        if each.method == webhook.method and (each.signed or not is_signed) and _is(each, request):
            return each
    return None


def reply_to(
    handshake: Handshake, scheme: Scheme, webhook: Webhook, secrets: Sequence[str], tokens: Sequence[str]
) -> Reply:
    """Make the answer.

    Args:
        secrets: The one that proved the request; the first of the source where none was asked for.
        tokens: What the operator and the sender agreed on for the handshake.

    Raises:
        RequestError: The request shows a token that is not the operator's, or there is no secret to answer with.
    """
    request = Request(webhook, scheme.content_type)
    if handshake.token is not None and not _is_one_of(tokens, request.text(handshake.token)):
        raise RequestError(403, "the verify token is not the one of this source")
    told = None if handshake.tell is None else request.text(handshake.tell)

    def shown(what: Shown) -> str:
        return _shown(what, scheme, request, secrets)

    headers = {name: shown(what) for name, what in handshake.headers.items()}
    if handshake.json is None:
        body = shown(handshake.text) if handshake.text else ""
        return Reply(body=body, headers={**_PLAIN, **headers}, for_operator=told)
    said: dict[str, JSON] = {
        name: shown(what) if isinstance(what, Shown) else what for name, what in handshake.json.items()
    }
    return Reply(body=json.dumps(said), content_type="application/json", headers=headers, for_operator=told)


#: What a stranger has put there is text, whatever a browser thinks of it.
_PLAIN = {"X-Content-Type-Options": "nosniff"}


def _is(handshake: Handshake, request: Request) -> bool:
    return all(_holds(request.all(where), value) for where, value in handshake.when.items())


def _holds(found: list[JSON], value: JSON) -> bool:
    if value == ABSENT:
        return not found
    return len(found) == 1 and (found[0] == value or (value == ANY and found[0] not in (None, "")))


def _is_one_of(tokens: Sequence[str], shown: str) -> bool:
    sent = shown.encode("utf-8", "surrogatepass")
    return any(hmac.compare_digest(token.encode(errors="surrogateescape"), sent) for token in tokens)


def _shown(what: Shown, scheme: Scheme, request: Request, secrets: Sequence[str]) -> str:
    text = request.need(what.place)
    if len(text) > MAX_ECHO or not text.isprintable():
        raise RequestError(400, f"the {what.place} is too long, or holds characters that are no part of a handshake")
    if not what.mac:
        return text
    if not secrets or not secrets[0]:
        raise RequestError(503, "this source has no secret yet, by which this would be answered")
    if scheme.kind == "braintree":
        return braintree_answer(secrets[0], text)
    return hmac.new(key_of(scheme, secrets[0]), text.encode(), scheme.algorithm).hexdigest()
