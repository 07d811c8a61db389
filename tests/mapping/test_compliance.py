"""Expressions mean what JMESPath says. The `jmespath` package is the judge; intended differences are listed here.

If JMESPATH_COMPLIANCE names a directory with the official cases (`compliance/*.json`), they are run too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jmespath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jmespath.functions import Functions, signature
from jmespath.visitor import TreeInterpreter

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions import BadExpression, Scope, compile_expression
from tests.support.machine import missing


@dataclass(frozen=True)
class Outcome:
    """The result of an expression: a value, or an error."""

    error: str = ""  # "load", "run" or none
    code: str = ""  # of an error at load
    value: JSON = None


def ours(expression: str, data: JSON) -> Outcome:
    try:
        compiled = compile_expression(expression)
    except BadExpression as error:
        return Outcome(error="load", code=error.code)
    try:
        value = compiled.evaluate(data, Scope(root=data, body=data, headers={}, query={}, received_at=0))
    except ExpressionError:
        return Outcome(error="run")
    return Outcome(value=value)


def package(expression: str, data: JSON, interpreter: TreeInterpreter) -> Outcome:
    """Evaluate with the package. It raises exceptions of Python for values of the wrong kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes `foo` for text, and warns
        try:
            tree = jmespath.compile(expression).parsed
        except (jmespath.exceptions.JMESPathError, ValueError):
            return Outcome(error="load")
    try:
        return Outcome(value=interpreter.visit(tree, data))
    except (jmespath.exceptions.JMESPathError, TypeError, ValueError):
        return Outcome(error="run")


def same(left: JSON, right: JSON) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    return left == right


# Intended differences in results: a judge that knows them


Method = TypeVar("Method", bound=Callable[..., Any])


def takes(*kinds: dict[str, Any]) -> Callable[[Method], Method]:
    """Declare the parameters of a function for the package."""
    decorate: Callable[[Method], Method] = signature(*kinds)
    return decorate


class _Language(Functions):  # type: ignore[misc]  # the package has no types
    """The package's functions, changed to what the mapping language says."""

    TAKE_NULL = frozenset({"not_null", "type", "to_array", "merge"})

    def call_function(self, function_name: str, resolved_args: list[Any]) -> Any:
        """A null argument gives null, so that a missing field does not fail a webhook."""
        if None in resolved_args and function_name not in self.TAKE_NULL:
            return None
        return super().call_function(function_name, resolved_args)

    @takes({"types": ["object", "null"], "variadic": True})
    def _func_merge(self, *objects: Any) -> Any:
        """Nulls are skipped: they are missing fields. The package checks the kind of the first argument only."""
        present = [value for value in objects if value is not None]
        if not all(isinstance(value, dict) for value in present):
            raise TypeError
        return super()._func_merge(*present)

    @takes({"types": ["string"]}, {"types": ["array"]})
    def _func_join(self, separator: str, items: list[Any]) -> Any:
        """Nulls are skipped, numbers are written out, and the result of nothing is null."""
        texts = [_written(item) for item in items if item is not None]
        return separator.join(texts) if texts else None

    @takes({"types": ["string", "number"]})
    def _func_to_number(self, text: Any) -> Any:
        """Other text is an error: a null would leave the attribute out without a message."""
        number = json.loads(text) if isinstance(text, str) else text
        blank = isinstance(text, str) and text != text.strip()
        if blank or not _is_number(number) or not math.isfinite(number):
            raise ValueError
        return number

    @takes({"types": []})
    def _func_to_string(self, value: Any) -> Any:
        """42.0 is written as 42, as everywhere; text in JSON is not escaped."""
        if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return _written(value)
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    @takes({"types": ["array", "string"]}, {"types": []})
    def _func_contains(self, where: Any, wanted: Any) -> Any:
        """Items are compared as by ==, so true is not 1."""
        return wanted in where if isinstance(where, str) else any(same(item, wanted) for item in where)

    @takes({"types": ["array"]}, {"types": ["expref"]})
    def _func_sort_by(self, items: Any, key: Any) -> Any:
        """Keys that are neither all text nor all numbers are an error, whichever comes first."""
        keys = [key.visit(key.expression, item) for item in items]
        if not (all(isinstance(value, str) for value in keys) or all(map(_is_number, keys))):
            raise TypeError
        return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]


def _written(item: Any) -> str:
    if isinstance(item, str):
        return item
    if not _is_number(item):
        raise TypeError
    return str(int(item)) if float(item).is_integer() else str(item)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Judge(TreeInterpreter):  # type: ignore[misc]  # the package has no types
    """The package's interpreter with these differences."""

    def visit_comparator(self, node: dict[str, Any], value: Any) -> Any:
        """Values are compared as JSON at any depth: [1] is not [true], which are equal in Python."""
        if node["value"] not in ("eq", "ne"):
            return super().visit_comparator(node, value)
        left, right = (self.visit(child, value) for child in node["children"])
        return same(_sorted(left), _sorted(right)) is (node["value"] == "eq")

    def visit_function_expression(self, node: dict[str, Any], value: Any) -> Any:
        """The arguments after the first value that is not null are not evaluated."""
        if node["value"] != "not_null" or not node["children"]:
            return super().visit_function_expression(node, value)
        return next((result for child in node["children"] if (result := self.visit(child, value)) is not None), None)


def _sorted(value: Any) -> Any:
    """Sort the keys of objects."""
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return {name: _sorted(value[name]) for name in sorted(value)} if isinstance(value, dict) else value


PACKAGE = TreeInterpreter()
JUDGE = _Judge(options=jmespath.Options(custom_functions=_Language()))

# Intended differences at load: expressions that are refused


@dataclass(frozen=True)
class Refusal:
    """A kind of expression that is valid for the package and refused in a mapping."""

    why: str
    signs: tuple[str, ...]  # each such expression contains one of them
    example: str


REFUSED = {
    "negated-path": Refusal("it means (!a).b, which is always null", ("!",), "!a.b"),
    "index-after-filter": Refusal("it takes an item of each item", ("[?",), "a[?b][0]"),
    "loose-pipe": Refusal("it takes the first of the whole choice", ("|",), "a || b[?c] | [0]"),
    "quoted-field": Refusal("text is in single quotes", ('"',), 'a == "b"'),
    "bare-word": Refusal("the value is meant", ("true", "false", "null", "True", "False", "None"), "a == true"),
    "not-json": Refusal("the package takes it for text", ("`",), "`foo`"),
    "too-deep": Refusal("recursion must be limited", ("",), "(" * 65 + "a" + ")" * 65),
    "too-long": Refusal("the length must be limited", ("",), "a" * 4097),
    # The package finds these only when it evaluates them.
    "unknown-function": Refusal("it would fail every webhook", ("(",), "b || lowr(a)"),
    "arity": Refusal("it would fail every webhook", ("(",), "b || abs(a, a)"),
    "argument": Refusal("it would fail every webhook", ("(", "&"), "b || abs('x')"),
    "slice-step": Refusal("it would fail every webhook with a list there", (":",), "a[::0]"),
    "expression": Refusal("commas may not be left out, nor may a function stand in ( )", ("(",), "b || join(a a)"),
}


def verdict(expression: str, data: JSON) -> str:
    """Return how the result differs from the judge's; empty: it does not, or only as intended."""
    outcome, right = ours(expression, data), package(expression, data, JUDGE)
    if outcome.error == "load" and right.error != "load":
        refusal = REFUSED.get(outcome.code)
        meant = refusal is not None and any(sign in expression for sign in refusal.signs)
        return "" if meant else f"{expression} is refused: {outcome.code}"
    if bool(outcome.error) != bool(right.error) or not same(outcome.value, right.value):
        return f"{expression} of {data!r} is {outcome}, not {right}"
    return ""


@pytest.mark.parametrize("code", REFUSED)
def test_an_expression_that_is_refused_on_purpose_is_valid_for_the_package(code: str) -> None:
    example = REFUSED[code].example
    assert ours(example, {"b": 1}).code == code
    assert package(example, {"b": 1}, PACKAGE).error == ""


@pytest.mark.parametrize(
    ("expression", "data"),
    [
        ("abs(a)", {}),
        ("merge(a, b)", {"a": {"x": 1}}),
        ("join(',', a)", ["a"]),
        ("join('-', a)", {"a": [1, None, "x"]}),
        ("join('-', a)", {"a": []}),
        ("to_number(a)", {"a": "x"}),
        ("to_number(a)", {"a": "1_000"}),
        ("to_number(a)", {"a": " 1 "}),
        ("to_number(a)", {"a": []}),
        ("to_string(a)", {"a": 42.0}),
        ("to_string(a)", {"a": ["é"]}),
        ("contains(a, `1`)", {"a": [True]}),
        ("a == b", {"a": [1], "b": [True]}),
        ("not_null(a, abs(b))", {"a": 1, "b": "x"}),
    ],
)
def test_where_the_language_differs_from_the_package(expression: str, data: JSON) -> None:
    theirs = package(expression, data, PACKAGE)
    outcome = ours(expression, data)
    assert outcome.error != theirs.error or not same(outcome.value, theirs.value)
    assert verdict(expression, data) == ""


# Sums are exact, where the package has the errors of floats


@pytest.mark.parametrize(
    ("expression", "theirs", "exactly"),
    [
        ("sum(`[0.1, 0.2]`)", 0.30000000000000004, 0.3),
        ("avg(`[0.1, 0.2]`)", 0.15000000000000002, 0.15),
        ("sum(`[9007199254740993, 1.0]`)", 9007199254740992.0, 9007199254740994.0),
    ],
)
def test_sums_are_decimal(expression: str, theirs: float, exactly: float) -> None:
    assert package(expression, None, PACKAGE).value == theirs
    assert ours(expression, None).value == exactly


# Written by hand: every kind of node, and text that is no expression

HERE = Path(__file__)
PEOPLE, LISTS = json.loads(HERE.with_name("expressions_inputs.json").read_text(encoding="utf-8"))
BY_HAND = HERE.with_name("expressions_valid.txt").read_text(encoding="utf-8").splitlines()
NO_EXPRESSIONS = HERE.with_name("expressions_invalid.txt").read_text(encoding="utf-8").splitlines()
NO_EXPRESSIONS.append("\u00a0a")  # a blank that looks like a space


@pytest.mark.parametrize("data", [PEOPLE, LISTS, None, "text", 0, [], {}], ids=lambda data: type(data).__name__)
def test_every_node_gives_what_the_package_gives(data: JSON) -> None:
    assert [differs for expression in BY_HAND if (differs := verdict(expression, data))] == []


def test_most_of_the_expressions_give_a_value_and_some_fail() -> None:
    outcomes = [ours(expression, PEOPLE) for expression in BY_HAND]
    assert len(set(BY_HAND)) == len(BY_HAND) > 400
    assert sum(outcome.value is not None for outcome in outcomes) > 300
    assert sum(outcome.error != "" for outcome in outcomes) > 50


def test_invalid_expressions_are_refused() -> None:
    accepted = [text for text in NO_EXPRESSIONS if ours(text, {}).error != "load"]
    theirs = [text for text in NO_EXPRESSIONS if not package(text, {}, PACKAGE).error]
    assert len(set(NO_EXPRESSIONS)) == len(NO_EXPRESSIONS)
    assert accepted == []
    assert theirs == ["``", "`[`", "`{a: 1}`", "`'a'`", "`tru`"]  # it reads these as text


# Random expressions

NAMES = st.sampled_from(["a", "b", "c", '"a"', '"b"', "missing", "@"])
LITERALS = st.sampled_from(
    [
        *("`0`", "`1`", "`2.5`", "`-1`", "`true`", "`false`", "`null`", "`[]`", "`{}`", "`[1, 2]`"),
        *('`{"a": 1}`', '`"a"`', "''", "'a'", "'1'", "'b c'"),
    ]
)
INDEXES = st.sampled_from(["[0]", "[-1]", "[9]", "[*]", "[]", "[1:]", "[:-1]", "[::2]", "[::-1]", "[-1:0:-1]", ".*"])
OPERATORS = st.sampled_from([" || ", " && ", " == ", " != ", " < ", " <= ", " > ", " >= ", " | "])
ONE = st.sampled_from(
    [
        *("abs", "avg", "ceil", "floor", "keys", "values", "length", "max", "min", "reverse", "sort", "sum"),
        *("to_array", "to_number", "to_string", "type"),
    ]
)
TWO = st.sampled_from(["contains", "starts_with", "ends_with", "join", "merge", "not_null"])
BY = st.sampled_from(["sort_by", "max_by", "min_by"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def pattern_of(pattern: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda chosen: pattern.format(*chosen))

    return st.one_of(
        pattern_of("{}.{}", inner, NAMES),
        pattern_of("{}{}", inner, INDEXES),
        pattern_of("{}{}.{}", inner, INDEXES, NAMES),
        pattern_of("{}[?{}]", inner, inner),
        pattern_of("{}[?{}{}{}].{}", inner, NAMES, OPERATORS, inner, NAMES),
        pattern_of("{}{}{}", inner, OPERATORS, inner),
        pattern_of("({})", inner),
        pattern_of("!({})", inner),
        pattern_of("!{}", inner),
        pattern_of("[{}, {}]", inner, inner),
        pattern_of("{{x: {}, y: {}}}", inner, inner),
        pattern_of("{}.[{}, {}]", inner, inner, inner),
        pattern_of("{}.{{x: {}}}", inner, inner),
        pattern_of("{}({})", ONE, inner),
        pattern_of("{}({}, {})", TWO, inner, inner),
        pattern_of("{}({}, &{})", BY, inner, inner),
        pattern_of("map(&{}, {})", inner, inner),
    )


EXPRESSIONS = st.recursive(NAMES | LITERALS, _larger, max_leaves=7)
LEAVES: st.SearchStrategy[JSON] = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "b", "1", "b c", 2.5, 1.0])
)
DOCUMENTS: st.SearchStrategy[JSON] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=15,
)
RICH: JSON = {
    "a": [{"a": 1, "b": "x"}, {"a": 2.5, "b": "a", "c": [1, 2]}, {"b": None, "c": {"a": []}}, [[1], 2]],
    "b": {"a": {"b": "b c", "c": [3, 1, 2]}, "b": ["b", "a"], "c": 0},
    "c": [2, 1, -1, 1.0],
}


@settings(max_examples=300)
@given(EXPRESSIONS, DOCUMENTS)
def test_random_expressions_give_what_the_package_gives(expression: str, data: JSON) -> None:
    assert [differs for document in (data, RICH) if (differs := verdict(expression, document))] == []


@settings(max_examples=150)
@given(st.text(alphabet="ab.[]()*?@&|!=<>,:'\"`{}-01 \\\n", max_size=12))
def test_random_text_is_valid_only_where_the_package_takes_it(text: str) -> None:
    assert verdict(text, RICH) == "" or not text.strip()


# The official cases


@dataclass(frozen=True)
class Case:
    """One of the official cases: an expression, its input, and the correct outcome."""

    expression: str
    data: JSON
    right: Outcome


def _official() -> list[Case]:
    folder = os.environ.get("JMESPATH_COMPLIANCE")
    if folder is None:
        missing("JMESPATH_COMPLIANCE does not name a directory with the official cases")
    return [case for path in sorted(Path(folder).glob("*.json")) for case in _cases(json.loads(path.read_text()))]


def _cases(suites: list[dict[str, Any]]) -> Iterator[Case]:
    for suite in suites:
        for case in suite["cases"]:
            if "error" in case or "result" in case:
                right = Outcome(error="error" if "error" in case else "", value=case.get("result"))
                yield Case(case["expression"], suite["given"], right)


#: Why the result of an official case is different here; the judge above agrees with each.
OFFICIAL_EXCEPTIONS = {
    "a null argument gives null": ["max(abc)", "min(abc)", "sort(abc)", "map(&a, badkey)"],
    "join takes numbers": ["join(',', `[\"a\", 0]`)", "join('|', decimals)"],
    "join gives null when nothing is left": ["join('|', empty_list)"],
    "to_number refuses what is no number": [
        *("sum(array[].to_number(@))", "array[].to_number(@)", "to_number('notanumber')"),
        *("to_number(`false`)", "to_number(`[0]`)", 'to_number(`{"foo": 0}`)'),
    ],
}


def test_the_official_cases_pass_except_those_that_are_listed() -> None:
    cases = _official()
    failed = [case for case in cases if not _passes(case)]
    unexplained = [verdict(case.expression, case.data) for case in failed]
    refused = {case.expression for case in failed if ours(case.expression, case.data).code == "bare-word"}
    listed = {expression for listed in OFFICIAL_EXCEPTIONS.values() for expression in listed}
    assert len(cases) > 800
    assert [reason for reason in unexplained if reason] == []
    assert {case.expression for case in failed} - refused == listed


def _passes(case: Case) -> bool:
    outcome = ours(case.expression, case.data)
    if case.right.error or outcome.error:
        return bool(case.right.error) == bool(outcome.error)
    return same(_sorted(outcome.value), _sorted(case.right.value))
