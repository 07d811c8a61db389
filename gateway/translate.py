"""Turn one event into Customer.io calls by the rules of its source's mapping."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from gateway.calls import CALLS, Address, Call, Occurrence, address, as_json, field_of, lanes
from gateway.errors import ExpressionError, TranslationError, Where
from gateway.events import JSON, Event
from gateway.functions import Scope, kind, number_text, truthy
from gateway.limits import EARLIEST, LATEST, violations
from gateway.mapping import (
    SPECS,
    CallRule,
    Computed,
    Constant,
    Key,
    Kind,
    ListValue,
    Mapping,
    ObjectValue,
    OrNull,
    Rule,
    Value,
    find_rule,
    is_steering,
)
from gateway.ulids import is_ulid, ulid, ulid_of_text
from gateway.wire import plain_text

MAX_CALLS = 1_000
#: Bytes at the end of an identity by which a call that is sent again on purpose differs from the first.
SALT = 8


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One call that an event asks for, and where it goes.

    Attributes:
        call: The call as the mapping wrote it, defaults included.
        connection: The Customer.io workspace by name.
        region: The region that the mapping asks for; None leaves it to the connection.
        identity: 32 bytes, the same whenever the same event asks for the same call.
        ulid: The event id that is sent, by which Customer.io drops a repeat; None: the call's kind has none.
        lanes: The orders of calls that it stands in.
        text: The sealed call as it is stored: compact JSON in ASCII.
    """

    call: Call
    connection: str
    region: str | None
    identity: bytes
    ulid: str | None
    lanes: tuple[int, ...]
    # Not compared: payloads that differ in the order of some object's names ask for the same call.
    text: str = field(compare=False)

    @property
    def sealed(self) -> Call:
        """What is stored and sent: the call with its ULID."""
        return replace(self.call, event_id=self.ulid) if isinstance(self.call, Occurrence) else self.call


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What an event comes to: calls, nothing (with the reason), or a problem (and then no calls)."""

    status: Literal["accepted", "ignored", "failed"]
    event_type: str | None
    planned: tuple[Planned, ...] = ()
    reason: str | None = None
    problem: TranslationError | None = None


def translate(mapping: Mapping, event: Event, *, salt: bytes = b"") -> Translation:
    """Work out the calls that an event asks for; whatever is wrong with its payload becomes the problem.

    Args:
        salt: SALT bytes, at most, that make each call another one, for the database and for Customer.io alike.
    """
    event_type = None
    try:
        scope = _scope(event.payload, event.headers, event.query, event.received_at)
        event_type = _event_type(mapping, scope)
        scope = _scope(event.payload, event.headers, event.query, event.received_at, event_type)
        return _translated(mapping, event, scope, salt)
    except TranslationError as problem:
        return Translation(status="failed", event_type=event_type, problem=problem)


def event_key(
    mapping: Mapping, payload: JSON, headers: ReadOnly[str, str], query: ReadOnly[str, str], received_at: int
) -> str | None:
    """Find what a mapping says makes a repeated webhook the same; None leaves it to the scheme.

    Raises TranslationError.
    """
    if mapping.event_key is None:
        return None
    scope = _scope(payload, headers, query, received_at)
    scope = _scope(payload, headers, query, received_at, _event_type(mapping, scope))
    return _text(mapping.event_key, "event_key", _View(current=payload, scope=scope)) or None


# Nobody changes one of these two, but frozen ones take more than twice as long to make.
@dataclass(kw_only=True, slots=True)
class _View:
    """What an expression is evaluated on: the part, or one item of its `each`."""

    current: JSON
    scope: Scope


def _scope(
    payload: JSON,
    headers: ReadOnly[str, str],
    query: ReadOnly[str, str],
    received_at: int,
    event_type: str | None = None,
) -> Scope:
    return Scope(
        root=payload,
        body=payload,
        headers=headers,
        query=query,
        received_at=received_at,
        event_type=event_type,
    )


def _event_type(mapping: Mapping, scope: Scope) -> str | None:
    if mapping.event_type is None:
        return None
    return _text(mapping.event_type, "event_type", _View(current=scope.root, scope=scope))


def _translated(mapping: Mapping, event: Event, scope: Scope, salt: bytes) -> Translation:
    part = _View(current=event.payload, scope=scope)
    if mapping.when is not None and not _holds(mapping.when, part):
        return _ignored(scope, "the mapping's own 'when' is not true")
    rule = find_rule(mapping, scope.event_type)
    if rule is None:
        return _ignored(scope, "no entry of 'events' matches the event type")
    drafts, reasons = _drafts(mapping, event, rule, part)
    if not drafts:
        return _ignored(scope, reasons[0] if reasons else _why_no_calls(rule))
    _refuse_equal_event_ids(drafts)
    planned = tuple(_planned(mapping, event, drafts, salt))
    return Translation(status="accepted", event_type=scope.event_type, planned=planned)


def _ignored(scope: Scope, reason: str) -> Translation:
    return Translation(status="ignored", event_type=scope.event_type, reason=reason)


def _why_no_calls(rule: Rule) -> str:
    named = f"'{' | '.join(rule.event_types)}'"
    if not rule.calls:
        return f"the entry {named} has no calls"
    return (
        f"no call of the entry {named} applies: each has a 'when' that is not true, or nothing in its 'each'"
    )


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A call before it is sealed.

    Attributes:
        content: The call as JSON.
        told: What makes the call the same call, whenever its event is translated again: a list in JSON.
    """

    rule: CallRule
    call: Call
    whom: Address | None
    content: dict[str, JSON]
    told: str


def _drafts(mapping: Mapping, event: Event, rule: Rule, part: _View) -> tuple[list[_Draft], list[str]]:
    """Build all calls of a rule, and collect the reasons of its `ignore` entries that apply."""
    drafts: list[_Draft] = []
    reasons: list[str] = []
    for entry in rule.calls:
        for view in _occasions(entry, part):
            if entry.spec.name not in CALLS:
                reasons.append(_reason(entry))
                continue
            if len(drafts) == MAX_CALLS:
                problem = f"the event makes more than {MAX_CALLS:,} calls; take fewer items in 'each'"
                raise TranslationError(entry.where, "each" if entry.each else "call", problem)
            drafts.append(_draft(mapping, event, entry, view, part))
    return drafts, reasons


def _reason(entry: CallRule) -> str:
    reason = entry.fields.get("reason")
    return str(reason.value) if isinstance(reason, Constant) else "the mapping says 'ignore'"


def _occasions(entry: CallRule, part: _View) -> Iterator[_View]:
    """Go through what a call is to be made for: the part, or each item, if its `when` is true."""
    for view in _items(entry, part):
        if entry.when is None or _holds(entry.when, view):
            yield view


def _items(entry: CallRule, part: _View) -> Iterator[_View]:
    if entry.each is None:
        yield part
        return
    items = _evaluate(entry.each, "each", part)
    if items is None:
        return
    if not isinstance(items, list):
        problem = f"needs a list, got {kind(items)}; write =to_array(…) for one or many"
        raise TranslationError(entry.each.where, "each", problem)
    for number, item in enumerate(items):
        yield _View(current=item, scope=replace(part.scope, index=number))


def _draft(mapping: Mapping, event: Event, entry: CallRule, view: _View, part: _View) -> _Draft:
    values = _values(entry, mapping.defaults, view, part)
    undated = entry.spec.dated and values["timestamp"] is None
    if undated:
        values["timestamp"] = event.received_at
    call = CALLS[entry.spec.name](**values)
    content = as_json(call)
    told = _told(event, *_way(mapping, entry), content, undated=undated)
    whom = address(call)
    for violation in violations(call, whom=whom, text=told):
        field, place = _place(violation.field, entry, mapping.defaults)
        raise TranslationError(place, field, violation.problem)
    assert told is not None, "a call that JSON cannot write violates a limit"
    return _Draft(rule=entry, call=call, whom=whom, content=content, told=told)


def _way(mapping: Mapping, entry: CallRule) -> tuple[str, str | None]:
    """Give the connection and the region that a call goes to."""
    return entry.connection or mapping.connection, entry.region or mapping.region


def _told(
    event: Event, connection: str, region: str | None, content: dict[str, JSON], *, undated: bool
) -> str | None:
    """Write down what makes a call the same call; None: it holds a number that JSON cannot write.

    An undated call's timestamp is only the time of receipt, which is no part of what the call is.
    """
    if undated:
        content = {name: value for name, value in content.items() if name != "timestamp"}
    # The tag keeps an `event_id` from ever standing for some event's key, or the other way round.
    named = ["event_id", content["event_id"]] if "event_id" in content else ["key", event.key]
    try:
        return _CANONICAL.encode([event.source, *named, connection, region, content])
    except ValueError:
        return None


def _values(entry: CallRule, defaults: ReadOnly[str, Value], view: _View, part: _View) -> dict[str, Any]:
    keys, readers = entry.spec.keys, _READERS[entry.spec.name]
    values: dict[str, Any] = _identifiers(entry, defaults, view, part)
    for name, value in entry.fields.items():
        if (reader := readers.get(name)) is not None:
            into, read = reader
            values[into] = read(value, name, view)
    if (key := keys.get("attributes")) is not None:
        attributes = _attributes(entry, view)
        values["attributes"] = _written_out(attributes) if key.kind is Kind.TEXTS else attributes
    if "timestamp" in keys:
        values["timestamp"] = _timestamp(entry, defaults, view, part)
    return values


def _identifiers(
    entry: CallRule, defaults: ReadOnly[str, Value], view: _View, part: _View
) -> dict[str, str | None]:
    """Resolve whom a call is about: a call that names anybody itself takes nobody from the defaults."""
    identifiers = entry.spec.identifiers
    source, seen = entry.fields, view
    if source.keys().isdisjoint(identifiers):
        source, seen = defaults, part
    texts = {name: _text(source[name], name, seen) or None for name in identifiers if name in source}
    if texts and not any(texts.values()):
        first = source[next(iter(texts))]
        problem = (
            f"null or empty, so '{entry.spec.name}' names nobody; if that may be, give the call a 'when'"
        )
        raise TranslationError(first.where, ", ".join(texts), problem)
    return texts


def _timestamp(entry: CallRule, defaults: ReadOnly[str, Value], view: _View, part: _View) -> int | None:
    if (own := entry.fields.get("timestamp")) is not None:
        return _unix_seconds(own, "timestamp", view)
    if (default := defaults.get("timestamp")) is not None:
        return _unix_seconds(default, "timestamp", part)
    return None


def _unix_seconds(written: Value, name: str, view: _View) -> int | None:
    """Resolve a moment: Customer.io would silently replace one it cannot read with the present."""
    value = _resolve(written, name, view)
    if value is None or value is _LEFT_OUT:
        return None
    if type(value) is not int and type(value) is not float:
        problem = f"must be unix seconds, got {kind(value)}; write =unix(…)"
    elif value > LATEST:
        problem = "is too large for unix seconds; if it is in milliseconds, write =unix(…)"
    elif value < EARLIEST:
        problem = "is too small for unix seconds of today: it lies before September 2001"
    elif value != int(value):
        problem = "must be whole unix seconds; write =unix(…)"
    else:
        return int(value)
    raise TranslationError(written.where, name, problem)


def _attributes(entry: CallRule, view: _View) -> dict[str, JSON]:
    found = _taken_whole(entry, view)
    own = entry.fields.get("attributes")
    for name, value in own.entries if isinstance(own, ObjectValue) else ():
        # What the author names, the author decides: an expression that gives null leaves the name out.
        found.pop(name, None)
        resolved = _resolve(value, f"attributes.{name}", view)
        if resolved is not _LEFT_OUT:
            found[name] = resolved
    return found


def _taken_whole(entry: CallRule, view: _View) -> dict[str, JSON]:
    value = entry.fields.get("attributes_from")
    whole = None if value is None else _resolve(value, "attributes_from", view)
    if value is None or whole is None or whole is _LEFT_OUT:
        return {}
    if not isinstance(whole, dict):
        raise TranslationError(value.where, "attributes_from", f"needs an object, got {kind(whole)}")
    return {name: item for name, item in whole.items() if item is not None and not is_steering(name)}


def _required_text(value: Value, name: str, view: _View) -> str:
    text = _text(value, name, view)
    if not text:
        problem = (
            "null or empty; if that may be, write =not_null(…, 'another text'), or give the call a 'when'"
        )
        raise TranslationError(value.where, name, problem)
    return text


def _optional_text(value: Value, name: str, view: _View) -> str | None:
    return _text(value, name, view) or None


def _constant(value: Value, _name: str, _view: _View) -> JSON:
    assert isinstance(value, Constant), "the compiler takes literals only"
    return value.value


def _data(value: Value, name: str, view: _View) -> JSON:
    resolved = _resolve(value, name, view)
    return None if resolved is _LEFT_OUT else resolved


def _texts(value: Value, name: str, view: _View) -> dict[str, str]:
    """Resolve an object of texts; what is null is left out."""
    assert isinstance(value, ObjectValue), "the compiler takes objects only"
    texts = {key: _text(item, f"{name}.{key}", view) for key, item in value.entries}
    return {key: text for key, text in texts.items() if text is not None}


def _person(value: Value, name: str, view: _View) -> dict[str, str]:
    return {kind: text for kind, text in _texts(value, name, view).items() if text}


def _members(value: Value, name: str, view: _View, keys: ReadOnly[str, Key]) -> list[JSON]:
    """Resolve a list of objects with keys of their own, whether it was written out or comes from the payload."""
    found = _resolve(value, name, view)
    if found is None or found is _LEFT_OUT:
        return []
    if not isinstance(found, list):
        raise TranslationError(value.where, name, f"needs a list, got {kind(found)}; write =to_array(…)")
    return [_member(each, value.where, f"{name}[{number}]", keys) for number, each in enumerate(found)]


def _member(found: JSON, where: Where, name: str, keys: ReadOnly[str, Key]) -> JSON:
    if not isinstance(found, dict):
        raise TranslationError(where, name, f"must be an object with {', '.join(keys)}, got {kind(found)}")
    if unknown := found.keys() - keys.keys():
        problem = f"has keys that mean nothing here ({len(unknown)}); it takes {', '.join(keys)}"
        raise TranslationError(where, name, problem)
    member: dict[str, JSON] = {}
    for key, value in found.items():
        if keys[key].kind is not Kind.ATTRIBUTES:
            text = _as_text(value, where, f"{name}.{key}")
            member |= {key: text} if text else {}
        elif value is not None and not isinstance(value, dict):
            raise TranslationError(where, f"{name}.{key}", f"must be an object, got {kind(value)}")
        elif value:
            member[key] = value
    return member


_Reader: TypeAlias = Callable[[Value, str, _View], Any]
_READERS_OF_KINDS: dict[Kind, _Reader] = {
    Kind.PERSON: _person,
    Kind.REFERENCE: _required_text,
    Kind.EVENT_ID: _optional_text,
    Kind.DATA: _data,
    Kind.NOTE: _constant,
    Kind.SECONDS: _constant,
    Kind.FLAG: _constant,
    Kind.RETRY: _constant,
}


def _reader(name: str, key: Key) -> _Reader | None:
    match key.kind:
        case Kind.TEXT:
            return _required_text if key.required else _optional_text
        case Kind.TIMESTAMP:
            return None if name == "timestamp" else _unix_seconds
        case Kind.MEMBERS:
            return lambda value, name, view: _members(value, name, view, key.keys)
        case Kind.VALUES:
            return _texts if name in ("headers", "files", "file_names") else _data
        case kind_:
            return _READERS_OF_KINDS.get(kind_)


#: By the name of a call and of its key: how what is no further special is read, and into which field.
_READERS = {
    spec.name: {
        name: (field_of(name), read)
        for name, key in spec.keys.items()
        if (read := _reader(name, key)) is not None
    }
    for spec in SPECS.values()
}


def _written_out(attributes: dict[str, JSON]) -> dict[str, JSON]:
    """Write numbers and booleans out where only texts are taken."""
    return {
        name: plain_text(value) if isinstance(value, bool | int | float) else value
        for name, value in attributes.items()
    }


def _text(value: Value, name: str, view: _View) -> str | None:
    """Resolve what has to be text; a number is written out."""
    resolved = _resolve(value, name, view)
    return None if resolved is _LEFT_OUT else _as_text(resolved, value.where, name)


def _as_text(value: JSON, where: Where, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TranslationError(where, name, f"must be text or a number, got {kind(value)}")
    try:
        return number_text(value)
    except ExpressionError as error:
        raise TranslationError(where, name, str(error)) from error


class _LeftOut(Enum):
    """The one value that is not JSON: an expression gave null, so there is nothing to write."""

    NOTHING = 0


_LEFT_OUT: Final = _LeftOut.NOTHING


def _resolve(value: Value, name: str, view: _View) -> JSON | _LeftOut:
    match value:
        case Computed():
            found = _evaluate(value, name, view)
            return _LEFT_OUT if found is None else found
        case Constant():
            return value.value
        case OrNull():
            return _evaluate(value.computed, name, view)
        case ObjectValue():
            pairs = ((key, _resolve(item, f"{name}.{key}", view)) for key, item in value.entries)
            return {key: item for key, item in pairs if item is not _LEFT_OUT}
        case ListValue():
            items = (_resolve(item, name, view) for item in value.items)
            return [item for item in items if item is not _LEFT_OUT]


def _evaluate(computed: Computed, name: str, view: _View) -> JSON:
    try:
        return computed.expression.evaluate(view.current, view.scope)
    except ExpressionError as error:
        raise TranslationError(computed.where, name, str(error)) from error


def _holds(condition: Computed, view: _View) -> bool:
    """Tell whether a `when` is true: null, false, "", [] and {} are not, any number is."""
    return truthy(_evaluate(condition, "when", view))


def _place(field: str, entry: CallRule, defaults: ReadOnly[str, Value]) -> tuple[str, Where]:
    """Find where a field of a call was written, and what to call it there.

    A name that nobody wrote comes out of the payload, and is not shown.
    """
    name, rest = _PLACE.fullmatch(field).groups()  # type: ignore[union-attr]  # it fits everything
    if name == "attributes" and (name not in entry.fields or _below(entry.fields[name], rest) is None):
        name, rest = ("attributes_from" if "attributes_from" in entry.fields else name), ""
    written = entry.fields.get(name) or defaults.get(name)
    if written is None:
        return name, entry.where
    found = _below(written, rest)
    return (name, written.where) if found is None else (field if rest else name, found)


_PLACE = re.compile(r"(\w*)(.*)", re.DOTALL)
_STEP = re.compile(r"\[(\d+)\](.*)|\.(.*)", re.DOTALL)


def _below(value: Value, path: str) -> Where | None:
    """Find where below a value something was written; None: nowhere."""
    step = _STEP.fullmatch(path)
    if step is None:
        return value.where
    number, rest, key = step.groups()
    if number is not None:
        items = value.items if isinstance(value, ListValue) else ()
        return _below(items[int(number)], rest) if int(number) < len(items) else None
    entries = dict(value.entries) if isinstance(value, ObjectValue) else {}
    if key in entries:  # an attribute's name may hold dots
        return entries[key].where
    first, dot, rest = key.partition(".")
    return _below(entries[first], dot + rest) if first in entries else None


def _refuse_equal_event_ids(drafts: list[_Draft]) -> None:
    seen = set()
    for draft in drafts:
        event_id = getattr(draft.call, "event_id", None)
        if event_id is None:
            continue
        event_id = event_id.upper() if is_ulid(event_id) else event_id
        if event_id in seen:
            problem = (
                "two calls of this event have the same, so Customer.io would drop the second; make them"
                " differ: =join('-', [id, 'second']), or under 'each' =join('-', [id, to_string(index())])"
            )
            raise TranslationError(draft.rule.fields["event_id"].where, "event_id", problem)
        seen.add(event_id)


def _planned(mapping: Mapping, event: Event, drafts: list[_Draft], salt: bytes) -> Iterator[Planned]:
    equals: dict[str, int] = {}
    for draft in drafts:
        connection, region = _way(mapping, draft.rule)
        number = equals.get(draft.told, 0)
        equals[draft.told] = number + 1
        identity = hashlib.sha256(f"{draft.told[:-1]},{number}]".encode()).digest()
        identity = identity[: len(identity) - len(salt)] + salt
        ulid = _ulid_of(draft.call, event.source, connection, identity, salt)
        yield Planned(
            call=draft.call,
            connection=connection,
            region=region,
            identity=identity,
            ulid=ulid,
            lanes=lanes(connection, draft.call, draft.whom),
            text=_STORED.encode(draft.content if ulid is None else {**draft.content, "event_id": ulid}),
        )


# Made once: json.dumps would make one for each text.
_STORED = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_CANONICAL = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=True, allow_nan=False)


def _ulid_of(call: Call, source: str, connection: str, identity: bytes, salt: bytes) -> str | None:
    """Find the ULID by which Customer.io drops a repeat, if a call is of a kind that has one."""
    if not isinstance(call, Occurrence):
        return None
    if call.event_id is None or salt:
        assert call.timestamp is not None, "a track or page always has a timestamp, if only of its receipt"
        return ulid(call.timestamp * 1000, hashlib.sha256(identity).digest() if salt else identity)
    if is_ulid(call.event_id):
        return call.event_id.upper()
    # Two webhooks that carry the same event_id may agree on nothing else and still mean the same occurrence.
    told = ",".join(map(_CANONICAL.encode, (source, connection, call.event_id)))
    return ulid_of_text(f"[{told}]")
