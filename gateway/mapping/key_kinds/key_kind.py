"""What every kind of key can do, and the parts that several kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

from gateway.customerio.calls import Key, field_of
from gateway.errors import TranslationError
from gateway.mapping.diagnostics import Diagnostics
from gateway.mapping.evaluate import EvaluationContext, evaluate, text_of
from gateway.mapping.expressions import Names
from gateway.mapping.model import Value
from gateway.mapping.yaml_nodes import Node, ObjectNode

Schema: TypeAlias = dict[str, Any]

# Parts of schemas. `errorMessage` is a word that editors know beside those of the draft.
EXPRESSION: Schema = {
    "type": "string",
    "pattern": "^=",
    "errorMessage": "This must be an expression: it starts with =, as in  =user.id",
}
LITERAL_TEXT: Schema = {
    "type": "string",
    "pattern": "^(?!=)",
    "errorMessage": "This must be literal text; quote what is meant as text",
}
LITERAL_MARKER = {"description": "The value as it is written, also text that starts with =."}
ANY_VALUE: Schema = {"$ref": "#/definitions/value"}


class KeyKind(ABC):
    """One key of a call. Built once at import; none of them has a state.

    Attributes:
        name: The key as mappings write it.
        field: The field of the call's class.
        key: What the definition of the call says of the key.
        keys: The keys of its members, for the kinds that have members.
    """

    def __init__(self, name: str, key: Key, keys: Keys) -> None:
        self.name = name
        self.field = field_of(name)
        self.key = key
        self.keys = keys

    @abstractmethod
    def compile(self, node: Node, names: Names, diagnostics: Diagnostics) -> Value | None:
        """Compile the key's value; None: it is empty or wrong, and reported."""

    def evaluate(self, value: Value, context: EvaluationContext) -> Any:
        """Evaluate the compiled value for one event, as the call's class takes it. Raises TranslationError."""
        return evaluate(value, self.name, context)

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON Schema of the values that may be written, as exactly as is simple."""


def required_text(value: Value, name: str, context: EvaluationContext, *, instead: str = "") -> str:
    """Evaluate text that the call cannot do without. Raises TranslationError, also when it is null or empty.

    Args:
        instead: What could be written, other than a 'when', if that may be.
    """
    text = text_of(value, name, context)
    if not text:
        problem = f"null or empty; if that may be, {instead}give the call a 'when'"
        raise TranslationError(value.location, name, problem)
    return text


#: The keys of a call, or of a member of one, by their names.
Keys: TypeAlias = Mapping[str, KeyKind]


def compile_keys(node: ObjectNode, keys: Keys, names: Names, diagnostics: Diagnostics) -> dict[str, Value]:
    """Compile the keys of an object, in the order of *keys*, without those that are missing or wrong."""
    values = {}
    for name, key in keys.items():
        child = node.get(name)
        value = None if child is None else key.compile(child, names, diagnostics)
        if value is not None:
            values[name] = value
    if "fit" in values and node.get("attributes_from") is None:
        text = "'fit' cuts what 'attributes_from' gives, and there is none; one value is cut by =truncate(…)"
        diagnostics.error(values["fit"].location, "fit", text)
    return values


def object_schema(keys: Keys) -> Schema:
    """Return the schema of an object with these keys and no others."""
    schema: Schema = {
        "type": "object",
        "properties": {name: {"$ref": f"#/definitions/key.{name}"} for name in keys},
        "required": [name for name, key in keys.items() if key.key.always_required],
        "additionalProperties": False,
    }
    if replaceable := {name: key.key.unless for name, key in keys.items() if key.key.unless}:
        schema["anyOf"] = [{"required": [*replaceable]}, {"required": [*dict.fromkeys(replaceable.values())]}]
    return schema


def described(text: str, schema: Schema, *examples: object) -> Schema:
    """Add what an editor shows of a key, and the values that it offers."""
    return {"description": text, **({"examples": [*examples]} if examples else {}), **schema}
