"""`events`: which event types become which calls."""

from __future__ import annotations

from gateway.errors import Location
from gateway.mapping.compiler.call_entry import Around, read_calls
from gateway.mapping.compiler.diagnostics import Diagnostics
from gateway.mapping.model import CallRule, Glob, Routes, Rule
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar


def read_rules(top: ObjectNode, around: Around, notes: Diagnostics, *, is_routed: bool) -> tuple[Rule, ...]:
    """Read the entries of `events`; without an event type (*is_routed*) only one of them can match."""
    node = top.get("events")
    if not isinstance(node, ObjectNode):
        if node is None:
            notes.error(top.where, "events", "'events' is missing; it says which calls each event type becomes")
        else:
            notes.error(
                node.where,
                "events",
                "'events' must be an object: an event type, and below it a list of calls",
            )
        return ()
    rules = tuple(_rule(key, value, around, notes) for key, value in node.entries)
    _warn_of_unreachable(rules, notes)
    if not is_routed:
        _warn_of_no_type(rules, notes)
    return rules


def _rule(key: Scalar, value: Node, around: Around, notes: Diagnostics) -> Rule:
    event_types = tuple(part.strip() for part in str(key.value).split("|"))
    if "" in event_types:
        notes.error(key.where, "event-type", "an event type is missing beside '|'")
    calls = read_calls(value, str(key.value), around, notes)
    if len(calls) > 1:
        _warn_of_ignore(calls, notes)
    return Rule(where=key.where, event_types=event_types, calls=calls)


def _warn_of_ignore(calls: tuple[CallRule, ...], notes: Diagnostics) -> None:
    """An `ignore` may be taken for the end of the list, which it is not."""
    if all(call.when is not None for call in calls if call.spec.name != "ignore"):
        return
    for call in calls:
        if call.spec.name == "ignore":
            text = "'ignore' does not stop the other calls of this event; give those a 'when'"
            notes.warn(call.where, "ignore-beside-calls", text)


def _warn_of_unreachable(rules: tuple[Rule, ...], notes: Diagnostics) -> None:
    earlier: list[tuple[str, Location]] = []
    for rule in rules:
        for event_type in rule.event_types:
            before = next((before for before in earlier if _covers(before[0], event_type)), None)
            if before is not None:
                text = f"'{event_type}' never gets here: '{before[0]}' on line {before[1].line} comes first"
                notes.warn(rule.where, "shadowed-event", text)
            earlier.append((event_type, rule.where))


def _covers(earlier: str, later: str) -> bool:
    """Tell whether all that fits *later* fits *earlier*: only a "*" of the one takes in one of the other."""
    return _glob(earlier).matches(later) if "*" in earlier else earlier == later


def _warn_of_no_type(rules: tuple[Rule, ...], notes: Diagnostics) -> None:
    for rule in rules:
        if "*" not in rule.event_types:
            text = f"'{rule.event_types[0]}' never matches: without an 'event_type' only \"*\" does"
            notes.warn(rule.where, "no-event-type", text)


def _glob(event_type: str) -> Glob:
    return Glob(pieces=tuple(event_type.split("*")))


def routes_of(rules: tuple[Rule, ...]) -> Routes:
    literals: dict[str, int] = {}
    globs = []
    for number, rule in enumerate(rules):
        for event_type in rule.event_types:
            if "*" in event_type:
                globs.append((_glob(event_type), number))
            else:
                literals.setdefault(event_type, number)
    any_type = next((number for number, rule in enumerate(rules) if "*" in rule.event_types), None)
    return Routes(literals=literals, globs=tuple(globs), any_type=any_type)
