"""Seven kinds of senders, each with its own way to sign, whose webhooks the shipped mappings turn into calls."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.harness import MAPPINGS, http_post
from gateway.config import DEFAULT_MAX_BODY
from gateway.event import JSON
from gateway.mapping.compiler import parse
from gateway.payload import FORM
from gateway.receive.sources import mapping_files
from gateway.verify import Scheme, secret_problem

PUBLIC_URL = "https://hooks.example.com"
PEOPLE = 1_000
#: Events in one webhook of SendGrid.
EVENTS = 20


def made_up_secrets() -> dict[str, str]:
    """Return a secret for each shipped mapping, by the name of its environment variable."""
    mappings = [parse(file.read_text(), str(file))[0] for file in mapping_files(MAPPINGS)]
    return {name: _secret(mapping.verify.scheme) for mapping in mappings for name in mapping.verify.secret_env}


def _secret(scheme: Scheme) -> str:
    public_key = _key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    shared_secret = scheme.secret_prefix + _base64(b"an example of thirty-two bytes..")
    candidates = (shared_secret, "user:password", _base64(public_key))
    return next(candidate for candidate in candidates if secret_problem(scheme, candidate) is None)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


# How each kind signs: with a secret, a body and the time, to the headers with the signature.


def _mac(secret: str, text: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(secret.encode(), text, algorithm)


def _stripe(secret: str, body: bytes, now: str) -> dict[str, str]:
    return {"Stripe-Signature": f"t={now},v1={_mac(secret, f'{now}.'.encode() + body).hex()}"}


def _github(secret: str, body: bytes, _now: str) -> dict[str, str]:
    return {"X-Hub-Signature-256": f"sha256={_mac(secret, body).hex()}", "X-GitHub-Delivery": str(uuid.uuid4())}


def _shopify(secret: str, body: bytes, _now: str) -> dict[str, str]:
    return {"X-Shopify-Hmac-SHA256": _base64(_mac(secret, body)), "X-Shopify-Event-Id": str(uuid.uuid4())}


def _sendgrid(_secret: str, body: bytes, now: str) -> dict[str, str]:
    signature = _base64(_key().sign(now.encode() + body, ec.ECDSA(SHA256())))
    name = "X-Twilio-Email-Event-Webhook"
    return {f"{name}-Signature": signature, f"{name}-Timestamp": now}


def _twilio(secret: str, body: bytes, _now: str) -> dict[str, str]:
    fields = "".join(name + value for name, value in sorted(parse_qsl(body.decode())))
    return {"X-Twilio-Signature": _base64(_mac(secret, f"{PUBLIC_URL}/hooks/twilio{fields}".encode(), "sha1"))}


def _slack(secret: str, body: bytes, now: str) -> dict[str, str]:
    signature = _mac(secret, f"v0:{now}:".encode() + body).hex()
    return {"X-Slack-Signature": f"v0={signature}", "X-Slack-Request-Timestamp": now}


def _sign_mailgun(secret: str, body: bytes, now: str) -> bytes:
    """Sign as Mailgun does: inside the body."""
    proof = json.loads(body)["signature"]
    signature = _mac(secret, (now + proof["token"]).encode()).hex()
    for old, new in ((proof["timestamp"], now), (proof["signature"], signature)):
        body = body.replace(f'"{old}"'.encode(), f'"{new}"'.encode())
    return body


class Kind(NamedTuple):
    """A kind of sender.

    Attributes:
        sign: Returns the headers with the signature; None for Mailgun.
        test: How the name of the test of its mapping file begins whose body it sends.
        unique: Texts of the body after which the number of the webhook is written, so that no two are alike.
        people: Those after which the number of a person is written.
    """

    source: str
    sign: Callable[[str, bytes, str], dict[str, str]] | None
    test: str
    unique: Sequence[str]
    people: Sequence[str]


KINDS = (
    Kind("stripe", _stripe, "a paid invoice", ['"evt_11'], ['"cus_42', '"ann']),
    Kind("github", _github, "a push tracks an event", ['{"id": "a'], ['"sender": {"id": 1']),
    Kind("shopify", _shopify, "a new order is an event", ['{"id": 9'], ['"customer": {"id": 1', '"bob']),
    Kind("sendgrid", _sendgrid, "each event of a webhook is handled separately", ['"e-'], ['"ann']),
    Kind("twilio", _twilio, "a delivered message is an event", ["MessageSid=SM5"], ["&To=%2B1555"]),
    Kind("slack", _slack, "a message tracks an event", ['"Ev5'], ['"U1']),
    Kind("mailgun", None, "a delivered email", ['"abc', '"e-1'], ['"Ann']),
)


class Sender:
    """Writes the webhooks of one kind of sender as HTTP requests.

    Attributes:
        calls: How many calls the gateway makes of each.
    """

    def __init__(self, kind: Kind, secrets: Mapping[str, str]) -> None:
        mapping, _ = parse((MAPPINGS / f"{kind.source}.yaml").read_text(), kind.source)
        test = next(test for test in mapping.tests if test.name.startswith(kind.test))
        self._kind = kind
        self._secret = secrets[mapping.verify.secret_env[0]]
        self._headers = {**test.headers, "Content-Type": FORM if kind.source == "twilio" else "application/json"}
        self._payload, self.calls = test.body, len(test.expect or ())
        if isinstance(test.body, list):  # SendGrid: a full list of events of as many people; each makes a call
            events = [event for event in test.body if isinstance(event, dict)][1:]
            self.calls = EVENTS
            self._payload = [
                {**events[n % 2], "sg_event_id": f"e-{n:02}", "email": f"ann{n:02}@example.com"} for n in range(EVENTS)
            ]
        self._text = self._encoded(self._payload)

    def genuine(self, key: int) -> bytes:
        """Return a webhook that nobody has seen before."""
        return self._request(*self._signed(self._text, key))

    def wrong(self, size: int) -> bytes:
        """Return a webhook of at least *size* bytes that was changed after it was signed."""
        text = self._encoded(_padded(self._payload, size)) if size else self._text
        body, headers = self._signed(text, 1_234_567)
        return self._request(body.replace(b"1234567", b"7654321").ljust(size), headers)

    def _request(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        return http_post(f"/hooks/{self._kind.source}", body, {**self._headers, **headers})

    def _encoded(self, payload: JSON) -> str:
        if self._kind.source == "twilio":
            assert isinstance(payload, dict)
            return urlencode(payload)
        return json.dumps(payload)

    def _signed(self, text: str, key: int) -> tuple[bytes, dict[str, str]]:
        for marks, number in ((self._kind.unique, key), (self._kind.people, key % PEOPLE)):
            for mark in marks:
                text = text.replace(mark, f"{mark}{number}")
        body, now = text.encode(), str(int(time.time()))
        if self._kind.sign is None:
            return _sign_mailgun(self._secret, body, now), {}
        return body, self._kind.sign(self._secret, body, now)


def _padded(payload: JSON, size: int) -> JSON:
    """Add *size* bytes that take time to parse."""
    items: list[JSON] = [{"id": 10**9 + number, "name": "x"} for number in range(size // 35)]
    if isinstance(payload, list):
        return payload + items
    assert isinstance(payload, dict)
    return payload | {"padding": items}


class Traffic:
    """The webhooks of all kinds of senders in turns."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._senders = [Sender(kind, secrets) for kind in KINDS]
        # All have as many digits: no number is the beginning of another.
        self._keys = itertools.count(1_000_000)
        self.wrong = [sender.wrong(size) for size in (0, DEFAULT_MAX_BODY) for sender in self._senders]

    def genuine(self, number: int) -> bytes:
        """Return a webhook that nobody has seen before, of the kind whose turn request *number* is."""
        return self._senders[number % len(KINDS)].genuine(next(self._keys))

    def calls(self, number: int) -> int:
        """Return how many calls the gateway makes of request *number*."""
        return self._senders[number % len(KINDS)].calls
