"""Senders whose signature no template can express: Adyen, Braintree, Contentful and Twilio."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from urllib.parse import parse_qs, urlparse

from gateway.errors import RequestError, VerificationError
from gateway.event import JSON
from gateway.verify.keys import decode_signature, secret_key
from gateway.verify.request_fields import RequestField, WebhookReader, text_at
from gateway.verify.scheme import Scheme, Timestamp
from gateway.verify.template import header_bytes

# Adyen's standard webhooks: each item of the body carries a signature of eight of its fields

_ITEMS = RequestField("body", "notificationItems[].NotificationRequestItem")
#: Each item costs a signature for each secret, before the webhook is verified.
_MAX_ITEMS = 100
_SIGNED_FIELDS = (
    "pspReference",
    "originalReference",
    "merchantAccountCode",
    "merchantReference",
    "amount.value",
    "amount.currency",
    "eventCode",
    "success",
)


def verify_adyen(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, _now: float) -> str:
    """Return the secret that signed every item of the body; raise VerificationError if there is none."""
    items = reader.values(_ITEMS)
    if not 0 < len(items) <= _MAX_ITEMS:
        raise VerificationError(f"the body does not hold from 1 to {_MAX_ITEMS} notificationItems")
    for secret in secrets:
        key = secret_key(scheme, secret)
        signed = (":".join(text_at(item, path) for path in _SIGNED_FIELDS) for item in items)
        expected = [hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256") for text in signed]
        if all(map(hmac.compare_digest, expected, map(_adyen_signature, items))):
            return secret
    raise VerificationError("not every item of the body is signed with a secret of this source")


def _adyen_signature(item: JSON) -> bytes:
    return decode_signature("base64", text_at(item, "additionalData.hmacSignature")) or b""


# Braintree: a form of bt_signature and bt_payload, and a challenge; the key is a hash of the private key

_PAYLOAD = RequestField("body", "bt_payload")
_SIGNATURES = RequestField("body", "bt_signature")
_MAX_SIGNATURES = 16
_CHALLENGE = re.compile("[a-f0-9]{20,32}")


def verify_braintree(_scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, _now: float) -> str:
    """Return the secret (public_key:private_key) that signed the payload; raise VerificationError if there is none."""
    payload = reader.required_text(_PAYLOAD)
    form = reader.payload
    if not isinstance(form, dict) or form.keys() != {"bt_payload", "bt_signature"}:
        raise VerificationError("the body holds more than bt_payload and bt_signature, and only these are signed")
    # The reply to a challenge gives its signature to anybody, so a signed challenge proves nothing.
    if _CHALLENGE.fullmatch(payload):
        raise VerificationError("bt_payload is a challenge")
    pairs = [pair.partition("|") for pair in reader.required_text(_SIGNATURES).split("&")[:_MAX_SIGNATURES]]
    for secret in secrets:
        public_key, _, private_key = secret.partition(":")
        # Braintree's own libraries accept both.
        expected = [_braintree_signature(private_key, text) for text in (payload, payload + "\n")]
        sent = [signature.encode("utf-8", "surrogatepass") for key, _, signature in pairs if key == public_key]
        if any(hmac.compare_digest(good.encode(), signature) for good in expected for signature in sent):
            return secret
    raise VerificationError("bt_signature is not made with a private key of this source")


def braintree_response(secret: str, challenge: str) -> str:
    """Return the response to the challenge by which Braintree checks who owns an address.

    Raises:
        VerificationError: The text is no challenge. Anybody may send one, and must not get any other text signed.
    """
    if not _CHALLENGE.fullmatch(challenge):
        raise VerificationError("bt_challenge is not a challenge of Braintree's")
    public_key, _, private_key = secret.partition(":")
    return f"{public_key}|{_braintree_signature(private_key, challenge)}"


def _braintree_signature(private_key: str, text: str) -> str:
    key = hashlib.sha1(private_key.encode()).digest()  # noqa: S324  # Braintree's choice
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), "sha1").hexdigest()


# Contentful: method, path, the headers that one header lists, and the body

_SHA256_BYTES = 32
_LIST, _TIME = "x-contentful-signed-headers", "x-contentful-timestamp"
#: Seconds, into the past and into the future. Contentful retries after half a minute, unless the space has a policy of
#: its own; what time a retry carries is not documented. The signed body is the event key.
CONTENTFUL_TOLERANCE = 7_200
#: Contentful signs these and up to a few that the space chooses. Each one may be as long as all headers together.
_MAX_SIGNED_HEADERS = 30


def verify_contentful(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, now: float) -> str:
    """Return the secret that signed the request in the last hours; raise VerificationError if there is none."""
    signature = decode_signature("hex", _signature_header(scheme, reader)) or b""
    if len(signature) != _SHA256_BYTES:
        raise VerificationError(f"the header {scheme.header[0]} holds no signature of {_SHA256_BYTES} bytes in hex")
    names = reader.required_text(RequestField("header", _LIST)).lower().split(",", _MAX_SIGNED_HEADERS)
    if len(names) > _MAX_SIGNED_HEADERS or len(set(names)) < len(names):
        raise VerificationError(f"the header {_LIST} names more than {_MAX_SIGNED_HEADERS} headers, or one twice")
    # A stranger could replace the list or the time if the signature did not cover them.
    if missing := {_LIST, _TIME} - set(names):
        raise VerificationError(f"the header {missing.pop()} is not signed")
    time = Timestamp(unit="ms").unix_seconds(reader.required_text(RequestField("header", _TIME)))
    # `not … <=`: with a clock that gives NaN this refuses.
    if time is None or not abs(now - time) <= CONTENTFUL_TOLERANCE:
        raise VerificationError(f"the header {_TIME} is no time of the last {CONTENTFUL_TOLERANCE} seconds")
    headers = ";".join(f"{name}:{reader.required_text(RequestField('header', name))}" for name in names)
    webhook, address = reader.webhook, reader.address
    path = address.path + (f"?{address.query}" if address.query else "")
    signed = header_bytes(f"{webhook.method}\n{path}\n{headers}\n") + webhook.body
    for secret in secrets:
        if hmac.compare_digest(hmac.digest(secret_key(scheme, secret), signed, "sha256"), signature):
            return secret
    raise VerificationError(f"the signature in the header {scheme.header[0]} is not made with a secret of this source")


def _signature_header(scheme: Scheme, reader: WebhookReader) -> str:
    return reader.required_text(RequestField("header", scheme.header[0]), "; is the secret set at the sender?")


# Twilio: the URL, with or without its port, and the fields of a form, or in the URL the hash of the body. What Twilio's
# own packages accept is accepted: they differ in what they do with a form whose URL holds a hash.

_SETTINGS = RequestField("header", "X-Twilio-Webhooks-Signature-Settings")
_TWILIO_ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


def verify_twilio(scheme: Scheme, secrets: Sequence[str], reader: WebhookReader, _now: float) -> str:
    """Return the secret that signed the URL and the body; raise VerificationError if there is none."""
    signature = decode_signature("base64", _signature_header(scheme, reader)) or b""
    algorithm = _twilio_algorithm(reader)
    # Before the form is read: this costs nothing.
    if len(signature) != (length := hashlib.new(algorithm).digest_size):
        raise VerificationError(f"the header {scheme.header[0]} holds no signature of {length} bytes in base64")
    bodies = _twilio_bodies(reader)
    for secret in secrets:
        key = secret_key(scheme, secret)
        for url in _twilio_urls(reader):
            for body in bodies:
                if hmac.compare_digest(hmac.digest(key, header_bytes(url) + body, algorithm), signature):
                    return secret
    raise VerificationError(
        f"the signature in the header {scheme.header[0]} is not made with a secret of this source, or for another"
        " address than the one that GATEWAY_PUBLIC_URL gives"
    )


def _twilio_algorithm(reader: WebhookReader) -> str:
    """Return the hash that a header names for webhooks signed with a shared key; without it the auth token's SHA-1."""
    items = (item.strip().partition("=") for item in reader.text(_SETTINGS).split(","))
    name = next((value.strip() for name, _, value in items if name == "algorithm" and value.strip()), "HMAC_SHA1")
    if algorithm := _TWILIO_ALGORITHMS.get(name.upper()):
        return algorithm
    raise VerificationError(f"the {_SETTINGS} names another algorithm than {' or '.join(_TWILIO_ALGORITHMS)}")


def _twilio_bodies(reader: WebhookReader) -> list[bytes]:
    """Return what may be signed behind the URL: the fields of a form, nothing if the URL holds the body's hash."""
    form = reader.form_text if reader.is_form else b""
    body_hash = next(iter(parse_qs(reader.address.query).get("bodySHA256", ())), None)
    if body_hash is None and not reader.is_form:
        raise VerificationError("the body is no form, and the address does not contain its hash (bodySHA256)")
    digest = hashlib.sha256(reader.webhook.body).hexdigest()
    is_hashed = body_hash is not None and hmac.compare_digest(digest.encode(), header_bytes(body_hash.lower()))
    # Without fields only the hash, if there is one, says which body belongs to the URL.
    bodies = ([form] if form or body_hash is None else []) + ([b""] if is_hashed else [])
    if not bodies:
        raise VerificationError("the body does not match the hash in the address (bodySHA256)")
    return bodies


def _twilio_urls(reader: WebhookReader) -> list[str]:
    """Return how Twilio may have written the URL. It does not say when it signs the port; its libraries accept both."""
    address = reader.address
    if not address.netloc:
        raise VerificationError("the public address, which Twilio signs, is not known; set GATEWAY_PUBLIC_URL")
    host = re.sub(r":\d+$", "", address.netloc)
    with_port = address.netloc if host != address.netloc else f"{host}:{443 if address.scheme == 'https' else 80}"
    # As it was sent, and as the libraries write it again: without a ? that nothing follows, for example.
    sent = reader.webhook.url
    urls = (
        url.replace(address.netloc, netloc, 1)
        for url in (sent, urlparse(sent).geturl())
        for netloc in (host, with_port)
    )
    return list(dict.fromkeys(urls))


# Repeated webhooks


def proven_content(scheme: Scheme, reader: WebhookReader) -> bytes:
    """Return the part of a body that one proof fixes, for schemes that leave the rest open; b"" for all others.

    Without it a stranger could send a captured webhook again in another spelling, as a new event.
    """
    signs_fields = scheme.kind == "twilio" or "{form}" in scheme.signed
    try:
        match scheme.kind:
            case "adyen":
                return b"".join(sorted({_adyen_signature(item) for item in reader.values(_ITEMS)}))
            case "braintree":
                return reader.text(_PAYLOAD).encode("utf-8", "surrogatepass")
            case _ if signs_fields and reader.is_form:
                return reader.form_text
    except RequestError:
        return b""
    return b""
