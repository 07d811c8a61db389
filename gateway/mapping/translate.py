"""Translate one event into Customer.io calls by the rules of its source's mapping.

The flow, from top to bottom of this file: an event has parts (one, unless the mapping splits it); the event type
of a part finds its rule; each entry of the rule gives calls; a call that keeps the limits of Customer.io becomes
a planned call, with its identity, its ULID, its lanes and the text that is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Literal

from gateway.customerio.calls import CALLS, Call, Destroy, Occurrence, as_json
from gateway.customerio.limits import Violation
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.customerio.ulids import ulid as ulid_of_time
from gateway.errors import TranslationError
from gateway.event import JSON, Event, NewDelivery
from gateway.mapping.call_fields import field_place, fields_of
from gateway.mapping.evaluate import EvaluationContext, evaluate, holds, text_of
from gateway.mapping.functions import Budget, Scope, kind
from gateway.mapping.model import CallRule, Computed, Constant, MappingFile, Rule, Value, find_rule
from gateway.mapping.trace import Trace

MAX_PARTS = 10_000
MAX_CALLS = 1_000
#: Bytes at the end of an identity that are replaced when a call is sent again on purpose.
SALT = 8


@dataclass(kw_only=True, slots=True)
class PlannedCall(NewDelivery):
    """One call that an event asks for.

    Attributes:
        call: The call as the mapping wrote it, defaults included.
        ulid: The event id that is sent, by which Customer.io drops a repeat; None: this kind of call has none.
    """

    call: Call
    ulid: str | None

    @property
    def sealed(self) -> Call:
        """The call as it is stored and sent: with its ULID."""
        return self.call.with_event_id(self.ulid) if isinstance(self.call, Occurrence) else self.call


@dataclass(kw_only=True, slots=True)
class Translation:
    """The result for one event, or for one part of it: calls, nothing (with the reason), or a problem.

    Attributes:
        parts: The results for the parts of a split event. A part that fails leaves the calls of the others.
    """

    status: Literal["accepted", "ignored", "failed"]
    event_type: str | None
    planned: tuple[PlannedCall, ...] = ()
    reason: str | None = None
    problem: TranslationError | None = None
    parts: tuple[Translation, ...] = ()


def translate(
    mapping: MappingFile,
    event: Event,
    *,
    salt: bytes = b"",
    trace: Trace | None = None,
    budget: Budget | None = None,
) -> Translation:
    """Return the calls that an event asks for. Never raises for a payload: its error is the translation's problem.

    Args:
        salt: At most SALT bytes that give each call another identity and another ULID, to send it again.
        trace: Records the steps of the translation.
        budget: What its expressions may cost; by default MAX_STEPS.
    """
    translator = _Translator(mapping, event, salt, trace, budget)
    if mapping.split is None:
        return translator.translate_part(event.payload)
    try:
        parts = translator.split(mapping.split)
    except TranslationError as problem:
        return Translation(status="failed", event_type=None, problem=problem)
    if not parts:
        return Translation(status="ignored", event_type=None, reason="'split' gives no parts")
    translations = []
    for number, part in enumerate(parts, start=1):
        if trace is not None:
            trace.step(0, f"part {number} of {len(parts)}")
        translations.append(translator.translate_part(part))
    return _combine(translations)


def event_key(mapping: MappingFile, event: Event, *, budget: Budget | None = None) -> str | None:
    """Return the key that makes a repeated webhook the same event: the mapping's, else its scheme's, else None.

    A split event has the keys of all its parts as its key, if each part has one.

    Raises TranslationError, but not for a split event: its parts fail when they are translated.
    """
    translator = _Translator(mapping, event, budget=budget)
    key = None
    if mapping.event_key is not None and mapping.split is None:
        key = translator.own_key(translator.routed(translator.context(event.payload)))
    elif mapping.event_key is not None and mapping.split is not None:
        try:
            parts = translator.split(mapping.split)
            keys = [translator.own_key(translator.routed(translator.context(part))) for part in parts]
        except TranslationError:
            keys = []
        key = _canonical(keys) if keys and all(keys) else None
    if key is None and mapping.default_key is not None:
        # The scheme's key is about the whole body, and may not depend on the mapping's event type.
        return text_of(mapping.default_key, "event_key", translator.context(event.payload)) or None
    return key


def _combine(parts: list[Translation]) -> Translation:
    """Combine the translations of an event's parts into that of the event."""
    planned = tuple(call for part in parts for call in part.planned)
    event_types = dict.fromkeys(part.event_type for part in parts if part.event_type is not None)
    reasons = dict.fromkeys(part.reason for part in parts if part.reason is not None)
    problems = [(number, part.problem) for number, part in enumerate(parts, start=1) if part.problem is not None]
    problem = None
    if problems:
        number, first = problems[0]
        others = len(problems) - 1
        also = f", and {others} other part{' fails' if others == 1 else 's fail'} too" if others else ""
        text = f"{first.problem}; this is part {number} of {len(parts)}{also}"
        problem = TranslationError(first.location, first.field, text)
    return Translation(
        status="failed" if problem else "accepted" if planned else "ignored",
        event_type=", ".join(event_types) or None,
        planned=planned,
        reason=None if planned or problem else "; ".join(reasons),
        problem=problem,
        parts=tuple(parts),
    )


@dataclass(slots=True)
class _Part:
    """One part of an event while its calls are planned.

    Attributes:
        context: What its expressions are evaluated on.
        key: The event key from which the identities of its calls are made.
        planned: Its calls so far.
        event_ids: The connections and ULIDs of those that have an event id of their own.
        repeats: How often it has asked for each call so far, by the text of what makes it the same call.
    """

    context: EvaluationContext
    key: str
    planned: list[PlannedCall] = field(default_factory=list)
    event_ids: set[tuple[str, str]] = field(default_factory=set)
    repeats: dict[str, int] = field(default_factory=dict)


class _Translator:
    """Translates the parts of one event, one after the other.

    Attributes:
        budget: What all expressions on the event together may still cost.
        keys: The event keys of the parts so far that have one of their own.
        calls: The number of calls of the parts that were accepted.
        event_ids, repeats: Those of the same parts, as `_Part` has them.
    """

    def __init__(
        self,
        mapping: MappingFile,
        event: Event,
        salt: bytes = b"",
        trace: Trace | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.mapping = mapping
        self.event = event
        self.salt = salt
        self.trace = trace
        self.budget = budget or Budget()
        self.keys: set[str] = set()
        self.calls = 0
        self.event_ids: set[tuple[str, str]] = set()
        self.repeats: dict[str, int] = {}

    def split(self, split: Computed) -> list[JSON]:
        """Return the parts of the event. Raises TranslationError."""
        parts = _evaluate_list(split, "split", self.context(self.event.payload))
        if len(parts) > MAX_PARTS:
            problem = f"gives more than {MAX_PARTS:,} parts; let the sender post smaller batches"
            raise TranslationError(split.location, "split", problem)
        return parts

    def translate_part(self, payload: JSON) -> Translation:
        """Translate one part. Its first error fails all of it, so that it makes either all of its calls or none."""
        context = self.context(payload)
        try:
            planned, reason = self.plan(self.routed(context))
        except TranslationError as problem:
            return Translation(status="failed", event_type=context.scope.event_type, problem=problem)
        status: Literal["accepted", "ignored"] = "accepted" if planned else "ignored"
        return Translation(status=status, event_type=context.scope.event_type, planned=planned, reason=reason)

    def context(self, payload: JSON) -> EvaluationContext:
        """Return what the expressions on a part are evaluated on."""
        mapping, event = self.mapping, self.event
        scope = Scope(
            root=payload,
            body=event.payload,
            headers=event.headers,
            query=event.query,
            received_at=event.received_at,
            tables=mapping.tables,
            budget=self.budget,
        )
        if mapping.let:
            scope.let = {name: partial(_variable, value, name, self.trace) for name, value in mapping.let.items()}
        return EvaluationContext(current=payload, scope=scope, trace=self.trace)

    def routed(self, context: EvaluationContext) -> EvaluationContext:
        """Evaluate the event type of a part, so that its other expressions see it. Raises TranslationError."""
        if self.mapping.event_type is not None:
            context.scope.event_type = text_of(self.mapping.event_type, "event_type", context)
            # Forget variables that were computed while there was no event type: they may depend on it.
            context.scope.known.clear()
        return context

    def own_key(self, context: EvaluationContext) -> str | None:
        """Return the event key that a part has of its own. Raises TranslationError."""
        event_key = self.mapping.event_key
        return None if event_key is None else text_of(event_key, "event_key", context) or None

    def plan(self, context: EvaluationContext) -> tuple[tuple[PlannedCall, ...], str | None]:
        """Return the calls of a part; if there are none, the reason too. Raises TranslationError."""
        mapping = self.mapping
        if mapping.when is not None and not holds(mapping.when, context):
            return (), "the mapping's own 'when' is not true"
        rule = find_rule(mapping, context.scope.event_type)
        if rule is None:
            if self.trace is not None:
                self.trace.step(1, "no entry of 'events' matches")
            return (), "no entry of 'events' matches the event type"
        if self.trace is not None:
            self.trace.step(1, f"the entry '{' | '.join(rule.event_types)}' matches", rule.location)
        key = self.identity_key(context)
        if key is None:
            return (), "an earlier part of the same webhook has the same 'event_key'"
        return self.plan_rule(rule, _Part(context, key))

    def plan_rule(self, rule: Rule, part: _Part) -> tuple[tuple[PlannedCall, ...], str | None]:
        """Return the calls of a part's rule; if there are none, the reason too. Raises TranslationError."""
        ignore_reasons = []
        for entry in rule.calls:
            for context in _call_contexts(entry, part.context):
                if entry.spec.name not in CALLS:
                    reason = entry.fields.get("reason")
                    ignore_reasons.append(
                        str(reason.value) if isinstance(reason, Constant) else "the mapping says 'ignore'"
                    )
                    continue
                if self.calls + len(part.planned) == MAX_CALLS:
                    problem = f"the event makes more than {MAX_CALLS:,} calls; take fewer items in 'each'"
                    raise TranslationError(entry.location, "each" if entry.each else "call", problem)
                part.planned.append(self.plan_call(entry, context, part))
        if not part.planned:
            if ignore_reasons:
                return (), ignore_reasons[0]
            name = f"'{' | '.join(rule.event_types)}'"
            if not rule.calls:
                return (), f"the entry {name} has no calls"
            problem = "each has a 'when' that is not true, or nothing in its 'each'"
            return (), f"no call of the entry {name} applies: {problem}"

        # Only now: the calls of a part that fails do not count for the parts after it.
        self.calls += len(part.planned)
        self.event_ids |= part.event_ids
        for text, repeats in part.repeats.items():
            self.repeats[text] = self.repeats.get(text, 0) + repeats
        return tuple(part.planned), None

    def identity_key(self, context: EvaluationContext) -> str | None:
        """Return the key from which the identities of a part's calls are made; None: an earlier part has the same.

        A part that has a key of its own keeps it, whatever other parts it is posted with the next time.
        """
        key = None if self.mapping.split is None else self.own_key(context)
        if key is None:
            return self.event.key
        if key in self.keys:
            return None
        self.keys.add(key)
        return sha256(key.encode(errors="surrogatepass")).hexdigest()

    def plan_call(self, entry: CallRule, context: EvaluationContext, part: _Part) -> PlannedCall:
        """Build one call and check it. Raises TranslationError with the place of what is wrong."""
        mapping, event = self.mapping, self.event
        values = fields_of(entry, mapping.defaults, context, part.context)
        undated = entry.spec.dated and values["timestamp"] is None
        if undated:
            values["timestamp"] = event.received_at
        call = CALLS[entry.spec.name](**values)
        content = as_json(call)
        connection, region = entry.connection or mapping.connection, entry.region or mapping.region

        # What makes a call the same call whenever its event is translated again. A time that is not the author's, or
        # not sent, is no part of it. The tag keeps an event id from ever being taken for an event's key, or vice versa.
        event_id = content.get("event_id")
        origin = ("key", part.key) if event_id is None else ("event_id", event_id)
        is_undated = undated or isinstance(call, Destroy)
        lasting = {name: value for name, value in content.items() if name != "timestamp"} if is_undated else content
        try:
            text = _canonical([event.source, *origin, connection, region, lasting])
        except ValueError:  # a number that JSON cannot write, which is a violation
            text = None

        for violation in call.violations(text):
            raise _refused(violation, entry, mapping.defaults)
        assert text is not None, "a call that JSON cannot write violates a limit"
        chosen_ulid = None
        if isinstance(call, Occurrence) and call.event_id is not None:
            chosen_ulid = self.chosen_ulid(call, call.event_id, connection, entry, part)

        repeats = part.repeats.get(text, 0)
        part.repeats[text] = repeats + 1
        ordinal = self.repeats.get(text, 0) + repeats
        identity = sha256(f"{text[:-1]},{ordinal}]".encode()).digest()
        if self.salt:
            identity = identity[: -len(self.salt)] + self.salt
        ulid = chosen_ulid
        if isinstance(call, Occurrence):
            if ulid is None or self.salt:
                assert call.timestamp is not None, "a track or page always has a timestamp, if only of its receipt"
                ulid = ulid_of_time(call.timestamp * 1000, sha256(identity).digest() if self.salt else identity)
            content = {**content, "event_id": ulid}
        moment = call.moment or event.received_at
        return PlannedCall(
            call=call,
            connection=connection,
            region=region,
            identity=identity,
            ulid=ulid,
            lanes=call.lanes(connection),
            text=_compact(content),
            queue=self.event.source,
            happened_at=moment if call.creates_person else None,
            # Nobody is deleted after the sender has told it.
            deleted_at=min(moment, event.received_at) if isinstance(call, Destroy) else None,
            chosen_ulid=None if self.salt else chosen_ulid,
            counts_once=isinstance(event_id, str) and not is_ulid(event_id),
        )

    def chosen_ulid(self, call: Occurrence, event_id: str, connection: str, entry: CallRule, part: _Part) -> str:
        """Return the ULID of a call's own event id. Raises TranslationError: another call of the event has the same.

        Two webhooks with the same event_id mean the same occurrence of a person, even if they agree on nothing else.
        """
        if is_ulid(event_id):
            ulid = event_id.upper()
        else:
            ulid = ulid_of_text(_canonical([self.event.source, connection, *call.event_id_facts()]))
        if (connection, ulid) in part.event_ids or (connection, ulid) in self.event_ids:
            problem = (
                "two calls of this event have the same, for the same person and name, so Customer.io would drop the"
                " second; make them differ: =format('{}-second', id), or under 'each' =format('{}-{}', id, index())"
            )
            raise TranslationError(entry.fields["event_id"].location, "event_id", problem)
        part.event_ids.add((connection, ulid))
        return ulid


def _refused(violation: Violation, entry: CallRule, defaults: Mapping[str, Value]) -> TranslationError:
    """Return the error of a call that violates a limit, with the place of what is wrong and the fix."""
    name, place = field_place(violation.field, entry, defaults)
    can_fit = violation.fits and name.startswith("attributes_from") and "fit" not in entry.fields
    return TranslationError(place, name, violation.problem + (", or write  fit: true" if can_fit else ""))


def _variable(value: Value, name: str, trace: Trace | None, root: JSON, scope: Scope) -> JSON:
    return evaluate(value, f"let.{name}", EvaluationContext(current=root, scope=scope, trace=trace))


def _evaluate_list(computed: Computed, name: str, context: EvaluationContext) -> list[JSON]:
    """Evaluate an expression that has to give a list; null is an empty one. Raises TranslationError."""
    items = evaluate(computed, name, context)
    if items is None:
        return []
    if not isinstance(items, list):
        problem = f"needs a list, got {kind(items)}; write =to_array(…) for one or many"
        raise TranslationError(computed.location, name, problem)
    return items


def _call_contexts(entry: CallRule, part: EvaluationContext) -> Iterator[EvaluationContext]:
    """Yield what each call of an entry is evaluated on: the part or, under `each`, an item; if `when` is true."""
    trace = part.trace
    if trace is not None:
        trace.step(2, entry.spec.name, entry.location)
    items = (None,) if entry.each is None else _evaluate_list(entry.each, "each", part)
    for number, item in enumerate(items):
        context = part
        if entry.each is not None:
            if trace is not None:
                trace.step(3, f"item {number} of its 'each'")
            context = EvaluationContext(current=item, scope=part.scope.inside_each(number), trace=trace)
        if entry.when is None or holds(entry.when, context):
            yield context
        elif trace is not None:
            trace.step(3, "no call: its 'when' is not true")


# Encoders made once, because json.dumps makes a new one for each text. No value refers to itself.
_compact = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_canonical = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=True, allow_nan=False).encode
