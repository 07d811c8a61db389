"""A mapping file, compiled: the values that `compiler` makes of it and that `translate` goes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from gateway.customerio.limits import METHODS, PLATFORMS, RESPONSE_TYPES, path_problem, url_problem
from gateway.errors import Location
from gateway.event import JSON
from gateway.mapping.expressions import Expression
from gateway.verify import Scheme

Network: TypeAlias = IPv4Network | IPv6Network


class Kind(Enum):
    """What a key of a call takes."""

    IDENTIFIER = "identifier"  # of a person: an expression
    PERSON = "person"  # an object with one identifier
    REFERENCE = "reference"  # what else is known by an id: an expression that gives text
    TEXT = "text"  # literal or an expression
    EVENT_ID = "event id"
    TIMESTAMP = "timestamp"
    ATTRIBUTES = "attributes"
    TEXTS = "texts"  # attributes that have to be texts
    OBJECT = "object"  # an expression that gives one
    MEMBERS = "members"  # a list of objects with keys of their own, or an expression that gives one
    HEADERS = "headers"  # an object of texts
    PARAMETERS = "parameters"  # an object of texts, numbers, booleans, and lists of them
    FILES = "files"  # an object of texts
    DATA = "data"  # any value
    NOTE = "note"  # literal text
    SECONDS = "seconds"  # a literal number
    FLAG = "flag"  # true or false
    RETRY = "retry"  # an object of literal settings


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key that a call may have; *keys* are those of each of its members.

    Attributes:
        choices: The only texts that it takes; empty: any.
        problem: Returns what is wrong with a literal text, or None.
    """

    kind: Kind
    required: bool = False
    example: str = ""
    choices: tuple[str, ...] = ()
    problem: Callable[[str], str | None] | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CallSpec:
    """What one kind of call may say.

    Attributes:
        keys: Its identifiers and its own keys.
        dated: It carries the time of receipt when it has no timestamp.
    """

    name: str
    keys: Mapping[str, Key]
    dated: bool = False

    @cached_property
    def identifiers(self) -> tuple[str, ...]:
        """The keys that say whom the call is about; one of them has to be given."""
        return tuple(name for name, key in self.keys.items() if key.kind is Kind.IDENTIFIER)


_IDENTIFIER = Key(kind=Kind.IDENTIFIER)
_PERSON = {"id": _IDENTIFIER, "email": _IDENTIFIER, "cio_id": _IDENTIFIER}
ANYBODY = {**_PERSON, "anonymous_id": _IDENTIFIER}
_PROFILE = {
    "attributes": Key(kind=Kind.ATTRIBUTES),
    "attributes_from": Key(kind=Kind.OBJECT),
    "timestamp": Key(kind=Kind.TIMESTAMP),
}
_OCCURRENCE = {**_PROFILE, "event_id": Key(kind=Kind.EVENT_ID)}
_NAME = Key(kind=Kind.TEXT, required=True, example="Invoice Paid")
_SCREEN = Key(kind=Kind.TEXT, required=True, example="Settings")
_URL = Key(kind=Kind.TEXT, required=True, example="=page.url", problem=url_problem)
_TOKEN = Key(kind=Kind.REFERENCE, required=True, example="=device.token")
_RELATIONSHIP = {"attributes": Key(kind=Kind.ATTRIBUTES)}
_OBJECT = {
    "object_type_id": Key(kind=Kind.TEXT, required=True, example='"1"'),
    "object_id": Key(kind=Kind.REFERENCE, required=True, example="=company.id"),
}
_OBJECTS = Key(
    kind=Kind.MEMBERS,
    required=True,
    example="[{object_type_id: 1, object_id: =company.id}]",
    keys={**_OBJECT, **_RELATIONSHIP},
)
_REQUEST = {
    "method": Key(kind=Kind.TEXT, choices=METHODS),
    "path": Key(kind=Kind.TEXT, required=True, example="/v1/accounts/region", problem=path_problem),
    "query": Key(kind=Kind.PARAMETERS),
    "headers": Key(kind=Kind.HEADERS),
    "data": Key(kind=Kind.DATA),
    "form": Key(kind=Kind.PARAMETERS),
    "files": Key(kind=Kind.FILES),
    "file_names": Key(kind=Kind.FILES),
    "response_type": Key(kind=Kind.NOTE, choices=RESPONSE_TYPES),
    "timeout": Key(kind=Kind.SECONDS),
    "debug": Key(kind=Kind.FLAG),
    "retry": Key(kind=Kind.RETRY),
}

SPECS: dict[str, CallSpec] = {
    spec.name: spec
    for spec in (
        CallSpec(name="identify", keys={**_PERSON, **_PROFILE}),
        CallSpec(name="track", keys={**ANYBODY, "name": _NAME, **_OCCURRENCE}, dated=True),
        CallSpec(name="page", keys={**ANYBODY, "url": _URL, **_OCCURRENCE}, dated=True),
        CallSpec(name="screen", keys={**ANYBODY, "name": _SCREEN, **_OCCURRENCE}, dated=True),
        CallSpec(name="destroy", keys=_PERSON),
        CallSpec(name="suppress", keys=_PERSON),
        CallSpec(name="unsuppress", keys=_PERSON),
        CallSpec(
            name="merge",
            keys={
                "into": Key(kind=Kind.PERSON, required=True, example="{id: =user.id}", keys=_PERSON),
                "from": Key(kind=Kind.PERSON, required=True, example="{id: =old.id}", keys=_PERSON),
            },
        ),
        CallSpec(
            name="add_device",
            keys={
                **_PERSON,
                "token": _TOKEN,
                "platform": Key(kind=Kind.TEXT, required=True, example="ios", choices=PLATFORMS),
                "last_used": Key(kind=Kind.TIMESTAMP),
                "attributes": Key(kind=Kind.TEXTS),
            },
        ),
        CallSpec(name="delete_device", keys={**_PERSON, "token": _TOKEN}),
        CallSpec(
            name="identify_object",
            keys={
                **_OBJECT,
                "attributes": _PROFILE["attributes"],
                "attributes_from": _PROFILE["attributes_from"],
                "people": Key(kind=Kind.MEMBERS, keys={**_PERSON, **_RELATIONSHIP}),
            },
        ),
        CallSpec(name="delete_object", keys=_OBJECT),
        CallSpec(name="add_relationships", keys={**_PERSON, "objects": _OBJECTS}),
        CallSpec(name="delete_relationships", keys={**_PERSON, "objects": _OBJECTS}),
        CallSpec(
            name="submit_form",
            keys={
                "id": _IDENTIFIER,
                "email": _IDENTIFIER,
                "form_id": Key(kind=Kind.TEXT, required=True, example="signup"),
                "attributes": Key(kind=Kind.TEXTS),
            },
        ),
        CallSpec(name="request", keys=_REQUEST),
        CallSpec(name="ignore", keys={"reason": Key(kind=Kind.NOTE)}),
    )
}

# Names that steer Customer.io: an object out of a payload must not be able to redirect a mail, to
# unsubscribe somebody or to change who a person is. They count only where the author wrote them.
_STEERING = frozenset(
    {
        *("recipient", "from_address", "reply_to", "unsubscribed", "cio_relationships"),
        *("id", "cio_id", "_update", "_timestamp"),
    }
)
_STEERING_PREFIX = "cio_subscription_preferences"


def is_steering(name: str) -> bool:
    """Tell whether an attribute is taken from `attributes` only, never out of `attributes_from`."""
    return name in _STEERING or name.startswith(_STEERING_PREFIX)


def without_steering(attributes: Mapping[str, JSON]) -> dict[str, JSON]:
    """Take what `attributes_from` may give: neither nulls nor what `is_steering`."""
    # The test stands here once more because a call of it for each name would take most of the time.
    return {
        name: value
        for name, value in attributes.items()
        if value is not None and name not in _STEERING and not name.startswith(_STEERING_PREFIX)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A value that is the same for every event; None is a null that the author wrote."""

    where: Location
    value: JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """A value that an expression finds; null leaves it out."""

    where: Location
    expression: Expression


@dataclass(frozen=True, kw_only=True, slots=True)
class OrNull:
    """A value that an expression finds, and whose null is sent."""

    where: Location
    computed: Computed


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectValue:
    """An object with values of its own."""

    where: Location
    entries: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListValue:
    """A list with values of its own."""

    where: Location
    items: tuple[Value, ...]


Value: TypeAlias = Constant | Computed | OrNull | ObjectValue | ListValue


@dataclass(frozen=True, kw_only=True)
class CallRule:
    """One entry of an event: the call to make, when, and with which values.

    Attributes:
        fields: The compiled values of the keys, in the order of the call's definition.
        each: Gives a list: one call per item.
        connection, region: None: those of the file.
    """

    where: Location
    spec: CallSpec
    fields: Mapping[str, Value]
    when: Computed | None = None
    each: Computed | None = None
    connection: str | None = None
    region: str | None = None

    @cached_property
    def identifiers(self) -> tuple[tuple[str, Value], ...]:
        """The identifiers that the call names itself."""
        return tuple((name, self.fields[name]) for name in self.spec.identifiers if name in self.fields)

    @cached_property
    def other_fields(self) -> tuple[tuple[str, Value], ...]:
        """The other fields, in the order of evaluation: attributes and the timestamp come last."""
        names = [name for name in self.fields if name not in (*self.spec.identifiers, *_LAST)]
        return tuple((name, self.fields[name]) for name in (*names, *_LAST) if name in self.fields)


_LAST = ("attributes_from", "attributes", "timestamp")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of `events`: the event types it is for, as written, and its calls."""

    where: Location
    event_types: tuple[str, ...]
    calls: tuple[CallRule, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Glob:
    """An event type with ``*`` for any characters. Strangers send types, so matching takes linear time."""

    pieces: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Tell whether the whole of *text* fits."""
        first, *middle, last = self.pieces
        at, end = len(first), len(text) - len(last)
        if at > end or not text.startswith(first) or not text.endswith(last):
            return False
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The rules by event type: rule numbers, so that the first in the file can win."""

    literals: Mapping[str, int]
    globs: tuple[tuple[Glob, int], ...]
    any_type: int | None


@dataclass(frozen=True, kw_only=True)
class Verify:
    """How the sender of a webhook proves itself.

    Attributes:
        secret_env: The variables that hold the secrets, each one or several.
        token_env: The variable of the token that the sender shows in its handshake.
        networks: The addresses that webhooks may come from; empty: any.
    """

    where: Location
    scheme: Scheme
    secret_env: tuple[str, ...]
    token_env: str | None = None
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MappingTest:
    """One of the file's own tests.

    Attributes:
        body: The decoded body, unless *payload* names a file that holds it.
        expect: The calls, exactly and in order, and where a part of a split body is to fail ``{error: text}``;
            None when the whole event is to fail.
        error: What the message of that error contains.
    """

    where: Location
    name: str
    body: JSON
    payload: str | None
    headers: Mapping[str, str]
    query: Mapping[str, str]
    received_at: int
    expect: tuple[dict[str, JSON], ...] | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class MappingFile:
    """One mapping file, compiled.

    Attributes:
        event_type: The mapping's own, else its scheme's.
        default_key: The event key of the scheme, which is about the whole body.
        deduplicate: False for `event_key: none`: no two webhooks are the same.
        split: Gives the parts of a body, each of which is routed on its own; None: the body is one part.
        let: Variables, in the order of the file: one may refer to those before it.
        tables: By name; the entry ``*`` is for keys that are not there.
        defaults: Identifiers and timestamp of calls that give none of their own.
    """

    file: str
    source: str
    description: str | None
    verify: Verify
    when: Computed | None
    event_type: Computed | None
    event_key: Computed | None
    default_key: Computed | None
    deduplicate: bool
    split: Computed | None
    let: Mapping[str, Value]
    tables: Mapping[str, Mapping[str, JSON]]
    connection: str
    region: str | None
    defaults: Mapping[str, Value]
    rules: tuple[Rule, ...]
    routes: Routes = field(repr=False)
    tests: tuple[MappingTest, ...]


def find_rule(mapping: MappingFile, event_type: str | None) -> Rule | None:
    """Find the first rule of the file that is for an event type; no type at all fits only ``*``."""
    found = _rule_number(mapping.routes, event_type)
    return None if found is None else mapping.rules[found]


def _rule_number(routes: Routes, event_type: str | None) -> int | None:
    if event_type is None:
        return routes.any_type
    literal = routes.literals.get(event_type)
    for glob, number in routes.globs:
        if (literal is None or number < literal) and glob.matches(event_type):
            return number
    return literal
