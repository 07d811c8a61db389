"""Values of a Python program become the JSON that Customer.io takes, or are refused."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from gateway.customerio.calls import (
    AddDevice,
    AddRelationships,
    Call,
    DeleteDevice,
    DeleteObject,
    Destroy,
    Identify,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Track,
)
from gateway.customerio.coerce import coerce_call
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.errors import CallError

ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"
OWN = "01JGQ3XK00000000000000000W"
U = UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
SECONDS = 1_767_225_600
HUGE = 10**5_000
ACME = {"object_type_id": "1", "object_id": "acme"}


class Plan(StrEnum):
    PRO = "pro"


class Level(IntEnum):
    HIGH = 3


def coerced(call_type: type[Call], **fields: Any) -> Any:
    """Coerce a call with values that a type checker would refuse; an id that is missing becomes OWN."""
    return coerce_call(call_type(**fields), lambda: OWN)


def refusal(call_type: type[Call], **fields: Any) -> str:
    with pytest.raises(CallError) as refused:
        coerced(call_type, **fields)
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, value) for value in (None, True, 0, 2**70, 1.5, 1.0, "Päid")),
        *((Plan.PRO, "pro"), (Level.HIGH, 3), (U, str(U))),
        *((MOMENT, SECONDS), (MOMENT + timedelta(microseconds=999_999), SECONDS)),
        (datetime(2025, 12, 31, 20, tzinfo=timezone(timedelta(hours=-4))), SECONDS),
        *((Decimal("42"), 42), (Decimal("42.00"), 42), (Decimal("-0"), 0), (Decimal("1E+3"), 1_000)),
        (Decimal("12345678901234567890123456789012345678"), 12345678901234567890123456789012345678),
        *((Decimal("49.90"), 49.9), (Decimal("-0.001"), -0.001), (Decimal("1E-7"), 1e-7)),
        *(([1, (2, 3)], [1, [2, 3]]), ((), []), ({"a": {"b": (U, Decimal("0.5"))}}, {"a": {"b": [str(U), 0.5]}})),
        *((OrderedDict(a=MOMENT), {"a": SECONDS}), (MappingProxyType({"a": 1}), {"a": 1})),
    ],
)
def test_a_value_becomes_the_json_that_it_is(value: Any, expected: Any) -> None:
    call = coerced(Identify, id="42", attributes={"x": value})
    assert call.attributes == {"x": expected}
    assert type(call.attributes["x"]) in (type(expected), type(value))
    assert coerced(Track, id="42", name="x", attributes={"x": value}).attributes == {"x": expected}
    assert coerced(RawRequest, path="/x", data=[value]).data == [expected]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        *((Decimal(text), " is a number that JSON cannot write") for text in ("NaN", "sNaN", "Infinity", "1E+5000")),
        (Decimal("0.1234567890123456789"), " has more digits than a JSON number keeps; send it as text"),
        (Decimal("1E-400"), " has more digits than a JSON number keeps; send it as text"),
        (
            datetime(2026, 1, 1),  # noqa: DTZ001  # without a zone is what the test is about
            " is a datetime without a time zone; write datetime.now(timezone.utc)",
        ),
        *(
            (value, f" is a {type(value).__name__}, which JSON does not know; send it as text or a number")
            for value in (date(2026, 1, 1), {1}, b"a", 1j, object())
        ),
        ({"a": [0, {"b": b"s3cret"}]}, ".a[1].b is a bytes, which JSON does not know; send it as text or a number"),
        ({1: "a"}, " has a name that is a int; names are texts"),
        ({None: "a"}, " has a name that is a NoneType; names are texts"),
    ],
)
def test_a_value_without_a_certain_meaning_is_refused_with_its_place_and_not_shown(value: Any, problem: str) -> None:
    assert refusal(Identify, id="42", attributes={"x": value}) == f"attributes.x{problem}"


@pytest.mark.parametrize("nested", ["deep", "endless"])
def test_values_nested_too_deeply_are_refused(nested: str) -> None:
    attributes: dict[str, Any] = {}
    if nested == "endless":
        attributes["a"] = attributes
    else:
        for _ in range(10_000):
            attributes = {"a": attributes}
    assert refusal(Identify, id="42", attributes=attributes) == "its values are nested too deeply"


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, [math.nan], {"a": -math.inf}, "\ud800", pytest.param(HUGE, id="a huge number")]
)
def test_values_that_only_python_calls_json_violate_a_limit(value: Any) -> None:
    assert coerced(Identify, id="42", attributes={"x": value}).violations() != []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("42", "42"), (42, "42"), (-1, "-1"), (0, "0"), (2**70, str(2**70)), (42.0, "42")),
        *((1e20, "100000000000000000000"), (0.5, "0.5"), (1e-7, "0.0000001")),
        *((Decimal("42"), "42"), (Decimal("42.50"), "42.5"), (U, str(U)), (Plan.PRO, "pro"), (Level.HIGH, "3")),
    ],
)
def test_a_number_or_uuid_becomes_text_where_the_key_takes_text(value: Any, text: str) -> None:
    for call_type, fields in (
        (Destroy, {"id"}),
        (Destroy, {"email", "cio_id"}),
        (Track, {"anonymous_id", "name"}),
        (Page, {"id", "url"}),
        (DeleteDevice, {"id", "token"}),
        (AddDevice, {"id", "token", "platform"}),
        (DeleteObject, {"object_type_id", "object_id"}),
        (SubmitForm, {"form_id", "id"}),
    ):
        call = coerced(call_type, **dict.fromkeys(fields, value))
        assert {field: getattr(call, field) for field in fields} == dict.fromkeys(fields, text)
    assert coerced(Merge, into={"id": value}, from_={"email": value}) == Merge(into={"id": text}, from_={"email": text})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        *((value, "must be text or a number, got a bool") for value in (True, False)),
        (MOMENT, "must be text or a number, got a datetime"),
        (b"42", "must be text or a number, got a bytes"),
        (["42"], "must be text or a number, got a list"),
        ({"id": 1}, "must be text or a number, got a dict"),
        (Decimal("NaN"), "is a number that JSON cannot write"),
        (Decimal("0.1234567890123456789"), "has more digits than a JSON number keeps; send it as text"),
        pytest.param(HUGE, "is a number that cannot be written as text", id="a huge number"),
        # A table with a gap in it has NaN there: nobody is called so.
        (math.nan, "is a number that cannot be written as text"),
        (math.inf, "is a number that cannot be written as text"),
    ],
)
def test_an_identifier_that_is_no_text_is_refused(value: Any, problem: str) -> None:
    assert refusal(Destroy, id=value) == f"id {problem}"


def with_time(value: Any) -> list[tuple[str, Any]]:
    """Return the key of a time and the call, for each call that has one."""
    device = coerced(AddDevice, id="42", token="t", platform="ios", last_used=value)
    dated = [coerced(Identify, id="42", timestamp=value), coerced(Page, id="42", url="*", timestamp=value)]
    dated += [coerced(call_type, id="42", name="x", timestamp=value) for call_type in (Track, Screen)]
    return [("last_used", device), *(("timestamp", call) for call in dated)]


@pytest.mark.parametrize("value", [SECONDS, float(SECONDS), Decimal(SECONDS), Decimal(f"{SECONDS}.0"), MOMENT])
def test_a_time_becomes_whole_seconds(value: Any) -> None:
    for key, call in with_time(value):
        assert (getattr(call, key), type(getattr(call, key))) == (SECONDS, int)
        assert call.violations() == []
    assert [getattr(call, key) for key, call in with_time(None)] == [None] * 5


# Customer.io would take each of these for "now" and say nothing.
@pytest.mark.parametrize(
    "value", [SECONDS + 0.5, SECONDS * 1_000, str(SECONDS), True, -1.0, 1e300, math.inf, U, [SECONDS]]
)
def test_a_value_that_is_no_time_violates_a_limit(value: Any) -> None:
    for key, call in with_time(value):
        assert [violation.field for violation in call.violations()] == [key]


@pytest.mark.parametrize(("call_type", "name"), [(Track, "name"), (Page, "url"), (Screen, "name")])
@pytest.mark.parametrize(
    ("event_id", "expected"),
    [
        *((None, OWN), ("", OWN), (ULID, ULID), (ULID.lower(), ULID.lower()), (U, str(U)), (7, "7"), (0, "0")),
        *(("order-7", "order-7"), ("I" * 26, "I" * 26)),
    ],
)
def test_an_event_or_view_gets_a_ulid(call_type: type[Call], name: str, event_id: Any, expected: str) -> None:
    if not is_ulid(expected):
        expected = ulid_of_text(json.dumps([call_type.name_of_call, "id:42", "*", expected]))
    assert coerced(call_type, id="42", event_id=event_id, **{name: "*"}).event_id == expected
    assert is_ulid(expected)


def test_an_event_id_is_unique_for_a_person_a_kind_of_call_and_a_name() -> None:
    first = Track(id="42", name="Order Paid", event_id="order-7")
    others: list[Call] = [
        replace(first, name="Order Shipped"),
        replace(first, id="43"),
        replace(first, id=None, email="a@x.io"),
    ]
    others += [Screen(id="42", name="Order Paid", event_id="order-7"), replace(first, event_id="order-8")]
    calls: list[Call] = [first, *others, replace(first, timestamp=SECONDS, attributes={"total": 1})]
    sent = [coerce_call(call, lambda: OWN) for call in calls]
    ids = [call.event_id for call in sent if isinstance(call, Track | Screen)]
    assert len(set(ids)) == 6
    assert ids[0] == ids[-1]


def test_an_event_id_that_is_no_unicode_is_refused() -> None:
    assert refusal(Track, id="42", name="x", event_id="\ud800") == "event_id holds text that is not valid Unicode"


@pytest.mark.parametrize("call", [Track(id="42", name="x", event_id="order-7"), Identify(id="42"), Destroy(id="42")])
def test_a_new_id_is_requested_only_for_an_event_without_one(call: Call) -> None:
    def new_ulid() -> str:
        raise AssertionError

    assert coerce_call(call, new_ulid) == coerce_call(call, new_ulid)


def test_the_members_of_people_and_objects_are_coerced() -> None:
    call = coerced(
        IdentifyObject,
        object_type_id=1,
        object_id=U,
        attributes={"since": MOMENT},
        people=({"id": 42, "attributes": {"share": Decimal("0.5")}}, {"email": "a@b.c", "id": None}),
    )
    assert call == IdentifyObject(
        object_type_id="1",
        object_id=str(U),
        attributes={"since": SECONDS},
        people=[{"id": "42", "attributes": {"share": 0.5}}, {"email": "a@b.c"}],
    )
    assert coerced(
        AddRelationships, id=42, objects=iter([{"object_type_id": 1, "object_id": 2.0, "attributes": {}}])
    ) == AddRelationships(id="42", objects=[{"object_type_id": "1", "object_id": "2", "attributes": {}}])


@pytest.mark.parametrize(
    ("call_type", "fields", "problem"),
    [
        (Merge, {"into": "42", "from_": {"id": 1}}, "into must be an object, got a str"),
        (Merge, {"into": {"id": 1}, "from_": 42}, "from must be an object, got a int"),
        (Merge, {"into": {"id": 1}, "from_": {"id": True}}, "from.id must be text or a number, got a bool"),
        (Merge, {"into": None, "from_": {"id": "1"}}, "into is missing"),
        (AddRelationships, {"id": 1, "objects": ["acme"]}, "objects[0] must be an object, got a str"),
        (AddRelationships, {"id": 1, "objects": {"object_id": 1}}, "objects must be a list, got a dict"),
        (AddRelationships, {"id": "1", "objects": None}, "objects is missing"),
        (AddRelationships, {"id": "1", "objects": 5}, "objects must be a list, got a int"),
        (
            AddRelationships,
            {"id": 1, "objects": [{"object_type_id": 1, "object_id": 1}, {"object_id": b"1"}]},
            "objects[1].object_id must be text or a number, got a bytes",
        ),
        (
            AddRelationships,
            {"id": "1", "objects": [{**ACME, "attributes": "owner"}]},
            "objects[0].attributes must be an object, got a str",
        ),
        (
            IdentifyObject,
            {**ACME, "people": [{"id": 1, "attributes": {"a": {"b": b"1"}}}]},
            "people[0].attributes.a.b is a bytes, which JSON does not know; send it as text or a number",
        ),
        (
            IdentifyObject,
            {**ACME, "people": [{"id": "1", "role": "owner"}]},
            "people[0] takes cio_id, id, email, phone, anonymous_id, object_type_id, object_id, cio_object_id,"
            " attributes; 1 of its keys are unknown",
        ),
        (Track, {"id": "1", "name": None}, "name is missing"),
        (Page, {"id": "1", "url": None}, "url is missing"),
        (DeleteDevice, {"id": "1", "token": None}, "token is missing"),
        (SubmitForm, {"id": "1", "form_id": None}, "form_id is missing"),
        (Identify, {"id": "1", "attributes": None}, "attributes is missing"),
        (Identify, {"id": "1", "attributes": ["a"]}, "attributes must be an object, got a list"),
        (Track, {"id": "1", "name": "x", "attributes": "a"}, "attributes must be an object, got a str"),
        (RawRequest, {"path": "/x", "query": None}, "query is missing"),
        (RawRequest, {"path": "/x", "timeout": "5"}, "timeout must be a number of seconds, got a str"),
        (
            RawRequest,
            {"path": "/x", "data": b"a"},
            "data is a bytes, which JSON does not know; send it as text or a number",
        ),
        (
            RawRequest,
            {"path": "/x", "data": Path("a")},
            f"data is a {type(Path()).__name__}, which JSON does not know; send it as text or a number",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_or_a_missing_one_is_refused_with_its_place(
    call_type: type[Call], fields: dict[str, Any], problem: str
) -> None:
    assert refusal(call_type, **fields) == problem


def test_a_raw_request_keeps_its_files_and_settings_as_they_are() -> None:
    call = RawRequest(
        path="/v1/imports",
        query={"id": [1, 2]},
        form={"a": True},
        files={"f": b"\xff", "g": "text"},
        file_names={"f": "f.bin"},
        timeout=2.5,
        debug=True,
        retry={"max": 1},
    )
    assert coerce_call(call, lambda: OWN) == call


def test_the_original_call_stays_unchanged() -> None:
    attributes: dict[str, Any] = {"a": (1, Decimal(2))}
    original = Identify(id="1", attributes=attributes)
    assert coerce_call(original, lambda: OWN) is not original
    assert attributes == {"a": (1, Decimal(2))}
    assert original.attributes is attributes
