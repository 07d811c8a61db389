"""Variables under `let`, and webhooks that a mapping splits into parts."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from gateway.customerio.calls import as_json
from gateway.event import JSON
from gateway.mapping.selftests import run_tests
from gateway.mapping.translate import Translation, event_key, translate
from tests.mapping.test_translate import NOW, event, mapping_of, of_calls


def calls(translation: Translation) -> list[dict[str, JSON]]:
    assert translation.problem is None
    return [as_json(planned.call) for planned in translation.planned]


def test_a_variable_that_fails_fails_only_the_part_that_reads_it() -> None:
    top = "let:\n  total: =to_number(total)\n"
    mapping = of_calls(
        "- {call: track, id: =id, name: =name}\n- {call: track, when: =ask, id: =id, name: n,"
        " attributes: {t: =var('total')}}",
        top,
    )
    body: dict[str, JSON] = {"type": "a", "id": 1, "name": "x", "total": "nan"}
    assert len(calls(translate(mapping, event(body)))) == 1
    asked = translate(mapping, event({**body, "ask": True}))
    assert asked.status == "failed"
    assert str(asked.problem) == "m.yaml:7:10: let.total: to_number() cannot read this text as a number"


def test_variables_are_known_to_the_event_type_the_event_key_when_and_the_defaults() -> None:
    mapping = mapping_of(
        "version: 1\nsource: shop\nverify: none\nevent_type: =var('kind')\nevent_key: =var('key')\n"
        "when: =var('live')\nlet:\n  kind: =join('.', [object, event_type() || action])\n  key: =id\n"
        "  live: =live\n  person: =user\ndefaults: {id: =var('person')}\n"
        "events: {user.new: [{call: track, name: =var('kind')}]}\n"
    )
    body: JSON = {"object": "user", "action": "new", "id": 9, "live": True, "user": 42}
    assert event_key(mapping, event(body)) == "9"
    (call,) = calls(translate(mapping, event(body)))
    # Once there is an event type, a variable that asks for it sees it.
    assert (call["id"], call["name"]) == ("42", "user.user.new")
    assert translate(mapping, event({"object": "user", "action": "new"})).status == "ignored"


SPLIT = Path(__file__).with_name("split.yaml").read_text(encoding="utf-8")


def parts_of(*parts: JSON, **changes: Any) -> Translation:
    return translate(mapping_of(SPLIT), event(list(parts), **changes))


def statuses(translation: Translation) -> list[str]:
    return [result.status for result in translation.parts]


def part(kind: str, **more: JSON) -> dict[str, JSON]:
    return {"event": kind, "email": "Ann@x.io", **more}


def test_with_split_expressions_are_evaluated_on_the_part_and_body_is_the_whole() -> None:
    translation = parts_of(
        part("open", key="1"), part("click", email="Bob@x.io", items=["i"], key="2"), headers={"x-from": "h"}
    )
    assert calls(translation) == [
        {
            "call": "track",
            "email": email,
            "name": name,
            "attributes": {"number": 2, "same": same, "from": "h"},
            "timestamp": NOW,
        }
        if name != "Item"
        else {
            "call": "track",
            "email": email,
            "name": "Item",
            "attributes": {"item": "i", "at": 0, "of": "2"},
            "timestamp": NOW,
        }
        for email, name, same in [
            ("ann@x.io", "open", "Ann@x.io"),
            ("bob@x.io", "click", "Bob@x.io"),
            ("bob@x.io", "Item", ""),
        ]
    ]
    assert translation.event_type == "open, click"


@pytest.mark.parametrize("body", [[], None])
def test_a_split_that_gives_null_or_an_empty_list_is_ignored(body: JSON) -> None:
    translation = translate(mapping_of(SPLIT), event(body))
    assert (translation.status, translation.reason) == ("ignored", "'split' gives no parts")


def test_a_split_that_gives_no_list_is_an_error_that_names_to_array() -> None:
    translation = translate(mapping_of(SPLIT), event({"event": "open"}))
    assert str(translation.problem) == (
        "m.yaml:6:8: split: needs a list, got an object; write =to_array(…) for one or many"
    )
    assert translation.status == "failed"


def test_to_array_splits_one_or_many() -> None:
    mapping = mapping_of(SPLIT.replace("split: =@", "split: =to_array(@)"))
    one: JSON = part("open", key="1")
    many: JSON = [part("open", key="1"), part("open", key="2")]
    assert [len(calls(translate(mapping, event(body)))) for body in (one, many)] == [1, 2]


def test_a_part_that_fails_leaves_the_calls_of_the_others() -> None:
    translation = parts_of(
        part("open", key="1"), part("fails", key="2"), part("click", key="3"), part("fails", key="4")
    )
    assert translation.status == "failed"
    assert statuses(translation) == ["accepted", "failed", "accepted", "failed"]
    assert [as_json(planned.call)["name"] for planned in translation.planned] == ["open", "click"]
    assert str(translation.problem) == (
        "m.yaml:24:27: name: null or empty; if that may be, write =not_null(…, 'another text'), or give the call"
        " a 'when'; this is part 2 of 4, and 1 other part fails too"
    )


def test_parts_without_calls_are_ignored_with_their_reasons() -> None:
    translation = parts_of(part("other", key="1"), part("open", key="2", live=False))
    assert translation.status == "ignored"
    assert translation.reason == "no entry of 'events' matches the event type; the mapping's own 'when' is not true"


def test_the_same_part_in_two_webhooks_gives_the_same_call() -> None:
    first = parts_of(part("open", key="1"), part("open", key="2"))
    again = translate(mapping_of(SPLIT), event([part("open", key="3"), part("open", key="2")], key="another"))
    assert first.planned[1].identity == again.planned[1].identity
    assert len({planned.identity for planned in (*first.planned, *again.planned)}) == 3


def test_a_part_that_is_in_a_webhook_twice_counts_once() -> None:
    translation = parts_of(part("open", key="1"), part("open", key="1"), part("open"), part("open"))
    assert statuses(translation) == ["accepted", "ignored", "accepted", "accepted"]
    assert len({planned.identity for planned in translation.planned}) == 3


def test_two_webhooks_are_the_same_if_all_their_parts_are_the_same() -> None:
    mapping = mapping_of(SPLIT)
    keys = [
        event_key(mapping, event([part("open", key=key) for key in keys]))
        for keys in (["1", "2"], ["1", "2"], ["1", "3"], ["12"], ["1", None], [])
    ]
    assert keys[0] == keys[1]
    assert len({*keys[1:4]}) == 3
    assert keys[4:] == [None, None]


def test_an_event_id_has_to_differ_between_all_calls_of_a_webhook() -> None:
    translation = parts_of(part("ids", key="1", it="x"), part("ids", key="2", it="x"), part("ids", key="3", it="y"))
    assert statuses(translation) == ["accepted", "failed", "accepted"]


def test_a_webhook_makes_at_most_a_thousand_calls_and_has_at_most_ten_thousand_parts() -> None:
    translation = parts_of(*(part("open", key=str(number)) for number in range(1_001)))
    assert statuses(translation) == ["accepted"] * 1_000 + ["failed"]
    assert "more than 1,000 calls" in str(translation.problem)
    assert "more than 10,000 parts" in str(parts_of(*([None] * 10_001)).problem)


def test_all_parts_share_the_budget_of_one_webhook() -> None:
    mapping = of_calls("- {call: identify, id: =type, attributes: {x: =length(lower(text))}}", "split: =@\n")
    one: JSON = {"type": "a", "text": "x" * 1_000_000}
    translation = translate(mapping, event([one] * 100))
    assert translation.parts[0].status == "accepted"
    assert "take more than 5,000,000 steps" in str(translation.parts[-1].problem)


def test_a_test_expects_the_error_of_a_part_at_its_place() -> None:
    tests = dedent(
        """\
        tests:
          - name: the second fails
            body: [{event: open, email: a@x.io}, {event: fails}, {event: click, email: b@x.io}]
            expect:
              - {call: track, email: a@x.io, name: open, attributes: {number: 3, same: a@x.io}, timestamp: 1767225600}
              - {error: null or empty}
              - {call: track, email: b@x.io, name: click, attributes: {number: 3, same: b@x.io}, timestamp: 1767225600}
          - name: another error
            body: [{event: fails}]
            expect: [{error: something else}]
          - name: the whole fails
            body: {}
            expect: {error: write =to_array}
        """
    )
    results = run_tests(mapping_of(SPLIT + tests), lambda name: name)
    assert [result.difference is None for result in results] == [True, False, True]
    assert '-    "error": "something else"' in str(results[1].difference)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", "payload=%7B%22id%22%3A7%7D"),
        ("application/xml", "<id xmlns='u'>7</id>"),
        ("application/json", '{"id": 7}'),
    ],
)
def test_text_with_a_content_type_is_decoded_in_a_test_as_it_is_when_it_is_received(
    content_type: str, body: str
) -> None:
    test = {
        "headers": {"Content-Type": content_type},
        "expect": [{"call": "track", "id": "7", "name": "x", "timestamp": 1767225600}],
    }
    file = {
        "version": 1,
        "source": "hub",
        "verify": {"scheme": "github", "secret_env": "S"},
        "events": {"*": [{"call": "track", "id": "=id", "name": "x"}]},
        "tests": [{"name": "a", "body": body, **test}, {"name": "b", "payload": "b.txt", **test}],
    }
    results = run_tests(mapping_of(json.dumps(file)), lambda _: body.encode())
    assert [result.difference for result in results] == [None, None]


def test_a_body_of_a_test_that_cannot_be_read_fails_that_test_only() -> None:
    text = dedent(
        """\
        version: 1
        source: a
        verify: none
        event_key: none
        events: {"*": []}
        tests:
          - {name: a, headers: {Content-Type: text/xml}, body: "<a>", expect: []}
          - {name: b, body: {}, expect: []}
        """
    )
    differences = [result.difference for result in run_tests(mapping_of(text), lambda name: name)]
    assert differences == ["the body cannot be read: the body is not valid XML at line 1, column 4", None]
