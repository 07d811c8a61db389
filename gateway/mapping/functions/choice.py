"""Functions that choose between values. They evaluate only the arguments that they need."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import ExpressionError, TranslationError
from gateway.event import JSON
from gateway.mapping.functions.json_values import truthy
from gateway.mapping.functions.table import Evaluate, Group, Scope, anything

function = Group("numbers, choice", lazy=True, takes_null=True)


@function(
    anything("condition"),
    anything("then"),
    anything("otherwise"),
    example=("if(total > `100`, 'large', 'small')", {"total": 120}, "large"),
)
def if_(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """`then` if the condition is true, else `otherwise`; null, false, "", [] and {} are false, 0 is true."""
    condition, then, otherwise = arguments
    return then(current, scope) if truthy(condition(current, scope)) else otherwise(current, scope)


@function(anything("a"), variadic=True, example=("not_null(phone, mobile)", {"phone": None, "mobile": "1234"}, "1234"))
def not_null(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """The first value that is not null."""
    for argument in arguments:
        value = argument(current, scope)
        if value is not None:
            return value
    return None


@function(anything("x"), example=("attempt(unix(born))", {"born": "in spring"}, None))
def attempt(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """The value of the expression, or null where it is an error, which would otherwise fail the event."""
    try:
        return arguments[0](current, scope)
    except (ExpressionError, TranslationError):  # the latter from a variable
        scope.budget.spend(1)  # no attempt at an expression that takes too many steps: this fails again
        return None
