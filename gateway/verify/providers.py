"""What some senders sign that no template can say: Adyen, Braintree, Contentful and Twilio."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from urllib.parse import SplitResult

from gateway.errors import VerificationError
from gateway.event import JSON
from gateway.verify.keys import decoded, key_of
from gateway.verify.places import Place, Request, text_at
from gateway.verify.scheme import Scheme
from gateway.verify.template import as_sent, form_of

_WRONG = "the signature in the header {} is not made with a secret of this source"


def _signature(scheme: Scheme, request: Request) -> str:
    (name,) = scheme.header
    return request.need(Place("header", name), "; is the secret set at the sender?")


#: Seconds that a request of Contentful is good for, either way.
_CONTENTFUL_TOLERANCE = 300


# Adyen's standard webhooks: every item of the body bears a signature of eight of its fields


def verify_adyen(scheme: Scheme, secrets: Sequence[str], request: Request, _now: float) -> str:
    """Demand that every item is signed, all with one of the secrets."""
    items = request.all(_ITEMS)
    if not 0 < len(items) <= _MOST_ITEMS:
        raise VerificationError(f"the body does not hold from 1 to {_MOST_ITEMS} notificationItems")
    for secret in secrets:
        key = key_of(scheme, secret)
        if all(_is_signed(item, key) for item in items):
            return secret
    raise VerificationError("not every item of the body is signed with a secret of this source")


_ITEMS, _MOST_ITEMS = Place("body", "notificationItems[].NotificationRequestItem"), 100


def _is_signed(item: JSON, key: bytes) -> bool:
    signature = _signature_of(item)
    signed = ":".join(text_at(item, path) for path in _SIGNED_BY_ADYEN)
    expected = hmac.digest(key, signed.encode("utf-8", "surrogatepass"), "sha256")
    return signature is not None and hmac.compare_digest(expected, signature)


def _signature_of(item: JSON) -> bytes | None:
    return decoded("base64", text_at(item, "additionalData.hmacSignature"))


_SIGNED_BY_ADYEN = (
    "pspReference",
    "originalReference",
    "merchantAccountCode",
    "merchantReference",
    "amount.value",
    "amount.currency",
    "eventCode",
    "success",
)


# Braintree: a form of bt_signature and bt_payload, and a challenge; the key is a hash of the private key


def verify_braintree(_scheme: Scheme, secrets: Sequence[str], request: Request, _now: float) -> str:
    """Demand a signature of the payload by one of the pairs of keys, each written public_key:private_key."""
    payload = request.need(_PAYLOAD)
    form = request.payload
    if not isinstance(form, dict) or form.keys() != {"bt_payload", "bt_signature"}:
        raise VerificationError("the body holds more than bt_payload and bt_signature, which nobody signs")
    if _CHALLENGE.fullmatch(payload):
        # Anybody is told the signature of a challenge.
        raise VerificationError("bt_payload is a challenge")
    pairs = [pair.partition("|") for pair in request.need(Place("body", "bt_signature")).split("&")[:_MOST_PAIRS]]
    for secret in secrets:
        public, _, private = secret.partition(":")
        expected = [_of_braintree(private, text) for text in (payload, payload + "\n")]
        found = [signature.encode("utf-8", "surrogatepass") for key, _, signature in pairs if key == public]
        if any(hmac.compare_digest(each.encode(), one) for each in expected for one in found):
            return secret
    raise VerificationError("bt_signature is not made with a private key of this source")


_PAYLOAD = Place("body", "bt_payload")
_MOST_PAIRS = 16
_CHALLENGE = re.compile("[a-f0-9]{20,32}")


def braintree_answer(secret: str, challenge: str) -> str:
    """Answer the challenge by which Braintree finds out who owns an address.

    Raises:
        VerificationError: It is none: anybody may ask, and must not get whatever text signed.
    """
    if not _CHALLENGE.fullmatch(challenge):
        raise VerificationError("bt_challenge is not a challenge of Braintree's")
    public, _, private = secret.partition(":")
    return f"{public}|{_of_braintree(private, challenge)}"


def _of_braintree(private: str, text: str) -> str:
    key = hashlib.sha1(private.encode()).digest()  # noqa: S324  # Braintree's choice
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), "sha1").hexdigest()


# Contentful: method, path, the headers that one header lists, and the body


def verify_contentful(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> str:
    """Demand a signature of the request as Contentful writes it down, made in the last minutes."""
    signature = decoded("hex", _signature(scheme, request))
    listed = request.need(Place("header", _LIST)).lower().split(",")
    if missing := {_LIST, _TIME} - set(listed):
        raise VerificationError(f"the header {missing.pop()} is not signed")
    time = request.need(Place("header", _TIME))
    is_time = time.isascii() and time.isdigit() and len(time) <= 16
    if not is_time or not abs(now - int(time) / 1000) <= _CONTENTFUL_TOLERANCE:
        raise VerificationError(f"the header {_TIME} is no time of the last {_CONTENTFUL_TOLERANCE} seconds")
    headers = ";".join(f"{name}:{request.need(Place('header', name))}" for name in listed)
    webhook, address = request.webhook, request.address
    path = address.path + (f"?{address.query}" if address.query else "")
    signed = as_sent(f"{webhook.method}\n{path}\n{headers}\n") + webhook.body
    for secret in secrets:
        if hmac.compare_digest(hmac.digest(key_of(scheme, secret), signed, "sha256"), signature or b""):
            return secret
    raise VerificationError(_WRONG.format(scheme.header[0]))


_LIST, _TIME = "x-contentful-signed-headers", "x-contentful-timestamp"


# Twilio: the address, with or without its port, and the fields of a form or the hash of another body


def verify_twilio(scheme: Scheme, secrets: Sequence[str], request: Request, _now: float) -> str:
    """Demand a signature of the address and of the body."""
    signature = decoded("base64", _signature(scheme, request))
    covered = _covered_by_twilio(request)
    if not request.address.netloc:
        raise VerificationError("the public address, which Twilio signs, is not known; set GATEWAY_PUBLIC_URL")
    for secret in secrets:
        for url in _with_and_without_port(request.webhook.url, request.address):
            expected = hmac.digest(key_of(scheme, secret), as_sent(url) + covered, "sha1")
            if hmac.compare_digest(expected, signature or b""):
                return secret
    raise VerificationError(
        f"{_WRONG.format(scheme.header[0])}, or for another address than the one that GATEWAY_PUBLIC_URL gives"
    )


def _covered_by_twilio(request: Request) -> bytes:
    named = request.webhook.query.get("bodySHA256")
    if named is None and not request.is_form:
        raise VerificationError("the body is no form, and the address does not bear its hash (bodySHA256)")
    digest = hashlib.sha256(request.webhook.body).hexdigest()
    if named is not None and not hmac.compare_digest(digest.encode(), as_sent(named.lower())):
        raise VerificationError("the body is not the one whose hash the address bears (bodySHA256)")
    return form_of(request) if request.is_form else b""


def _with_and_without_port(url: str, parts: SplitResult) -> Iterator[str]:
    bare = _PORT.sub("", parts.netloc)
    default = 443 if parts.scheme == "https" else 80
    with_port = parts.netloc if bare != parts.netloc else f"{bare}:{default}"
    for host in (bare, with_port):
        yield url.replace(parts.netloc, host, 1)


_PORT = re.compile(r":\d+$")


# What a repeat cannot change


def proven_content(scheme: Scheme, request: Request) -> bytes:
    """Give what a webhook has in common with any other that its proof is good for; nothing: that is its body."""
    match scheme.kind:
        case "adyen":
            return b"".join(sorted({_signature_of(item) or b"" for item in request.all(_ITEMS)}))
        case "braintree":
            return request.text(_PAYLOAD).encode("utf-8", "surrogatepass")
    is_signed_as_form = scheme.kind == "twilio" or "{form}" in scheme.signed
    try:
        return form_of(request) if is_signed_as_form and request.is_form else b""
    except VerificationError:
        return b""
