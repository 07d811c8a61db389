"""The rules of the mapping language that its authors meet most, each under the sentence that describes it."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import Any

import pytest

from gateway.customerio.calls import as_json
from gateway.errors import MappingError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.mapping.selftests import run_tests
from gateway.mapping.translate import Translation, event_key, translate
from tests.mapping.test_translate import HEAD, NOW, mapping_of


def of_calls(calls: str, top: str = "") -> MappingFile:
    """A mapping whose events of the type "a" make these calls."""
    return mapping_of(f"{HEAD}{dedent(top)}events:\n  a:\n{indent(dedent(calls).strip(chr(10)), '    ')}\n")


def problems(text: str) -> list[str]:
    """What the checker says, without the name of the file."""
    try:
        _, found = parse(text, "m.yaml")
    except MappingError as error:
        found = error.problems
    return [str(each).removeprefix("m.yaml:") for each in found]


def event(payload: JSON, **given: Any) -> Event:
    about: dict[str, Any] = {"headers": {}, "query": {}, "received_at": NOW, **given}
    return Event(source="shop", key="k", payload=payload, **about)


def calls(translation: Translation) -> list[dict[str, JSON]]:
    assert translation.problem is None
    return [as_json(planned.call) for planned in translation.planned]


def attributes(written: str, payload: dict[str, JSON], top: str = "") -> JSON:
    """The attributes that an identify gets out of these lines."""
    mapping = of_calls(f"- call: identify\n  id: =`1`\n  attributes:\n{indent(dedent(written), '    ')}", top)
    (call,) = calls(translate(mapping, event({"type": "a", **payload})))
    return call.get("attributes", {})


# The one rule for values


def test_a_string_that_starts_with_equals_is_an_expression_and_every_other_scalar_is_literal_text() -> None:
    written = """\
    computed: =plan
    quoted: "=plan"
    text: plan is pro
    number: 42
    yes: yes
    time: 12:30
    octal: 010
    day: 2026-01-02
    flag: true
    """
    assert attributes(written, {"plan": "pro"}) == {
        "computed": "pro",
        "quoted": "pro",
        "text": "plan is pro",
        "number": 42,
        "yes": "yes",
        "time": "12:30",
        "octal": "010",
        "day": "2026-01-02",
        "flag": True,
    }


def test_literal_writes_text_that_starts_with_equals() -> None:
    assert attributes('formula: {literal: "=1+1"}\n', {}) == {"formula": "=1+1"}


def test_in_tests_everything_is_data() -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes: {note: =note}")
    text = HEAD + dedent(
        """\
        events:
          a:
            - call: identify
              id: =id
              attributes: {note: =note}
        tests:
          - name: data
            body: {type: a, id: 1, note: =id}
            expect:
              - {call: identify, id: "1", attributes: {note: =id}}
        """
    )
    assert [result.difference for result in run_tests(mapping_of(text), lambda name: name)] == [None]
    assert mapping.tests == ()


@pytest.mark.parametrize("key", ["id", "email", "when", "each", "timestamp", "event_id"])
def test_where_only_an_expression_makes_sense_text_is_an_error_whose_message_holds_the_fix(key: str) -> None:
    (said,) = problems(f"{HEAD}events:\n  a:\n    - {{call: track, anonymous_id: =x, name: n, {key}: user.x}}\n")
    assert said.endswith(f"error not-an-expression: '{key}' must be an expression; did you mean  {key}: =user.x")


def test_an_attribute_that_happens_to_bear_such_a_name_may_be_text() -> None:
    assert attributes("email: office\ntoken: t\n", {}) == {"email": "office", "token": "t"}


def test_a_literal_attribute_that_looks_like_a_path_is_a_warning() -> None:
    text = f"{HEAD}events:\n  a:\n    - {{call: identify, id: =id, attributes: {{plan: data.plan}}}}\n"
    assert problems(text) == [
        "8:52: warning looks-like-a-path: 'data.plan' is literal text but looks like a path;"
        " write =data.plan, or {literal: data.plan}"
    ]


# let and tables


LET = """\
let:
  plan: =data.plan
  named: =lookup('plans', var('plan'))
  fixed: basic
  both: {plan: =var('named'), seats: =data.seats}
tables:
  plans: {price_1: Starter, 7: Seven, "*": Other}
  sizes: {s: [1, 2], m: {wide: true}}
"""


def test_a_variable_is_computed_once_per_part_and_may_refer_to_those_before_it() -> None:
    written = """\
    plan: =var('named')
    fixed: =var('fixed')
    both: =var('both')
    """
    assert attributes(written, {"data": {"plan": "price_1"}}, LET) == {
        "plan": "Starter",
        "fixed": "basic",
        "both": {"plan": "Starter"},
    }


def test_a_variable_may_not_refer_to_one_after_it() -> None:
    (said,) = problems(f"{HEAD}let:\n  a: =var('b')\n  b: =x\nevents: {{}}\n")
    assert said == "7:11: error unknown-variable: there is no variable 'b' under let"


def test_a_variable_that_fails_fails_only_the_part_that_asks_for_it() -> None:
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


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("lookup('plans', 'price_1')", "Starter"),
        ("lookup('plans', `7`)", "Seven"),
        ("lookup('plans', `7.0`)", "Seven"),
        ("lookup('plans', 'price_9')", "Other"),
        ("lookup('plans', nothing)", "Other"),
        ("lookup('sizes', 's')", [1, 2]),
        ("lookup('sizes', 'm')", {"wide": True}),
        ("lookup('sizes', 'x')", None),
    ],
)
def test_a_null_key_and_one_that_is_not_there_take_the_star_of_a_table(expression: str, expected: JSON) -> None:
    found = attributes(f'it: {{or_null: "={expression}"}}\n', {}, LET)
    assert found == {"it": expected}


def test_a_table_is_fixed_when_the_file_is_read() -> None:
    assert problems(f"{HEAD}tables:\n  t: {{a: =b, c: {{literal: =d}}}}\nevents: {{}}\n") == [
        "7:10: error not-literal: this is fixed when the file is read, so it cannot be an expression;"
        ' text that starts with = is written {literal: "=…"}'
    ]


# split


SPLIT = """\
version: 1
source: mail
verify: none
event_type: =event
event_key: =key
split: =@
when: =not_null(live, `true`)
let: {person: =lower(email)}
defaults:
  email: =var('person')
events:
  open | click:
    - call: track
      name: =event_type()
      attributes:
        number: =length(body())
        same: =root().email
        from: =header('X-From')
    - call: track
      each: =items
      name: Item
      attributes: {item: =@, at: =index(), of: =root().key}
  fails:
    - {call: track, name: =nothing}
  ids:
    - {call: track, name: n, event_id: =it}
"""


def parts_of(*parts: JSON, **given: Any) -> Translation:
    return translate(mapping_of(SPLIT), event(list(parts), **given))


def part(kind: str, **more: JSON) -> dict[str, JSON]:
    return {"event": kind, "email": "Ann@x.io", **more}


def test_with_split_everything_means_the_part_and_body_the_whole() -> None:
    found = parts_of(
        part("open", key="1"), part("click", email="Bob@x.io", items=["i"], key="2"), headers={"x-from": "h"}
    )
    assert calls(found) == [
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
    assert found.event_type == "open, click"


@pytest.mark.parametrize("body", [[], None])
def test_a_split_that_gives_null_or_an_empty_list_is_ignored(body: JSON) -> None:
    found = translate(mapping_of(SPLIT), event(body))
    assert (found.status, found.reason) == ("ignored", "'split' gives no parts")


def test_a_split_that_gives_no_list_is_an_error_that_says_to_array() -> None:
    found = translate(mapping_of(SPLIT), event({"event": "open"}))
    assert str(found.problem) == ("m.yaml:6:8: split: needs a list, got an object; write =to_array(…) for one or many")
    assert found.status == "failed"


def test_to_array_splits_one_or_many() -> None:
    mapping = mapping_of(SPLIT.replace("split: =@", "split: =to_array(@)"))
    one: JSON = part("open", key="1")
    many: JSON = [part("open", key="1"), part("open", key="2")]
    assert [len(calls(translate(mapping, event(body)))) for body in (one, many)] == [1, 2]


def test_a_part_that_fails_is_recorded_as_such_and_the_others_go_on() -> None:
    found = parts_of(part("open", key="1"), part("fails", key="2"), part("click", key="3"), part("fails", key="4"))
    assert found.status == "failed"
    assert [each.status for each in found.parts] == ["accepted", "failed", "accepted", "failed"]
    assert [as_json(each.call)["name"] for each in found.planned] == ["open", "click"]
    assert str(found.problem) == (
        "m.yaml:24:27: name: null or empty; if that may be, write =not_null(…, 'another text'), or give the call"
        " a 'when'; this is part 2 of 4, and 1 other part fails too"
    )


def test_parts_that_are_not_wanted_are_ignored_with_their_reasons() -> None:
    found = parts_of(part("other", key="1"), part("open", key="2", live=False))
    assert found.status == "ignored"
    assert found.reason == "no entry of 'events' matches the event type; the mapping's own 'when' is not true"


def test_the_same_part_in_two_webhooks_asks_for_the_same_call() -> None:
    first = parts_of(part("open", key="1"), part("open", key="2"))
    again = translate(
        mapping_of(SPLIT),
        Event(
            source="shop",
            key="another",
            payload=[part("open", key="3"), part("open", key="2")],
            headers={},
            query={},
            received_at=NOW,
        ),
    )
    assert first.planned[1].identity == again.planned[1].identity
    assert len({each.identity for each in (*first.planned, *again.planned)}) == 3


def test_a_part_that_is_in_a_webhook_twice_counts_once() -> None:
    found = parts_of(part("open", key="1"), part("open", key="1"), part("open"), part("open"))
    assert [each.status for each in found.parts] == ["accepted", "ignored", "accepted", "accepted"]
    assert len({each.identity for each in found.planned}) == 3


def test_two_webhooks_are_the_same_if_all_their_parts_are() -> None:
    mapping = mapping_of(SPLIT)
    keys = [
        event_key(mapping, event([part("open", key=key) for key in keys]))
        for keys in (["1", "2"], ["1", "2"], ["1", "3"], ["12"], ["1", None], [])
    ]
    assert keys[0] == keys[1]
    assert len({*keys[1:4]}) == 3
    assert keys[4:] == [None, None]


def test_an_event_id_has_to_differ_between_all_calls_of_a_webhook() -> None:
    found = parts_of(part("ids", key="1", it="x"), part("ids", key="2", it="x"), part("ids", key="3", it="y"))
    assert [each.status for each in found.parts] == ["accepted", "failed", "accepted"]


def test_a_webhook_makes_at_most_a_thousand_calls_and_has_at_most_ten_thousand_parts() -> None:
    found = parts_of(*(part("open", key=str(number)) for number in range(1_001)))
    assert [each.status for each in found.parts] == ["accepted"] * 1_000 + ["failed"]
    assert "more than 1,000 calls" in str(found.problem)
    assert "more than 10,000 parts" in str(parts_of(*([None] * 10_001)).problem)


def test_all_parts_together_may_cost_no_more_than_one_webhook_may() -> None:
    mapping = of_calls("- {call: identify, id: =`1`, attributes: {x: =length(lower(text))}}", "split: =@\n")
    one: JSON = {"type": "a", "text": "x" * 1_000_000}
    found = translate(mapping, event([one] * 100))
    assert found.parts[0].status == "accepted"
    assert "take more than 5,000,000 steps" in str(found.parts[-1].problem)


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


# each


def test_each_makes_one_call_per_item_and_null_or_an_empty_list_none() -> None:
    mapping = of_calls("- {call: track, each: =items, id: =root().id, name: =name, attributes: {at: =index()}}")
    body: dict[str, JSON] = {"type": "a", "id": 1}
    found = calls(translate(mapping, event({**body, "items": [{"name": "x"}, {"name": "y"}]})))
    assert [(call["name"], call["attributes"]) for call in found] == [("x", {"at": 0}), ("y", {"at": 1})]
    empty: dict[str, JSON] = {**body, "items": []}
    assert [translate(mapping, event(nothing)).status for nothing in (body, empty)] == ["ignored", "ignored"]


def test_defaults_are_evaluated_on_the_part_also_under_each() -> None:
    mapping = of_calls("- {call: track, each: =items, name: =name}", "defaults: {id: =id, timestamp: =at}\n")
    (call,) = calls(translate(mapping, event({"type": "a", "id": 1, "at": NOW, "items": [{"name": "x", "id": 9}]})))
    assert (call["id"], call["timestamp"]) == ("1", NOW)


def test_under_each_when_is_asked_for_each_item() -> None:
    mapping = of_calls("- {call: track, each: =items, when: =paid, id: =id, name: n}")
    found = calls(translate(mapping, event({"type": "a", "items": [{"id": 1}, {"id": 2, "paid": True}]})))
    assert [call["id"] for call in found] == ["2"]


# Defaults


def test_a_call_that_names_any_identifier_gets_no_default_identifier_even_if_its_own_turns_out_null() -> None:
    mapping = of_calls("- {call: identify, email: =mail}\n- {call: destroy}", "defaults: {id: =id}\n")
    found = translate(mapping, event({"type": "a", "id": 1}))
    assert "names nobody" in str(found.problem)


def test_what_a_call_cannot_take_of_the_defaults_is_skipped() -> None:
    mapping = of_calls("- {call: destroy}", "defaults: {id: =id, anonymous_id: =anon, timestamp: =at}\n")
    assert calls(translate(mapping, event({"type": "a", "id": 1, "anon": "x", "at": NOW}))) == [
        {"call": "destroy", "id": "1"}
    ]


def test_a_track_page_or_screen_without_a_timestamp_carries_the_time_of_receipt() -> None:
    written = '- {call: track, name: n}\n- {call: page, url: "*"}\n- {call: screen, name: s}\n- {call: identify}'
    mapping = of_calls(written, "defaults: {id: =id}\n")
    found = calls(translate(mapping, event({"type": "a", "id": 1})))
    assert [call.get("timestamp") for call in found] == [NOW, NOW, NOW, None]


# Kinds


@pytest.mark.parametrize(
    ("value", "written"),
    [(42, "42"), (42.0, "42"), (12345678901234567890123, "12345678901234567890123"), ("x", "x")],
)
def test_identifiers_and_names_are_text_and_a_number_is_written_out(value: JSON, written: str) -> None:
    mapping = of_calls("- {call: track, id: =v, name: =v}")
    (call,) = calls(translate(mapping, event({"type": "a", "v": value})))
    assert (call["id"], call["name"]) == (written, written)


@pytest.mark.parametrize(("value", "kind"), [(True, "a boolean"), ([1], "a list"), ({"a": 1}, "an object")])
def test_booleans_lists_and_objects_where_text_belongs_are_errors(value: JSON, kind: str) -> None:
    mapping = of_calls("- {call: destroy, id: =v}")
    found = translate(mapping, event({"type": "a", "v": value}))
    assert f"must be text or a number, got {kind}" in str(found.problem)


# Null


def test_an_expression_that_gives_null_leaves_its_attribute_out_and_or_null_sends_it() -> None:
    written = "gone: =nothing\nsent: {or_null: =nothing}\nwritten: null\n"
    assert attributes(written, {}) == {"sent": None, "written": None}


@pytest.mark.parametrize("nothing", ["", "~"])
def test_an_empty_value_or_a_tilde_is_an_error(nothing: str) -> None:
    (said,) = problems(
        f"{HEAD}events:\n  a:\n    - call: identify\n      id: =id\n      attributes:\n        x: {nothing}\n"
    )
    assert "error empty-value: 'x' has no value; write null if a null is meant, or remove it" in said


def test_nulls_at_the_top_of_attributes_from_are_left_out_and_deeper_ones_are_sent() -> None:
    mapping = of_calls("- {call: identify, id: =`1`, attributes_from: =o}")
    (call,) = calls(translate(mapping, event({"type": "a", "o": {"a": None, "b": {"c": None}}})))
    assert call["attributes"] == {"b": {"c": None}}


@pytest.mark.parametrize("empty", [None, ""])
def test_all_identifiers_null_or_empty_or_such_an_event_name_is_an_error_and_never_a_silent_drop(
    empty: JSON,
) -> None:
    whom = of_calls("- {call: identify, id: =id, email: =email}")
    name = of_calls("- {call: track, id: =`1`, name: =name}")
    payload: dict[str, JSON] = {"type": "a", "id": empty, "email": empty, "name": empty}
    assert "names nobody" in str(translate(whom, event(payload)).problem)
    assert "null or empty" in str(translate(name, event(payload)).problem)


def test_no_matching_event_type_is_recorded_as_ignored() -> None:
    found = translate(of_calls("[]"), event({"type": "new"}))
    assert (found.status, found.event_type) == ("ignored", "new")
    assert found.reason == "no entry of 'events' matches the event type"


def test_null_in_gives_null_out_except_where_the_language_says_otherwise() -> None:
    written = """\
    lower: {or_null: "=lower(n)"}
    nested: {or_null: "=upper(trim(n))"}
    chosen: "=if(n, 'yes', 'no')"
    first: "=not_null(n, 'second')"
    kind: =type(n)
    list: =to_array(n)
    merged: "=merge(n, {a: `1`})"
    joined: "=join('.', [n, 'opened', `2`])"
    nobody: {or_null: "=join('.', [n])"}
    """
    assert attributes(written, {}) == {
        "lower": None,
        "nested": None,
        "chosen": "no",
        "first": "second",
        "kind": "null",
        "list": [None],
        "merged": {"a": 1},
        "joined": "opened.2",
        "nobody": None,
    }


# Globs


@pytest.mark.parametrize(
    ("key", "event_type", "fits"),
    [
        ('"*.created"', "user.created", True),
        ('"*.created"', "a/b.created", True),
        ('"*.created"', "user.Created", False),
        ('"user.*.done | order"', "user.a.b.done", True),
        ('"user.*.done | order"', "order", True),
        ('"*"', None, True),
        ('"**"', None, False),
    ],
)
def test_a_star_matches_any_characters_case_counts_and_a_null_type_matches_only_a_star(
    key: str, event_type: JSON, fits: bool
) -> None:
    mapping = mapping_of(f"{HEAD}events:\n  {key}:\n    - {{call: destroy, id: =`1`}}\n")
    found = translate(mapping, event({"type": event_type}))
    assert found.status == ("accepted" if fits else "ignored")


def test_the_first_match_in_file_order_wins() -> None:
    mapping = mapping_of(
        f'{HEAD}events:\n  user.*: [{{call: destroy, id: =`1`}}]\n  "*": [{{call: suppress, id: =`1`}}]\n'
    )
    kinds = [calls(translate(mapping, event({"type": kind})))[0]["call"] for kind in ("user.x", "order.x")]
    assert kinds == ["destroy", "suppress"]


# Quoting


def test_inside_braces_an_expression_with_a_comma_is_quoted() -> None:
    text = f"{HEAD}events:\n  a:\n    - {{call: identify, id: =id, attributes: {{x: =join('-', [a, b])}}}}\n"
    assert any("must be quoted" in said for said in problems(text))
    assert attributes("x: \"=join('-', [a, b])\"\n", {"a": "1", "b": "2"}) == {"x": "1-2"}


def test_an_expression_with_a_colon_or_a_hash_is_written_as_a_block() -> None:
    written = """\
    x: >-
      =items[].{sku: sku, note: '# 1'}
    """
    assert attributes(written, {"items": [{"sku": "a"}]}) == {"x": [{"sku": "a", "note": "# 1"}]}
