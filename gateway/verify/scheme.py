"""How a sender proves itself, as a value: what an entry of schemes.yaml, or of a mapping, says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from gateway.errors import GatewayError
from gateway.event import JSON
from gateway.verify.places import Place

#: The kinds that a mapping can build a scheme of its own from.
Kind: TypeAlias = Literal["hmac", "digest", "ed25519", "ecdsa", "token", "basic", "none"]
#: The kinds that are code, because what they sign cannot be said by data. Their schemes bear the same name.
Special: TypeAlias = Literal["adyen", "braintree", "contentful", "twilio"]
Algorithm: TypeAlias = Literal["sha1", "sha256", "sha512"]
Encoding: TypeAlias = Literal["hex", "base64"]
SecretEncoding: TypeAlias = Literal["utf8", "base64", "hex"]
Unit: TypeAlias = Literal["s", "ms", "iso"]

MAX_TOLERANCE = 7 * 86_400

#: Kinds whose secret is sent along as it is, and so must not be kept with an event.
SENT_SECRETS = ("token", "basic")
#: Kinds whose proof is a signature of a template, and the variables by which that covers the whole body.
SIGNING = ("hmac", "digest", "ed25519", "ecdsa")
COVERING = ("body", "form")


class SchemeError(GatewayError):
    """A scheme written in a mapping is wrong; *key* is the path of the culprit, as in ``timestamp.unit``."""

    def __init__(self, key: str | None, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class SecretForm:
    """How a secret, as the sender shows it, becomes a key: without the prefix *strip*, then decoded."""

    strip: str = ""
    encoding: SecretEncoding = "utf8"


@dataclass(frozen=True, kw_only=True)
class Timestamp:
    """Where the time of sending stands, and how old it may be.

    Attributes:
        header: The headers that may hold it; the first one sent counts.
        item: Or its name among the items of the signature header.
        body: Or its path in the JSON of the body.
        tolerance: Seconds, into the past and into the future alike; None: any time will do.
    """

    header: tuple[str, ...] = ()
    item: str | None = None
    body: str | None = None
    unit: Unit = "s"
    tolerance: int | None = 300


#: In the stead of a value: any will do, and none may be there.
ANY, ABSENT = "any", "absent"


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """A request by which a sender finds out who answers at an address, and what it wants to hear.

    Attributes:
        when: The places that tell it from a webhook, each with its value, or one of the words above.
        signed: It is proven as a webhook is; one that is not must not carry a signature at all.
        token: The place of the token that the operator chose (`verify_token_env`).
        tell: The place of what the operator has to know; it is logged as long as the source has no secret.
        text: What is answered: the text at a place,
        json: or an object of places and constants;
        headers: and headers with it.
    """

    method: str
    when: Mapping[Place, JSON] = field(default_factory=dict)
    signed: bool = False
    token: Place | None = None
    tell: Place | None = None
    text: Shown | None = None
    json: Mapping[str, Shown | int] | None = None
    headers: Mapping[str, Shown] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a handshake shows of a request: the text at a place, or (*mac*) what its secret makes of that."""

    place: Place
    mac: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a sender insists to hear when its webhook was taken; *text* None leaves the words to us."""

    status: int
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a sender proves that a webhook is its own, and what is known of such webhooks.

    Attributes:
        name: The entry of the table, also for a scheme of a mapping that started from it.
        header: The headers that may hold the signature or token. A signature in any of them counts; of tokens
            the first that was sent does.
        at: Or its place in the query, in the body, or in the path after the source's name.
        prefix: What stands in front of the signature or token, in any case of letters.
        key: The header is a list; its items called so are signatures, any one of which may match.
        positional: The header is a list whose first item is the timestamp; the others are signatures.
        items: What separates the items of the list.
        sep: What separates an item's name from its value.
        signed: What the signature covers, as a template of the variables in `template`.
        delivery_id: The headers that tell a repeated webhook, several of an entry taken together; the first
            entry of which all were sent counts.
        trust: Headers that are believed although nothing signs them, because the sender says no other way.
        event_key: An expression for what makes a repeated webhook the same, where the mapping has none.
        event_type: The same for the event type.
        content_type: What the body is, whatever the (unsigned) header says.
        secret_prefix: How the sender's secrets begin, by which the wrong kind of secret is known.
        handshakes: What the sender may ask before its webhooks; the first that a request is counts.
        answer: What the sender insists to hear; None leaves it to us.
    """

    name: str
    kind: Kind | Special
    description: str = ""
    header: tuple[str, ...] = ()
    at: Place | None = None
    prefix: str = ""
    key: str | None = None
    positional: bool = False
    items: str = ","
    sep: str = "="
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    secret: SecretForm = SecretForm()
    signed: str = "{body}"
    timestamp: Timestamp | None = None
    delivery_id: tuple[tuple[str, ...], ...] = ()
    trust: tuple[str, ...] = ()
    event_key: str | None = None
    event_type: str | None = None
    content_type: str | None = None
    secret_prefix: str = ""
    handshakes: tuple[Handshake, ...] = ()
    answer: Answer | None = None

    @cached_property
    def methods(self) -> frozenset[str]:
        """The HTTP methods of its webhooks and handshakes."""
        return frozenset({"POST", *(each.method for each in self.handshakes)})

    @property
    def asks_token(self) -> bool:
        """Whether the sender shows, in a handshake, a token that the operator has chosen."""
        return any(each.token is not None for each in self.handshakes)

    @property
    def signs_address(self) -> bool:
        """Whether the signature covers the address that the sender posts to."""
        return self.kind == "twilio" or "{url}" in self.signed or "{decoded_url}" in self.signed

    def believes(self, header: str) -> bool:
        """Tell whether a header is as good as proven, or the scheme says that it has to do.

        The table's own expressions are read as they are spelled there.
        """
        if self.kind in (*SENT_SECRETS, "none"):
            return True
        named = (*self.trust, *(name for names in self.delivery_id for name in names))
        said = f"{self.event_key} {self.event_type} {self.signed}".lower()
        return (
            header.lower() in map(str.lower, named)
            or re.search(rf"header(?:\('|\.){re.escape(header.lower())}['}}]", said) is not None
        )

    @property
    def covers_body(self) -> bool:
        """Whether nobody can put another body behind a proof that was seen."""
        if self.kind in SIGNING:
            return any(f"{{{name}}}" in self.signed for name in COVERING)
        return self.kind != "adyen"

    @property
    def names_deliveries(self) -> bool:
        """Whether genuine webhooks never have equal bodies, or can be told apart by more than those."""
        return bool(self.delivery_id) or self.event_key is not None or self.kind in ("twilio", "adyen", "braintree")
