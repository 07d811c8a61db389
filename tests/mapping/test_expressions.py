"""Expressions: their values (test_compliance.py has the whole language), their errors at load, and their limits."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions import BadExpression, Expression, Names, Scope, compile_expression
from tests.support.cases import read_rows

NAMES = Names(variables=frozenset({"plan"}), tables=frozenset({"plans"}))


def lines_of(name: str, separator: str = "\n") -> list[str]:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").strip().split(separator)


def scope(root: JSON) -> Scope:
    return Scope(root=root, body=root, headers={}, query={}, received_at=1767225600)


def evaluate(expression: str, data: JSON) -> JSON:
    return compile_expression(expression, NAMES).evaluate(data, scope(data))


# What expressions mean

SHOP: JSON = {
    "type": "order.paid",
    "paid": True,
    "total": 0,
    "note": "",
    "customer": {"id": "c1", "first-name": "Ada", "emails": [{"v": "a@x", "main": False}, {"v": "b@x", "main": True}]},
    "items": [
        {"sku": "a", "price": 5, "tags": ["new", "red"]},
        {"sku": "b", "price": 12.5, "tags": []},
        {"sku": "c", "price": 7},
    ],
    "grid": [[1, 2], [3, [4]], 5],
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('customer."first-name"', "Ada"),
        ("total || `1`", 0),
        ("items[?price > `6`].price", [12.5, 7]),
        ("items[].{id: sku, cost: price} | [1]", {"id": "b", "cost": 12.5}),
        ("grid[][]", [1, 2, 3, 4, 5]),
        ("paid == `1`", False),
        ("missing < `5`", None),
        ("sort_by(items, &price)[].sku", ["a", "c", "b"]),
    ],
)
def test_expressions_give_values_of_the_kind_in_the_payload(expression: str, expected: JSON) -> None:
    assert json.dumps(evaluate(expression, SHOP)) == json.dumps(expected)


@pytest.mark.parametrize(
    ("expression", "left", "right"),
    [("a < b", "text", "a number"), ("b >= a", "a number", "text"), ("[{x: '2'}][?x > `1`]", "text", "a number")],
)
def test_comparing_text_with_a_number_is_an_error(expression: str, left: str, right: str) -> None:
    with pytest.raises(ExpressionError, match=f"^cannot compare {left} with {right} by [<>]=?; to_number"):
        evaluate(expression, {"a": "1", "b": 2})


def test_an_expression_never_changes_what_it_is_applied_to() -> None:
    data = copy.deepcopy(SHOP)
    for expression in ("reverse(items)", "sort_by(items, &price)", "merge(customer, {id: 'x'})", "items[][]", "grid[]"):
        evaluate(expression, data)
    assert json.dumps(data) == json.dumps(SHOP)


def test_an_expression_shows_its_text() -> None:
    compiled = compile_expression(" data.id ")
    assert compiled.text == " data.id "
    assert repr(compiled) == "Expression(' data.id ')"


# What is wrong with an expression


def refusal(expression: str) -> tuple[int, str]:
    """Return where an expression is bad, and the code and text of its problem."""
    with pytest.raises(BadExpression) as caught:
        compile_expression(expression, NAMES)
    assert str(caught.value) == caught.value.problem
    return caught.value.offset, f"{caught.value.code}: {caught.value.problem}"


@pytest.mark.parametrize("bad", lines_of("expression_errors.txt", "\n\n"))
def test_a_bad_expression_is_an_error_with_its_place_and_the_fix(bad: str) -> None:
    """In the file, ^ is below the place of the error."""
    expression, error = bad.split("\n")
    assert refusal(expression) == (error.index("^"), error.strip(" ^"))


@pytest.mark.parametrize("expression", ["", " \n"])
def test_an_empty_expression_is_an_error(expression: str) -> None:
    assert refusal(expression) == (0, "expression: an expression is missing after =")


def test_a_long_expression_is_an_error() -> None:
    assert refusal("x" * 5000) == (0, "too-long: an expression has at most 4,096 characters, this one 5,000")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    read_rows(Path(__file__).with_name("regex_errors.txt")),
)
def test_a_bad_regular_expression_says_why(pattern: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, more in (("match", ""), ("extract", ""), ("replace", ", ''")):
        with pytest.raises(BadExpression) as caught:
            compile_expression(f"regex_{name}(a, '{pattern}'{more})")
        assert caught.value.code == "bad-regex"
        assert caught.value.problem == f"bad regular expression '{pattern}': {problem}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("expression", [*lines_of("expressions_resembling_mistakes.txt"), "a\n.b"])
def test_expressions_that_resemble_mistakes_are_accepted(expression: str) -> None:
    assert isinstance(compile_expression(expression, NAMES), Expression)


def test_index_is_known_inside_each() -> None:
    data: JSON = None
    inside = Scope(root=data, body=data, headers={}, query={}, received_at=0, index=3)
    assert compile_expression("index()", Names(inside_each=True)).evaluate(data, inside) == 3


def test_the_scope_of_an_item_has_all_that_the_scope_of_its_part_has() -> None:
    part = Scope(root=1, body=2, headers={"a": "b"}, query={"c": "d"}, received_at=3, event_type="e")
    part.let, part.known, part.tables = {"f": lambda _current, _scope: 4}, {"g": 5}, {"h": {"i": 6}}
    inside = part.inside_each(7)
    assert inside == replace(part, index=7)
    assert inside.budget is part.budget
    assert inside.known is part.known


# Limits


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 1000 + "a" + ")" * 1000,
        "[" * 2000,
        "!" * 1000 + "a",
        "& " * 2000,
        "a" + "[*]" * 1300,
        "a" + "[]" * 2000,
        "a" + ".*" * 2000,
        "a[?" * 1000,
        "lower(" * 500 + "a" + ")" * 500,
        "{a:" * 1000,
        "a" + "[?x]" * 800,
        "`" + "[" * 4000 + "`",
    ],
    ids=lambda text: text[:8],
)
def test_the_nesting_of_an_expression_is_limited(expression: str) -> None:
    with pytest.raises(BadExpression) as caught:
        compile_expression(expression)
    assert caught.value.code in ("too-deep", "not-json")


@pytest.mark.parametrize("joint", [" || ", " && ", ".", " | "])
def test_long_chains_are_not_deep(joint: str) -> None:
    compiled = compile_expression(joint.join(["a"] * 500))
    assert compiled.evaluate({}, scope({})) is None


def test_a_list_that_grows_with_the_square_of_the_payload_is_stopped() -> None:
    data: JSON = {"items": [1] * 5000}
    started = time.process_time()
    with pytest.raises(ExpressionError, match=r"^\[\] would give more than 100,000 items$"):
        evaluate("map(&root().items, items)[]", data)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("expression", ["a", "ceil(a)", "add(a, `1`)", "round(a)", "unix(a)"])
def test_a_number_that_is_not_json_never_comes_out(expression: str, number: float) -> None:
    with pytest.raises(ExpressionError):
        evaluate(expression, {"a": number})


@given(st.text(alphabet="ab.[]()*?@&|!=<>,:'\"`{}-01 \\é$", max_size=30))
def test_any_text_compiles_or_is_a_bad_expression(text: str) -> None:
    try:
        compile_expression(text).evaluate(SHOP, scope(SHOP))
    except BadExpression as error:
        offset = error.offset
    except ExpressionError:
        offset = 0
    else:
        offset = 0
    assert 0 <= offset <= len(text)
