"""The shipped mapping files compile without warnings and pass their own tests; how those tests are run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.customerio.calls import as_json
from gateway.errors import Problem, RequestError, TranslationError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile, MappingTest
from gateway.mapping.selftests import run_tests
from gateway.mapping.translate import event_key, translate
from gateway.payload import decode

FOLDER = Path(__file__).parents[2] / "mappings"
FILES = sorted(FOLDER.glob("*.yaml"))


@cache
def compiled(file: Path) -> tuple[MappingFile, list[Problem]]:
    return parse(file.read_text(encoding="utf-8"), file.name)


def load(name: str) -> JSON:
    return decode((FOLDER / name).read_bytes(), "application/json")


def test_the_main_mappings_are_shipped() -> None:
    assert {file.stem for file in FILES} >= {"example", "github", "segment", "shopify", "stripe"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_mapping_compiles_without_a_warning(file: Path) -> None:
    mapping, warnings = compiled(file)
    assert [str(warning) for warning in warnings] == []
    assert mapping.source == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_mapping_begins_with_what_has_to_be_set_up(file: Path) -> None:
    mapping, _ = compiled(file)
    editor, where, secret, variable = file.read_text(encoding="utf-8").splitlines()[:4]
    assert editor == "# yaml-language-server: $schema=schema.json"
    assert where.startswith("# Where: ")
    assert f"/hooks/{mapping.source}" in where
    assert secret.startswith("# The secret: ")
    assert variable == f"# The environment variable that holds it here: {' '.join(mapping.verify.secret_env)}"


@pytest.mark.parametrize(
    ("file", "number"),
    [pytest.param(f, n, id=f"{f.stem}: {t.name}") for f in FILES for n, t in enumerate(compiled(f)[0].tests)],
)
def test_a_shipped_mapping_passes_its_own_test(file: Path, number: int) -> None:
    result = run_tests(compiled(file)[0], load)[number]
    assert result.difference is None, f"{result.location}: {result.name}\n{result.difference}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_mapping_has_a_test_for_each_of_its_calls(file: Path) -> None:
    mapping, _ = compiled(file)
    expected = [call for test in mapping.tests for call in test.expect or ()]
    for rule in mapping.rules:
        for call in rule.calls:
            if call.spec.name != "ignore":
                assert any(call_.get("call") == call.spec.name for call_ in expected), str(call.location)
    assert any(test.expect == () for test in mapping.tests), "no test shows what is ignored"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSONS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@st.composite
def changed(draw: st.DrawFn, body: JSON) -> JSON:
    """A body some of whose values, at any depth, are something else."""
    if not isinstance(body, dict | list) or draw(st.integers(0, 9)) == 0:
        return draw(JSONS)
    if isinstance(body, list):
        return [draw(changed(item)) if draw(st.booleans()) else item for item in body]
    return {name: draw(changed(item)) if draw(st.booleans()) else item for name, item in body.items()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@settings(max_examples=50)
@given(data=st.data())
def test_any_body_gives_calls_or_a_problem_and_never_an_exception(file: Path, data: st.DataObject) -> None:
    mapping, _ = compiled(file)
    test = data.draw(st.sampled_from(mapping.tests))
    body = data.draw(changed(test.body))
    headers = {name.lower(): value for name, value in test.headers.items()}
    event = Event(source=file.stem, key="k", payload=body, headers=headers, query={}, received_at=1767225600)
    translation = translate(mapping, event)
    assert (translation.problem is not None) == (translation.status == "failed")
    if mapping.split is None or translation.status != "failed":  # a part that fails leaves the others theirs
        assert bool(translation.planned) == (translation.status == "accepted")
    assert [violation for planned in translation.planned for violation in planned.sealed.violations()] == []
    assert len({planned.identity for planned in translation.planned}) == len(translation.planned)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@settings(max_examples=50)
@given(body=JSONS)
def test_the_key_of_any_event_is_text_or_left_to_the_scheme(file: Path, body: JSON) -> None:
    mapping, _ = compiled(file)
    try:
        key = event_key(
            mapping, Event(source=file.stem, key="", payload=body, headers={}, query={}, received_at=1767225600)
        )
    except TranslationError:
        return
    assert key != ""


EMAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+[.][a-z]+", re.IGNORECASE)


def typed_carelessly(value: JSON) -> JSON:
    """The same body, with its emails in capitals and with white space around them."""
    if isinstance(value, dict):
        return {name: typed_carelessly(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed_carelessly(item) for item in value]
    return f"\t{value.upper()} " if isinstance(value, str) and EMAIL.fullmatch(value) else value


def emails_of(mapping: MappingFile, test: MappingTest, body: JSON) -> list[JSON]:
    """The emails that name people, and those among the attributes of people."""
    headers = {name.lower(): value for name, value in test.headers.items()}
    event = Event(source=mapping.source, key="k", payload=body, headers=headers, query={}, received_at=1767225600)
    emails: list[JSON] = []
    for planned in translate(mapping, event).planned:
        call = as_json(planned.call)
        attributes = call.get("attributes") if call["call"] == "identify" else None
        attributes = attributes if isinstance(attributes, dict) else {}
        emails += [call.get("email")]
        emails += [value for value in attributes.values() if isinstance(value, str) and EMAIL.fullmatch(value.strip())]
    return emails


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_email_is_the_same_however_it_was_typed(file: Path) -> None:
    mapping, _ = compiled(file)
    for test in mapping.tests:
        typed = emails_of(mapping, test, typed_carelessly(test.body))
        assert typed == emails_of(mapping, test, test.body), test.name
        assert [email for email in typed if isinstance(email, str) and email != email.strip().lower()] == [], test.name


HELPSCOUT = {"x-helpscout-event": "customer.created"}
LEMON: JSON = {"type": "orders", "id": "1", "attributes": {"updated_at": "2026-01-01"}}


def key_of(source: str, body: JSON, headers: dict[str, str]) -> str | None:
    mapping, _ = compiled(FOLDER / f"{source}.yaml")
    event = Event(source=source, key="", payload=body, headers=headers, query={}, received_at=1767225600)
    return event_key(mapping, event)


@pytest.mark.parametrize(
    ("source", "headers", "body", "key"),
    [
        ("cloudevents", {}, {"source": "/orders", "id": "1"}, '["/orders 1"]'),
        ("cloudevents", {}, {"source": "/orders"}, None),
        ("helpscout", {}, {"id": 1}, None),
        ("hubspot", {}, {"eventId": 1, "subscriptionId": 2, "objectId": 3, "occurredAt": 4}, '["1-2-3-4"]'),
        ("hubspot", {}, {"eventId": 1, "subscriptionId": 2, "fromObjectId": 3, "occurredAt": 4}, '["1-2-3-4"]'),
        ("hubspot", {}, {"eventId": 1, "subscriptionId": 2, "occurredAt": 4}, None),
        ("lemonsqueezy", {}, {"meta": {"event_name": "a", "webhook_id": 7}, "data": LEMON}, "7-a-orders-1-2026-01-01"),
        ("lemonsqueezy", {}, {"meta": {"event_name": "a"}, "data": LEMON}, "a-orders-1-2026-01-01"),
        ("lemonsqueezy", {}, {"meta": {"event_name": "a", "webhook_id": 7}}, None),
        (
            "postmark",
            {},
            {"RecordType": "Open", "MessageID": "m", "Recipient": "A@b.co", "ReceivedAt": "t"},
            "Open-m-a@b.co-t",
        ),
        ("postmark", {}, {"RecordType": "Open"}, None),
    ],
)
def test_the_key_of_a_webhook_with_a_missing_field_is_left_to_the_scheme(
    source: str, headers: dict[str, str], body: JSON, key: str | None
) -> None:
    assert key_of(source, body, headers) == key


def test_two_webhooks_of_help_scout_without_an_id_are_two() -> None:
    keys = [key_of("helpscout", {"comments": text}, HELPSCOUT) for text in ("good", "bad", "good")]
    assert keys[0] == keys[2] != keys[1]


TESTED = """\
version: 1
source: tested
verify: none
event_key: none
event_type: =type
events:
  a:
    - {call: track, id: =id, name: =name, attributes: {n: =n}}
tests:
  - name: one
    %s
"""
CALL = "{call: track, id: u, name: A, attributes: {n: %s}, timestamp: 1767225600}"


def difference(test: str, load: Callable[[str], JSON] = load) -> str | None:
    mapping, warnings = parse(TESTED % test, "t.yaml")
    assert warnings == []
    (result,) = run_tests(mapping, load)
    assert (result.name, str(result.location)) == ("one", "t.yaml:10:5")
    return result.difference


@pytest.mark.parametrize(
    ("actual", "expected", "passes"),
    [
        ("10", "10.0", True),
        ("10.0", "10", True),
        ("1", "true", False),
        ("true", "1", False),
        ("0", "false", False),
        ("[1.0, {a: 2}]", "[1, {a: 2.0}]", True),
        ("[1]", "[true]", False),
        ("'10'", "10", False),
        ("1.5", "1.5", True),
        ("null", "null", False),
    ],
)
def test_calls_are_compared_exactly_except_how_a_number_is_written(actual: str, expected: str, passes: bool) -> None:
    result = difference(f"body: {{type: a, id: u, name: A, n: {actual}}}\n    expect: [{CALL % expected}]")
    assert (result is None) is passes, result


def test_a_failed_test_shows_the_difference_line_by_line() -> None:
    result = difference(f"body: {{type: a, id: u, name: A, n: 2}}\n    expect: [{CALL % 1}]")
    assert result is not None
    assert result.splitlines()[:2] == ["--- expected", "+++ got"]
    assert '-      "n": 1' in result.splitlines()
    assert '+      "n": 2' in result.splitlines()


PLAIN = "{call: track, id: u, name: A, timestamp: 1767225600}"
GOOD = "{type: a, id: u, name: A}"


@pytest.mark.parametrize(
    ("body", "expect", "start", "end"),
    [
        (GOOD, f"[{PLAIN}]", "", ""),
        (GOOD, f"[{PLAIN.replace('name: A', 'name: A, attributes: {}')}]", "", ""),
        (GOOD, f"[{PLAIN}, {PLAIN}]", "--- expected", "\n ]"),
        (GOOD, "[]", "--- expected", "\n+]"),
        ("{type: b}", f"[{CALL % 1}]", "--- expected", "\nignored: no entry of 'events' matches the event type"),
        ("{type: a, name: A}", "[]", "expected 0 calls, got an error:\nt.yaml:8:25: id: null or empty", "a 'when'"),
        ("{type: a, name: A}", "{error: names nobody}", "", ""),
        (
            "{type: a, name: A}",
            "{error: names somebody}",
            "expected an error with 'names somebody', got:\nt.yaml:8:25: id:",
            "'when'",
        ),
        (GOOD, "{error: names nobody}", "expected an error with 'names nobody', got accepted:\n[", "]"),
        ("{type: b}", "{error: names nobody}", "expected an error with 'names nobody', got ignored:\n[]", "[]"),
    ],
)
def test_calls_their_number_and_errors_are_compared(body: str, expect: str, start: str, end: str) -> None:
    result = difference(f"body: {body}\n    expect: {expect}") or ""
    assert bool(result) is bool(start)
    assert result.startswith(start)
    assert result.endswith(end)


def test_the_mapping_sees_headers_query_and_time_of_a_test() -> None:
    text = TESTED % (
        "body: {type: a}\n    headers: {X-Name: A}\n    query: {q: b}\n    received_at: 1767225601\n"
        "    expect: [{call: track, id: b, name: A, timestamp: 1767225601}]"
    )
    mapping, _ = parse(text.replace("id: =id, name: =name", "id: =query('q'), name: =header('x-NAME')"), "t.yaml")
    assert [result.difference for result in run_tests(mapping, load)] == [None]


def test_a_payload_is_loaded_by_its_name() -> None:
    asked = []

    def body(name: str) -> JSON:
        asked.append(name)
        return {"type": "b"}

    assert difference("payload: sub/b.json\n    expect: []", body) is None
    assert asked == ["sub/b.json"]


@pytest.mark.parametrize("error", [FileNotFoundError("no such file"), RequestError(400, "not JSON"), ValueError("no")])
def test_a_payload_that_cannot_be_read_fails_its_test_and_no_more(error: Exception) -> None:
    def body(_name: str) -> JSON:
        raise error

    result = difference("payload: b.json\n    expect: []", body)
    assert result == f"the payload b.json cannot be read: {error}"
