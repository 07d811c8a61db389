"""Expressions that are valid JMESPath and cannot mean what their author meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.errors import SHOWN, shortened
from gateway.mapping.expressions.source_text import (
    COMPARISONS,
    FOLLOWS_FIELD,
    NAMES,
    OPENING,
    BadExpression,
    SourceText,
    after_bracket,
    depth_change,
    start_of_path,
)


def check_slips(source: SourceText) -> None:
    for position in range(len(source.tokens)):
        check = _SLIPS.get(source.kind(position))
        problem = check(source, position) if check else None
        if problem:
            raise problem


def _quoted_comparison(source: SourceText, position: int) -> BadExpression | None:
    if source.kind(position + 1) != "quoted_identifier" or source.kind(position + 2) in FOLLOWS_FIELD:
        return None
    name = shortened(source.tokens[position + 1]["value"])
    sign, _ = COMPARISONS[source.kind(position)]
    problem = f"\"{name}\" after {sign} is a field name; text is written '{name}'"
    return BadExpression("quoted-field", problem, source.offset(position + 1))


def _bare_word(source: SourceText, position: int) -> BadExpression | None:
    word = source.tokens[position]["value"]
    before = source.kind(position - 1) if position else ""
    meant = _WORDS.get(word) or (_PYTHON.get(word) if before in COMPARISONS else None)
    if meant is None or before == "dot":
        return None
    if source.kind(position + 1) in ("colon", "lparen", *FOLLOWS_FIELD):
        return None
    return BadExpression("bare-word", f"'{word}' is a field name; write `{meant}`", source.offset(position))


_WORDS = {"true": "true", "false": "false", "null": "null"}
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # in a comparison; a field may be called so


def _negated_path(source: SourceText, position: int) -> BadExpression | None:
    first = position + 1
    end = _end_of_operand(source, first)
    if source.kind(end) not in ("dot", "filter", "flatten"):
        return None
    operand, path = source.between(first, end), source.between(first, _end_of_path(source, end))
    if len(path) > SHOWN:
        operand, path = "a", "a.b" if source.kind(end) == "dot" else "a[?x]"
    rest = path[len(operand) :]
    problem = f"!{path} means (!{operand}){rest} in JMESPath and is always null; write !({path})"
    return BadExpression("negated-path", problem, source.offset(position))


def _end_of_operand(source: SourceText, position: int) -> int:
    """Find the token after what "!" takes: a name, a call or a bracket, with its [indexes]."""
    while source.kind(position) == "not":
        position += 1
    position = after_bracket(source, position) if source.kind(position) in OPENING else position + 1
    while source.kind(position) in ("lparen", "lbracket"):
        position = after_bracket(source, position)
    return position


def _end_of_path(source: SourceText, position: int) -> int:
    while source.kind(position) in (*FOLLOWS_FIELD, *NAMES, "star", "lparen", "lbrace"):
        opening = source.kind(position) in OPENING
        position = after_bracket(source, position) if opening else position + 1
    return position


def _index_after_filter(source: SourceText, position: int) -> BadExpression | None:
    end = after_bracket(source, position)
    if [token["type"] for token in source.tokens[end : end + 3]] != ["lbracket", "number", "rbracket"]:
        return None
    index = source.tokens[end + 1]["value"]
    filtered = source.between(start_of_path(source, position), end)
    filtered = filtered if len(filtered) <= SHOWN else "a[?x]"
    instead = {0: f"first({filtered})", -1: f"last({filtered})"}.get(index, f"({filtered})[{index}]")
    problem = f"[{index}] after a filter applies to each item; write {instead}"
    return BadExpression("index-after-filter", problem, source.offset(end))


def _loose_pipe(source: SourceText, position: int) -> BadExpression | None:
    """Find `a || b[?x] | [0]`, which takes the first of the whole choice."""
    if source.kind(position + 1) != "lbracket" or source.kind(position + 2) != "number":
        return None
    depth = 0
    for before in reversed(range(position)):
        depth -= depth_change(source, before)
        if depth < 0 or (depth == 0 and source.kind(before) in ("comma", "colon", "pipe", "expref")):
            return None
        if depth == 0 and source.kind(before) in ("or", "and", "not", *COMPARISONS):
            problem = "'|' applies to everything on its left; write first(a[?x]) or parentheses"
            return BadExpression("loose-pipe", problem, source.offset(position))
    return None


def _zero_step(source: SourceText, position: int) -> BadExpression | None:
    inside = source.tokens[position + 1 : after_bracket(source, position) - 1]
    written = [":" if token["type"] == "colon" else token["value"] for token in inside]
    if any(token["type"] not in ("colon", "number") for token in inside) or written.count(":") != 2:
        return None
    if written[-1] != 0:
        return None
    return BadExpression("slice-step", "the step of a slice cannot be 0", inside[-1]["start"])


_SLIPS: Mapping[str, Callable[[SourceText, int], BadExpression | None]] = {
    **dict.fromkeys(COMPARISONS, _quoted_comparison),
    "unquoted_identifier": _bare_word,
    "not": _negated_path,
    "filter": _index_after_filter,
    "pipe": _loose_pipe,
    "lbracket": _zero_step,
}
