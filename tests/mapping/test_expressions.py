"""Expressions: their values (test_compliance.py has the whole language), their errors at load, and their limits."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.expressions import BadExpression, Expression, Names, Scope, compile_expression

NAMES = Names(variables=frozenset({"plan"}), tables=frozenset({"plans"}))


def scope(root: JSON) -> Scope:
    return Scope(root=root, body=root, headers={}, query={}, received_at=1767225600)


def evaluate(expression: str, data: JSON) -> JSON:
    return compile_expression(expression, NAMES).evaluate(data, scope(data))


def same(left: JSON, right: JSON) -> bool:
    """Equal as JSON text would be: true is not 1, and 1 is not 1.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return left == right


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
    assert same(evaluate(expression, SHOP), expected)


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
    assert same(data, SHOP)


def test_an_expression_shows_its_text() -> None:
    compiled = compile_expression(" data.id ")
    assert compiled.text == " data.id "
    assert repr(compiled) == "Expression(' data.id ')"


# What is wrong with an expression


@pytest.mark.parametrize(
    ("expression", "offset", "code", "problem"),
    [
        ("lowr(a)", 0, "unknown-function", "unknown function lowr(); did you mean lower()?"),
        ("a || xyzzy(b)", 5, "unknown-function", "unknown function xyzzy()"),
        ("a[?b == lowr(c)].upper(@)", 8, "unknown-function", "unknown function lowr(); did you mean lower()?"),
        ("split(a)", 0, "arity", "split() takes 2 arguments, got 1"),
        ("lower()", 0, "arity", "lower() takes 1 argument, got 0"),
        ("root(a)", 0, "arity", "root() takes no arguments, got 1"),
        ("substring(a)", 0, "arity", "substring() takes 2 or 3 arguments, got 1"),
        ("a.merge()", 2, "arity", "merge() takes at least 1 argument, got 0"),
        ("lower(upper(a, b))", 6, "arity", "upper() takes 1 argument, got 2"),
        (
            "data.my-key",
            7,
            "unquoted-name",
            "bad expression: a field name with '-' needs double quotes: data.\"my-key\"",
        ),
        ("my-2", 2, "unquoted-name", "bad expression: a field name with '-' needs double quotes: \"my-2\""),
        ("a.$set", 2, "unquoted-name", "bad expression: a field name with '$' needs double quotes: a.\"$set\""),
        ("straße", 4, "unquoted-name", "bad expression: a field name with 'ß' needs double quotes: \"straße\""),
        ('a == "paid"', 5, "quoted-field", "\"paid\" after == is a field name; text is written 'paid'"),
        ('a[?b!="paid"]', 6, "quoted-field", "\"paid\" after != is a field name; text is written 'paid'"),
        ("total > 5", 8, "bare-number", "numbers in expressions are written in backticks: `5`"),
        ("divide(a, 100)", 10, "bare-number", "numbers in expressions are written in backticks: `100`"),
        ("a == -1.5", 5, "bare-number", "numbers in expressions are written in backticks: `-1.5`"),
        ("[1, 2]", 1, "bare-number", "numbers in expressions are written in backticks: `1`"),
        ("5", 0, "bare-number", "numbers in expressions are written in backticks: `5`"),
        ("!a.b", 0, "negated-path", "!a.b means (!a).b in JMESPath and is always null; write !(a.b)"),
        (
            "x && !a.b[0].c == 'y'",
            5,
            "negated-path",
            "!a.b[0].c means (!a).b[0].c in JMESPath and is always null; write !(a.b[0].c)",
        ),
        ("!a[?x].y", 0, "negated-path", "!a[?x].y means (!a)[?x].y in JMESPath and is always null; write !(a[?x].y)"),
        ("true", 0, "bare-word", "'true' is a field name; write `true`"),
        ("a == null", 5, "bare-word", "'null' is a field name; write `null`"),
        ("if(a, true, b)", 6, "bare-word", "'true' is a field name; write `true`"),
        (
            "b || a[?x] | [0]",
            11,
            "loose-pipe",
            "'|' applies to everything on its left; write first(a[?x]) or parentheses",
        ),
        (
            "join(',', [x == 'y' && a[?x] | [0]])",
            29,
            "loose-pipe",
            "'|' applies to everything on its left; write first(a[?x]) or parentheses",
        ),
        ("a[?x][0]", 5, "index-after-filter", "[0] after a filter applies to each item; write first(a[?x])"),
        (
            "x || a.b[?c == 'd'][-1].e",
            19,
            "index-after-filter",
            "[-1] after a filter applies to each item; write last(a.b[?c == 'd'])",
        ),
        ("a[?x][2]", 5, "index-after-filter", "[2] after a filter applies to each item; write (a[?x])[2]"),
        ("`010`", 0, "not-json", "`010` is not JSON; text is written '010'"),
        ("a == `paid`", 5, "not-json", "`paid` is not JSON; text is written 'paid'"),
        ("`NaN`", 0, "not-json", "`NaN` is not JSON; text is written 'NaN'"),
        ("`1e999`", 0, "not-json", "`1e999` is not JSON; text is written '1e999'"),
        ("a[::0]", 4, "slice-step", "the step of a slice cannot be 0"),
        ("header(name)", 7, "argument", "header() needs its name written here in single quotes"),
        ("header(`5`)", 7, "argument", "header() needs its name written here in single quotes"),
        ("lookup(a, b)", 7, "argument", "lookup() needs its table written here in single quotes"),
        ("split(a, `5`)", 9, "argument", "split() needs text, got a number"),
        ("split(a, '')", 9, "argument", "split() needs a separator that is not empty"),
        ("replace(a, '', b)", 11, "argument", "replace() needs a text to look for that is not empty"),
        ("regex_match(a, '(a')", 15, "bad-regex", "bad regular expression '(a': missing )"),
        ("regex_match(a, b)", 15, "argument", "regex_match() needs its pattern written here in single quotes"),
        (
            "x || regex_extract(lower(a), '(b)', 'c')",
            36,
            "unknown-group",
            "the regular expression has no group 'c'; it has `1`",
        ),
        (
            "regex_extract(a, '(?P<year>b)(c)', 'yaer')",
            35,
            "unknown-group",
            "the regular expression has no group 'yaer'; it has `1` ('year'), `2`; did you mean 'year'?",
        ),
        (
            "regex_extract(a, 'b', `1`)",
            22,
            "unknown-group",
            "the regular expression has no group `1`; it has none, and `0` is the whole match",
        ),
        ("regex_extract(a, 'b', c)", 22, "argument", "regex_extract() needs its group written here as `1` or 'group'"),
        ("regex_extract(a, '(b)', 1)", 24, "bare-number", "numbers in expressions are written in backticks: `1`"),
        (
            "regex_replace(a, '(b)', '\\9')",
            24,
            "unknown-group",
            "a \\ in 'to' of regex_replace() stands before the number of a group; it has `1`; "
            "the character itself is written \\\\",
        ),
        ("format('{} {}', a)", 0, "argument", "format() has 2 {} for 1 value"),
        (
            "sort_by(a, b)",
            11,
            "argument",
            "sort_by() needs & before its expression, as in sort_by(items, &price)[].sku",
        ),
        ("&a", 0, "argument", "& stands only where a function takes it, as in sort_by(list, &field)"),
        ("if(a, &b, c)", 6, "argument", "& stands only where a function takes it, as in sort_by(list, &field)"),
        ("var('plam')", 4, "unknown-variable", "there is no variable 'plam' under let; did you mean 'plan'?"),
        ("lookup('x', a)", 7, "unknown-table", "there is no table 'x' under tables"),
        ("index()", 0, "index-outside-each", "index() is known only in a call that has each"),
        ("", 0, "expression", "an expression is missing after ="),
        (" \n", 0, "expression", "an expression is missing after ="),
        ("a.", 2, "expression", "bad expression: it ends too early"),
        (
            "join('a'",
            4,
            "expression",
            "bad expression: ( is opened here and never closed; "
            "inside { } or [ ] of YAML an expression with a comma must be quoted",
        ),
        (
            "join('",
            5,
            "expression",
            "bad expression: ' is opened here and never closed; "
            'if the text contains " #", write the expression as a block (key: >-)',
        ),
        ("lower(a,)", 0, "expression", "bad expression: the arguments of lower() are separated by one comma each"),
        ("join(a b)", 0, "expression", "bad expression: the arguments of join() are separated by one comma each"),
        ("(lower)(a)", 0, "expression", "bad expression: write lower(…) without brackets around lower"),
        ('"lower"(a)', 0, "expression", "bad expression: only a name without quotes can be called"),
        ("a - b", 2, "expression", 'bad expression: there is no "-" in expressions; write subtract(a, b)'),
        (
            "a + b",
            2,
            "expression",
            "bad expression: there is no \"+\" in expressions; write add(a, b), or for text join(' ', [a, b])",
        ),
        ("a = 'b'", 2, "expression", "bad expression: two values are compared with =="),
        ("a ? b : c", 2, "expression", "bad expression: a choice is written if(condition, then, otherwise)"),
        ("$.a", 0, "expression", "bad expression: names start at the body by themselves, without $"),
        ("a and b", 2, "expression", "bad expression: write && instead of and"),
        ("not a", 4, "expression", "bad expression: write !(…) instead of not"),
        ("{{ a }}", 1, "expression", "bad expression: a value is written =a.b, without {{ }}"),
        ("a.[0]", 3, "expression", "bad expression: an index has no dot before it: a[0]"),
        ("a b", 2, "expression", 'bad expression: a field name with a blank needs double quotes: "a b"'),
        ("a)", 1, "expression", "bad expression: ) does not fit here"),
        ("x" * 5000, 0, "too-long", "an expression has at most 4,096 characters, this one 5,000"),
    ],
)
def test_a_bad_expression_is_an_error_with_its_place_and_the_fix(
    expression: str, offset: int, code: str, problem: str
) -> None:
    with pytest.raises(BadExpression) as caught:
        compile_expression(expression, NAMES)
    assert (caught.value.offset, caught.value.code, caught.value.problem) == (offset, code, problem)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("a)", "a ) without its (; the character itself is written \\)"),
        ("[a", "missing ]"),
        ("*a", "no argument for repetition operator: *"),
        ("a{2,1}", "invalid repetition size: {2,1}"),
        ("\\y", "invalid escape sequence: \\y"),
        ("\\Z", "the end of the text is written \\z"),
        ("\\u00e9", "a character by its number is written \\x{00E9}"),
        ("a++", "++ is not available, nor needed here; write +"),
        ("(?>a)", "an atomic group (?>…) is not available, nor needed here; write (?:…)"),
        ("a(?=b)", "look-ahead (?=…) is not available here; match what follows too, and put what you want in a group"),
        ("a(?!b)", "look-ahead (?!…) is not available here; test for it by a regex_match() of its own"),
        (
            "(?<=a)b",
            "look-behind (?<=…) is not available here; match what comes before too, and put what you want in a group",
        ),
        ("(?<!a)b", "look-behind (?<!…) is not available here; test for it by a regex_match() of its own"),
        ("(a)\\1", "a backreference \\1 is not available here; compare what regex_extract() gives for two groups"),
        (
            "(?P<n>a)(?P=n)",
            "a backreference (?P=…) is not available here; compare what regex_extract() gives for two groups",
        ),
        (
            "(?P<n>a)\\k<n>",
            "a backreference \\k<…> is not available here; compare what regex_extract() gives for two groups",
        ),
        ("\\pL{900}", "it is too large; make its repetitions {…} smaller"),
    ],
)
def test_a_bad_regular_expression_says_why(pattern: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, more in (("match", ""), ("extract", ""), ("replace", ", ''")):
        with pytest.raises(BadExpression) as caught:
            compile_expression(f"regex_{name}(a, '{pattern}'{more})")
        assert caught.value.code == "bad-regex"
        assert caught.value.problem == f"bad regular expression '{pattern}': {problem}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "expression",
    [
        *('a == "b-c".d', '"b-c" == a', "{true: a}", "a.true", "true.a", "a[?x] | [0]", "(b || a[?x]) | [0]"),
        *(
            "a[*][0]",
            "a[?x].b[0]",
            "a || b | length(@)",
            "a || b | [c, d]",
            "!a",
            "!(a.b)",
            "!a[0]",
            "!length(a)",
            "a[:0]",
            "a[0:]",
        ),
        *("'a - b'", "'`x`'", "'!a.b'", "'a == \"b\"'", '"a`b"', '`"5 > 4"`', "a == '5'", "[`1`, `2`]", "{a: b || c}"),
        *("var('plan')", "lookup('plans', a)", "sort_by(a, &b.c)", "map(&(a || b), c)", "a . b", "a\n.b"),
    ],
)
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
