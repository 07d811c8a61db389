"""Verification: was a webhook sent by somebody who knows a secret of its source?"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

from gateway.errors import VerificationError
from gateway.event import Webhook
from gateway.verify import providers
from gateway.verify.keys import decode_signature, public_key_accepts, secret_key, secret_problem
from gateway.verify.request_fields import DecodingLimits, RequestField, WebhookReader
from gateway.verify.scheme import SENT_SECRETS, SIGNING, Scheme
from gateway.verify.template import header_bytes, signed_bytes

# Limits on the work that a stranger without a secret can cause with one request.
#: Characters of a header that holds a signature or token.
MAX_HEADER = 4096
#: Signatures of one webhook. Senders write two or three while they rotate secrets; each one costs a comparison, and one
#: that is made with a private key a hash of the body.
MAX_CANDIDATES, MAX_PRIVATE_KEY_CANDIDATES = 16, 4
#: Tokens of one webhook, where each item of the body has its own.
MAX_TOKENS = 1_000

#: Headers, in lower case, that hold a secret whatever the scheme is.
ALWAYS_SECRET = frozenset({"authorization", "proxy-authorization", "cookie"})


def verify(
    scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float, *, sent_bytes: int | None = None
) -> str:
    """Return the secret that proves a webhook; "" for the scheme `none`.

    Args:
        now: Unix seconds.
        sent_bytes: The length of the body before it was unpacked; None: it was not.

    Raises:
        VerificationError: No secret proves the webhook, or the source has no usable secret.
        RequestError: The proof is inside a body that cannot be read.
    """
    if scheme.kind == "none":
        return ""
    if not secrets:
        raise VerificationError("this source has no secret to check webhooks with")
    # One unusable secret fails every webhook: anybody can sign with an empty key, and skipping it hides the mistake.
    for secret in secrets:
        if problem := secret_problem(scheme, secret):
            raise VerificationError(f"this source cannot check webhooks: {problem}")
    sent_bytes = len(webhook.body) if sent_bytes is None else sent_bytes
    reader = scheme.reader(webhook, limits=DecodingLimits(sent_bytes=sent_bytes))
    return _VERIFIERS[scheme.kind](scheme, secrets, reader, now)


def fingerprint(scheme: Scheme, webhook: Webhook) -> str:
    """Return what identifies a repeated webhook whose sender gives it no id: the SHA-256 of its proven content.

    That is the body; where one proof is good for several spellings of a body, what they have in common.
    """
    proven = providers.proven_content(scheme, scheme.reader(webhook))
    return hashlib.sha256(proven or webhook.body).hexdigest()


def secret_headers(scheme: Scheme) -> frozenset[str]:
    """Return the headers, in lower case, to redact before an event is stored."""
    if scheme.kind not in SENT_SECRETS:
        return ALWAYS_SECRET
    return ALWAYS_SECRET | {name.lower() for name in scheme.header}


def secret_parameters(scheme: Scheme) -> frozenset[str]:
    """Return the query parameters to redact before an event is stored."""
    if scheme.kind in SENT_SECRETS and scheme.at is not None and scheme.at.part == "query":
        return frozenset({scheme.at.name})
    return frozenset()


# Secrets that are sent along


def _verify_token(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, _now: float) -> str:
    if scheme.at is None:
        name, token = _token_header(scheme, reader)
        # Not all white space is stripped: the last byte of a token in UTF-8 may look like a no-break space in Latin-1.
        where, tokens = f"header {name}", [token.strip(" \t")]
    else:
        where = str(scheme.at)
        # An item without a token gives "", which matches no secret: one bad item refuses the whole body.
        tokens = [value if isinstance(value, str) else "" for value in reader.values(scheme.at)]
        if not 0 < len(tokens) <= MAX_TOKENS:
            raise VerificationError(f"the {where} is missing, or there are more than {MAX_TOKENS:,} of them")
    proof = ""
    for token in tokens:
        # In a path, whoever put the address together may have written slashes around a secret that has none.
        texts = (token, token.strip("/")) if scheme.at is not None and scheme.at.part == "path" else (token,)
        # A WSGI server decodes headers as Latin-1, so the token may be those bytes as well as the text itself.
        sent = (form for text in texts for form in (header_bytes(text), text.encode("utf-8", "surrogatepass")))
        proof = _matching_secret(secrets, *sent)
        if not proof:
            raise VerificationError(f"the token in the {where} is not the one of this source")
    return proof


def _verify_basic(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, _now: float) -> str:
    name, token = _token_header(scheme, reader)
    credentials = decode_signature("base64", token.strip())
    if not credentials:
        raise VerificationError(f"the header {name} does not hold a user and password in base64")
    if secret := _matching_secret(secrets, credentials):
        return secret
    raise VerificationError(f"the user or password in the header {name} is not the one of this source")


def _matching_secret(secrets: Sequence[str], *sent: bytes) -> str:
    """Return the secret that was sent, or ""."""
    # Constant time: a comparison that stops at the first wrong byte tells a stranger how many bytes were right. All
    # secrets are compared, whichever matches.
    matching = [secret for secret in secrets for text in sent if hmac.compare_digest(secret.encode(), text)]
    return matching[0] if matching else ""


def _token_header(scheme: Scheme, reader: WebhookReader) -> tuple[str, str]:
    """Return the name of the header that holds the token, and its text behind the prefix."""
    name, value = _first_header(scheme.header, reader)
    if value[: len(scheme.prefix)].lower() != scheme.prefix.lower():
        raise VerificationError(f"the header {name} does not begin with '{scheme.prefix}'")
    return name, value[len(scheme.prefix) :]


# Signatures


def _verify_signature(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, now: float) -> str:
    if scheme.at is not None:
        where, texts = str(scheme.at), [reader.required_text(scheme.at)]
    else:
        names = [name for name in scheme.header if reader.webhook.headers.get(name.lower())]
        where = f"header {' or '.join(names)}"
        # Where there is none, reading the first of all raises the error.
        texts = [_first_header((name,), reader)[1] for name in names] or [_first_header(scheme.header, reader)[1]]
    candidates = _candidate_signatures(scheme, where, texts)
    # A timestamp in a signed body is checked last: a body is not decoded for a stranger.
    is_in_body = scheme.timestamp is not None and scheme.timestamp.body is not None and "{ts}" not in scheme.signed
    timestamp = "" if is_in_body else _checked_timestamp(scheme, where, texts, reader, now)
    for secret in secrets:
        if _is_signed(scheme, secret, reader, timestamp, candidates):
            # A proven body that cannot be read is kept without a look at its time: it makes no call.
            if is_in_body and (proven := scheme.reader(reader.webhook)).is_readable:
                _checked_timestamp(scheme, where, texts, proven, now)
            return secret
    raise VerificationError(f"no signature in the {where} is made with a secret of this source")


def _is_signed(scheme: Scheme, secret: str, reader: WebhookReader, timestamp: str, candidates: Sequence[bytes]) -> bool:
    key = secret_key(scheme, secret)
    match scheme.kind:
        case "hmac":
            expected = hmac.digest(key, signed_bytes(scheme, reader, timestamp), scheme.algorithm)
        case "digest":
            expected = hashlib.new(scheme.algorithm, signed_bytes(scheme, reader, timestamp, key)).digest()
        case _:
            signed = signed_bytes(scheme, reader, timestamp)
            return any(public_key_accepts(scheme, key, candidate, signed) for candidate in candidates)
    # Constant time, for the reason given at _matching_secret: else a signature could be guessed byte by byte.
    return any(hmac.compare_digest(expected, candidate) for candidate in candidates)


def _first_header(names: Sequence[str], reader: WebhookReader) -> tuple[str, str]:
    """Return name and value of the first of these headers that was sent."""
    for name in names:
        if value := reader.webhook.headers.get(name.lower()):
            if len(value) > MAX_HEADER:
                raise VerificationError(f"the header {name} is longer than {MAX_HEADER} characters")
            return name, value
    raise VerificationError(f"the header {' or '.join(names)} is missing; is the secret set at the sender?")


def _candidate_signatures(scheme: Scheme, where: str, texts: Sequence[str]) -> list[bytes]:
    written: list[str] = []
    for text in texts:
        if scheme.key is not None:
            written += scheme.items_named(scheme.key, text)
        elif scheme.positional:
            written += [item.strip() for item in text.split(scheme.items)[1:]]
        elif text[: len(scheme.prefix)].lower() == scheme.prefix.lower():
            written.append(text[len(scheme.prefix) :])
    most = MAX_PRIVATE_KEY_CANDIDATES if scheme.kind in ("ed25519", "ecdsa") else MAX_CANDIDATES
    if len(written) > most:
        raise VerificationError(f"the {where} holds more than {most} signatures")
    candidates = [signature for text in written if (signature := decode_signature(scheme.encoding, text))]
    # Before the body is hashed: this costs nothing.
    length = scheme.signature_bytes
    candidates = [signature for signature in candidates if length in (None, len(signature))]
    if not candidates:
        before = f" behind '{scheme.prefix}'" if scheme.prefix else ""
        called = f" called {scheme.key}" if scheme.key else before
        of_length = f", {length} bytes long" if length else ""
        raise VerificationError(f"the {where} holds no signature{called} in {scheme.encoding}{of_length}")
    return candidates


def _checked_timestamp(scheme: Scheme, where: str, texts: Sequence[str], reader: WebhookReader, now: float) -> str:
    """Return the timestamp as it was sent; "" for a scheme without one.

    It limits how long a captured webhook can be sent again. That works because schemes have to sign it: a stranger
    could replace a timestamp that is not signed.
    """
    timestamp = scheme.timestamp
    if timestamp is None:
        return ""
    if scheme.positional:
        text = texts[0].split(scheme.items)[0].strip()
    elif timestamp.body is not None:
        field = RequestField("body", timestamp.body)
        where, text = str(field), reader.required_text(field)
    elif timestamp.item is not None:
        items = scheme.items_named(timestamp.item, texts[0])
        if len(items) != 1:
            raise VerificationError(f"the {where} must hold one timestamp called {timestamp.item}")
        text = items[0]
    else:
        name, text = _first_header(timestamp.header, reader)
        where = f"header {name}"
    sent_at = timestamp.unix_seconds(text)
    if sent_at is None:
        raise VerificationError(f"the timestamp in the {where} is not a time in the unit that this scheme expects")
    # `not … <=` and not `>`: with a clock that gives NaN every comparison is false, and the webhook is refused.
    if timestamp.tolerance is not None and not abs(now - sent_at) <= timestamp.tolerance:
        direction = "in the future" if sent_at > now else "old"
        raise VerificationError(
            f"the timestamp in the {where} is {abs(now - sent_at):.0f} seconds {direction}, at most"
            f" {timestamp.tolerance} are allowed; is the clock of this machine right?"
        )
    return text


_VERIFIERS: Mapping[str, Callable[[Scheme, Sequence[str], WebhookReader, float], str]] = {
    **dict.fromkeys(SIGNING, _verify_signature),
    "token": _verify_token,
    "basic": _verify_basic,
    "adyen": providers.verify_adyen,
    "braintree": providers.verify_braintree,
    "contentful": providers.verify_contentful,
    "twilio": providers.verify_twilio,
}
