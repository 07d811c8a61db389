"""Compile the values of a mapping file that may stand under any name: literals, expressions, lists and objects."""

from __future__ import annotations

import re

from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import Diagnostics, is_empty
from gateway.mapping.expressions import Names
from gateway.mapping.located_expression import is_expression, read_computed, read_expression, warn_of_template
from gateway.mapping.model import Constant, ListValue, ObjectValue, OrNull, Value
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar


def read_value(node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
    """Compile any value; None: it is empty or wrong, and reported."""
    match node:
        case Scalar():
            if is_expression(node):
                return read_computed(node, names, diagnostics)
            if node.empty:
                return None
            if isinstance(node.value, str):
                if _PATH.fullmatch(node.value):
                    text = f"'{node.value}' is literal text but looks like a path"
                    hint = f"write ={node.value}, or {{literal: {node.value}}}"
                    diagnostics.warn(node.location, "looks-like-a-path", f"{text}; {hint}")
                else:
                    warn_of_template(node, node.value, diagnostics)
            return Constant(location=node.location, value=node.value)
        case ListNode():
            items = [read_value(item, names, diagnostics) for item in node.items]
            return ListValue(location=node.location, items=tuple(item for item in items if item is not None))
        case ObjectNode():
            return _read_object(node, names, diagnostics)


_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])+", re.ASCII)
_ALONE = "'{}' stands alone in its braces; an object with such a key is written {{literal: {{…}}}}"


def _read_object(node: ObjectNode, names: Names, diagnostics: Diagnostics) -> Value | None:
    """Compile an object, or one of the markers `literal` and `or_null`."""
    literal, or_null = node.get("literal"), node.get("or_null")
    if (literal is not None or or_null is not None) and len(node.entries) > 1:
        marker = "or_null" if literal is None else "literal"
        diagnostics.error(node.location, "marker", _ALONE.format(marker))
        return None
    if literal is not None:
        return Constant(location=node.location, value=yaml_nodes.plain(literal))
    if or_null is not None:
        computed = read_expression(or_null, "or_null", names, diagnostics)
        return None if computed is None else OrNull(location=node.location, computed=computed)
    return read_entries(node, names, diagnostics)


def read_entries(node: ObjectNode, names: Names, diagnostics: Diagnostics) -> ObjectValue:
    """Compile an object in which even `literal` and `or_null` are names like any other."""
    compiled = [(str(key.value), read_value(value, names, diagnostics)) for key, value in node.entries]
    entries = tuple((key, value) for key, value in compiled if value is not None)
    return ObjectValue(location=node.location, entries=entries)


def read_constant(node: Node, diagnostics: Diagnostics) -> JSON:
    """Read a value that is fixed when the file is read; report every expression in it."""
    if isinstance(node, ObjectNode) and (literal := node.get("literal")) is not None:
        if len(node.entries) > 1:
            diagnostics.error(node.location, "marker", _ALONE.format("literal"))
        return yaml_nodes.plain(literal)
    match node:
        case Scalar():
            if is_expression(node):
                text = "this is fixed when the file is read, so it cannot be an expression"
                hint = 'text that starts with = is written {literal: "=…"}'
                diagnostics.error(node.location, "not-literal", f"{text}; {hint}")
            return node.value
        case ListNode():
            return [read_constant(item, diagnostics) for item in node.items]
        case ObjectNode():
            return {str(key.value): read_constant(value, diagnostics) for key, value in node.entries}


def read_literal_text(node: Node, name: str, diagnostics: Diagnostics) -> str | None:
    """Read text that is fixed when the file is read; None: it is empty or wrong, and reported."""
    if is_expression(node):
        text = f"'{name}' must be literal text: it is fixed when the file is read, so it cannot be an expression"
        diagnostics.error(node.location, "not-literal", text)
    elif isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    elif not is_empty(node):
        diagnostics.error(node.location, "not-literal", f"'{name}' must be text; quote what is meant as text")
    return None


def read_optional_text(node: ObjectNode, name: str, diagnostics: Diagnostics) -> str | None:
    """Read the literal text of a key that may be missing."""
    value = node.get(name)
    return None if value is None else read_literal_text(value, name, diagnostics)
