"""An expression at its place in a mapping file: compiled, or wrong at a line and column."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from gateway.errors import Location
from gateway.mapping.compiler.diagnostics import Diagnostics, is_empty
from gateway.mapping.expressions import BadExpression, Names, compile_expression
from gateway.mapping.model import Computed
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar


def read_expression(node: Node, name: str, names: Names, notes: Diagnostics) -> Computed | None:
    """Compile what has to be an expression."""
    if isinstance(node, Scalar) and is_expression(node):
        return read_computed(node, names, notes)
    if not is_empty(node):
        text = f"'{name}' must be an expression{_suggestion(node, name)}"
        notes.error(node.where, "not-an-expression", text)
    return None


def read_optional_expression(node: ObjectNode, name: str, names: Names, notes: Diagnostics) -> Computed | None:
    written = node.get(name)
    return None if written is None else read_expression(written, name, names, notes)


def is_expression(node: Scalar) -> bool:
    return isinstance(node.value, str) and node.value.startswith("=")


def read_computed(node: Scalar, names: Names, notes: Diagnostics) -> Computed | None:
    text = str(node.value)[1:]
    try:
        return Computed(where=node.where, expression=compile_expression(text, names))
    except BadExpression as error:
        notes.error(_culprit(node, error.offset, notes), error.code, error.problem)
        return None


def _culprit(node: Scalar, offset: int, notes: Diagnostics) -> Location:
    """Point into an expression whose text is in the file as it is; of any other, point at its start."""
    text = str(node.value)
    line = notes.line(node.where.line)[node.where.column - 1 :]
    if line[:1] in ("|", ">"):
        return _culprit_in_block(node.where, text, offset, notes)
    quote = 1 if line[:1] in ("'", '"') else 0
    if not line.startswith(text, quote):
        return node.where
    return replace(node.where, column=node.where.column + quote + 1 + offset)


def _culprit_in_block(where: Location, text: str, offset: int, notes: Diagnostics) -> Location:
    first = notes.line(where.line + 1)
    indentation = len(first) - len(first.lstrip())
    number, position, culprit = where.line + 1, 0, offset + 1
    while position <= culprit:
        line = notes.line(number)[indentation:].rstrip()
        if not line or not text.startswith(line, position):
            return where
        if culprit <= position + len(line):
            return replace(where, line=number, column=indentation + culprit - position + 1)
        # A line break became one space, or stayed: either way one character.
        number, position = number + 1, position + len(line) + 1
    return where


_TEMPLATE = re.compile(r"\$?\{\{?\s*(.*?)\s*\}?\}|\$\.(.*)")


def _suggestion(node: Node, name: str) -> str:
    """Guess the expression that was meant: the text itself, or without the marks of another language."""
    if not isinstance(node, Scalar) or node.value is None:
        return "; it is text that starts with ="
    if not isinstance(node.value, str):
        return f"; a constant is written  {name}: =`{json.dumps(node.value)}`"
    template = _TEMPLATE.fullmatch(node.value)
    guess = (template.group(1) or template.group(2) or "") if template else node.value
    if not _compiles(guess) or re.search(r": | #|\n", guess):
        return "; it is text that starts with ="
    return f"; did you mean  {name}: ={guess}"


_MARK = re.compile(r"\{\{\s*(.*?)\s*\}\}|\$\{\s*(.*?)\s*\}", re.DOTALL)


def warn_of_template(node: Scalar, text: str, notes: Diagnostics) -> None:
    """Warn of the placeholders of another language, which would be sent as they are."""
    if _MARK.search(text) is None:
        return
    said = f"this is literal text, in which nothing is replaced; write an expression: {_formatted(text)}"
    notes.warn(node.where, "looks-like-a-template", said)


def _formatted(text: str) -> str:
    """Write a text with placeholders as an expression, if what stands in them is one."""
    values = [_MARK.sub(_inside, mark.group()) for mark in _MARK.finditer(text)]
    template = _MARK.sub("\0", text).translate({**_DOUBLED, 0: "{}"})
    expression = values[0] if template == "{}" else f"format('{template}', {', '.join(values)})"
    return f"={expression}" if all(map(_compiles, [*values, expression])) else "=format('Order {}', id)"


_DOUBLED = str.maketrans({"{": "{{", "}": "}}", "'": r"\'"})


def _inside(mark: re.Match[str]) -> str:
    return mark.group(1) or mark.group(2) or ""


def _compiles(text: str) -> bool:
    try:
        compile_expression(text)
    except BadExpression:
        return False
    return True
