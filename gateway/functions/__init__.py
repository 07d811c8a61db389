"""The functions that an expression may call: JMESPath's own and the gateway's, as one table.

Each is entered by a decorator in the module of its subject. A null argument gives null before the
function is asked, unless its entry says that it takes nulls.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from gateway.functions import (
    arithmetic,
    around,
    choice,
    encodings,
    kinds,
    lists,
    objects,
    patterns,
    text,
    times,
)
from gateway.functions.kinds import read_json
from gateway.functions.table import MAX_STEPS, Budget, Evaluate, Example, Function, Parameter, Scope
from gateway.functions.values import MAX_ITEMS, MAX_TEXT, equal, kind, limited, number_text, truthy

__all__ = [
    "FUNCTIONS",
    "MAX_ITEMS",
    "MAX_STEPS",
    "MAX_TEXT",
    "Budget",
    "Evaluate",
    "Example",
    "Function",
    "Parameter",
    "Scope",
    "equal",
    "kind",
    "limited",
    "number_text",
    "read_json",
    "truthy",
]

_GROUPS = (
    *(around.function, text.function, patterns.function, kinds.function, times.function),
    *(encodings.function, objects.function, lists.function, arithmetic.function, choice.function),
)

#: By name, in the order of the language's own table.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {function.name: function for function in chain.from_iterable(_GROUPS)}
)
