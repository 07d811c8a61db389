"""A mapping and an event give calls, or a problem with its place."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from textwrap import dedent, indent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio.calls import (
    AddDevice,
    AddRelationships,
    DeleteDevice,
    DeleteObject,
    DeleteRelationships,
    Destroy,
    Identify,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    Track,
    Unsuppress,
    as_json,
)
from gateway.errors import TranslationError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.mapping.translate import SALT, PlannedCall, Translation, event_key, translate

NOW = 1767225600
HEAD = "version: 1\nsource: shop\nverify: none\nevent_key: none\nevent_type: =type\n"


def mapping_of(text: str) -> MappingFile:
    mapping, warnings = parse(text, "m.yaml")
    assert warnings == []
    return mapping


def of_calls(calls: str, top: str = "") -> MappingFile:
    """A mapping whose events of the type "a" make these calls, the first on line 9 without a *top*."""
    body = indent(dedent(calls).strip("\n"), "    ")
    return mapping_of(f"{HEAD}{top}x-note: x\nevents:\n  a:\n{body}\n")


def event(payload: JSON = None, **changes: Any) -> Event:
    made = Event(source="shop", key="k", payload=payload, headers={}, query={}, received_at=NOW)
    return replace(made, **changes)


def translated(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> Translation:
    return translate(mapping, event({"type": "a", **payload}, **changes))


def planned(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> tuple[PlannedCall, ...]:
    found = translated(mapping, payload, **changes)
    assert found.problem is None
    assert found.status == "accepted"
    return found.planned


def written(mapping: MappingFile, payload: dict[str, JSON], **changes: Any) -> list[dict[str, JSON]]:
    return [as_json(each.call) for each in planned(mapping, payload, **changes)]


def problem(mapping: MappingFile, payload: dict[str, JSON]) -> str:
    found = translated(mapping, payload)
    assert found.status == "failed"
    assert found.planned == ()
    assert found.problem is not None
    return str(found.problem)


# Calls


def test_the_usual_calls_are_built_as_the_mapping_says() -> None:
    mapping = of_calls(
        """
        - call: identify
          id: =id
          email: =email
          attributes: {plan: =plan, source: shop}
          timestamp: =at
        - call: track
          anonymous_id: =anon
          name: Order Paid
          attributes: {total: =total}
          event_id: =order
          timestamp: =at
        - call: page
          cio_id: =cio
          url: =url
        - call: destroy
          email: =email
        """
    )
    payload: dict[str, JSON] = {
        "id": 42,
        "email": "a@example.com",
        "plan": "pro",
        "at": 1767000000,
        "anon": "x",
        "total": 49.5,
        "order": "o-1",
        "cio": "c1",
        "url": "https://example.com/",
    }
    assert [each.call for each in planned(mapping, payload)] == [
        Identify(id="42", email="a@example.com", attributes={"plan": "pro", "source": "shop"}, timestamp=1767000000),
        Track(anonymous_id="x", name="Order Paid", attributes={"total": 49.5}, timestamp=1767000000, event_id="o-1"),
        Page(cio_id="c1", url="https://example.com/", timestamp=NOW),
        Destroy(email="a@example.com"),
    ]


@pytest.mark.parametrize(
    ("when", "made"),
    [
        *((when, False) for when in ("null", "false", '""', "[]", "{}")),
        *((when, True) for when in ("true", "0", '"x"', "[null]")),
    ],
)
def test_when_decides_whether_a_call_is_made(when: str, made: bool) -> None:
    mapping = of_calls("- {call: destroy, id: =id, when: =w}")
    found = translated(mapping, {"id": "u", "w": json.loads(when)})
    assert (found.status == "accepted") is made
    assert len(found.planned) == made


def test_the_other_calls_are_built_as_the_mapping_says() -> None:
    mapping = of_calls(
        """
        - {call: screen, id: =id, name: Home}
        - {call: suppress, email: =email}
        - {call: unsuppress, cio_id: =cio}
        - {call: merge, into: {id: =id}, from: {email: =email}}
        - {call: add_device, id: =id, token: =token, platform: ios, last_used: =at, attributes: {build: =build}}
        - {call: delete_device, id: =id, token: =token}
        - call: identify_object
          object_type_id: 1
          object_id: =company.id
          attributes_from: =company
          attributes: {plan: =plan}
          people: [{id: =id, attributes: {role: owner}}, {email: =email}]
        - {call: delete_object, object_type_id: '1', object_id: =company.id}
        - call: add_relationships
          id: =id
          objects: "=companies[].{object_type_id: '1', object_id: id}"
        - {call: delete_relationships, id: =id, objects: [{object_type_id: 1, object_id: =company.id}]}
        - {call: submit_form, form_id: signup, email: =email, attributes: {age: =build, ok: true, none: =none}}
        """
    )
    payload: dict[str, JSON] = {
        "id": 42,
        "email": "a@example.com",
        "cio": "c1",
        "token": "t1",
        "at": 1767000000.0,
        "build": 7,
        "plan": "pro",
        "company": {"id": 9, "name": "Acme"},
        "companies": [{"id": 9}, {"id": 10.0}],
    }
    acme: dict[str, Any] = {"object_type_id": "1", "object_id": "9"}
    assert [each.call for each in planned(mapping, payload)] == [
        Screen(id="42", name="Home", timestamp=NOW),
        Suppress(email="a@example.com"),
        Unsuppress(cio_id="c1"),
        Merge(into={"id": "42"}, from_={"email": "a@example.com"}),
        AddDevice(id="42", token="t1", platform="ios", last_used=1767000000, attributes={"build": "7"}),
        DeleteDevice(id="42", token="t1"),
        IdentifyObject(
            **acme,
            attributes={"name": "Acme", "plan": "pro"},
            people=[{"id": "42", "attributes": {"role": "owner"}}, {"email": "a@example.com"}],
        ),
        DeleteObject(**acme),
        AddRelationships(id="42", objects=[acme, {**acme, "object_id": "10"}]),
        DeleteRelationships(id="42", objects=[acme]),
        SubmitForm(form_id="signup", email="a@example.com", attributes={"age": "7", "ok": "true"}),
    ]


def test_a_raw_request_is_built_as_the_mapping_says() -> None:
    mapping = of_calls(
        """
        - call: request
          path: =format('/v1/customers/{}/events', url_encode(id))
          query: {page: =n, tag: [a, =id]}
          headers: {X-Trace: =n, X-None: =none}
          data: {name: =id, none: =none, kept: {or_null: =none}}
          timeout: 2.5
          debug: true
          retry: {max: 3, delay_ms: 100}
        - call: request
          path: /v1/import
          method: PUT
          form: {a: =n}
          files: {list: =id}
          file_names: {list: list.csv}
          response_type: text
        """
    )
    assert [each.call for each in planned(mapping, {"id": "a/b", "n": 7})] == [
        RawRequest(
            path="/v1/customers/a%2Fb/events",
            query={"page": 7, "tag": ["a", "a/b"]},
            headers={"X-Trace": "7"},
            data={"name": "a/b", "kept": None},
            timeout=2.5,
            debug=True,
            retry={"max": 3, "delay_ms": 100},
        ),
        RawRequest(
            path="/v1/import",
            method="PUT",
            form={"a": 7},
            files={"list": "a/b"},
            file_names={"list": "list.csv"},
            response_type="text",
        ),
    ]


@pytest.mark.parametrize(
    ("call", "payload", "expected"),
    [
        ("{call: merge, into: {id: =a}, from: {id: =b}}", {"a": "1"}, "9:43: from: names nobody"),
        ("{call: merge, into: {id: =a}, from: {id: =b}}", {"a": "1", "b": 1}, "9:43: from: is the same person"),
        ("{call: delete_device, id: =a, token: =b}", {"a": "1"}, "9:44: token: null or empty"),
        (
            "{call: add_device, id: =a, token: =a, platform: =b}",
            {"a": "1", "b": "palm"},
            "9:55: platform: is not one of ios, android",
        ),
        (
            "{call: add_device, id: =a, token: =a, platform: ios, last_used: =b}",
            {"a": "1", "b": 1767000000000},
            "9:71: last_used: is too large for unix seconds",
        ),
        ("{call: add_relationships, id: =a, objects: =b}", {"a": 1}, "9:50: objects: is empty"),
        ("{call: add_relationships, id: =a, objects: =b}", {"a": 1, "b": {}}, "objects: needs a list, got an object"),
        ("{call: add_relationships, id: =a, objects: =b}", {"a": 1, "b": [1]}, "objects[0]: must be an object with"),
        (
            "{call: add_relationships, id: =a, objects: =b}",
            {"a": 1, "b": [{"object_id": "1", "secret": 1}]},
            "objects[0]: has keys that mean nothing here (1); it takes object_type_id, object_id, attributes",
        ),
        (
            "{call: add_relationships, id: =a, objects: =b}",
            {"a": 1, "b": [{"object_id": "1", "object_type_id": True}]},
            "objects[0].object_type_id: must be text or a number, got a boolean",
        ),
        (
            "{call: add_relationships, id: =a, objects: [{object_type_id: 1, object_id: =b}]}",
            {"a": 1, "b": "v" * 151},
            "9:82: objects[0].object_id: is 151 bytes long",
        ),
        (
            "{call: identify_object, object_type_id: 1, object_id: =a, people: =b}",
            {"a": 1, "b": [{}]},
            "people: names nobody; it needs an id, email or cio_id",
        ),
        (
            "{call: submit_form, form_id: 1, id: =a, attributes: {b: =b}}",
            {"a": 1, "b": [1]},
            "9:63: attributes.b: has to be text; write =to_string(…)",
        ),
        ("{call: request, path: =a}", {"a": "//evil"}, "9:29: path: has to be a path below /api"),
        ("{call: request, path: =a}", {"a": "/v1/../v2"}, "9:29: path: must not have a segment"),
        ("{call: request, path: =a}", {}, "9:29: path: null or empty"),
        (
            "{call: request, path: /v1/x, headers: {X-A: =a}}",
            {"a": "b\r\nc"},
            "9:51: headers.X-A: has to be text of printable ASCII characters",
        ),
    ],
)
def test_a_value_that_a_call_cannot_take_is_an_error_with_its_place(
    call: str, payload: dict[str, JSON], expected: str
) -> None:
    assert expected in problem(of_calls(f"- {call}"), payload)


def test_only_track_page_and_screen_have_a_ulid() -> None:
    mapping = of_calls("- {call: screen, id: =id, name: Home}\n- {call: suppress, id: =id}")
    screen, suppress = planned(mapping, {"id": 1})
    assert isinstance(screen.sealed, Screen)
    assert screen.sealed.event_id == screen.ulid
    assert suppress.ulid is None


def test_each_makes_one_call_per_item_in_order() -> None:
    mapping = of_calls(
        """
        - call: track
          each: =items
          when: =quantity > `0`
          id: =root().user
          name: =format('Bought {}', sku)
          event_id: =join('-', [root().order, to_string(index())])
          attributes: {quantity: =quantity, number: =index()}
        - {call: destroy, id: =user}
        """
    )
    items: list[JSON] = [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 0}, {"sku": "c", "quantity": 1}]
    assert written(mapping, {"user": "u", "order": "o", "items": items}) == [
        {
            "call": "track",
            "id": "u",
            "name": "Bought a",
            "attributes": {"quantity": 2, "number": 0},
            "timestamp": NOW,
            "event_id": "o-0",
        },
        {
            "call": "track",
            "id": "u",
            "name": "Bought c",
            "attributes": {"quantity": 1, "number": 2},
            "timestamp": NOW,
            "event_id": "o-2",
        },
        {"call": "destroy", "id": "u"},
    ]


@pytest.mark.parametrize("items", [None, []])
def test_each_of_nothing_makes_no_call(items: JSON) -> None:
    found = translated(of_calls("- {call: destroy, id: =@, each: =items}"), {"items": items})
    assert (found.status, found.planned) == ("ignored", ())


@pytest.mark.parametrize(
    ("items", "kind"), [({"a": 1}, "an object"), ("abc", "text"), (3, "a number"), (True, "a boolean")]
)
def test_each_needs_a_list(items: JSON, kind: str) -> None:
    assert problem(of_calls("- {call: destroy, id: =@, each: =items}"), {"items": items}) == (
        f"m.yaml:9:37: each: needs a list, got {kind}; write =to_array(…) for one or many"
    )


def test_an_event_makes_a_thousand_calls_and_no_more() -> None:
    mapping = of_calls("- {call: destroy, id: =@, each: =items}\n- {call: destroy, id: =last, when: =last}")
    thousand: list[JSON] = [str(number) for number in range(1_000)]
    assert len(planned(mapping, {"items": thousand})) == 1_000
    assert problem(mapping, {"items": [*thousand, "x"]}) == (
        "m.yaml:9:7: each: the event makes more than 1,000 calls; take fewer items in 'each'"
    )
    assert problem(mapping, {"items": thousand, "last": "x"}).startswith("m.yaml:10:7: call: the event makes more")


def test_one_error_records_no_call_at_all() -> None:
    mapping = of_calls("- {call: destroy, id: =a}\n- {call: destroy, id: =b}")
    assert problem(mapping, {"a": "u", "b": None}).startswith("m.yaml:10:27: id: null or empty")


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


def test_an_ignore_does_not_change_the_calls_beside_it() -> None:
    mapping = of_calls("- {call: ignore, when: =spam, reason: spam}\n- {call: destroy, id: =id, when: =!spam}")
    assert written(mapping, {"id": "u", "spam": False}) == [{"call": "destroy", "id": "u"}]
    assert translated(mapping, {"id": "u", "spam": True}).reason == "spam"


@pytest.mark.parametrize("value", [True, [], {"a": 1}])
def test_an_event_type_of_another_kind_is_an_error(value: JSON) -> None:
    found = translate(of_calls("- {call: destroy, id: =id}"), event({"type": value}))
    assert found.event_type is None
    assert str(found.problem).startswith("m.yaml:5:13: event_type: must be text or a number, got ")


def test_an_expression_that_fails_names_its_field_and_place_but_no_value() -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes:\n    a: {b: [=lower(x)]}")
    assert problem(mapping, {"id": "u", "x": [12345]}) == (
        "m.yaml:12:17: attributes.a.b: lower() needs text, got a list"
    )


# Identifiers and defaults

DEFAULTS = "defaults: {id: =user, email: =mail, anonymous_id: =anon, timestamp: =at}\n"


@pytest.mark.parametrize(
    ("call", "payload", "expected"),
    [
        ("{call: destroy}", {"user": 1, "mail": "m@x.y", "anon": "z", "at": NOW}, {"id": "1", "email": "m@x.y"}),
        ("{call: destroy}", {"user": None, "mail": "m@x.y"}, {"email": "m@x.y"}),
        ("{call: destroy, cio_id: =c}", {"c": "x", "user": 1}, {"cio_id": "x"}),
        ("{call: identify}", {"user": 1, "anon": "z", "at": 1767000000}, {"id": "1", "timestamp": 1767000000}),
        ("{call: identify}", {"user": 1}, {"id": "1"}),
        (
            "{call: page, url: '*'}",
            {"anon": "z", "at": 1767000000},
            {"anonymous_id": "z", "url": "*", "timestamp": 1767000000},
        ),
        ("{call: page, url: '*'}", {"anon": "z"}, {"anonymous_id": "z", "url": "*", "timestamp": NOW}),
        (
            "{call: page, url: '*', timestamp: =t}",
            {"anon": "z", "at": 1767000000},
            {"anonymous_id": "z", "url": "*", "timestamp": NOW},
        ),
        ("{call: identify, timestamp: =t}", {"user": 1, "at": 1767000000}, {"id": "1"}),
        ("{call: identify, timestamp: =t}", {"user": 1, "t": 1767000001}, {"id": "1", "timestamp": 1767000001}),
    ],
)
def test_defaults_fill_the_missing_keys_that_a_call_can_take(
    call: str, payload: dict[str, JSON], expected: dict[str, JSON]
) -> None:
    (found,) = written(of_calls(f"- {call}", DEFAULTS), payload)
    del found["call"]
    assert found == expected


def test_a_call_that_names_any_identifier_gets_no_default_one_even_if_its_own_is_null() -> None:
    mapping = of_calls("- {call: destroy, email: =e}", DEFAULTS)
    assert problem(mapping, {"user": 1, "mail": "m@x.y", "e": None}) == (
        "m.yaml:10:30: email: null or empty, so 'destroy' names nobody; if that may be, give the call a 'when'"
    )


def test_a_default_that_is_not_used_is_not_evaluated() -> None:
    mapping = of_calls("- {call: destroy, id: =id}", "defaults: {id: =lower(bad), timestamp: =unix(bad)}\n")
    assert written(mapping, {"id": "u", "bad": []}) == [{"call": "destroy", "id": "u"}]


def test_defaults_are_evaluated_on_the_part_also_under_each() -> None:
    mapping = of_calls("- {call: track, each: =items, name: =name}", "defaults: {id: =id, timestamp: =at}\n")
    items: list[JSON] = [{"id": "not me", "name": "A", "at": 1}]
    assert written(mapping, {"id": "u", "at": NOW, "items": items}) == [
        {"call": "track", "id": "u", "name": "A", "timestamp": NOW}
    ]


@pytest.mark.parametrize("nobody", [None, ""])
def test_a_call_whose_identifiers_are_all_null_or_empty_is_an_error(nobody: JSON) -> None:
    mapping = of_calls("- {call: track, id: =a, email: =b, name: x}")
    assert problem(mapping, {"a": nobody, "b": nobody}).startswith("m.yaml:9:25: id, email: null or empty, so 'track'")
    assert written(mapping, {"a": nobody, "b": "u@x.y"})[0]["email"] == "u@x.y"
    assert "id" not in written(mapping, {"a": nobody, "b": "u@x.y"})[0]


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
        (found,) = written(mapping, {"e": "u@x.y", "n": value})
        assert (found["name"], found["event_id"]) == (text, text)
    assert (
        event_key(mapping_of(HEAD.replace(": none\nevent_t", ": =n\nevent_t") + "events: {}\n"), event({"n": value}))
        == text
    )


@pytest.mark.parametrize(("value", "kind"), [(True, "a boolean"), ([1], "a list"), ({}, "an object")])
@pytest.mark.parametrize("field", ["id", "name", "event_id"])
def test_text_of_another_kind_is_an_error(field: str, value: JSON, kind: str) -> None:
    mapping = of_calls("- {call: track, id: =id, name: =name, event_id: =event_id}")
    payload: dict[str, JSON] = {"id": "u", "name": "x", field: value}
    assert problem(mapping, payload).endswith(f": {field}: must be text or a number, got {kind}")


@pytest.mark.parametrize("name", [None, ""])
def test_an_event_without_a_name_is_an_error_and_one_without_an_event_id_is_not(name: JSON) -> None:
    mapping = of_calls("- {call: track, id: =id, name: =name, event_id: =event_id}")
    assert problem(mapping, {"id": "u", "name": name}).startswith("m.yaml:9:36: name: null or empty")
    assert "event_id" not in written(mapping, {"id": "u", "name": "x", "event_id": name})[0]


# Timestamps


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_000_000_000, 1_000_000_000),
        (99_999_999_999, 99_999_999_999),
        (1767000000.0, 1767000000),
        (None, NOW),
        (999_999_999, "is too small for unix seconds of today: it lies before September 2001"),
        (0, "is too small for unix seconds of today: it lies before September 2001"),
        (-(10**400), "is too small for unix seconds of today: it lies before September 2001"),
        (100_000_000_000, "is too large for unix seconds; if it is in milliseconds, write =unix(…)"),
        (1767000000000, "is too large for unix seconds; if it is in milliseconds, write =unix(…)"),
        (1e300, "is too large for unix seconds; if it is in milliseconds, write =unix(…)"),
        (1767000000.5, "must be whole unix seconds; write =unix(…)"),
        ("1767000000", "must be unix seconds, got text; write =unix(…)"),
        ("2026-01-01", "must be unix seconds, got text; write =unix(…)"),
        (True, "must be unix seconds, got a boolean; write =unix(…)"),
        ([], "must be unix seconds, got a list; write =unix(…)"),
    ],
)
@pytest.mark.parametrize("where", ["call", "defaults"])
def test_a_timestamp_is_whole_unix_seconds_between_2001_and_5138(where: str, value: JSON, expected: int | str) -> None:
    if where == "call":
        mapping, place = of_calls("- {call: track, id: =id, name: x, timestamp: =t}"), "m.yaml:9:50"
    else:
        mapping, place = (of_calls("- {call: track, id: =id, name: x}", "defaults: {timestamp: =t}\n"), "m.yaml:6:23")
    if isinstance(expected, int):
        assert written(mapping, {"id": "u", "t": value})[0]["timestamp"] == expected
    else:
        assert problem(mapping, {"id": "u", "t": value}) == f"{place}: timestamp: {expected}"


# Attributes


@pytest.mark.parametrize(
    ("attributes", "payload", "expected"),
    [
        ("{a: text, b: 1, c: true, d: 2.5}", {}, {"a": "text", "b": 1, "c": True, "d": 2.5}),
        ("{a: =x, b: =y}", {"x": 1.0, "y": [None]}, {"a": 1.0, "b": [None]}),
        ("{a: =x}", {"x": None}, {}),
        ("{a: {or_null: =x}, b: {or_null: =y}}", {"y": 1}, {"a": None, "b": 1}),
        ("{a: null}", {}, {"a": None}),
        ("{a: {literal: =1+1}}", {}, {"a": "=1+1"}),
        ("{a: {literal: {or_null: b}}}", {}, {"a": {"or_null": "b"}}),
        ("{a.b: =x}", {"x": 1}, {"a.b": 1}),
        ("{a: {b: =x, c: =y, d: {or_null: =y}}}", {"x": 1}, {"a": {"b": 1, "d": None}}),
        ("{a: [=x, =y, {or_null: =y}, {z: =x}]}", {"x": 1}, {"a": [1, None, {"z": 1}]}),
        ("{a: =x}", {"x": {"deep": None}}, {"a": {"deep": None}}),
        ("{id: =x, token: text}", {"x": 7}, {"id": 7, "token": "text"}),
    ],
)
def test_attributes_are_literals_expressions_lists_and_objects(
    attributes: str, payload: dict[str, JSON], expected: JSON
) -> None:
    mapping = of_calls(f"- {{call: track, id: =who, name: x, attributes: {attributes}}}")
    assert written(mapping, {"who": "u", **payload})[0].get("attributes", {}) == expected


def test_a_whole_float_stays_as_it_is_and_a_true_stays_true() -> None:
    (found,) = planned(
        of_calls("- {call: identify, id: =id, attributes: {a: =a, b: =b}}"), {"id": "u", "a": 1.0, "b": True}
    )
    assert json.dumps(dict(found.call.attributes)) == '{"a": 1.0, "b": true}'  # type: ignore[attr-defined] # an Identify has them


def test_a_whole_object_comes_first_and_named_attributes_win() -> None:
    mapping = of_calls(
        """
        - call: identify
          id: =id
          attributes_from: =user
          attributes: {plan: =plan, name: =name, city: {or_null: =city}}
        """
    )
    user: JSON = {"plan": "free", "name": "Ann", "city": "Rome", "age": 3, "phone": None, "deep": {"x": None}}
    assert written(mapping, {"id": "u", "plan": "pro", "user": user})[0]["attributes"] == {
        "plan": "pro",
        "city": None,
        "age": 3,
        "deep": {"x": None},
    }
    assert written(mapping, {"id": "u", "plan": "pro", "user": None})[0]["attributes"] == {"plan": "pro", "city": None}


@pytest.mark.parametrize(("value", "kind"), [([], "a list"), ("x", "text"), (0, "a number"), (False, "a boolean")])
def test_attributes_are_taken_from_an_object_only(value: JSON, kind: str) -> None:
    mapping = of_calls("- {call: identify, id: =id, attributes_from: =user}")
    assert problem(mapping, {"id": "u", "user": value}) == (
        f"m.yaml:9:50: attributes_from: needs an object, got {kind}"
    )


STEERING = [
    *("recipient", "from_address", "reply_to", "_update", "_timestamp", "id", "cio_id", "unsubscribed"),
    *("cio_relationships", "cio_subscription_preferences", "cio_subscription_preferences.topics.topic_7"),
]


@pytest.mark.parametrize("name", STEERING)
def test_a_name_that_controls_customerio_is_taken_only_from_attributes(name: str) -> None:
    taken = of_calls("- {call: track, id: =who, name: x, attributes_from: =o}")
    assert "attributes" not in written(taken, {"who": "u", "o": {name: "x"}})[0]
    named = of_calls(f"- {{call: track, id: =who, name: x, attributes_from: =o, attributes: {{{name}: =v}}}}")
    assert written(named, {"who": "u", "o": {name: "x"}, "v": "y"})[0]["attributes"] == {name: "y"}


@pytest.mark.parametrize("name", ["email", "Recipient", "recipient_name", "anonymous_id", "cio_subscription"])
def test_names_that_resemble_such_a_name_are_taken(name: str) -> None:
    mapping = of_calls("- {call: track, id: =who, name: x, attributes_from: =o}")
    assert written(mapping, {"who": "u", "o": {name: "x"}})[0]["attributes"] == {name: "x"}


# Limits


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"id": "."}, "m.yaml:10:11: id: "),
        ({"id": "x" * 151}, "m.yaml:10:11: id: is 151 bytes long"),
        ({"name": "é" * 51}, "m.yaml:11:13: name: is 102 bytes long"),
        ({"name": "  "}, "m.yaml:11:13: name: is blank"),
        ({"big": "x" * 100_001}, "m.yaml:12:19: attributes: is "),
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
    assert problem(mapping, {"id": "u", "o": many}).startswith("m.yaml:11:24: attributes_from: has 301")


def test_the_name_of_an_attribute_out_of_the_payload_is_not_shown() -> None:
    mapping = of_calls("- call: identify\n  id: =id\n  attributes_from: =o\n  attributes: {mine: =m}")
    taken = problem(mapping, {"id": "u", "o": {"secret": "x" * 1_001}})
    assert taken.startswith("m.yaml:11:24: attributes_from: is 1001 bytes long")
    assert "secret" not in taken
    assert problem(mapping, {"id": "u", "m": "x" * 1_001}).startswith("m.yaml:12:26: attributes.mine: is 1001 ")


# Connection and region


def test_a_call_may_name_its_own_connection_and_region() -> None:
    mapping = of_calls(
        "- {call: destroy, id: =id}\n"
        "- {call: destroy, id: =id, connection: second}\n"
        "- {call: destroy, id: =id, region: us}",
        "connection: first\nregion: eu\n",
    )
    found = planned(mapping, {"id": "u"})
    assert [(each.connection, each.region) for each in found] == [("first", "eu"), ("second", "eu"), ("first", "us")]
    (plain,) = planned(of_calls("- {call: destroy, id: =id}"), {"id": "u"})
    assert (plain.connection, plain.region) == ("default", None)


# Identity and ULIDs

TRACK = "- {call: track, id: =id, name: =name, event_id: =eid, attributes: {n: =n}}"


def one(payload: dict[str, JSON], calls: str = TRACK, **changes: Any) -> PlannedCall:
    (found,) = planned(of_calls(calls), {"id": "u", "name": "x", **payload}, **changes)
    return found


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
    found = one({"n": value})
    assert found.text == json.dumps(as_json(found.sealed), separators=(",", ":"))
    assert found.text.isascii()


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
    found = planned(mapping, {"items": ["u", "v", "u", "u"]})
    assert len({each.identity for each in found}) == 4
    assert len({each.sealed.event_id for each in found if isinstance(each.sealed, Track)}) == 4
    assert found[0].identity == planned(mapping, {"items": ["u"]})[0].identity
    assert found[2].identity == planned(mapping, {"items": ["u", "u", "v"]})[1].identity


ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def ulid_of(each: PlannedCall) -> tuple[int, int]:
    """The milliseconds and the rest of the ULID under which a call is sent."""
    text = getattr(each.sealed, "event_id", None)
    assert isinstance(text, str)
    assert len(text) == 26
    number = 0
    for character in text:
        number = number * 32 + ALPHABET.index(character)
    assert number < 2**128
    return number >> 80, number % 2**80


def test_only_the_event_id_differs_between_the_call_and_the_sealed_call() -> None:
    found = one({"n": 1, "eid": "o"})
    assert isinstance(found.call, Track)
    assert isinstance(found.sealed, Track)
    assert (found.call.event_id, found.sealed) == ("o", replace(found.call, event_id=found.sealed.event_id))
    untouched = one({}, "- {call: identify, id: =id}")
    assert untouched.sealed == untouched.call


def test_without_an_event_id_the_ulid_is_made_of_the_timestamp_and_the_identity() -> None:
    found = one({"n": 1})
    assert ulid_of(found) == (NOW * 1000, int.from_bytes(found.identity[:10], "big"))
    dated = one({"t": 99_999_999_999}, "- {call: page, id: =id, url: '*', timestamp: =t}")
    assert ulid_of(dated)[0] == 99_999_999_999_000


def test_with_an_event_id_the_ulid_is_made_of_source_connection_and_event_id_only() -> None:
    first = one({"n": 1, "eid": "o"})
    second = one({"n": 2, "eid": "o", "name": "y"}, key="another", received_at=NOW + 99)
    assert ulid_of(first) == ulid_of(second)
    assert first.identity != second.identity
    assert ulid_of(first) != ulid_of(one({"eid": "p"}))
    assert ulid_of(first) != ulid_of(one({"eid": "o"}, source="other"))
    assert ulid_of(first) != ulid_of(one({"eid": "o"}, TRACK.replace("call: track,", "call: track, connection: b,")))


@given(st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable()))
def test_the_date_in_a_hashed_ulid_is_plausible(event_id: str) -> None:
    milliseconds, _ = ulid_of(one({"eid": event_id}))
    assert 1_577_836_800_000 <= milliseconds < 1_577_836_800_000 + 2**37


@pytest.mark.parametrize(
    ("event_id", "kept"),
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
def test_an_event_id_that_is_a_ulid_is_sent_as_it_is(event_id: str, kept: bool) -> None:
    sent = getattr(one({"eid": event_id}).sealed, "event_id", None)
    assert (sent == event_id.upper()) is kept
    ulid_of(one({"eid": event_id}))


@pytest.mark.parametrize(
    "ids", [["o", "o"], ["a", "b", "a"], ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01arz3ndektsv4rrffq69g5fav"], [42, "42"]]
)
def test_two_calls_of_an_event_with_the_same_event_id_are_an_error(ids: list[JSON]) -> None:
    mapping = of_calls("- {call: track, each: =ids, id: =root().id, name: x, event_id: =@}")
    assert problem(mapping, {"id": "u", "ids": ids}) == (
        "m.yaml:9:68: event_id: two calls of this event have the same, so Customer.io would drop the second;"
        " make them differ: =join('-', [id, 'second']), or under 'each' =join('-', [id, to_string(index())])"
    )


# The key of an event


def key_of(written: str, payload: JSON, **given: Any) -> str | None:
    text = HEAD.replace("event_key: none", f"event_key: {written}") + "events: {}\n"
    return event_key(mapping_of(text), event(payload, **given))


@pytest.mark.parametrize(
    ("written", "payload", "expected"),
    [
        ("=id", {"id": "evt_1"}, "evt_1"),
        ("=id", {"id": 7.0}, "7"),
        ("=id", {"id": None}, None),
        ("=id", {"id": ""}, None),
        ("=id", [], None),
        ("none", {"id": "evt_1"}, None),
        ("=join('-', [event_type(), id])", {"id": 1, "type": "a"}, "a-1"),
    ],
)
def test_the_key_of_an_event_is_text_or_none(written: str, payload: JSON, expected: str | None) -> None:
    assert key_of(written, payload) == expected


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
    found = translated(EVERYTHING, payload)
    assert found.status in ("accepted", "failed")
    assert "s3cret" not in str(found.problem)
    for each in found.planned:
        assert len(each.identity) == 32
        json.dumps(as_json(each.sealed), ensure_ascii=False).encode()


def test_a_thousand_calls_take_a_fraction_of_a_second() -> None:
    mapping = of_calls("- {call: track, each: =items, id: =root().id, name: =name, attributes_from: =@}")
    items: list[JSON] = [{"name": f"n{number}", "a": 1, "b": [2, 3]} for number in range(1_000)]
    start = time.process_time()
    assert len(planned(mapping, {"id": "u", "items": items})) == 1_000
    assert time.process_time() - start < 1


def test_a_number_of_more_digits_than_python_writes_is_a_problem() -> None:
    mapping = of_calls("- {call: identify, id: =id, attributes: {n: =n}}")
    assert "id: a number this large cannot be written as text" in problem(mapping, {"id": 10**5_000})
    assert problem(mapping, {"id": "u", "n": [-(10**5_000)]}).startswith("m.yaml:9:45: attributes")


@pytest.mark.parametrize("payload", [{"n": 1}, {"n": 1, "eid": "o"}, {"n": 1, "eid": "01EJYNPC1TAB1VXXEXR91QFFA9"}])
def test_a_salt_changes_the_ulid_and_the_end_of_the_identity(payload: dict[str, JSON]) -> None:
    plain = one(payload)
    first, same, other = (
        translate(of_calls(TRACK), event({"type": "a", "id": "u", "name": "x", **payload}), salt=salt * SALT).planned[0]
        for salt in (b"1", b"1", b"2")
    )
    assert first == same
    identities = [plain.identity, first.identity, other.identity]
    assert {each[:-SALT] for each in identities} == {plain.identity[:-SALT]}
    assert len(set(identities)) == 3
    ulids = {each.sealed.event_id for each in (plain, first, other)}  # type: ignore[attr-defined] # all are tracks
    assert len(ulids) == 3
