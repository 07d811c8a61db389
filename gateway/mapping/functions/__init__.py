"""The functions that an expression may call: JMESPath's own and the gateway's, in one table.

Each module registers the functions of one subject by a decorator. A null argument gives null without a call of
the function, unless the function is registered with `takes_null`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from gateway.mapping.functions import (
    arithmetic,
    choice,
    context,
    conversions,
    encodings,
    json_objects,
    lists,
    regular_expressions,
    strings,
    times,
)
from gateway.mapping.functions.conversions import read_json
from gateway.mapping.functions.json_values import MAX_ITEMS, MAX_TEXT, equal, kind, limited, truthy
from gateway.mapping.functions.table import MAX_SECONDS, MAX_STEPS, Budget, Evaluate, Function, Parameter, Scope

__all__ = [
    "FUNCTIONS",
    "MAX_ITEMS",
    "MAX_SECONDS",
    "MAX_STEPS",
    "MAX_TEXT",
    "Budget",
    "Evaluate",
    "Function",
    "Parameter",
    "Scope",
]
__all__ += ["equal", "kind", "limited", "read_json", "truthy"]

_GROUPS = (
    *(context.function, strings.function, regular_expressions.function, conversions.function, times.function),
    *(encodings.function, json_objects.function, lists.function, arithmetic.function, choice.function),
)

#: By name, in the order of the language's own table.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {function.name: function for function in chain.from_iterable(_GROUPS)}
)
