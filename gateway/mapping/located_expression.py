"""Compile expressions at their places in a mapping file; report what is wrong at its line and column."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from gateway.errors import Location
from gateway.mapping.diagnostics import Diagnostics
from gateway.mapping.expressions import BadExpression, Names, compile_expression
from gateway.mapping.model import Computed
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar


def is_expression(node: Node) -> bool:
    """Return whether a node is text that starts with "="."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and node.value.startswith("=")


def read_expression(node: Node, name: str, names: Names, diagnostics: Diagnostics) -> Computed | None:
    """Compile the value of a key that takes only an expression; None: it is wrong, and reported."""
    if is_expression(node):
        return read_computed(node, names, diagnostics)
    text = f"'{name}' must be an expression{_suggestion(node, name)}"
    diagnostics.refuse_unless_absent(node, text, "not-an-expression")
    return None


def read_optional_expression(node: ObjectNode, name: str, names: Names, diagnostics: Diagnostics) -> Computed | None:
    """Compile the expression of a key that may be missing."""
    value = node.get(name)
    return None if value is None else read_expression(value, name, names, diagnostics)


def read_computed(node: Node, names: Names, diagnostics: Diagnostics) -> Computed | None:
    """Compile a node that `is_expression`; None: it is wrong, and reported."""
    assert isinstance(node, Scalar), "an expression is a scalar"
    text = str(node.value)[1:]
    try:
        return Computed(location=node.location, expression=compile_expression(text, names))
    except BadExpression as error:
        diagnostics.error(location_in(node, error.offset, diagnostics), error.code, error.problem)
        return None


def location_in(node: Scalar, offset: int, diagnostics: Diagnostics) -> Location:
    """Return the place of a character of an expression.

    That is known if the text stands in the file as it is. With escapes in it, or an anchor before it, the start of
    the value has to do.
    """
    text = str(node.value)
    line = diagnostics.line(node.location.line)[node.location.column - 1 :]
    if line[:1] in ("|", ">"):
        return _place_in_block(node.location, text, offset, diagnostics)
    quote = 1 if line[:1] in ("'", '"') else 0
    if not line.startswith(text, quote):
        return node.location
    return replace(node.location, column=node.location.column + quote + 1 + offset)


def _place_in_block(start: Location, text: str, offset: int, diagnostics: Diagnostics) -> Location:
    first = diagnostics.line(start.line + 1)
    indentation = len(first) - len(first.lstrip())
    number, position, target = start.line + 1, 0, offset + 1
    while position <= target:
        line = diagnostics.line(number)[indentation:].rstrip()
        if not line or not text.startswith(line, position):
            return start
        if target <= position + len(line):
            return replace(start, line=number, column=indentation + target - position + 1)
        # A line break is one character of the text: a space or itself.
        number, position = number + 1, position + len(line) + 1
    return start


_TEMPLATE = re.compile(r"\$?\{\{?\s*(.*?)\s*\}?\}|\$\.(.*)")


def _suggestion(node: Node, name: str) -> str:
    """Guess which expression was meant: the text itself, or the path inside another language's placeholder."""
    if not isinstance(node, Scalar) or node.value is None:
        return "; it is text that starts with ="
    if not isinstance(node.value, str):
        return f"; a constant is written  {name}: =`{json.dumps(node.value)}`"
    template = _TEMPLATE.fullmatch(node.value)
    guess = (template.group(1) or template.group(2) or "") if template else node.value
    if not _compiles(guess) or re.search(r": | #|\n", guess):
        return "; it is text that starts with ="
    return f"; did you mean  {name}: ={guess}"


_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}|\$\{\s*(.*?)\s*\}", re.DOTALL)


def warn_of_template(node: Scalar, text: str, diagnostics: Diagnostics) -> None:
    """Warn of placeholders of another language in literal text: they would be sent as they are."""
    if _PLACEHOLDER.search(text) is None:
        return
    warning = f"this is literal text, in which nothing is replaced; write an expression: {_as_expression(text)}"
    diagnostics.warn(node.location, "looks-like-a-template", warning)


def _as_expression(text: str) -> str:
    """Write a text with placeholders as an expression; a general example if a placeholder holds none."""
    values = [match.group(1) or match.group(2) or "" for match in _PLACEHOLDER.finditer(text)]
    # NUL marks the places, so that braces of the text itself can be doubled for format().
    template = _PLACEHOLDER.sub("\0", text).translate({**_ESCAPES, 0: "{}"})
    expression = values[0] if template == "{}" else f"format('{template}', {', '.join(values)})"
    return f"={expression}" if all(map(_compiles, [*values, expression])) else "=format('Order {}', id)"


_ESCAPES = str.maketrans({"{": "{{", "}": "}}", "'": r"\'"})


def _compiles(text: str) -> bool:
    try:
        compile_expression(text)
    except BadExpression:
        return False
    return True
