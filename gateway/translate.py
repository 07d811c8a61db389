"""Turn one event into Customer.io calls by the rules of its source's mapping."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from gateway.calls import CALLS, Call, Page, Track, as_json
from gateway.errors import ExpressionError, TranslationError, Where
from gateway.events import JSON, Event
from gateway.functions import Scope, kind, number_text, truthy
from gateway.mapping import (
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


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One call that an event asks for, and where it goes.

    Attributes:
        call: The call as the mapping wrote it, defaults included.
        sealed: What is stored and sent: the same, with the ULID that Customer.io deduplicates by.
        connection: The Customer.io workspace by name.
        region: The region that the mapping asks for; None leaves it to the connection.
        identity: 32 bytes, the same whenever the same event asks for the same call.
    """

    call: Call
    sealed: Call
    connection: str
    region: str | None
    identity: bytes


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What an event comes to: calls, nothing (with the reason), or a problem (and then no calls)."""

    status: Literal["accepted", "ignored", "failed"]
    event_type: str | None
    planned: tuple[Planned, ...] = ()
    reason: str | None = None
    problem: TranslationError | None = None


def translate(mapping: Mapping, event: Event) -> Translation:
    """Work out the calls that an event asks for; whatever is wrong with its payload becomes the problem."""
    event_type = None
    try:
        scope = _scope(event.payload, event.headers, event.query, event.received_at)
        event_type = _event_type(mapping, scope)
        return _translated(mapping, event, replace(scope, event_type=event_type))
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
    scope = replace(scope, event_type=_event_type(mapping, scope))
    return _text(mapping.event_key, "event_key", _View(current=payload, scope=scope)) or None


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """What an expression is evaluated on: the part, or one item of its `each`."""

    current: JSON
    scope: Scope


def _scope(payload: JSON, headers: ReadOnly[str, str], query: ReadOnly[str, str], received_at: int) -> Scope:
    return Scope(root=payload, body=payload, headers=headers, query=query, received_at=received_at)


def _event_type(mapping: Mapping, scope: Scope) -> str | None:
    if mapping.event_type is None:
        return None
    return _text(mapping.event_type, "event_type", _View(current=scope.root, scope=scope))


def _translated(mapping: Mapping, event: Event, scope: Scope) -> Translation:
    part = _View(current=event.payload, scope=scope)
    if mapping.when is not None and not _holds(mapping.when, part):
        return _ignored(scope, "the mapping's own 'when' is not true")
    rule = find_rule(mapping, scope.event_type)
    if rule is None:
        return _ignored(scope, "no entry of 'events' matches the event type")
    drafts, reasons = _drafts(mapping, rule, part)
    if not drafts:
        return _ignored(scope, reasons[0] if reasons else _why_no_calls(rule))
    _refuse_equal_event_ids(drafts)
    planned = tuple(_planned(mapping, event, drafts))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """A call before it is sealed.

    Attributes:
        undated: Its timestamp is only the time of receipt, which is no part of what the call is.
    """

    rule: CallRule
    call: Call
    undated: bool


def _drafts(mapping: Mapping, rule: Rule, part: _View) -> tuple[list[_Draft], list[str]]:
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
            drafts.append(_draft(entry, mapping.defaults, view, part))
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


def _draft(entry: CallRule, defaults: ReadOnly[str, Value], view: _View, part: _View) -> _Draft:
    keys = entry.spec.keys
    values: dict[str, Any] = _identifiers(entry, defaults, view, part)
    for name, value in entry.fields.items():
        if (read := _READERS.get(keys[name].kind)) is not None:
            values[name] = read(value, name, view)
    if "attributes" in keys:
        values["attributes"] = _attributes(entry, view)
    if "timestamp" in keys:
        values["timestamp"] = _timestamp(entry, defaults, view, part)
    undated = entry.spec.dated and values["timestamp"] is None
    if undated:
        values["timestamp"] = part.scope.received_at
    call = CALLS[entry.spec.name](**values)
    _refuse_violations(call, entry, defaults)
    return _Draft(rule=entry, call=call, undated=undated)


def _identifiers(
    entry: CallRule, defaults: ReadOnly[str, Value], view: _View, part: _View
) -> dict[str, str | None]:
    """Resolve whom a call is about: a call that names anybody itself takes nobody from the defaults."""
    source, seen = entry.fields, view
    if not any(name in entry.fields for name in entry.spec.identifiers):
        source, seen = defaults, part
    named = {name: source[name] for name in entry.spec.identifiers if name in source}
    texts = {name: _text(value, name, seen) for name, value in named.items()}
    if named and not any(texts.values()):
        first = next(iter(named.values()))
        problem = (
            f"null or empty, so '{entry.spec.name}' names nobody; if that may be, give the call a 'when'"
        )
        raise TranslationError(first.where, ", ".join(named), problem)
    return {name: text or None for name, text in texts.items()}


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
    if isinstance(value, bool) or not isinstance(value, int | float):
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
        if not isinstance(resolved, _LeftOut):
            found[name] = resolved
    return found


def _taken_whole(entry: CallRule, view: _View) -> dict[str, JSON]:
    value = entry.fields.get("attributes_from")
    whole = None if value is None else _resolve(value, "attributes_from", view)
    if value is None or whole is None or isinstance(whole, _LeftOut):
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


_READERS: dict[Kind, Callable[[Value, str, _View], str | None]] = {
    Kind.TEXT: _required_text,
    Kind.EVENT_ID: _optional_text,
}


def _text(value: Value, name: str, view: _View) -> str | None:
    """Resolve what has to be text; a number is written out."""
    resolved = _resolve(value, name, view)
    if resolved is None or isinstance(resolved, _LeftOut):
        return None
    if isinstance(resolved, str):
        return resolved
    if isinstance(resolved, bool) or not isinstance(resolved, int | float):
        raise TranslationError(value.where, name, f"must be text or a number, got {kind(resolved)}")
    try:
        return number_text(resolved)
    except ExpressionError as error:
        raise TranslationError(value.where, name, str(error)) from error


class _LeftOut(Enum):
    """The one value that is not JSON: an expression gave null, so there is nothing to write."""

    NOTHING = 0


_LEFT_OUT = _LeftOut.NOTHING


def _resolve(value: Value, name: str, view: _View) -> JSON | _LeftOut:
    match value:
        case Constant():
            return value.value
        case Computed():
            found = _evaluate(value, name, view)
            return _LEFT_OUT if found is None else found
        case OrNull():
            return _evaluate(value.computed, name, view)
        case ObjectValue():
            pairs = ((key, _resolve(item, f"{name}.{key}", view)) for key, item in value.entries)
            return {key: item for key, item in pairs if not isinstance(item, _LeftOut)}
        case ListValue():
            items = (_resolve(item, name, view) for item in value.items)
            return [item for item in items if not isinstance(item, _LeftOut)]


def _evaluate(computed: Computed, name: str, view: _View) -> JSON:
    try:
        return computed.expression.evaluate(view.current, view.scope)
    except ExpressionError as error:
        raise TranslationError(computed.where, name, str(error)) from error


def _holds(condition: Computed, view: _View) -> bool:
    """Tell whether a `when` is true: null, false, "", [] and {} are not, any number is."""
    return truthy(_evaluate(condition, "when", view))


def _refuse_violations(call: Call, entry: CallRule, defaults: ReadOnly[str, Value]) -> None:
    for violation in violations(call):
        field, place = _place(violation.field, entry, defaults)
        raise TranslationError(place, field, violation.problem)


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


def _planned(mapping: Mapping, event: Event, drafts: list[_Draft]) -> Iterator[Planned]:
    equals: Counter[str] = Counter()
    for draft in drafts:
        connection = draft.rule.connection or mapping.connection
        region = draft.rule.region or mapping.region
        told = _told(event, connection, region, draft)
        identity = hashlib.sha256(f"{told[:-1]},{equals[told]}]".encode()).digest()
        equals[told] += 1
        sealed = _sealed(draft.call, event.source, connection, identity)
        yield Planned(call=draft.call, sealed=sealed, connection=connection, region=region, identity=identity)


def _told(event: Event, connection: str, region: str | None, draft: _Draft) -> str:
    """Write down what makes a call the same call, whenever its event is translated again."""
    content = as_json(draft.call)
    if draft.undated:
        del content["timestamp"]
    # The tag keeps an `event_id` from ever standing for some event's key, or the other way round.
    named = ["event_id", content["event_id"]] if "event_id" in content else ["key", event.key]
    return _canonical([event.source, *named, connection, region, content])


def _canonical(value: JSON) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sealed(call: Call, source: str, connection: str, identity: bytes) -> Call:
    """Give a call the ULID by which Customer.io drops a repeat, if it is of a kind that has one."""
    if not isinstance(call, Track | Page):
        return call
    if call.event_id is None:
        assert call.timestamp is not None, "a track or page always has a timestamp, if only of its receipt"
        return replace(call, event_id=_ulid(call.timestamp * 1000, identity))
    if _ULID.fullmatch(call.event_id):
        return replace(call, event_id=call.event_id.upper())
    # Two webhooks that carry the same event_id may agree on nothing else, not even on a timestamp, and
    # still mean the same occurrence: so the time in the ULID comes out of the hash as well. It is given
    # a plausible date, within four years and four months of 2020, for whoever sorts or reads ULIDs.
    digest = hashlib.sha256(_canonical([source, connection, call.event_id]).encode()).digest()
    milliseconds = _YEAR_2020 + int.from_bytes(digest[10:15], "big") % 2**37
    return replace(call, event_id=_ulid(milliseconds, digest))


_YEAR_2020 = 1_577_836_800_000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(f"[0-7][{_ALPHABET}]{{25}}", re.IGNORECASE | re.ASCII)


def _ulid(milliseconds: int, digest: bytes) -> str:
    """Write 48 bits of time and the first 80 of a hash in Crockford's base 32."""
    number = milliseconds << 80 | int.from_bytes(digest[:10], "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
