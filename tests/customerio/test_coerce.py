"""What a Python program puts into a call becomes the JSON that Customer.io takes, or is refused."""

from __future__ import annotations

import math
from collections import OrderedDict
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


class Plan(StrEnum):
    PRO = "pro"


class Level(IntEnum):
    HIGH = 3


def mend(kind: type[Call], **fields: Any) -> Any:
    """Mend a call that is made of what no type checker would let through; an id that is missing is given one."""
    return coerce_call(kind(**fields), lambda: OWN)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (2**70, 2**70),
        (1.5, 1.5),
        (1.0, 1.0),
        ("Päid", "Päid"),
        (Plan.PRO, "pro"),
        (Level.HIGH, 3),
        (U, str(U)),
        (MOMENT, SECONDS),
        (MOMENT + timedelta(microseconds=999_999), SECONDS),
        (datetime(2025, 12, 31, 20, tzinfo=timezone(timedelta(hours=-4))), SECONDS),
        (Decimal("42"), 42),
        (Decimal("42.00"), 42),
        (Decimal("-0"), 0),
        (Decimal("1E+3"), 1_000),
        (Decimal("12345678901234567890123456789012345678"), 12345678901234567890123456789012345678),
        (Decimal("49.90"), 49.9),
        (Decimal("-0.001"), -0.001),
        (Decimal("1E-7"), 1e-7),
        ([1, (2, 3)], [1, [2, 3]]),
        ((), []),
        ({"a": {"b": (U, Decimal("0.5"))}}, {"a": {"b": [str(U), 0.5]}}),
        (OrderedDict(a=MOMENT), {"a": SECONDS}),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
)
def test_a_value_becomes_the_json_that_it_is(value: Any, expected: Any) -> None:
    call = mend(Identify, id="42", attributes={"x": value})
    assert call.attributes == {"x": expected}
    assert type(call.attributes["x"]) in (type(expected), type(value))
    assert mend(Track, id="42", name="x", attributes={"x": value}).attributes == {"x": expected}
    assert mend(RawRequest, path="/x", data=[value]).data == [expected]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Decimal("NaN"), "attributes.x is a number that JSON cannot write"),
        (Decimal("sNaN"), "attributes.x is a number that JSON cannot write"),
        (Decimal("Infinity"), "attributes.x is a number that JSON cannot write"),
        pytest.param(Decimal("1E+5000"), "attributes.x is a number that JSON cannot write"),
        (
            Decimal("0.1234567890123456789"),
            "attributes.x has more digits than a JSON number keeps; send it as text",
        ),
        (Decimal("1E-400"), "attributes.x has more digits than a JSON number keeps; send it as text"),
        (
            datetime(2026, 1, 1),  # noqa: DTZ001  # without a zone is what the test is about
            "attributes.x is a datetime without a time zone; write datetime.now(timezone.utc)",
        ),
        (date(2026, 1, 1), "attributes.x is a date, which JSON does not know; send it as text or a number"),
        ({1}, "attributes.x is a set, which JSON does not know; send it as text or a number"),
        (b"a", "attributes.x is a bytes, which JSON does not know; send it as text or a number"),
        (1j, "attributes.x is a complex, which JSON does not know; send it as text or a number"),
        (object(), "attributes.x is a object, which JSON does not know; send it as text or a number"),
        (
            {"a": [0, {"b": b"s3cret"}]},
            "attributes.x.a[1].b is a bytes, which JSON does not know; send it as text or a number",
        ),
        ({1: "a"}, "attributes.x has a name that is a int; names are texts"),
        ({None: "a"}, "attributes.x has a name that is a NoneType; names are texts"),
    ],
)
def test_what_has_no_certain_meaning_is_refused_with_its_place_and_without_its_value(value: Any, problem: str) -> None:
    with pytest.raises(CallError) as refused:
        mend(Identify, id="42", attributes={"x": value})
    assert str(refused.value) == problem


@pytest.mark.parametrize("nested", ["deep", "endless"])
def test_what_is_nested_without_end_is_refused(nested: str) -> None:
    attributes: dict[str, Any] = {}
    if nested == "endless":
        attributes["a"] = attributes
    else:
        for _ in range(10_000):
            attributes = {"a": attributes}
    with pytest.raises(CallError):
        mend(Identify, id="42", attributes=attributes)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [math.nan], {"a": -math.inf}, "\ud800", pytest.param(HUGE, id="a huge number")],
)
def test_what_is_json_in_python_only_is_left_to_the_limits(value: Any) -> None:
    assert mend(Identify, id="42", attributes={"x": value}).violations() != []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("42", "42"),
        (" 42 ", " 42 "),
        (42, "42"),
        (-1, "-1"),
        (0, "0"),
        (2**70, str(2**70)),
        (42.0, "42"),
        (1e20, "100000000000000000000"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (Decimal("42"), "42"),
        (Decimal("42.50"), "42.5"),
        (U, str(U)),
        (Plan.PRO, "pro"),
        (Level.HIGH, "3"),
    ],
)
def test_a_number_or_uuid_becomes_text_where_text_is_asked_for(value: Any, text: str) -> None:
    assert mend(Destroy, id=value) == Destroy(id=text)
    assert mend(Destroy, email=value, cio_id=value) == Destroy(email=text, cio_id=text)
    assert mend(Track, anonymous_id=value, name=value, event_id=ULID) == Track(
        anonymous_id=text, name=text, event_id=ULID
    )
    assert mend(Page, id=value, url=value).url == text
    assert mend(DeleteDevice, id="1", token=value).token == text
    assert mend(AddDevice, id="1", token="t", platform=value).platform == text
    assert mend(DeleteObject, object_type_id=value, object_id=value) == DeleteObject(
        object_type_id=text, object_id=text
    )
    assert mend(SubmitForm, form_id=value, id="1").form_id == text
    assert mend(Merge, into={"id": value}, from_={"email": value}) == Merge(into={"id": text}, from_={"email": text})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (True, "id must be text or a number, got a bool"),
        (False, "id must be text or a number, got a bool"),
        (b"42", "id must be text or a number, got a bytes"),
        (["42"], "id must be text or a number, got a list"),
        ({"id": 1}, "id must be text or a number, got a dict"),
        (MOMENT, "id must be text or a number, got a datetime"),
        (Decimal("NaN"), "id is a number that JSON cannot write"),
        (Decimal("0.1234567890123456789"), "id has more digits than a JSON number keeps; send it as text"),
        pytest.param(HUGE, "id is a number that cannot be written as text", id="a huge number"),
        # A table with a gap in it has NaN there: nobody is called so.
        pytest.param(math.nan, "id is a number that cannot be written as text"),
        pytest.param(math.inf, "id is a number that cannot be written as text"),
    ],
)
def test_what_is_no_text_names_nobody(value: Any, problem: str) -> None:
    with pytest.raises(CallError) as refused:
        mend(Destroy, id=value)
    assert str(refused.value) == problem


def dated(value: Any) -> list[Any]:
    return [
        mend(Identify, id="42", timestamp=value),
        mend(Track, id="42", name="x", timestamp=value),
        mend(Page, id="42", url="*", timestamp=value),
        mend(Screen, id="42", name="x", timestamp=value),
    ]


def used(value: Any) -> Any:
    return mend(AddDevice, id="42", token="t", platform="ios", last_used=value)


@pytest.mark.parametrize("value", [SECONDS, float(SECONDS), Decimal(SECONDS), Decimal(f"{SECONDS}.0"), MOMENT])
def test_a_time_becomes_whole_seconds(value: Any) -> None:
    for call in dated(value):
        assert (call.timestamp, type(call.timestamp)) == (SECONDS, int)
        assert call.violations() == []
    assert (used(value).last_used, type(used(value).last_used)) == (SECONDS, int)
    assert [call.timestamp for call in dated(None)] == [None] * 4


# Customer.io would take each of these for "now" and say nothing.
@pytest.mark.parametrize(
    "value", [SECONDS + 0.5, SECONDS * 1_000, str(SECONDS), True, -1.0, 1e300, math.inf, U, [SECONDS]]
)
def test_what_is_no_time_is_left_to_the_limits(value: Any) -> None:
    for call in dated(value):
        assert [each.field for each in call.violations()] == ["timestamp"]
    assert [each.field for each in used(value).violations()] == ["last_used"]


@pytest.mark.parametrize("kind", [Track, Page, Screen])
@pytest.mark.parametrize(
    ("event_id", "expected"),
    [
        (None, OWN),
        ("", OWN),
        (ULID, ULID),
        (ULID.lower(), ULID.lower()),
        ("order-7", ulid_of_text("order-7")),
        (U, ulid_of_text(str(U))),
        (7, ulid_of_text("7")),
        (0, ulid_of_text("0")),
        ("I" * 26, ulid_of_text("I" * 26)),
    ],
)
def test_what_happened_once_is_known_by_a_ulid(kind: type[Call], event_id: Any, expected: str) -> None:
    named = {"url": "*"} if kind is Page else {"name": "x"}
    assert mend(kind, id="42", event_id=event_id, **named).event_id == expected
    assert is_ulid(expected)


def test_an_event_id_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(CallError):
        mend(Track, id="42", name="x", event_id="\ud800")


def test_an_id_is_asked_for_only_where_there_is_none() -> None:
    def asked() -> str:
        raise AssertionError

    assert coerce_call(Track(id="42", name="x", event_id="order-7"), asked) == coerce_call(
        Track(id="42", name="x", event_id="order-7"), asked
    )
    assert coerce_call(Identify(id="42"), asked) == Identify(id="42")
    assert coerce_call(Destroy(id="42"), asked) == Destroy(id="42")


def test_people_and_objects_are_coerce_call_each_in_its_place() -> None:
    call = mend(
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
    assert mend(
        AddRelationships, id=42, objects=iter([{"object_type_id": 1, "object_id": 2.0, "attributes": {}}])
    ) == AddRelationships(id="42", objects=[{"object_type_id": "1", "object_id": "2", "attributes": {}}])


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        (Merge, {"into": "42", "from_": {"id": 1}}, "into must be an object, got a str"),
        (Merge, {"into": {"id": 1}, "from_": 42}, "from must be an object, got a int"),
        (
            Merge,
            {"into": {"id": 1}, "from_": {"id": True}},
            "from.id must be text or a number, got a bool",
        ),
        (AddRelationships, {"id": 1, "objects": ["acme"]}, "objects[0] must be an object, got a str"),
        (AddRelationships, {"id": 1, "objects": {"object_id": 1}}, "objects must be a list, got a dict"),
        (
            AddRelationships,
            {"id": 1, "objects": [{"object_type_id": 1, "object_id": 1}, {"object_id": b"1"}]},
            "objects[1].object_id must be text or a number, got a bytes",
        ),
        (
            IdentifyObject,
            {
                "object_type_id": 1,
                "object_id": 1,
                "people": [{"id": 1, "attributes": {"a": {"b": b"1"}}}],
            },
            "people[0].attributes.a.b is a bytes, which JSON does not know; send it as text or a number",
        ),
    ],
)
def test_what_names_nothing_is_refused_with_its_place(kind: type[Call], fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(CallError) as refused:
        mend(kind, **fields)
    assert str(refused.value) == problem


ACME = {"object_type_id": "1", "object_id": "acme"}
# Fields that are missing, or hold something of another kind than they have to.
MISTAKES: list[Any] = [
    (Track, {"id": "1", "name": None}),
    (Page, {"id": "1", "url": None}),
    (DeleteDevice, {"id": "1", "token": None}),
    (SubmitForm, {"id": "1", "form_id": None}),
    (Merge, {"into": None, "from_": {"id": "1"}}),
    (AddRelationships, {"id": "1", "objects": None}),
    (AddRelationships, {"id": "1", "objects": 5}),
    (Identify, {"id": "1", "attributes": None}),
    (Identify, {"id": "1", "attributes": ["a"]}),
    (Track, {"id": "1", "name": "x", "attributes": "a"}),
    (RawRequest, {"path": "/x", "query": None}),
    (RawRequest, {"path": "/x", "timeout": "5"}),
    pytest.param(AddRelationships, {"id": "1", "objects": [{**ACME, "attributes": "owner"}]}),
    pytest.param(IdentifyObject, {**ACME, "people": [{"id": "1", "role": "owner"}]}),
]


@pytest.mark.parametrize(("kind", "fields"), MISTAKES)
def test_a_mistake_in_a_program_is_told_as_one(kind: type[Call], fields: dict[str, Any]) -> None:
    with pytest.raises(CallError):
        mend(kind, **fields).violations()


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


@pytest.mark.parametrize("data", [b"a", Path("a")])
def test_a_body_that_is_neither_text_nor_json_is_refused(data: Any) -> None:
    with pytest.raises(CallError, match="data is a "):
        mend(RawRequest, path="/x", data=data)


def test_the_call_that_was_given_is_left_as_it_was() -> None:
    attributes: dict[str, Any] = {"a": (1, Decimal(2))}
    given = Identify(id="1", attributes=attributes)
    assert coerce_call(given, lambda: OWN) is not given
    assert attributes == {"a": (1, Decimal(2))}
    assert given.attributes is attributes
