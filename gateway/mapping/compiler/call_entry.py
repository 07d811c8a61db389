"""One entry of an event: a call with its keys."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.errors import did_you_mean
from gateway.mapping.compiler.diagnostics import (
    Diagnostics,
    is_empty,
    listed,
    name_of,
    place_of,
    refuse_empty,
    refuse_unknown_keys,
)
from gateway.mapping.compiler.key_values import read_connection, read_field, read_region
from gateway.mapping.compiler.located_expression import read_optional_expression
from gateway.mapping.expressions import Names
from gateway.mapping.model import SPECS, CallRule, CallSpec, Value
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the file says around its calls: the names that their expressions know, and which defaults there are."""

    names: Names
    defaults: frozenset[str]


_EVERY_CALL = ("call", "when", "each", "connection", "region")


def read_calls(node: Node, event: str, around: Around, notes: Diagnostics) -> tuple[CallRule, ...]:
    if isinstance(node, ListNode):
        calls = [_call(item, around, notes) for item in node.items]
        return tuple(call for call in calls if call is not None)
    if is_empty(node):
        text = f"'{event}' has no calls; write [] to ignore it, or '- call: …' below it"
        notes.error(node.where, "empty-value", text)
    else:
        notes.error(node.where, "calls", f"the calls of '{event}' must be a list: each starts with '- call: …'")
    return ()


def _call(node: Node, around: Around, notes: Diagnostics) -> CallRule | None:
    if (wrong := _not_flat(node)) is not None:
        text = f"a call is written flat:  - call: {wrong}  and its keys below 'call', at the same indentation"
        notes.error(node.where, "call-not-flat", text)
        return None
    if not isinstance(node, ObjectNode):
        notes.error(node.where, "calls", "a call must be an object that starts with  call: …")
        return None
    spec = _spec(node, notes)
    return None if spec is None else _call_of(spec, node, around, notes)


def _not_flat(node: Node) -> str | None:
    """Find the call that was meant by ``- track:`` with keys under it, or beside it, or by ``- track``."""
    if isinstance(node, Scalar) and node.value in SPECS:
        return str(node.value)
    if not isinstance(node, ObjectNode) or node.get("call") is not None or not node.entries:
        return None
    key, value = node.entries[0]
    nested = isinstance(value, ObjectNode) or (isinstance(value, Scalar) and value.value is None)
    return str(key.value) if nested and key.value in SPECS else None


def _spec(node: ObjectNode, notes: Diagnostics) -> CallSpec | None:
    written = node.get("call")
    if written is None or is_empty(written):
        notes.error(node.where, "missing-key", f"'call' is missing; it is one of {', '.join(SPECS)}")
        return None
    name = name_of(written)
    if name not in SPECS:
        guess = did_you_mean(name, SPECS) or f"; it is one of {', '.join(SPECS)}"
        notes.error(written.where, "unknown-call", f"unknown call {name!r}{guess}")
        return None
    return SPECS[name]


def _call_of(spec: CallSpec, node: ObjectNode, around: Around, notes: Diagnostics) -> CallRule:
    hint = f"; it takes {listed(spec.keys)}"
    if "attributes" in spec.keys:
        hint = "; an attribute stands under 'attributes'"
    refuse_unknown_keys(node, (*_EVERY_CALL, *spec.keys), f"in call '{spec.name}'", notes, hint)
    for key, value in node.entries:
        refuse_empty(value, f"'{key.value}'", notes)
    _check_whom(spec, node, around.defaults, notes)
    _check_required(spec, node, notes)
    if spec.name == "request":
        _check_body(node, notes)
    names = replace(around.names, inside_each=node.get("each") is not None)
    return CallRule(
        where=node.where,
        spec=spec,
        fields=_fields(spec, node, names, notes),
        when=read_optional_expression(node, "when", names, notes),
        each=read_optional_expression(node, "each", around.names, notes),
        connection=read_connection(node, notes),
        region=read_region(node, notes),
    )


def _check_whom(spec: CallSpec, node: ObjectNode, defaults: frozenset[str], notes: Diagnostics) -> None:
    if not spec.identifiers or defaults.intersection(spec.identifiers):
        return
    if all(node.get(name) is None for name in spec.identifiers):
        known = listed(spec.identifiers)
        text = f"'{spec.name}' names nobody; give it one of {known}, here or under 'defaults'"
        notes.error(node.where, "no-identifier", text)


def _check_required(spec: CallSpec, node: ObjectNode, notes: Diagnostics) -> None:
    for name, key in spec.keys.items():
        if key.required and node.get(name) is None:
            text = f"'{spec.name}' needs a '{name}', e.g.  {name}: {key.example}"
            notes.error(node.where, "missing-key", text)


def _check_body(node: ObjectNode, notes: Diagnostics) -> None:
    """A raw request has one body: data, or a form with files."""
    if node.get("data") is not None and (node.get("form") is not None or node.get("files") is not None):
        text = "'data' cannot stand beside 'form' or 'files': a request has one body"
        notes.error(place_of(node, "data"), "two-bodies", text)
    files, names = node.get("files"), node.get("file_names")
    known = {key.value for key, _ in files.entries} if isinstance(files, ObjectNode) else set()
    for key, _ in names.entries if isinstance(names, ObjectNode) else ():
        if key.value not in known:
            notes.error(key.where, "file-names", f"there is no file '{key.value}' under 'files'")


def _fields(spec: CallSpec, node: ObjectNode, names: Names, notes: Diagnostics) -> dict[str, Value]:
    fields = {}
    for name, key in spec.keys.items():
        written = node.get(name)
        value = None if written is None else read_field(key, written, name, names, notes)
        if value is not None:
            fields[name] = value
    return fields
