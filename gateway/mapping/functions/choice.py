"""Functions that choose between values. They evaluate only the arguments that they need."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.event import JSON
from gateway.mapping.functions.json_values import truthy
from gateway.mapping.functions.table import Evaluate, Group, Scope, anything

function = Group("numbers, choice")


@function(
    anything("condition"),
    anything("then"),
    anything("otherwise"),
    lazy=True,
    takes_null=True,
    example=("if(total > `100`, 'large', 'small')", {"total": 120}, "large"),
)
def if_(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """`then` if the condition is true, else `otherwise`; null, false, "", [] and {} are false, 0 is true."""
    condition, then, otherwise = arguments
    return then(current, scope) if truthy(condition(current, scope)) else otherwise(current, scope)


@function(
    anything("a"),
    variadic=True,
    lazy=True,
    takes_null=True,
    example=("not_null(phone, mobile)", {"phone": None, "mobile": "1234"}, "1234"),
)
def not_null(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """The first value that is not null."""
    for argument in arguments:
        value = argument(current, scope)
        if value is not None:
            return value
    return None
