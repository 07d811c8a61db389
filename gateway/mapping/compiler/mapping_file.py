"""The top of a mapping file."""

from __future__ import annotations

from dataclasses import replace

from gateway.errors import MappingError, Problem, Severity
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.compiler.call_entry import Around
from gateway.mapping.compiler.diagnostics import (
    Diagnostics,
    entries_of,
    is_empty,
    name_of,
    refuse_empty,
    refuse_unknown_keys,
    refuse_unless_absent,
)
from gateway.mapping.compiler.events_section import read_rules, routes_of
from gateway.mapping.compiler.key_values import (
    NAME,
    read_connection,
    read_constant,
    read_optional_note,
    read_region,
    read_value,
)
from gateway.mapping.compiler.located_expression import read_expression, read_optional_expression
from gateway.mapping.compiler.tests_section import read_tests
from gateway.mapping.compiler.verify_section import read_verification
from gateway.mapping.expressions import Names, compile_expression, headers_in
from gateway.mapping.model import ANYBODY, Computed, Constant, MappingFile, Value, Verify
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar

_DEFAULTS = (*ANYBODY, "timestamp")
_TOP = (
    *("version", "source", "description", "verify", "when", "event_type", "event_key"),
    *("split", "connection", "region", "let", "tables", "defaults", "events", "tests"),
)


def parse(text: str, file: str) -> tuple[MappingFile, list[Problem]]:
    """Compile a mapping file; the problems beside it are warnings.

    Raises MappingError: holds everything that is wrong with the file, in the order of the file.
    """
    top = yaml_nodes.read(text, file)
    if not isinstance(top, ObjectNode):
        problem = "a mapping file is an object of keys; it starts with  version: 1"
        raise MappingError([Problem(where=top.where, code="not-an-object", text=problem)])
    notes = Diagnostics(text)
    mapping = _mapping(top, file, notes)
    problems = sorted(notes.problems, key=lambda problem: problem.where)
    if mapping is None or any(problem.severity is Severity.ERROR for problem in problems):
        raise MappingError(problems)
    return mapping, problems


def _mapping(top: ObjectNode, file: str, notes: Diagnostics) -> MappingFile | None:
    _check_frame(top, notes)
    verify = read_verification(top, notes)
    tables = _tables(top, notes)
    of_body = Names(tables=frozenset(tables))
    let = _let(top, of_body, notes)
    of_part = replace(of_body, variables=frozenset(let))
    event_key, deduplicate = _event_key(top, verify, of_part, notes)
    _warn_of_unsigned_headers(top, verify, notes)
    event_type = _event_type(top, verify, of_part, notes)
    defaults = _defaults(top, of_part, notes)
    around = Around(names=of_part, defaults=_named_defaults(top))
    is_routed = event_type is not None or top.get("event_type") is not None
    rules = read_rules(top, around, notes, is_routed=is_routed)
    source, description = _source(top, notes), read_optional_note(top, "description", notes)
    when = read_optional_expression(top, "when", of_part, notes)
    split = read_optional_expression(top, "split", of_body, notes)
    connection, region = read_connection(top, notes), read_region(top, notes)
    tests = read_tests(top, notes)
    if verify is None:
        return None
    return MappingFile(
        file=file,
        source=source,
        description=description,
        verify=verify,
        when=when,
        event_type=event_type,
        event_key=event_key,
        default_key=_of_scheme(verify, verify.scheme.event_key) if deduplicate else None,
        deduplicate=deduplicate,
        split=split,
        let=let,
        tables=tables,
        connection=connection or "default",
        region=region,
        defaults=defaults,
        rules=rules,
        routes=routes_of(rules),
        tests=tests,
    )


def _check_frame(top: ObjectNode, notes: Diagnostics) -> None:
    extensions = [str(key.value) for key, _ in top.entries if str(key.value).startswith("x-")]
    refuse_unknown_keys(top, (*_TOP, *extensions), "at the top of the file", notes)
    for key, value in top.entries:
        # Each call looks for its own empty values, after a better guess at what was meant.
        if key.value != "events":
            refuse_empty(value, f"'{key.value}'", notes)
    version = top.get("version")
    if version is None:
        notes.error(top.where, "version", "'version' is missing; this language is  version: 1")
    elif not is_empty(version) and not (
        isinstance(version, Scalar) and type(version.value) is int and version.value == 1
    ):
        notes.error(version.where, "version", "'version' must be 1")


def _source(top: ObjectNode, notes: Diagnostics) -> str:
    node = top.get("source")
    if node is None:
        text = "'source' is missing; webhooks arrive at /hooks/<source>, e.g.  source: stripe"
        notes.error(top.where, "source", text)
        return ""
    name = name_of(node)
    if not is_empty(node) and not NAME.fullmatch(name):
        text = "'source' must be lower-case letters, digits and hyphens, for it is part of an address"
        notes.error(node.where, "source", text)
    return name


def _warn_of_unsigned_headers(top: ObjectNode, verify: Verify | None, notes: Diagnostics) -> None:
    """Whoever has seen one webhook can send it again with other headers: as another event, of another type."""
    for key in ("event_key", "event_type"):
        node = top.get(key)
        if verify is None or not isinstance(node, Scalar):
            continue
        for name in headers_in(str(node.value)):
            if not verify.scheme.believes(name):
                text = (
                    f"the header {name} is not signed: whoever has seen a webhook can send it again with another one;"
                    f" take '{key}' from the body, or say in the scheme that it has to do:  trust: {name}"
                )
                notes.warn(node.where, "unsigned-header", text)


def _event_type(top: ObjectNode, verify: Verify | None, names: Names, notes: Diagnostics) -> Computed | None:
    node = top.get("event_type")
    if node is not None:
        return read_expression(node, "event_type", names, notes)
    return None if verify is None else _of_scheme(verify, verify.scheme.event_type)


def _of_scheme(verify: Verify, expression: str | None) -> Computed | None:
    """Compile what the scheme says where the mapping says nothing."""
    if expression is None:
        return None
    return Computed(where=verify.where, expression=compile_expression(expression.removeprefix("=")))


def _event_key(
    top: ObjectNode, verify: Verify | None, names: Names, notes: Diagnostics
) -> tuple[Computed | None, bool]:
    node = top.get("event_key")
    if node is None:
        if verify is not None and not verify.scheme.names_deliveries:
            text = (
                "this scheme names no delivery, so two genuine webhooks with equal bodies count as one;"
                " set  event_key: =id  or what else tells them apart, or  event_key: none"
            )
            notes.warn(verify.where, "no-event-key", text)
        return None, True
    if verify is not None and not verify.scheme.covers_body:
        text = (
            f"the scheme '{verify.scheme.name}' does not sign the body: only its own key keeps a stranger from putting"
            " another body behind a signature that was seen; remove 'event_key'"
        )
        notes.warn(node.where, "unsigned-body", text)
    if isinstance(node, Scalar) and node.value == "none":
        return None, False
    return read_expression(node, "event_key", names, notes), True


def _defaults(top: ObjectNode, names: Names, notes: Diagnostics) -> dict[str, Value]:
    node = top.get("defaults")
    if not isinstance(node, ObjectNode):
        refuse_unless_absent(node, "'defaults' must be an object of identifiers and 'timestamp'", notes)
        return {}
    hint = "; defaults are identifiers and 'timestamp'"
    refuse_unknown_keys(node, _DEFAULTS, "in 'defaults'", notes, hint)
    named = [(str(key.value), value) for key, value in node.entries if key.value in _DEFAULTS]
    compiled = {name: read_expression(value, name, names, notes) for name, value in named}
    return {name: value for name, value in compiled.items() if value is not None}


def _let(top: ObjectNode, names: Names, notes: Diagnostics) -> dict[str, Value]:
    """Read the variables; one that is wrong is known all the same, so that its uses are not called wrong too."""
    let: dict[str, Value] = {}
    for key, written in entries_of(top.get("let"), "'let' must be an object of names and values", notes):
        earlier = replace(names, variables=frozenset(let))
        value = read_value(written, earlier, notes)
        let[str(key.value)] = value or Constant(where=written.where, value=None)
    return let


def _tables(top: ObjectNode, notes: Diagnostics) -> dict[str, dict[str, JSON]]:
    text = "'tables' must be an object: the name of each table, and its entries"
    tables = entries_of(top.get("tables"), text, notes)
    return {str(key.value): _table(str(key.value), entries, notes) for key, entries in tables}


def _table(name: str, node: Node, notes: Diagnostics) -> dict[str, JSON]:
    entries = entries_of(node, f"the table '{name}' must be an object of keys and values", notes)
    return {str(key.value): read_constant(value, notes) for key, value in entries}


def _named_defaults(top: ObjectNode) -> frozenset[str]:
    """Name the defaults that were meant, also those whose expressions are wrong."""
    node = top.get("defaults")
    return frozenset(str(key.value) for key, _ in node.entries) if isinstance(node, ObjectNode) else frozenset()
