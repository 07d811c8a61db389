"""Compile `events`: which event types become which calls."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import Location
from gateway.mapping.compiler.call_entry import read_calls
from gateway.mapping.diagnostics import Diagnostics
from gateway.mapping.expressions import Names
from gateway.mapping.model import Glob, Routes, Rule
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar


def read_rules(
    top: ObjectNode, names: Names, defaults: Mapping[str, str], diagnostics: Diagnostics, *, has_type: bool
) -> tuple[Rule, ...]:
    """Compile the entries of `events`.

    Args:
        names: What the expressions may name.
        defaults: What is written under `defaults`, by key.
        has_type: Events have a type; without one, only "*" can match.
    """
    node = top.get("events")
    if node is None:
        text = "'events' is missing; it says which calls each event type becomes"
        diagnostics.error(top.location, "events", text)
        return ()
    if not isinstance(node, ObjectNode):
        text = "'events' must be an object: an event type, and below it a list of calls"
        diagnostics.error(node.location, "events", text)
        return ()
    rules = tuple(_read_rule(key, value, names, defaults, diagnostics) for key, value in node.entries)
    _warn_of_unreachable(rules, diagnostics)
    for rule in rules:
        if not has_type and "*" not in rule.event_types:
            text = f"'{rule.event_types[0]}' never matches: without an 'event_type' only \"*\" does"
            diagnostics.warn(rule.location, "no-event-type", text)
    return rules


def _read_rule(key: Scalar, value: Node, names: Names, defaults: Mapping[str, str], diagnostics: Diagnostics) -> Rule:
    event_types = tuple(part.strip() for part in str(key.value).split("|"))
    if "" in event_types:
        diagnostics.error(key.location, "event-type", "an event type is missing beside '|'")
    calls = read_calls(value, str(key.value), names, defaults, diagnostics)
    if any(call.when is None for call in calls if call.spec.name != "ignore"):
        # Authors take an `ignore` for the end of the list.
        for call in calls:
            if call.spec.name == "ignore":
                text = "'ignore' does not stop the other calls of this event; give those a 'when'"
                diagnostics.warn(call.location, "ignore-beside-calls", text)
    return Rule(location=key.location, event_types=event_types, calls=calls)


def _warn_of_unreachable(rules: tuple[Rule, ...], diagnostics: Diagnostics) -> None:
    earlier: list[tuple[str, Location]] = []
    for rule in rules:
        for event_type in rule.event_types:
            for other, location in earlier:
                # Only a "*" can match a "*".
                if _glob(other).matches(event_type) if "*" in other else other == event_type:
                    text = f"'{event_type}' never gets here: '{other}' on line {location.line} comes first"
                    diagnostics.warn(rule.location, "shadowed-event", text)
                    break
            earlier.append((event_type, rule.location))


def _glob(event_type: str) -> Glob:
    return Glob(pieces=tuple(event_type.split("*")))


def routes_of(rules: tuple[Rule, ...]) -> Routes:
    """Index the rules by event type."""
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
