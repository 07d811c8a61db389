"""Evaluate compiled values for one event. Every error is a TranslationError with the place in the mapping file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.errors import ExpressionError, Location, TranslationError
from gateway.event import JSON
from gateway.mapping.functions import Scope, kind, truthy
from gateway.mapping.model import Computed, Constant, ListValue, ObjectValue, OrNull, Value
from gateway.mapping.trace import Trace
from gateway.text import number_text


# Never changed, but not frozen: creating a frozen one takes more than twice as long.
@dataclass(kw_only=True, slots=True)
class EvaluationContext:
    """What expressions are evaluated on.

    Attributes:
        current: The value of `@`: the part, or one item of a call's `each`.
        scope: Everything that functions can reach besides.
        trace: Records each evaluation for people; None: nobody asked.
    """

    current: JSON
    scope: Scope
    trace: Trace | None = None


class _LeftOut(Enum):
    NOTHING = 0


#: The one result that is not JSON: an expression gave null, so its attribute or item is left out.
LEFT_OUT: Final = _LeftOut.NOTHING


def resolve(value: Value, name: str, context: EvaluationContext) -> JSON | _LeftOut:
    """Evaluate a value; *name* is its key for traces and errors. Raises TranslationError."""
    if isinstance(value, Computed):  # first, and inline: nearly every value is one, and `match` is slower
        try:
            result = value.expression.evaluate(context.current, context.scope)
        except ExpressionError as error:
            if context.trace is not None:
                context.trace.evaluated(name, value, None, str(error))
            raise TranslationError(value.location, name, str(error)) from error
        if context.trace is not None:
            context.trace.evaluated(name, value, result)
        return LEFT_OUT if result is None else result
    match value:
        case ObjectValue():
            entries = [(key, resolve(item, f"{name}.{key}", context)) for key, item in value.entries]
            return {key: result for key, result in entries if result is not LEFT_OUT}
        case Constant():
            return value.value
        case OrNull():
            return evaluate(value.computed, name, context)
        case ListValue():
            items = [resolve(item, name, context) for item in value.items]
            return [item for item in items if item is not LEFT_OUT]


def evaluate(value: Value, name: str, context: EvaluationContext) -> JSON:
    """Evaluate a value whose null counts as null. Raises TranslationError."""
    result = resolve(value, name, context)
    return None if result is LEFT_OUT else result


def holds(condition: Computed, context: EvaluationContext) -> bool:
    """Return whether a `when` is true: null, false, "", [] and {} are not, any number is. Raises TranslationError."""
    return truthy(evaluate(condition, "when", context))


def text_of(value: Value, name: str, context: EvaluationContext) -> str | None:
    """Evaluate a value that must be text, a number (which is written out) or null. Raises TranslationError."""
    result = resolve(value, name, context)
    if type(result) is str:
        return result
    return None if result is LEFT_OUT else as_text(result, name, value.location)


def as_text(result: JSON, name: str, location: Location) -> str | None:
    """Return a result as text; a number is written out. Raises TranslationError for any other kind."""
    if result is None or isinstance(result, str):
        return result
    if type(result) is not int and type(result) is not float:  # a boolean is an int to isinstance
        raise TranslationError(location, name, f"must be text or a number, got {kind(result)}")
    try:
        return number_text(result)
    except ExpressionError as error:
        raise TranslationError(location, name, str(error)) from error
