"""Compile one entry of an event: a call with its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gateway.customerio.calls import IDENTIFIERS
from gateway.customerio.connection import HOSTS
from gateway.errors import did_you_mean
from gateway.mapping.diagnostics import Diagnostics, is_empty, is_null, listed, location_of, name_of
from gateway.mapping.expressions import Names
from gateway.mapping.key_kinds import CALL_KEYS
from gateway.mapping.key_kinds.key_kind import compile_keys
from gateway.mapping.located_expression import read_optional_expression
from gateway.mapping.model import SPECS, CallRule, CallSpec
from gateway.mapping.value_nodes import read_optional_text
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar
from gateway.text import NAME

#: The keys of every call, beside those of its kind.
COMMON_KEYS = ("call", "when", "each", "connection", "region")


def read_calls(
    node: Node, event: str, names: Names, defaults: Mapping[str, str], diagnostics: Diagnostics
) -> tuple[CallRule, ...]:
    """Compile the calls of an event.

    Args:
        names: What the expressions may name.
        defaults: What is written under `defaults`, by key.
    """
    if isinstance(node, ListNode):
        calls = [_read_call(item, names, defaults, diagnostics) for item in node.items]
        return tuple(call for call in calls if call is not None)
    if is_empty(node):
        text = f"'{event}' has no calls; write [] to ignore it, or '- call: …' below it"
        diagnostics.error(node.location, "empty-value", text)
    else:
        text = f"the calls of '{event}' must be a list: each starts with '- call: …'"
        diagnostics.error(node.location, "calls", text)
    return ()


def _read_call(node: Node, names: Names, defaults: Mapping[str, str], diagnostics: Diagnostics) -> CallRule | None:
    if (call := _call_not_flat(node)) is not None:
        text = f"a call is written flat:  - call: {call}  and its keys below 'call', at the same indentation"
        diagnostics.error(node.location, "call-not-flat", text)
        return None
    if not isinstance(node, ObjectNode):
        diagnostics.error(node.location, "calls", "a call must be an object that starts with  call: …")
        return None
    value = node.get("call")
    if value is None or is_empty(value):
        diagnostics.error(node.location, "missing-key", f"'call' is missing; it is one of {', '.join(SPECS)}")
        return None
    spec = SPECS.get(name_of(value))
    if spec is None:
        name = name_of(value)
        guess = did_you_mean(name, SPECS) or f"; it is one of {', '.join(SPECS)}"
        diagnostics.error(value.location, "unknown-call", f"unknown call {name!r}{guess}")
        return None

    _check_keys(spec, node, defaults, diagnostics)
    if spec.name == "request":
        _check_body(node, diagnostics)

    inside = replace(names, inside_each=node.get("each") is not None)
    connection, region = read_destination(node, diagnostics)
    return CallRule(
        location=node.location,
        spec=spec,
        fields=compile_keys(node, CALL_KEYS[spec.name], inside, diagnostics),
        when=read_optional_expression(node, "when", inside, diagnostics),
        each=read_optional_expression(node, "each", names, diagnostics),
        connection=connection,
        region=region,
    )


def _call_not_flat(node: Node) -> str | None:
    """Return the call that was meant by ``- track:`` with keys below or beside it, or by ``- track``."""
    if isinstance(node, Scalar) and node.value in SPECS:
        return str(node.value)
    if not isinstance(node, ObjectNode) or node.get("call") is not None or not node.entries:
        return None
    key, value = node.entries[0]
    nested = isinstance(value, ObjectNode) or (isinstance(value, Scalar) and value.value is None)
    return str(key.value) if nested and key.value in SPECS else None


def _check_keys(spec: CallSpec, node: ObjectNode, defaults: Mapping[str, str], diagnostics: Diagnostics) -> None:
    """Report unknown keys, empty values, a missing identifier and missing keys."""
    hint = f"; it takes {listed(spec.keys)}"
    if "attributes" in spec.keys:
        hint = "; an attribute stands under 'attributes'"
    diagnostics.refuse_unknown_keys(node, (*COMMON_KEYS, *spec.keys), f"in call '{spec.name}'", hint)
    for key, value in node.entries:
        diagnostics.refuse_empty(value, f"'{key.value}'")
    if spec.identifiers:
        _check_identifiers(spec, node, defaults, diagnostics)
    for name, required in spec.keys.items():
        if required.required and node.get(name) is None and node.get(required.unless) is None:
            text = f"'{spec.name}' needs a '{name}', e.g.  {name}: {required.example}"
            diagnostics.error(node.location, "missing-key", text)


def _check_identifiers(spec: CallSpec, node: ObjectNode, defaults: Mapping[str, str], diagnostics: Diagnostics) -> None:
    """Report that a call names nobody, or that it is not certain to name the person that its defaults name."""
    identifiers = [name for name in IDENTIFIERS if name in spec.identifiers and node.get(name) is not None]
    set_identifiers = [name for name in identifiers if not is_null(node.get(name))]
    by_default = [name for name in IDENTIFIERS if name in spec.identifiers and name in defaults]
    anonymous = node.get("anonymous")
    if isinstance(anonymous, Scalar) and anonymous.value is True:
        _check_anonymous(node, set_identifiers, diagnostics)
    elif set_identifiers:
        _check_rank(node, identifiers, set_identifiers[0], {name: defaults[name] for name in by_default}, diagnostics)
    elif identifiers or not by_default:
        known = listed(spec.identifiers)
        text = f"'{spec.name}' names nobody; give it one of {known}, here or under 'defaults'"
        diagnostics.error(node.location, "no-identifier", text)


def _check_anonymous(node: ObjectNode, set_identifiers: Sequence[str], diagnostics: Diagnostics) -> None:
    """Check an event that says that it names nobody; *set_identifiers* are the identifiers that it has all the same."""
    place, attributes = location_of(node, "anonymous"), node.get("attributes")
    if set_identifiers:
        name = set_identifiers[0]
        text = f"'anonymous' says that nobody is named, and '{name}' names somebody; leave out one of the two"
        diagnostics.error(place, "anonymous", text)
    elif not isinstance(attributes, ObjectNode) or attributes.get("recipient") is None:
        text = "'anonymous' needs a 'recipient' under 'attributes', e.g.  attributes: {recipient: =invitee.email}"
        diagnostics.error(place, "anonymous", text)


def _check_rank(
    node: ObjectNode, identifiers: Sequence[str], first: str, defaults: Mapping[str, str], diagnostics: Diagnostics
) -> None:
    """Report the defaults that would count before the *first* of a call's own identifiers, and that it is silent about.

    Args:
        identifiers: Those that the call mentions, also those that are null.
        defaults: The expressions of the file's default identifiers.
    """
    before = IDENTIFIERS[: IDENTIFIERS.index(first)]
    for name, expression in defaults.items():
        if name in before and name not in identifiers:
            same = _quoted(expression if node.get("each") is None else _of_part(expression))
            text = (
                f"the default '{name}' counts before '{first}', but a call with an identifier of its own takes no"
                f" default; write  {name}: {same}  if it is the same person, or  {name}: null  if another one"
            )
            diagnostics.error(location_of(node, first), "unclear-person", text)


def _of_part(expression: str) -> str:
    """Return an expression on the part as one that means the same under `each`, where paths start at the item."""
    if _OF_REQUEST.fullmatch(expression):
        return expression
    return f"=root().{expression[1:]}" if _PATH.fullmatch(expression) else f"=root() | {expression[1:]}"


def _quoted(expression: str) -> str:
    """Return an expression as it stands on one line of YAML."""
    return "'" + expression.replace("'", "''") + "'" if ": " in expression or " #" in expression else expression


_OF_REQUEST = re.compile(r"=(var|header|query)\('[^']*'\)")
_PATH = re.compile(r"=[A-Za-z_][\w.]*")


def _check_body(node: ObjectNode, diagnostics: Diagnostics) -> None:
    """Check that a raw request has one body, `data` or a form, and that named files are there."""
    if node.get("data") is not None and (node.get("form") is not None or node.get("files") is not None):
        text = "'data' cannot stand beside 'form' or 'files': a request has one body"
        diagnostics.error(location_of(node, "data"), "two-bodies", text)
    files, file_names = node.get("files"), node.get("file_names")
    known = {key.value for key, _ in files.entries} if isinstance(files, ObjectNode) else set()
    for key, _ in file_names.entries if isinstance(file_names, ObjectNode) else ():
        if key.value not in known:
            diagnostics.error(key.location, "file-names", f"there is no file '{key.value}' under 'files'")


def read_destination(node: ObjectNode, diagnostics: Diagnostics) -> tuple[str | None, str | None]:
    """Read `connection` and `region` of a call or of the file; None for each that is missing or wrong."""
    connection = read_optional_text(node, "connection", diagnostics)
    if connection is not None and not NAME.fullmatch(connection):
        text = "'connection' must be lower-case letters, digits and hyphens, as in  connection: eu-prod"
        diagnostics.error(location_of(node, "connection"), "connection", text)
    region = read_optional_text(node, "region", diagnostics)
    if region is not None and region not in HOSTS:
        diagnostics.error(location_of(node, "region"), "region", f"'region' must be {' or '.join(HOSTS)}")
    return connection, region
