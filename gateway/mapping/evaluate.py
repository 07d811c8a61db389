"""What the keys of a call come to for one event: values as Customer.io takes them, or an error with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from gateway.customerio.calls import field_of
from gateway.customerio.limits import EARLIEST, LATEST, is_moment
from gateway.customerio.wire import plain_text
from gateway.errors import ExpressionError, Location, TranslationError
from gateway.event import JSON
from gateway.mapping.functions import Scope, kind, truthy
from gateway.mapping.model import (
    SPECS,
    CallRule,
    Computed,
    Constant,
    Key,
    Kind,
    ListValue,
    ObjectValue,
    OrNull,
    Plan,
    Value,
    without_steering,
)
from gateway.mapping.trace import Trace
from gateway.text import number_text


# Nobody changes one, but a frozen one takes more than twice as long to make.
@dataclass(kw_only=True, slots=True)
class View:
    """What an expression is evaluated on: the part, or one item of its `each`."""

    current: JSON
    scope: Scope
    trace: Trace | None = None


def fields_of(entry: CallRule, defaults: Mapping[str, Value], view: View, part: View) -> dict[str, Any]:
    """Work out the fields of a call, as its class takes them. Raises TranslationError."""
    plan, readers = entry.plan, _READERS[entry.spec.name]
    values: dict[str, Any] = _identifiers(entry, defaults, view, part)
    for name, value in plan.fields:
        into, read = readers[name]
        values[into] = read(value, name, view)
    if plan.takes_attributes:
        attributes = _attributes(plan, view)
        values["attributes"] = _written_out(attributes) if plan.texts else attributes
    if plan.takes_timestamp:
        values["timestamp"] = _timestamp(plan, defaults, view, part)
    return values


def _identifiers(entry: CallRule, defaults: Mapping[str, Value], view: View, part: View) -> dict[str, str | None]:
    """Resolve whom a call is about: a call that names anybody itself takes nobody from the defaults."""
    named: Sequence[tuple[str, Value]]
    named, seen = entry.plan.identifiers, view
    if not named:
        named = [(name, defaults[name]) for name in entry.spec.identifiers if name in defaults]
        seen = part
    texts = {name: text_of(value, name, seen) or None for name, value in named}
    if texts and not any(texts.values()):
        problem = f"null or empty, so '{entry.spec.name}' names nobody; if that may be, give the call a 'when'"
        raise TranslationError(named[0][1].where, ", ".join(texts), problem)
    return texts


def _timestamp(plan: Plan, defaults: Mapping[str, Value], view: View, part: View) -> int | None:
    if plan.timestamp is not None:
        return _unix_seconds(plan.timestamp, "timestamp", view)
    if (default := defaults.get("timestamp")) is not None:
        return _unix_seconds(default, "timestamp", part)
    return None


def _unix_seconds(written: Value, name: str, view: View) -> int | None:
    """Resolve a moment: Customer.io would silently replace one it cannot read with the present."""
    value = resolve(written, name, view)
    if is_moment(value):
        return value
    if value is None or value is LEFT_OUT:
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


def _attributes(plan: Plan, view: View) -> dict[str, JSON]:
    found = {} if plan.attributes_from is None else _taken_whole(plan.attributes_from, view)
    for name, label, value in plan.attributes:
        # What the author names, the author decides: an expression that gives null leaves the name out.
        found.pop(name, None)
        resolved = resolve(value, label, view)
        if resolved is not LEFT_OUT:
            found[name] = resolved
    return found


def _taken_whole(value: Value, view: View) -> dict[str, JSON]:
    whole = resolve(value, "attributes_from", view)
    if whole is None or whole is LEFT_OUT:
        return {}
    if not isinstance(whole, dict):
        raise TranslationError(value.where, "attributes_from", f"needs an object, got {kind(whole)}")
    return without_steering(whole)


def _required_text(value: Value, name: str, view: View) -> str:
    text = text_of(value, name, view)
    if not text:
        problem = "null or empty; if that may be, write =not_null(…, 'another text'), or give the call a 'when'"
        raise TranslationError(value.where, name, problem)
    return text


def _optional_text(value: Value, name: str, view: View) -> str | None:
    return text_of(value, name, view) or None


def _constant(value: Value, _name: str, _view: View) -> JSON:
    assert isinstance(value, Constant), "the compiler takes literals only"
    return value.value


def _data(value: Value, name: str, view: View) -> JSON:
    resolved = resolve(value, name, view)
    return None if resolved is LEFT_OUT else resolved


def _texts(value: Value, name: str, view: View) -> dict[str, str]:
    """Resolve an object of texts; what is null is left out."""
    assert isinstance(value, ObjectValue), "the compiler takes objects only"
    texts = {key: text_of(item, f"{name}.{key}", view) for key, item in value.entries}
    return {key: text for key, text in texts.items() if text is not None}


def _person(value: Value, name: str, view: View) -> dict[str, str]:
    return {kind: text for kind, text in _texts(value, name, view).items() if text}


def _members(value: Value, name: str, view: View, keys: Mapping[str, Key]) -> list[JSON]:
    """Resolve a list of objects with keys of their own, whether it was written out or comes from the payload."""
    found = resolve(value, name, view)
    if found is None or found is LEFT_OUT:
        return []
    if not isinstance(found, list):
        raise TranslationError(value.where, name, f"needs a list, got {kind(found)}; write =to_array(…)")
    return [_member(each, value.where, f"{name}[{number}]", keys) for number, each in enumerate(found)]


def _member(found: JSON, where: Location, name: str, keys: Mapping[str, Key]) -> JSON:
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


_Reader: TypeAlias = Callable[[Value, str, View], Any]
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
        name: (field_of(name), read) for name, key in spec.keys.items() if (read := _reader(name, key)) is not None
    }
    for spec in SPECS.values()
}


def _written_out(attributes: dict[str, JSON]) -> dict[str, JSON]:
    """Write numbers and booleans out where only texts are taken."""
    return {
        name: plain_text(value) if isinstance(value, bool | int | float) else value
        for name, value in attributes.items()
    }


def text_of(value: Value, name: str, view: View) -> str | None:
    """Resolve what has to be text; a number is written out."""
    resolved = resolve(value, name, view)
    if type(resolved) is str:
        return resolved
    return None if resolved is LEFT_OUT else _as_text(resolved, value.where, name)


def _as_text(value: JSON, where: Location, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if type(value) is not int and type(value) is not float:
        raise TranslationError(where, name, f"must be text or a number, got {kind(value)}")
    try:
        return number_text(value)
    except ExpressionError as error:
        raise TranslationError(where, name, str(error)) from error


class _LeftOut(Enum):
    """The one value that is not JSON: an expression gave null, so there is nothing to write."""

    NOTHING = 0


LEFT_OUT: Final = _LeftOut.NOTHING


def resolve(value: Value, name: str, view: View) -> JSON | _LeftOut:
    """Find what a value comes to. Raises TranslationError with its place."""
    if isinstance(value, Computed):  # as nearly always; `match` asks more slowly, and so would one more call
        try:
            found = value.expression.evaluate(view.current, view.scope)
        except ExpressionError as error:
            if view.trace is not None:
                view.trace.evaluated(name, value, None, str(error))
            raise TranslationError(value.where, name, str(error)) from error
        if view.trace is not None:
            view.trace.evaluated(name, value, found)
        return LEFT_OUT if found is None else found
    match value:
        case Constant():
            return value.value
        case OrNull():
            return evaluate(value.computed, name, view)
        case ObjectValue():
            pairs = ((key, resolve(item, f"{name}.{key}", view)) for key, item in value.entries)
            return {key: item for key, item in pairs if item is not LEFT_OUT}
        case ListValue():
            items = (resolve(item, name, view) for item in value.items)
            return [item for item in items if item is not LEFT_OUT]


def evaluate(computed: Computed, name: str, view: View) -> JSON:
    """Evaluate an expression. Raises TranslationError with its place."""
    found = resolve(computed, name, view)
    return None if found is LEFT_OUT else found


def holds(condition: Computed, view: View) -> bool:
    """Tell whether a `when` is true: null, false, "", [] and {} are not, any number is."""
    return truthy(evaluate(condition, "when", view))


def field_place(field: str, entry: CallRule, defaults: Mapping[str, Value]) -> tuple[str, Location]:
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


def _below(value: Value, path: str) -> Location | None:
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
