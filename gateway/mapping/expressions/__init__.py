"""JMESPath expressions, compiled once when a mapping is loaded.

The `jmespath` package parses. Its tree is compiled into Python closures: they are fast, and they treat nulls, kinds
and errors as the mapping language does.
"""

from __future__ import annotations

import math
import re

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions.closures import closure_of
from gateway.mapping.expressions.function_calls import Names, check_tree
from gateway.mapping.expressions.lint import lint_tokens
from gateway.mapping.expressions.origins import Origins, made_of, origins_of
from gateway.mapping.expressions.parser import check_literals, check_nesting, parse, tokenize
from gateway.mapping.expressions.source_text import BadExpression, SourceText
from gateway.mapping.functions import Evaluate, Scope

__all__ = ["BadExpression", "Expression", "Names", "Origins", "Scope", "compile_expression", "headers_in", "made_of"]

MAX_LENGTH = 4096


class Expression:
    """A compiled expression.

    Attributes:
        origins: Where its result comes from.
    """

    __slots__ = ("_run", "origins", "text")

    def __init__(self, text: str, run: Evaluate, origins: Origins) -> None:
        self.text = text
        self.origins = origins
        self._run = run

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, current: JSON, scope: Scope) -> JSON:
        """Evaluate on a value. The result may share parts with the value and the scope: change neither.

        Raises ExpressionError: a value is of the wrong kind, cannot be converted or is too large.
        """
        try:
            result = self._run(current, scope)
        except RecursionError:
            raise ExpressionError("a value is nested too deep") from None
        except (ArithmeticError, ValueError):  # NaN or infinity, which only a caller can bring in
            raise ExpressionError("a number is beyond what can be worked on") from None
        if type(result) is float and not math.isfinite(result):
            raise ExpressionError("a number is beyond what can be worked on")
        return result


_HEADER = re.compile(r"\bheader\(\s*'([^']+)'")


def headers_in(text: str) -> list[str]:
    """Return the names of the headers that an expression reads."""
    return _HEADER.findall(text)


_ANYWHERE = Names()


def compile_expression(text: str, names: Names = _ANYWHERE) -> Expression:
    """Compile an expression, written without the leading "=".

    Raises BadExpression: the first thing that is wrong with it.
    """
    # The order matters: each step relies on what the steps before it have refused.
    if not text.strip():
        raise BadExpression("expression", "an expression is missing after =", 0)
    if len(text) > MAX_LENGTH:
        problem = f"an expression has at most {MAX_LENGTH:,} characters, this one {len(text):,}"
        raise BadExpression("too-long", problem, 0)
    check_literals(text)
    source = SourceText(text=text, tokens=tokenize(text))
    check_nesting(source)
    tree = parse(source)
    lint_tokens(source)
    check_tree(tree, source, names)
    return Expression(text, closure_of(tree), origins_of(tree, source, names.origins, names.with_default))
