"""Verification: was a webhook made by somebody who knows a secret?"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from gateway.errors import VerificationError
from gateway.event import Webhook
from gateway.verify import providers
from gateway.verify.keys import decoded, ecdsa_key, ed25519_key, key_of, secret_problem
from gateway.verify.places import Place, Request
from gateway.verify.scheme import SENT_SECRETS, Scheme, Unit
from gateway.verify.template import as_sent, filled

MAX_HEADER = 4096
MAX_CANDIDATES = 16
MAX_TOKENS = 1_000
#: Bytes of a body that is decoded before it is proven, as its proof stands in it.
MAX_UNPROVEN = 131_072

#: Headers that hold a secret whatever the scheme is.
ALWAYS_SECRET = frozenset({"authorization", "proxy-authorization", "cookie"})


def verify(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> str:
    """Give the secret that a webhook was made with; "" where the scheme asks for none.

    An empty or unusable secret fails every webhook: it is never skipped.

    Args:
        now: In unix seconds.

    Raises:
        VerificationError: Whoever made the webhook knew none of the secrets.
    """
    if scheme.kind == "none":
        return ""
    if not secrets:
        raise VerificationError("this source has no secret to check webhooks with")
    for secret in secrets:
        if problem := secret_problem(scheme, secret):
            raise VerificationError(f"this source cannot check webhooks: {problem}")
    request = Request(webhook, scheme.content_type, most=MAX_UNPROVEN)
    return _VERIFIERS[scheme.kind](scheme, secrets, request, now)


def fingerprint(scheme: Scheme, webhook: Webhook) -> str:
    """Give what makes a repeated webhook the same where its sender names none: SHA-256 of what it proves.

    That is the body, or what is signed of it where it can be written in several ways.
    """
    proven = providers.proven_content(scheme, Request(webhook, scheme.content_type))
    return hashlib.sha256(proven or webhook.body).hexdigest()


def secret_headers(scheme: Scheme) -> frozenset[str]:
    """Name the headers, in lower case, that must not be kept with an event."""
    if scheme.kind not in SENT_SECRETS:
        return ALWAYS_SECRET
    return ALWAYS_SECRET | {name.lower() for name in scheme.header}


def secret_parameters(scheme: Scheme) -> frozenset[str]:
    """Name the parameters of the query that must not be kept with an event."""
    is_secret = scheme.kind in SENT_SECRETS and scheme.at is not None and scheme.at.part == "query"
    return frozenset({scheme.at.name}) if scheme.at is not None and is_secret else frozenset()


# A secret that is sent along


def _verify_token(scheme: Scheme, secrets: Sequence[str], request: Request, _now: float) -> str:
    where, tokens = _tokens(scheme, request)
    proof = ""
    for token in tokens:
        proof = _sent_secret(secrets, _token_bytes(token)) or ""
        if not proof:
            raise VerificationError(f"the token in the {where} is not the one of this source")
    return proof


def _tokens(scheme: Scheme, request: Request) -> tuple[str, list[str]]:
    """Give the token, or all of them where each item of the body bears one."""
    if scheme.at is None:
        name, header = _header(scheme.header, request)
        # Not every white space: in a token beyond ASCII, its bytes can look like some.
        return f"header {name}", [_without_prefix(scheme.prefix, name, header).strip(" \t")]
    found = [each if isinstance(each, str) else "" for each in request.all(scheme.at)]
    if not 0 < len(found) <= MAX_TOKENS:
        raise VerificationError(f"the {scheme.at} is missing, or there more than {MAX_TOKENS:,} times")
    return str(scheme.at), found


def _token_bytes(token: str) -> tuple[bytes, ...]:
    # A web server hands each byte of a header over as one character; a token may be those bytes, or the text.
    return as_sent(token), token.encode("utf-8", "surrogatepass")


def _verify_basic(scheme: Scheme, secrets: Sequence[str], request: Request, _now: float) -> str:
    name, header = _header(scheme.header, request)
    credentials = decoded("base64", _without_prefix(scheme.prefix, name, header).strip())
    if not credentials:
        raise VerificationError(f"the header {name} does not hold a user and password in base64")
    if secret := _sent_secret(secrets, (credentials,)):
        return secret
    raise VerificationError(f"the user or password in the header {name} is not the one of this source")


def _sent_secret(secrets: Sequence[str], sent: Iterable[bytes]) -> str | None:
    matching = [secret for secret in secrets for each in sent if hmac.compare_digest(secret.encode(), each)]
    return matching[0] if matching else None


# A signature


def _verify_signature(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> str:
    where, texts = _texts(scheme, request)
    candidates = _candidates(scheme, where, texts)
    # A time in a body that is signed is read when the body is proven: to decode it takes a while.
    time = scheme.timestamp
    is_proven_first = time is not None and time.body is not None and "{ts}" not in scheme.signed
    timestamp = "" if is_proven_first else _checked_timestamp(scheme, where, texts, request, now)
    matches = _MATCHERS[scheme.kind]
    for secret in secrets:
        if matches(scheme, secret, request, timestamp, candidates):
            if is_proven_first:
                _checked_timestamp(scheme, where, texts, Request(request.webhook, scheme.content_type), now)
            return secret
    raise VerificationError(f"no signature in the {where} is made with a secret of this source")


def _texts(scheme: Scheme, request: Request) -> tuple[str, list[str]]:
    """Give what the headers of the signature hold, or its place elsewhere."""
    if scheme.at is not None:
        return str(scheme.at), [request.need(scheme.at)]
    sent = [name for name in scheme.header if request.webhook.headers.get(name.lower())]
    if not sent:
        raise _missing(scheme.header)
    return f"header {' or '.join(sent)}", [_header((name,), request)[1] for name in sent]


def _header(names: Sequence[str], request: Request) -> tuple[str, str]:
    for name in names:
        if value := request.webhook.headers.get(name.lower()):
            if len(value) > MAX_HEADER:
                raise VerificationError(f"the header {name} is longer than {MAX_HEADER} characters")
            return name, value
    raise _missing(names)


def _missing(names: Sequence[str]) -> VerificationError:
    return VerificationError(f"the header {' or '.join(names)} is missing; is the secret set at the sender?")


def _without_prefix(prefix: str, name: str, value: str) -> str:
    if value[: len(prefix)].lower() != prefix.lower():
        raise VerificationError(f"the header {name} does not begin with '{prefix}'")
    return value[len(prefix) :]


def _candidates(scheme: Scheme, where: str, texts: Sequence[str]) -> list[bytes]:
    written = [each for text in texts for each in _signatures(scheme, text)]
    if len(written) > MAX_CANDIDATES:
        raise VerificationError(f"the {where} holds more than {MAX_CANDIDATES} signatures")
    candidates = [candidate for each in written if (candidate := decoded(scheme.encoding, each))]
    if not candidates:
        before = f" behind '{scheme.prefix}'" if scheme.prefix else ""
        called = f" called {scheme.key}" if scheme.key else before
        raise VerificationError(f"the {where} holds no signature{called} in {scheme.encoding}")
    return candidates


def _signatures(scheme: Scheme, text: str) -> list[str]:
    if scheme.key is not None:
        return _items(scheme, text, scheme.key)
    if scheme.positional:
        return [item.strip() for item in text.split(scheme.items)[1:]]
    has_prefix = text[: len(scheme.prefix)].lower() == scheme.prefix.lower()
    return [text[len(scheme.prefix) :]] if has_prefix else []


def _items(scheme: Scheme, text: str, key: str) -> list[str]:
    items = (item.strip().partition(scheme.sep) for item in text.split(scheme.items))
    return [value.strip() for name, _, value in items if name.strip() == key]


def _checked_timestamp(scheme: Scheme, where: str, texts: Sequence[str], request: Request, now: float) -> str:
    if scheme.timestamp is None:
        return ""
    place, text = _timestamp(scheme, where, texts, request)
    sent_at = _seconds(text, scheme.timestamp.unit)
    if sent_at is None:
        raise VerificationError(f"the timestamp in the {place} is not a time in the unit that this scheme expects")
    tolerance = scheme.timestamp.tolerance
    # Asked this way round, a clock that gives NaN fails too.
    if tolerance is not None and not abs(now - sent_at) <= tolerance:
        direction = "in the future" if sent_at > now else "old"
        raise VerificationError(
            f"the timestamp in the {place} is {abs(now - sent_at):.0f} seconds {direction}, at most {tolerance} are"
            " allowed; is the clock of this machine right?"
        )
    return text


def _timestamp(scheme: Scheme, where: str, texts: Sequence[str], request: Request) -> tuple[str, str]:
    timestamp = scheme.timestamp
    assert timestamp is not None
    if scheme.positional:
        return where, texts[0].split(scheme.items)[0].strip()
    if timestamp.body is not None:
        place = Place("body", timestamp.body)
        return str(place), request.need(place)
    if timestamp.item is None:
        name, text = _header(timestamp.header, request)
        return f"header {name}", text
    found = _items(scheme, texts[0], timestamp.item)
    if len(found) != 1:
        raise VerificationError(f"the {where} must hold one timestamp called {timestamp.item}")
    return where, found[0]


def _seconds(text: str, unit: Unit) -> float | None:
    if unit == "iso":
        return _iso_seconds(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        return None
    return int(text) / 1000 if unit == "ms" else float(text)


def _iso_seconds(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo else None


# What a signature is, by kind


def _hmac_matches(scheme: Scheme, secret: str, request: Request, timestamp: str, candidates: Sequence[bytes]) -> bool:
    expected = hmac.digest(key_of(scheme, secret), filled(scheme, request, timestamp), scheme.algorithm)
    return any(hmac.compare_digest(expected, candidate) for candidate in candidates)


def _digest_matches(scheme: Scheme, secret: str, request: Request, timestamp: str, candidates: Sequence[bytes]) -> bool:
    signed = filled(scheme, request, timestamp, key_of(scheme, secret))
    expected = hashlib.new(scheme.algorithm, signed).digest()
    return any(hmac.compare_digest(expected, candidate) for candidate in candidates)


def _ed25519_matches(
    scheme: Scheme, secret: str, request: Request, timestamp: str, candidates: Sequence[bytes]
) -> bool:
    key, signed = ed25519_key(key_of(scheme, secret)), filled(scheme, request, timestamp)
    return _any_is_valid(lambda candidate: key.verify(candidate, signed), candidates)


def _ecdsa_matches(scheme: Scheme, secret: str, request: Request, timestamp: str, candidates: Sequence[bytes]) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    key, signed = ecdsa_key(key_of(scheme, secret)), filled(scheme, request, timestamp)
    return _any_is_valid(lambda candidate: key.verify(candidate, signed, ECDSA(SHA256())), candidates)


def _any_is_valid(verify_one: Callable[[bytes], None], candidates: Sequence[bytes]) -> bool:
    from cryptography.exceptions import InvalidSignature

    for candidate in candidates:
        try:
            verify_one(candidate)
        except InvalidSignature:
            continue
        return True
    return False


_MATCHERS: Mapping[str, Callable[[Scheme, str, Request, str, Sequence[bytes]], bool]] = {
    "hmac": _hmac_matches,
    "digest": _digest_matches,
    "ed25519": _ed25519_matches,
    "ecdsa": _ecdsa_matches,
}

_VERIFIERS: Mapping[str, Callable[[Scheme, Sequence[str], Request, float], str]] = {
    **dict.fromkeys(_MATCHERS, _verify_signature),
    "token": _verify_token,
    "basic": _verify_basic,
    "adyen": providers.verify_adyen,
    "braintree": providers.verify_braintree,
    "contentful": providers.verify_contentful,
    "twilio": providers.verify_twilio,
}
