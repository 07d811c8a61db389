"""An expression as it is written, and what all who look at it share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gateway.errors import GatewayError

MAX_DEPTH = 64

Tree: TypeAlias = dict[str, Any]  # a node of the parser's tree
Token: TypeAlias = dict[str, Any]

# Types of tokens.
NAMES = ("unquoted_identifier", "quoted_identifier")
FOLLOWS_FIELD = ("dot", "lbracket", "filter", "flatten")
OPENING = {"lparen": "rparen", "lbracket": "rbracket", "filter": "rbracket", "lbrace": "rbrace"}
_CLOSING = frozenset(OPENING.values())
#: How each comparison is written, and what it does with two numbers or two texts.
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
    """An expression as written: the parser's tree keeps no positions, the tokens do."""

    text: str
    tokens: Sequence[Token]

    def kind(self, position: int) -> str:
        """The type of a token; the last is "eof"."""
        return str(self.tokens[position]["type"])

    def offset(self, position: int) -> int:
        return int(self.tokens[position]["start"])

    def between(self, first: int, end: int) -> str:
        """The text of some tokens, the one at *end* not included."""
        return self.text[self.offset(first) : self.offset(end)].rstrip()


class BadExpression(GatewayError):  # noqa: N818 - says what it is about; an Error is what evaluating raises
    """An expression is wrong as it is written; *offset* counts characters of its text from 0."""

    def __init__(self, code: str, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.offset = offset


def depth_change(source: SourceText, position: int) -> int:
    """Give 1 for an opening bracket, -1 for a closing one, else 0."""
    kind = source.kind(position)
    return (kind in OPENING) - (kind in _CLOSING)


def too_deep(offset: int) -> BadExpression:
    return BadExpression("too-deep", f"an expression is nested at most {MAX_DEPTH} deep", offset)


_CHAINS = frozenset({"or_expression", "and_expression", "pipe", "index_expression", "subexpression"})


def operands_of(node: Tree) -> list[Tree]:
    """List the children in the order of their text, those of a chain of one operator together."""
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
    """Find the token after the bracket that closes the one at a position."""
    depth = depth_change(source, position)
    while depth:
        position += 1
        depth += depth_change(source, position)
    return position + 1


def start_of_path(source: SourceText, position: int) -> int:
    """Find the first token of the names and dots that end before a position."""
    while position and source.kind(position - 1) in ("dot", "current", *NAMES):
        position -= 1
    return position
