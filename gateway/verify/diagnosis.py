"""The likely cause of a refusal, found by trying the mistakes that people make. It is shown to the operator only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeAlias, get_args

from gateway.errors import RequestError, VerificationError
from gateway.event import Webhook
from gateway.verify.check import ALWAYS_SECRET, verify
from gateway.verify.keys import secret_doubt
from gateway.verify.request_fields import WebhookReader
from gateway.verify.scheme import SENT_SECRETS, Algorithm, Encoding, Scheme, SecretEncoding, SecretFormat
from gateway.verify.scheme_table import schemes

#: A text for the operator, and the scheme and webhook with which verification succeeds if the text is true.
Variant: TypeAlias = tuple[str, Scheme, Webhook]

#: Bytes of a body to try variants of, and of one to parse as JSON. Anybody can cause a refusal, and under gevent
#: nothing else runs in the process during these tries: each of them has to be short, and the caller limits all.
MAX_BODY, MAX_JSON = 131_072, 16_384

_WRONG_KEY = (
    "most likely the secret is not the one of this sender (another endpoint, another mode, or an old one), or"
    " something between the sender and the gateway changes bodies"
)
_NOT_ALL_TRIED = " (the search ended early: not every usual mistake was tried)"
_WRONG_ADDRESS = ", or GATEWAY_PUBLIC_URL is not how the address begins that the sender posts to"


def likely_cause(
    scheme: Scheme,
    secrets: Sequence[str],
    webhook: Webhook,
    now: float,
    *,
    still_time: Callable[[], bool] = lambda: True,
) -> str | None:
    """Return the probable mistake behind a refused webhook; None if the refusal itself says enough.

    No text shows a secret, or anything of the webhook that no secret has signed.

    Args:
        still_time: Asked before each try; as soon as it returns false the search ends, and the text says so.
    """
    if scheme.header and not WebhookReader(webhook).has_header(scheme.header):
        # It may come from the sender of another scheme. Headers such as Authorization belong to many senders.
        sent = webhook.headers.keys() - ALWAYS_SECRET
        others = ((name, header) for name, other in schemes().items() for header in other.header)
        name, header = next((other for other in others if other[1].lower() in sent), ("", ""))
        text = f"it bears the header {header}, as webhooks of the scheme '{name}' do; is the scheme right?"
        return text if name else None
    ended_early = ""
    for text, other_scheme, other_webhook in _tries(scheme, webhook):
        if not still_time():
            ended_early = _NOT_ALL_TRIED
            break
        if _verifies(other_scheme, secrets, other_webhook, now):
            return text
    if doubt := secret_doubt(scheme, secrets):
        return doubt + ended_early
    if scheme.kind in SENT_SECRETS:
        return None
    return _WRONG_KEY + (_WRONG_ADDRESS if scheme.signs_address else "") + ended_early


def _verifies(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> bool:
    try:
        verify(scheme, secrets, webhook, now)
    except RequestError:
        return False
    return True


def _tries(scheme: Scheme, webhook: Webhook) -> Iterator[Variant]:
    """Yield what to try, the most likely first: the search may end after any."""
    if scheme.timestamp is not None:
        timeless = replace(scheme, timestamp=replace(scheme.timestamp, tolerance=None))
        text = "the signature is right: this is an old webhook that was sent again, or a clock is wrong"
        yield text, timeless, webhook
    if len(webhook.body) <= MAX_BODY:
        yield from _variants(scheme, webhook)


def _variants(scheme: Scheme, webhook: Webhook) -> Iterator[Variant]:
    if scheme.kind == "token":
        for prefix, right_scheme in (("Bearer ", "bearer"), ("", "authorization")):
            if scheme.at is None and prefix != scheme.prefix:
                before = f"behind '{prefix.strip()}'" if prefix else "as it is"
                text = f"the token is right {before}: if it is sent in Authorization, write  scheme: {right_scheme}"
                yield text, replace(scheme, prefix=prefix), webhook
        return
    for text, body in _bodies(webhook):
        text = f"the signature is right for the body {text}: something between the sender and the gateway changes it"
        yield text, scheme, replace(webhook, body=body)
    if scheme.signs_address:
        for shown, url in _addresses(webhook):
            text = f"the signature is right for the address {shown}: set GATEWAY_PUBLIC_URL so that it begins like that"
            yield text, scheme, replace(webhook, url=url)
    if scheme.kind in ("hmac", "digest"):
        for text, other_scheme in _readings(scheme):
            yield f"the signature is right with  {text}  in the scheme", other_scheme, webhook


def _bodies(webhook: Webhook) -> Iterator[tuple[str, bytes]]:
    """Yield what proxies and frameworks make of a body, undone."""
    body = webhook.body
    yield "without the white space around it", body.strip()
    yield "and a line break", body.rstrip() + b"\n"
    yield "and a line break of Windows", body.rstrip() + b"\r\n"
    yield "with the line breaks of Windows", body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    yield "with the line breaks of Unix", body.replace(b"\r\n", b"\n")
    reader = WebhookReader(webhook)
    payload = reader.payload if len(body) <= MAX_JSON and reader.is_readable else None
    if isinstance(payload, dict | list):
        for separators, as_ascii in product(((",", ":"), (", ", ": ")), (False, True)):
            text = json.dumps(payload, separators=separators, ensure_ascii=as_ascii)
            yield "as JSON that is written in another way", text.encode("utf-8", "surrogatepass")


def _addresses(webhook: Webhook) -> Iterator[tuple[str, str]]:
    """Yield URLs that the sender may have signed, each as it is shown (without its query) and as it is signed."""
    try:
        parts = WebhookReader(webhook).address
    except VerificationError:
        return
    # The headers are a stranger's text, but an address is shown only if a secret has signed it.
    headers = (webhook.headers.get(name, "") for name in ("host", "x-forwarded-host"))
    hosts = dict.fromkeys(filter(None, (parts.netloc, *headers)))
    path = parts.path.rstrip("/")
    for host, protocol, ending in product(hosts, ("https", "http"), ("", "/")):
        address = parts._replace(netloc=host, scheme=protocol, path=f"{path}{ending}")
        for query in (parts.query, ""):
            yield address._replace(query="").geturl(), address._replace(query=query).geturl()


def _readings(scheme: Scheme) -> Iterator[tuple[str, Scheme]]:
    """Yield other ways to read the signature and the secret, each as a mapping writes it and as a scheme."""
    for encoding, algorithm in product(get_args(Encoding), get_args(Algorithm)):
        if (encoding, algorithm) != (scheme.encoding, scheme.algorithm):
            text = f"algorithm: {algorithm}, encoding: {encoding}"
            yield text, replace(scheme, encoding=encoding, algorithm=algorithm)
    for secret_encoding, prefix in product(
        get_args(SecretEncoding), dict.fromkeys((scheme.secret.strip, "", "whsec_"))
    ):
        form = SecretFormat(strip=prefix, encoding=secret_encoding)
        if form != scheme.secret:
            strip = f"strip: {prefix}, " if prefix else ""
            yield f"secret: {{{strip}encoding: {secret_encoding}}}", replace(scheme, secret=form)
    if scheme.kind == "hmac":
        timed = ("{ts}.{body}", "{ts}{body}", "{ts}:{body}", "v0:{ts}:{body}")
        for template in timed if scheme.timestamp is not None else ("{body}",):
            if template != scheme.signed:
                yield f'signed: "{template}"', replace(scheme, signed=template)
