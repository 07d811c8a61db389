"""The functions: their results, their nulls, their errors, and their limits for hostile payloads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions import Names, Scope, compile_expression
from gateway.mapping.functions import (
    FUNCTIONS,
    MAX_ITEMS,
    MAX_SECONDS,
    MAX_STEPS,
    MAX_TEXT,
    Budget,
    Function,
    equal,
    truthy,
)
from gateway.text import number_text
from tests.support.cases import read_rows

NAMES = Names(variables=frozenset({"plan"}), tables=frozenset({"plans"}), inside_each=True)


def evaluate(expression: str, data: JSON = None, *, index: int | None = 0) -> JSON:
    scope = Scope(
        root=data,
        body=data,
        headers={"x-name": "Ada"},
        query={"name": "Ada"},
        received_at=1767225600,
        event_type="user.created",
        index=index,
        let={"plan": lambda _root, _scope: "Starter"},
        tables={"plans": {"price_1": "Starter", "42": "Pro", "true": "Yes", "*": "Other"}},
    )
    return compile_expression(expression, NAMES).evaluate(data, scope)


def problem(expression: str, data: JSON = None) -> str:
    with pytest.raises(ExpressionError) as caught:
        evaluate(expression, data)
    return str(caught.value)


def rows(name: str) -> list[list[str]]:
    return read_rows(Path(__file__).with_name(name))


def same(left: JSON, right: JSON) -> bool:
    """Equal as JSON text, so 1 is not 1.0."""
    return json.dumps(left) == json.dumps(right)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_the_example_of_a_function_is_correct(function: Function) -> None:
    assert same(evaluate(function.example.expression, function.example.input), function.example.output)
    assert f"{function.name}(" in function.example.expression


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_every_function_is_described_in_one_line(function: Function) -> None:
    assert function.description.endswith(".")
    assert "\n" not in function.description
    assert function.signature.startswith(f"{function.name}(")


JMESPATH = """abs avg ceil contains ends_with floor join keys length map max max_by merge min min_by not_null
    reverse sort sort_by starts_with sum to_array to_number to_string type values"""
LANGUAGE = {
    "around the body": "header query root body var lookup event_type received_at index",
    "text": """lower upper trim truncate split replace join format substring slug regex_match regex_extract
        regex_replace""",
    "kinds": "to_number to_string to_bool to_array parse_json to_json",
    "time": "unix",
    "hash, encode": "sha256 md5 base64 base64_decode url_encode url_decode",
    "objects, lists": """pick omit rename flatten prefix_keys merge items from_items zip unique first
        last""",
    "numbers, choice": "add subtract multiply divide round if not_null attempt",
}


def test_the_table_holds_every_function() -> None:
    names = [name for names in LANGUAGE.values() for name in names.split()]
    assert set(FUNCTIONS) == {*JMESPATH.split(), *names}


@pytest.mark.parametrize("kind", LANGUAGE)
def test_the_table_is_in_the_order_of_the_language(kind: str) -> None:
    names = LANGUAGE[kind].split()
    assert [name for name, function in FUNCTIONS.items() if function.kind == kind and name in names] == names


def test_the_kinds_are_together_and_in_the_order_of_the_language() -> None:
    kinds = [function.kind for function in FUNCTIONS.values()]
    assert sorted(kinds, key=[*LANGUAGE].index) == kinds


NULL_TAKERS = {"if", "not_null", "type", "to_array", "merge", "lookup", "attempt"}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_a_null_argument_gives_null_except_where_the_language_says_otherwise(function: Function) -> None:
    assert function.takes_null == (function.name in NULL_TAKERS)
    if function.takes_null or not function.parameters or function.parameters[0].literal:
        return
    least = [parameter for parameter in function.parameters if not parameter.optional]
    arguments = ", ".join(_argument(function, position, "nothing") for position in range(len(least)))
    assert evaluate(f"{function.name}({arguments})", {"x": 1}) is None


@pytest.mark.parametrize(
    ("expression", "data", "expected"),
    [
        *((call, json.loads(data), json.loads(result)) for data, call, result in rows("function_results.txt")),
        ("sort(@)", [2, 1.5, 10**400], [1.5, 2, 10**400]),
        ("add(@, `1`)", 10**300, 10**300 + 1),
        ("divide(@, `10`)", 10**301, 10**300),
    ],
)
def test_functions_give(expression: str, data: JSON, expected: JSON) -> None:
    assert same(evaluate(expression, data), expected)


TOO_DEEP = "parse_json() cannot read this text: it is nested more than 64 deep"


@pytest.mark.parametrize(
    ("expression", "data", "expected"),
    [
        *((call, json.loads(data), error) for data, call, error in rows("function_errors.txt")),
        ("parse_json(@[0])", ["9" * 5000], "parse_json() cannot read this text: it is not JSON"),
        ("parse_json(@[0])", ["[" * 65 + "]" * 65], TOO_DEEP),
        ("parse_json(@[0])", ["[" * 100_000], TOO_DEEP),
        ("multiply(@, @)", 10**300, "multiply() gives a number that is too large"),
        ("add(@, `1`)", 10**400, "add() gives a number that is too large"),
        ("divide(@, `3`)", 10**400, "divide() gives a number that is too large"),
        ("unix(@)", -(10**400), "unix() needs seconds or milliseconds, and this number is too large for either"),
        ("to_number(@)", "9" * 400, "to_number() cannot read this text: the number is too large"),
        ("to_string(@[0])", [10**5000], "a number this large cannot be written as text"),
        ("to_json(@)", [10**5000], "to_json() met a number that cannot be written as JSON"),
    ],
)
def test_functions_refuse(expression: str, data: JSON, expected: str) -> None:
    assert problem(expression, data) == expected


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_no_error_shows_a_value(function: Function) -> None:
    arguments = [_argument(function, position) for position in range(len(function.parameters))]
    try:
        evaluate(f"{function.name}({', '.join(arguments)})", "hunter2-🔑")
    except ExpressionError as error:
        shown = str(error)
    else:
        shown = ""
    assert "hunter2" not in shown


def _argument(function: Function, position: int, other: str = "@") -> str:
    parameter = function.parameter(position)
    if parameter.name == "pattern":
        return "'(?P<x>.)'"
    if parameter.literal:
        return {"var": "'plan'", "lookup": "'plans'"}.get(function.name, "'x'")
    return "&@" if parameter.expression else other


LEAVES = (
    st.sampled_from([None, True, False, 0, 1, -1, 2.5, 1e308, 5e-324, 10**400, "", "1", "a", "2026-01-01", "\ud800"])
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES: st.SearchStrategy[JSON] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def _call(function: Function) -> str:
    arguments = [_argument(function, at, f"[{at}]") for at in range(len(function.parameters))]
    return f"{function.name}({', '.join(arguments)})"


EVERY_CALL = [compile_expression(_call(function), NAMES) for function in FUNCTIONS.values()]


@settings(max_examples=100)
@given(VALUES, VALUES, VALUES)
def test_every_function_gives_json_or_an_expression_error_for_any_json(first: JSON, second: JSON, third: JSON) -> None:
    data: JSON = [first, second, third]
    before = repr(data)
    scope = Scope(root=data, body=data, headers={}, query={}, received_at=0)
    for call in EVERY_CALL:
        with suppress(ExpressionError):
            json.dumps(call.evaluate(data, scope), allow_nan=False)
    assert repr(data) == before


def _deep(levels: int, inner: JSON) -> JSON:
    for _ in range(levels // 2):
        inner = {"a": [inner]}
    return inner


# Values on which functions of this kind have failed before.
AWKWARD: list[JSON] = [
    *(None, True, False, 0, -1, 2.5, 1e308, 5e-324, -0.0, 10**4000, -(10**400)),
    *("", "a", "\ud800", "\x00", "٣", "1e400", "[", "%", "2026-02-30", "9" * 400),
]
AWKWARD += [[], {}, [[]], [["a", 1]], ["a", 1], ["b", "a"], [1, 2.5], [None], {"a": "b"}, {"": {"": {}}}]
AWKWARD += [_deep(64, 1), _deep(64, "\ud800")]
NOT_JSON: list[JSON] = [float("nan"), float("inf"), float("-inf"), [float("nan"), 1], {"a": float("inf")}]


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_every_function_gives_json_or_an_expression_error_for_awkward_values(function: Function) -> None:
    call = compile_expression(_call(function), NAMES)
    places = [place for place, parameter in enumerate(function.parameters) if not parameter.literal]
    pool = AWKWARD if len(places) < 3 else AWKWARD[::2]
    for values in product(pool, repeat=len(places)):
        data: list[JSON] = ["a"] * len(function.parameters)
        for place, value in zip(places, values, strict=True):
            data[place] = value
        scope = Scope(root=data, body=data, headers={}, query={}, received_at=0)
        with suppress(ExpressionError):
            json.dumps(call.evaluate(data, scope), allow_nan=False)


@pytest.mark.parametrize("value", NOT_JSON, ids=repr)
def test_a_number_that_is_not_json_makes_an_expression_error_at_worst(value: JSON) -> None:
    others: list[JSON] = ["a", 1, [1, 2.5], {"a": 1}, value]
    for other in others:
        data: JSON = [value, other, other]
        scope = Scope(root=data, body=data, headers={}, query={}, received_at=0)
        for call in EVERY_CALL:
            with suppress(ExpressionError):
                call.evaluate(data, scope)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@ == root()", True),
        ("length(unique([@, root(), `1`]))", 2),
        ("length(to_json(@))", 257),
        ("parse_json(to_json(@)) == @", True),
        ("keys(flatten({a: @}, '_'))", ["a_a"]),
        ("contains([@], root())", True),
    ],
)
def test_a_value_as_deep_as_a_body_may_be_is_like_any_other(expression: str, expected: JSON) -> None:
    assert evaluate(expression, _deep(64, 1)) == expected


MEBI = 1024 * 1024


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("slug(@)", "\u0300\u0316" * (MEBI // 2)),
        ("slug(@)", "\u0f73" * MEBI),
        ("slug(@)", "é-" * (MEBI // 2)),
        ("lower(@)", "İ" * (MEBI // 3)),
        ("split(@, 'aaaaaaaaab')", "a" * MEBI),
        ("replace(@, 'aaaaaaaaab', 'b')", "a" * MEBI),
        ("contains(@, 'aaaaaaaaaaaaaaab')", "a" * MEBI),
        ("trim(@)", " " * (MEBI - 1) + "a"),
        ("url_decode(@)", "%41" * (MEBI // 3)),
        ("url_decode(@)", "%" * MEBI),
        ("url_encode(@)", "é" * (MEBI // 6)),
        ("base64_decode(@)", "=" * MEBI),
        ("to_number(@)", "9" * MEBI),
        ("to_number(@)", "0." + "9" * MEBI),
        ("unix(@)", "mon" + " " * MEBI),
        ("unix(@)", "1 jan" + " " * MEBI),
        ("unix(@)", "1 jan 2026 00:00 Z (" + " " * MEBI),
        ("parse_json(@)", "[" * MEBI),
        ("parse_json(@)", '"' * MEBI),
        ("parse_json(@)", "\\" * MEBI),
        ("parse_json(@)", "9" * MEBI),
        ("format(@, 'a')", "{{" * (MEBI // 2)),
        ("format(@, 'a')", "{}" * (MEBI // 2)),
        ("regex_match(@, '(a+a+)+$')", "a" * MEBI + "b"),
        ("regex_match(@, '^(a|a|aa)*$')", "a" * MEBI + "b"),
        ("regex_extract(@, '(.*)(.*)(.*)x')", "a" * MEBI),
        ("regex_replace(@, 'a', 'b')", "a" * MEBI),
        ("regex_replace(@, '(a?){300}b', 'c')", "a" * MEBI),
        ("flatten(parse_json(@), '_')", '{"a":' * 60 + "1" + "}" * 60),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_a_long_text_is_processed_in_a_short_time(expression: str, text: str) -> None:
    started = time.process_time()
    with suppress(ExpressionError):
        evaluate(expression, text)
    assert time.process_time() - started < 2


EXPENSIVE = Path(__file__).with_name("expressions_expensive.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("expression", EXPENSIVE)
def test_no_payload_keeps_a_process_busy_for_minutes(expression: str) -> None:
    data: list[JSON] = [str(number) for number in range(10_000)]
    compiled = compile_expression(expression, Names(variables=frozenset({"all"})))
    scope = Scope(root=data, body=[*data], headers={}, query={}, received_at=0, let={"all": lambda root, _: root})
    scope.budget.left = MAX_STEPS // 20
    started = time.process_time()
    with pytest.raises(ExpressionError, match=r"take more than 5,000,000 steps|would give more than 100,000 items"):
        compiled.evaluate(data, scope)
    assert time.process_time() - started < 3


def test_an_attempt_at_an_expression_that_takes_too_many_steps_fails_the_event() -> None:
    scope = Scope(root=None, body=None, headers={}, query={}, received_at=0)
    scope.budget.left = 5
    with pytest.raises(ExpressionError, match=r"take more than 5,000,000 steps"):
        compile_expression("attempt(lower(@))", NAMES).evaluate("a", scope)


def test_when_the_time_is_over_all_further_expressions_fail() -> None:
    now = 0.0
    budget = Budget(lambda: now)
    scope = Scope(root=None, body=None, headers={}, query={}, received_at=0, budget=budget)
    many: JSON = [1] * 20_000
    compile_expression("[?@ > `0`]").evaluate(many, scope)
    now = MAX_SECONDS + 0.1
    for expression in ("[?@ > `0`]", "attempt([?@ > `0`])", "attempt(lower('A'))"):
        with pytest.raises(ExpressionError, match=r"take more than 0\.5 s; look for one that searches"):
            compile_expression(expression, NAMES).evaluate(many, scope)


def test_all_expressions_on_a_webhook_share_one_budget() -> None:
    data: JSON = [1] * 1000
    scope = Scope(root=data, body=data, headers={}, query={}, received_at=0)
    compile_expression("[?@ > `0`]").evaluate(data, scope)
    compile_expression("[]").evaluate(data, replace(scope, index=1))
    assert 4000 < MAX_STEPS - scope.budget.left < 8000


def test_the_budget_is_enough_for_many_thousand_items() -> None:
    items: list[JSON] = [{"sku": f"sku_{number}", "price": "9.50", "tags": ["a", "b"]} for number in range(10_000)]
    scope = Scope(root=items, body=items, headers={}, query={}, received_at=0)
    for expression in (
        "sort_by(map(&merge(@, {price: to_number(price)}), @), &price)[].sku",
        "[?regex_match(sku, '_1') && contains(tags, 'a')].{sku: upper(sku), tag: tags[0]}",
        "length(unique([].tags[]))",
        "to_json(@)",
    ):
        assert compile_expression(expression).evaluate(items, scope)


def test_choices_evaluate_only_the_arguments_that_they_need() -> None:
    assert evaluate("if(@, 'a', to_number('x'))", True) == "a"
    assert evaluate("not_null(@, to_number('x'))", 1) == 1


@pytest.mark.parametrize(
    ("expression", "data", "limit"),
    [
        ("replace(a, 'x', b)", {"a": "x" * 2000, "b": "y" * 2000}, MAX_TEXT),
        ("join(a, b)", {"a": "x" * 2000, "b": ["y"] * 2000}, MAX_TEXT),
        ("format('{}{}', a, a)", {"a": "x" * 600_000}, MAX_TEXT),
        ("upper(a)", {"a": "ß" * 600_000}, MAX_TEXT),
        ("slug(a)", {"a": "\ufdfa" * 300_000}, MAX_TEXT),
        ("url_encode(a)", {"a": "é" * 300_000}, MAX_TEXT),
        ("to_json([a, a, a])", {"a": "x" * 400_000}, MAX_TEXT),
        ("to_json(items[].root())", {"items": ["x" * 10] * 3000}, MAX_TEXT),
        ("flatten(@, '_')", {"k" * 500_000: {str(number): 1 for number in range(1000)}}, MAX_TEXT),
        ("prefix_keys(a, b)", {"a": {str(number): 1 for number in range(2000)}, "b": "x" * 2000}, MAX_TEXT),
        ("split(a, 'x')", {"a": "x" * 200_000}, MAX_ITEMS),
        ("values(@)", {str(number): 1 for number in range(100_001)}, MAX_ITEMS),
    ],
)
def test_the_size_of_a_result_is_limited(expression: str, data: JSON, limit: int) -> None:
    unit = "characters" if limit == MAX_TEXT else "items"
    name = expression.partition("(")[0]
    assert problem(expression, data) == f"{name}() would give more than {limit:,} {unit}"


def test_numbers_with_equal_hashes_do_not_slow_unique_down() -> None:
    colliding: list[JSON] = [number * (2**61 - 1) for number in range(1, 20_001)]
    started = time.process_time()
    assert evaluate("length(unique(@))", colliding) == 20_000
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "expression",
    ["unique([@])", "to_json(@)", "to_string(@)", "contains([@], root())", "@ == root()", "flatten(@, '_')"],
)
def test_a_value_nested_without_end_is_an_error_at_worst(expression: str) -> None:
    deep: JSON = {}
    other: JSON = {}
    for _ in range(50_000):
        deep, other = {"a": deep}, {"a": other}
    scope = Scope(root=other, body=other, headers={}, query={}, received_at=0)
    with pytest.raises(ExpressionError):
        compile_expression(expression).evaluate(deep, scope)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (10, 10.0, True),
        (True, 1, False),
        (0, False, False),
        ([1, [True]], [1.0, [True]], True),
        ([[True]], [[1]], False),
        ({"a": 1, "b": [None]}, {"b": [None], "a": 1.0}, True),
        ({"a": None}, {}, False),
        ({"a": 0}, {"a": False}, False),
        ("1", 1, False),
        (None, False, False),
        ([], {}, False),
        (10**400, 1e308, False),
        ([1], [1, 2], False),
    ],
)
def test_equality_is_that_of_json(left: JSON, right: JSON, expected: bool) -> None:
    assert equal(left, right, Budget().spend) is expected
    assert equal(right, left, Budget().spend) is expected


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_null_false_and_what_is_empty_are_false(value: JSON) -> None:
    assert truthy(value) is False


@pytest.mark.parametrize("value", [True, 0, 0.0, "0", [None]])
def test_anything_else_is_true_as_in_jmespath(value: JSON) -> None:
    assert truthy(value) is True


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (42, "42"),
        (42.0, "42"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e21, "1" + "0" * 21),
        (1.5e-10, "0.00000000015"),
        (2**200, str(2**200)),
    ],
)
def test_a_number_is_written_out(number: int | float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("name", "signature"),
    [("substring", "substring(s, start, length?)"), ("merge", "merge(obj, …)"), ("root", "root()")],
)
def test_a_function_shows_how_it_is_written(name: str, signature: str) -> None:
    assert FUNCTIONS[name].signature == signature
