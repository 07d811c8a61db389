"""A compiled mapping file: what the compiler returns and translation evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from gateway.customerio.calls import CALLS, Call, Key, Kind, Occurrence, declared_keys
from gateway.errors import Location
from gateway.event import JSON
from gateway.mapping.expressions import Expression
from gateway.verify import PrescribedResponse, Scheme

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True)
class CallSpec:
    """The keys of one kind of call.

    Attributes:
        about: The sentence that an editor shows.
        keys: Its identifiers and its own keys.
        dated: It carries the time of receipt when it has no timestamp.
    """

    name: str
    about: str
    keys: Mapping[str, Key]
    dated: bool = False

    @cached_property
    def identifiers(self) -> tuple[str, ...]:
        """The keys that identify a person; one of them is required, unless it has none."""
        return tuple(name for name, key in self.keys.items() if key.kind is Kind.IDENTIFIER)


_ATTRIBUTES_FROM = Key(
    kind=Kind.OBJECT,
    about="A whole object of attributes; those under `attributes` replace its own.",
    examples=("=pick(user, ['plan', 'name'])",),
)
_FIT = Key(kind=Kind.FLAG, about="Cuts what `attributes_from` gives to the limits of Customer.io.")
_REASON = Key(kind=Kind.NOTE, about="Why no call is made.")


def _spec(call: type[Call]) -> CallSpec:
    """Describe a kind of call as mappings write it: identifiers first, and attributes also as a whole object."""
    declared = sorted(declared_keys(call).items(), key=lambda item: item[1].kind is not Kind.IDENTIFIER)
    keys = _with_whole_objects(dict(declared))
    return CallSpec(name=call.name_of_call, about=call.about, keys=keys, dated=issubclass(call, Occurrence))


def _with_whole_objects(declared: Mapping[str, Key]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for name, key in declared.items():
        keys[name] = replace(key, keys=_with_whole_objects(key.keys))
        if key.attributes is not None:
            kind = Kind.OBJECT_OF_TEXTS if key.attributes.texts else Kind.OBJECT
            keys["attributes_from"] = replace(_ATTRIBUTES_FROM, kind=kind, attributes=key.attributes)
            keys["fit"] = _FIT
    return keys


SPECS = {
    **{name: _spec(call) for name, call in CALLS.items()},
    "ignore": CallSpec(name="ignore", about="Makes no call, and records why.", keys={"reason": _REASON}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A value that is the same for every event. None is sent: the author wrote null."""

    location: Location
    value: JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """The result of an expression; null leaves the value out."""

    location: Location
    expression: Expression


@dataclass(frozen=True, kw_only=True, slots=True)
class OrNull:
    """The result of an expression, whose null is sent."""

    location: Location
    computed: Computed


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectValue:
    """An object of further values."""

    location: Location
    entries: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListValue:
    """A list of further values."""

    location: Location
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

    location: Location
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
    def names_nobody(self) -> bool:
        """Whether the call says `anonymous: true`, and so takes no identifier from the defaults either."""
        anonymous = self.fields.get("anonymous")
        return isinstance(anonymous, Constant) and anonymous.value is True

    @cached_property
    def other_fields(self) -> tuple[tuple[str, Value], ...]:
        """The other fields, in the order of evaluation: attributes and the timestamp come last."""
        names = [name for name in self.fields if name not in (*self.spec.identifiers, *_LAST)]
        return tuple((name, self.fields[name]) for name in (*names, *_LAST) if name in self.fields)


_LAST = ("attributes_from", "attributes", "timestamp")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of `events`: event types, literal or with ``*``, and the calls that they become."""

    location: Location
    event_types: tuple[str, ...]
    calls: tuple[CallRule, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Glob:
    """An event type with ``*`` for any characters, split at the stars.

    Strangers send event types, so matching takes linear time, which a regular expression would not promise.
    """

    pieces: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Return whether the whole of *text* matches."""
        first, *middle, last = self.pieces
        position, end = len(first), len(text) - len(last)
        if position > end or not text.startswith(first) or not text.endswith(last):
            return False
        for piece in middle:  # the leftmost place of each piece leaves the most room for the others
            start = text.find(piece, position, end)
            if start < 0:
                return False
            position = start + len(piece)
        return True


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Numbers of rules by event type: the lowest that matches is the first in the file, and wins."""

    literals: Mapping[str, int]
    globs: tuple[tuple[Glob, int], ...]
    any_type: int | None


@dataclass(frozen=True, kw_only=True)
class Verify:
    """How the sender of a webhook proves itself.

    Attributes:
        secret_env: The environment variables that hold the secrets; each holds one or several.
        token_env: The variable of the token that the sender shows in its handshake.
        networks: The addresses that webhooks may come from; empty: any.
    """

    location: Location
    scheme: Scheme
    secret_env: tuple[str, ...]
    token_env: str | None = None
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MappingTest:
    """One of the file's own tests.

    Attributes:
        body: The decoded body, unless *payload* names a file that holds it.
        expect: The calls, exactly and in order, with ``{error: text}`` where a part of a split body fails;
            None if the whole event fails.
        error: A text in the message of that error.
    """

    location: Location
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
        answer: The response to accepted webhooks: the mapping's own, or its scheme's; None: the gateway's.
        event_type: The mapping's own, or its scheme's.
        default_key: The event key of the scheme, evaluated on the whole body.
        deduplicate: False for `event_key: none`: no webhook counts as a repeat.
        split: Gives the parts of a body, each routed on its own; None: the body is one part.
        let: Variables in the order of the file: each may use those before it.
        tables: By name; the entry ``*`` is for unknown keys.
        defaults: Identifiers and timestamp for calls that have none of their own.
    """

    file: str
    source: str
    description: str | None
    verify: Verify
    answer: PrescribedResponse | None
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

    @property
    def type_may_be_unsigned(self) -> bool:
        """Whether a header or the query decides which type a webhook has. Most schemes sign neither."""
        texts = [decides.expression.text for decides in (self.event_type, self.when) if decides is not None]
        return any(name in text for text in texts for name in ("header", "query"))


def find_rule(mapping: MappingFile, event_type: str | None) -> Rule | None:
    """Return the first rule of the file that matches an event type; without a type, only ``*`` matches."""
    routes = mapping.routes
    if event_type is None:
        number = routes.any_type
    else:
        number = routes.literals.get(event_type)
        for glob, candidate in routes.globs:
            if (number is None or candidate < number) and glob.matches(event_type):
                number = candidate
                break
    return None if number is None else mapping.rules[number]
