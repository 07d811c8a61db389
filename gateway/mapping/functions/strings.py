"""Functions for text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import filterfalse

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import kind, limit_items, limit_text, whole
from gateway.mapping.functions.table import (
    CONSTANT,
    SLOWLY,
    Check,
    Group,
    Mistake,
    array,
    number,
    one_of,
    optional,
    text,
)
from gateway.text import number_text, trimmed, truncated

function = Group("text")


@function(text("s"), example=("lower(email)", {"email": "Ada@Example.com"}, "ada@example.com"))
def lower(s: str) -> JSON:
    """The text in lower case."""
    return s.lower()


@function(text("s"), example=("upper(country)", {"country": "de"}, "DE"))
def upper(s: str) -> JSON:
    """The text in upper case."""
    return s.upper()


@function(text("s"), example=("trim(name)", {"name": "  Ada "}, "Ada"))
def trim(s: str) -> JSON:
    """The text without white space and zero-width characters at its start and end."""
    return trimmed(s)


_NEGATIVE_SIZE = "truncate() needs a number of bytes that is not negative"


def _check_size(arguments: Sequence[object]) -> Mistake | None:
    size = arguments[1]
    is_negative = isinstance(size, (int, float)) and size < 0
    return Mistake(problem=_NEGATIVE_SIZE, argument=1) if is_negative else None


@function(
    text("text"),
    number("bytes"),
    check=_check_size,
    example=("truncate(bio, `5`)", {"bio": "Köln, Rhein"}, "Köln"),
)
def truncate(s: str, size: int | float) -> JSON:
    """The beginning of the text, with at most so many bytes in UTF-8 and no part of a character."""
    if size < 0:
        raise ExpressionError(_NEGATIVE_SIZE)
    return truncated(s, whole("truncate", "bytes", size))


_NO_SEPARATOR = "split() needs a separator that is not empty"


def _refuse_empty(problem: str) -> Check:
    """Return a check that reports *problem* if the second argument is the empty text."""
    return lambda arguments: Mistake(problem=problem, argument=1) if arguments[1] == "" else None


@function(
    text("s"),
    text("sep"),
    check=_refuse_empty(_NO_SEPARATOR),
    example=("split(tags, ',')", {"tags": "new,vip"}, ["new", "vip"]),
)
def split(s: str, sep: str) -> JSON:
    """The parts of a text between separators."""
    if not sep:
        raise ExpressionError(_NO_SEPARATOR)
    limit_items("split", s.count(sep) + 1)
    return [*s.split(sep)]


_NOTHING_TO_REPLACE = "replace() needs a text to look for that is not empty"


@function(
    text("s"),
    text("from"),
    text("to"),
    check=_refuse_empty(_NOTHING_TO_REPLACE),
    example=("replace(phone, ' ', '')", {"phone": "+49 30 1234"}, "+49301234"),
)
def replace(s: str, search: str, to: str) -> JSON:
    """The text with every occurrence of one text replaced by another."""
    if not search:
        raise ExpressionError(_NOTHING_TO_REPLACE)
    limit_text("replace", len(s) + s.count(search) * (len(to) - len(search)))
    return s.replace(search, to)


@function(
    text("sep"),
    array("list"),
    example=("join(', ', [city, state, country])", {"city": "Paris", "country": "FR"}, "Paris, FR"),
)
def join(sep: str, items: list[JSON]) -> JSON:
    """The texts and numbers of a list in one text; nulls are skipped; null if nothing is left."""
    texts = [_as_text("join", item, "a list of text or numbers") for item in items if item is not None]
    limit_text("join", sum(map(len, texts)) + len(sep) * len(texts))
    return sep.join(texts) if texts else None


def _as_text(name: str, value: JSON, needs: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    raise ExpressionError(f"{name}() needs {needs}, got {kind(value)} in it; to_string(…) turns it into text")


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{\}|[{}]")


def _check_format(arguments: Sequence[object]) -> Mistake | None:
    template, *values = arguments
    problem = _format_problem(template, len(values)) if isinstance(template, str) else None
    return Mistake(problem=problem) if problem else None


def _format_problem(template: str, values: int) -> str | None:
    marks = _PLACEHOLDER.findall(template)
    if {"{", "}"}.intersection(marks):
        return "format() takes {} as its placeholder; a brace itself is written {{ or }}"
    places = marks.count("{}")
    if places == values:
        return None
    return f"format() has {places} {{}} for {values} value{'' if values == 1 else 's'}"


@function(
    text("template"),
    optional(one_of("x", str, int, float)),
    variadic=True,
    check=_check_format,
    example=("format('Order {} of {}', number, name)", {"number": 42.0, "name": "Ada"}, "Order 42 of Ada"),
)
def format_(template: str, *values: JSON) -> JSON:
    """The text with each {} replaced by the next value; a brace is written {{ or }}."""
    if problem := _format_problem(template, len(values)):
        raise ExpressionError(problem)
    texts = [_as_text("format", value, "text or numbers") for value in values]
    limit_text("format", len(template) + sum(map(len, texts)))
    remaining = iter(texts)
    return _PLACEHOLDER.sub(lambda mark: next(remaining) if mark[0] == "{}" else mark[0][0], template)


@function(
    text("s"),
    number("start"),
    optional(number("length")),
    example=("substring(phone, `0`, `3`)", {"phone": "+49301234"}, "+49"),
)
def substring(s: str, start: int | float, length: int | float | None = None) -> JSON:
    """A part of a text, from a start position (0 is the first, -1 the last character) to the end or with a length."""
    first = whole("substring", "start", start)
    first = max(first + len(s), 0) if first < 0 else first
    if length is None:
        return s[first:]
    count = whole("substring", "length", length)
    if count < 0:
        raise ExpressionError("substring() needs a length of 0 or more")
    return s[first : first + count]


@function(text("s"), stride=SLOWLY, example=("slug(title)", {"title": "Crème brûlée, twice!"}, "creme-brulee-twice"))
def slug(s: str) -> JSON:
    """The text for use in a URL: lower case, no accents, words joined by "-"."""
    # One character at a time: the time to normalise many accents in a row grows with the square of their number.
    plain = s if s.isascii() else s.translate({ord(character): _plain(character) for character in set(s)})
    limit_text("slug", len(plain))
    return "-".join(_WORD.findall(plain.casefold()))


_WORD = re.compile(r"[^\W_]+")


def _plain(character: str) -> str:
    return "".join(filterfalse(unicodedata.combining, unicodedata.normalize("NFKD", character)))


@function(
    text("s"), text("suffix"), stride=CONSTANT, example=("ends_with(email, '.edu')", {"email": "ada@mit.edu"}, True)
)
def ends_with(s: str, suffix: str) -> JSON:
    """true if a text ends with another."""
    return s.endswith(suffix)


@function(text("s"), text("prefix"), stride=CONSTANT, example=("starts_with(id, 'cus_')", {"id": "cus_42"}, True))
def starts_with(s: str, prefix: str) -> JSON:
    """true if a text starts with another."""
    return s.startswith(prefix)
