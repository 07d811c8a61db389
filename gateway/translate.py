"""Turn one event into Customer.io calls by the rules of its source's mapping."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal

from gateway.calls import CALLS, Address, Call, Page, Track, address, as_json, lane
from gateway.errors import ExpressionError, TranslationError, Where
from gateway.events import JSON, Event
from gateway.functions import Scope, kind, number_text, truthy
from gateway.mapping import (
    SPECS,
    CallRule,
    Computed,
    Constant,
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
from gateway.wire import EARLIEST, LATEST, violations

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
        return replace(self.call, event_id=self.ulid) if isinstance(self.call, Track | Page) else self.call


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
        if (read := readers.get(name)) is not None:
            values[name] = read(value, name, view)
    if "attributes" in keys:
        values["attributes"] = _attributes(entry, view)
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
        return _unix_seconds(_resolve(own, "timestamp", view), own.where)
    if (default := defaults.get("timestamp")) is not None:
        return _unix_seconds(_resolve(default, "timestamp", part), default.where)
    return None


def _unix_seconds(value: JSON | _LeftOut, where: Where) -> int | None:
    """Check a timestamp: Customer.io would silently replace one it cannot read with the present."""
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
    raise TranslationError(where, "timestamp", problem)


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


_READERS_OF_KINDS: dict[Kind, Callable[[Value, str, _View], str | None]] = {
    Kind.TEXT: _required_text,
    Kind.EVENT_ID: _optional_text,
}
#: By the name of a call and of its key.
_READERS = {
    spec.name: {
        name: _READERS_OF_KINDS[key.kind] for name, key in spec.keys.items() if key.kind in _READERS_OF_KINDS
    }
    for spec in SPECS.values()
}


def _text(value: Value, name: str, view: _View) -> str | None:
    """Resolve what has to be text; a number is written out."""
    resolved = _resolve(value, name, view)
    if isinstance(resolved, str):
        return resolved
    if resolved is None or resolved is _LEFT_OUT:
        return None
    if isinstance(resolved, bool) or not isinstance(resolved, int | float):
        raise TranslationError(value.where, name, f"must be text or a number, got {kind(resolved)}")
    try:
        return number_text(resolved)
    except ExpressionError as error:
        raise TranslationError(value.where, name, str(error)) from error


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
    """Find where a field of a call was written, and what to call it there."""
    name, _, attribute = field.partition(".")
    written = entry.fields.get("attributes")
    own = dict(written.entries) if isinstance(written, ObjectValue) else {}
    if attribute in own:
        return field, own[attribute].where
    if attribute or name not in entry.fields:
        # An attribute that nobody wrote comes out of the payload, and so does its name: it is not shown.
        name = "attributes_from" if name == "attributes" else name
    place = entry.fields.get(name) or defaults.get(name)
    return name, entry.where if place is None else place.where


def _refuse_equal_event_ids(drafts: list[_Draft]) -> None:
    seen = set()
    for draft in drafts:
        event_id = getattr(draft.call, "event_id", None)
        if event_id is None:
            continue
        event_id = event_id.upper() if _ULID.fullmatch(event_id) else event_id
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
            lanes=() if draft.whom is None else (lane(connection, draft.whom),),
            text=_STORED.encode(draft.content if ulid is None else {**draft.content, "event_id": ulid}),
        )


# Made once: json.dumps would make one for each text.
_STORED = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_CANONICAL = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=True, allow_nan=False)


def _ulid_of(call: Call, source: str, connection: str, identity: bytes, salt: bytes) -> str | None:
    """Find the ULID by which Customer.io drops a repeat, if a call is of a kind that has one."""
    if not isinstance(call, (Track, Page)):
        return None
    if call.event_id is None or salt:
        assert call.timestamp is not None, "a track or page always has a timestamp, if only of its receipt"
        return _ulid(call.timestamp * 1000, hashlib.sha256(identity).digest() if salt else identity)
    if _ULID.fullmatch(call.event_id):
        return call.event_id.upper()
    # Two webhooks that carry the same event_id may agree on nothing else, not even on a timestamp, and
    # still mean the same occurrence: so the time in the ULID comes out of the hash as well. It is given
    # a plausible date, within four years and four months of 2020, for whoever sorts or reads ULIDs.
    told = ",".join(map(_CANONICAL.encode, (source, connection, call.event_id)))
    digest = hashlib.sha256(f"[{told}]".encode()).digest()
    milliseconds = _YEAR_2020 + int.from_bytes(digest[10:15], "big") % 2**37
    return _ulid(milliseconds, digest)


_YEAR_2020 = 1_577_836_800_000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_ULID = re.compile(f"[0-7][{_ALPHABET}]{{25}}", re.IGNORECASE | re.ASCII)


def _ulid(milliseconds: int, digest: bytes) -> str:
    """Write 48 bits of time and the first 80 of a hash in Crockford's base 32."""
    number = milliseconds << 80 | int.from_bytes(digest[:10], "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
