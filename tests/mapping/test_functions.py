"""The functions: their results, their nulls, their errors, and their limits for hostile payloads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions import Names, Scope, compile_expression
from gateway.mapping.functions import FUNCTIONS, MAX_ITEMS, MAX_STEPS, MAX_TEXT, Budget, Function, equal, truthy
from gateway.text import number_text

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
    "text": """lower upper trim split replace join format substring slug regex_match regex_extract
        regex_replace""",
    "kinds": "to_number to_string to_bool to_array parse_json to_json",
    "time": "unix",
    "hash, encode": "sha256 md5 base64 base64_decode url_encode url_decode",
    "objects, lists": """pick omit rename flatten prefix_keys merge items from_items zip unique first
        last""",
    "numbers, choice": "add subtract multiply divide round if not_null",
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


NULL_TAKERS = {"if", "not_null", "type", "to_array", "merge", "lookup"}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_a_null_argument_gives_null_except_where_the_language_says_otherwise(function: Function) -> None:
    assert function.takes_null == (function.name in NULL_TAKERS)
    if function.takes_null or not function.parameters or function.parameters[0].literal:
        return
    least = [parameter for parameter in function.parameters if not parameter.optional]
    written = ", ".join(_argument(function, position, "nothing") for position in range(len(least)))
    assert evaluate(f"{function.name}({written})", {"x": 1}) is None


@pytest.mark.parametrize(
    ("expression", "data", "expected"),
    [
        # around the body
        ("header('x-NAME')", None, "Ada"),
        ("header('X-Missing')", None, None),
        ("query('missing')", None, None),
        ("items[].root().id", {"id": 1, "items": [{"id": 2}, {"id": 3}]}, [1, 1]),
        ("lookup('plans', key)", {"key": "price_2"}, "Other"),
        ("lookup('plans', key)", {}, "Other"),
        ("lookup('plans', key)", {"key": 42.0}, "Pro"),
        ("lookup('plans', key)", {"key": True}, "Yes"),
        # text
        ("trim(@)", "\n a b\t", "a b"),
        ("split(@, ', ')", "a, b,c", ["a", "b,c"]),
        ("split(@, ',')", "", [""]),
        ("join('.', [a, b])", {"a": "issues", "b": "opened"}, "issues.opened"),
        ("join('.', [a, b])", {"a": "push"}, "push"),
        ("join('.', [a, b])", {}, None),
        ("join('.', @)", [], None),
        ("join('.', @)", [""], ""),
        ("join('-', @)", [1, 2.0, 2.5, "x", None], "1-2-2.5-x"),
        ("format('{}', x)", {"x": 42.0}, "42"),
        ("format('{{}} {}', x)", {"x": "{}"}, "{} {}"),
        ("format('{}{}', x, x)", {"x": 0.1}, "0.10.1"),
        ("format('plain')", None, "plain"),
        ("format('{}', x)", {}, None),
        ("substring(@, `2`)", "abcdef", "cdef"),
        ("substring(@, `-2`)", "abcdef", "ef"),
        ("substring(@, `-9`, `2`)", "abcdef", "ab"),
        ("substring(@, `4`, `9`)", "abcdef", "ef"),
        ("substring(@, `9`, `1`)", "abcdef", ""),
        ("substring(@, `1.0`, `2.0`)", "abcdef", "bc"),
        ("slug(@)", "  Größe & Äpfel  ", "grosse-apfel"),
        ("slug(@)", "Привет, мир", "привет-мир"),
        ("slug(@)", "...", ""),
        ("replace(@, '{}', '')", "a{}b", "ab"),
        ("reverse(@)", "abc", "cba"),
        ("length(@)", "aé😀", 3),
        ("slug(@)", "a" + "\u0316\u0300" * 3 + "\u0344\u0f73 B", "a-b"),
        ("regex_match(@, 'b+')", "abbc", True),
        ("regex_match(@, '^b')", "abbc", False),
        ("regex_match(@, '(?i)^ABB')", "abbc", True),
        ("regex_match(@, '^.$')", "😀", True),
        ("regex_match(@, '\\p{Greek}')", "naïve λ", True),
        ("regex_match(@, 'x')", "\ud800x", True),
        ("regex_extract(@, 'b+')", "abbc", "bb"),
        ("regex_extract(@, 'x+')", "abbc", None),
        ("regex_extract(@, '(b)(c)')", "abbc", "b"),
        ("regex_extract(@, '(b)(c)', `2`)", "abbc", "c"),
        ("regex_extract(@, '(b)(c)', `0`)", "abbc", "bc"),
        ("regex_extract(@, '(b)(c)', `2.0`)", "abbc", "c"),
        ("regex_extract(@, '(x)|(b)')", "abbc", None),
        ("regex_extract(@, '(x)|(b)', `2`)", "abbc", "b"),
        ("regex_extract(@, '(x*)')", "abbc", ""),
        ("regex_extract(@, '(?P<year>[0-9]{4})-(?<month>[0-9]{2})', 'month')", "on 2026-03-01", "03"),
        ("regex_extract(@, '(?P<größe>.)$', 'größe')", "aé😀", "😀"),
        ("regex_replace(@, 'b', 'x')", "abbc", "axxc"),
        ("regex_replace(@, 'x', 'y')", "abbc", "abbc"),
        ("regex_replace(@, '(\\w)(\\w)', '\\2\\1')", "abcde", "badce"),
        ("regex_replace(@, '(x)?b', '[\\1]')", "ab", "a[]"),
        ("regex_replace(@, 'b', '<\\0>')", "abc", "a<b>c"),
        ("regex_replace(@, 'b', `\"\\\\\\\\\"`)", "abc", "a\\c"),
        ("regex_replace(@, 'x*', '-')", "aéx", "-a-é--"),
        ("regex_replace(@, '$', '!')", "é😀", "é😀!"),
        ("regex_replace(@, '\\b', '|')", "ab cd", "|ab| |cd|"),
        ("regex_replace(@, '\\B', '|')", "aéb", "aéb"),
        ("regex_replace(@, '^a', 'x')", "aaa", "xaa"),
        ("regex_replace(a, '[aé]', to)", {"a": "aéb", "to": "\\0\\0"}, "aaééb"),
        # kinds
        ("to_number(@)", "-0.50", -0.5),
        ("to_number(@)", "1e3", 1000.0),
        ("to_number(@)", "12345678901234567890", 12345678901234567890),
        ("to_number(@)", 7, 7),
        ("to_string(@)", 42.0, "42"),
        ("to_string(@)", 1e22, "10000000000000000000000"),
        ("to_string(@)", 1e-7, "0.0000001"),
        ("to_string(@)", -0.0, "0"),
        ("to_string(@)", 12345678901234567890, "12345678901234567890"),
        ("to_string(@)", True, "true"),
        ("to_string(@)", {"a": ["é", None]}, '{"a":["é",null]}'),
        ("to_bool(@)", "NO", False),
        ("to_bool(@)", "True", True),
        ("to_bool(@)", 1.0, True),
        ("to_bool(@)", 0, False),
        ("to_bool(@)", False, False),
        ("to_array(@)", None, [None]),
        ("to_array(@)", [1], [1]),
        ("parse_json(@)", " [1, 2.5, null] ", [1, 2.5, None]),
        ("parse_json(@)", '"\\ud800"', "\ud800"),
        ("to_json(@)", "é", '"é"'),
        ("type(@)", None, "null"),
        ("type(@)", True, "boolean"),
        ("type(@)", [1], "array"),
        # hashes and encodings
        ("sha256(@)", "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("sha256(@)", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("md5(@)", "abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("base64(@)", "é😀", "w6nwn5iA"),
        ("base64_decode(@)", "w6nwn5iA", "é😀"),
        ("base64_decode(@)", "fn5-", "~~~"),
        ("base64_decode(@)", "QQ", "A"),
        ("base64_decode(@)", "QQ==", "A"),
        ("url_encode(@)", "a/b+c é", "a%2Fb%2Bc%20%C3%A9"),
        ("url_decode(@)", "a%2Fb+c%20%C3%A9", "a/b+c é"),
        ("base64(@)", "\ud83d", "77+9"),
        # objects and lists
        ("pick(@, ['b', 'x'])", {"a": 1, "b": None}, {"b": None}),
        ("omit(@, `[]`)", {"a": 1}, {"a": 1}),
        ("rename(@, {a: 'b', b: 'a'})", {"a": 1, "b": 2}, {"b": 1, "a": 2}),
        ("rename(@, {x: 'a', y: 'a'})", {"a": 1}, {"x": 1, "y": 1}),
        ("rename(@, {b: 'a'})", {"a": 1, "b": 2}, {"b": 1}),
        ("rename(@, {b: 'missing'})", {"b": 2}, {"b": 2}),
        ("flatten(@, '.')", {"a": {"b": {"c": 1}, "d": [{"e": 1}]}, "f": {}}, {"a.b.c": 1, "a.d": [{"e": 1}], "f": {}}),
        ("merge(a, b)", {"b": {"x": None}}, {"x": None}),
        ("merge(a)", {}, {}),
        ("from_items(@)", [["a", 1], ["a", 2]], {"a": 2}),
        ("from_items(items(@))", {"a": 1, "b": None}, {"a": 1, "b": None}),
        ("zip(a, b, a)", {"a": [1, 2, 3], "b": ["x"]}, [[1, "x", 1]]),
        (
            "unique(@)",
            [1, 1.0, True, "1", "true", None, None, [1], [1.0], [True]],
            [1, True, "1", "true", None, [1], [True]],
        ),
        ("unique(@)", [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], [{"a": 1, "b": 2}]),
        ("first(@)", [], None),
        ("last(@)", [], None),
        ("last(@)", [1, None], None),
        ("contains(@, `1`)", [True, "1"], False),
        ("contains(@, `1`)", [1.0], True),
        ("contains(@, `[true]`)", [[1]], False),
        ("contains(@, 'b')", "abc", True),
        ("contains(@, x)", [1], None),
        ("map(&x, @)", [{"x": 1}, {}], [1, None]),
        ("sort(@)", ["b", "a", "B"], ["B", "a", "b"]),
        ("sort(@)", [2, 1.5, 10**400], [1.5, 2, 10**400]),
        ("sort(@)", [], []),
        ("sort_by(@, &k)[].v", [{"k": 1, "v": "a"}, {"k": 0, "v": "b"}, {"k": 1.0, "v": "c"}], ["b", "a", "c"]),
        ("max(@)", [], None),
        ("max(@)", ["a", "b"], "b"),
        ("min(@)", [2, 1.5], 1.5),
        ("max_by(@, &k).v", [{"k": 1, "v": "a"}, {"k": 1, "v": "b"}], "a"),
        ("min_by(@, &k).v", [{"k": 1, "v": "a"}, {"k": 1, "v": "b"}], "a"),
        ("min_by(@, &k)", [], None),
        # numbers and choice
        ("add(@, `0.2`)", 0.1, 0.3),
        ("add(@, `0.5`)", 0.5, 1),
        ("add(@, `1`)", 10**300, 10**300 + 1),
        ("subtract(@, `0.1`)", 0.3, 0.2),
        ("multiply(@, `100`)", 19.99, 1999),
        ("multiply(@, `3`)", 0.1, 0.3),
        ("divide(@, `100`)", 4900, 49),
        ("divide(@, `100`)", -1999, -19.99),
        ("divide(@, `3`)", 1, 1 / 3),
        ("divide(@, `10`)", 10**301, 10**300),
        ("round(@)", 2.5, 3),
        ("round(@)", -2.5, -3),
        ("round(@, `2`)", 1.005, 1.01),
        ("round(@, `2`)", 1e300, 1e300),
        ("round(@, `-2`)", 1250, 1300),
        ("round(@, `-2`)", -1250.0, -1300),
        ("round(@, `2`)", 7, 7),
        ("sum(@)", [0.1] * 10, 1),
        ("sum(@)", [], 0),
        ("sum(@)", [1, 2], 3),
        ("avg(@)", [], None),
        ("avg(@)", [1, 2, 3], 2),
        ("abs(@)", -0.5, 0.5),
        ("ceil(@)", -1.5, -1),
        ("floor(@)", -1.5, -2),
        ("if(@, 'yes', 'no')", 0, "yes"),
        ("if(@, 'yes', 'no')", "", "no"),
        ("if(@, 'yes', nothing)", None, None),
        ("not_null(a, b, 'c')", {"b": False}, False),
        ("not_null(a)", {}, None),
    ],
)
def test_functions_give(expression: str, data: JSON, expected: JSON) -> None:
    found = evaluate(expression, data)
    assert same(found, expected)


NEW_YEAR_2026 = [
    *(1767225600, 1767225600.9, 1767225600123, 1767225600999.5),
    *("1767225600", "1767225600123", "1767225600.000500", "2026-01-01", "2026-01-01T00:00:00Z"),
    *("2026-01-01t00:00:00z", "2026-01-01T00:00:00", "2026-01-01T00:00Z", "2026-01-01 00:00:00 UTC"),
    *("2026-01-01 00:00:00+00", "2026-01-01T00:00:00.9Z", "2026-01-01T00:00:00,999999999Z"),
    *("2026-01-01T05:30:00+05:30", "2025-12-31T19:00:00-0500", "Thu, 01 Jan 2026 00:00:00 GMT"),
    *("Thu,  1 Jan 2026 00:00:00 +0000 (UTC)", "1 jan 2026 00:00 -0000", "Wed, 31 Dec 2025 19:00:00 EST"),
]


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        *((moment, 1767225600) for moment in NEW_YEAR_2026),
        (0, 0),
        (-1.5, -2),
        (99999999999, 99999999999),
        (100000000000, 100000000),
        ("1969-12-31T23:59:59.5Z", -1),
        ("0001-01-01", -62135596800),
        ("9999-12-31T23:59:60Z", 253402300800),
        ("2024-02-29", 1709164800),
    ],
)
def test_unix_reads(moment: JSON, seconds: int) -> None:
    assert evaluate("unix(@)", moment) == seconds


@pytest.mark.parametrize(
    "moment",
    [
        *("", " ", "now", "tomorrow", "2026", "202601", "2026-01", "2026-1-1", "01/02/2026", "20260102", "2026-W01-1"),
        *("2026-02-29", "2026-13-01", "2026-00-01", "0000-01-01", "2026-01-01T24:00:00Z", "2026-01-01T00:60Z"),
        *("2026-01-01T00:00:00.1234567890Z", "2026-01-01T00:00:00.Z", "2026-01-01T00", "2026-01-01Z"),
        *("2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+05:60", "2026-01-01T00:00:00 CET", " 2026-01-01"),
        *("٢٠٢٦-01-01", "1767225600s", "1e9", "17672256001234567", "+1767225600", "2026-01-01\n"),
        *(
            "Thu, 01 Jan 2026",
            "Thu, 32 Jan 2026 00:00:00 GMT",
            "Thu, 01 Jan 26 00:00:00 GMT",
            "1 \u017fep 2026 00:00 Z",
        ),
        *(10**13, 1e300, -(10**400), 17672256001234567),
    ],
)
def test_unix_refuses(moment: JSON) -> None:
    assert "unix() " in problem("unix(@)", moment)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", " 1", "1 ", "+1", "01", "1_000", "1,000", ".5", "5.", "0x10"),
        *("nan", "inf", "-Infinity", "1e999", "٣", "9" * 400),
    ],
)
def test_to_number_is_strict(text: str) -> None:
    assert problem("to_number(@)", text).startswith("to_number() cannot read this text")


@pytest.mark.parametrize(
    ("expression", "data", "expected"),
    [
        ("lower(@)", 42, "lower() needs text, got a number"),
        ("lower(@)", True, "lower() needs text, got a boolean"),
        ("divide(@, `2`)", "10", "divide() needs numbers, got text"),
        ("divide(`1`, @)", 0, "divide() cannot divide by zero"),
        ("divide(`1`, @)", -0.0, "divide() cannot divide by zero"),
        ("split(@, ',')", [], "split() needs text, got a list"),
        ("join(',', @)", "a", "join() needs a list for 'list', got text"),
        (
            "join(',', @)",
            ["a", {}],
            "join() needs a list of text or numbers, got an object in it; to_string(…) turns it into text",
        ),
        ("substring(@, `0.5`)", "abc", "substring() needs a whole number for start"),
        ("substring(@, `0`, `-1`)", "abc", "substring() needs a length of 0 or more"),
        ("split('a', @)", "", "split() needs a separator that is not empty"),
        ("replace('a', @, 'b')", "", "replace() needs a text to look for that is not empty"),
        ("format(@, 'b')", "{} {}", "format() has 2 {} for 1 value"),
        ("format(@, 'b')", "{name}", "format() takes {} as its placeholder; a brace itself is written {{ or }}"),
        ("format('{}', @)", [1], "format() needs text or a number for 'x', got a list"),
        ("to_number(@)", True, "to_number() needs text or a number, got a boolean"),
        ("to_bool(@)", "maybe", "to_bool() needs true or false, yes or no, 1 or 0, and this is none of them"),
        ("to_bool(@)", 2, "to_bool() needs true or false, yes or no, 1 or 0, and this is none of them"),
        ("to_bool(@)", [], "to_bool() needs text, a number or a boolean, got a list"),
        ("parse_json(@)", "{'a': 1}", "parse_json() cannot read this text: it is not JSON"),
        ("parse_json(@)", "NaN", "parse_json() cannot read this text: it is not JSON"),
        ("parse_json(@)", "[1e999]", "parse_json() cannot read this text: it is not JSON"),
        ("parse_json(@[0])", ["9" * 5000], "parse_json() cannot read this text: it is not JSON"),
        (
            "parse_json(@[0])",
            ["[" * 65 + "]" * 65],
            "parse_json() cannot read this text: it is nested more than 64 deep",
        ),
        ("parse_json(@[0])", ["[" * 100_000], "parse_json() cannot read this text: it is nested more than 64 deep"),
        ("base64_decode(@)", "a", "base64_decode() cannot read this text as base64"),
        ("base64_decode(@)", "a b", "base64_decode() cannot read this text as base64"),
        ("base64_decode(@)", "é", "base64_decode() cannot read this text as base64"),
        ("base64_decode(@)", "/w==", "base64_decode() found bytes that are not text in UTF-8"),
        ("url_decode(@)", "%ff", "url_decode() found bytes that are not text in UTF-8"),
        ("regex_match(@, 'a')", 1, "regex_match() needs text, got a number"),
        (
            "regex_replace('a', '(a)(?P<b>b)?', @)",
            "\\7",
            "a \\ in 'to' of regex_replace() stands before the number of a group; it has `1`, `2` ('b'); "
            "the character itself is written \\\\",
        ),
        ("merge(@)", [], "merge() needs objects, got a list"),
        ("lookup('plans', @)", [], "lookup() needs text, a number or a boolean for 'key', got a list"),
        ("pick(@, [`1`])", {}, "pick() needs a list of text"),
        ("rename(@, {a: b})", {"b": 1}, "rename() needs names written as {new: 'old'}, got a number"),
        ("from_items(@)", [["a"]], "from_items() needs a list of [key, value] whose keys are text"),
        ("from_items(@)", [[1, 2]], "from_items() needs a list of [key, value] whose keys are text"),
        ("zip(@, @)", {}, "zip() needs lists, got an object"),
        ("contains(@, `1`)", "1", "contains() needs text to look for in text, got a number"),
        ("contains(@, 'a')", {}, "contains() needs text or a list for 'list', got an object"),
        ("sum(@)", [1, "2"], "sum() needs a list of numbers, got a number and text among them"),
        ("sum(@)", [True], "sum() needs a list of numbers, got a boolean among them"),
        ("sort(@)", [1, "2"], "sort() needs a list of numbers or of text, got a number and text among them"),
        ("max(@)", [None], "max() needs a list of numbers or of text, got null among them"),
        (
            "sort_by(@, &a)",
            [{"a": 1}, {}],
            "sort_by() needs numbers or text for all items from its expression, got a number and null among them",
        ),
        ("round(@, `0.5`)", 1.5, "round() needs a whole number for digits"),
        ("round(@, `21`)", 1.5, "round() needs digits between -20 and 20"),
        ("multiply(@, @)", 1e300, "multiply() gives a number that is too large"),
        ("multiply(@, @)", 10**300, "multiply() gives a number that is too large"),
        ("add(@, `1`)", 10**400, "add() gives a number that is too large"),
        ("divide(@, `0.1`)", 1e308, "divide() gives a number that is too large"),
        ("divide(@, `3`)", 10**400, "divide() gives a number that is too large"),
        ("sum(@)", [1e308, 1e308], "sum() gives a number that is too large"),
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
    taken = [place for place, parameter in enumerate(function.parameters) if not parameter.literal]
    pool = AWKWARD if len(taken) < 3 else AWKWARD[::2]
    for values in product(pool, repeat=len(taken)):
        data: list[JSON] = ["a"] * len(function.parameters)
        for place, value in zip(taken, values, strict=True):
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


@pytest.mark.parametrize(
    "expression",
    [
        "[?contains(root(), @)]",
        "[].length(root()[?@ == 'x'])",
        "[].{all: root()[].{one: @}}",
        "[].[root()[].[@]]",
        "map(&map(&lower(@), root()), @)",
        "map(&join('-', root()), @)",
        "map(&unique(root()), @)",
        "map(&sort(root()), @)",
        "map(&sort_by(root(), &@), @)",
        "map(&to_json(root()), @)",
        "map(&reverse(root()), @)",
        "map(&zip(root(), root()), @)",
        "map(&(root() == body()), @)",
        "map(&contains([root()], body()), @)",
        "map(&root()[::2], @)",
        "map(&root()[], @)",
        "map(&from_items(root()[].[@, `1`]), @)",
        "map(&flatten({a: from_items(root()[].[@, `1`])}, '_'), @)",
        "map(&add(`1`, `0.5`), root()[].root()[])",
        "map(&regex_match(@, 'a'), root()[].root()[])",
        "map(&regex_replace(join('', root()), '(a.*z|[0-9])', 'x'), @)",
        "map(&sha256(join('', root())), @)",
        "map(&parse_json(to_json(root())), @)",
        "map(&split(join(',', root()), ','), @)",
        "map(&var('all'), @)[].length(var('all'))[].length(root()[?@ == 'x'])",
    ],
)
def test_no_payload_keeps_a_process_busy_for_minutes(expression: str) -> None:
    data: list[JSON] = [str(number) for number in range(10_000)]
    compiled = compile_expression(expression, Names(variables=frozenset({"all"})))
    scope = Scope(root=data, body=[*data], headers={}, query={}, received_at=0, let={"all": lambda root, _: root})
    scope.budget.left = MAX_STEPS // 20
    started = time.process_time()
    with pytest.raises(ExpressionError, match=r"take more than 5,000,000 steps|would give more than 100,000 items"):
        compiled.evaluate(data, scope)
    assert time.process_time() - started < 3


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


FALSE: list[JSON] = [None, False, "", [], {}]
TRUE: list[JSON] = [True, 0, 0.0, "0", [None]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, False) for value in FALSE),
        *((value, True) for value in TRUE),
    ],
)
def test_truth_is_that_of_jmespath(value: JSON, expected: bool) -> None:
    assert truthy(value) is expected


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
