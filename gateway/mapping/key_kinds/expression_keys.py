"""Keys that take only an expression."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.customerio.calls.attributes import AttributeRules
from gateway.customerio.limits import EARLIEST, LATEST, is_moment
from gateway.customerio.wire import plain_text
from gateway.errors import ExpressionError, Location, TranslationError
from gateway.event import JSON
from gateway.mapping.diagnostics import Diagnostics, is_null
from gateway.mapping.evaluate import EvaluationContext, evaluate, text_of
from gateway.mapping.expressions import Names
from gateway.mapping.functions import kind
from gateway.mapping.identifying_values import EVENT_ID, PERSON, REFERENCE, read_identifying
from gateway.mapping.key_kinds.key_kind import EXPRESSION, KeyKind, Schema, required_text
from gateway.mapping.located_expression import read_expression
from gateway.mapping.model import Constant, Value
from gateway.mapping.yaml_nodes import Node


class _ExpressionKey(KeyKind):
    """A key that takes only an expression: a constant would be the same for every event."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        return read_expression(node, self.name, names, diagnostics)

    def schema(self) -> Schema:
        return EXPRESSION


class OptionalIdKey(_ExpressionKey):
    """The id of an event, or an identifier of a person. Null or empty is None: one is made, or another one may do."""

    identifying = EVENT_ID

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        return read_identifying(node, self.name, self.identifying, names, diagnostics)

    def evaluate(self, value: Value, context: EvaluationContext) -> str | None:
        return text_of(value, self.name, context) or None


class IdentifierKey(OptionalIdKey):
    """An identifier of a person. A null that is written says that the call has none, not even that of `defaults`."""

    identifying = PERSON

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if is_null(node):
            return Constant(location=node.location, value=None)
        return super().compile(node, names, diagnostics)

    def schema(self) -> Schema:
        return {**EXPRESSION, "type": ["string", "null"]}


class ReferenceKey(_ExpressionKey):
    """The id of something else than a person, which the call cannot do without, or without another one."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        return read_identifying(node, self.name, REFERENCE, names, diagnostics)

    def evaluate(self, value: Value, context: EvaluationContext) -> str | None:
        if self.key.always_required:
            return required_text(value, self.name, context)
        return text_of(value, self.name, context) or None


class TimestampKey(_ExpressionKey):
    """A moment in unix seconds. Customer.io silently replaces one that it cannot read with the present."""

    def evaluate(self, value: Value, context: EvaluationContext) -> int | None:
        moment = evaluate(value, self.name, context)
        if moment is None or is_moment(moment):
            return moment
        if type(moment) is not int and type(moment) is not float:
            problem = f"must be unix seconds, got {kind(moment)}; write =unix(…)"
        elif moment > LATEST:
            problem = "is too large for unix seconds; if it is in milliseconds, write =unix(…)"
        elif moment < EARLIEST:
            problem = "is too small for unix seconds of today: it lies before September 2001"
        elif moment != int(moment):
            problem = "must be whole unix seconds; write =unix(…)"
        else:
            return int(moment)
        raise TranslationError(value.location, self.name, problem)


class ObjectKey(_ExpressionKey):
    """`attributes_from`: an object out of the payload, without nulls and names that steer Customer.io."""

    @property
    def _rules(self) -> AttributeRules:
        assert self.key.attributes is not None, "the keys of attributes say what Customer.io takes"
        return self.key.attributes

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        computed = read_expression(node, self.name, names, diagnostics)
        for attribute in sorted(_certain_names(computed.expression.text)) if computed is not None else ():
            if self._rules.steers(attribute):
                text = f"'{attribute}' is never taken out of '{self.name}', for it steers Customer.io; write it"
                diagnostics.warn(node.location, "steering-attribute", f"{text} under 'attributes'")
        return computed

    def evaluate(self, value: Value, context: EvaluationContext) -> dict[str, JSON]:
        whole = evaluate(value, self.name, context)
        if whole is None:
            return {}
        if not isinstance(whole, dict):
            raise TranslationError(value.location, self.name, f"needs an object, got {kind(whole)}")
        taken: dict[str, JSON] = {
            name: item for name, item in whole.items() if item is not None and not self._rules.steers(name)
        }
        if context.trace is not None:
            for name in (name for name, item in whole.items() if item is not None and name not in taken):
                text = f"'{name}' is left out: it steers Customer.io, and is taken from 'attributes' only"
                context.trace.note(text, value.location)
        return taken


class ObjectOfTextsKey(ObjectKey):
    """The same where all attributes have to be texts; numbers and booleans are written out."""

    def evaluate(self, value: Value, context: EvaluationContext) -> dict[str, JSON]:
        return written_out(super().evaluate(value, context), self.name, value.location)


def written_out(attributes: Mapping[str, JSON], name: str, location: Location) -> dict[str, JSON]:
    """Return attributes with numbers and booleans as text. Raises TranslationError: a number has too many digits."""
    try:
        return {
            key: plain_text(value) if isinstance(value, bool | int | float) else value
            for key, value in attributes.items()
        }
    except ExpressionError as error:
        raise TranslationError(location, name, str(error)) from error


_SELECTED = re.compile(r"""'(?P<text>[^']*)'|`[^`]*`|(?P<open>[{(\[])|(?P<close>[)}\]])|"?(?P<key>[\w.]+)"?\s*:""")


def _certain_names(expression: str) -> set[str]:
    """Return the names that an expression certainly gives: it is ``{name: …}`` or ``pick(…, ['name'])``."""
    selects = expression.lstrip().startswith("{")
    picks = expression.lstrip().startswith("pick(")
    depth, names = 0, set()
    for match in _SELECTED.finditer(expression):
        depth += bool(match["open"]) - bool(match["close"])
        if selects and depth == 1 and match["key"]:
            names.add(match["key"])
        if picks and depth == 2 and match["text"]:
            names.add(match["text"])
    return names
