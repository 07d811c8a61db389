"""Keys that take literal text, numbers, booleans or settings."""

from __future__ import annotations

from gateway.customerio.calls.raw_request import RETRY_SETTINGS, retry_problem
from gateway.customerio.limits import MAX_TIMEOUT
from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import Diagnostics, is_empty, listed
from gateway.mapping.evaluate import EvaluationContext, text_of
from gateway.mapping.expressions import Names
from gateway.mapping.identifying_values import REFERENCE, refuse_lossy
from gateway.mapping.key_kinds.key_kind import EXPRESSION, LITERAL_MARKER, LITERAL_TEXT, KeyKind, Schema, required_text
from gateway.mapping.located_expression import is_expression, read_computed, warn_of_template
from gateway.mapping.model import Constant, Value
from gateway.mapping.value_nodes import read_literal_text
from gateway.mapping.yaml_nodes import Node, ObjectNode, Scalar
from gateway.text import number_text


class TextKey(KeyKind):
    """Text: literal or an expression."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if is_expression(node):
            computed = read_computed(node, names, diagnostics)
            if self.key.identifying and computed is not None and isinstance(node, Scalar):
                refuse_lossy(node, self.name, REFERENCE, computed.expression.origins, diagnostics)
            return computed
        literal = node
        if isinstance(node, ObjectNode) and len(node.entries) == 1:
            literal = node.get("literal") or node
        text = literal.value if isinstance(literal, Scalar) else None
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = number_text(text)
        if text and isinstance(text, str):
            if isinstance(node, Scalar):
                warn_of_template(node, text, diagnostics)
            return _checked_constant(self, node, text, diagnostics)
        if not is_empty(literal):
            problem = f"'{self.name}' must be text that is not empty, or an expression"
            diagnostics.error(node.location, "not-text", problem)
        return None

    def evaluate(self, value: Value, context: EvaluationContext) -> str | None:
        if self.key.always_required:
            return required_text(value, self.name, context, instead="write =not_null(…, 'another text'), or ")
        return text_of(value, self.name, context) or None

    def schema(self) -> Schema:
        literal: Schema = {"type": ["string", "number"], "minLength": 1}
        if self.key.choices:
            literal = {"enum": [*self.key.choices]}
        marked = {
            "type": "object",
            "properties": {"literal": {**LITERAL_MARKER, **literal}},
            "required": ["literal"],
            "additionalProperties": False,
        }
        return {"anyOf": [literal, EXPRESSION, marked]}


class _ConstantKey(KeyKind):
    """A key that is fixed when the file is read."""

    def evaluate(self, value: Value, context: EvaluationContext) -> JSON:
        del context
        assert isinstance(value, Constant), "the compiler takes literals only"
        return value.value


class NoteKey(_ConstantKey):
    """Literal text."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        del names
        text = read_literal_text(node, self.name, diagnostics)
        return None if text is None else _checked_constant(self, node, text, diagnostics)

    def schema(self) -> Schema:
        return {"enum": [*self.key.choices]} if self.key.choices else LITERAL_TEXT


def _checked_constant(key: KeyKind, node: Node, text: str, diagnostics: Diagnostics) -> Constant | None:
    """Check literal text as far as the key says what is right: it can be judged before any webhook comes."""
    choices, check = key.key.choices, key.key.checker
    problem = next((violation.problem for violation in check(key.name, text)), None) if check is not None else None
    if choices and text not in choices:
        problem = f"must be one of {listed(choices)}{did_you_mean(text, choices)}"
    if problem is None:
        return Constant(location=node.location, value=text)
    diagnostics.error(node.location, key.name.replace("_", "-"), f"'{key.name}' {problem}")
    return None


class SecondsKey(_ConstantKey):
    """A literal number of seconds."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        del names
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT:
            return Constant(location=node.location, value=value)
        text = f"'{self.name}' must be a number of seconds, over 0 and at most {MAX_TIMEOUT:g}"
        diagnostics.refuse_unless_absent(node, text)
        return None

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT}


class FlagKey(_ConstantKey):
    """True or false."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        del names
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return Constant(location=node.location, value=node.value)
        diagnostics.refuse_unless_absent(node, f"'{self.name}' must be true or false")
        return None

    def schema(self) -> Schema:
        return {"type": "boolean"}


class RetryKey(_ConstantKey):
    """An object of literal settings."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        del names
        if not isinstance(node, ObjectNode):
            text = f"'{self.name}' must be an object of {listed(RETRY_SETTINGS)}"
            diagnostics.refuse_unless_absent(node, text)
            return None
        hint = f"; it takes {listed(RETRY_SETTINGS)}"
        diagnostics.refuse_unknown_keys(node, RETRY_SETTINGS, f"in '{self.name}'", hint)
        for key, setting in node.entries:
            name = str(key.value)
            if name not in RETRY_SETTINGS or is_empty(setting):
                continue  # reported already
            if problem := retry_problem(name, yaml_nodes.plain(setting)):
                diagnostics.error(setting.location, "retry", f"'{name}' {problem}")
        return Constant(location=node.location, value=yaml_nodes.plain(node))

    def schema(self) -> Schema:
        settings: dict[str, Schema] = {}
        for name, setting in RETRY_SETTINGS.items():
            bounds = {} if setting.type is bool else {"minimum": setting.least, "maximum": setting.most}
            type_name = "boolean" if setting.type is bool else "integer"
            settings[name] = {"description": setting.about, "type": type_name, **bounds}
        return {"type": "object", "properties": settings, "additionalProperties": False}
