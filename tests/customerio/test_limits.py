"""What Customer.io would refuse, replace or drop is found before it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.customerio.calls import (
    AddDevice,
    AddRelationships,
    Call,
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
)

NOW = 1_767_225_600
TOPICS = "cio_subscription_preferences"
ACME: dict[str, Any] = {"object_type_id": "1", "object_id": "acme"}


def fields(call: Call) -> list[str]:
    return [violation.field for violation in call.violations()]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Destroy(id="."), ["id"]),
        (Destroy(email=".."), ["email"]),
        (Track(anonymous_id="..", name="x"), []),
        (Destroy(id="x" * 151), ["id"]),
        (Destroy(id="é" * 75), []),
        (Destroy(id="é" * 76), ["id"]),
        (Identify(id="1", attributes={"n" * 151: 1}), ["attributes"]),
        (Identify(id="1", attributes={"n" * 150: 1, "é" * 75: 1, "x" * 38: "v"}), []),
        (Identify(id="1", attributes={"é" * 76: 1}), ["attributes"]),
        (Identify(id="1", attributes={"n": "é" * 500, "m": "😀" * 250}), []),
        (Identify(id="1", attributes={"n": "é" * 501, "m": "😀" * 251}), ["attributes.n", "attributes.m"]),
        (Identify(id="1", attributes={" ": 1}), ["attributes"]),
        (Destroy(id=" "), ["id"]),
        (Identify(id="1", attributes={"_timestamp": 1_767_225_600_000}), ["attributes._timestamp"]),
        (Identify(id="1", attributes={"_timestamp": 1_767_225_600, "_update": True}), []),
        (Identify(id="1", attributes={"_update": "true"}), ["attributes._update"]),
        (Track(id="1", name="n", attributes={"a": 10**5000}), ["attributes"]),
        (Identify(id="1", attributes={"n": "v" * 1001}), ["attributes.n"]),
        (Identify(id="1", attributes={"n": "v" * 1000}), []),
        (Identify(id="1", attributes={f"n{i}": 1 for i in range(301)}), ["attributes"]),
        (Track(id="1", name=" "), ["name"]),
        (Track(id="1", name="n" * 101), ["name"]),
        (Track(id="1", name="n", attributes={"a": "v" * 100_000}), ["attributes"]),
        (Track(id="1", name="n", attributes={"a": "v" * 99_000}), []),
        (Track(id="..", name=""), ["id", "name"]),
        (Track(id="1", name="\ud800"), ["name"]),
        (Track(id="1", name="n", attributes={"a": float("inf")}), ["attributes"]),
        (Page(id="1", url="/pricing"), []),
        (Page(id="1", url="Home"), []),
        (Page(id="1", url="p" * 1_001), ["url"]),
        (Page(id="1", url=" "), ["url"]),
        (Identify(id="1", attributes={"unsubscribed": "no"}), ["attributes.unsubscribed"]),
        (Identify(id="1", attributes={"unsubscribed": 1.0}), ["attributes.unsubscribed"]),
        (Identify(id="1", attributes={"unsubscribed": None, "created_at": None}), []),
        (Identify(id="1", attributes={"created_at": NOW * 1000}), ["attributes.created_at"]),
        (Identify(id="1", attributes={"created_at": True}), ["attributes.created_at"]),
        (Identify(id="1", attributes={"created_at": 631_152_000}), []),
        (Identify(id="1", attributes={TOPICS: {"topic_7": True}}), [f"attributes.{TOPICS}"]),
        (Identify(id="1", attributes={f"{TOPICS}.topics": {"topic_7": True, "topic_8": None}}), []),
        (Identify(id="1", attributes={f"{TOPICS}.topics": {"topic_7": 1}}), [f"attributes.{TOPICS}.topics"]),
        (
            Identify(id="1", attributes={TOPICS: None, f"{TOPICS}.topics": None}),
            [f"attributes.{TOPICS}", f"attributes.{TOPICS}.topics"],
        ),
        (Identify(id="1", attributes={f"{TOPICS}.topics": {"7": True}}), [f"attributes.{TOPICS}.topics"]),
        (Identify(id="1", attributes={f"{TOPICS}.topics.topic_7": True, f"{TOPICS}_old": "x"}), []),
        (Identify(id="1", attributes={f"{TOPICS}.topics.topic_7": "yes"}), [f"attributes.{TOPICS}.topics.topic_7"]),
        (Identify(id="1", attributes={f"{TOPICS}.topic_7": True}), [f"attributes.{TOPICS}.topic_7"]),
        (Identify(id="1", attributes={"_update": False}, update_only=True), ["attributes._update"]),
        (Page(id="1", url="*"), []),
        (Screen(id="1", name=""), ["name"]),
        (Merge(into={"id": "1"}, from_={"id": "2"}), []),
        (Merge(into={"id": "1"}, from_={}), ["from"]),
        (Merge(into={"id": "1", "email": "a@b.c"}, from_={"id": "2"}), ["into"]),
        (Merge(into={"id": "."}, from_={"id": "x" * 151}), ["into.id", "from.id"]),
        (Merge(into={"id": "1"}, from_={"phone": "+4930123"}), ["from"]),
        (Merge(into={"email": "Ann@example.com"}, from_={"email": "\ufeffann@example.com "}), ["from"]),
        (Merge(into={"email": "ann@example.com"}, from_={"id": "ann@example.com"}), []),
        (AddDevice(id="1", token="t", platform="ios", last_used=NOW, attributes={"a": "b"}), []),
        (AddDevice(id="1", token=" ", platform="iOS"), ["token", "platform"]),
        (AddDevice(id="1", token="t", platform="ios", last_used=NOW * 1000), ["last_used"]),
        (AddDevice(id="1", token="t", platform="ios", attributes={"a": 1}), ["attributes.a"]),
        (AddDevice(id="1", token="t", platform="ios", attributes={"token": "u"}), ["attributes.token"]),
        (AddDevice(id="1", token="t", platform="ios", attributes={"_last_status": "u"}), ["attributes._last_status"]),
        (DeleteDevice(id="1", token=".."), ["token"]),
        (DeleteDevice(id="1", token="t" * 1001), ["token"]),
        (IdentifyObject(**ACME, attributes={"a": None}, people=[{"id": "1"}]), []),
        (IdentifyObject(object_type_id="1", object_id=" "), ["object_id"]),
        (IdentifyObject(object_type_id="x" * 151, object_id="x" * 151), ["object_type_id", "object_id"]),
        (IdentifyObject(**ACME, attributes={"n": "v" * 1001}), ["attributes.n"]),
        (IdentifyObject(**ACME, people=[{"id": "1"}, {}, {"id": ".."}]), ["people[1]", "people[2].id"]),
        (IdentifyObject(**ACME, people=[{"anonymous_id": "1"}]), []),
        (IdentifyObject(**ACME, people=[{"anonymous_id": "1"}, {"id": "2"}]), ["people"]),
        (IdentifyObject(**ACME, people=[{"phone": "+4930123"}]), ["people[0]"]),
        (IdentifyObject(object_id="acme"), ["object_type_id"]),
        (DeleteObject(), ["object_type_id", "object_id"]),
        (DeleteObject(cio_object_id="obb7"), []),
        (DeleteObject(cio_object_id="x" * 151), ["cio_object_id"]),
        (
            AddRelationships(id="1", objects=[{"cio_object_id": "obb7"}, {"cio_object_id": " "}]),
            ["objects[1].cio_object_id"],
        ),
        (AddRelationships(phone="+4930123", objects=[{"cio_object_id": "obb7"}]), []),
        (Track(phone="+4930123", name="x", attributes={"a": "v" * 40_000}), ["attributes"]),
        (
            Identify(phone="+4930123", attributes={"id": "1", "anonymous_id": "2"}),
            ["attributes.anonymous_id", "attributes.id"],
        ),
        (Identify(cio_id="a3", id="x" * 151), ["id"]),
        (Identify(id="1", email=f"{'a' * 1_000}@b.c"), ["email"]),
        (Track(id="1", anonymous_id="a" * 1_001, name="x"), ["anonymous_id"]),
        (Track(id="1", anonymous_id="a" * 1_000, name="x"), []),
        (Track(cio_id="a3", id="x" * 1_001, name="x"), ["id"]),
        (Track(anonymous=True, name="x"), ["attributes"]),
        (Track(anonymous=True, name="x", attributes={"recipient": "a@b.c"}), []),
        (Track(anonymous=True, id="1", name="x", attributes={"recipient": "a@b.c"}), ["anonymous"]),
        (IdentifyObject(**ACME, people=[{"id": "1", "attributes": {"n": "v" * 1001}}]), ["people[0].attributes.n"]),
        (IdentifyObject(**ACME, attributes={f"n{i}": "v" * 990 for i in range(40)}), ["attributes"]),
        (AddRelationships(id="1", objects=[ACME]), []),
        (IdentifyObject(object_type_id="company", object_id="1"), ["object_type_id"]),
        (AddRelationships(id="1", objects=[{**ACME, "object_type_id": "01"}]), ["objects[0].object_type_id"]),
        (AddRelationships(id="1", objects=[]), ["objects"]),
        (AddRelationships(id="1", objects=[ACME, {"object_id": "x"}]), ["objects[1].object_type_id"]),
        (AddRelationships(id="..", objects=[ACME]), ["id"]),
        (AddRelationships(id="1", objects=[{**ACME, "attributes": "x"}]), ["objects[0].attributes"]),
        (AddRelationships(id="1", objects=[{**ACME, "attributes": {"n": "é" * 490}} for _ in range(40)]), ["objects"]),
        (SubmitForm(form_id="1", id="1", attributes={"a": "b"}), []),
        (SubmitForm(form_id="..", id="1", attributes={"a": 1}), ["form_id", "attributes.a"]),
        (SubmitForm(form_id="1", id="1", attributes={"email": "x"}), ["attributes.email"]),
        (SubmitForm(form_id="1", id="1", attributes={"unsubscribed": "on"}), ["attributes.unsubscribed"]),
        (SubmitForm(form_id="1", id="1", attributes={"form_name": "x"}), ["attributes.form_name"]),
    ],
)
def test_a_call_that_customerio_would_refuse_or_change_violates_a_limit(call: Call, expected: list[str]) -> None:
    assert fields(call) == expected


AN_ID, OWN_ID = "is no email address; if it is an id, write  id: =…", "begins with cio_"
SEVERAL, MORE = "is not one email address; take one of several", "is an email address with more around or in it"
NO_PHONE = "is no phone number in E.164"


@pytest.mark.parametrize(
    ("identifiers", "problem"),
    [
        ({"email": "42"}, AN_ID),
        ({"email": "cio_03000002ab"}, OWN_ID),
        ({"email": "cio_ann@example.com"}, OWN_ID),
        ({"email": "a@b.c,d@e.f"}, SEVERAL),
        ({"email": "a@b.c; d@e.f"}, SEVERAL),
        ({"email": "Ann <ann@example.com>"}, MORE),
        ({"email": '"Ann, B." <ann@example.com>'}, MORE),
        ({"email": "mailto:ann@example.com"}, MORE),
        ({"email": "ann b@example.com"}, MORE),
        ({"email": "ann\u200b@example.com"}, MORE),
        ({"email": "@example.com"}, MORE),
        ({"email": " \u00a0"}, "is blank"),
        ({"email": f"{'a' * 1000}@b.c"}, "is 1004 bytes long"),
        ({"email": "jürgen+1@bücher.example"}, None),
        ({"email": "user@1"}, None),
        ({"email": "\ufeff\u200b ann@example.com\u2060\n"}, None),
        ({"phone": "+14155552671"}, None),
        ({"phone": "\u200b+14155552671 "}, None),
        *(({"phone": phone}, NO_PHONE) for phone in ("14155552671", "+1 415 555", "+0123", "+1234567890123456", "+١٢")),
    ],
)
def test_an_email_and_a_phone_number_are_checked_in_every_call(
    identifiers: dict[str, Any], problem: str | None
) -> None:
    relations: dict[str, Any] = {"objects": [ACME]}
    device: dict[str, Any] = {"token": "t"}
    made: list[Call] = [
        *(call(**identifiers) for call in (Identify, Destroy, Suppress, Unsuppress)),
        *(call(**identifiers, name="x") for call in (Track, Screen)),
        Page(**identifiers, url="*"),
        AddDevice(**identifiers, **device, platform="ios"),
        DeleteDevice(**identifiers, **device),
        AddRelationships(**identifiers, **relations),
        DeleteRelationships(**identifiers, **relations),
        Track(**identifiers, id="42", name="x"),  # another one counts, and it is an error all the same
    ]
    if "email" in identifiers:
        made += [SubmitForm(**identifiers, form_id="1"), IdentifyObject(**ACME, people=[{"id": "1"}, identifiers])]
        made += [Merge(into=identifiers, from_={"id": "1"}), Merge(into={"id": "1"}, from_=identifiers)]
    for call in made:
        violations = call.violations()
        assert len(violations) == (problem is not None), (call, violations)
        assert all(violation.problem.startswith(problem or "") for violation in violations)
        assert all(violation.field.endswith(next(iter(identifiers))) for violation in violations)


def test_a_violation_never_shows_the_value() -> None:
    canary = "canary" * 100
    violations = Track(id=canary, name=canary, attributes={"a": canary * 200}).violations()
    assert [violation.field for violation in violations] == ["id", "name", "attributes"]
    assert not any("canary" in violation.problem for violation in violations)


ELSEWHERE = [
    *("", "https://evil.example/v1", "//evil.example/v1", "v1/accounts/region", "/api/v1/accounts/region"),
    *("/v1/../v2/entity", "/v1/./region", "/v1/%2e%2E/entity", "/v1/.%2e/entity", "/v1/customers/.."),
    *("/customers/42", "/v3/entity", "/v1", "/V1/entity"),
    *("/v1\\..\\entity", "/v1/%5c..%5centity", "/v1/a?b=c", "/v1/a#b", "/v1/100%"),
    *("/v1/a\r\nHost: evil", "/v1/a%0d%0ab", "/v1/a\x00", "/\u2028"),
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_raw_request_reaches_only_below_the_api_of_its_host(path: str) -> None:
    assert fields(RawRequest(path=path)) == ["path"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path": "/v1/customers/a%2Fb/events", "method": "POST", "data": {"a": 1}}, []),
        ({"path": "/v1/customers/jürgen b/events"}, []),
        ({"method": "get"}, ["method"]),
        ({"headers": {"X-Trace": "1", "Content-Type": "text/csv"}}, []),
        ({"headers": {"authorization": "Basic x"}}, ["headers.authorization"]),
        ({"headers": {"Host": "evil.example"}}, ["headers.Host"]),
        ({"headers": {"Content-Length": "1"}}, ["headers.Content-Length"]),
        ({"headers": {"X-A": "b\r\nHost: c"}}, ["headers.X-A"]),
        ({"headers": {"X-A": "ü"}}, ["headers.X-A"]),
        ({"headers": {"X A": "b"}}, ["headers.X A"]),
        ({"query": {"a": ["1", 2, True]}}, []),
        ({"query": {"a": {"b": 1}}}, ["query.a"]),
        ({"data": {}, "form": {"a": "b"}}, ["data"]),
        ({"data": "text", "files": {"a": "b"}}, ["data"]),
        ({"form": {"a": [["b"]]}}, ["form.a"]),
        ({"files": {"a": b"\xff"}, "file_names": {"a": "a.png"}}, []),
        ({"files": {"a": "b"}, "file_names": {"b": "c"}}, ["file_names.b"]),
        ({"files": {"a": 1}, "file_names": {"a": 2}}, ["files.a", "file_names.a"]),
        ({"response_type": "xml"}, ["response_type"]),
        ({"timeout": 0}, ["timeout"]),
        ({"timeout": 21}, ["timeout"]),
        ({"retry": {"max": 3, "delay_ms": 5, "exponential": True, "all_errors": False}}, []),
        ({"retry": {"max": -1, "delay_ms": "5"}}, ["retry.max", "retry.delay_ms"]),
        ({"retry": {"times": 1, "exponential": 1}}, ["retry.times", "retry.exponential"]),
    ],
)
def test_each_option_of_a_raw_request_is_checked(options: dict[str, Any], expected: list[str]) -> None:
    assert fields(RawRequest(**{"path": "/v1/x", **options})) == expected
