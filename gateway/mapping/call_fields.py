"""From a call rule to the fields of a call, for one event; and back from a field to its place in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import Location, TranslationError
from gateway.mapping.evaluate import EvaluationContext
from gateway.mapping.key_kinds import CALL_KEYS
from gateway.mapping.key_kinds.object_keys import merge_whole_object
from gateway.mapping.model import CallRule, Computed, ListValue, ObjectValue, Value


def fields_of(
    rule: CallRule, defaults: Mapping[str, Value], context: EvaluationContext, part: EvaluationContext
) -> dict[str, Any]:
    """Evaluate a call rule's fields, as the call's class takes them.

    Args:
        defaults: Identifiers and timestamp of the file, for calls that have none of their own.
        context: The part, or one item of the call's `each`.
        part: The part itself: defaults are evaluated on it even under `each`.

    Raises TranslationError: an expression fails, a value has the wrong kind, or every identifier is null or empty.
    """
    spec, keys = rule.spec, CALL_KEYS[rule.spec.name]

    # A call with an identifier of its own takes none from the defaults: it might be another person's.
    identifiers: Sequence[tuple[str, Value]]
    identifiers, of_identifiers = rule.identifiers, context
    if not identifiers and not rule.names_nobody:
        identifiers = [(name, defaults[name]) for name in spec.identifiers if name in defaults]
        of_identifiers = part
    fields = {name: keys[name].evaluate(value, of_identifiers) for name, value in identifiers}
    if fields and not any(fields.values()):
        problem = f"null or empty, so '{spec.name}' names nobody; if that may be, give the call a 'when'"
        computed = {name: value.location for name, value in identifiers if isinstance(value, Computed)}
        raise TranslationError(next(iter(computed.values())), ", ".join(computed), problem)

    for name, value in rule.other_fields:
        key = keys[name]
        fields[key.field] = key.evaluate(value, context)

    merge_whole_object(fields, rule.fields, keys, context)
    if "timestamp" in keys and "timestamp" not in fields:
        default = defaults.get("timestamp")
        fields["timestamp"] = None if default is None else keys["timestamp"].evaluate(default, part)
    return fields


def field_place(field: str, rule: CallRule, defaults: Mapping[str, Value]) -> tuple[str, Location]:
    """Return the name and the place in the file of a call's field, such as ``attributes.plan`` or ``objects[0].id``.

    A name that is not in the file comes out of the payload. It is shown if it is a name as of a field; else its owner
    is returned instead, for it may be personal.
    """
    name, rest = _PLACE.fullmatch(field).groups()  # type: ignore[union-attr]  # it fits everything
    if name == "attributes" and (name not in rule.fields or _location_below(rule.fields[name], rest) is None):
        name = "attributes_from" if "attributes_from" in rule.fields else name
    value = rule.fields.get(name) or defaults.get(name)
    if value is None:
        return name, rule.location
    location = _location_below(value, rest)
    if location is None:
        return name + (rest if _SHOWN.fullmatch(rest) else ""), value.location
    return (field if rest else name), location


# What a payload calls a field, unless it may be more than that: a name, an address, a text.
_SHOWN = re.compile(r"(?:\[\d+\])?(?:\.[A-Za-z_][\w-]{0,59})+", re.ASCII)
_PLACE = re.compile(r"(\w*)(.*)", re.DOTALL)
_STEP = re.compile(r"\[(\d+)\](.*)|\.(.*)", re.DOTALL)


def _location_below(value: Value, path: str) -> Location | None:
    """Return the place of what stands at a path below a value; None: the file has nothing there."""
    step = _STEP.fullmatch(path)
    if step is None:
        return value.location
    number, rest, key = step.groups()
    if number is not None:
        items = value.items if isinstance(value, ListValue) else ()
        return _location_below(items[int(number)], rest) if int(number) < len(items) else None
    entries = dict(value.entries) if isinstance(value, ObjectValue) else {}
    if key in entries:  # the whole rest first: an attribute's name may hold dots
        return entries[key].location
    first, dot, rest = key.partition(".")
    return _location_below(entries[first], dot + rest) if first in entries else None
