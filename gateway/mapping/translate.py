"""Turn one event into Customer.io calls by the rules of its source's mapping."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Literal

from gateway.customerio.calls import CALLS, Call, Occurrence, as_json
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.customerio.ulids import ulid as ulid_of_time
from gateway.errors import TranslationError
from gateway.event import JSON, Event
from gateway.mapping.call_fields import field_place, fields_of
from gateway.mapping.evaluate import EvaluationContext, evaluate, holds, text_of
from gateway.mapping.functions import Budget, Scope, kind
from gateway.mapping.model import CallRule, Computed, Constant, MappingFile, Rule, Value, find_rule
from gateway.mapping.trace import Trace

MAX_PARTS = 10_000
MAX_CALLS = 1_000
#: Bytes at the end of an identity by which a call that is sent again on purpose differs from the first.
SALT = 8


# Nobody changes one, nor a Translation, but frozen ones take more than twice as long to make.
@dataclass(kw_only=True, slots=True)
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
        return self.call.with_event_id(self.ulid) if isinstance(self.call, Occurrence) else self.call


@dataclass(kw_only=True, slots=True)
class Translation:
    """What an event comes to: calls, nothing (with the reason), or a problem.

    Attributes:
        parts: What each part of an event comes to that its mapping splits; together they are the event's:
            one that fails leaves the calls of the others.
    """

    status: Literal["accepted", "ignored", "failed"]
    event_type: str | None
    planned: tuple[Planned, ...] = ()
    reason: str | None = None
    problem: TranslationError | None = None
    parts: tuple[Translation, ...] = ()


def translate(mapping: MappingFile, event: Event, *, salt: bytes = b"", trace: Trace | None = None) -> Translation:
    """Work out the calls that an event asks for; whatever is wrong with its payload becomes the problem.

    Args:
        salt: SALT bytes, at most, that make each call another one, for the database and for Customer.io alike.
        trace: Where to write down how it went.
    """
    work = _Work(mapping, event, salt, trace)
    if mapping.split is None:
        return _translated(work, event.payload)
    try:
        parts = _parts(mapping, _view(work, event.payload))
    except TranslationError as problem:
        return Translation(status="failed", event_type=None, problem=problem)
    if not parts:
        return Translation(status="ignored", event_type=None, reason="'split' gives no parts")
    translated = []
    for number, part in enumerate(parts, start=1):
        if trace is not None:
            trace.tell(0, f"part {number} of {len(parts)}")
        translated.append(_translated(work, part))
    return _together(translated)


def event_key(mapping: MappingFile, event: Event) -> str | None:
    """Find what makes a repeated webhook the same, as the mapping says or else its scheme; None: neither knows.

    Raises TranslationError, but not for a part of a split event: that one fails when it is translated.
    """
    own = _mapped_key(mapping, event)
    if own is not None or mapping.default_key is None:
        return own
    return text_of(mapping.default_key, "event_key", _view(_Work(mapping, event), event.payload)) or None


def _mapped_key(mapping: MappingFile, event: Event) -> str | None:
    if mapping.event_key is None:
        return None
    work = _Work(mapping, event)
    if mapping.split is None:
        return _own_key(mapping, _routed(mapping, _view(work, event.payload)))
    try:
        parts = _parts(mapping, _view(work, event.payload))
        keys = [_own_key(mapping, _routed(mapping, _view(work, part))) for part in parts]
    except TranslationError:
        return None
    return _canonical(keys) if keys and all(keys) else None


class _Work:
    """One event that is being translated, and what its parts have to agree on.

    Attributes:
        keys: The keys of the parts so far that have one of their own.
        event_ids: The event ids of the calls so far.
        equals: How many of the calls so far were told alike.
        calls: How many calls there are so far.
        budget: What all expressions together may still cost.
    """

    def __init__(self, mapping: MappingFile, event: Event, salt: bytes = b"", trace: Trace | None = None) -> None:
        self.mapping = mapping
        self.event = event
        self.salt = salt
        self.trace = trace
        self.keys: set[str] = set()
        self.event_ids: set[str] = set()
        self.equals: dict[str, int] = {}
        self.calls = 0
        self.budget = Budget()


def _view(work: _Work, part: JSON) -> EvaluationContext:
    mapping, event = work.mapping, work.event
    scope = Scope(
        root=part,
        body=event.payload,
        headers=event.headers,
        query=event.query,
        received_at=event.received_at,
        tables=mapping.tables,
        budget=work.budget,
    )
    if mapping.let:
        scope.let = {name: partial(_variable, value, name, work.trace) for name, value in mapping.let.items()}
    return EvaluationContext(current=part, scope=scope, trace=work.trace)


def _variable(value: Value, name: str, trace: Trace | None, part: JSON, scope: Scope) -> JSON:
    return evaluate(value, f"let.{name}", EvaluationContext(current=part, scope=scope, trace=trace))


def _parts(mapping: MappingFile, whole: EvaluationContext) -> Sequence[JSON]:
    assert mapping.split is not None, "asked for of a mapping that splits only"
    parts = evaluate(mapping.split, "split", whole)
    if parts is None:
        return ()
    if not isinstance(parts, list):
        problem = f"needs a list, got {kind(parts)}; write =to_array(…) for one or many"
        raise TranslationError(mapping.split.where, "split", problem)
    if len(parts) > MAX_PARTS:
        problem = f"gives more than {MAX_PARTS:,} parts; let the sender post smaller batches"
        raise TranslationError(mapping.split.where, "split", problem)
    return parts


def _together(parts: list[Translation]) -> Translation:
    """Sum up the parts of an event."""
    planned = tuple(call for part in parts for call in part.planned)
    types = dict.fromkeys(part.event_type for part in parts if part.event_type is not None)
    problem = _summed_up([part.problem for part in parts])
    reasons = dict.fromkeys(part.reason for part in parts if part.reason is not None)
    return Translation(
        status="failed" if problem else "accepted" if planned else "ignored",
        event_type=", ".join(types) or None,
        planned=planned,
        reason=None if planned or problem else "; ".join(reasons),
        problem=problem,
        parts=tuple(parts),
    )


def _summed_up(problems: list[TranslationError | None]) -> TranslationError | None:
    found = [(number, each) for number, each in enumerate(problems, start=1) if each is not None]
    if not found:
        return None
    number, first = found[0]
    others = len(found) - 1
    also = f", and {others} other part{' fails' if others == 1 else 's fail'} too" if others else ""
    problem = f"{first.problem}; this is part {number} of {len(problems)}{also}"
    return TranslationError(first.where, first.field, problem)


def _routed(mapping: MappingFile, part: EvaluationContext) -> EvaluationContext:
    """Find the event type of a part, which its other expressions see."""
    if mapping.event_type is not None:
        part.scope.event_type = text_of(mapping.event_type, "event_type", part)
        part.scope.known.clear()  # variables that were asked for before there was a type
    return part


def _own_key(mapping: MappingFile, part: EvaluationContext) -> str | None:
    return None if mapping.event_key is None else text_of(mapping.event_key, "event_key", part) or None


def _translated(work: _Work, payload: JSON) -> Translation:
    part = _view(work, payload)
    try:
        _routed(work.mapping, part)
        return _of_part(work, part)
    except TranslationError as problem:
        return Translation(status="failed", event_type=part.scope.event_type, problem=problem)


def _of_part(work: _Work, part: EvaluationContext) -> Translation:
    mapping, scope = work.mapping, part.scope
    if mapping.when is not None and not holds(mapping.when, part):
        return _ignored(scope, "the mapping's own 'when' is not true")
    rule = find_rule(mapping, scope.event_type)
    if work.trace is not None:
        _tell_rule(work.trace, rule)
    if rule is None:
        return _ignored(scope, "no entry of 'events' matches the event type")
    key = _key_of_part(work, part)
    if key is None:
        return _ignored(scope, "an earlier part of the same webhook has the same 'event_key'")
    drafts, reasons = _drafts(work, key, rule, part)
    if not drafts:
        return _ignored(scope, reasons[0] if reasons else _why_no_calls(rule))
    _refuse_equal_event_ids(drafts, work.event_ids)
    work.calls += len(drafts)
    planned = tuple([_planned(work, draft) for draft in drafts])
    return Translation(status="accepted", event_type=scope.event_type, planned=planned)


def _key_of_part(work: _Work, part: EvaluationContext) -> str | None:
    """Give what tells the calls of a part from those of others; None: an earlier part was the same.

    A part that has a key of its own keeps it, whatever else is posted with it the next time.
    """
    if work.mapping.split is None:
        return work.event.key
    own = _own_key(work.mapping, part)
    if own is None:
        return work.event.key
    if own in work.keys:
        return None
    work.keys.add(own)
    return sha256(own.encode(errors="surrogatepass")).hexdigest()


def _tell_rule(trace: Trace, rule: Rule | None) -> None:
    if rule is None:
        trace.tell(1, "no entry of 'events' matches")
    else:
        trace.tell(1, f"the entry '{' | '.join(rule.event_types)}' matches", rule.where)


def _ignored(scope: Scope, reason: str) -> Translation:
    return Translation(status="ignored", event_type=scope.event_type, reason=reason)


def _why_no_calls(rule: Rule) -> str:
    named = f"'{' | '.join(rule.event_types)}'"
    if not rule.calls:
        return f"the entry {named} has no calls"
    return f"no call of the entry {named} applies: each has a 'when' that is not true, or nothing in its 'each'"


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A call before it is sealed.

    Attributes:
        connection, region: Where it goes.
        content: The call as JSON.
        told: What makes the call the same call, whenever its event is translated again: a list in JSON.
    """

    rule: CallRule
    call: Call
    connection: str
    region: str | None
    content: dict[str, JSON]
    told: str


def _drafts(work: _Work, key: str, rule: Rule, part: EvaluationContext) -> tuple[list[_Draft], list[str]]:
    """Build all calls of a rule, and collect the reasons of its `ignore` entries that apply."""
    drafts: list[_Draft] = []
    reasons: list[str] = []
    for entry in rule.calls:
        for view in _occasions(entry, part):
            if entry.spec.name not in CALLS:
                reasons.append(_reason(entry))
                continue
            if work.calls + len(drafts) == MAX_CALLS:
                problem = f"the event makes more than {MAX_CALLS:,} calls; take fewer items in 'each'"
                raise TranslationError(entry.where, "each" if entry.each else "call", problem)
            drafts.append(_draft(work, key, entry, view, part))
    return drafts, reasons


def _reason(entry: CallRule) -> str:
    reason = entry.fields.get("reason")
    return str(reason.value) if isinstance(reason, Constant) else "the mapping says 'ignore'"


def _occasions(entry: CallRule, part: EvaluationContext) -> Iterable[EvaluationContext]:
    """Give what a call is to be made for: the part, or each item, if its `when` is true."""
    if part.trace is not None:
        part.trace.tell(2, entry.spec.name, entry.where)
    views = (part,) if entry.each is None else _items(entry.each, part)
    return views if entry.when is None else _fitting(entry.when, views)


def _fitting(when: Computed, views: Iterable[EvaluationContext]) -> Iterator[EvaluationContext]:
    for view in views:
        if holds(when, view):
            yield view
        elif view.trace is not None:
            view.trace.tell(3, "no call: its 'when' is not true")


def _items(each: Computed, part: EvaluationContext) -> Iterator[EvaluationContext]:
    items = evaluate(each, "each", part)
    if items is None:
        return
    if not isinstance(items, list):
        problem = f"needs a list, got {kind(items)}; write =to_array(…) for one or many"
        raise TranslationError(each.where, "each", problem)
    for number, item in enumerate(items):
        if part.trace is not None:
            part.trace.tell(3, f"item {number} of its 'each'")
        yield EvaluationContext(current=item, scope=part.scope.inside_each(number), trace=part.trace)


def _draft(work: _Work, key: str, entry: CallRule, view: EvaluationContext, part: EvaluationContext) -> _Draft:
    mapping, event = work.mapping, work.event
    values = fields_of(entry, mapping.defaults, view, part)
    undated = entry.spec.dated and values["timestamp"] is None
    if undated:
        values["timestamp"] = event.received_at
    call = CALLS[entry.spec.name](**values)
    content = as_json(call)
    connection, region = entry.connection or mapping.connection, entry.region or mapping.region
    # The tag keeps an `event_id` from ever standing for some event's key, or the other way round.
    named = ("event_id", content["event_id"]) if "event_id" in content else ("key", key)
    told = _told([event.source, *named, connection, region, _undated(content) if undated else content])
    for violation in call.violations(told):
        field, place = field_place(violation.field, entry, mapping.defaults)
        raise TranslationError(place, field, violation.problem)
    assert told is not None, "a call that JSON cannot write violates a limit"
    return _Draft(rule=entry, call=call, connection=connection, region=region, content=content, told=told)


def _undated(content: dict[str, JSON]) -> dict[str, JSON]:
    """Take off a timestamp that is only the time of receipt, and so no part of what the call is."""
    return {name: value for name, value in content.items() if name != "timestamp"}


def _told(facts: object) -> str | None:
    """Write down what makes a call the same call; None: it holds a number that JSON cannot write."""
    try:
        return _canonical(facts)
    except ValueError:
        return None


def _refuse_equal_event_ids(drafts: list[_Draft], earlier: set[str]) -> None:
    """Refuse an event id that another call of the event has; *earlier* are those of the parts before."""
    seen: set[str] = set()
    for draft in drafts:
        event_id = draft.content.get("event_id")
        if not isinstance(event_id, str):
            continue
        event_id = event_id.upper() if is_ulid(event_id) else event_id
        if event_id in seen or event_id in earlier:
            problem = (
                "two calls of this event have the same, so Customer.io would drop the second; make them"
                " differ: =join('-', [id, 'second']), or under 'each' =join('-', [id, to_string(index())])"
            )
            raise TranslationError(draft.rule.fields["event_id"].where, "event_id", problem)
        seen.add(event_id)
    earlier |= seen


def _planned(work: _Work, draft: _Draft) -> Planned:
    """Seal a call: give it what tells it apart, and write it down."""
    number, salt = work.equals.get(draft.told, 0), work.salt
    work.equals[draft.told] = number + 1
    identity = sha256(f"{draft.told[:-1]},{number}]".encode()).digest()
    if salt:
        identity = identity[: -len(salt)] + salt
    ulid, content = None, draft.content
    if isinstance(draft.call, Occurrence):
        ulid = _ulid_of(draft.call, work.event.source, draft.connection, identity, salt)
        content = {**content, "event_id": ulid}
    return Planned(
        call=draft.call,
        connection=draft.connection,
        region=draft.region,
        identity=identity,
        ulid=ulid,
        lanes=draft.call.lanes(draft.connection),
        text=_stored(content),
    )


def _ulid_of(call: Occurrence, source: str, connection: str, identity: bytes, salt: bytes) -> str:
    """Find the ULID by which Customer.io drops a repeat."""
    if call.event_id is None or salt:
        assert call.timestamp is not None, "a track or page always has a timestamp, if only of its receipt"
        return ulid_of_time(call.timestamp * 1000, sha256(identity).digest() if salt else identity)
    if is_ulid(call.event_id):
        return call.event_id.upper()
    # Two webhooks that carry the same event_id may agree on nothing else and still mean the same occurrence.
    return ulid_of_text(_canonical([source, connection, call.event_id]))


# Encoders made once, because json.dumps makes a new one for each text. No value refers to itself.
_stored = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_canonical = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=True, allow_nan=False).encode
