"""Keys that take objects and lists: attributes, people, and what a raw request sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.customerio.calls import Kind
from gateway.customerio.calls.raw_request import header_problem, value_problem
from gateway.customerio.wire import plain_text
from gateway.errors import Location, TranslationError
from gateway.event import JSON
from gateway.mapping.diagnostics import Diagnostics, is_null, listed
from gateway.mapping.evaluate import EvaluationContext, as_text, evaluate, resolve, text_of
from gateway.mapping.expressions import Names
from gateway.mapping.functions import kind
from gateway.mapping.identifying_values import PERSON, REFERENCE, refuse_equal
from gateway.mapping.key_kinds.expression_keys import written_out
from gateway.mapping.key_kinds.key_kind import ANY_VALUE, KeyKind, Keys, Schema, compile_keys, object_schema
from gateway.mapping.located_expression import is_expression, read_computed
from gateway.mapping.model import Computed, Constant, ListValue, ObjectValue, OrNull, Value
from gateway.mapping.value_nodes import read_entries, read_value
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar
from gateway.text import HEADER_NAME


class DataKey(KeyKind):
    """Any value; null is sent."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        return read_value(node, names, diagnostics)

    def schema(self) -> Schema:
        # The types are listed so that an editor writes a colon after the key.
        return {"type": ["object", "array", "string", "number", "boolean", "null"], "allOf": [ANY_VALUE]}


class _NamedValuesKey(KeyKind):
    """An object whose names stand in the file, and whose values may be expressions."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if not isinstance(node, ObjectNode):
            diagnostics.refuse_unless_absent(node, f"'{self.name}' must be an object of names and values")
            return None
        entries = []
        for key, item in node.entries:
            if isinstance(item, Scalar) and not is_expression(item) and not item.empty:
                # Not by read_value, which warns of paths: the name of a file looks like one.
                value: Value | None = Constant(location=item.location, value=item.value)
            else:
                value = read_value(item, names, diagnostics)
            if value is not None:
                entries.append((str(key.value), value))
                self._check(key, value, diagnostics)
        return ObjectValue(location=node.location, entries=tuple(entries))

    def _check(self, key: Scalar, value: Value, diagnostics: Diagnostics) -> None:
        """Report what is wrong with one value for every webhook."""

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": ANY_VALUE}


class ParametersKey(_NamedValuesKey):
    """Parameters of a URL or a form: texts, numbers, booleans, or lists of them."""

    def _check(self, key: Scalar, value: Value, diagnostics: Diagnostics) -> None:
        if problem := value_problem(_known_part(value)):
            diagnostics.error(value.location, "wrong-kind", f"'{key.value}' in '{self.name}' {problem}")


class FilesKey(_NamedValuesKey):
    """Texts by name: contents of files, or their names. What is null is left out."""

    def evaluate(self, value: Value, context: EvaluationContext) -> dict[str, str]:
        return _texts_of(value, self.name, context)


class HeadersKey(FilesKey):
    """Headers by name."""

    def _check(self, key: Scalar, value: Value, diagnostics: Diagnostics) -> None:
        if problem := header_problem(str(key.value), _known_part(value)):
            diagnostics.error(key.location, "header", f"the header '{key.value}' {problem}")

    def schema(self) -> Schema:
        return {**super().schema(), "propertyNames": {"pattern": f"^{HEADER_NAME.pattern}$"}}


def _known_part(value: Value) -> JSON:
    """Return what is known of a value before any webhook comes, with "" for what an expression gives."""
    match value:
        case Constant():
            return value.value
        case ObjectValue():
            return {name: _known_part(item) for name, item in value.entries}
        case ListValue():
            return [_known_part(item) for item in value.items]
        case _:
            return ""


def _texts_of(value: Value, name: str, context: EvaluationContext) -> dict[str, str]:
    assert isinstance(value, ObjectValue), "the compiler takes objects only"
    texts = {key: text_of(item, f"{name}.{key}", context) for key, item in value.entries}
    return {key: text for key, text in texts.items() if text is not None}


class AttributesKey(KeyKind):
    """Attributes, listed one by one. One whose expression gives null is left out."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if isinstance(node, ObjectNode):
            attributes = read_entries(node, names, diagnostics)
            unnamed = [key for key, _ in node.entries if not key.value]
            for key in unnamed:
                diagnostics.error(key.location, "attribute-name", "an attribute needs a name")
            if not unnamed:
                self._check_known(attributes, diagnostics)
            return attributes
        text = f"'{self.name}' must be an object: the name of each attribute, and its value"
        if isinstance(node, Scalar) and is_expression(node):
            text = (
                f"'{self.name}' lists attributes one by one; a whole object is taken by  {self.name}_from: {node.value}"
            )
        diagnostics.refuse_unless_absent(node, text, "attributes")
        return None

    def _check_known(self, attributes: ObjectValue, diagnostics: Diagnostics) -> None:
        """Report what Customer.io would refuse or misunderstand for every webhook."""
        if self.key.attributes is None or self.key.check is None:
            return
        values = dict(attributes.entries)
        known = {name: self._sent(_known_part(value)) for name, value in values.items()}
        computed = {name for name, value in values.items() if isinstance(value, Computed | OrNull)}
        for violation in self.key.attributes.check(self.name, known, computed):
            name = violation.field.removeprefix(f"{self.name}.")
            location = values[name].location if name in values else attributes.location
            diagnostics.error(location, "attribute", f"'{name}' {violation.problem}")

    def _sent(self, value: JSON) -> JSON:
        return value

    def evaluate(self, value: Value, context: EvaluationContext) -> Any:
        return resolve(value, self.name, context)

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"minLength": 1},
            "additionalProperties": ANY_VALUE,
            "errorMessage": "Attributes are listed one by one; a whole object is taken by  attributes_from: =…",
        }


class TextAttributesKey(AttributesKey):
    """Attributes that must be texts; numbers and booleans are written out."""

    def _sent(self, value: JSON) -> JSON:
        return plain_text(value) if isinstance(value, bool | int | float) else value

    def evaluate(self, value: Value, context: EvaluationContext) -> Any:
        return written_out(super().evaluate(value, context), self.name, value.location)


#: The keys of attributes that are taken as a whole object.
WHOLE_OBJECT_KEYS = ("attributes_from", "fit")


def merge_whole_object(
    fields: dict[str, Any], entries: Mapping[str, Value], keys: Keys, context: EvaluationContext
) -> None:
    """Replace what `attributes_from` and `fit` gave by attributes. Those that are written win, even if they are null.

    Args:
        fields: The values of a call or of a member, by name.
        entries: Their entries in the file.
    """
    whole, fit = fields.pop("attributes_from", None), fields.pop("fit", False)
    if whole is None:
        return
    listed, attributes = entries.get("attributes"), fields.get("attributes") or {}
    for name, _ in listed.entries if isinstance(listed, ObjectValue) else ():
        whole.pop(name, None)
    rules = keys["attributes_from"].key.attributes
    if fit and rules is not None:
        whole, cuts = rules.fitted(whole, attributes)
        if context.trace is not None:
            for cut in cuts:
                context.trace.note(f"fit: {cut}", entries["attributes_from"].location)
    fields["attributes"] = whole | attributes


class PersonKey(KeyKind):
    """A person of a merge: an object with one identifier."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if not isinstance(node, ObjectNode):
            text = f"'{self.name}' must be an object with one identifier, e.g.  {self.name}: {self.key.example}"
            diagnostics.refuse_unless_absent(node, text, "person")
            return None
        person = _compile_member(node, self.name, self.keys, names, diagnostics)
        if len(node.entries) != 1:
            diagnostics.error(node.location, "person", f"'{self.name}' must have exactly one of {listed(self.keys)}")
        return person

    def evaluate(self, value: Value, context: EvaluationContext) -> dict[str, str]:
        return {name: text for name, text in _texts_of(value, self.name, context).items() if text}

    def schema(self) -> Schema:
        problem = f"This must be an object with exactly one of {', '.join(self.keys)}"
        return {**object_schema(self.keys), "minProperties": 1, "maxProperties": 1, "errorMessage": problem}


_IDENTIFYING = {Kind.IDENTIFIER: PERSON, Kind.REFERENCE: REFERENCE}


class MembersKey(KeyKind):
    """A list of objects that have keys of their own, or an expression that gives one."""

    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        if is_expression(node):
            return self._compile_computed(node, names, diagnostics)
        if isinstance(node, ListNode):
            if self.key.required and not node.items:
                text = f"'{self.name}' is empty; name one, e.g.  {self.name}: {self.key.example}"
                diagnostics.error(node.location, "members", text)
            items = [_compile_member(item, self.name, self.keys, names, diagnostics) for item in node.items]
            return ListValue(location=node.location, items=tuple(item for item in items if item is not None))
        text = f"'{self.name}' must be a list, each item with {listed(self.keys)}; or an expression that gives one"
        diagnostics.refuse_unless_absent(node, text, "members")
        return None

    def _compile_computed(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        """Compile an expression that gives the list; check what it is known to put under the identifiers."""
        computed = read_computed(node, names, diagnostics)
        for name, origins in computed.expression.origins.entries.items() if computed is not None else ():
            of = _IDENTIFYING.get(self.keys[name].key.kind) if name in self.keys else None
            if of is not None and isinstance(node, Scalar):
                refuse_equal(node, name, of, origins, diagnostics)
        return computed

    def evaluate(self, value: Value, context: EvaluationContext) -> list[JSON]:
        if isinstance(value, ListValue):
            members: JSON = [self._listed_member(member, context) for member in value.items]
        else:
            members = evaluate(value, self.name, context)
        if members is None:
            return []
        if not isinstance(members, list):
            problem = f"needs a list, got {kind(members)}; write =to_array(…)"
            raise TranslationError(value.location, self.name, problem)
        return [
            self._evaluate_member(member, f"{self.name}[{number}]", value.location)
            for number, member in enumerate(members)
        ]

    def _listed_member(self, member: Value, context: EvaluationContext) -> JSON:
        """Evaluate a member that is written in the file, which alone may take whole objects of attributes."""
        assert isinstance(member, ObjectValue), "the compiler takes objects only"
        entries = dict(member.entries)
        fields = {
            name: self.keys[name].evaluate(value, context)
            if name in WHOLE_OBJECT_KEYS
            else evaluate(value, f"{self.name}.{name}", context)
            for name, value in entries.items()
        }
        merge_whole_object(fields, entries, self.keys, context)
        return fields

    def _evaluate_member(self, member: JSON, name: str, location: Location) -> JSON:
        """Check one member, whether it was listed in the file or comes out of the payload."""
        known = [key for key in self.keys if key not in WHOLE_OBJECT_KEYS]
        if not isinstance(member, dict):
            problem = f"must be an object with {', '.join(known)}, got {kind(member)}"
            raise TranslationError(location, name, problem)
        if unknown := member.keys() - set(known):
            problem = f"has keys that mean nothing here ({len(unknown)}); it takes {', '.join(known)}"
            raise TranslationError(location, name, problem)
        checked: dict[str, JSON] = {}
        for key, value in member.items():
            if not isinstance(self.keys[key], AttributesKey):
                checked[key] = as_text(value, f"{name}.{key}", location)
            elif value is None or isinstance(value, dict):
                checked[key] = value
            else:
                raise TranslationError(location, f"{name}.{key}", f"must be an object, got {kind(value)}")
        return {key: value for key, value in checked.items() if value}

    def schema(self) -> Schema:
        text = f"This must be a list, each item with {', '.join(self.keys)}; or an expression that gives one"
        return {
            "type": ["array", "string"],
            "items": object_schema(self.keys),
            "minItems": int(self.key.required),
            "pattern": "^=",
            "errorMessage": text,
        }


def _compile_member(node: Node, owner: str, keys: Keys, names: Names, diagnostics: Diagnostics) -> ObjectValue | None:
    place = f"in '{owner}'"
    if not isinstance(node, ObjectNode):
        diagnostics.refuse_unless_absent(node, f"each item {place} is an object with {listed(keys)}", "members")
        return None
    diagnostics.refuse_unknown_keys(node, keys, place, f"; it takes {listed(keys)}")
    for name, key in keys.items():
        if key.key.required and node.get(name) is None and node.get(key.key.unless) is None:
            text = f"'{name}' is missing {place}, e.g.  {name}: {key.key.example}"
            diagnostics.error(node.location, "missing-key", text)
    identifiers = [name for name, key in keys.items() if key.key.kind is Kind.IDENTIFIER]
    if identifiers and all(node.get(name) is None or is_null(node.get(name)) for name in identifiers):
        text = f"this names nobody; it needs one of {listed(identifiers)}"
        diagnostics.error(node.location, "no-identifier", text)
    return ObjectValue(location=node.location, entries=tuple(compile_keys(node, keys, names, diagnostics).items()))
