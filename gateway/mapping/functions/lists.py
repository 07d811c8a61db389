"""Functions for lists."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import equal, kind, numbers_of
from gateway.mapping.functions.table import CONSTANT, Apply, Budget, Group, Scope, anything, array, one_of, reference
from gateway.text import number_text

function = Group("objects, lists")


@function(
    array("a"),
    array("b"),
    variadic=True,
    example=("zip(names, prices)", {"names": ["a", "b"], "prices": [1, 2]}, [["a", 1], ["b", 2]]),
)
def zip_(*lists: list[JSON]) -> JSON:
    """The first items of the lists as one list, then the second ones, and so on; the shortest list ends it."""
    return [[*row] for row in zip(*lists, strict=False)]


@function(array("list"), needs_scope=True, example=("unique(tags)", {"tags": ["new", "vip", "new"]}, ["new", "vip"]))
def unique(scope: Scope, items: list[JSON]) -> JSON:
    """The list without duplicates; the first of equal items stays."""
    by_identity: dict[object, JSON] = {}
    for item in items:
        by_identity.setdefault(_identity(item, scope.budget), item)
    return [*by_identity.values()]


def _identity(value: JSON, budget: Budget) -> object:
    """Return the same key for equal values, and for no others.

    The key of a number is its text: a sender can choose numbers whose hashes collide, which would make a dict slow.
    """
    if isinstance(value, list):
        budget.spend(3 * len(value))
        return ("list", *[_identity(below, budget) for below in value])
    if isinstance(value, dict):
        budget.spend(3 * len(value))
        return ("object", frozenset([(name, _identity(below, budget)) for name, below in value.items()]))
    if value is None or isinstance(value, bool):
        return value
    return ("text", value) if isinstance(value, str) else ("number", number_text(value))


@function(
    array("list"), stride=CONSTANT, example=("first(items[?paid]).sku", {"items": [{"sku": "a", "paid": True}]}, "a")
)
def first(items: list[JSON]) -> JSON:
    """The first item of a list; null if the list is empty."""
    return items[0] if items else None


@function(array("list"), stride=CONSTANT, example=("last(items).sku", {"items": [{"sku": "a"}, {"sku": "b"}]}, "b"))
def last(items: list[JSON]) -> JSON:
    """The last item of a list; null if the list is empty."""
    return items[-1] if items else None


@function(
    one_of("list", list, str),
    anything("x"),
    needs_scope=True,
    example=("contains(tags, 'vip')", {"tags": ["new", "vip"]}, True),
)
def contains(scope: Scope, where: list[JSON] | str, x: JSON) -> JSON:
    """true if a list contains an item, or a text contains another text."""
    if isinstance(where, list):
        return any(map(equal, where, repeat(x), repeat(scope.budget.spend)))
    if not isinstance(x, str):
        raise ExpressionError(f"contains() needs text to look for in text, got {kind(x)}")
    return x in where


@function(one_of("x", str, list, dict), stride=CONSTANT, example=("length(items)", {"items": [1, 2, 3]}, 3))
def length(x: str | list[JSON] | dict[str, JSON]) -> JSON:
    """The number of characters, items or keys."""
    return len(x)


@function(one_of("x", list, str), example=("reverse(items)", {"items": [1, 2, 3]}, [3, 2, 1]))
def reverse(x: list[JSON] | str) -> JSON:
    """A list or text in reverse order."""
    return x[::-1]


@function(
    reference("expression"), array("list"), example=("map(&upper(@), tags)", {"tags": ["new", "vip"]}, ["NEW", "VIP"])
)
def map_(apply: Apply, items: list[JSON]) -> JSON:
    """The values of an expression for all items, nulls included."""
    return [*map(apply, items)]


@function(array("list"), example=("sort(prices)", {"prices": [3, 1, 2]}, [1, 2, 3]))
def sort(items: list[JSON]) -> JSON:
    """A list of text or of numbers, sorted."""
    return sorted(_comparable("sort", items, _ITEMS))


@function(
    array("list"),
    reference("expression"),
    example=(
        "sort_by(items, &price)[].sku",
        {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]},
        ["b", "a"],
    ),
)
def sort_by(items: list[JSON], apply: Apply) -> JSON:
    """A list sorted by the value of an expression for each item: text or numbers."""
    keys = _comparable("sort_by", [*map(apply, items)], _KEYS)
    return [items[position] for position in sorted(range(len(keys)), key=keys.__getitem__)]


@function(array("list"), example=("max(prices)", {"prices": [3, 1, 2]}, 3))
def max_(items: list[JSON]) -> JSON:
    """The largest item of a list of numbers or text; null if the list is empty."""
    return max(_comparable("max", items, _ITEMS), default=None)


@function(
    array("list"),
    reference("expression"),
    example=("max_by(items, &price).sku", {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]}, "a"),
)
def max_by(items: list[JSON], apply: Apply) -> JSON:
    """The item with the largest value of an expression: numbers or text; null if the list is empty."""
    keys = _comparable("max_by", [*map(apply, items)], _KEYS)
    return items[max(range(len(keys)), key=keys.__getitem__)] if keys else None


@function(array("list"), example=("min(prices)", {"prices": [3, 1, 2]}, 1))
def min_(items: list[JSON]) -> JSON:
    """The smallest item of a list of numbers or text; null if the list is empty."""
    return min(_comparable("min", items, _ITEMS), default=None)


@function(
    array("list"),
    reference("expression"),
    example=("min_by(items, &price).sku", {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]}, "b"),
)
def min_by(items: list[JSON], apply: Apply) -> JSON:
    """The item with the smallest value of an expression: numbers or text; null if the list is empty."""
    keys = _comparable("min_by", [*map(apply, items)], _KEYS)
    return items[min(range(len(keys)), key=keys.__getitem__)] if keys else None


_ITEMS = "a list of numbers or of text"
_KEYS = "numbers or text for all items from its expression"


def _comparable(name: str, keys: list[JSON], needs: str) -> list[Any]:
    """Return keys that can be sorted: all text, or all numbers. Raises ExpressionError."""
    return keys if all(isinstance(key, str) for key in keys) else numbers_of(name, keys, needs)
