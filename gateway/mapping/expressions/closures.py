"""Compile the parser's tree into Python closures: each node becomes a function of (current value, scope).

That is faster than the package's interpreter, which looks up a method for each node and each event.
JMESPath has no errors for values of another kind: a field of a list or an index of an object is null.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions.source_text import COMPARISONS, Tree, operands_of
from gateway.mapping.functions import FUNCTIONS, MAX_ITEMS, Evaluate, Function, Scope, equal, kind, limited, truthy


def closure_of(node: Tree) -> Evaluate:
    """Compile a node of the tree and all below it."""
    return _COMPILERS[node["type"]](node)


def _current(_node: Tree) -> Evaluate:
    return lambda current, _scope: current


def _literal(node: Tree) -> Evaluate:
    value: JSON = node["value"]
    return lambda _current, _scope: value


def _field(node: Tree) -> Evaluate:
    name: str = node["value"]
    return lambda current, _scope: current.get(name) if type(current) is dict else None


def _subexpression(node: Tree) -> Evaluate:
    operands = operands_of(node)
    if not all(operand["type"] == "field" for operand in operands):
        return _chain(node)
    # a.b.c is by far the most frequent expression: one loop over names is faster than one over closures.
    names: list[str] = [operand["value"] for operand in operands]

    def evaluate(current: JSON, _scope: Scope) -> JSON:
        for name in names:
            if type(current) is not dict:
                return None
            current = current.get(name)
        return current

    return evaluate


def _chain(node: Tree) -> Evaluate:
    steps = [closure_of(operand) for operand in operands_of(node) if operand["type"] not in ("identity", "current")]

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for step in steps:
            current = step(current, scope)
        return current

    return evaluate


def _index(node: Tree) -> Evaluate:
    index: int = node["value"]

    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if isinstance(current, list) and -len(current) <= index < len(current):
            return current[index]
        return None

    return evaluate


def _slice(node: Tree) -> Evaluate:
    bounds = slice(*node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if not isinstance(current, list):
            return None
        items = current[bounds]
        scope.budget.spend(len(items))
        return items

    return evaluate


def _projection(node: Tree) -> Evaluate:
    base, right = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items, right, scope) if isinstance(items, list) else None

    return evaluate


def _value_projection(node: Tree) -> Evaluate:
    base, right = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items.values(), right, scope) if isinstance(items, dict) else None

    return evaluate


def _filter_projection(node: Tree) -> Evaluate:
    base, right, condition = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        scope.budget.spend(2 * len(items))
        return _project([item for item in items if truthy(condition(item, scope))], right, scope)

    return evaluate


def _project(items: Collection[JSON], right: Evaluate, scope: Scope) -> JSON:
    """Apply what stands to the right of a projection to each item. JMESPath drops the nulls."""
    scope.budget.spend(len(items))
    return [value for item in items if (value := right(item, scope)) is not None]


def _flatten(node: Tree) -> Evaluate:
    base = closure_of(node["children"][0])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        flat: list[JSON] = []
        for item in items:
            if isinstance(item, list):
                flat.extend(item)
            else:
                flat.append(item)
            if len(flat) > MAX_ITEMS:
                raise ExpressionError(f"[] would give more than {MAX_ITEMS:,} items")
        scope.budget.spend(len(items) + len(flat))
        return flat

    return evaluate


def _multi_select_list(node: Tree) -> Evaluate:
    items = [closure_of(child) for child in node["children"]]
    steps = 1 + len(items)
    # [a, b] and {x: a} of null are null, not a list or an object of nulls: so JMESPath has it.

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if current is None:
            return None
        scope.budget.spend(steps)
        return [item(current, scope) for item in items]

    return evaluate


def _multi_select_dict(node: Tree) -> Evaluate:
    entries = [(child["value"], closure_of(child["children"][0])) for child in node["children"]]
    steps = 2 + len(entries)

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if current is None:
            return None
        scope.budget.spend(steps)
        return {name: value(current, scope) for name, value in entries}

    return evaluate


def _or(node: Tree) -> Evaluate:
    *firsts, last = map(closure_of, operands_of(node))

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for operand in firsts:
            value = operand(current, scope)
            if truthy(value):
                return value
        return last(current, scope)

    return evaluate


def _and(node: Tree) -> Evaluate:
    *firsts, last = map(closure_of, operands_of(node))

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for operand in firsts:
            value = operand(current, scope)
            if not truthy(value):
                return value
        return last(current, scope)

    return evaluate


def _not(node: Tree) -> Evaluate:
    operand = closure_of(node["children"][0])
    return lambda current, scope: not truthy(operand(current, scope))


def _comparator(node: Tree) -> Evaluate:
    left, right = map(closure_of, node["children"])
    sign, compare = COMPARISONS[node["value"]]
    # Python's own == takes 1 for true, at any depth.
    if node["value"] == "eq":
        return lambda current, scope: equal(left(current, scope), right(current, scope), scope.budget.spend)
    if node["value"] == "ne":
        return lambda current, scope: not equal(left(current, scope), right(current, scope), scope.budget.spend)

    def evaluate(current: JSON, scope: Scope) -> JSON:
        one, other = left(current, scope), right(current, scope)
        are_text = type(one) is str, type(other) is str
        are_numbers = type(one) in (int, float), type(other) in (int, float)
        if all(are_text) or all(are_numbers):
            return compare(one, other)
        # JMESPath gives null for a text and a number too, and a condition that is never true would stay unnoticed.
        if any(are_text) and any(are_numbers):
            problem = f"cannot compare {kind(one)} with {kind(other)} by {sign}; to_number(…) reads a text as a number"
            raise ExpressionError(problem)
        return None

    return evaluate


def _function_expression(node: Tree) -> Evaluate:
    function = FUNCTIONS[node["value"]]
    if function.lazy:
        unevaluated = [closure_of(child) for child in node["children"]]
        return lambda current, scope: function.call(unevaluated, current, scope)
    arguments = [(_reference(child) if child["type"] == "expref" else closure_of(child)) for child in node["children"]]
    return _call(function, arguments)


def _reference(node: Tree) -> Callable[[JSON, Scope], Any]:
    """Compile &field into a closure that returns a function of one value, bound to the scope."""
    expression = closure_of(node["children"][0])
    return lambda _current, scope: lambda value: expression(value, scope)


_Argument: TypeAlias = Callable[[JSON, Scope], Any]


def _call(function: Function, arguments: Sequence[_Argument]) -> Evaluate:
    if len(arguments) == 1:
        return _call_of_one(function, arguments[0])
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds = [(index, kinds) for index in range(len(arguments)) if (kinds := function.parameter(index).kinds)]
    finish = _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        values = [argument(current, scope) for argument in arguments]
        if not takes_null and None in values:
            return None
        for index, allowed in kinds:
            if type(values[index]) not in allowed:
                raise ExpressionError(function.kind_problem(index, values[index]))
        result = call(scope, *values) if needs_scope else call(*values)
        return finish((*values, result), scope) if finish else result

    return evaluate


def _call_of_one(function: Function, argument: _Argument) -> Evaluate:
    """Compile a call with one argument, as most are, without lists and loops: saves 7 % of a translation."""
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds, finish = function.parameter(0).kinds, _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        value = argument(current, scope)
        if value is None and not takes_null:
            return None
        if kinds and type(value) not in kinds:
            raise ExpressionError(function.kind_problem(0, value))
        result = call(scope, value) if needs_scope else call(value)
        return finish((value, result), scope) if finish else result

    return evaluate


_CALL = 10  # steps that a call takes, however small its arguments
_FEW = 1_000  # steps: with fewer, no text and no list is near its limit


def _finish(function: Function) -> Callable[[Sequence[JSON], Scope], JSON]:
    """Return a function that spends the steps of a call and limits its result."""
    name, stride = function.name, function.stride

    def finish(values: Sequence[JSON], scope: Scope) -> JSON:
        """Take the arguments of a call, with its result as the last item; return the result."""
        steps = _CALL
        for value in values:
            if type(value) is str:
                steps += len(value) // stride
            elif type(value) is list or type(value) is dict:
                steps += len(value)
        scope.budget.spend(steps)
        return values[-1] if steps < _FEW else limited(name, values[-1])

    return finish


_COMPILERS: Mapping[str, Callable[[Tree], Evaluate]] = {
    "and_expression": _and,
    "comparator": _comparator,
    "current": _current,
    "field": _field,
    "filter_projection": _filter_projection,
    "flatten": _flatten,
    "function_expression": _function_expression,
    "identity": _current,
    "index": _index,
    "index_expression": _chain,
    "literal": _literal,
    "multi_select_dict": _multi_select_dict,
    "multi_select_list": _multi_select_list,
    "not_expression": _not,
    "or_expression": _or,
    "pipe": _chain,
    "projection": _projection,
    "slice": _slice,
    "subexpression": _subexpression,
    "value_projection": _value_projection,
}
