"""Functions that convert values from one kind to another. They never guess: what they cannot convert is an error."""

from __future__ import annotations

import json
import math
import re
from types import NoneType

from gateway.errors import ExpressionError, RequestError
from gateway.event import JSON
from gateway.mapping.functions.json_values import key_text, limit_text
from gateway.mapping.functions.table import CONSTANT, SLOWLY, Budget, Group, Scope, anything, one_of, text
from gateway.payload import MAX_NESTING, STRICT_JSON, is_too_deep
from gateway.text import number_text

function = Group("kinds")


@function(one_of("x", str, int, float), example=("to_number(price)", {"price": "19.99"}, 19.99))
def to_number(x: str | int | float) -> JSON:
    """A text converted to a number; it must be written as in JSON."""
    if not isinstance(x, str):
        return x
    match = _JSON_NUMBER.fullmatch(x)
    if match is None:
        raise ExpressionError("to_number() cannot read this text as a number")
    value = float(x)
    if math.isinf(value):
        raise ExpressionError("to_number() cannot read this text: the number is too large")
    return value if match["fraction"] or match["exponent"] else int(x)


_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")


@function(anything("x"), needs_scope=True, example=("to_string(number)", {"number": 42.0}, "42"))
def to_string(scope: Scope, x: JSON) -> JSON:
    """A value converted to text: text stays as it is, numbers are written out, all else is JSON."""
    if isinstance(x, str):
        return x
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return number_text(x)
    return _json_text("to_string", x, scope.budget)


@function(one_of("x", bool, str, int, float), example=("to_bool(subscribed)", {"subscribed": "yes"}, True))
def to_bool(x: bool | str | int | float) -> JSON:
    """true or false for true/false, yes/no or 1/0, in upper or lower case."""
    value = _BOOLEANS.get(key_text(x).lower())
    if value is None:
        raise ExpressionError("to_bool() needs true or false, yes or no, 1 or 0, and this is none of them")
    return value


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@function(anything("x"), takes_null=True, stride=CONSTANT, example=("to_array(tags)", {"tags": "new"}, ["new"]))
def to_array(x: JSON) -> JSON:
    """A list stays as it is; any other value becomes a list with one item."""
    return x if isinstance(x, list) else [x]


@function(text("s"), stride=SLOWLY, example=("parse_json(meta).plan", {"meta": '{"plan": "pro"}'}, "pro"))
def parse_json(s: str) -> JSON:
    """The value of a JSON text."""
    try:
        return read_json(s)
    except ExpressionError as error:
        raise ExpressionError(f"parse_json() cannot read this text: {error}") from None


def read_json(text: str) -> JSON:
    """Parse JSON as strictly as a body: no NaN, no number out of range, at most 64 levels.

    Raises ExpressionError: the text is not such JSON.
    """
    if is_too_deep(text.encode(errors="surrogatepass")):
        raise ExpressionError(f"it is nested more than {MAX_NESTING} deep")
    try:
        value: JSON = STRICT_JSON.decode(text)
    except (ValueError, RequestError):
        raise ExpressionError("it is not JSON") from None
    return value


@function(
    anything("x"), needs_scope=True, example=("to_json(address)", {"address": {"city": "Paris"}}, '{"city":"Paris"}')
)
def to_json(scope: Scope, x: JSON) -> JSON:
    """A value as JSON text."""
    return _json_text("to_json", x, scope.budget)


# No value refers to itself, so there is no need to check for circles.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


def _json_text(name: str, value: JSON, budget: Budget) -> str:
    # First the least length of the text, without writing it: one part may occur in a value many times.
    size = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item) + 2
        elif isinstance(item, list):
            size += len(item) + 1
            waiting += item
        elif isinstance(item, dict):
            size += 4 * len(item) + sum(map(len, item))
            waiting += item.values()
        else:
            size += item.bit_length() // 4 if isinstance(item, int) else 1
        limit_text(name, size)
    budget.spend(size // SLOWLY)
    try:
        return _ENCODER.encode(value)
    except ValueError:
        raise ExpressionError(f"{name}() met a number that cannot be written as JSON") from None


@function(anything("x"), takes_null=True, stride=CONSTANT, example=("type(total)", {"total": 4900}, "number"))
def type_(x: JSON) -> JSON:
    """The kind of a value: string, number, boolean, array, object or null."""
    return _TYPES[type(x)]


_TYPES: dict[type, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    NoneType: "null",
}
