"""Convert what a Python program puts into a call to the JSON that Customer.io takes, where its meaning is certain."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from gateway.customerio.calls import IDENTIFIERS, Call, Kind, Occurrence
from gateway.customerio.limits import encoding_problem
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.errors import CallError, ExpressionError
from gateway.event import JSON
from gateway.text import number_text

MAX_DIGITS = 4_000  # far more than any number has that means something
#: The keys of an object that names a person or an object.
_MEMBER_KEYS = (*IDENTIFIERS, "object_type_id", "object_id", "cio_object_id", "attributes")


def coerce_call(call: Call, new_ulid: Callable[[], str]) -> Call:
    """Return a call with its values converted; an event, page view or screen view gets a ULID as its event id.

    Numbers and UUIDs become text where the key takes text; a datetime becomes unix seconds; a Decimal becomes an
    equal number. An event_id that is no ULID is hashed into one, with the kind of call, the person and the name: the
    same each time.

    Args:
        new_ulid: Returns an id for a call that has none.

    Raises:
        CallError: A value has no certain meaning.
    """
    try:
        values = {}
        for of in fields(call):
            value = getattr(call, of.name)
            if value is None and of.default is not None:
                raise CallError(f"{of.name.rstrip('_')} is missing")
            if value is not None:
                values[of.name] = _coerce(of.metadata["key"].kind, of.name.rstrip("_"), value)
    except RecursionError as error:
        raise CallError("its values are nested too deeply") from error
    coerced = replace(call, **values)
    if not isinstance(coerced, Occurrence):
        return coerced
    if not coerced.event_id:
        return coerced.with_event_id(new_ulid())
    if is_ulid(coerced.event_id):
        return coerced
    if problem := encoding_problem(coerced.event_id):
        raise CallError(f"event_id {problem}")
    return coerced.with_event_id(ulid_of_text(json.dumps(coerced.event_id_facts())))


def _coerce(kind: Kind, name: str, value: Any) -> Any:
    match kind:
        case Kind.IDENTIFIER | Kind.REFERENCE | Kind.TEXT | Kind.EVENT_ID | Kind.NOTE:
            return _text(name, value)
        case Kind.TIMESTAMP:
            timestamp = _json(name, value)
            return int(timestamp) if isinstance(timestamp, float) and timestamp.is_integer() else timestamp
        case Kind.PERSON:
            return _member(name, value)
        case Kind.MEMBERS:
            if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
                raise CallError(f"{name} must be a list, got {_type_of(value)}")
            return [_member(f"{name}[{number}]", member) for number, member in enumerate(value)]
        case Kind.ATTRIBUTES | Kind.TEXTS | Kind.HEADERS | Kind.PARAMETERS | Kind.RETRY:
            return _json(name, _object(name, value))
        case Kind.FILES:
            return dict(_object(name, value))  # contents may be bytes: the limits check them
        case Kind.SECONDS if not isinstance(value, int | float):
            raise CallError(f"{name} must be a number of seconds, got {_type_of(value)}")
        case Kind.FLAG if not isinstance(value, bool):
            raise CallError(f"{name} must be True or False, got {_type_of(value)}")
    return _json(name, value)


def _object(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise CallError(f"{name} must be an object, got {_type_of(value)}")
    return value


def _member(name: str, value: Any) -> dict[str, Any]:
    if unknown := _object(name, value).keys() - set(_MEMBER_KEYS):
        raise CallError(f"{name} takes {', '.join(_MEMBER_KEYS)}; {len(unknown)} of its keys are unknown")
    return {
        key: _coerce(Kind.ATTRIBUTES if key == "attributes" else Kind.TEXT, f"{name}.{key}", item)
        for key, item in value.items()
        if item is not None
    }


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, UUID):
        return str(value)
    number = _number(name, value) if isinstance(value, Decimal) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise CallError(f"{name} must be text or a number, got {_type_of(value)}")
    try:
        if math.isfinite(number):
            return number_text(number)
    except (ExpressionError, OverflowError):
        pass  # too large, and refused like an infinite one
    raise CallError(f"{name} is a number that cannot be written as text")


def _json(name: str, value: Any) -> JSON:
    match value:
        case None | bool() | int() | str() | float():
            return value
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise CallError(f"{name} has a name that is {_type_of(key)}; names are texts")
            return {key: _json(f"{name}.{key}", item) for key, item in value.items()}
        case list() | tuple():
            return [_json(f"{name}[{number}]", item) for number, item in enumerate(value)]
        case datetime():
            if value.tzinfo is None:
                raise CallError(f"{name} is a datetime without a time zone; write datetime.now(timezone.utc)")
            return int(value.timestamp())
        case Decimal():
            return _number(name, value)
        case UUID():
            return str(value)
    raise CallError(f"{name} is {_type_of(value)}, which JSON does not know; send it as text or a number")


def _number(name: str, value: Decimal) -> int | float:
    if not value.is_finite() or value.adjusted() > MAX_DIGITS:
        raise CallError(f"{name} is a number that JSON cannot write")
    if value == value.to_integral_value():
        return int(value)
    if Decimal(repr(float(value))) != value:
        raise CallError(f"{name} has more digits than a JSON number keeps; send it as text")
    return float(value)


def _type_of(value: Any) -> str:
    return f"a {type(value).__name__}"
