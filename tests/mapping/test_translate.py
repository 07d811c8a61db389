"""A mapping and an event give calls, or a problem with its place."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio.calls import Screen, Track, as_json
from gateway.errors import TranslationError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.mapping.trace import Trace
from gateway.mapping.translate import SALT, PlannedCall, Translation, event_key, translate
from gateway.mapping.yaml_nodes import plain, read

NOW = 1767225600
HEAD = "version: 1\nsource: shop\nverify: none\nevent_key: none\nevent_type: =type\n"


def mapping_of(text: str) -> MappingFile:
    mapping, warnings = parse(text, "m.yaml")
    assert warnings == []
    return mapping


def of_calls(calls: str, top: str = "") -> MappingFile:
    """A mapping whose events of the type "a" make these calls, the first on line 8 without a *top*."""
    body = indent(dedent(calls).strip("\n"), "    ")
    return mapping_of(f"{HEAD}{top}events:\n  a:\n{body}\n")


def event(payload: JSON = None, **changes: Any) -> Event:
    fields: dict[str, Any] = {"source": "shop", "key": "k", "headers": {}, "query": {}, "received_at": NOW, **changes}
    return Event(payload=payload, **fields)


def translated(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> Translation:
    return translate(mapping, event({"type": "a", **payload}, **changes))


def planned(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> tuple[PlannedCall, ...]:
    translation = translated(mapping, payload, **changes)
    assert translation.problem is None
    assert translation.status == "accepted"
    return translation.planned


def calls_of(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> list[dict[str, JSON]]:
    return [as_json(planned_call.call) for planned_call in planned(mapping, payload, **changes)]


def problem(mapping: MappingFile, payload: dict[str, JSON]) -> str:
    translation = translated(mapping, payload)
    assert translation.status == "failed"
    assert translation.planned == ()
    assert translation.problem is not None
    return str(translation.problem)


# Webhooks and their calls

TRANSLATIONS: Any = plain(read(Path(__file__).with_name("translations.yaml").read_text(encoding="utf-8"), "cases"))


@pytest.mark.parametrize(
    ("case", "payload", "expected"),
    [
        pytest.param(case, payload, expected, id=case["name"])
        for case in TRANSLATIONS
        for payload, expected in case["webhooks"]
    ],
)
def test_a_webhook_becomes_its_calls(case: dict[str, str], payload: dict[str, JSON], expected: JSON) -> None:
    """A list is the calls, an object says why the webhook is ignored, and a text is the problem."""
    mapping = of_calls(case["calls"], f"{case['top']}\n" if "top" in case else "")
    outcome: JSON
    if isinstance(expected, str):
        outcome = problem(mapping, payload).removeprefix("m.yaml:")
    elif isinstance(expected, dict):
        translation = translated(mapping, payload)
        assert (translation.status, translation.planned) == ("ignored", ())
        outcome = {"ignored": translation.reason}
    else:
        outcome = [*calls_of(mapping, payload)]
    assert json.dumps(outcome) == json.dumps(expected)  # as texts, for true is not 1, and 1 is not 1.0


@pytest.mark.parametrize(
    ("when", "is_made"),
    [
        *((when, False) for when in ("null", "false", '""', "[]", "{}")),
        *((when, True) for when in ("true", "0", '"x"', "[null]")),
    ],
)
def test_when_decides_whether_a_call_is_made(when: str, is_made: bool) -> None:
    mapping = of_calls("- {call: destroy, id: =id, when: =w}")
    translation = translated(mapping, {"id": "u", "w": json.loads(when)})
    assert (translation.status == "accepted") is is_made
    assert len(translation.planned) == is_made


def test_only_track_page_and_screen_have_a_ulid() -> None:
    mapping = of_calls("- {call: screen, id: =id, name: Home}\n- {call: suppress, id: =id}")
    screen, suppress = planned(mapping, {"id": 1})
    assert isinstance(screen.sealed, Screen)
    assert screen.sealed.event_id == screen.ulid
    assert suppress.ulid is None


def test_an_event_makes_a_thousand_calls_and_no_more() -> None:
    mapping = of_calls("- {call: destroy, id: =@, each: =items}\n- {call: destroy, id: =last, when: =last}")
    thousand: list[JSON] = [str(number) for number in range(1_000)]
    assert len(planned(mapping, {"items": thousand})) == 1_000
    assert problem(mapping, {"items": [*thousand, "x"]}) == (
        "m.yaml:8:7: each: the event makes more than 1,000 calls; take fewer items in 'each'"
    )
    assert problem(mapping, {"items": thousand, "last": "x"}).startswith("m.yaml:9:7: call: the event makes more")


# What is ignored


@pytest.mark.parametrize(
    ("payload", "event_type", "reason"),
    [
        ({"type": "b", "live": True}, "b", "no entry of 'events' matches the event type"),
        ({"live": True}, None, "no entry of 'events' matches the event type"),
        ([], None, "the mapping's own 'when' is not true"),
        ({"type": "a"}, "a", "the mapping's own 'when' is not true"),
        ({"type": "none", "live": True}, "none", "the entry 'none | nothing.*' has no calls"),
        (
            {"type": "a", "live": True},
            "a",
            "no call of the entry 'a' applies: each has a 'when' that is not true, or nothing in its 'each'",
        ),
        ({"type": 7.0, "live": True}, "7", "spam"),
        ({"type": 8, "live": True}, "8", "the mapping says 'ignore'"),
    ],
)
def test_an_event_without_calls_is_ignored_with_the_reason(payload: JSON, event_type: str | None, reason: str) -> None:
    mapping = mapping_of(
        HEAD
        + dedent(
            """\
            when: =live
            events:
              none | nothing.*: []
              a:
                - {call: destroy, id: =id, when: =id}
              7:
                - {call: ignore, reason: spam}
              8:
                - {call: ignore}
            """
        )
    )
    assert translate(mapping, event(payload)) == Translation(status="ignored", event_type=event_type, reason=reason)


# Identifiers and defaults


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (42, "42"),
        (42.0, "42"),
        (706405506930370084, "706405506930370084"),
        (1.5, "1.5"),
        (1e-7, "0.0000001"),
        (1e21, "1000000000000000000000"),
        (-0.0, "0"),
        (10**400, str(10**400)),
    ],
)
def test_a_number_where_text_is_required_is_written_out(value: JSON, text: str) -> None:
    mapping = of_calls("- {call: track, email: =e, name: =n, event_id: =n}")
    if len(text) <= 100:
        (call,) = calls_of(mapping, {"e": "u@x.y", "n": value})
        assert (call["name"], call["event_id"]) == (text, text)
    assert key_of("=n", {"n": value}) == text


# Timestamps


def test_a_timestamp_far_before_2001_is_too_small() -> None:
    mapping = of_calls("- {call: track, id: =id, name: x, timestamp: =t}")
    assert problem(mapping, {"id": "u", "t": -(10**400)}).startswith("m.yaml:8:50: timestamp: is too small for unix")


# Attributes


OF_PEOPLE = [
    *("_update", "_timestamp", "id", "cio_id", "unsubscribed", "cio_relationships"),
    *("cio_subscription_preferences", "cio_subscription_preferences.topics.topic_7"),
]
OF_EVENTS = ["recipient", "from_address", "reply_to"]
#: Names that resemble one of those.
OF_NOBODY = ["email", "Recipient", "recipient_name", "anonymous_id", "cio_subscription"]


@pytest.mark.parametrize(
    ("call", "steering", "others"),
    [
        ("identify, id: =who", OF_PEOPLE, [*OF_EVENTS, *OF_NOBODY]),
        ("track, id: =who, name: x", OF_EVENTS, [*OF_PEOPLE, *OF_NOBODY]),
        ("page, id: =who, url: x", OF_EVENTS, [*OF_PEOPLE, *OF_NOBODY]),
        ("screen, id: =who, name: x", OF_EVENTS, [*OF_PEOPLE, *OF_NOBODY]),
    ],
)
def test_a_name_that_controls_customerio_is_taken_only_from_attributes(
    call: str, steering: list[str], others: list[str]
) -> None:
    whole = of_calls(f"- {{call: {call}, attributes_from: =o}}")
    o: JSON = dict.fromkeys([*steering, *others], "x")
    assert calls_of(whole, {"who": "u", "o": o})[0]["attributes"] == dict.fromkeys(others, "x")
    for name in steering:
        named = of_calls(f"- {{call: {call}, attributes_from: =o, attributes: {{{name}: =v}}}}")
        value: JSON = 1767225600 if name == "_timestamp" else None if name == "cio_subscription_preferences" else True
        attributes = calls_of(named, {"who": "u", "o": o, "v": value})[0]["attributes"]
        assert isinstance(attributes, dict)
        assert attributes.get(name) == value


# Limits


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"id": "."}, "m.yaml:9:11: id: "),
        ({"id": "x" * 151}, "m.yaml:9:11: id: is 151 bytes long"),
        ({"name": "é" * 51}, "m.yaml:10:13: name: is 102 bytes long"),
        ({"name": "  "}, "m.yaml:10:13: name: is blank"),
        ({"big": "x" * 100_001}, "m.yaml:11:19: attributes: is "),
    ],
)
def test_a_value_that_customerio_would_drop_is_a_problem_at_its_place(payload: dict[str, JSON], expected: str) -> None:
    mapping = of_calls("- call: track\n  id: =id\n  name: =name\n  attributes: {big: =big}\n  event_id: =eid")
    assert problem(mapping, {"id": "u", "name": "x", **payload}).startswith(expected)


def test_a_default_that_breaks_a_limit_is_a_problem_at_the_default() -> None:
    mapping = of_calls("- {call: destroy}", "defaults: {id: =id}\n")
    assert problem(mapping, {"id": ".."}).startswith("m.yaml:6:16: id: ")


def test_too_many_attributes_of_an_object_are_a_problem_at_attributes_from() -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes_from: =o")
    many: JSON = {f"a{number}": 1 for number in range(301)}
    assert problem(mapping, {"id": "u", "o": many}).startswith("m.yaml:10:24: attributes_from: has 301")


def test_a_value_that_is_too_long_names_its_attribute_and_how_to_shorten_it() -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes_from: =o\n  attributes: {mine: =m}")
    fix = "is 1001 bytes long; Customer.io takes 1000: shorten it with truncate(…, `1000`)"
    assert problem(mapping, {"id": "u", "m": "x" * 1_001}) == f"m.yaml:11:26: attributes.mine: {fix}"
    of_object = problem(mapping, {"id": "u", "o": {"the_bio": "x" * 1_001}})
    assert of_object == f"m.yaml:10:24: attributes_from.the_bio: {fix}, or write  fit: true"


@pytest.mark.parametrize("name", ["ann@example.com", "+49 30 1234", "Ann Lee", "a" * 61])
def test_a_name_out_of_the_payload_that_may_be_personal_is_not_shown(name: str) -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes_from: =o")
    message = problem(mapping, {"id": "u", "o": {name: "x" * 1_001}})
    assert message.startswith("m.yaml:10:24: attributes_from: is 1001 bytes long")
    assert name not in message


@pytest.mark.parametrize(
    ("call", "o", "expected", "notes"),
    [
        (
            "identify, id: =id",
            {"bio": "é" * 501, "n" * 151: 1, "plan": "pro", "id": 1},
            {"bio": "é" * 500, "plan": "pro", "mine": 1},
            ["'bio' is cut to 1000 bytes", f"'{'n' * 151}' is left out: Customer.io takes names of 1 to 150 bytes"],
        ),
        (
            "identify, id: =id",
            {f"a{number}": number for number in range(301)},
            {**{f"a{number}": number for number in range(299)}, "mine": 1},
            [f"'a{number}' is left out: Customer.io takes 300 attributes" for number in (299, 300)],
        ),
        (
            "track, id: =id, name: x",
            {"html": "é" * 40_000, "text": "x" * 30_000, "total": 1},
            {"text": "x" * 30_000, "total": 1, "mine": 1},
            ["'html' is left out: Customer.io takes 100000 bytes of JSON"],
        ),
        (
            "submit_form, form_id: f, id: =id",
            {"colors": ["red"], "age": 7, "text": "x" * 1_001},
            {"age": "7", "text": "x" * 1_000, "mine": "1"},
            ["'colors' is left out: it has to be text", "'text' is cut to 1000 bytes"],
        ),
        (
            "identify_object, object_type_id: 1, object_id: =id",
            {f"a{number:02}": "x" * 1_000 for number in range(31)},
            {**{f"a{number:02}": "x" * 1_000 for number in range(1, 31)}, "mine": 1},
            ["'a00' is left out: Customer.io takes 30999 bytes of JSON"],
        ),
    ],
)
def test_fit_cuts_an_object_to_what_customerio_takes_and_explains_it(
    call: str, o: dict[str, JSON], expected: JSON, notes: list[str]
) -> None:
    mapping = of_calls(f"- {{call: {call}, attributes_from: =o, fit: true, attributes: {{mine: =m}}}}")
    trace = Trace()
    translation = translate(mapping, event({"type": "a", "id": "u", "o": o, "m": 1}), trace=trace)
    assert translation.problem is None
    assert as_json(translation.planned[0].call)["attributes"] == expected
    labels = [step.label for step in trace.steps]
    assert [label.removeprefix("fit: ") for label in labels if label.startswith("fit: ")] == notes
    left_out = "'id' is left out: it steers Customer.io, and is taken from 'attributes' only"
    assert (left_out in labels) is ("id" in o)


@pytest.mark.parametrize("key", ["attributes_from: =o", "attributes: {x: =o.x}"])
def test_a_number_that_is_too_large_for_the_text_of_a_form_is_a_problem(key: str) -> None:
    mapping = of_calls(f"- {{call: submit_form, form_id: f, id: =id, {key}}}")
    assert problem(mapping, {"id": "u", "o": {"x": 10**2_000}}).endswith(
        ": a number this large cannot be written as text"
    )


def test_what_is_written_is_not_cut() -> None:
    mapping = of_calls("- {call: identify, id: =id, attributes_from: =o, fit: true, attributes: {mine: =m}}")
    assert "attributes.mine: is 1001 bytes long" in problem(mapping, {"id": "u", "o": {}, "m": "x" * 1_001})


# Connection and region


def test_a_call_may_name_its_own_connection_and_region() -> None:
    mapping = of_calls(
        "- {call: destroy, id: =id}\n"
        "- {call: destroy, id: =id, connection: second}\n"
        "- {call: destroy, id: =id, region: us}",
        "connection: first\nregion: eu\n",
    )
    calls = planned(mapping, {"id": "u"})
    assert [(call.connection, call.region) for call in calls] == [("first", "eu"), ("second", "eu"), ("first", "us")]
    (plain,) = planned(of_calls("- {call: destroy, id: =id}"), {"id": "u"})
    assert (plain.connection, plain.region) == ("default", None)


# Identity and ULIDs

TRACK = "- {call: track, id: =id, name: =name, event_id: =eid, attributes: {n: =n}}"


def one(payload: dict[str, JSON], calls: str = TRACK, **changes: Any) -> PlannedCall:
    (planned_call,) = planned(of_calls(calls), {"id": "u", "name": "x", **payload}, **changes)
    return planned_call


def test_an_identity_is_the_hash_of_the_facts_of_a_call() -> None:
    facts = '["shop","key","k","default",null,{"attributes":{"n":1},"call":"track","id":"u","name":"x"},0]'
    assert one({"n": 1}).identity == hashlib.sha256(facts.encode()).digest()
    facts = (
        '["shop","event_id","o","default",null,'
        '{"attributes":{"n":1},"call":"track","event_id":"o","id":"u","name":"x"},0]'
    )
    assert one({"n": 1, "eid": "o"}).identity == hashlib.sha256(facts.encode()).digest()


def test_a_call_is_stored_as_compact_ascii_json_in_the_order_of_its_keys() -> None:
    value: JSON = {"ü": ['😀"\n', 1.5, 10**30, True, None], "b": {}, "a": {"d": 1e22, "c": -0.0}}
    planned_call = one({"n": value})
    assert planned_call.text == json.dumps(as_json(planned_call.sealed), separators=(",", ":"))
    assert planned_call.text.isascii()


def test_the_same_event_translated_again_gives_the_same_identities_and_ulids() -> None:
    assert one({"n": {"a": 1, "b": 2}}) == one({"n": {"b": 2, "a": 1}})
    assert one({}).identity == one({}, received_at=NOW + 5).identity


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        ({"n": 2}, {}),
        ({"n": "1"}, {}),
        ({"n": True}, {}),
        ({"name": "y"}, {}),
        ({"id": "v"}, {}),
        ({"eid": "k"}, {}),
        ({}, {"key": "l"}),
        ({}, {"source": "other"}),
    ],
)
def test_any_other_fact_gives_another_identity(payload: dict[str, JSON], changes: dict[str, Any]) -> None:
    before, after = one({"n": 1}), one({"n": 1, **payload}, **changes)
    assert before.identity != after.identity
    assert before.sealed.event_id != after.sealed.event_id  # type: ignore[attr-defined] # both are tracks


def test_a_written_timestamp_is_part_of_what_a_call_is() -> None:
    calls = "- {call: identify, id: =id, timestamp: =t}"
    assert one({"t": NOW}, calls).identity != one({"t": NOW + 1}, calls).identity


def test_equal_calls_of_one_event_differ_by_their_ordinal() -> None:
    mapping = of_calls("- {call: track, each: =items, id: =@, name: x}")
    calls = planned(mapping, {"items": ["u", "v", "u", "u"]})
    assert len({call.identity for call in calls}) == 4
    assert len({call.sealed.event_id for call in calls if isinstance(call.sealed, Track)}) == 4
    assert calls[0].identity == planned(mapping, {"items": ["u"]})[0].identity
    assert calls[2].identity == planned(mapping, {"items": ["u", "u", "v"]})[1].identity


ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid_of(planned_call: PlannedCall) -> tuple[int, int]:
    """The milliseconds and the rest of the ULID under which a call is sent."""
    text = getattr(planned_call.sealed, "event_id", None)
    assert isinstance(text, str)
    assert len(text) == 26
    number = 0
    for character in text:
        number = number * 32 + ALPHABET.index(character)
    assert number < 2**128
    return number >> 80, number % 2**80


def test_only_the_event_id_differs_between_the_call_and_the_sealed_call() -> None:
    planned_call = one({"n": 1, "eid": "o"})
    assert isinstance(planned_call.call, Track)
    assert isinstance(planned_call.sealed, Track)
    assert (planned_call.call.event_id, planned_call.sealed) == (
        "o",
        replace(planned_call.call, event_id=planned_call.sealed.event_id),
    )
    untouched = one({}, "- {call: identify, id: =id}")
    assert untouched.sealed == untouched.call


def test_without_an_event_id_the_ulid_is_made_of_the_timestamp_and_the_identity() -> None:
    planned_call = one({"n": 1})
    assert ulid_of(planned_call) == (NOW * 1000, int.from_bytes(planned_call.identity[:10], "big"))
    dated = one({"t": 99_999_999_999}, "- {call: page, id: =id, url: '*', timestamp: =t}")
    assert ulid_of(dated)[0] == 99_999_999_999_000


def test_an_event_id_is_unique_for_a_source_a_connection_a_person_a_kind_of_call_and_a_name() -> None:
    first = one({"n": 1, "eid": "o"})
    second = one({"n": 2, "eid": "o"}, key="another", received_at=NOW + 99)
    assert ulid_of(first) == ulid_of(second)
    assert first.identity != second.identity
    assert ulid_of(first) == ulid_of(one({"eid": "o"}, TRACK.replace("call: track,", "call: track, region: eu,")))
    others = [one({"eid": "o", **changed}) for changed in ({"eid": "p"}, {"name": "y"}, {"id": "v"})]
    others += [one({"eid": "o"}, source="other")]
    for old, new in (("track,", "track, connection: b,"), ("track,", "screen,"), ("id: =id", "anonymous_id: =id")):
        others.append(one({"eid": "o"}, TRACK.replace(old, new)))
    assert len({ulid_of(call) for call in (first, *others)}) == 8


def test_an_email_address_is_the_same_person_in_upper_and_lower_case() -> None:
    calls = TRACK.replace("id: =id", "email: =id")
    first, second = (one({"eid": "o", "id": email}, calls) for email in ("ann@x.io", "Ann@X.io"))
    assert ulid_of(first) == ulid_of(second)


def test_one_event_id_may_stand_on_calls_of_different_names_people_and_connections() -> None:
    mapping = of_calls(
        """
        - {call: track, id: =id, name: Order Paid, event_id: =order}
        - {call: track, id: =id, name: Order Shipped, event_id: =order}
        - {call: track, id: =other, name: Order Paid, event_id: =order}
        - {call: track, id: =id, name: Order Paid, event_id: =order, connection: b}
        - {call: screen, id: =id, name: Order Paid, event_id: =order}
        """
    )
    calls = planned(mapping, {"id": "u", "other": "v", "order": "o7"})
    assert len({ulid_of(call) for call in calls}) == 5
    # A ULID is sent as it is, and Customer.io drops a second one whatever it is about.
    assert "two calls of this event have the same" in problem(
        mapping, {"id": "u", "other": "v", "order": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}
    )


@given(st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable()))
def test_the_date_in_a_hashed_ulid_is_plausible(event_id: str) -> None:
    milliseconds, _ = ulid_of(one({"eid": event_id}))
    assert 1_577_836_800_000 <= milliseconds < 1_577_836_800_000 + 2**37


@pytest.mark.parametrize(
    ("event_id", "is_ulid"),
    [
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV", True),
        ("01arz3ndektsv4rrffq69g5fav", True),
        ("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", True),
        ("8ZZZZZZZZZZZZZZZZZZZZZZZZZ", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FA", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAVV", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAU", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAI", False),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV\n", False),
        ("01ARZ3NDEKTſV4RRFFQ69G5FAV", False),  # a long s, whose upper case is S
        ("01ARZ3NDEKTSV4RRFFQ69G5FA\u212a", False),  # the Kelvin sign, whose lower case is k
    ],
)
def test_an_event_id_that_is_a_ulid_is_sent_as_it_is(event_id: str, is_ulid: bool) -> None:
    sent = getattr(one({"eid": event_id}).sealed, "event_id", None)
    assert (sent == event_id.upper()) is is_ulid
    ulid_of(one({"eid": event_id}))


@pytest.mark.parametrize(
    "ids", [["o", "o"], ["a", "b", "a"], ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01arz3ndektsv4rrffq69g5fav"], [42, "42"]]
)
def test_two_calls_of_an_event_with_the_same_event_id_are_an_error(ids: list[JSON]) -> None:
    mapping = of_calls("- {call: track, each: =ids, id: =root().id, name: x, event_id: =@}")
    assert problem(mapping, {"id": "u", "ids": ids}) == (
        "m.yaml:8:68: event_id: two calls of this event have the same, for the same person and name, so Customer.io"
        " would drop the second; make them differ: =format('{}-second', id), or under 'each'"
        " =format('{}-{}', id, index())"
    )


# The key of an event


def key_of(expression: str, payload: JSON, **changes: Any) -> str | None:
    text = HEAD.replace("event_key: none", f"event_key: {expression}") + "events: {}\n"
    return event_key(mapping_of(text), event(payload, **changes))


@pytest.mark.parametrize(
    ("expression", "payload", "expected"),
    [
        ("=id", {"id": "evt_1"}, "evt_1"),
        ("=id", {"id": 7.0}, "7"),
        ("=id", {"id": None}, None),
        ("=id", {"id": ""}, None),
        ("=id", [], None),
        ("none", {"id": "evt_1"}, None),
        ("=format('{}-{}', event_type(), id)", {"id": 1, "type": "a"}, "a-1"),
        ("=format('{}-{}', event_type(), id)", {"type": "a"}, None),
    ],
)
def test_the_key_of_an_event_is_text_or_none(expression: str, payload: JSON, expected: str | None) -> None:
    assert key_of(expression, payload) == expected


def test_the_key_of_an_event_may_come_out_of_the_request() -> None:
    assert key_of("=header('X-Id')", None, headers={"x-id": "h"}) == "h"
    assert key_of("=query('id')", None, query={"id": "q"}) == "q"
    assert key_of("=received_at()", None) == str(NOW)


@pytest.mark.parametrize("value", [True, [], {"a": 1}])
def test_a_key_of_another_kind_is_an_error(value: JSON) -> None:
    with pytest.raises(TranslationError, match=r"m\.yaml:4:12: event_key: must be text or a number"):
        key_of("=id", {"id": value})


# Hostile payloads


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**1000, -(10**309), 1e308, "\ud800", "\x00", ".", "..", "cio_", "s3cret", "s3cret " * 300])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["s3cret", "s3cret " * 30]), inner),
    max_leaves=6,
)
EVERYTHING = of_calls(
    """
    - call: identify
      id: =a
      email: =b
      attributes_from: =c
      attributes: {d: =d, e: {or_null: =e}, f: [=f, {g: =g}]}
      timestamp: =h
    - call: track
      each: =to_array(d)
      anonymous_id: =root().a
      name: =root().b
      attributes_from: =@
      event_id: =root().e
    - {call: page, cio_id: =b, url: =c}
    - {call: destroy, id: =a, when: =f}
    """
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys("abcdefgh", HOSTILE)))
def test_no_payload_makes_translate_raise_and_no_problem_shows_its_values(payload: dict[str, JSON]) -> None:
    translation = translated(EVERYTHING, payload)
    assert translation.status in ("accepted", "failed")
    assert "s3cret" not in str(translation.problem)
    for planned_call in translation.planned:
        assert len(planned_call.identity) == 32
        json.dumps(as_json(planned_call.sealed), ensure_ascii=False).encode()


def test_a_thousand_calls_take_a_fraction_of_a_second() -> None:
    mapping = of_calls("- {call: track, each: =items, id: =root().id, name: =name, attributes_from: =@}")
    items: list[JSON] = [{"name": f"n{number}", "a": 1, "b": [2, 3]} for number in range(1_000)]
    start = time.process_time()
    assert len(planned(mapping, {"id": "u", "items": items})) == 1_000
    assert time.process_time() - start < 1


def test_a_number_of_more_digits_than_python_writes_is_a_problem() -> None:
    mapping = of_calls("- {call: identify, id: =id, attributes: {n: =n}}")
    assert "id: a number this large cannot be written as text" in problem(mapping, {"id": 10**5_000})
    assert problem(mapping, {"id": "u", "n": [-(10**5_000)]}).startswith("m.yaml:8:45: attributes")


@pytest.mark.parametrize("payload", [{"n": 1}, {"n": 1, "eid": "o"}, {"n": 1, "eid": "01EJYNPC1TAB1VXXEXR91QFFA9"}])
def test_a_salt_changes_the_ulid_and_the_end_of_the_identity(payload: dict[str, JSON]) -> None:
    plain = one(payload)
    first, same, other = (
        translate(of_calls(TRACK), event({"type": "a", "id": "u", "name": "x", **payload}), salt=salt * SALT).planned[0]
        for salt in (b"1", b"1", b"2")
    )
    assert first == same
    identities = [plain.identity, first.identity, other.identity]
    assert {planned_call[:-SALT] for planned_call in identities} == {plain.identity[:-SALT]}
    assert len(set(identities)) == 3
    ulids = {planned_call.sealed.event_id for planned_call in (plain, first, other)}  # type: ignore[attr-defined] # all are tracks
    assert len(ulids) == 3
