"""What mapping files compile to, and what the compiler reports: place, code and message."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent, indent
from typing import get_args

import pytest

from gateway import verify as signatures
from gateway.customerio.calls import CALLS
from gateway.errors import MappingError, Severity
from gateway.mapping.compiler import parse
from gateway.mapping.model import SPECS, Computed, Constant, Glob, MappingFile, find_rule
from tests.support.cases import Case, read_cases

HEAD = """\
version: 1
source: shop
verify: {scheme: github, secret_env: SHOP_SECRET}
event_type: =type
"""
#: By section: what stands at one place of a file, and the messages about it; without a message it is good.
CASES = read_cases(Path(__file__).with_name("compiler_messages.txt"))
IDENTIFY = "- {call: identify, id: =id}"


def problems(text: str) -> list[str]:
    """All problems of a file, warnings too, in the order they are reported."""
    try:
        _, reported = parse(dedent(text), "m.yaml")
    except MappingError as error:
        reported = error.problems
    return [
        f"{problem.location.line}:{problem.location.column} "
        + ("warning: " if problem.severity is Severity.WARNING else "")
        + f"{problem.code}: {problem.text}"
        for problem in reported
    ]


def report(text: str) -> str:
    return "\n".join(problems(text))


def good(text: str) -> MappingFile:
    mapping, warnings = parse(dedent(text), "m.yaml")
    assert warnings == []
    return mapping


def with_call(call: str) -> str:
    """A file whose call starts on line 7, column 7; a call that is no list item is the rest of "- call: "."""
    item = call if call.startswith("- ") else f"- call: {call}"
    return f"{HEAD}events:\n  a:\n{indent(dedent(item).strip(), '    ')}\n"


def test_a_file_with_every_key_of_the_frame_compiles() -> None:
    mapping = good(Path(__file__).with_name("every_key.yaml").read_text(encoding="utf-8"))
    assert (mapping.file, mapping.source, mapping.description) == ("m.yaml", "shop-2", "A shop")
    assert mapping.verify.scheme.name == "bearer"
    assert mapping.verify.secret_env == ("NEW_TOKEN", "OLD_TOKEN")
    assert (mapping.connection, mapping.region, mapping.deduplicate) == ("eu-prod", "eu", True)
    assert list(mapping.defaults) == ["id", "timestamp"]
    assert [rule.event_types for rule in mapping.rules] == [("a", "b.*"), ("*",)]
    (call,) = mapping.rules[0].calls
    assert (call.spec.name, call.connection, call.region) == ("identify", "other", "us")
    assert list(call.fields) == ["attributes"]
    assert mapping.tests[0].received_at == 1767225600


def test_the_smallest_file_takes_the_defaults() -> None:
    mapping = good(f"version: 1\nsource: a\nverify: none\nevent_key: none\nevents:\n  '*':\n    {IDENTIFY}\n")
    assert (mapping.connection, mapping.region, mapping.deduplicate) == ("default", None, False)
    assert (mapping.verify.scheme.kind, mapping.verify.secret_env) == ("none", ())
    assert (mapping.when, mapping.event_type, mapping.event_key, mapping.tests) == (None, None, None, ())


@pytest.mark.parametrize("case", CASES["whole"], ids=lambda case: case.name)
def test_a_whole_file_is_checked(case: Case) -> None:
    assert report(f"{case.text}\n") == case.expected


def test_an_empty_file_is_reported() -> None:
    assert report("") == "1:1 empty: the file is empty; it starts with  version: 1"


@pytest.mark.parametrize("case", CASES["head"], ids=lambda case: case.text)
def test_the_first_lines_of_a_file_are_checked(case: Case) -> None:
    """The text stands in the line of the error, which is the first that starts as expected."""
    lines = HEAD.splitlines()
    lines[int(case.expected.partition(":")[0]) - 1] = case.text
    reported = problems("\n".join([*lines, "event_key: =id", "events: {'*': []}", ""]))
    assert any(problem.startswith(case.expected) for problem in reported), reported


@pytest.mark.parametrize("case", CASES["top"], ids=lambda case: case.text)
def test_an_optional_key_at_the_top_is_checked(case: Case) -> None:
    assert report(f"{HEAD}{case.text}\nevents: {{'*': []}}\n") == case.expected


@pytest.mark.parametrize("case", CASES["verify"], ids=lambda case: case.text)
def test_verify_has_to_be_complete_and_right(case: Case) -> None:
    """The catalogue of mistakes has more; what is expected is the column on line 3 and how the message starts."""
    reported = problems(f"version: 1\nsource: a\nverify: {case.text}\nevents: {{'*': []}}\nevent_key: =id\n")
    assert any(problem.startswith(f"3:{case.expected}") for problem in reported), reported


@pytest.mark.parametrize("key", ["secret_env", "verify_token_env"])
def test_a_secret_pasted_where_its_variable_belongs_is_not_repeated(key: str) -> None:
    keys = {"secret_env": "A", "verify_token_env": "B", key: "whsec_c2VjcmV0+/="}
    verify = ", ".join(f"{name}: {value}" for name, value in keys.items())
    text = f"version: 1\nsource: a\nverify: {{scheme: meta, {verify}}}\nevents: {{'*': []}}\nevent_key: =id\n"
    (problem,) = problems(text)
    assert f" secret-env: '{key}' must name" in problem
    assert "c2VjcmV0" not in problem


def verified(verify: str, *lines: str) -> MappingFile:
    return good("\n".join(["version: 1", "source: a", f"verify: {verify}", "events: {'*': []}", *lines]))


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("3.18.12.63", ["3.18.12.63/32"]),
        ("'::1'", ["::1/128"]),
        ("[3.18.12.63, '2001:db8::/32', 10.0.0.0/255.0.0.0]", ["3.18.12.63/32", "2001:db8::/32", "10.0.0.0/8"]),
    ],
)
def test_the_networks_of_a_sender_are_read(value: str, networks: list[str]) -> None:
    mapping = verified(f"{{scheme: github, secret_env: A, networks: {value}}}")
    assert [str(network) for network in mapping.verify.networks] == networks


def test_networks_alone_can_prove_the_sender() -> None:
    verify = verified("{scheme: none, networks: 10.0.0.0/8}", "event_key: none").verify
    assert (verify.scheme.kind, len(verify.networks)) == ("none", 1)


def test_a_verify_token_is_read_for_senders_that_show_one() -> None:
    mapping = verified("{scheme: meta, secret_env: A, verify_token_env: B}", "event_key: none")
    assert (mapping.verify.token_env, mapping.verify.networks) == ("B", ())
    assert verified("{scheme: github, secret_env: A}").verify.token_env is None


def shown(computed: Computed | None) -> str | None:
    return None if computed is None else computed.expression.text


@pytest.mark.parametrize(
    ("scheme", "lines", "event_type", "event_key", "default_key"),
    [
        ("stripe", [], "type", None, "id"),
        ("{base: stripe, algorithm: sha512}", [], "type", None, "id"),
        ("stripe", ["event_type: =kind", "event_key: =key"], "kind", "key", "id"),
        ("stripe", ["event_key: none"], "type", None, None),
    ],
)
def test_the_event_type_and_key_of_a_scheme_are_used_where_the_mapping_has_none(
    scheme: str, lines: list[str], event_type: str, event_key: str | None, default_key: str | None
) -> None:
    mapping = verified(f"{{scheme: {scheme}, secret_env: A}}", *lines)
    texts = [shown(computed) for computed in (mapping.event_type, mapping.event_key, mapping.default_key)]
    assert texts == [event_type, event_key, default_key]
    assert mapping.deduplicate is (lines != ["event_key: none"])


def test_the_place_of_an_event_type_of_a_scheme_is_that_of_the_scheme() -> None:
    event_type = verified("{scheme: stripe, secret_env: A}").event_type
    assert event_type is not None
    assert str(event_type.location) == "m.yaml:3:9"


@pytest.mark.parametrize("name", signatures.schemes())
def test_the_expressions_of_every_scheme_compile(name: str) -> None:
    scheme = signatures.schemes()[name]
    start = "kind" if name in get_args(signatures.Kind) else "base"
    header = "" if scheme.header or scheme.at or "header" not in signatures.KEYS[scheme.kind] else ", header: X-S"
    token = ", verify_token_env: B" if any(handshake.token for handshake in scheme.handshakes) else ""
    proof = "" if scheme.kind == "none" else f", secret_env: A{token}"
    key = [] if scheme.names_deliveries else ["event_key: none"]
    mapping = verified(f"{{scheme: {{{start}: {name}{header}}}{proof}}}", *key)
    assert (mapping.event_type is None) == (scheme.event_type is None)
    assert (mapping.default_key is None) == (scheme.event_key is None)


@pytest.mark.parametrize("case", CASES["call"], ids=lambda case: case.text)
def test_the_keys_of_a_call_are_checked(case: Case) -> None:
    """The catalogue of mistakes has more of these."""
    assert report(with_call(case.text)) == case.expected.replace("{specs}", ", ".join(SPECS))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=lowr(x)", "9:15 "),
        ('"=lowr(x)"', "9:16 "),
        ("'=lowr(x)'", "9:16 "),
        (">-\n          =lowr(x)", "10:16 "),
        (">-\n          =a ||\n          lowr(x)", "11:15 "),
        ("|\n          =a ||\n            lowr(x)", "11:17 "),
        (">-\n          =a ||\n\n          lowr(x)", "9:14 "),
        ("=a ||\n          lowr(x)", "9:14 "),
        ("&anchor =lowr(x)", "9:23 "),
        ('"\\u003dlowr(x)"', "9:14 "),
    ],
)
def test_the_place_of_an_error_inside_an_expression_is_reported(value: str, expected: str) -> None:
    (problem,) = problems(with_call(f"identify\n  id: =id\n  email: {value}"))
    assert problem.startswith(expected), problem
    assert "lowr" in problem


@pytest.mark.parametrize("case", CASES["attributes"], ids=lambda case: case.text)
def test_the_values_of_attributes_are_checked(case: Case) -> None:
    assert report(with_call(f"identify\n  id: =id\n  attributes:\n    {case.text}")) == case.expected


@pytest.mark.parametrize(
    ("text", "name"),
    [("Invoice Paid", "Invoice Paid"), ("42", "42"), ("2.0", "2"), ("{literal: '=1+1'}", "=1+1"), ("no", "no")],
)
def test_an_event_name_may_be_any_literal_text(text: str, name: str) -> None:
    (call,) = good(with_call(f"track\n  id: =id\n  name: {text}")).rules[0].calls
    value = call.fields["name"]
    assert isinstance(value, Constant)
    assert value.value == name


def test_all_problems_of_a_file_are_reported_in_order() -> None:
    reported = problems(
        """\
        version: 1
        source: shop
        verify: {scheme: github, secret_env: S}
        event_type: type
        events:
          a:
            - call: identify
              id: user.id
              attributes: {plan: data.plan, x: =lowr(y)}
            - call: trak
          b: []
        tests:
          - {nme: x}
        """
    )
    places = [tuple(int(n) for n in problem.split()[0].split(":")) for problem in reported]
    assert places == sorted(places)
    assert [line for line, _ in places] == [4, 8, 9, 9, 10, 13, 13, 13, 13]


@pytest.mark.parametrize("case", CASES["events"], ids=lambda case: case.text)
def test_the_event_types_of_a_file_are_checked(case: Case) -> None:
    assert report(f"{HEAD}events: {case.text}\n") == case.expected


@pytest.mark.parametrize(
    ("scheme", "lines", "warned"),
    [
        ("github", "event_type: =header('X-Type')", ["event_type"]),
        ("github", "event_type: =header( 'X-GitHub-EVENT' )", []),
        ("github", "event_key: =header('X-GitHub-Delivery')", []),
        ("github", "event_key: =format('{}-{}-{}', id, header('X-Try'), header('X-Day'))", ["event_key", "event_key"]),
        ("bearer", "event_type: =header('X-Type')", []),
        ("{base: github, trust: X-type}", "event_type: =header('X-Type')", []),
        ("{kind: hmac, header: X-S, signed: '{header.X-Type}{body}'}", "event_type: =header('X-Type')", []),
        (
            "{kind: hmac, header: X-S, signed: '{header.X-Types}{body}'}",
            "event_type: =header('X-Type')",
            ["event_type"],
        ),
    ],
)
def test_an_unsigned_header_as_event_type_or_key_is_a_warning(scheme: str, lines: str, warned: list[str]) -> None:
    text = HEAD.replace("event_type: =type\n", "").replace("github", scheme) + f"{lines}\nevents: {{}}\n"
    warnings = [problem for problem in problems(text) if "no-event-key" not in problem]
    assert [warning.partition("take '")[2].partition("'")[0] for warning in warnings] == warned, warnings
    assert all("trust: X-" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("invoice.paid", 0),
        ("invoice.created", 2),
        ("customer.created", 1),
        ("customer.subscription.created", 1),
        ("charge", 3),
        ("Invoice.Paid", 3),
        ("", 3),
        (None, 3),
    ],
)
def test_the_first_rule_that_matches_is_found(event_type: str | None, expected: int) -> None:
    events = "{invoice.paid: [], 'customer.*': [], '*.created | customer.created': [], '*': []}"
    mapping, _ = parse(f"{HEAD}events: {events}\n", "m.yaml")
    assert find_rule(mapping, event_type) is mapping.rules[expected]


def test_without_a_type_no_glob_matches_but_the_bare_star() -> None:
    mapping = good(f"{HEAD}events: {{'b*': [], '**': []}}\n")
    assert find_rule(mapping, None) is None
    assert find_rule(mapping, "c") is mapping.rules[1]


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*.created", "x.y.created", True),
        ("*.created", "created", False),
        ("a*b*c", "a/b.c", True),
        ("a*b*c", "acb", False),
        ("a*bc*bc", "abc", False),
        ("a*bc*bc", "abcbc", True),
        ("**", "", True),
        ("a.*", "axb", False),
        ("[a]*", "a", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(glob: str, text: str, expected: bool) -> None:
    assert Glob(pieces=tuple(glob.split("*"))).matches(text) is expected


def test_a_hostile_event_type_is_matched_in_linear_time() -> None:
    glob = Glob(pieces=("", *("a",) * 7, "b"))
    start = time.perf_counter()
    assert not glob.matches("a" * 1_000_000)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("case", CASES["tests"], ids=lambda case: case.text)
def test_the_tests_of_a_file_are_checked(case: Case) -> None:
    expected = case.expected.replace("{calls}", "|".join(CALLS))
    assert report(f"{HEAD}events: {{}}\ntests:\n  - {case.text}\n") == expected


def test_everything_in_a_test_is_data() -> None:
    test = "{name: =x, body: {a: =1, b: data.plan}, headers: {n: 5, t: true}, expect: [{call: track, name: =y}]}"
    (compiled,) = good(f"{HEAD}events: {{}}\ntests:\n  - {test}\n").tests
    assert (compiled.name, compiled.body) == ("=x", {"a": "=1", "b": "data.plan"})
    assert compiled.headers == {"n": "5", "t": "true"}
    assert compiled.expect == ({"call": "track", "name": "=y"},)


@pytest.mark.parametrize("case", CASES["attributes_from"], ids=lambda case: case.text)
def test_a_name_that_is_never_taken_from_an_object_is_a_warning(case: Case) -> None:
    assert report(with_call(f"identify\n  id: =who\n  attributes_from: >-\n    {case.text}")) == case.expected
