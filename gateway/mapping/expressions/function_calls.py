"""Check the function calls of a tree: the functions exist, and their arguments fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.errors import did_you_mean, shortened
from gateway.mapping.expressions.origins import Origins
from gateway.mapping.expressions.source_text import (
    BadExpression,
    SourceText,
    Tree,
    after_bracket,
    items_between,
    operands_of,
)
from gateway.mapping.functions import FUNCTIONS, Function


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names that an expression may use at its place in a mapping.

    Attributes:
        origins: By variable: where its value comes from.
        with_default: The tables that have an entry for unknown keys.
    """

    variables: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    inside_each: bool = False
    origins: Mapping[str, Origins] = field(default_factory=dict)
    with_default: frozenset[str] = frozenset()


def check_tree(tree: Tree, source: SourceText, names: Names) -> None:
    """Raise BadExpression for the first call that is wrong.

    The package would find an unknown function or a wrong number of arguments only while it evaluates. The tree has
    no positions, but it holds its calls in the order of the tokens.
    """
    calls = iter(source.call_positions())
    references = iter([token["start"] for token in source.tokens if token["type"] == "expref"])
    allowed_references: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node["type"] == "function_expression":
            allowed_references.update(_check_call(node, source, next(calls, None), names))
        elif node["type"] == "expref":
            offset = next(references)
            if id(node) not in allowed_references:
                problem = "& stands only where a function takes it, as in sort_by(list, &field)"
                raise BadExpression("argument", problem, offset)
        waiting.extend(reversed(operands_of(node)))


def _check_call(node: Tree, source: SourceText, position: int | None, names: Names) -> list[int]:
    """Check one call. Return the ids of those of its arguments that may be references such as &field."""
    name, arguments = node["value"], node["children"]
    if position is None:
        raise BadExpression("expression", f"bad expression: write {name}(…) without brackets around {name}", 0)
    function, offset = FUNCTIONS.get(name), source.offset(position)
    if function is None:
        unknown = f"unknown function {shortened(name)}(){did_you_mean(name, FUNCTIONS, '{}()')}"
        raise BadExpression("unknown-function", unknown, offset)
    if problem := function.arity_problem(len(arguments)):
        raise BadExpression("arity", problem, offset)
    _check_arguments(function, arguments, source, position)
    if name == "index" and not names.inside_each:
        raise BadExpression("index-outside-each", "index() is known only in a call that has each", offset)
    if name == "var":
        _check_name("variable", "let", arguments[0]["value"], names.variables, source.offset(position + 2))
    elif name == "lookup":
        _check_name("table", "tables", arguments[0]["value"], names.tables, source.offset(position + 2))
    return [id(argument) for index, argument in enumerate(arguments) if function.parameter(index).expression]


def _check_arguments(function: Function, arguments: list[Tree], source: SourceText, position: int) -> None:
    spans = items_between(source, position + 2, after_bracket(source, position + 1) - 1)
    offsets = [source.offset(start) for start, _ in spans]
    if len(offsets) != len(arguments):
        # The parser of the package takes join(a b) and lower(a,).
        problem = f"bad expression: the arguments of {function.name}() are separated by one comma each"
        raise BadExpression("expression", problem, source.offset(position))
    for index, argument in enumerate(arguments):
        if wrong := _argument_problem(function, index, argument):
            raise BadExpression("argument", wrong, offsets[index])
    known = [argument["value"] if argument["type"] == "literal" else ... for argument in arguments]
    if function.check and (mistake := function.check(known)):
        at = source.offset(position) if mistake.argument is None else offsets[mistake.argument]
        raise BadExpression(mistake.code, mistake.problem, at)


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


def _check_name(subject: str, section: str, name: str, known: Iterable[str], offset: int) -> None:
    if name not in known:
        problem = f"there is no {subject} '{shortened(name)}' under {section}{did_you_mean(name, known)}"
        raise BadExpression(f"unknown-{subject}", problem, offset)
