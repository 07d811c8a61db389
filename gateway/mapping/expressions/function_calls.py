"""Checks of the tree: functions exist and are called as they have to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gateway.errors import did_you_mean, shortened
from gateway.mapping.expressions.source_text import (
    BadExpression,
    SourceText,
    Tree,
    after_bracket,
    depth_change,
    operands_of,
)
from gateway.mapping.functions import FUNCTIONS, Function


@dataclass(frozen=True, kw_only=True)
class Names:
    """What an expression may name at its place in a mapping."""

    variables: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    inside_each: bool = False


def check_tree(tree: Tree, source: SourceText, names: Names) -> None:
    """Check all calls; the tree has no positions, but holds its calls in the order of the tokens."""
    positions = range(len(source.tokens))
    calls = iter([at for at in positions if _is_call(source, at)])
    references = iter([source.offset(at) for at in positions if source.kind(at) == "expref"])
    taken: set[int] = set()
    for node in _walk(tree):
        if node["type"] == "function_expression":
            taken.update(_check_call(node, source, next(calls, None), names))
        elif node["type"] == "expref":
            offset = next(references)
            if id(node) not in taken:
                problem = "& stands only where a function takes it, as in sort_by(list, &field)"
                raise BadExpression("argument", problem, offset)


def _is_call(source: SourceText, position: int) -> bool:
    return source.kind(position) == "unquoted_identifier" and source.kind(position + 1) == "lparen"


def _walk(tree: Tree) -> Iterator[Tree]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(operands_of(node)))


def _check_call(node: Tree, source: SourceText, position: int | None, names: Names) -> list[int]:
    """Check one call; gives which of its arguments may be references."""
    name, arguments = node["value"], node["children"]
    if position is None:
        raise BadExpression("expression", f"bad expression: write {name}(…) without brackets around {name}", 0)
    function, offset = FUNCTIONS.get(name), source.offset(position)
    if function is None:
        problem = f"unknown function {shortened(name)}(){did_you_mean(name, FUNCTIONS, '{}()')}"
        raise BadExpression("unknown-function", problem, offset)
    if miscounted := function.arity_problem(len(arguments)):
        raise BadExpression("arity", miscounted, offset)
    _check_arguments(function, arguments, source, position)
    if name == "index" and not names.inside_each:
        raise BadExpression("index-outside-each", "index() is known only in a call that has each", offset)
    _check_names(name, arguments, names, source.offset(position + 2))
    return [id(argument) for index, argument in enumerate(arguments) if function.parameter(index).expression]


def _check_arguments(function: Function, arguments: list[Tree], source: SourceText, position: int) -> None:
    offsets = _argument_offsets(source, position)
    if len(offsets) != len(arguments):
        missing = f"bad expression: the arguments of {function.name}() are separated by one comma each"
        raise BadExpression("expression", missing, source.offset(position))
    for index, argument in enumerate(arguments):
        if problem := _argument_problem(function, index, argument):
            raise BadExpression("argument", problem, offsets[index])
    known = [argument["value"] if argument["type"] == "literal" else ... for argument in arguments]
    if function.check and (mistake := function.check(known)):
        at = source.offset(position) if mistake.argument is None else offsets[mistake.argument]
        raise BadExpression(mistake.code, mistake.problem, at)


def _argument_offsets(source: SourceText, position: int) -> list[int]:
    """Find where the arguments of the call at a position start."""
    first, end = position + 2, after_bracket(source, position + 1) - 1
    starts = [] if first == end else [first]
    depth = 0
    for at in range(first, end):
        depth += depth_change(source, at)
        if depth == 0 and source.kind(at) == "comma":
            starts.append(at + 1)
    return [source.offset(start) for start in starts]


def _argument_problem(function: Function, index: int, argument: Tree) -> str | None:
    parameter = function.parameter(index)
    if parameter.expression and argument["type"] != "expref":
        return f"{function.name}() needs & before its {parameter.name}, as in {function.example.expression}"
    literal = argument["type"] == "literal"
    if parameter.literal and not (literal and type(argument["value"]) in parameter.kinds):
        quoted = "in single quotes" if parameter.kinds == {str} else f"as `1` or '{parameter.name}'"
        return f"{function.name}() needs its {parameter.name} written here {quoted}"
    if literal and argument["value"] is not None:
        return function.kind_problem(index, argument["value"])
    return None


def _check_names(name: str, arguments: Sequence[Tree], names: Names, offset: int) -> None:
    if name == "var":
        _check_name("variable", "let", arguments[0]["value"], names.variables, offset)
    elif name == "lookup":
        _check_name("table", "tables", arguments[0]["value"], names.tables, offset)


def _check_name(what: str, section: str, name: str, known: Iterable[str], offset: int) -> None:
    if name not in known:
        problem = f"there is no {what} '{shortened(name)}' under {section}{did_you_mean(name, known)}"
        raise BadExpression(f"unknown-{what}", problem, offset)
