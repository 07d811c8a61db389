"""Make what a Python program puts into a call the JSON that Customer.io takes, wherever its meaning is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from gateway.customerio.calls import IDENTIFIERS, Call, Occurrence
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.errors import CallError, ExpressionError
from gateway.event import JSON
from gateway.text import number_text

MAX_DIGITS = 4_000  # far more than any number has that means something
_TEXTS = frozenset(
    {
        *("id", "email", "cio_id", "anonymous_id", "object_type_id", "object_id", "token", "form_id"),
        *("name", "url", "platform", "event_id", "method", "path", "response_type"),
    }
)
_MOMENTS = frozenset({"timestamp", "last_used"})
#: What may stand in an object that names a person or an object.
_NAMING = (*IDENTIFIERS, "object_type_id", "object_id", "attributes")
_OBJECTS = frozenset({"attributes", "query", "headers", "form", "files", "file_names", "retry"})


def coerce_call(call: Call, new_ulid: Callable[[], str]) -> Call:
    """Mend a call's values, and give an event, page view or screen the id by which a repeat is dropped.

    Numbers and UUIDs become text where text is asked for; a datetime becomes unix seconds; a Decimal becomes
    the number that it is. An event_id that is no ULID is hashed into one, the same each time.

    Args:
        new_ulid: Gives an id to what has none of its own.

    Raises:
        CallError: Something in it has no certain meaning.
    """
    optional = {each.name for each in fields(call) if each.default is None}
    try:
        values = {name: _field(name, value, name in optional) for name, value in vars(call).items()}
    except RecursionError as error:
        raise CallError("its values are nested too deeply") from error
    plain = replace(call, **values)
    return _known(plain, new_ulid) if isinstance(plain, Occurrence) else plain


def _known(call: Occurrence, new_ulid: Callable[[], str]) -> Occurrence:
    if not call.event_id:
        return call.with_event_id(new_ulid())
    if is_ulid(call.event_id):
        return call
    try:
        return call.with_event_id(ulid_of_text(call.event_id))
    except UnicodeEncodeError as error:
        raise CallError("event_id holds text that is not valid Unicode") from error


def _field(name: str, value: Any, optional: bool) -> Any:
    if value is None and optional:
        return None
    if value is None:
        raise CallError(f"{name.rstrip('_')} is missing")
    if name in _TEXTS:
        return _text(name, value)
    if name in _MOMENTS:
        return _moment(name, value)
    if name in ("into", "from_"):
        return _named(name.rstrip("_"), value)
    if name in ("objects", "people"):
        return [_named(f"{name}[{number}]", each) for number, each in enumerate(_listed(name, value))]
    if name in _OBJECTS:
        return _object(name, value)
    if name == "timeout" and not isinstance(value, int | float):
        raise CallError(f"timeout must be a number of seconds, got {_kind(value)}")
    return value if name in ("timeout", "debug") else _json(name, value)


def _listed(field: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise CallError(f"{field} must be a list, got {_kind(value)}")
    return value


def _object(field: str, value: Any) -> Any:
    _require_object(field, value)
    return dict(value) if field == "files" else _json(field, value)


def _require_object(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise CallError(f"{field} must be an object, got {_kind(value)}")


def _named(field: str, value: Any) -> dict[str, Any]:
    _require_object(field, value)
    if unknown := value.keys() - set(_NAMING):
        raise CallError(f"{field} takes {', '.join(_NAMING)}; {len(unknown)} of its names mean nothing there")
    return {
        name: _object(f"{field}.{name}", each) if name == "attributes" else _text(f"{field}.{name}", each)
        for name, each in value.items()
        if each is not None
    }


def _text(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, UUID):
        return str(value)
    number = _number(field, value) if isinstance(value, Decimal) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise CallError(f"{field} must be text or a number, got {_kind(value)}")
    try:
        if math.isfinite(number):
            return number_text(number)
    except (ExpressionError, OverflowError):
        pass  # as an infinite one
    raise CallError(f"{field} is a number that cannot be written as text")


def _moment(field: str, value: Any) -> Any:
    found = _json(field, value)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _json(field: str, value: Any) -> JSON:
    match value:
        case None | bool() | int() | str() | float():
            return value
        case Mapping():
            return {_key(field, name): _json(f"{field}.{name}", each) for name, each in value.items()}
        case list() | tuple():
            return [_json(f"{field}[{number}]", each) for number, each in enumerate(value)]
        case datetime():
            return _unix_seconds(field, value)
        case Decimal():
            return _number(field, value)
        case UUID():
            return str(value)
    raise CallError(f"{field} is {_kind(value)}, which JSON does not know; send it as text or a number")


def _key(field: str, name: Any) -> str:
    if not isinstance(name, str):
        raise CallError(f"{field} has a name that is {_kind(name)}; names are texts")
    return name


def _unix_seconds(field: str, value: datetime) -> int:
    if value.tzinfo is None:
        raise CallError(f"{field} is a datetime without a time zone; write datetime.now(timezone.utc)")
    return int(value.timestamp())


def _number(field: str, value: Decimal) -> int | float:
    if not value.is_finite() or value.adjusted() > MAX_DIGITS:
        raise CallError(f"{field} is a number that JSON cannot write")
    if value == value.to_integral_value():
        return int(value)
    if Decimal(repr(float(value))) != value:
        raise CallError(f"{field} has more digits than a JSON number keeps; send it as text")
    return float(value)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
