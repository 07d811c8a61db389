"""The likely cause of a refusal, found by trying what people get wrong. It is for the operator only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import get_args

from gateway.errors import VerificationError
from gateway.event import Webhook
from gateway.verify.check import ALWAYS_SECRET, verify
from gateway.verify.keys import secret_doubt
from gateway.verify.places import Request
from gateway.verify.scheme import SENT_SECRETS, Algorithm, Encoding, Scheme, SecretEncoding, SecretForm
from gateway.verify.scheme_table import schemes

#: What would be right, and the scheme and the webhook for which it would.
_Variant = tuple[str, Scheme, Webhook]

#: Bytes of a body with which things are tried: anybody can have that done, and nothing else is done meanwhile.
MAX_BODY, MAX_JSON = 131_072, 16_384

_OTHER = (
    "most likely the secret is not the one of this sender (another endpoint, another mode, or an old one), or"
    " something between the sender and the gateway changes bodies"
)
_OTHER_ADDRESS = ", or GATEWAY_PUBLIC_URL is not how the address begins that the sender posts to"


def likely_cause(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> str | None:
    """Say what is probably wrong with a webhook that was refused; None: the refusal says it all.

    Nothing out of the webhook or of a secret is shown.
    """
    if scheme.header and not Request(webhook).bears(scheme.header):
        return _another_sender(webhook)
    for text, changed, seen in _variants(scheme, webhook) if len(webhook.body) <= MAX_BODY else ():
        if _is_right(changed, secrets, seen, now):
            return text
    if doubt := secret_doubt(scheme, secrets):
        return doubt
    if scheme.timestamp is not None and _is_right(_timeless(scheme), secrets, webhook, now):
        return "the signature is right: this is an old webhook that was sent again, or a clock is wrong"
    if scheme.kind in SENT_SECRETS:
        return None
    return _OTHER + (_OTHER_ADDRESS if scheme.signs_address else "")


def _is_right(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> bool:
    try:
        verify(scheme, secrets, webhook, now)
    except VerificationError:
        return False
    return True


def _another_sender(webhook: Webhook) -> str | None:
    """Tell whose webhook this may be, by the header that it bears."""
    for name, scheme in schemes().items():
        for header in scheme.header:
            if header.lower() in webhook.headers and header.lower() not in ALWAYS_SECRET:
                return f"it bears the header {header}, as webhooks of the scheme '{name}' do; is the scheme right?"
    return None


def _timeless(scheme: Scheme) -> Scheme:
    assert scheme.timestamp is not None
    return replace(scheme, timestamp=replace(scheme.timestamp, tolerance=None))


def _variants(scheme: Scheme, webhook: Webhook) -> Iterator[_Variant]:
    if scheme.kind == "token":
        yield from _tokens(scheme, webhook)
        return
    for text, body in _bodies(webhook):
        said = f"the signature is right for the body {text}: something between the sender and the gateway changes it"
        yield said, scheme, replace(webhook, body=body)
    if scheme.signs_address:
        for shown, url in _addresses(webhook):
            said = f"the signature is right for the address {shown}: set GATEWAY_PUBLIC_URL so that it begins like that"
            yield said, scheme, replace(webhook, url=url)
    if scheme.kind in ("hmac", "digest"):
        for text, changed in _readings(scheme):
            yield f"the signature is right with  {text}  in the scheme", changed, webhook


def _tokens(scheme: Scheme, webhook: Webhook) -> Iterator[_Variant]:
    for prefix, meant in (("Bearer ", "bearer"), ("", "authorization")):
        if scheme.at is None and prefix != scheme.prefix:
            before = f"behind '{prefix.strip()}'" if prefix else "as it is"
            said = f"the token is right {before}: if it is sent in Authorization, write  scheme: {meant}"
            yield said, replace(scheme, prefix=prefix), webhook


def _bodies(webhook: Webhook) -> Iterator[tuple[str, bytes]]:
    body = webhook.body
    yield "without the white space around it", body.strip()
    for text, end in (("and a line break", b"\n"), ("and a line break of Windows", b"\r\n")):
        yield text, body.rstrip() + end
    yield "with the line breaks of Windows", body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    yield "with the line breaks of Unix", body.replace(b"\r\n", b"\n")
    payload = Request(webhook).payload if len(body) <= MAX_JSON else None
    if isinstance(payload, dict | list):
        for separators in ((",", ":"), (", ", ": ")):
            for as_ascii in (False, True):
                text = json.dumps(payload, separators=separators, ensure_ascii=as_ascii)
                yield "as JSON that is written in another way", text.encode("utf-8", "surrogatepass")


def _addresses(webhook: Webhook) -> Iterator[tuple[str, str]]:
    """Give addresses that may have been meant, each as it is shown, without its query, and as it is signed."""
    try:
        parts = Request(webhook).address
    except VerificationError:
        return
    # What a stranger names here is shown only if a secret has signed it.
    hosts = dict.fromkeys((parts.netloc, *(webhook.headers.get(name, "") for name in _HOSTS)))
    endings = (parts.path.rstrip("/"), f"{parts.path.rstrip('/')}/")
    for host, scheme, path in product(filter(None, hosts), ("https", "http"), endings):
        meant = parts._replace(netloc=host, scheme=scheme, path=path)
        for query in (parts.query, ""):
            yield meant._replace(query="").geturl(), meant._replace(query=query).geturl()


_HOSTS = ("host", "x-forwarded-host")


def _readings(scheme: Scheme) -> Iterator[tuple[str, Scheme]]:
    for encoding in get_args(Encoding):
        for algorithm in get_args(Algorithm):
            if (encoding, algorithm) != (scheme.encoding, scheme.algorithm):
                text = f"algorithm: {algorithm}, encoding: {encoding}"
                yield text, replace(scheme, encoding=encoding, algorithm=algorithm)
    for form in _secret_forms(scheme.secret):
        strip = f"strip: {form.strip}, " if form.strip else ""
        yield f"secret: {{{strip}encoding: {form.encoding}}}", replace(scheme, secret=form)
    signed = ["{body}"] if scheme.timestamp is None else ["{ts}.{body}", "{ts}{body}", "{ts}:{body}", "v0:{ts}:{body}"]
    for template in signed:
        if scheme.kind == "hmac" and template != scheme.signed:
            yield f'signed: "{template}"', replace(scheme, signed=template)


def _secret_forms(form: SecretForm) -> Iterator[SecretForm]:
    for encoding in get_args(SecretEncoding):
        for strip in dict.fromkeys((form.strip, "", "whsec_")):
            if (strip, encoding) != (form.strip, form.encoding):
                yield SecretForm(strip=strip, encoding=encoding)
