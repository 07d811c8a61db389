"""A signature scheme as a value: what an entry of schemes.yaml, or a scheme written in a mapping, says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal, TypeAlias

from gateway.errors import GatewayError
from gateway.event import JSON, Webhook
from gateway.verify.request_fields import DecodingLimits, RequestField, WebhookReader

#: The kinds from which a mapping can build a scheme of its own.
Kind: TypeAlias = Literal["hmac", "digest", "ed25519", "ecdsa", "token", "basic", "none"]
#: The kinds implemented in `providers`, because a template cannot express what they sign. Each is one scheme.
Special: TypeAlias = Literal["adyen", "braintree", "contentful", "twilio"]
Algorithm: TypeAlias = Literal["md5", "sha1", "sha256", "sha512"]
Encoding: TypeAlias = Literal["hex", "base64"]
SecretEncoding: TypeAlias = Literal["utf8", "base64", "hex"]
Unit: TypeAlias = Literal["s", "ms", "iso"]
#: The methods of handshakes.
Method: TypeAlias = Literal["GET", "HEAD", "OPTIONS", "POST"]

#: Seconds. A week: Customer.io repeats a refused reporting webhook for that long.
MAX_TOLERANCE = 7 * 86_400

#: Kinds whose secret is part of the request itself, and so has to be redacted before an event is stored.
SENT_SECRETS = ("token", "basic")
#: Kinds whose proof is a signature of a template.
SIGNING = ("hmac", "digest", "ed25519", "ecdsa")


class SchemeError(GatewayError):
    """A scheme written in a mapping is wrong; *key* is the path of the wrong key, as in ``timestamp.unit``."""

    def __init__(self, key: str | None, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class SecretFormat:
    """How the secret that the sender shows becomes a key: remove the prefix *strip*, then decode."""

    strip: str = ""
    encoding: SecretEncoding = "utf8"


@dataclass(frozen=True, kw_only=True)
class Timestamp:
    """Where the time of sending stands, and how far from now it may be.

    Attributes:
        header: Header names; the first header that was sent counts.
        item: Or the name of an item in the signature header, which is a list then.
        body: Or the path of a field in the body.
        tolerance: Seconds, into the past and into the future; None: any time is accepted.
    """

    header: tuple[str, ...] = ()
    item: str | None = None
    body: str | None = None
    unit: Unit = "s"
    tolerance: int | None = 300

    def unix_seconds(self, text: str) -> float | None:
        """Return the time that a text gives in this unit, in unix seconds; None: it is no such time."""
        if self.unit == "iso":
            try:
                time = datetime.fromisoformat(text)
            except ValueError:
                return None
            return time.timestamp() if time.tzinfo else None
        # Stricter than int(), which takes signs, spaces, underscores and digits of other scripts.
        if not (text.isascii() and text.isdigit() and len(text) <= 16):
            return None
        return int(text) / 1000 if self.unit == "ms" else float(text)


#: Instead of a value in `Handshake.when`: the field has any value, or the request does not have the field.
ANY, ABSENT = "any", "absent"


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """A request by which a sender checks an address before it sends webhooks there, and the reply it expects.

    Attributes:
        when: The fields that tell the handshake from a webhook, each with its value, ANY or ABSENT.
        signed: The request is verified like a webhook. One that is not must carry no signature at all.
        token: The field that holds the token that the operator chose (`verify_token_env`).
        log: The field whose text the operator needs; it is logged while the source has no secret.
        text: The body of the reply as plain text,
        json: or as JSON, by key;
        headers: further headers of the reply.
    """

    method: Method
    when: Mapping[RequestField, JSON] = field(default_factory=dict)
    signed: bool = False
    token: RequestField | None = None
    log: RequestField | None = None
    text: ReplyValue | None = None
    json: Mapping[str, ReplyValue | int] | None = None
    headers: Mapping[str, ReplyValue] = field(default_factory=dict)

    @property
    def mac_fields(self) -> list[RequestField]:
        """The fields of the request that the reply holds signed with the secret."""
        values = (self.text, *(self.json or {}).values(), *self.headers.values())
        return [value.field for value in values if isinstance(value, ReplyValue) and value.mac]

    def matches(self, reader: WebhookReader) -> bool:
        """Return whether a request has the values of *when*; a body that cannot be read has none."""
        for request_field, expected in self.when.items():
            if request_field.part == "body" and not reader.is_readable:
                return False
            values = reader.values(request_field)
            if expected == ABSENT:
                matches = not values
            elif expected == ANY:
                matches = len(values) == 1 and values[0] not in (None, "")
            else:
                matches = values == [expected]
            if not matches:
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class ReplyValue:
    """A text in the reply to a handshake: a field of the request, or (*mac*) the field signed with the secret."""

    field: RequestField
    mac: bool = False


@dataclass(frozen=True, kw_only=True)
class PrescribedResponse:
    """The response that a sender requires for an accepted webhook; *text* None: the gateway's own JSON will do."""

    status: int = 200
    text: str | None = None
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a sender proves that it sent a webhook, and what is known of its webhooks.

    Attributes:
        name: The entry of the table, also for a mapping's scheme that started from it.
        header: Headers that may hold the signature or token. Of signatures any one may match; of tokens the first
            header that was sent counts.
        at: Or the field of the query, body or path that holds it.
        prefix: Text in front of the signature or token; case does not matter.
        key: The header is a list; its items of this name are signatures, any one of which may match.
        positional: The header is a list whose first item is the timestamp; the others are signatures.
        items: Separates the items of the list.
        sep: Separates an item's name from its value.
        signed: The template of the bytes that the signature covers; its variables are in `template`.
        delivery_id: Headers that identify a delivery. Names in one entry are joined; the first entry of which all
            headers were sent counts.
        trust: Unsigned headers that a mapping may read without a warning, because the sender has no signed equivalent.
        event_key: The default expression for `event_key` in a mapping.
        event_type: The default expression for `event_type`.
        content_type: The type of the body, whatever the unsigned header Content-Type says.
        json_field: The field of a form that holds the webhook as JSON.
        secret_prefix: How secrets of this sender begin; another beginning is probably the wrong kind of secret.
        handshakes: What the sender may ask before its webhooks; the first that matches a request counts.
        answer: The response that the sender requires for a webhook; None: the gateway's own.
    """

    name: str
    kind: Kind | Special
    description: str = ""
    header: tuple[str, ...] = ()
    at: RequestField | None = None
    prefix: str = ""
    key: str | None = None
    positional: bool = False
    items: str = ","
    sep: str = "="
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    secret: SecretFormat = SecretFormat()
    signed: str = "{body}"
    timestamp: Timestamp | None = None
    delivery_id: tuple[tuple[str, ...], ...] = ()
    trust: tuple[str, ...] = ()
    event_key: str | None = None
    event_type: str | None = None
    content_type: str | None = None
    json_field: str | None = None
    secret_prefix: str = ""
    handshakes: tuple[Handshake, ...] = ()
    answer: PrescribedResponse | None = None

    @cached_property
    def methods(self) -> frozenset[str]:
        """The HTTP methods of its webhooks and handshakes, and HEAD, by which any sender may look for the address."""
        return frozenset({"POST", "HEAD", *(handshake.method for handshake in self.handshakes)})

    @property
    def asks_token(self) -> bool:
        """Whether a handshake shows a token that the operator chose."""
        return any(handshake.token is not None for handshake in self.handshakes)

    @property
    def signs_address(self) -> bool:
        """Whether the signature covers the URL that the sender posts to."""
        return self.kind == "twilio" or "{url}" in self.signed or "{decoded_url}" in self.signed

    @property
    def signature_bytes(self) -> int | None:
        """The length of its signatures; None: it differs."""
        if self.kind in ("hmac", "digest"):
            return hashlib.new(self.algorithm).digest_size
        return 64 if self.kind == "ed25519" else None

    @property
    def covers_body(self) -> bool:
        """Whether a stranger who saw one proof cannot reuse it for another body."""
        if self.kind in SIGNING:
            return "{body}" in self.signed or "{form}" in self.signed
        return self.kind != "adyen"

    @property
    def names_deliveries(self) -> bool:
        """Whether two genuine webhooks with equal bodies can be told apart, or never occur."""
        has_time = self.timestamp is not None and self.timestamp.body is not None and self.timestamp.unit == "ms"
        is_unique = has_time or self.kind in ("twilio", "adyen", "braintree")
        return bool(self.delivery_id) or self.event_key is not None or is_unique

    def as_received(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return headers, by their names in lower case, with the content type that the scheme prescribes, if any.

        The sender's own is not signed.
        """
        return headers if self.content_type is None else {**headers, "content-type": self.content_type}

    def reader(self, webhook: Webhook, *, limits: DecodingLimits | None = None) -> WebhookReader:
        """Return what reads values from a webhook, and decodes its body within *limits*."""
        return WebhookReader(webhook, self.content_type, self.json_field, limits=limits)

    def items_named(self, key: str, text: str) -> list[str]:
        """Return the values of the items of this name, where a header is a list."""
        items = (item.strip().partition(self.sep) for item in text.split(self.items))
        return [value.strip() for name, _, value in items if name.strip() == key]

    def trusts_header(self, header: str) -> bool:
        """Return whether a mapping may rely on a header.

        It may if the signature covers the header, if the scheme itself relies on it, or if the sender signs nothing.
        """
        if self.kind in (*SENT_SECRETS, "none"):
            return True
        listed = (*self.trust, *(name for names in self.delivery_id for name in names))
        if header.lower() in map(str.lower, listed):
            return True
        # The table writes header('X-Name') in expressions and {header.X-Name} in templates, in exactly this form.
        texts = f"{self.event_key} {self.event_type} {self.signed}".lower()
        return re.search(rf"header(?:\('|\.){re.escape(header.lower())}['}}]", texts) is not None
