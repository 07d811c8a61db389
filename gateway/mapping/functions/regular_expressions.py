"""Functions for regular expressions, by RE2.

Its time grows linearly with the text. Python's own engine backtracks, so a text that a stranger sends could keep it
busy for hours. RE2 works on UTF-8: texts are encoded once, and results are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import re2

from gateway.errors import ExpressionError, did_you_mean, shortened
from gateway.event import JSON
from gateway.mapping.functions.json_values import limit_text
from gateway.mapping.functions.table import CONSTANT, Budget, Group, Mistake, Scope, literal, optional, text
from gateway.payload import utf8

function = Group("text")

_Match: TypeAlias = Any  # the package has no types


@dataclass(frozen=True, kw_only=True)
class _CompiledPattern:
    """A compiled regular expression.

    Attributes:
        groups: The numbers of the groups, by number and by name; 0 is the whole match.
        size: Its instructions: the cost of one character in the worst case.
    """

    regexp: Any
    groups: Mapping[int | str, int]
    size: int


_MAX_MEMORY = 1024 * 1024  # bytes for one regular expression, with RE2's cache of states


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> _CompiledPattern:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        regexp = re2.compile(utf8(pattern), options)
    except re2.error as error:
        raise ExpressionError(_explain(error.args[0].decode(errors="replace"))) from None
    groups: dict[int | str, int] = {number: number for number in range(regexp.groups + 1)}
    groups.update((name.decode(), number) for name, number in regexp.groupindex.items())
    return _CompiledPattern(regexp=regexp, groups=groups, size=regexp.programsize)


# The beginnings of RE2's messages for what only other engines have, and what to write instead.
_REPLACEMENTS = {
    "missing ): ": "missing )",
    "unexpected ): ": "a ) without its (; the character itself is written \\)",
    "missing ]: ": "missing ]",
    "invalid perl operator: (?=": "look-ahead (?=…) is not available here; "
    "match what follows too, and put what you want in a group",
    "invalid perl operator: (?!": "look-ahead (?!…) is not available here; test for it by a regex_match() of its own",
    "invalid perl operator: (?<=": "look-behind (?<=…) is not available here; "
    "match what comes before too, and put what you want in a group",
    "invalid perl operator: (?<!": "look-behind (?<!…) is not available here; "
    "test for it by a regex_match() of its own",
    "invalid perl operator: (?>": "an atomic group (?>…) is not available, nor needed here; write (?:…)",
    "invalid perl operator: (?(": "a condition (?(…)…) is not available here; write two expressions",
    "invalid perl operator: (?P": "a backreference (?P=…) is not available here; "
    "compare what regex_extract() gives for two groups",
    "invalid escape sequence: \\k": "a backreference \\k<…> is not available here; "
    "compare what regex_extract() gives for two groups",
    "invalid escape sequence: \\u": "a character by its number is written \\x{00E9}",
    "invalid escape sequence: \\Z": "the end of the text is written \\z",
    "invalid perl operator: (?x": "(?x) is not available here; write the pattern without blanks and comments",
    "invalid perl operator: (?#": "a comment (?#…) is not available here",
    "pattern too large": "it is too large; make its repetitions {…} smaller",
}
_BACKREFERENCE = re.compile(r"invalid escape sequence: (\\[1-9])")
_POSSESSIVE = re.compile(r"bad repetition operator: ([*+?])\+")


def _explain(problem: str) -> str:
    """Return what to write instead, for one of RE2's messages."""
    if match := _BACKREFERENCE.match(problem):
        return f"a backreference {match[1]} is not available here; compare what regex_extract() gives for two groups"
    if match := _POSSESSIVE.match(problem):
        return f"{match[1]}+ is not available, nor needed here; write {match[1]}"
    return next((text for start, text in _REPLACEMENTS.items() if problem.startswith(start)), problem)


def _check_pattern(arguments: Sequence[object]) -> Mistake | None:
    pattern = arguments[1]
    assert isinstance(pattern, str)  # the parameter takes nothing else
    try:
        _compiled(pattern)
    except ExpressionError as error:
        problem = f"bad regular expression '{shortened(pattern)}': {error}"
        return Mistake(problem=problem, argument=1, code="bad-regex")
    return None


# The steps of a search: for the call, and one for each 64 instructions on a character.
_CALL = 20
_INSTRUCTIONS = 64


def _encoded(s: str, pattern: _CompiledPattern, budget: Budget) -> bytes:
    data = utf8(s)
    budget.spend(_CALL + len(data) * pattern.size // _INSTRUCTIONS)
    return data


def _group_text(match: _Match, group: int) -> str | None:
    text: bytes | None = match.group(group)
    return None if text is None else text.decode(errors="replace")


@function(
    text("s"),
    literal("pattern"),
    needs_scope=True,
    stride=CONSTANT,
    check=_check_pattern,
    example=("regex_match(sku, '^[A-Z]{2}-[0-9]+$')", {"sku": "AB-42"}, True),
)
def regex_match(scope: Scope, s: str, pattern: str) -> JSON:
    """true if a regular expression (RE2) matches anywhere in a text."""
    compiled = _compiled(pattern)
    return compiled.regexp.search(_encoded(s, compiled, scope.budget)) is not None


def _check_extract(arguments: Sequence[object]) -> Mistake | None:
    if (mistake := _check_pattern(arguments)) or len(arguments) == 2:
        return mistake
    pattern, group = str(arguments[1]), arguments[2]
    groups = _compiled(pattern).groups
    if group in groups:
        return None
    shown, near = (f"'{group}'", did_you_mean(group, _names(groups))) if isinstance(group, str) else (f"`{group}`", "")
    problem = f"the regular expression has no group {shown}; {_groups_text(groups)}{near}"
    return Mistake(problem=problem, argument=2, code="unknown-group")


def _names(groups: Mapping[int | str, int]) -> list[str]:
    return [name for name in groups if isinstance(name, str)]


def _groups_text(groups: Mapping[int | str, int]) -> str:
    """Return which groups there are, in words."""
    named = {groups[name]: f" ('{name}')" for name in _names(groups)}
    numbers = [f"`{number}`{named.get(number, '')}" for number in groups if isinstance(number, int) and number]
    return f"it has {', '.join(numbers)}" if numbers else "it has none, and `0` is the whole match"


@function(
    text("s"),
    literal("pattern"),
    optional(literal("group", str, int, float)),
    needs_scope=True,
    stride=CONSTANT,
    check=_check_extract,
    example=("regex_extract(note, 'order #([0-9]+)')", {"note": "Paid order #42 today"}, "42"),
)
def regex_extract(scope: Scope, s: str, pattern: str, group: int | str | None = None) -> JSON:
    """The text of a group of a regular expression (default: the first, else the whole match); null if there is none."""
    compiled = _compiled(pattern)
    match = compiled.regexp.search(_encoded(s, compiled, scope.budget))
    if match is None:
        return None
    extract = _group_text(match, min(compiled.regexp.groups, 1) if group is None else compiled.groups[group])
    limit_text("regex_extract", len(extract or ""))
    return extract


def _check_replace(arguments: Sequence[object]) -> Mistake | None:
    mistake, to = _check_pattern(arguments), arguments[2]
    if mistake or not isinstance(to, str):
        return mistake
    try:
        _template(to, _compiled(str(arguments[1])))
    except ExpressionError as error:
        return Mistake(problem=str(error), argument=2, code="unknown-group")
    return None


_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


def _template(to: str, pattern: _CompiledPattern) -> list[str | int]:
    """Return the parts of a replacement: texts, and between them the numbers of groups."""
    parts: list[str | int] = []
    for place, part in enumerate(_ESCAPE.split(to)):
        if place % 2 == 0 or part == "\\":
            parts.append(part)
        elif "0" <= part <= "9" and int(part) in pattern.groups:
            parts.append(int(part))
        else:
            raise ExpressionError(
                "a \\ in 'to' of regex_replace() stands before the number of a group; "
                f"{_groups_text(pattern.groups)}; the character itself is written \\\\"
            )
    return parts


@function(
    text("s"),
    literal("pattern"),
    text("to"),
    needs_scope=True,
    stride=CONSTANT,
    check=_check_replace,
    example=("regex_replace(phone, '[^0-9+]', '')", {"phone": "+49 (30) 12-34"}, "+49301234"),
)
def regex_replace(scope: Scope, s: str, pattern: str, to: str) -> JSON:
    r"""The text with every match of a regular expression replaced; \1 stands for the text of its first group."""
    compiled = _compiled(pattern)
    template = _template(to, compiled)
    data = _encoded(s, compiled, scope.budget)
    pieces: list[str] = []
    size = end = 0
    for match in _matches(data, compiled, scope.budget):
        pieces.append(data[end : match.start()].decode(errors="replace"))
        pieces += [part if isinstance(part, str) else _group_text(match, part) or "" for part in template]
        size += sum(map(len, pieces[-len(template) - 1 :]))
        limit_text("regex_replace", size)
        end = match.end()
    pieces.append(data[end:].decode(errors="replace"))
    limit_text("regex_replace", size + len(pieces[-1]))
    return "".join(pieces)


# The steps of each further match: for the match, and one for each 1,024 bytes of the rest of the text, because
# the search may read to its end.
_MATCH = 20
_READ = 1024


def _matches(data: bytes, pattern: _CompiledPattern, budget: Budget) -> Iterator[_Match]:
    place = 0
    while place <= len(data) and (match := pattern.regexp.search(data, place)):
        start, end = match.span()
        budget.spend(_MATCH + (len(data) - start) // _READ)
        # RE2 also finds empty matches between the bytes of one character.
        if start < end or not _inside_character(data, start):
            yield match
        place = end
        if start == end:
            place += 1
            while _inside_character(data, place):
                place += 1


def _inside_character(data: bytes, place: int) -> bool:
    return place < len(data) and data[place] & 0xC0 == 0x80
