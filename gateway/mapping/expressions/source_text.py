"""The source text of an expression with its tokens, and what the parser, the checks and the compiler share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from gateway.errors import GatewayError

MAX_DEPTH = 64

Tree: TypeAlias = dict[str, Any]  # a node of the parser's tree
Token: TypeAlias = dict[str, Any]

# Types of tokens, as the lexer of the package names them.
NAMES = ("unquoted_identifier", "quoted_identifier")
FOLLOWS_FIELD = ("dot", "lbracket", "filter", "flatten")
OPENING = {"lparen": "rparen", "lbracket": "rbracket", "filter": "rbracket", "lbrace": "rbrace"}
_CLOSING = frozenset(OPENING.values())
#: The sign of each comparison, and its function for two numbers or two texts.
COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
    "lt": ("<", operator.lt),
    "lte": ("<=", operator.le),
    "gt": (">", operator.gt),
    "gte": (">=", operator.ge),
}


@dataclass(frozen=True, kw_only=True)
class SourceText:
    """The text of an expression and its tokens. The parser's tree has no positions, so places come from the tokens."""

    text: str
    tokens: Sequence[Token]

    def kind(self, position: int) -> str:
        """Return the type of a token; the last is "eof"."""
        return str(self.tokens[position]["type"])

    def offset(self, position: int) -> int:
        """Return where a token starts, in characters of the text from 0."""
        return int(self.tokens[position]["start"])

    def call_positions(self) -> list[int]:
        """Return the positions of the names of the functions that are called, in the order of the text."""
        kinds = [token["type"] for token in self.tokens]
        return [at for at, pair in enumerate(pairwise(kinds)) if pair == ("unquoted_identifier", "lparen")]

    def between(self, first: int, end: int) -> str:
        """Return the text from the token *first* up to the token *end*, which is not included."""
        return self.text[self.offset(first) : self.offset(end)].rstrip()


class BadExpression(GatewayError):  # noqa: N818 - names its subject; ExpressionError is what evaluating raises
    """An expression that cannot be compiled; *offset* counts characters of its text from 0."""

    def __init__(self, code: str, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.offset = offset


def depth_change(source: SourceText, position: int) -> int:
    """Return 1 for an opening bracket, -1 for a closing one, else 0."""
    kind = source.kind(position)
    return (kind in OPENING) - (kind in _CLOSING)


def too_deep(offset: int) -> BadExpression:
    """Return the error of an expression that is nested too deep."""
    return BadExpression("too-deep", f"an expression is nested at most {MAX_DEPTH} deep", offset)


_CHAINS = frozenset({"or_expression", "and_expression", "pipe", "index_expression", "subexpression"})


def operands_of(node: Tree) -> list[Tree]:
    """Return the children of a node in the order of the text. A chain like a || b || c is one node with three.

    The parser nests chains to the left, so a long one would be a deep tree.
    """
    if node["type"] == "slice":
        return []
    if node["type"] == "filter_projection":
        left, right, condition = node["children"]
        return [left, condition, right]
    operands: list[Tree] = list(node["children"])
    while node["type"] in _CHAINS and operands[0]["type"] == node["type"]:
        operands[:1] = operands[0]["children"]
    return operands


def after_bracket(source: SourceText, position: int) -> int:
    """Return the position after the bracket that closes the one at *position*."""
    depth = depth_change(source, position)
    while depth:
        position += 1
        depth += depth_change(source, position)
    return position + 1


def items_between(source: SourceText, first: int, end: int) -> list[tuple[int, int]]:
    """Return the items between two positions, which commas separate: the first token of each, and the one after it."""
    if first == end:
        return []
    commas, depth = [], 0
    for at in range(first, end):
        depth += depth_change(source, at)
        if depth == 0 and source.kind(at) == "comma":
            commas.append(at)
    return list(zip([first, *(comma + 1 for comma in commas)], [*commas, end], strict=True))


def start_of_path(source: SourceText, position: int) -> int:
    """Return the position of the first of the names and dots that end before *position*."""
    while position and source.kind(position - 1) in ("dot", "current", *NAMES):
        position -= 1
    return position
