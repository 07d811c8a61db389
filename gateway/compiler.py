"""Compile a mapping file into rules, or say everything that is wrong with it, with places and fixes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from gateway import document, signatures
from gateway.calls import CALLS
from gateway.document import ListNode, Node, ObjectNode, Scalar
from gateway.errors import MappingError, Problem, Severity, Where, did_you_mean
from gateway.events import JSON
from gateway.expressions import BadExpression, Names, compile_expression
from gateway.functions import number_text
from gateway.limits import (
    MAX_TIMEOUT,
    METHODS,
    PLATFORMS,
    RESPONSE_TYPES,
    RETRY_SETTINGS,
    header_problem,
    path_problem,
    retry_problem,
)
from gateway.mapping import (
    ANYBODY,
    SPECS,
    CallRule,
    CallSpec,
    Computed,
    Constant,
    Glob,
    Key,
    Kind,
    ListValue,
    Mapping,
    MappingTest,
    ObjectValue,
    OrNull,
    Routes,
    Rule,
    Value,
    Verify,
    is_steering,
)

# What a mapping's own tests take for the time of receipt unless they say otherwise: 2026-01-01.
TEST_RECEIVED_AT = 1767225600


_EVERY_CALL = ("call", "when", "each", "connection", "region")
_DEFAULTS = (*ANYBODY, "timestamp")
_TOP = (
    *("version", "source", "description", "verify", "when", "event_type", "event_key"),
    *("connection", "region", "defaults", "events", "tests"),
)
_TEST = ("name", "body", "payload", "headers", "query", "received_at", "expect")


def parse(text: str, file: str) -> tuple[Mapping, list[Problem]]:
    """Compile a mapping file; the problems beside it are warnings.

    Raises MappingError: holds everything that is wrong with the file, in the order of the file.
    """
    top = document.read(text, file)
    if not isinstance(top, ObjectNode):
        problem = "a mapping file is an object of keys; it starts with  version: 1"
        raise MappingError([Problem(where=top.where, code="not-an-object", text=problem)])
    notes = _Notes(text)
    mapping = _mapping(top, file, notes)
    problems = sorted(notes.problems, key=lambda problem: problem.where)
    if mapping is None or any(problem.severity is Severity.ERROR for problem in problems):
        raise MappingError(problems)
    return mapping, problems


class _Notes:
    """The problems of one file so far, and its lines, in which the columns of expressions are counted."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        # Keyed, because what stands behind an anchor is read once for each of its uses.
        self.problems: dict[Problem, None] = {}

    def error(self, where: Where, code: str, text: str) -> None:
        self.problems[Problem(where=where, code=code, text=text)] = None

    def warn(self, where: Where, code: str, text: str) -> None:
        self.problems[Problem(where=where, code=code, text=text, severity=Severity.WARNING)] = None

    def line(self, number: int) -> str:
        return self._lines[number - 1] if number <= len(self._lines) else ""


def _mapping(top: ObjectNode, file: str, notes: _Notes) -> Mapping | None:
    _check_frame(top, notes)
    verify = _verify(top, notes)
    event_key, deduplicate = _event_key(top, verify, notes)
    defaults = _defaults(top, notes)
    rules = _rules(top, _named_defaults(top), notes)
    source, description = _source(top, notes), _optional_note(top, "description", notes)
    when = _optional_expression(top, "when", Names(), notes)
    event_type = _optional_expression(top, "event_type", Names(), notes)
    connection, region = _connection(top, notes), _region(top, notes)
    tests = _tests(top, notes)
    if verify is None:
        return None
    return Mapping(
        file=file,
        source=source,
        description=description,
        verify=verify,
        when=when,
        event_type=event_type,
        event_key=event_key,
        deduplicate=deduplicate,
        connection=connection or "default",
        region=region,
        defaults=defaults,
        rules=rules,
        routes=_routes(rules),
        tests=tests,
    )


def _check_frame(top: ObjectNode, notes: _Notes) -> None:
    extensions = [str(key.value) for key, _ in top.entries if str(key.value).startswith("x-")]
    _refuse_unknown_keys(top, (*_TOP, *extensions), "at the top of the file", notes)
    for key, value in top.entries:
        # Each call looks for its own empty values, after a better guess at what was meant.
        if key.value != "events":
            _refuse_empty(value, f"'{key.value}'", notes)
    version = top.get("version")
    if version is None:
        notes.error(top.where, "version", "'version' is missing; this language is  version: 1")
    elif not _is_empty(version) and not (
        isinstance(version, Scalar) and type(version.value) is int and version.value == 1
    ):
        notes.error(version.where, "version", "'version' must be 1")


_SOURCE = re.compile(r"[a-z0-9-]+")


def _source(top: ObjectNode, notes: _Notes) -> str:
    node = top.get("source")
    if node is None:
        text = "'source' is missing; webhooks arrive at /hooks/<source>, e.g.  source: stripe"
        notes.error(top.where, "source", text)
        return ""
    name = _name(node)
    if not _is_empty(node) and not _SOURCE.fullmatch(name):
        text = "'source' must be lower-case letters, digits and hyphens, for it is part of an address"
        notes.error(node.where, "source", text)
    return name


def _is_empty(node: Node) -> bool:
    """Tell whether nothing was written, which `_refuse_empty` answers wherever it occurs."""
    return isinstance(node, Scalar) and node.empty


def _name(node: Node) -> str:
    """Read a name as it was written: one of digits only is no less a name."""
    return str(node.value) if isinstance(node, Scalar) and type(node.value) in (str, int) else ""


def _connection(node: ObjectNode, notes: _Notes) -> str | None:
    name = _optional_note(node, "connection", notes)
    if name is not None and not _SOURCE.fullmatch(name):
        text = "'connection' must be lower-case letters, digits and hyphens, as in  connection: eu-prod"
        notes.error(_at(node, "connection"), "connection", text)
    return name


def _region(node: ObjectNode, notes: _Notes) -> str | None:
    name = _optional_note(node, "region", notes)
    if name is not None and name not in ("us", "eu"):
        notes.error(_at(node, "region"), "region", "'region' must be us or eu")
    return name


def _at(node: ObjectNode, name: str) -> Where:
    value = node.get(name)
    return node.where if value is None else value.where


_VERIFY_EXAMPLE = "verify: {scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}"


def _verify(top: ObjectNode, notes: _Notes) -> Verify | None:
    match top.get("verify"):
        case None:
            text = f"'verify' is missing; say how the sender proves itself, e.g.  {_VERIFY_EXAMPLE}"
            notes.error(top.where, "verify", f"{text}  (no check at all has to be said: verify: none)")
        case Scalar(value="none") as node:
            return Verify(where=node.where, scheme=signatures.schemes()["none"], secret_env=())
        case ObjectNode() as node:
            return _verification(node, notes)
        case Scalar(empty=True):
            pass
        case node:
            notes.error(node.where, "verify", f"'verify' must be none, or an object, e.g.  {_VERIFY_EXAMPLE}")
    return None


def _verification(node: ObjectNode, notes: _Notes) -> Verify | None:
    _refuse_unknown_keys(node, ("scheme", "secret_env"), "in 'verify'", notes, _INLINE_SCHEME)
    scheme = _scheme(node, notes)
    secret_env = _secret_env(node, notes)
    if scheme is None:
        return None
    if scheme.kind == "none" and secret_env:
        notes.error(
            _at(node, "secret_env"), "verify", "the scheme 'none' checks no secret; remove 'secret_env'"
        )
    if scheme.kind != "none" and node.get("secret_env") is None:
        text = "'secret_env' is missing; it names the environment variable that holds the secret"
        notes.error(node.where, "verify", text)
    return Verify(where=node.where, scheme=scheme, secret_env=secret_env)


_INLINE_SCHEME = "; a scheme of your own is written  scheme: {…}"


def _scheme(node: ObjectNode, notes: _Notes) -> signatures.Scheme | None:
    written = node.get("scheme")
    if written is None:
        notes.error(node.where, "verify", f"'scheme' is missing, e.g.  {_VERIFY_EXAMPLE}")
        return None
    try:
        return signatures.scheme_from(document.plain(written))
    except signatures.SchemeError as error:
        if not _is_empty(written):
            notes.error(_below(written, error.key or ""), "scheme", error.problem)
        return None


def _below(node: Node, path: str) -> Where:
    """Find the place of a key that is named by its path (``timestamp.unit``), or of what comes nearest."""
    name, _, rest = path.partition(".")
    entries = node.entries if isinstance(node, ObjectNode) else ()
    found = next(((key, value) for key, value in entries if key.value == name), None)
    if found is None:
        return node.where
    key, value = found
    return _below(value, rest) if rest and isinstance(value, ObjectNode) else key.where


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _secret_env(node: ObjectNode, notes: _Notes) -> tuple[str, ...]:
    written = node.get("secret_env")
    if written is None or _is_empty(written):
        return ()
    names = written.items if isinstance(written, ListNode) else (written,)
    for name in names:
        if not _VARIABLE.fullmatch(_name(name)):
            # What stands here may be the secret itself, so it is not shown.
            text = "'secret_env' must name an environment variable; a secret never stands in a mapping file"
            notes.error(name.where, "secret-env", text)
    if not names:
        notes.error(written.where, "secret-env", "'secret_env' must name at least one environment variable")
    return tuple(_name(name) for name in names)


def _event_key(top: ObjectNode, verify: Verify | None, notes: _Notes) -> tuple[Computed | None, bool]:
    node = top.get("event_key")
    if node is None:
        if verify is not None and not verify.scheme.delivery_id:
            text = (
                "this scheme names no delivery, so two genuine webhooks with equal bodies count as one;"
                " set  event_key: =id  or what else tells them apart, or  event_key: none"
            )
            notes.warn(verify.where, "no-event-key", text)
        return None, True
    if isinstance(node, Scalar) and node.value == "none":
        return None, False
    return _expression(node, "event_key", Names(), notes), True


def _defaults(top: ObjectNode, notes: _Notes) -> dict[str, Value]:
    node = top.get("defaults")
    if not isinstance(node, ObjectNode):
        _refuse_unless_absent(node, "'defaults' must be an object of identifiers and 'timestamp'", notes)
        return {}
    hint = "; defaults are identifiers and 'timestamp'"
    _refuse_unknown_keys(node, _DEFAULTS, "in 'defaults'", notes, hint)
    named = [(str(key.value), value) for key, value in node.entries if key.value in _DEFAULTS]
    compiled = {name: _expression(value, name, Names(), notes) for name, value in named}
    return {name: value for name, value in compiled.items() if value is not None}


def _named_defaults(top: ObjectNode) -> frozenset[str]:
    """Name the defaults that were meant, also those whose expressions are wrong."""
    node = top.get("defaults")
    return (
        frozenset(str(key.value) for key, _ in node.entries) if isinstance(node, ObjectNode) else frozenset()
    )


def _rules(top: ObjectNode, defaults: frozenset[str], notes: _Notes) -> tuple[Rule, ...]:
    node = top.get("events")
    if not isinstance(node, ObjectNode):
        if node is None:
            notes.error(
                top.where, "events", "'events' is missing; it says which calls each event type becomes"
            )
        else:
            notes.error(
                node.where,
                "events",
                "'events' must be an object: an event type, and below it a list of calls",
            )
        return ()
    rules = tuple(_rule(key, value, defaults, notes) for key, value in node.entries)
    _warn_of_unreachable(rules, notes)
    if top.get("event_type") is None:
        _warn_of_no_type(rules, notes)
    return rules


def _rule(key: Scalar, value: Node, defaults: frozenset[str], notes: _Notes) -> Rule:
    event_types = tuple(part.strip() for part in str(key.value).split("|"))
    if "" in event_types:
        notes.error(key.where, "event-type", "an event type is missing beside '|'")
    calls = _calls(value, str(key.value), defaults, notes)
    if len(calls) > 1:
        _warn_of_ignore(calls, notes)
    return Rule(where=key.where, event_types=event_types, calls=calls)


def _calls(node: Node, event: str, defaults: frozenset[str], notes: _Notes) -> tuple[CallRule, ...]:
    if isinstance(node, ListNode):
        calls = [_call(item, defaults, notes) for item in node.items]
        return tuple(call for call in calls if call is not None)
    if _is_empty(node):
        text = f"'{event}' has no calls; write [] to ignore it, or '- call: …' below it"
        notes.error(node.where, "empty-value", text)
    else:
        notes.error(
            node.where, "calls", f"the calls of '{event}' must be a list: each starts with '- call: …'"
        )
    return ()


def _call(node: Node, defaults: frozenset[str], notes: _Notes) -> CallRule | None:
    if (wrong := _not_flat(node)) is not None:
        text = f"a call is written flat:  - call: {wrong}  and its keys below 'call', at the same indentation"
        notes.error(node.where, "call-not-flat", text)
        return None
    if not isinstance(node, ObjectNode):
        notes.error(node.where, "calls", "a call must be an object that starts with  call: …")
        return None
    spec = _spec(node, notes)
    return None if spec is None else _call_of(spec, node, defaults, notes)


def _not_flat(node: Node) -> str | None:
    """Find the call that was meant by ``- track:`` with keys under it, or beside it, or by ``- track``."""
    if isinstance(node, Scalar) and node.value in SPECS:
        return str(node.value)
    if not isinstance(node, ObjectNode) or node.get("call") is not None or not node.entries:
        return None
    key, value = node.entries[0]
    nested = isinstance(value, ObjectNode) or (isinstance(value, Scalar) and value.value is None)
    return str(key.value) if nested and key.value in SPECS else None


def _spec(node: ObjectNode, notes: _Notes) -> CallSpec | None:
    written = node.get("call")
    if written is None or _is_empty(written):
        notes.error(node.where, "missing-key", f"'call' is missing; it is one of {', '.join(SPECS)}")
        return None
    name = _name(written)
    if name not in SPECS:
        guess = did_you_mean(name, SPECS) or f"; it is one of {', '.join(SPECS)}"
        notes.error(written.where, "unknown-call", f"unknown call {name!r}{guess}")
        return None
    return SPECS[name]


def _call_of(spec: CallSpec, node: ObjectNode, defaults: frozenset[str], notes: _Notes) -> CallRule:
    hint = f"; it takes {_listed(spec.keys)}"
    if "attributes" in spec.keys:
        hint = "; an attribute stands under 'attributes'"
    _refuse_unknown_keys(node, (*_EVERY_CALL, *spec.keys), f"in call '{spec.name}'", notes, hint)
    for key, value in node.entries:
        _refuse_empty(value, f"'{key.value}'", notes)
    _check_whom(spec, node, defaults, notes)
    _check_required(spec, node, notes)
    if spec.name == "request":
        _check_body(node, notes)
    names = Names(inside_each=node.get("each") is not None)
    return CallRule(
        where=node.where,
        spec=spec,
        fields=_fields(spec, node, names, notes),
        when=_optional_expression(node, "when", names, notes),
        each=_optional_expression(node, "each", Names(), notes),
        connection=_connection(node, notes),
        region=_region(node, notes),
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no keys of its own"


def _check_whom(spec: CallSpec, node: ObjectNode, defaults: frozenset[str], notes: _Notes) -> None:
    if not spec.identifiers or defaults.intersection(spec.identifiers):
        return
    if all(node.get(name) is None for name in spec.identifiers):
        known = _listed(spec.identifiers)
        text = f"'{spec.name}' names nobody; give it one of {known}, here or under 'defaults'"
        notes.error(node.where, "no-identifier", text)


def _check_required(spec: CallSpec, node: ObjectNode, notes: _Notes) -> None:
    for name, key in spec.keys.items():
        if key.required and node.get(name) is None:
            text = f"'{spec.name}' needs a '{name}', e.g.  {name}: {key.example}"
            notes.error(node.where, "missing-key", text)


def _check_body(node: ObjectNode, notes: _Notes) -> None:
    """A raw request has one body: data, or a form with files."""
    if node.get("data") is not None and (node.get("form") is not None or node.get("files") is not None):
        text = "'data' cannot stand beside 'form' or 'files': a request has one body"
        notes.error(_at(node, "data"), "two-bodies", text)
    files, names = node.get("files"), node.get("file_names")
    known = {key.value for key, _ in files.entries} if isinstance(files, ObjectNode) else set()
    for key, _ in names.entries if isinstance(names, ObjectNode) else ():
        if key.value not in known:
            notes.error(key.where, "file-names", f"there is no file '{key.value}' under 'files'")


def _fields(spec: CallSpec, node: ObjectNode, names: Names, notes: _Notes) -> dict[str, Value]:
    fields = {}
    for name, key in spec.keys.items():
        written = node.get(name)
        value = None if written is None else _compiled(key, written, name, names, notes)
        if value is not None:
            fields[name] = value
    return fields


def _expression(node: Node, name: str, names: Names, notes: _Notes) -> Computed | None:
    """Compile what has to be an expression."""
    if isinstance(node, Scalar) and _is_expression(node):
        return _computed(node, names, notes)
    if not _is_empty(node):
        text = f"'{name}' must be an expression{_suggestion(node, name)}"
        notes.error(node.where, "not-an-expression", text)
    return None


def _optional_expression(node: ObjectNode, name: str, names: Names, notes: _Notes) -> Computed | None:
    written = node.get(name)
    return None if written is None else _expression(written, name, names, notes)


def _is_expression(node: Scalar) -> bool:
    return isinstance(node.value, str) and node.value.startswith("=")


def _computed(node: Scalar, names: Names, notes: _Notes) -> Computed | None:
    text = str(node.value)[1:]
    try:
        return Computed(where=node.where, expression=compile_expression(text, names))
    except BadExpression as error:
        notes.error(_culprit(node, error.offset, notes), error.code, error.problem)
        return None


def _culprit(node: Scalar, offset: int, notes: _Notes) -> Where:
    """Point into an expression whose text is in the file as it is; of any other, point at its start."""
    text = str(node.value)
    line = notes.line(node.where.line)[node.where.column - 1 :]
    if line[:1] in ("|", ">"):
        return _culprit_in_block(node.where, text, offset, notes)
    quote = 1 if line[:1] in ("'", '"') else 0
    if not line.startswith(text, quote):
        return node.where
    return replace(node.where, column=node.where.column + quote + 1 + offset)


def _culprit_in_block(where: Where, text: str, offset: int, notes: _Notes) -> Where:
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
    if not isinstance(node, Scalar):
        return "; it is text that starts with ="
    if node.value is None:
        return "; it is text that starts with ="
    if not isinstance(node.value, str):
        return f"; a constant is written  {name}: =`{json.dumps(node.value)}`"
    template = _TEMPLATE.fullmatch(node.value)
    guess = (template.group(1) or template.group(2) or "") if template else node.value
    if not _compiles(guess) or re.search(r": | #|\n", guess):
        return "; it is text that starts with ="
    return f"; did you mean  {name}: ={guess}"


def _compiles(text: str) -> bool:
    try:
        compile_expression(text)
    except BadExpression:
        return False
    return True


def _text(node: Node, name: str, names: Names, notes: _Notes) -> Value | None:
    """Compile the name of an event or the address of a page: an expression, or the text itself."""
    if isinstance(node, Scalar) and _is_expression(node):
        return _computed(node, names, notes)
    literal = node
    if isinstance(node, ObjectNode) and len(node.entries) == 1:
        literal = node.get("literal") or node
    if isinstance(literal, Scalar) and (written := _written(literal.value)):
        return Constant(where=node.where, value=written)
    if not _is_empty(literal):
        notes.error(node.where, "not-text", f"'{name}' must be text that is not empty, or an expression")
    return None


def _written(value: JSON) -> str:
    """Write out a text or a number as a text; anything else gives ""."""
    if isinstance(value, str):
        return value
    return "" if isinstance(value, bool) or not isinstance(value, int | float) else number_text(value)


def _note(node: Node, name: str, names: Names, notes: _Notes) -> Value | None:
    """Compile what is fixed when the file is read."""
    del names
    if isinstance(node, Scalar) and isinstance(node.value, str) and not _is_expression(node):
        return Constant(where=node.where, value=node.value)
    if isinstance(node, Scalar) and _is_expression(node):
        text = (
            f"'{name}' must be literal text: it is fixed when the file is read, so it cannot be an expression"
        )
        notes.error(node.where, "not-literal", text)
    elif not _is_empty(node):
        notes.error(node.where, "not-literal", f"'{name}' must be text; quote what is meant as text")
    return None


def _optional_note(node: ObjectNode, name: str, notes: _Notes) -> str | None:
    written = node.get(name)
    note = None if written is None else _note(written, name, Names(), notes)
    return str(note.value) if isinstance(note, Constant) else None


def _attributes(node: Node, name: str, names: Names, notes: _Notes) -> Value | None:
    if isinstance(node, ObjectNode):
        entries = [(str(key.value), _value(value, names, notes)) for key, value in node.entries]
        for key, _ in node.entries:
            if not key.value:
                notes.error(key.where, "attribute-name", "an attribute needs a name")
        return ObjectValue(
            where=node.where, entries=tuple((key, value) for key, value in entries if value is not None)
        )
    if isinstance(node, Scalar) and _is_expression(node):
        text = f"'{name}' lists attributes one by one; a whole object is taken by  {name}_from: {node.value}"
    else:
        text = f"'{name}' must be an object: the name of each attribute, and its value"
    if not _is_empty(node):
        notes.error(node.where, "attributes", text)
    return None


def _attributes_from(node: Node, name: str, names: Names, notes: _Notes) -> Value | None:
    computed = _expression(node, name, names, notes)
    for attribute in sorted(_named_in(computed.expression.text)) if computed is not None else ():
        if is_steering(attribute):
            text = f"'{attribute}' is never taken out of '{name}', for it steers Customer.io; write it"
            notes.warn(node.where, "steering-attribute", f"{text} under 'attributes'")
    return computed


_SELECTED = re.compile(
    r"""'(?P<text>[^']*)'|`[^`]*`|(?P<open>[{(\[])|(?P<close>[)}\]])|"?(?P<key>[\w.]+)"?\s*:"""
)


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


def _value(node: Node, names: Names, notes: _Notes) -> Value | None:
    match node:
        case Scalar():
            return _scalar(node, names, notes)
        case ListNode():
            items = [_value(item, names, notes) for item in node.items]
            return ListValue(where=node.where, items=tuple(item for item in items if item is not None))
        case ObjectNode():
            return _object(node, names, notes)


def _scalar(node: Scalar, names: Names, notes: _Notes) -> Value | None:
    if _is_expression(node):
        return _computed(node, names, notes)
    if node.empty:
        return None
    if isinstance(node.value, str):
        _warn_of_path(node, node.value, notes)
    return Constant(where=node.where, value=node.value)


def _object(node: ObjectNode, names: Names, notes: _Notes) -> Value | None:
    literal, or_null = node.get("literal"), node.get("or_null")
    if (literal is not None or or_null is not None) and len(node.entries) > 1:
        marker = "or_null" if literal is None else "literal"
        text = (
            f"'{marker}' stands alone in its braces; an object with such a key is written {{literal: {{…}}}}"
        )
        notes.error(node.where, "marker", text)
        return None
    if literal is not None:
        return Constant(where=node.where, value=document.plain(literal))
    if or_null is not None:
        computed = _expression(or_null, "or_null", names, notes)
        return None if computed is None else OrNull(where=node.where, computed=computed)
    entries = [(str(key.value), _value(value, names, notes)) for key, value in node.entries]
    return ObjectValue(
        where=node.where, entries=tuple((key, value) for key, value in entries if value is not None)
    )


def _person(node: Node, name: str, names: Names, notes: _Notes, key: Key) -> Value | None:
    """Compile whom a merge is about: an object with one identifier."""
    if not isinstance(node, ObjectNode):
        if not _is_empty(node):
            text = f"'{name}' must be an object with one identifier, e.g.  {name}: {key.example}"
            notes.error(node.where, "person", text)
        return None
    member = _member(node, f"in '{name}'", names, notes, key)
    if len(node.entries) != 1:
        text = f"'{name}' must have exactly one of {_listed(key.keys)}"
        notes.error(node.where, "person", text)
    return member


def _members(node: Node, name: str, names: Names, notes: _Notes, key: Key) -> Value | None:
    """Compile a list of objects that have keys of their own, or the expression that gives one."""
    if isinstance(node, Scalar) and _is_expression(node):
        return _computed(node, names, notes)
    if isinstance(node, ListNode):
        items = [_member(item, f"in '{name}'", names, notes, key) for item in node.items]
        return ListValue(where=node.where, items=tuple(item for item in items if item is not None))
    if not _is_empty(node):
        text = f"'{name}' must be a list, each item with {_listed(key.keys)}; or an expression that gives one"
        notes.error(node.where, "members", text)
    return None


def _member(node: Node, place: str, names: Names, notes: _Notes, key: Key) -> ObjectValue | None:
    if not isinstance(node, ObjectNode):
        if not _is_empty(node):
            notes.error(node.where, "members", f"each item {place} is an object with {_listed(key.keys)}")
        return None
    _refuse_unknown_keys(node, key.keys, place, notes, f"; it takes {_listed(key.keys)}")
    for name, own in key.keys.items():
        if own.required and node.get(name) is None:
            text = f"'{name}' is missing {place}, e.g.  {name}: {own.example}"
            notes.error(node.where, "missing-key", text)
    compiled = (
        (name, _compiled(own, written, name, names, notes))
        for name, own in key.keys.items()
        if (written := node.get(name)) is not None
    )
    return ObjectValue(
        where=node.where, entries=tuple((name, value) for name, value in compiled if value is not None)
    )


def _values(node: Node, name: str, names: Names, notes: _Notes, _key: Key) -> Value | None:
    """Compile an object whose names stand in the file, and whose values may be expressions."""
    if not isinstance(node, ObjectNode):
        _refuse_unless_absent(node, f"'{name}' must be an object of names and values", notes)
        return None
    compiled = []
    for key, written in node.entries:
        # A file's name looks like a path, and is none.
        is_literal = isinstance(written, Scalar) and not _is_expression(written) and not written.empty
        plain = document.plain(written) if is_literal else None
        value = Constant(where=written.where, value=plain) if is_literal else _value(written, names, notes)
        if value is not None:
            compiled.append((str(key.value), value))
        if name == "headers":
            literal = value.value if isinstance(value, Constant) else ""
            if problem := header_problem(str(key.value), literal):
                notes.error(key.where, "header", f"the header '{key.value}' {problem}")
    return ObjectValue(where=node.where, entries=tuple(compiled))


def _data(node: Node, _name: str, names: Names, notes: _Notes, _key: Key) -> Value | None:
    return _value(node, names, notes)


def _seconds(node: Node, name: str, _names: Names, notes: _Notes, _key: Key) -> Value | None:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
        return Constant(where=node.where, value=value)
    text = f"'{name}' must be a number of seconds, over 0 and at most {MAX_TIMEOUT:g}"
    _refuse_unless_absent(node, text, notes)
    return None


def _flag(node: Node, name: str, _names: Names, notes: _Notes, _key: Key) -> Value | None:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return Constant(where=node.where, value=node.value)
    _refuse_unless_absent(node, f"'{name}' must be true or false", notes)
    return None


def _retry(node: Node, name: str, _names: Names, notes: _Notes, _key: Key) -> Value | None:
    if not isinstance(node, ObjectNode):
        _refuse_unless_absent(node, f"'{name}' must be an object of {_listed(RETRY_SETTINGS)}", notes)
        return None
    _refuse_unknown_keys(node, RETRY_SETTINGS, "in 'retry'", notes, f"; it takes {_listed(RETRY_SETTINGS)}")
    for key, written in node.entries:
        setting = str(key.value)
        if setting in RETRY_SETTINGS and not _is_empty(written):
            value = document.plain(written)
            if problem := retry_problem(setting, value):
                notes.error(written.where, "retry", f"'{setting}' {problem}")
    return Constant(where=node.where, value=document.plain(node))


_Compile: TypeAlias = Callable[[Node, str, Names, _Notes, Key], Value | None]


def _plainly(compile_: Callable[[Node, str, Names, _Notes], Value | None]) -> _Compile:
    """Make the compilation of what is no further described by its key one of those that are."""
    return lambda node, name, names, notes, _key: compile_(node, name, names, notes)


_COMPILE: dict[Kind, _Compile] = {
    Kind.IDENTIFIER: _plainly(_expression),
    Kind.PERSON: _person,
    Kind.REFERENCE: _plainly(_expression),
    Kind.TEXT: _plainly(_text),
    Kind.EVENT_ID: _plainly(_expression),
    Kind.TIMESTAMP: _plainly(_expression),
    Kind.ATTRIBUTES: _plainly(_attributes),
    Kind.TEXTS: _plainly(_attributes),
    Kind.OBJECT: _plainly(_attributes_from),
    Kind.MEMBERS: _members,
    Kind.VALUES: _values,
    Kind.DATA: _data,
    Kind.NOTE: _plainly(_note),
    Kind.SECONDS: _seconds,
    Kind.FLAG: _flag,
    Kind.RETRY: _retry,
}


def _compiled(key: Key, node: Node, name: str, names: Names, notes: _Notes) -> Value | None:
    value = _COMPILE[key.kind](node, name, names, notes, key)
    check = _LITERAL_CHECKS.get(name)
    if check is not None and isinstance(value, Constant) and (problem := check(str(value.value))):
        notes.error(node.where, name.replace("_", "-"), f"'{name}' {problem}")
        return None
    return value


def _one_of(known: tuple[str, ...]) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        return None if text in known else f"must be one of {_listed(known)}{did_you_mean(text, known)}"

    return check


# What is literal text can be judged before any webhook comes.
_LITERAL_CHECKS: dict[str, Callable[[str], str | None]] = {
    "path": path_problem,
    "method": _one_of(METHODS),
    "platform": _one_of(PLATFORMS),
    "response_type": _one_of(RESPONSE_TYPES),
}


_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[\d+\])+", re.ASCII)
_MARKS = re.compile(r"\{\{.*\}\}|\$\{.*\}", re.DOTALL)


def _warn_of_path(node: Scalar, text: str, notes: _Notes) -> None:
    if _PATH.fullmatch(text):
        said = f"'{text}' is literal text but looks like a path; write ={text}, or {{literal: {text}}}"
        notes.warn(node.where, "looks-like-a-path", said)
    elif _MARKS.search(text):
        said = (
            "this is literal text, in which nothing is replaced; write an expression: =format('Order {}', id)"
        )
        notes.warn(node.where, "looks-like-a-template", said)


def _warn_of_ignore(calls: tuple[CallRule, ...], notes: _Notes) -> None:
    """An `ignore` may be taken for the end of the list, which it is not."""
    if all(call.when is not None for call in calls if call.spec.name != "ignore"):
        return
    for call in calls:
        if call.spec.name == "ignore":
            text = "'ignore' does not stop the other calls of this event; give those a 'when'"
            notes.warn(call.where, "ignore-beside-calls", text)


def _warn_of_unreachable(rules: tuple[Rule, ...], notes: _Notes) -> None:
    earlier: list[tuple[str, Where]] = []
    for rule in rules:
        for event_type in rule.event_types:
            before = next((before for before in earlier if _covers(before[0], event_type)), None)
            if before is not None:
                text = f"'{event_type}' never gets here: '{before[0]}' on line {before[1].line} comes first"
                notes.warn(rule.where, "shadowed-event", text)
            earlier.append((event_type, rule.where))


def _covers(earlier: str, later: str) -> bool:
    """Tell whether all that fits *later* fits *earlier*: only a "*" of the one takes in one of the other."""
    return _glob(earlier).matches(later) if "*" in earlier else earlier == later


def _warn_of_no_type(rules: tuple[Rule, ...], notes: _Notes) -> None:
    for rule in rules:
        if "*" not in rule.event_types:
            text = f"'{rule.event_types[0]}' never matches: without an 'event_type' only \"*\" does"
            notes.warn(rule.where, "no-event-type", text)


def _glob(event_type: str) -> Glob:
    return Glob(pieces=tuple(event_type.split("*")))


def _routes(rules: tuple[Rule, ...]) -> Routes:
    literals: dict[str, int] = {}
    globs = []
    for number, rule in enumerate(rules):
        for event_type in rule.event_types:
            if "*" in event_type:
                globs.append((_glob(event_type), number))
            else:
                literals.setdefault(event_type, number)
    any_type = next((number for number, rule in enumerate(rules) if "*" in rule.event_types), None)
    return Routes(literals=literals, globs=tuple(globs), any_type=any_type)


def _tests(top: ObjectNode, notes: _Notes) -> tuple[MappingTest, ...]:
    node = top.get("tests")
    if isinstance(node, ListNode):
        tests = [_test(item, notes) for item in node.items]
        return tuple(test for test in tests if test is not None)
    _refuse_unless_absent(node, "'tests' must be a list: each starts with '- name: …'", notes)
    return ()


def _test(node: Node, notes: _Notes) -> MappingTest | None:
    if not isinstance(node, ObjectNode):
        notes.error(node.where, "test", "a test must be an object that starts with  name: …")
        return None
    _refuse_unknown_keys(node, _TEST, "in a test", notes)
    body, payload, name = node.get("body"), node.get("payload"), _test_name(node, notes)
    if (body is None) == (payload is None):
        notes.error(node.where, "test", "a test needs either 'body', or 'payload' with the name of a file")
    expect, error = _expectation(node, notes)
    return MappingTest(
        where=node.where,
        name=name,
        body=None if body is None else document.plain(body),
        payload=None if payload is None else _test_text(payload, "payload", notes),
        headers=_test_texts(node, "headers", notes),
        query=_test_texts(node, "query", notes),
        received_at=_test_time(node, notes),
        expect=expect,
        error=error,
    )


def _test_name(node: ObjectNode, notes: _Notes) -> str:
    written = node.get("name")
    if written is None:
        notes.error(node.where, "test", "a test needs a 'name' that says what it shows")
        return ""
    return _test_text(written, "name", notes)


def _test_text(node: Node, name: str, notes: _Notes) -> str:
    """Read text out of a test, where everything is data: a number or a word is text as it was written."""
    if isinstance(node, Scalar) and node.value is not None:
        return node.value if isinstance(node.value, str) else json.dumps(node.value)
    if not _is_empty(node):
        notes.error(node.where, "test", f"'{name}' must be text")
    return ""


def _test_texts(node: ObjectNode, name: str, notes: _Notes) -> dict[str, str]:
    written = node.get(name)
    if isinstance(written, ObjectNode):
        return {str(key.value): _test_text(value, str(key.value), notes) for key, value in written.entries}
    _refuse_unless_absent(written, f"'{name}' must be an object of names and texts", notes)
    return {}


def _test_time(node: ObjectNode, notes: _Notes) -> int:
    written = node.get("received_at")
    if isinstance(written, Scalar) and type(written.value) is int:
        return written.value
    _refuse_unless_absent(written, "'received_at' must be whole unix seconds", notes)
    return TEST_RECEIVED_AT


def _expectation(node: ObjectNode, notes: _Notes) -> tuple[tuple[dict[str, JSON], ...] | None, str | None]:
    written = node.get("expect")
    match written:
        case None:
            notes.error(
                node.where, "test", "a test needs 'expect': a list of calls ([] for none), or {error: text}"
            )
        case ListNode():
            return tuple(_expected_call(item, notes) for item in written.items), None
        case ObjectNode():
            _refuse_unknown_keys(
                written, ("error",), "in 'expect'", notes, "; a list of calls starts each with '- call: …'"
            )
            error = written.get("error")
            return None, "" if error is None else _test_text(error, "error", notes)
        case _:
            _refuse_unless_absent(
                written, "'expect' must be a list of calls ([] for none), or {error: text}", notes
            )
    return (), None


def _expected_call(node: Node, notes: _Notes) -> dict[str, JSON]:
    data = document.plain(node)
    if isinstance(data, dict) and data.get("call") in CALLS:
        return data
    notes.error(node.where, "test", f"an expected call must be an object with  call: {'|'.join(CALLS)}")
    return {}


def _refuse_unless_absent(node: Node | None, text: str, notes: _Notes) -> None:
    """Refuse what is not of the kind it has to be; an empty value has been refused as such."""
    if node is not None and not _is_empty(node):
        notes.error(node.where, "wrong-kind", text)


def _refuse_empty(node: Node, label: str, notes: _Notes) -> None:
    match node:
        case Scalar():
            if node.empty:
                text = f"{label} has no value; write null if a null is meant, or remove it"
                notes.error(node.where, "empty-value", text)
        case ListNode():
            for item in node.items:
                _refuse_empty(item, "this item", notes)
        case ObjectNode():
            for key, value in node.entries:
                _refuse_empty(value, f"'{key.value}'", notes)


def _refuse_unknown_keys(
    node: ObjectNode, known: Iterable[str], place: str, notes: _Notes, hint: str = ""
) -> None:
    for key, _ in node.entries:
        name = str(key.value)
        if name not in known:
            text = f"unknown key {name!r} {place}{did_you_mean(name, known) or hint}"
            notes.error(key.where, "unknown-key", text)
