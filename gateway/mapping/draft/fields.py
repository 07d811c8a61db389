"""The values of a captured payload, and the expressions that lead to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.draft.words import words
from gateway.mapping.expressions import BadExpression, Scope, compile_expression

Way: TypeAlias = tuple[str | int, ...]
Plain: TypeAlias = bool | int | float | str

MAX_DEPTH = 8
MAX_NAME = 80  # characters; a longer name is data that somebody uses as a name
LARGEST = 10**300  # a number that is larger cannot be written into a mapping file


@dataclass(frozen=True, kw_only=True)
class Field:
    """One text, number, boolean or null of a payload.

    Attributes:
        way: Names and list positions that lead to it; of each list only the first item is looked at.
        owner: The object that it stands in.
    """

    way: Way
    value: Plain | None
    owner: Mapping[str, JSON] = field(repr=False, compare=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names on the way, without list positions; its own is the last."""
        return tuple(step for step in self.way if isinstance(step, str))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its own name, in lower case."""
        return words(self.names[-1])

    @property
    def holders(self) -> tuple[str, ...]:
        """The names of the objects and lists around it, the outermost first."""
        return self.names[:-1]

    @property
    def above(self) -> Way:
        """The way to its owner."""
        end = max((at for at, step in enumerate(self.way) if isinstance(step, str)), default=0)
        return self.way[:end]

    @property
    def listed(self) -> int:
        """The number of lists that it is in."""
        return len(self.way) - len(self.names)


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An expression that stands in the drafted file.

    Attributes:
        expression: Without the "=".
        reads: The ways of what it reads of the payload; *headers* what it reads of the request.
    """

    expression: str
    reads: tuple[Way, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a draft is made from: one part of a body, and the headers by their names as they were captured."""

    part: JSON
    headers: Mapping[str, str]

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """All that has a value."""
        return tuple(each for each in self._all if each.value is not None)

    @cached_property
    def nulls(self) -> tuple[Field, ...]:
        """All that has none in this part, but may have one in others."""
        return tuple(each for each in self._all if each.value is None)

    @cached_property
    def _all(self) -> tuple[Field, ...]:
        return tuple(each for each in _fields(self.part) if each.names and each.words)

    def value_of(self, expression: str) -> JSON:
        """Evaluate an expression; one that is wrong, or fails on this part, gives null."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        scope = Scope(root=self.part, body=self.part, headers=headers, query={}, received_at=0)
        try:
            return compile_expression(expression).evaluate(self.part, scope)
        except (BadExpression, ExpressionError):
            return None


def _fields(part: JSON) -> Iterator[Field]:
    for way, value, owner in _nodes(part):
        match value:
            case bool() | str() | None:
                yield Field(way=way, value=value, owner=owner)
            case int() | float() if -LARGEST < value < LARGEST:
                yield Field(way=way, value=value, owner=owner)


def lists(part: JSON) -> Iterator[tuple[Way, list[JSON]]]:
    """Find the lists of a payload that are not empty, and the way to each; inside a list, those of its first item."""
    return ((way, value) for way, value, _ in _nodes(part) if isinstance(value, list) and value)


_NOBODYS: Mapping[str, JSON] = {}


def _nodes(
    value: JSON, way: Way = (), owner: Mapping[str, JSON] = _NOBODYS
) -> Iterator[tuple[Way, JSON, Mapping[str, JSON]]]:
    """Go through a payload, of each list to its first item only: each value with its way, and what it stands in."""
    if len(way) > MAX_DEPTH:
        return
    yield way, value, owner
    match value:
        case dict():
            for name, item in value.items():
                if 0 < len(name) <= MAX_NAME:
                    yield from _nodes(item, (*way, name), value)
        case [first, *_]:
            yield from _nodes(first, (*way, 0), owner)


def direct(found: Field) -> Guess:
    """The guess that is just the way to a field."""
    return Guess(expression=path(found.way), reads=(found.way,))


def header(name: str) -> Guess:
    """The guess that is a header."""
    return Guess(expression=f"header('{name}')", headers=(name,))


def within(function: str, guess: Guess) -> Guess:
    """Apply a function to what a guess gives."""
    return Guess(expression=f"{function}({guess.expression})", reads=guess.reads, headers=guess.headers)


_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS_OF_JSON = ("true", "false", "null")


def path(way: Way) -> str:
    """Write a way as JMESPath: ``a."b-c"[0].d``."""
    written = ""
    for step in way:
        written += f"[{step}]" if isinstance(step, int) else f".{_name(step)}"
    return written.removeprefix(".") or "@"


def _name(name: str) -> str:
    if _BARE.fullmatch(name) and name not in _WORDS_OF_JSON:
        return name
    return "".join(each if each.isprintable() else _escape(each) for each in _json(name))


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(character: str) -> str:
    """Write a character in ASCII, as JSON does."""
    return json.dumps(character)[1:-1]


def pruned(value: JSON, ways: Iterable[Way]) -> JSON:
    """Keep of a value what lies at the end of some ways, and what is needed to get there."""
    below: dict[str | int, list[Way]] = {}
    for way in ways:
        if not way:
            return value
        below.setdefault(way[0], []).append(way[1:])
    if isinstance(value, list):
        return [pruned(item, below[at]) for at, item in enumerate(value) if at in below]
    if isinstance(value, dict):
        return {name: pruned(item, below[name]) for name, item in value.items() if name in below}
    return value
