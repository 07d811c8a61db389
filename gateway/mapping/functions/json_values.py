"""The rules for JSON values: their kinds, which are true, which are equal, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from types import NoneType

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.text import number_text

MAX_TEXT = 1024 * 1024  # characters of the text that one function may return
MAX_ITEMS = 100_000  # items of the list that one function may return

_KINDS: dict[type, str] = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
_PLURALS = _KINDS | {int: "numbers", float: "numbers", list: "lists", dict: "objects", bool: "booleans"}


def kind(value: object) -> str:
    """Return the name of the kind of a value, for an error text."""
    return _KINDS.get(type(value), "something that is not JSON")


def kinds_text(kinds: frozenset[type], *, plural: bool = False) -> str:
    """Return the names of kinds, such as "text, a number or a boolean", without null."""
    names = _PLURALS if plural else _KINDS
    described = [*dict.fromkeys(name for type_, name in names.items() if type_ in kinds - {NoneType})]
    return " or ".join(filter(None, (", ".join(described[:-1]), described[-1])))


def equal(left: JSON, right: JSON, spend: Callable[[int], None]) -> bool:
    """Tell whether two values are the same JSON: 10 is 10.0, true is not 1, at any depth. *spend* counts the steps."""
    if isinstance(left, list):
        if not isinstance(right, list) or len(left) != len(right):
            return False
        spend(2 * len(left))
        return all(map(equal, left, right, repeat(spend)))
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return False
        spend(2 * len(left))
        return all(equal(value, right[key], spend) for key, value in left.items())
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def truthy(value: JSON) -> bool:
    """Tell whether a value is true in JMESPath: null, false, "", [] and {} are not, 0 is."""
    return bool(value) or type(value) is int or type(value) is float


def key_text(key: str | int | float | bool) -> str:
    """Return a scalar as the key of a table."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return key if isinstance(key, str) else number_text(key)


def whole(name: str, parameter: str, number: int | float) -> int:
    """Return a number as an integer. Raises ExpressionError: it has a fraction."""
    if isinstance(number, float) and not number.is_integer():
        raise ExpressionError(f"{name}() needs a whole number for {parameter}")
    return int(number)


def numbers_of(name: str, items: list[JSON], needs: str) -> list[int | float]:
    """Return the items of a list if all are numbers. Raises ExpressionError: function *name* *needs* them."""
    numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if len(numbers) == len(items):
        return numbers
    kinds = dict.fromkeys(kind(item) for item in items)
    raise ExpressionError(f"{name}() needs {needs}, got {' and '.join(kinds)} among them")


def limit_text(name: str, size: int) -> None:
    """Raise ExpressionError if a function would return a text of more than MAX_TEXT characters."""
    if size > MAX_TEXT:
        raise ExpressionError(f"{name}() would give more than {MAX_TEXT:,} characters")


def limit_items(name: str, count: int) -> None:
    """Raise ExpressionError if a function would return a list of more than MAX_ITEMS items."""
    if count > MAX_ITEMS:
        raise ExpressionError(f"{name}() would give more than {MAX_ITEMS:,} items")


def limited(name: str, result: JSON) -> JSON:
    """Return the result of a function.

    Raises ExpressionError: a text is longer than MAX_TEXT, or a list than MAX_ITEMS.
    """
    if type(result) is str:
        limit_text(name, len(result))
    elif type(result) is list:
        limit_items(name, len(result))
    return result
