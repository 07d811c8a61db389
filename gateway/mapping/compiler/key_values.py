"""The values of a call's keys, each read as its kind asks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from gateway.customerio.calls.devices import PLATFORMS
from gateway.customerio.calls.occurrences import url_problem
from gateway.customerio.calls.raw_request import (
    METHODS,
    RESPONSE_TYPES,
    RETRY_SETTINGS,
    header_problem,
    path_problem,
    retry_problem,
    value_problem,
)
from gateway.customerio.connection import HOSTS
from gateway.customerio.limits import MAX_TIMEOUT
from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.compiler.diagnostics import (
    Diagnostics,
    is_empty,
    listed,
    place_of,
    refuse_unknown_keys,
    refuse_unless_absent,
)
from gateway.mapping.compiler.located_expression import (
    is_expression,
    read_computed,
    read_expression,
    warn_of_template,
)
from gateway.mapping.expressions import Names
from gateway.mapping.model import Constant, Key, Kind, ListValue, ObjectValue, OrNull, Value, is_steering
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar
from gateway.text import number_text


def _text(node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    """Compile the name of an event or the address of a page: an expression, or the text itself."""
    if isinstance(node, Scalar) and is_expression(node):
        return read_computed(node, names, notes)
    literal = node
    if isinstance(node, ObjectNode) and len(node.entries) == 1:
        literal = node.get("literal") or node
    if isinstance(literal, Scalar) and (written := _written(literal.value)):
        if literal is node:
            warn_of_template(literal, written, notes)
        return Constant(where=node.where, value=written)
    if not is_empty(literal):
        notes.error(node.where, "not-text", f"'{name}' must be text that is not empty, or an expression")
    return None


def _written(value: JSON) -> str:
    """Write out a text or a number as a text; anything else gives ""."""
    if isinstance(value, str):
        return value
    return "" if isinstance(value, bool) or not isinstance(value, int | float) else number_text(value)


def read_note(node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    """Compile what is fixed when the file is read."""
    del names
    if isinstance(node, Scalar) and isinstance(node.value, str) and not is_expression(node):
        return Constant(where=node.where, value=node.value)
    if isinstance(node, Scalar) and is_expression(node):
        text = f"'{name}' must be literal text: it is fixed when the file is read, so it cannot be an expression"
        notes.error(node.where, "not-literal", text)
    elif not is_empty(node):
        notes.error(node.where, "not-literal", f"'{name}' must be text; quote what is meant as text")
    return None


def read_optional_note(node: ObjectNode, name: str, notes: Diagnostics) -> str | None:
    written = node.get(name)
    note = None if written is None else read_note(written, name, Names(), notes)
    return str(note.value) if isinstance(note, Constant) else None


#: Of sources and connections: both become parts of other names.
NAME = re.compile(r"[a-z0-9-]+")


def read_connection(node: ObjectNode, notes: Diagnostics) -> str | None:
    name = read_optional_note(node, "connection", notes)
    if name is not None and not NAME.fullmatch(name):
        text = "'connection' must be lower-case letters, digits and hyphens, as in  connection: eu-prod"
        notes.error(place_of(node, "connection"), "connection", text)
    return name


def read_region(node: ObjectNode, notes: Diagnostics) -> str | None:
    name = read_optional_note(node, "region", notes)
    if name is not None and name not in HOSTS:
        notes.error(place_of(node, "region"), "region", f"'region' must be {' or '.join(HOSTS)}")
    return name


def _attributes(node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    if isinstance(node, ObjectNode):
        for key, _ in node.entries:
            if not key.value:
                notes.error(key.where, "attribute-name", "an attribute needs a name")
        return _entries(node, names, notes)
    if isinstance(node, Scalar) and is_expression(node):
        text = f"'{name}' lists attributes one by one; a whole object is taken by  {name}_from: {node.value}"
    else:
        text = f"'{name}' must be an object: the name of each attribute, and its value"
    if not is_empty(node):
        notes.error(node.where, "attributes", text)
    return None


def _attributes_from(node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    computed = read_expression(node, name, names, notes)
    for attribute in sorted(_named_in(computed.expression.text)) if computed is not None else ():
        if is_steering(attribute):
            text = f"'{attribute}' is never taken out of '{name}', for it steers Customer.io; write it"
            notes.warn(node.where, "steering-attribute", f"{text} under 'attributes'")
    return computed


_SELECTED = re.compile(r"""'(?P<text>[^']*)'|`[^`]*`|(?P<open>[{(\[])|(?P<close>[)}\]])|"?(?P<key>[\w.]+)"?\s*:""")


def _named_in(expression: str) -> set[str]:
    """Find the names that an expression certainly gives, being ``{name: …}`` or ``pick(…, ['name'])``."""
    object_of_names = expression.lstrip().startswith("{")
    picked = expression.lstrip().startswith("pick(")
    depth, found = 0, set()
    for part in _SELECTED.finditer(expression):
        depth += bool(part["open"]) - bool(part["close"])
        if object_of_names and depth == 1 and part["key"]:
            found.add(part["key"])
        if picked and depth == 2 and part["text"]:
            found.add(part["text"])
    return found


def read_value(node: Node, names: Names, notes: Diagnostics) -> Value | None:
    match node:
        case Scalar():
            return _scalar(node, names, notes)
        case ListNode():
            items = [read_value(item, names, notes) for item in node.items]
            return ListValue(where=node.where, items=tuple(item for item in items if item is not None))
        case ObjectNode():
            return _object(node, names, notes)


_ALONE = "'{}' stands alone in its braces; an object with such a key is written {{literal: {{…}}}}"


def read_constant(node: Node, notes: Diagnostics) -> JSON:
    """Read what is fixed when the file is read: any value without an expression in it."""
    if isinstance(node, ObjectNode) and (wrapped := node.get("literal")) is not None:
        if len(node.entries) > 1:
            notes.error(node.where, "marker", _ALONE.format("literal"))
        return yaml_nodes.plain(wrapped)
    match node:
        case Scalar() if is_expression(node):
            text = "this is fixed when the file is read, so it cannot be an expression"
            notes.error(node.where, "not-literal", f'{text}; text that starts with = is written {{literal: "=…"}}')
        case Scalar():
            return node.value
        case ListNode():
            return [read_constant(item, notes) for item in node.items]
        case ObjectNode():
            return {str(key.value): read_constant(value, notes) for key, value in node.entries}
    return None


def _scalar(node: Scalar, names: Names, notes: Diagnostics) -> Value | None:
    if is_expression(node):
        return read_computed(node, names, notes)
    if node.empty:
        return None
    if isinstance(node.value, str):
        _warn_of_path(node, node.value, notes)
    return Constant(where=node.where, value=node.value)


def _object(node: ObjectNode, names: Names, notes: Diagnostics) -> Value | None:
    literal, or_null = node.get("literal"), node.get("or_null")
    if (literal is not None or or_null is not None) and len(node.entries) > 1:
        marker = "or_null" if literal is None else "literal"
        notes.error(node.where, "marker", _ALONE.format(marker))
        return None
    if literal is not None:
        return Constant(where=node.where, value=yaml_nodes.plain(literal))
    if or_null is not None:
        computed = read_expression(or_null, "or_null", names, notes)
        return None if computed is None else OrNull(where=node.where, computed=computed)
    return _entries(node, names, notes)


def _entries(node: ObjectNode, names: Names, notes: Diagnostics) -> ObjectValue:
    """Compile what stands in an object, under any names."""
    compiled = [(str(key.value), read_value(value, names, notes)) for key, value in node.entries]
    entries = tuple((key, value) for key, value in compiled if value is not None)
    return ObjectValue(where=node.where, entries=entries)


def _person(node: Node, name: str, names: Names, notes: Diagnostics, key: Key) -> Value | None:
    """Compile whom a merge is about: an object with one identifier."""
    if not isinstance(node, ObjectNode):
        if not is_empty(node):
            text = f"'{name}' must be an object with one identifier, e.g.  {name}: {key.example}"
            notes.error(node.where, "person", text)
        return None
    member = _member(node, f"in '{name}'", names, notes, key)
    if len(node.entries) != 1:
        text = f"'{name}' must have exactly one of {listed(key.keys)}"
        notes.error(node.where, "person", text)
    return member


def _members(node: Node, name: str, names: Names, notes: Diagnostics, key: Key) -> Value | None:
    """Compile a list of objects that have keys of their own, or the expression that gives one."""
    if isinstance(node, Scalar) and is_expression(node):
        return read_computed(node, names, notes)
    if isinstance(node, ListNode):
        if key.required and not node.items:
            notes.error(node.where, "members", f"'{name}' is empty; name one, e.g.  {name}: {key.example}")
        items = [_member(item, f"in '{name}'", names, notes, key) for item in node.items]
        return ListValue(where=node.where, items=tuple(item for item in items if item is not None))
    if not is_empty(node):
        text = f"'{name}' must be a list, each item with {listed(key.keys)}; or an expression that gives one"
        notes.error(node.where, "members", text)
    return None


def _member(node: Node, place: str, names: Names, notes: Diagnostics, key: Key) -> ObjectValue | None:
    if not isinstance(node, ObjectNode):
        if not is_empty(node):
            notes.error(node.where, "members", f"each item {place} is an object with {listed(key.keys)}")
        return None
    refuse_unknown_keys(node, key.keys, place, notes, f"; it takes {listed(key.keys)}")
    for name, own in key.keys.items():
        if own.required and node.get(name) is None:
            text = f"'{name}' is missing {place}, e.g.  {name}: {own.example}"
            notes.error(node.where, "missing-key", text)
    identifiers = [name for name, own in key.keys.items() if own.kind is Kind.IDENTIFIER]
    if identifiers and all(node.get(name) is None for name in identifiers):
        notes.error(node.where, "no-identifier", f"this names nobody; it needs one of {listed(identifiers)}")
    compiled = (
        (name, read_field(own, written, name, names, notes))
        for name, own in key.keys.items()
        if (written := node.get(name)) is not None
    )
    return ObjectValue(where=node.where, entries=tuple((name, value) for name, value in compiled if value is not None))


def _values(node: Node, name: str, names: Names, notes: Diagnostics, _key: Key) -> Value | None:
    """Compile an object whose names stand in the file, and whose values may be expressions."""
    if not isinstance(node, ObjectNode):
        refuse_unless_absent(node, f"'{name}' must be an object of names and values", notes)
        return None
    compiled = []
    for key, written in node.entries:
        # A file's name looks like a path, and is none.
        is_literal = isinstance(written, Scalar) and not is_expression(written) and not written.empty
        plain = yaml_nodes.plain(written) if is_literal else None
        value = Constant(where=written.where, value=plain) if is_literal else read_value(written, names, notes)
        if value is not None:
            compiled.append((str(key.value), value))
            _check_written(name, key, value, notes)
    return ObjectValue(where=node.where, entries=tuple(compiled))


def _check_written(name: str, key: Scalar, value: Value, notes: Diagnostics) -> None:
    """Judge what is known of a value of a raw request before any webhook comes."""
    if name == "headers":
        if problem := header_problem(str(key.value), _known(value)):
            notes.error(key.where, "header", f"the header '{key.value}' {problem}")
    elif name in ("query", "form") and (problem := value_problem(_known(value))):
        notes.error(value.where, "wrong-kind", f"'{key.value}' in '{name}' {problem}")


def _known(value: Value) -> JSON:
    """Give as much of a value as is known, with an empty text for what an expression finds."""
    match value:
        case Constant():
            return value.value
        case ObjectValue():
            return {}
        case ListValue():
            return [_known(item) for item in value.items]
        case _:
            return ""


def _texts(node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    """Compile attributes that have to be texts."""
    value = _attributes(node, name, names, notes)
    for attribute, each in value.entries if isinstance(value, ObjectValue) else ():
        known = _known(each)
        if known is None or isinstance(known, list | dict):
            notes.error(each.where, "wrong-kind", f"'{attribute}' has to be text; write =to_string(…)")
    return value


def _data(node: Node, _name: str, names: Names, notes: Diagnostics, _key: Key) -> Value | None:
    return read_value(node, names, notes)


def _seconds(node: Node, name: str, _names: Names, notes: Diagnostics, _key: Key) -> Value | None:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
        return Constant(where=node.where, value=value)
    text = f"'{name}' must be a number of seconds, over 0 and at most {MAX_TIMEOUT:g}"
    refuse_unless_absent(node, text, notes)
    return None


def _flag(node: Node, name: str, _names: Names, notes: Diagnostics, _key: Key) -> Value | None:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return Constant(where=node.where, value=node.value)
    refuse_unless_absent(node, f"'{name}' must be true or false", notes)
    return None


def _retry(node: Node, name: str, _names: Names, notes: Diagnostics, _key: Key) -> Value | None:
    if not isinstance(node, ObjectNode):
        refuse_unless_absent(node, f"'{name}' must be an object of {listed(RETRY_SETTINGS)}", notes)
        return None
    refuse_unknown_keys(node, RETRY_SETTINGS, "in 'retry'", notes, f"; it takes {listed(RETRY_SETTINGS)}")
    for key, written in node.entries:
        setting = str(key.value)
        if setting in RETRY_SETTINGS and not is_empty(written):
            value = yaml_nodes.plain(written)
            if problem := retry_problem(setting, value):
                notes.error(written.where, "retry", f"'{setting}' {problem}")
    return Constant(where=node.where, value=yaml_nodes.plain(node))


_Compile: TypeAlias = Callable[[Node, str, Names, Diagnostics, Key], Value | None]


def _plainly(compile_: Callable[[Node, str, Names, Diagnostics], Value | None]) -> _Compile:
    """Make the compilation of what is no further described by its key one of those that are."""
    return lambda node, name, names, notes, _key: compile_(node, name, names, notes)


_COMPILE: dict[Kind, _Compile] = {
    Kind.IDENTIFIER: _plainly(read_expression),
    Kind.PERSON: _person,
    Kind.REFERENCE: _plainly(read_expression),
    Kind.TEXT: _plainly(_text),
    Kind.EVENT_ID: _plainly(read_expression),
    Kind.TIMESTAMP: _plainly(read_expression),
    Kind.ATTRIBUTES: _plainly(_attributes),
    Kind.TEXTS: _plainly(_texts),
    Kind.OBJECT: _plainly(_attributes_from),
    Kind.MEMBERS: _members,
    Kind.VALUES: _values,
    Kind.DATA: _data,
    Kind.NOTE: _plainly(read_note),
    Kind.SECONDS: _seconds,
    Kind.FLAG: _flag,
    Kind.RETRY: _retry,
}


def read_field(key: Key, node: Node, name: str, names: Names, notes: Diagnostics) -> Value | None:
    value = _COMPILE[key.kind](node, name, names, notes, key)
    check = _LITERAL_CHECKS.get(name)
    if check is not None and isinstance(value, Constant) and (problem := check(str(value.value))):
        notes.error(node.where, name.replace("_", "-"), f"'{name}' {problem}")
        return None
    return value


def _one_of(known: tuple[str, ...]) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        return None if text in known else f"must be one of {listed(known)}{did_you_mean(text, known)}"

    return check


# What is literal text can be judged before any webhook comes.
_LITERAL_CHECKS: dict[str, Callable[[str], str | None]] = {
    "path": path_problem,
    "url": url_problem,
    "method": _one_of(METHODS),
    "platform": _one_of(PLATFORMS),
    "response_type": _one_of(RESPONSE_TYPES),
}


_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])+", re.ASCII)


def _warn_of_path(node: Scalar, text: str, notes: Diagnostics) -> None:
    if _PATH.fullmatch(text):
        said = f"'{text}' is literal text but looks like a path; write ={text}, or {{literal: {text}}}"
        notes.warn(node.where, "looks-like-a-path", said)
    else:
        warn_of_template(node, text, notes)
