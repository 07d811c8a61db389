"""Refuse expressions that are valid JMESPath and cannot mean what their author meant."""

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


def lint_tokens(source: SourceText) -> None:
    """Raise BadExpression for the first token that starts a known mistake."""
    for position in range(len(source.tokens)):
        lint = _LINTS.get(source.kind(position))
        problem = lint(source, position) if lint else None
        if problem:
            raise problem


def _lint_comparison(source: SourceText, position: int) -> BadExpression | None:
    """Find `a == "paid"`: double quotes hold field names, so this compares two fields."""
    if source.kind(position + 1) != "quoted_identifier" or source.kind(position + 2) in FOLLOWS_FIELD:
        return None
    name = shortened(source.tokens[position + 1]["value"])
    sign, _ = COMPARISONS[source.kind(position)]
    problem = f"\"{name}\" after {sign} is a field name; text is written '{name}'"
    return BadExpression("quoted-field", problem, source.offset(position + 1))


def _lint_word(source: SourceText, position: int) -> BadExpression | None:
    """Find `true`, `false` and `null` without backticks, which are field names."""
    word = source.tokens[position]["value"]
    before = source.kind(position - 1) if position else ""
    literal = _WORDS.get(word) or (_PYTHON.get(word) if before in COMPARISONS else None)
    if literal is None or before == "dot":
        return None
    if source.kind(position + 1) in ("colon", "lparen", *FOLLOWS_FIELD):
        return None
    return BadExpression("bare-word", f"'{word}' is a field name; write `{literal}`", source.offset(position))


_WORDS = {"true": "true", "false": "false", "null": "null"}
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # only in a comparison: a field may have such a name


def _lint_negation(source: SourceText, position: int) -> BadExpression | None:
    """Find `!a.b`: "!" binds more tightly than "." and a field of true or false is null."""
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
    """Return the position after the operand of "!": a name, a call or a bracket, with its [indexes]."""
    while source.kind(position) == "not":
        position += 1
    position = after_bracket(source, position) if source.kind(position) in OPENING else position + 1
    while source.kind(position) in ("lparen", "lbracket"):
        position = after_bracket(source, position)
    return position


def _end_of_path(source: SourceText, position: int) -> int:
    """Return the position after the rest of a path."""
    while source.kind(position) in (*FOLLOWS_FIELD, *NAMES, "star", "lparen", "lbrace"):
        opening = source.kind(position) in OPENING
        position = after_bracket(source, position) if opening else position + 1
    return position


def _lint_filter(source: SourceText, position: int) -> BadExpression | None:
    """Find `a[?x][0]`: the filter starts a projection, so the index applies to each item."""
    end = after_bracket(source, position)
    if [token["type"] for token in source.tokens[end : end + 3]] != ["lbracket", "number", "rbracket"]:
        return None
    index = source.tokens[end + 1]["value"]
    filtered = source.between(start_of_path(source, position), end)
    filtered = filtered if len(filtered) <= SHOWN else "a[?x]"
    instead = {0: f"first({filtered})", -1: f"last({filtered})"}.get(index, f"({filtered})[{index}]")
    problem = f"[{index}] after a filter applies to each item; write {instead}"
    return BadExpression("index-after-filter", problem, source.offset(end))


def _lint_pipe(source: SourceText, position: int) -> BadExpression | None:
    """Find `a || b[?x] | [0]`: "|" binds least, so the index applies to the whole choice."""
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


def _lint_bracket(source: SourceText, position: int) -> BadExpression | None:
    """Find `a[::0]`, which JMESPath refuses only when it meets a list."""
    inside = source.tokens[position + 1 : after_bracket(source, position) - 1]
    values = [":" if token["type"] == "colon" else token["value"] for token in inside]
    if any(token["type"] not in ("colon", "number") for token in inside) or values.count(":") != 2:
        return None
    if values[-1] != 0:
        return None
    return BadExpression("slice-step", "the step of a slice cannot be 0", inside[-1]["start"])


_LINTS: Mapping[str, Callable[[SourceText, int], BadExpression | None]] = {
    **dict.fromkeys(COMPARISONS, _lint_comparison),
    "unquoted_identifier": _lint_word,
    "not": _lint_negation,
    "filter": _lint_filter,
    "pipe": _lint_pipe,
    "lbracket": _lint_bracket,
}
