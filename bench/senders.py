"""Seven kinds of senders, each with its own way to sign, whose webhooks the shipped mappings make calls of."""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config import DEFAULT_MAX_BODY
from gateway.event import JSON
from gateway.mapping.compiler import parse
from gateway.payload import FORM
from gateway.receive.sources import mapping_files
from gateway.verify import Scheme, secret_problem

MAPPINGS = Path(__file__).parent.parent / "mappings"
PUBLIC_URL = "https://hooks.example.com"
PEOPLE = 1_000


def made_up_secrets() -> dict[str, str]:
    """Make up what each shipped mapping wants as its secret, by the name of its variable."""
    mappings = [parse(file.read_text(), str(file))[0] for file in mapping_files(MAPPINGS)]
    return {name: _secret(each.verify.scheme) for each in mappings for name in each.verify.secret_env}


def _secret(scheme: Scheme) -> str:
    public = _key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    shared = scheme.secret_prefix + base64.b64encode(b"an example of thirty-two bytes..").decode()
    candidates = (shared, "user:password", base64.b64encode(public).decode())
    return next(each for each in candidates if secret_problem(scheme, each) is None)


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


#: Further headers, and the body as it is sent, for a secret, a body and the time.
_Sign: TypeAlias = Callable[[str, bytes, str], tuple[dict[str, str], bytes]]


def _mac(secret: str, text: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(secret.encode(), text, algorithm)


def _stripe(secret: str, body: bytes, now: str) -> tuple[dict[str, str], bytes]:
    mac = _mac(secret, f"{now}.".encode() + body).hex()
    return {"Stripe-Signature": f"t={now},v1={mac}"}, body


def _github(secret: str, body: bytes, _now: str) -> tuple[dict[str, str], bytes]:
    mac = _mac(secret, body).hex()
    return {"X-Hub-Signature-256": f"sha256={mac}", "X-GitHub-Delivery": str(uuid.uuid4())}, body


def _shopify(secret: str, body: bytes, _now: str) -> tuple[dict[str, str], bytes]:
    mac = base64.b64encode(_mac(secret, body)).decode()
    return {"X-Shopify-Hmac-SHA256": mac, "X-Shopify-Event-Id": str(uuid.uuid4())}, body


def _sendgrid(_secret: str, body: bytes, now: str) -> tuple[dict[str, str], bytes]:
    signature = base64.b64encode(_key().sign(now.encode() + body, ec.ECDSA(SHA256()))).decode()
    name = "X-Twilio-Email-Event-Webhook"
    return {f"{name}-Signature": signature, f"{name}-Timestamp": now}, body


def _twilio(secret: str, body: bytes, _now: str) -> tuple[dict[str, str], bytes]:
    fields = "".join(name + value for name, value in sorted(parse_qsl(body.decode())))
    mac = _mac(secret, f"{PUBLIC_URL}/hooks/twilio{fields}".encode(), "sha1")
    return {"X-Twilio-Signature": base64.b64encode(mac).decode()}, body


def _slack(secret: str, body: bytes, now: str) -> tuple[dict[str, str], bytes]:
    mac = _mac(secret, f"v0:{now}:".encode() + body).hex()
    return {"X-Slack-Signature": f"v0={mac}", "X-Slack-Request-Timestamp": now}, body


def _mailgun(secret: str, body: bytes, now: str) -> tuple[dict[str, str], bytes]:
    signed = json.loads(body)["signature"]
    mac = _mac(secret, (now + signed["token"]).encode()).hex()
    for old, new in ((signed["timestamp"], now), (signed["signature"], mac)):
        body = body.replace(f'"{old}"'.encode(), f'"{new}"'.encode())
    return {}, body


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of sender.

    Attributes:
        test: The test of its mapping file whose body it sends.
        once: Texts of the body behind which goes the number of the webhook, so that no two are alike.
        people: Those behind which goes the number of a person.
    """

    source: str
    sign: _Sign
    test: str
    once: Sequence[str]
    people: Sequence[str]


_KINDS = (
    _Kind(
        source="stripe",
        sign=_stripe,
        test="a paid invoice",
        once=('"evt_11',),
        people=('"cus_42', '"ann'),
    ),
    _Kind(
        source="github",
        sign=_github,
        test="a push, which has no action",
        once=('{"id": "a',),
        people=('"sender": {"id": 1',),
    ),
    _Kind(
        source="shopify",
        sign=_shopify,
        test="a new order is an event of its customer",
        once=('{"id": 9',),
        people=('"customer": {"id": 1', '"bob'),
    ),
    _Kind(
        source="sendgrid",
        sign=_sendgrid,
        test="the events of one webhook are handled each on its own, and SendGrid's steps in between are ignored",
        once=('"e-',),
        people=('"ann',),
    ),
    _Kind(
        source="twilio",
        sign=_twilio,
        test="a delivered message is an event of who was written to",
        once=("MessageSid=SM5",),
        people=("&To=%2B1555",),
    ),
    _Kind(
        source="slack",
        sign=_slack,
        test="a message, without what it says",
        once=('"Ev5',),
        people=('"U1',),
    ),
    _Kind(
        source="mailgun",
        sign=_mailgun,
        test="a delivered mail",
        once=('"abc', '"e-1'),
        people=('"Ann',),
    ),
)
EVENTS = 20


class Mail:
    """What all kinds of senders post, in turns."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._senders = [_Sender(kind, secrets) for kind in _KINDS]
        # All of as many digits: one number is never the beginning of another.
        self._keys = itertools.count(1_000_000)

    def genuine(self, number: int) -> bytes:
        """Write a webhook that nobody has seen before."""
        return self._of(number).written(next(self._keys))

    def calls(self, number: int) -> int:
        """Tell how many calls the gateway makes of it."""
        return self._of(number).calls

    def wrong(self) -> list[bytes]:
        """Write webhooks whose bodies are not what was signed: one of each kind as it is, and one of 1 MiB."""
        return [each.wrong(size) for size in (0, DEFAULT_MAX_BODY) for each in self._senders]

    def _of(self, number: int) -> _Sender:
        return self._senders[number % len(self._senders)]


class _Sender:
    """Writes out the webhooks of one kind of sender as HTTP."""

    def __init__(self, kind: _Kind, secrets: Mapping[str, str]) -> None:
        mapping, _ = parse((MAPPINGS / f"{kind.source}.yaml").read_text(), kind.source)
        test = next(each for each in mapping.tests if each.name == kind.test)
        self._kind = kind
        self._secret = secrets[mapping.verify.secret_env[0]]
        self._type = FORM if kind.source == "twilio" else "application/json"
        self._headers = test.headers
        self._payload = _events(test.body) if isinstance(test.body, list) else test.body
        self._text = self._encoded(self._payload)
        self.calls = EVENTS if isinstance(test.body, list) else len(test.expect or ())

    def written(self, key: int) -> bytes:
        """Write one."""
        headers, body = self._signed(self._text, key)
        return self._http(headers, body)

    def wrong(self, size: int) -> bytes:
        """Write one that was changed after it was signed, of so many bytes at least."""
        headers, body = self._signed(
            self._encoded(_padded(self._payload, self._type)) if size else self._text, 1_234_567
        )
        return self._http(headers, body.replace(b"1234567", b"7654321").ljust(size))

    def _encoded(self, payload: JSON) -> str:
        if self._type == FORM:
            assert isinstance(payload, dict)
            return urlencode(payload)
        return json.dumps(payload)

    def _signed(self, text: str, key: int) -> tuple[dict[str, str], bytes]:
        for mark in self._kind.once:
            text = text.replace(mark, f"{mark}{key}")
        for mark in self._kind.people:
            text = text.replace(mark, f"{mark}{key % PEOPLE}")
        return self._kind.sign(self._secret, text.encode(), str(int(time.time())))

    def _http(self, headers: Mapping[str, str], body: bytes) -> bytes:
        own = {"Host": "localhost", "Content-Type": self._type, "Content-Length": len(body)}
        lines = [f"{name}: {value}" for name, value in {**own, **self._headers, **headers}.items()]
        return "\r\n".join([f"POST /hooks/{self._kind.source} HTTP/1.1", *lines, "\r\n"]).encode() + body


def _events(body: list[JSON]) -> list[JSON]:
    """Make a full list of SendGrid's events, of as many people, of which each makes a call."""
    delivered_and_click = [each for each in body if isinstance(each, dict)][1:]
    return [
        {**delivered_and_click[each % 2], "sg_event_id": f"e-{each:02}", "email": f"ann{each:02}@example.com"}
        for each in range(EVENTS)
    ]


def _padded(payload: JSON, kind: str) -> JSON:
    """Add nearly 1 MiB that costs its reader something."""
    items: list[JSON] = [{"id": 10**9 + each, "name": "x"} for each in range(30_000)]
    if isinstance(payload, list):
        return payload + items
    assert isinstance(payload, dict)
    return payload | {"padding": "x" * 1_000_000 if kind == FORM else items}
