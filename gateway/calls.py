"""The Customer.io calls, as frozen values, and the address that each one goes to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from gateway.events import JSON

AddressKind: TypeAlias = Literal["cio_id", "id", "email", "anonymous_id"]


@dataclass(frozen=True, kw_only=True)
class Address:
    """The person that a call goes to, resolved once and used for the request and for the lane alike."""

    kind: AddressKind
    value: str

    @property
    def lane_key(self) -> str:
        """What two calls to the same person share: Customer.io compares emails without case."""
        value = self.value.lower() if self.kind == "email" else self.value
        return f"{self.kind}:{value}"


@dataclass(frozen=True, kw_only=True)
class Identify:
    """Create or update a person."""

    name_of_call: ClassVar = "identify"
    id: str | None = None
    email: str | None = None
    cio_id: str | None = None
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None


@dataclass(frozen=True, kw_only=True)
class Track:
    """Record an event of a person, or of somebody not yet known."""

    name_of_call: ClassVar = "track"
    id: str | None = None
    email: str | None = None
    cio_id: str | None = None
    anonymous_id: str | None = None
    name: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """Record a page view; *url* is a full address, or ``*`` for any page."""

    name_of_call: ClassVar = "page"
    id: str | None = None
    email: str | None = None
    cio_id: str | None = None
    anonymous_id: str | None = None
    url: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Destroy:
    """Delete a person."""

    name_of_call: ClassVar = "destroy"
    id: str | None = None
    email: str | None = None
    cio_id: str | None = None


Call: TypeAlias = Identify | Track | Page | Destroy

CALLS: dict[str, type[Call]] = {kind.name_of_call: kind for kind in (Identify, Track, Page, Destroy)}


def as_json(call: Call) -> dict[str, JSON]:
    """Write a call the way a mapping's tests show it: absent fields left out."""
    written: dict[str, JSON] = {"call": call.name_of_call}
    for name, value in vars(call).items():
        if name == "attributes":
            if value:
                written[name] = dict(value)
        elif value is not None:
            written[name] = value
    return written


def from_json(written: Mapping[str, JSON]) -> Call:
    """Read a call back from what `as_json` wrote."""
    values = dict(written)
    kind = CALLS[str(values.pop("call"))]
    return kind(**values)  # type: ignore[arg-type]  # as_json wrote exactly these fields


def address(call: Call) -> Address | None:
    """Resolve whom a call goes to: the first of cio_id, id, email that is set, else anonymous_id.

    The kind of an id or email follows the rules by which Customer.io reads the path of a v1 request,
    so that every way of sending a call reaches the same person. None: the call names nobody.
    """
    if call.cio_id:
        return Address(kind="cio_id", value=call.cio_id.removeprefix("cio_"))
    if named := call.id or call.email:
        return _as_path(named)
    anonymous_id = getattr(call, "anonymous_id", None)
    return Address(kind="anonymous_id", value=anonymous_id) if anonymous_id else None


_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def _as_path(named: str) -> Address:
    if named.startswith("cio_") and len(named) > len("cio_"):
        return Address(kind="cio_id", value=named.removeprefix("cio_"))
    if _EMAIL.fullmatch(named):
        return Address(kind="email", value=named)
    return Address(kind="id", value=named)


def lane(connection: str, whom: Address) -> int:
    """Number the lane of calls to one person of one connection: 64 bits, signed, as databases hold them."""
    digest = hashlib.sha256(f"{connection}\0{whom.lane_key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
