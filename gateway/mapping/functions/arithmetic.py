"""Functions for numbers. They calculate in decimal, so 0.1 + 0.2 is 0.3, and exactly with whole numbers."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import numbers_of, whole
from gateway.mapping.functions.table import Group, array, number, optional

function = Group("numbers, choice")


@function(number("a"), number("b"), example=("add(price, shipping)", {"price": 0.1, "shipping": 0.2}, 0.3))
def add(a: int | float, b: int | float) -> JSON:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("add", a + b)
    return _result("add", _EXACT.add(_decimal(a), _decimal(b)))


@function(number("a"), number("b"), example=("subtract(total, tax)", {"total": 19.99, "tax": 3.19}, 16.8))
def subtract(a: int | float, b: int | float) -> JSON:
    """a - b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("subtract", a - b)
    return _result("subtract", _EXACT.subtract(_decimal(a), _decimal(b)))


@function(number("a"), number("b"), example=("multiply(price, quantity)", {"price": 1.1, "quantity": 3}, 3.3))
def multiply(a: int | float, b: int | float) -> JSON:
    """a times b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("multiply", a * b)
    return _result("multiply", _EXACT.multiply(_decimal(a), _decimal(b)))


@function(number("a"), number("b"), example=("divide(total, `100`)", {"total": 1999}, 19.99))
def divide(a: int | float, b: int | float) -> JSON:
    """a divided by b; a whole result is written without a fraction."""
    if b == 0:
        raise ExpressionError("divide() cannot divide by zero")
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return _within("divide", a // b)
    return _result("divide", _EXACT.divide(_decimal(a), _decimal(b)))


@function(number("x"), optional(number("digits")), example=("round(price, `2`)", {"price": 2.675}, 2.68))
def round_(x: int | float, digits: int | float = 0) -> JSON:
    """The number rounded to a number of digits after the point (default 0); halves are rounded away from zero."""
    places = whole("round", "digits", digits)
    if abs(places) > _MAX_PLACES:
        raise ExpressionError(f"round() needs digits between -{_MAX_PLACES} and {_MAX_PLACES}")
    if isinstance(x, int) and places >= 0:
        return x
    if isinstance(x, int):
        unit: int = 10**-places
        return (abs(x) + unit // 2) // unit * unit * (-1 if x < 0 else 1)
    exact = _decimal(x)
    if x.is_integer() and places >= 0:
        return _result("round", exact)
    return _result("round", exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _WIDE))


@function(number("x"), example=("abs(balance)", {"balance": -5}, 5))
def abs_(x: int | float) -> JSON:
    """The number without its sign."""
    return abs(x)


@function(number("x"), example=("ceil(price)", {"price": 1.2}, 2))
def ceil(x: int | float) -> JSON:
    """The number rounded up to a whole number."""
    return math.ceil(x)


@function(number("x"), example=("floor(price)", {"price": 1.8}, 1))
def floor(x: int | float) -> JSON:
    """The number rounded down to a whole number."""
    return math.floor(x)


@function(array("list"), example=("sum(items[].price)", {"items": [{"price": 0.1}, {"price": 0.2}]}, 0.3))
def sum_(items: list[JSON]) -> JSON:
    """The sum of a list of numbers."""
    return _total("sum", numbers_of("sum", items, "a list of numbers"))


@function(array("list"), example=("avg(ratings)", {"ratings": [4, 5]}, 4.5))
def avg(items: list[JSON]) -> JSON:
    """The average of a list of numbers; null when it is empty."""
    numbers = numbers_of("avg", items, "a list of numbers")
    return divide(_total("avg", numbers), len(numbers)) if numbers else None


def _total(name: str, numbers: list[int | float]) -> int | float:
    integers = [number for number in numbers if isinstance(number, int)]
    total = _within(name, sum(integers))
    if len(integers) == len(numbers):
        return total
    exact = _decimal(total)
    for item in numbers:
        if isinstance(item, float):
            exact = _EXACT.add(exact, _decimal(item))
    return _result(name, exact)


# Traps are off: a failed operation gives NaN or infinity, and every result is checked.
_EXACT = Context(prec=40, traps=[])
_WIDE = Context(prec=400, traps=[])  # room for every digit of the largest number
_MAX_PLACES = 20
_MAX_BITS = 1024  # no float is larger, and arithmetic on longer integers would take long
_EXACT_WHOLE = 2**53  # up to here a float holds every integer


def _decimal(number: int | float) -> Decimal:
    """Convert a number by its shortest text, so that 0.1 is a tenth, not the float next to it."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))


def _result(name: str, exact: Decimal) -> int | float:
    value = float(exact)
    if not math.isfinite(value):
        raise ExpressionError(f"{name}() gives a number that is too large")
    return int(value) if value.is_integer() and abs(value) <= _EXACT_WHOLE else value


def _within(name: str, integer: int) -> int:
    if integer.bit_length() > _MAX_BITS:
        raise ExpressionError(f"{name}() gives a number that is too large")
    return integer
