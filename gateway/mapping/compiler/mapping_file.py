"""Compile a whole mapping file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.errors import MappingError, Problem, Severity
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.compiler.answer_section import read_answer
from gateway.mapping.compiler.call_entry import read_destination
from gateway.mapping.compiler.events_section import read_rules, routes_of
from gateway.mapping.compiler.tests_section import read_tests
from gateway.mapping.compiler.verify_section import read_verification
from gateway.mapping.diagnostics import Diagnostics, is_empty, is_null, name_of
from gateway.mapping.expressions import Names, Origins, compile_expression, headers_in, made_of
from gateway.mapping.identifying_values import EVENT_KEY, read_identifying
from gateway.mapping.key_kinds import DEFAULT_KEYS
from gateway.mapping.key_kinds.key_kind import compile_keys
from gateway.mapping.located_expression import read_optional_expression
from gateway.mapping.model import Computed, Constant, ListValue, MappingFile, ObjectValue, OrNull, Value, Verify
from gateway.mapping.value_nodes import read_constant, read_optional_text, read_value
from gateway.mapping.yaml_nodes import ObjectNode, Scalar
from gateway.text import NAME

#: The keys at the top of a file.
TOP_KEYS = (
    *("version", "source", "description", "verify", "answer", "when", "event_type", "event_key"),
    *("split", "connection", "region", "let", "tables", "defaults", "events", "tests"),
)


def parse(text: str, file: str) -> tuple[MappingFile, list[Problem]]:
    """Compile a mapping file; the problems beside it are warnings.

    Raises MappingError: holds everything that is wrong with the file, in the order of the file.
    """
    top = yaml_nodes.read(text, file)
    if not isinstance(top, ObjectNode):
        problem = "a mapping file is an object of keys; it starts with  version: 1"
        raise MappingError([Problem(location=top.location, code="not-an-object", text=problem)])
    diagnostics = Diagnostics(text)
    mapping = _read_mapping(top, file, diagnostics)
    problems = sorted(diagnostics.problems, key=lambda problem: problem.location)
    if mapping is None or any(problem.severity is Severity.ERROR for problem in problems):
        raise MappingError(problems)
    return mapping, problems


def _read_mapping(top: ObjectNode, file: str, diagnostics: Diagnostics) -> MappingFile | None:
    """Compile all sections, whatever is wrong with the others; None: without `verify` there is no mapping."""
    _check_keys(top, diagnostics)
    verify = read_verification(top, diagnostics)
    answer = read_answer(top, verify, diagnostics)

    tables = _read_tables(top, diagnostics)
    with_default = frozenset(name for name, entries in tables.items() if entries.get("*") is not None)
    of_body = Names(tables=frozenset(tables), with_default=with_default)
    let = _read_let(top, of_body, diagnostics)
    of_part = _with_variables(of_body, let)

    # `split` comes before `let`, which is computed for each part.
    split = read_optional_expression(top, "split", of_body, diagnostics)
    when = read_optional_expression(top, "when", of_part, diagnostics)
    event_type = read_optional_expression(top, "event_type", of_part, diagnostics)
    has_type = top.get("event_type") is not None
    if verify is not None and not has_type:
        event_type = _expression_of_scheme(verify, verify.scheme.event_type)
        has_type = event_type is not None
    event_key, deduplicate = _read_event_key(top, verify, of_part, diagnostics)
    _warn_of_unsigned_headers(top, verify, diagnostics)

    defaults, default_expressions = _read_defaults(top, of_part, diagnostics)
    rules = read_rules(top, of_part, default_expressions, diagnostics, has_type=has_type)
    tests = read_tests(top, diagnostics)

    source = _read_source(top, diagnostics)
    description = read_optional_text(top, "description", diagnostics)
    connection, region = read_destination(top, diagnostics)
    if verify is None:
        return None
    return MappingFile(
        file=file,
        source=source,
        description=description,
        verify=verify,
        answer=answer,
        when=when,
        event_type=event_type,
        event_key=event_key,
        default_key=_expression_of_scheme(verify, verify.scheme.event_key) if deduplicate else None,
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


def _check_keys(top: ObjectNode, diagnostics: Diagnostics) -> None:
    """Check the version, and report unknown keys and empty values."""
    extensions = [str(key.value) for key, _ in top.entries if str(key.value).startswith("x-")]
    diagnostics.refuse_unknown_keys(top, (*TOP_KEYS, *extensions), "at the top of the file")
    for key, value in top.entries:
        # Calls report their own empty values, after a better guess at what was meant.
        if key.value != "events":
            diagnostics.refuse_empty(value, f"'{key.value}'")
    version = top.get("version")
    if version is None:
        diagnostics.error(top.location, "version", "'version' is missing; this language is  version: 1")
    elif not is_empty(version):
        number = version.value if isinstance(version, Scalar) else None
        if type(number) is not int or number != 1:
            diagnostics.error(version.location, "version", "'version' must be 1")


def _read_source(top: ObjectNode, diagnostics: Diagnostics) -> str:
    node = top.get("source")
    if node is None:
        text = "'source' is missing; webhooks arrive at /hooks/<source>, e.g.  source: stripe"
        diagnostics.error(top.location, "source", text)
        return ""
    name = name_of(node)
    if not is_empty(node) and not NAME.fullmatch(name):
        text = "'source' must be lower-case letters, digits and hyphens, for it is part of an address"
        diagnostics.error(node.location, "source", text)
    return name


def _warn_of_unsigned_headers(top: ObjectNode, verify: Verify | None, diagnostics: Diagnostics) -> None:
    """Warn where an unsigned header says which event this is.

    Whoever has seen one webhook could send it again with other headers: as another event, or of another type.
    """
    for key in ("event_key", "event_type"):
        node = top.get(key)
        if verify is None or not isinstance(node, Scalar):
            continue
        for name in headers_in(str(node.value)):
            if not verify.scheme.trusts_header(name):
                text = (
                    f"the header {name} is not signed: whoever has seen a webhook can send it again with another one;"
                    f" take '{key}' from the body, or trust it in the scheme:  trust: {name}"
                )
                diagnostics.warn(node.location, "unsigned-header", text)


def _expression_of_scheme(verify: Verify, expression: str | None) -> Computed | None:
    """Compile an expression of the scheme, which counts where the mapping has none of its own."""
    if expression is None:
        return None
    return Computed(location=verify.location, expression=compile_expression(expression.removeprefix("=")))


def _read_event_key(
    top: ObjectNode, verify: Verify | None, names: Names, diagnostics: Diagnostics
) -> tuple[Computed | None, bool]:
    """Compile `event_key`; return with it whether equal webhooks are dropped."""
    node = top.get("event_key")
    if node is None:
        if verify is not None and not verify.scheme.names_deliveries:
            text = (
                "this scheme names no delivery, so two genuine webhooks with equal bodies count as one;"
                " set  event_key: =id  or what else tells them apart, or  event_key: none"
            )
            diagnostics.warn(verify.location, "no-event-key", text)
        return None, True
    if verify is not None and not verify.scheme.covers_body:
        text = (
            f"the scheme '{verify.scheme.name}' does not sign the body: only its own key keeps a stranger from putting"
            " another body behind a signature that was seen; remove 'event_key'"
        )
        diagnostics.warn(node.location, "unsigned-body", text)
    if isinstance(node, Scalar) and node.value == "none":
        return None, False
    return read_identifying(node, "event_key", EVENT_KEY, names, diagnostics), True


def _read_defaults(top: ObjectNode, names: Names, diagnostics: Diagnostics) -> tuple[dict[str, Value], dict[str, str]]:
    """Compile `defaults`; return with them what is written, also where an expression is wrong."""
    node = top.get("defaults")
    if not isinstance(node, ObjectNode):
        diagnostics.refuse_unless_absent(node, "'defaults' must be an object of identifiers and 'timestamp'")
        return {}, {}
    hint = "; defaults are identifiers and 'timestamp'"
    diagnostics.refuse_unknown_keys(node, DEFAULT_KEYS, "in 'defaults'", hint)
    for key, value in node.entries:
        if is_null(value):
            text = f"'{key.value}' is null, which is no default; write null in the call that shall not have one"
            diagnostics.error(value.location, "null-default", text)
    expressions = {
        str(key.value): str(value.value) if isinstance(value, Scalar) else "=…" for key, value in node.entries
    }
    return compile_keys(node, DEFAULT_KEYS, names, diagnostics), expressions


def _read_let(top: ObjectNode, names: Names, diagnostics: Diagnostics) -> dict[str, Value]:
    """Compile the variables. A wrong one keeps its name, so that its uses are not reported too."""
    let: dict[str, Value] = {}
    for key, node in diagnostics.entries_of(top.get("let"), "'let' must be an object of names and values"):
        value = read_value(node, _with_variables(names, let), diagnostics)
        let[str(key.value)] = value or Constant(location=node.location, value=None)
    return let


def _with_variables(names: Names, let: Mapping[str, Value]) -> Names:
    return replace(names, variables=frozenset(let), origins={name: _origins_of(value) for name, value in let.items()})


def _origins_of(value: Value) -> Origins:
    match value:
        case Computed():
            return value.expression.origins
        case OrNull():
            return value.computed.expression.origins
        case Constant():
            return Origins(file=value.value is not None)
        case ListValue():
            return made_of(_origins_of(item) for item in value.items)
        case ObjectValue():
            entries = {name: _origins_of(entry) for name, entry in value.entries}
            return replace(made_of(entries.values()), entries=entries)


def _read_tables(top: ObjectNode, diagnostics: Diagnostics) -> dict[str, dict[str, JSON]]:
    text = "'tables' must be an object: the name of each table, and its entries"
    tables = {}
    for table, node in diagnostics.entries_of(top.get("tables"), text):
        entries = diagnostics.entries_of(node, f"the table '{table.value}' must be an object of keys and values")
        tables[str(table.value)] = {str(key.value): read_constant(value, diagnostics) for key, value in entries}
    return tables
