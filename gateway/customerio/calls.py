"""The Customer.io calls, as frozen values, and the address that each one goes to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

from gateway.event import JSON

AddressKind: TypeAlias = Literal["cio_id", "id", "email", "anonymous_id"]
#: The keys that may name a person, in the order in which they are taken.
IDENTIFIERS = ("cio_id", "id", "email", "anonymous_id")


# Nobody changes one, but a frozen one takes three times as long to make.
@dataclass(kw_only=True, slots=True)
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
class _ToPerson:
    id: str | None = None
    email: str | None = None
    cio_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class _ToAnybody(_ToPerson):
    anonymous_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class _ToObject:
    object_type_id: str
    object_id: str


@dataclass(frozen=True, kw_only=True)
class Identify(_ToPerson):
    """Create or update a person."""

    name_of_call: ClassVar = "identify"
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None


@dataclass(frozen=True, kw_only=True)
class Track(_ToAnybody):
    """Record an event of a person, or of somebody not yet known."""

    name_of_call: ClassVar = "track"
    name: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page(_ToAnybody):
    """Record a page view; *url* is a full address, or ``*`` for any page."""

    name_of_call: ClassVar = "page"
    url: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Screen(_ToAnybody):
    """Record a screen view in a mobile app."""

    name_of_call: ClassVar = "screen"
    name: str
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    timestamp: int | None = None
    event_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Destroy(_ToPerson):
    """Delete a person; a later call creates them anew."""

    name_of_call: ClassVar = "destroy"


@dataclass(frozen=True, kw_only=True)
class Suppress(_ToPerson):
    """Delete a person for good and take nothing about them any more."""

    name_of_call: ClassVar = "suppress"


@dataclass(frozen=True, kw_only=True)
class Unsuppress(_ToPerson):
    """Take calls about a person again; what was deleted stays so."""

    name_of_call: ClassVar = "unsuppress"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge one person into another, for good; each is named by one identifier: ``{"id": "42"}``."""

    name_of_call: ClassVar = "merge"
    into: Mapping[str, str]
    from_: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AddDevice(_ToPerson):
    """Add or update a device of a person; *platform* is ``ios`` or ``android``, *last_used* unix seconds."""

    name_of_call: ClassVar = "add_device"
    token: str
    platform: str
    last_used: int | None = None
    attributes: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeleteDevice(_ToPerson):
    """Remove a device of a person."""

    name_of_call: ClassVar = "delete_device"
    token: str


@dataclass(frozen=True, kw_only=True)
class IdentifyObject(_ToObject):
    """Create or update an object, and relate people to it.

    Attributes:
        people: Each an identifier and, if wanted, the ``attributes`` of the relationship.
    """

    name_of_call: ClassVar = "identify_object"
    attributes: Mapping[str, JSON] = field(default_factory=dict)
    people: Sequence[Mapping[str, JSON]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DeleteObject(_ToObject):
    """Delete an object."""

    name_of_call: ClassVar = "delete_object"


@dataclass(frozen=True, kw_only=True)
class AddRelationships(_ToPerson):
    """Relate a person to objects: each ``object_type_id``, ``object_id`` and, if wanted, ``attributes``."""

    name_of_call: ClassVar = "add_relationships"
    objects: Sequence[Mapping[str, JSON]]


@dataclass(frozen=True, kw_only=True)
class DeleteRelationships(_ToPerson):
    """Take a person's relationships to objects away."""

    name_of_call: ClassVar = "delete_relationships"
    objects: Sequence[Mapping[str, JSON]]


@dataclass(frozen=True, kw_only=True)
class SubmitForm:
    """Submit a form for a person; all *attributes* are texts."""

    name_of_call: ClassVar = "submit_form"
    form_id: str
    id: str | None = None
    email: str | None = None
    attributes: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RawRequest:
    """Any request to the API of a region's host, with the connection's credentials.

    Attributes:
        method: GET unless given, or POST where there is something to send.
        path: Below ``/api``, as ``/v1/accounts/region``.
        query: Texts, numbers and booleans, or lists of them for a parameter that is repeated.
        data: The body: a text as it is, anything else as JSON.
        form: Fields of a multipart body, as *query*; *files* are its files' contents by field, and *file_names*
            their names, which are the fields' unless given.
        response_type: What the answer has to be: ``json``, ``text`` or ``binary``.
        timeout: Seconds that one attempt may take, connecting included; None leaves it to the client.
        debug: Keep request and answer, without credentials, for whoever looks into it.
        retry: ``max``, ``delay_ms``, ``exponential``, ``all_errors``; each in the place of the connection's own.
    """

    name_of_call: ClassVar = "request"
    method: str | None = None
    path: str
    query: Mapping[str, JSON] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    data: JSON = None
    form: Mapping[str, JSON] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    file_names: Mapping[str, str] = field(default_factory=dict)
    response_type: str = "json"
    timeout: float | None = None
    debug: bool = False
    retry: Mapping[str, JSON] = field(default_factory=dict)


#: What happened once, and is known by an id by which Customer.io drops a repeat.
Occurrence: TypeAlias = Track | Page | Screen
ToPerson: TypeAlias = (
    Identify
    | Occurrence
    | Destroy
    | Suppress
    | Unsuppress
    | AddDevice
    | DeleteDevice
    | AddRelationships
    | DeleteRelationships
    | SubmitForm
)
ToObject: TypeAlias = IdentifyObject | DeleteObject
Call: TypeAlias = ToPerson | Merge | ToObject | RawRequest

CALLS: dict[str, type[Call]] = {
    kind.name_of_call: kind
    for kind in (
        *(Identify, Track, Page, Screen, Destroy, Suppress, Unsuppress, Merge, AddDevice, DeleteDevice),
        *(IdentifyObject, DeleteObject, AddRelationships, DeleteRelationships, SubmitForm, RawRequest),
    )
}

# One field's own name is a word of Python's.
_WRITTEN = {"from_": "from"}
_READ = {written: name for name, written in _WRITTEN.items()}


def field_of(name: str) -> str:
    """Give the field of a call that has this name where calls are written."""
    return _READ.get(name, name)


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


_DEFAULTS = {kind: {of.name: _default(of) for of in fields(kind)} for kind in CALLS.values()}


def as_json(call: Call) -> dict[str, JSON]:
    """Write a call the way a mapping's tests show it: what says no more than its default is left out."""
    written: dict[str, Any] = {"call": call.name_of_call}
    defaults = _DEFAULTS[type(call)]
    for name, value in vars(call).items():
        if value is None:
            continue
        if type(value) is not str and type(value) is not int:  # as most are, and _plain takes longer to find
            value = _plain(value)
        if value != defaults[name]:
            written[_WRITTEN.get(name, name)] = value
    return written


def _plain(value: Any) -> Any:
    if type(value) is dict or isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_json(written: Mapping[str, JSON]) -> Call:
    """Read a call back from what `as_json` wrote."""
    values: dict[str, Any] = {field_of(name): value for name, value in written.items()}
    return CALLS[values.pop("call")](**values)


def address(call: Call) -> Address | None:
    """Resolve whom a call goes to: the first of cio_id, id, email that is set, else anonymous_id.

    The kind of an id or email follows the rules by which Customer.io reads the path of a v1 request,
    so that every way of sending a call reaches the same person. None: the call goes to no one person.
    """
    return person_named(vars(call))


def person_named(identifiers: Mapping[str, Any]) -> Address | None:
    """Resolve the person that identifiers name, as `address` does; None: they name nobody."""
    if cio_id := identifiers.get("cio_id"):
        return Address(kind="cio_id", value=cio_id.removeprefix("cio_"))
    if named := identifiers.get("id") or identifiers.get("email"):
        return _as_path(named)
    anonymous_id = identifiers.get("anonymous_id")
    return Address(kind="anonymous_id", value=anonymous_id) if anonymous_id else None


_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def _as_path(named: str) -> Address:
    if named.startswith("cio_") and len(named) > len("cio_"):
        return Address(kind="cio_id", value=named.removeprefix("cio_"))
    if "@" in named and _EMAIL.fullmatch(named):
        return Address(kind="email", value=named)
    return Address(kind="id", value=named)


def lanes(connection: str, call: Call, whom: Address | None) -> tuple[int, ...]:
    """Number the lanes in which a call keeps its order: that of its *whom* or object, or both of a merge's.

    Each is 64 bits, signed, as databases hold them. A raw request has none.
    """
    if whom is not None:
        return (lane(connection, whom.lane_key),)
    match call:
        case Merge(into=into, from_=from_):
            both = (person_named(into), person_named(from_))
            return tuple(sorted({lane(connection, each.lane_key) for each in both if each is not None}))
        case IdentifyObject() | DeleteObject():
            return (lane(connection, "object:" + json.dumps([call.object_type_id, call.object_id])),)
    return ()


def lane(connection: str, key: str) -> int:
    """Number the lane of one person or object of a connection."""
    digest = hashlib.sha256(f"{connection}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
