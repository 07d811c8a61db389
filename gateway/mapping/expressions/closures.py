"""The parser's tree as Python closures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions.source_text import COMPARISONS, Tree, operands_of
from gateway.mapping.functions import (
    FUNCTIONS,
    MAX_ITEMS,
    Evaluate,
    Function,
    Scope,
    equal,
    kind,
    limited,
    truthy,
)


def closure_of(node: Tree) -> Evaluate:
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
    if all(operand["type"] == "field" for operand in operands):
        return _path([operand["value"] for operand in operands])
    return _steps(operands)


def _path(names: Sequence[str]) -> Evaluate:
    """Compile a.b.c, by far the most frequent expression: into one loop, or where it is short into none."""
    match names:
        case [first, second]:
            return _path_of_two(first, second)
        case [first, second, third]:
            return _path_of_three(first, second, third)

    def evaluate(current: JSON, _scope: Scope) -> JSON:
        for name in names:
            if type(current) is not dict:
                return None
            current = current.get(name)
        return current

    return evaluate


def _path_of_two(first: str, second: str) -> Evaluate:
    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if type(current) is dict and type(below := current.get(first)) is dict:
            return below.get(second)
        return None

    return evaluate


def _path_of_three(first: str, second: str, third: str) -> Evaluate:
    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if (
            type(current) is dict
            and type(below := current.get(first)) is dict
            and type(below := below.get(second)) is dict
        ):
            return below.get(third)
        return None

    return evaluate


def _chain(node: Tree) -> Evaluate:
    return _steps(operands_of(node))


def _steps(operands: Sequence[Tree]) -> Evaluate:
    steps = [closure_of(operand) for operand in operands if operand["type"] not in ("identity", "current")]

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
        taken = current[bounds]
        scope.budget.spend(len(taken))
        return taken

    return evaluate


def _projection(node: Tree) -> Evaluate:
    base, each = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items, each, scope) if isinstance(items, list) else None

    return evaluate


def _value_projection(node: Tree) -> Evaluate:
    base, each = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items.values(), each, scope) if isinstance(items, dict) else None

    return evaluate


def _filter_projection(node: Tree) -> Evaluate:
    base, each, condition = map(closure_of, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        scope.budget.spend(2 * len(items))
        return _project([item for item in items if truthy(condition(item, scope))], each, scope)

    return evaluate


def _project(items: Collection[JSON], each: Evaluate, scope: Scope) -> JSON:
    scope.budget.spend(len(items))
    return [value for item in items if (value := each(item, scope)) is not None]


def _flatten(node: Tree) -> Evaluate:
    base = closure_of(node["children"][0])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        flat = _flattened(items)
        scope.budget.spend(len(items) + len(flat))
        return flat

    return evaluate


def _flattened(items: list[JSON]) -> list[JSON]:
    flat: list[JSON] = []
    for item in items:
        if isinstance(item, list):
            flat.extend(item)
        else:
            flat.append(item)
        if len(flat) > MAX_ITEMS:
            raise ExpressionError(f"[] would give more than {MAX_ITEMS:,} items")
    return flat


def _multi_select_list(node: Tree) -> Evaluate:
    items = [closure_of(child) for child in node["children"]]
    steps = 1 + len(items)

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
    if node["value"] == "eq":
        return lambda current, scope: equal(left(current, scope), right(current, scope), scope.budget.spend)
    if node["value"] == "ne":
        return lambda current, scope: not equal(left(current, scope), right(current, scope), scope.budget.spend)

    def evaluate(current: JSON, scope: Scope) -> JSON:
        return _ordering(sign, compare, left(current, scope), right(current, scope))

    return evaluate


def _ordering(sign: str, compare: Callable[[Any, Any], bool], left: JSON, right: JSON) -> JSON:
    text = isinstance(left, str), isinstance(right, str)
    number = type(left) in (int, float), type(right) in (int, float)
    if all(text) or all(number):
        return compare(left, right)
    if any(text) and any(number):
        problem = f"cannot compare {kind(left)} with {kind(right)} by {sign}; to_number(…) reads a text as a number"
        raise ExpressionError(problem)
    return None


def _function_expression(node: Tree) -> Evaluate:
    function = FUNCTIONS[node["value"]]
    if function.lazy:
        lazily = [closure_of(child) for child in node["children"]]
        return lambda current, scope: function.call(lazily, current, scope)
    arguments = [(_reference(child) if child["type"] == "expref" else closure_of(child)) for child in node["children"]]
    return _call(function, arguments)


def _reference(node: Tree) -> Callable[[JSON, Scope], Any]:
    """Compile &field into what gives a function of one value, bound to the scope."""
    expression = closure_of(node["children"][0])
    return lambda _current, scope: lambda value: expression(value, scope)


_Argument: TypeAlias = Callable[[JSON, Scope], Any]


def _call(function: Function, arguments: Sequence[_Argument]) -> Evaluate:
    """Compile a call; one with up to two arguments, as nearly all are, needs no lists and no loops."""
    call = function.call
    match arguments:
        case [] if function.needs_scope and not function.stride:
            return lambda _current, scope: call(scope)
        case [only]:
            return _call_of_one(function, only)
        case [first, second]:
            return _call_of_two(function, first, second)
        case _:
            return _call_of_any(function, arguments)


def _call_of_one(function: Function, argument: _Argument) -> Evaluate:
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


def _call_of_two(function: Function, first: _Argument, second: _Argument) -> Evaluate:
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds, second_kinds = function.parameter(0).kinds, function.parameter(1).kinds
    finish = _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        one, other = first(current, scope), second(current, scope)
        if (one is None or other is None) and not takes_null:
            return None
        if kinds and type(one) not in kinds:
            raise ExpressionError(function.kind_problem(0, one))
        if second_kinds and type(other) not in second_kinds:
            raise ExpressionError(function.kind_problem(1, other))
        result = call(scope, one, other) if needs_scope else call(one, other)
        return finish((one, other, result), scope) if finish else result

    return evaluate


def _call_of_any(function: Function, arguments: Sequence[_Argument]) -> Evaluate:
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


_CALL = 10  # steps that a call takes, however small its arguments
_FEW = 1_000  # steps: no text and no list that was counted among them is near its limit


def _finish(function: Function) -> Callable[[Sequence[JSON], Scope], JSON]:
    """Make what counts the work of a function and bounds its result, which stands behind its arguments."""
    name, stride = function.name, function.stride

    def finish(values: Sequence[JSON], scope: Scope) -> JSON:
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
