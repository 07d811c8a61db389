"""YAML is read with places, scalars mean what they mean in JSON, and no file can do more than give an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Location, MappingError
from gateway.event import JSON
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar, plain, read
from tests.support.cases import read_cases


def problems(text: str) -> list[str]:
    with pytest.raises(MappingError) as caught:
        read(text, "f.yaml")
    return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]


def scalar(node: Node | None) -> Scalar:
    assert isinstance(node, Scalar)
    return node


def value(text: str) -> Scalar:
    node = read(f"a: {text}\n", "f.yaml")
    assert isinstance(node, ObjectNode)
    return scalar(node.get("a"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("0", 0),
        ("-0", 0),
        ("42", 42),
        ("-17", -17),
        ("12345678901234567890123", 12345678901234567890123),
        ("4.50", 4.5),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
    ],
)
def test_plain_scalars_of_json_are_typed(text: str, expected: JSON) -> None:
    node = value(text)
    assert (node.value, type(node.value), node.quoted, node.empty) == (expected, type(expected), False, False)


@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "Yes", "True", "TRUE", "NULL", "Null", "y"),
        *("12:30", "010", "0o10", "0x10", "1_000", "+1", "1.", ".5", "1e", "٣", "1.2.3"),
        *("2026-01-02", "2026-01-02T10:00:00Z", ".nan", ".inf", "NaN", "Infinity", "="),
        *("=data.id", "hello world", "x=1", "order.paid", "a|b"),
    ],
)
def test_every_other_plain_scalar_is_text(text: str) -> None:
    node = value(text)
    assert (node.value, node.quoted, node.empty) == (text, False, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'42'", "42"),
        ('"true"', "true"),
        ("''", ""),
        ('"~"', "~"),
        ('"a\\tb"', "a\tb"),
        (">-\n  =a\n  .b", "=a .b"),
        ("|\n  1\n", "1\n"),
    ],
)
def test_quoted_and_block_scalars_are_text(text: str, expected: str) -> None:
    node = value(text)
    assert (node.value, node.quoted, node.empty) == (expected, True, False)


@pytest.mark.parametrize("text", ["", "~", "# nothing"])
def test_nothing_and_a_tilde_are_empty(text: str) -> None:
    node = value(text)
    assert (node.value, node.empty) == (None, True)


@pytest.mark.parametrize("key", ["010", "true", "null", "42", "1.0", "~", "2026-01-02", "a b", "customer.created"])
def test_a_key_is_text_as_written(key: str) -> None:
    assert plain(read(f"{key}: 1\n'b': 2\n", "f.yaml")) == {key: 1, "b": 2}


def test_every_node_knows_its_place() -> None:
    top = read("version: 1\nevents:\n  order.paid:\n    - name: 'x'\n      id: =a\n    - b\n", "shop.yaml")
    assert isinstance(top, ObjectNode)
    events = top.get("events")
    assert isinstance(events, ObjectNode)
    key, calls = events.entries[0]
    assert isinstance(calls, ListNode)
    call, other = calls.items
    assert isinstance(call, ObjectNode)
    places = [
        node.location for node in (top, key, calls, call, scalar(call.get("name")), scalar(call.get("id")), other)
    ]
    expected = [(1, 1), (3, 3), (4, 5), (4, 7), (4, 13), (5, 11), (6, 7)]
    assert places == [Location(file="shop.yaml", line=line, column=column) for line, column in expected]


def test_the_place_of_a_plain_text_is_its_first_character_even_after_an_anchor() -> None:
    assert value("&x =a.b").location == Location(file="f.yaml", line=1, column=7)


def test_a_byte_order_mark_is_skipped() -> None:
    assert plain(read("\ufeffa: 1", "f.yaml")) == {"a": 1}


def test_a_key_that_is_not_there_gives_none() -> None:
    top = read("a: 1", "f.yaml")
    assert isinstance(top, ObjectNode)
    assert top.get("b") is None


def test_all_duplicate_keys_are_reported_at_once() -> None:
    text = "id: 1\na: {x: 1, x: 2}\nid: 2\n'id': 3\n"
    assert problems(text) == [
        "2:11: error duplicate-key: duplicate key 'x' (first on line 2)",
        "3:1: error duplicate-key: duplicate key 'id' (first on line 1)",
        "4:1: error duplicate-key: duplicate key 'id' (first on line 1)",
    ]


def test_keys_that_only_python_would_find_equal_are_different() -> None:
    assert plain(read("1: a\n1.0: b\ntrue: c\n", "f.yaml")) == {"1": "a", "1.0": "b", "true": "c"}


def test_aliases_and_merge_keys_work_and_own_keys_win() -> None:
    text = """
x-base: &base {a: 1, b: 2}
x-more: &more {b: 3, c: 4}
one: *base
two: {<<: *base, b: 5}
three:
  c: 6
  <<: [*base, *more]
four: {'<<': *base}
"""
    read_back = plain(read(text, "f.yaml"))
    assert isinstance(read_back, dict)
    assert read_back["one"] == {"a": 1, "b": 2}
    assert read_back["two"] == {"a": 1, "b": 5}
    assert read_back["three"] == {"c": 6, "a": 1, "b": 2}
    assert read_back["four"] == {"<<": {"a": 1, "b": 2}}


@pytest.mark.parametrize("source", ["1", "[1]", "[{a: 1}, b]", "~"])
def test_a_merge_key_takes_objects_only(source: str) -> None:
    assert problems(f"<<: {source}") == ["1:1: error merge-key: << takes an object, or a list of objects"]


def test_the_expansion_of_aliases_is_limited() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 9):
        items = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{items}]")
    (problem,) = problems("\n".join(lines))
    assert problem.endswith("error too-large: the aliases of this file stand for more than 10,000 values")


def test_aliases_of_aliases_cannot_be_nested_deeper_than_anything_else() -> None:
    levels = [f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 70)]
    (problem,) = problems("\n".join(["a0: &a0 [1]", *levels]))
    assert problem.endswith("error too-deep: values are nested more than 64 deep")


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: [*a]}", "a: &a\n  b: *a"])
def test_an_alias_inside_what_it_stands_for_is_an_error(text: str) -> None:
    assert "error recursive-alias: *a stands inside what it stands for" in problems(text)[0]


@pytest.mark.parametrize(
    "text", ["[" * 2000, "- " * 2000, "{a: " * 2000, "\n".join(" " * n + "a:" for n in range(300))]
)
def test_the_depth_is_limited_below_the_recursion_limit_of_python(text: str) -> None:
    assert problems(text)[0].endswith("error too-deep: values are nested more than 64 deep")


def test_the_depth_that_is_allowed_can_be_made_plain() -> None:
    levels = plain(read("[" * 63 + "1" + "]" * 63, "f.yaml"))
    for _ in range(63):
        assert isinstance(levels, list)
        (levels,) = levels
    assert levels == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((case.text, case.expected) for case in read_cases(Path(__file__).with_name("yaml_errors.txt"))["syntax"]),
        ("a:\n\t- b", "2:1: error yaml: a tab is used for indentation; use spaces"),
        ("a: =b\n\tc", "2:1: error yaml: a tab is used for indentation; use spaces"),
        ("", "1:1: error empty: the file is empty; it starts with  version: 1"),
        ("# version: 1\n", "2:1: error empty: the file is empty; it starts with  version: 1"),
        ("a: 1" + "0" * 5000, "1:4: error number: this number is too large; if text is meant, quote it"),
        ("a: 1\nb: x\0y", "2:5: error yaml: character U+0000 is not allowed in a file; remove it"),
        ("a: \ud800", "1:4: error yaml: character U+D800 is not allowed in a file; remove it"),
    ],
)
def test_a_syntax_error_names_its_place_and_the_fix(text: str, expected: str) -> None:
    assert problems(text) == [expected]


@pytest.mark.parametrize("text", ["!(a.b)", "!a.b == 'x'", "!a[?b]", "!{b}", "!x!y z", "!!binary aGk=", "!"])
def test_an_exclamation_mark_is_a_tag_and_tags_are_errors(text: str) -> None:
    assert problems(f"a: {text}") == ['1:4: error yaml-tag: "!" starts a YAML tag; write =!(…)']


@pytest.mark.parametrize(
    ("braces", "column", "key"),
    [("{b: =join('x', c)}", 19, "c)"), ("{b: =join('x', c, d), e: 1}", 19, "c"), ("{x: 1, b: =lower(c, d)}", 24, "d)")],
)
def test_a_comma_inside_an_unquoted_expression_is_recognised(braces: str, column: int, key: str) -> None:
    text = f"'{key}' is not a key: an expression with a comma inside {{ }} must be quoted"
    assert problems(f"a: {braces}") == [f"1:{column}: error unquoted-expression: {text}"]


@pytest.mark.parametrize("text", ["{a: , b: 1}", "{a}", "{a: ~}", "{a: 'b(', c: }", "{'a)': }"])
def test_an_empty_levelsin_braces_is_no_error_here(text: str) -> None:
    assert isinstance(read(text, "f.yaml"), ObjectNode)


def test_duplicate_keys_before_a_syntax_error_are_reported_too() -> None:
    assert [problem.split(" ")[2] for problem in problems("x: {a: 1, a: 2}\nb: 'c")] == ["duplicate-key:", "yaml:"]


@given(st.text(alphabet="ab=:-[]{}'\"&*!|>#%@`,?~<\\ \n\t\r01.\x00\x85\u2028é\ud800", max_size=40))
def test_any_text_is_a_document_or_a_mapping_error(text: str) -> None:
    try:
        plain(read(text, "f.yaml"))
    except MappingError as error:
        places = [problem.location for problem in error.problems]
    else:
        places = [Location(file="f.yaml", line=1, column=1)]
    assert min(min(place.line, place.column) for place in places) >= 1


@given(st.dictionaries(st.text(max_size=5), st.text(), min_size=1, max_size=4))
def test_what_is_written_as_quoted_yaml_is_read_back(texts: dict[str, str]) -> None:
    quoted = yaml.safe_dump(texts, default_style='"', allow_unicode=False)
    assert plain(read(quoted, "f.yaml")) == texts
