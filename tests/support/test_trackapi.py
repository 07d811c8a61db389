from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from tests.support.trackapi import Answer, Delay, Fault, Hang, ParsedRequest, Reply, Reset, Slow, TrackAPI, Trickle

ULID = "01JABCDEFGHJKMNPQRSTVWXYZ0"
CUSTOMER = b"/api/v1/customers/42"
EVENTS = b"/api/v1/customers/42/events"
ANONYMOUS = b"/api/v1/events"
BATCH = b"/api/v2/batch"


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI() as server:
        yield server


def test_the_region_is_told_to_whoever_knows_the_credentials(api: TrackAPI) -> None:
    answer = requests.get(f"{api.url}/api/v1/accounts/region", auth=("site", "key"), timeout=5)
    assert (answer.status_code, answer.json()["region"]) == (200, "us")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("auth", [None, ("site", "other"), ("other", "key"), ("key", "site"), ("site", "")])
def test_other_credentials_are_refused(api: TrackAPI, auth: tuple[str, str] | None) -> None:
    answer = requests.put(f"{api.url}/api/v1/customers/42", json={"plan": "pro"}, auth=auth, timeout=5)
    assert (answer.status_code, answer.json()) == (401, {"meta": {"error": "Unauthorized"}})
    assert [refusal.status for refusal in api.refused] == [401]
    assert api.people == {}


def test_attributes_of_a_person_add_up(api: TrackAPI) -> None:
    _send(api, "PUT", CUSTOMER, {"plan": "pro", "seats": 1})
    _send(api, "PUT", CUSTOMER, {"seats": 2, "_timestamp": 1_700_000_000})
    assert api.people == {"id:42": {"plan": "pro", "seats": 2}}
    assert [operation.body for operation in api.applied("42")] == [
        {"plan": "pro", "seats": 1},
        {"seats": 2, "_timestamp": 1_700_000_000},
    ]
    assert (api.requests, api.count_applied(), api.refused) == (2, 2, [])


@pytest.mark.parametrize(
    ("segment", "person"),
    [
        (b"42", "id:42"),
        (b"Ada%40Example.com", "email:ada@example.com"),
        (b"cio_0a1b", "cio_id:0a1b"),
        (b"cio_", "id:cio_"),
        (b"%2B4912345", "id:+4912345"),
        (b"a%2Fb%20c", "id:a/b c"),
        (b"j%C3%BCrgen", "id:jürgen"),
        (b"%252E%252E", "id:%2E%2E"),
        (b"a%40b%20c", "id:a@b c"),
    ],
)
def test_the_shape_of_an_identifier_says_its_kind(api: TrackAPI, segment: bytes, person: str) -> None:
    assert _send(api, "PUT", b"/api/v1/customers/" + segment, {"plan": "pro"}).status == 200
    assert list(api.people) == [person]


def test_one_email_in_two_spellings_is_one_person(api: TrackAPI) -> None:
    _send(api, "PUT", b"/api/v1/customers/ada%40example.com", {"plan": "pro"})
    _send(api, "POST", b"/api/v1/customers/ADA%40EXAMPLE.COM/events", {"name": "Hello"})
    assert [operation.kind for operation in api.applied("Ada@example.com")] == ["identify", "event"]


def test_an_update_that_must_not_create_creates_nobody(api: TrackAPI) -> None:
    assert _send(api, "PUT", CUSTOMER, {"plan": "pro", "_update": True}).status == 200
    assert (api.people, api.applied("42")) == ({}, [])
    _send(api, "PUT", CUSTOMER, {"plan": "free"})
    _send(api, "PUT", CUSTOMER, {"plan": "pro", "_update": True})
    assert api.people == {"id:42": {"plan": "pro"}}


def test_a_deleted_person_is_gone_and_stands_in_the_log(api: TrackAPI) -> None:
    _send(api, "PUT", CUSTOMER, {"plan": "pro"})
    assert _send(api, "DELETE", CUSTOMER).status == 200
    assert api.people == {}
    assert [operation.kind for operation in api.applied("42")] == ["identify", "delete"]


def test_events_are_kept_in_order_with_their_kind(api: TrackAPI) -> None:
    _send(api, "POST", EVENTS, {"name": " Paid ", "data": {"total": 4.5}, "timestamp": 1_700_000_000})
    _send(api, "POST", EVENTS, {"name": "https://example.com/" + "a" * 200, "type": "page"})
    _send(api, "POST", EVENTS, {"name": "Home", "type": "screen"})
    applied = api.applied("42")
    assert [operation.kind for operation in applied] == ["event", "page", "screen"]
    assert applied[0].body == {"name": "Paid", "data": {"total": 4.5}, "timestamp": 1_700_000_000}
    assert applied[0].at <= applied[1].at <= applied[2].at


def test_anonymous_events_are_kept_by_their_anonymous_id(api: TrackAPI) -> None:
    assert _send(api, "POST", ANONYMOUS, {"name": "Seen", "anonymous_id": "a-1"}).status == 200
    assert _send(api, "POST", ANONYMOUS, {"name": "Invite", "data": {"recipient": "a@b.c"}}).status == 200
    assert [operation.body["name"] for operation in api.applied_anonymously("a-1")] == ["Seen"]


def test_a_repeated_event_is_answered_and_not_applied(api: TrackAPI) -> None:
    event = {"name": "Paid", "id": ULID}
    assert [_send(api, "POST", EVENTS, event).status for _ in range(3)] == [200, 200, 200]
    assert _send(api, "POST", EVENTS, {**event, "id": ULID.lower()}).status == 200
    assert (len(api.applied("42")), api.repeats) == (1, 3)


def test_a_different_event_under_a_known_id_is_a_conflict(api: TrackAPI) -> None:
    _send(api, "POST", EVENTS, {"name": "Paid", "id": ULID})
    assert api.conflicts == []
    assert _send(api, "POST", EVENTS, {"name": "Refunded", "id": ULID}).status == 200
    _send(api, "POST", b"/api/v1/customers/43/events", {"name": "Paid", "id": ULID})
    assert [operation.body["name"] for operation in api.conflicts] == ["Refunded", "Paid"]
    assert (len(api.applied("42")), len(api.applied("43"))) == (1, 0)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", b"/", 400),
        ("GET", b"/api/v2/entity", 405),
        ("PUT", b"/api/v1/customers", 404),
        ("POST", b"/api/v1/customers/42/event", 404),
        ("GET", b"/api/v2/batch", 405),
        ("POST", b"/api/v2/batches", 404),
        ("POST", b"/api/v2/entity?dry=1", 400),
        ("PUT", b"/api/v1/customers/42/suppress", 405),
        ("POST", b"/api/v1/customers/42/devices", 405),
        ("PUT", b"/api/v1/customers/42/devices/a/b", 404),
        ("POST", b"/api/v1/segments//add_customers?id_type=id", 400),
        ("POST", b"/api/v1/segments/7/add_customers#id", 400),
        ("POST", CUSTOMER, 405),
        ("GET", EVENTS, 405),
        ("PUT", b"/api/v1/customers/.", 400),
        ("PUT", b"/api/v1/customers/..", 400),
        ("PUT", b"/api/v1/customers/%2E%2e", 400),
        ("POST", b"/api/v1/customers/./events", 400),
        ("POST", b"/api/v1/customers/../events", 400),
        ("PUT", b"/api/v1/customers/", 400),
        ("PUT", b"/api/v1//customers/42", 400),
        ("PUT", b"/api/v1/customers/%20", 400),
        ("PUT", b"/api/v1/customers/ada@example.com", 400),
        ("PUT", b"/api/v1/customers/a+b", 400),
        ("PUT", b"/api/v1/customers/a%2", 400),
        ("PUT", b"/api/v1/customers/a%zz", 400),
        ("PUT", b"/api/v1/customers/%ff", 400),
        ("PUT", b"/api/v1/customers/42?id=43", 400),
        ("PUT", b"/api/v1/customers/42#there", 400),
        ("PUT", b"http://127.0.0.1/api/v1/customers/42", 400),
        ("PUT", b"/api/v1/customers/" + b"a" * 151, 400),
        ("PUT", b"/api/v1/customers/" + b"%C3%BC" * 76, 400),
    ],
)
def test_a_careless_path_is_refused(api: TrackAPI, method: str, target: bytes, status: int) -> None:
    body = {"name": "Paid"} if method in ("PUT", "POST") else None
    assert _send(api, method, target, body).status == status
    assert [refusal.target for refusal in api.refused] == [target]
    assert api.count_applied() == 0


def test_an_id_of_exactly_150_bytes_is_taken(api: TrackAPI) -> None:
    assert _send(api, "PUT", b"/api/v1/customers/" + b"%C3%BC" * 75, {"plan": "pro"}).status == 200
    assert _send(api, "PUT", b"/api/v1/customers/cio_" + b"a" * 150, {"plan": "pro"}).status == 200


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({f"a{number}": number for number in range(300)}, id="300 attributes"),
        pytest.param({"n" * 150: "v" * 1000}, id="the longest name and value"),
        pytest.param({"tags": ["x" * 2000], "address": {"city": "Graz"}, "gone": None}, id="other kinds"),
        pytest.param({"cio_subscription_preferences.topics.topic_7": True}, id="a key with dots"),
        pytest.param({"id": "42", "email": "ada@example.com", "anonymous_id": "a"}, id="identifiers"),
        pytest.param({"email": None}, id="an email cleared"),
        pytest.param({"created_at": 1_700_000_000, "_timestamp": 10**9}, id="timestamps"),
        pytest.param({}, id="nothing"),
    ],
)
def test_attributes_within_the_limits_are_taken(api: TrackAPI, attributes: dict[str, Any]) -> None:
    assert _send(api, "PUT", CUSTOMER, attributes).status == 200
    assert api.refused == []


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({f"a{number}": number for number in range(301)}, id="301 attributes"),
        pytest.param({"n" * 151: 1}, id="a long name"),
        pytest.param({"ü" * 76: 1}, id="a name long in bytes"),
        pytest.param({" ": 1}, id="a blank name"),
        pytest.param({"bio": "v" * 1001}, id="a long value"),
        pytest.param({"bio": "ü" * 501}, id="a value long in bytes"),
        pytest.param({"_timestamp": 1_700_000_000_000}, id="milliseconds"),
        pytest.param({"_timestamp": "1700000000"}, id="a timestamp in text"),
        pytest.param({"created_at": 1_700_000_000.0}, id="a timestamp with a fraction"),
        pytest.param({"created_at": True}, id="a timestamp that is a boolean"),
        pytest.param({"_update": "true"}, id="_update in text"),
        pytest.param({"id": 42}, id="an id that is a number"),
        pytest.param({"id": ""}, id="an empty id"),
        pytest.param({"id": "43"}, id="another person's id"),
    ],
)
def test_attributes_that_would_be_lost_are_refused(api: TrackAPI, attributes: dict[str, Any]) -> None:
    answer = _send(api, "PUT", CUSTOMER, attributes)
    assert answer.status == 400
    assert len(answer.json["meta"]["errors"]) == 1
    assert (api.people, len(api.refused)) == ({}, 1)


def test_another_email_than_the_one_in_the_path_is_refused(api: TrackAPI) -> None:
    path = b"/api/v1/customers/ada%40example.com"
    assert _send(api, "PUT", path, {"email": "ADA@example.com"}).status == 200
    assert _send(api, "PUT", path, {"email": "bob@example.com"}).status == 400


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({}, id="no name"),
        pytest.param({"name": "  "}, id="a blank name"),
        pytest.param({"name": 7}, id="a name that is a number"),
        pytest.param({"name": "n" * 101}, id="a long name"),
        pytest.param({"name": "n" * 101, "type": "screen"}, id="a long screen"),
        pytest.param({"name": "n" * 1001, "type": "page"}, id="a long page"),
        pytest.param({"name": "Paid", "type": "identify"}, id="an unknown type"),
        pytest.param({"name": "Paid", "type": None}, id="a type that is null"),
        pytest.param({"name": "Paid", "attributes": {}}, id="an unknown key"),
        pytest.param({"name": "Paid", "anonymous_id": "a"}, id="an anonymous id beside a person"),
        pytest.param({"name": "Paid", "id": "evt_1"}, id="an id that is no ULID"),
        pytest.param({"name": "Paid", "id": "8" + ULID[1:]}, id="a ULID beyond its range"),
        pytest.param({"name": "Paid", "id": ULID[:-1] + "U"}, id="a ULID with a letter it has not"),
        pytest.param({"name": "Paid", "id": None}, id="an id that is null"),
        pytest.param({"name": "Paid", "timestamp": 1_700_000_000_000}, id="milliseconds"),
        pytest.param({"name": "Paid", "timestamp": 999_999_999}, id="too long ago"),
        pytest.param({"name": "Paid", "timestamp": "2026-01-01"}, id="a timestamp in text"),
        pytest.param({"name": "Paid", "timestamp": None}, id="a timestamp that is null"),
        pytest.param({"name": "Paid", "data": None}, id="data that is null"),
        pytest.param({"name": "Paid", "data": []}, id="data that is a list"),
        pytest.param({"name": "Paid", "data": {"a": "x" * 99_993}}, id="too much data"),
    ],
)
def test_events_that_would_be_lost_are_refused(api: TrackAPI, event: dict[str, Any]) -> None:
    assert _send(api, "POST", EVENTS, event).status == 400
    assert (api.applied("42"), len(api.refused)) == ([], 1)


def test_the_largest_event_is_taken(api: TrackAPI) -> None:
    event = {"name": "n" * 100, "id": ULID, "timestamp": 10**11 - 1, "data": {"a": "x" * 99_992}}
    assert _send(api, "POST", EVENTS, event).status == 200


@pytest.mark.parametrize(
    "event", [{"name": "Seen"}, {"name": "Seen", "data": {"a": 1}}, {"name": "Seen", "anonymous_id": ""}]
)
def test_an_anonymous_event_has_to_name_somebody(api: TrackAPI, event: dict[str, Any]) -> None:
    assert _send(api, "POST", ANONYMOUS, event).status == 400


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"name"', id="text"),
        pytest.param(b'{"name": "Paid"', id="cut off"),
        pytest.param(b'{"name": "Paid", "data": {"a": NaN}}', id="NaN"),
        pytest.param(b'{"name": "Paid", "data": {"a": -Infinity}}', id="Infinity"),
        pytest.param(b'{"name": "Paid", "name": "Paid"}', id="a name twice"),
        pytest.param(b'{"name": "Paid", "data": {"a": 1, "a": 2}}', id="a name twice, inside"),
        pytest.param(b'{"name": "\xff"}', id="not UTF-8"),
        pytest.param(rb'{"name": "Paid", "data": {"a": "\ud800"}}', id="half of a surrogate pair"),
        pytest.param(b'{"name": ' + b"[" * 100_000, id="nested without end"),
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused(api: TrackAPI, body: bytes) -> None:
    assert _send(api, "POST", EVENTS, body).status == 400
    assert api.count_applied() == 0


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ("application/json; charset=latin-1", 400),
        ("application/x-www-form-urlencoded", 400),
        ("text/plain", 400),
        ("", 400),
    ],
)
def test_the_content_type_has_to_be_json(api: TrackAPI, content_type: str, status: int) -> None:
    assert _send(api, "PUT", CUSTOMER, {}, headers={"content-type": content_type}).status == status


def test_a_body_where_none_belongs_is_refused(api: TrackAPI) -> None:
    assert _send(api, "DELETE", CUSTOMER, {}).status == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"PUT /api HTTP/1.0\r\n\r\n", 400, id="HTTP/1.0"),
        pytest.param(b"PUT  /api HTTP/1.1\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"PUT /a\xc3\xbc HTTP/1.1\r\n\r\n", 400, id="a raw byte in the target"),
        pytest.param(b"PUT /api HTTP/1.1\nHost: a\n\n", 400, id="bare line feeds"),
        pytest.param(b"PUT /api HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="a header twice"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="a space before the colon"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n", 400, id="a folded header"),
        pytest.param(b"PUT /" + b"a" * 9_000, 400, id="a line without end"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\n\r\n", 411, id="no content-length"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n{}", 413, id="a sign"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n", 413, id="too large"),
        pytest.param(b"PUT /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="chunks"),
    ],
)
def test_bytes_that_are_not_a_clean_request_are_refused(api: TrackAPI, sent: bytes, status: int) -> None:
    with _connect(api) as connection:
        connection.sendall(sent)
        assert _receive(connection).status == status
        assert connection.recv(1) == b""
    assert [refusal.status for refusal in api.refused] == [status]


def test_half_a_request_is_nothing(api: TrackAPI) -> None:
    whole = _written("PUT", CUSTOMER, {"plan": "pro"})
    for end in (10, whole.index(b"\r\n\r\n") + 1, len(whole) - 1):
        with _connect(api) as connection:
            connection.sendall(whole[:end])
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
    assert (api.requests, api.people, api.refused) == (0, {}, [])


def test_one_connection_carries_many_requests(api: TrackAPI) -> None:
    with _connect(api) as connection:
        for number in range(3):
            connection.sendall(_written("PUT", CUSTOMER, {"number": number}))
            assert _receive(connection).status == 200
        connection.sendall(_written("PUT", CUSTOMER, {"id": ""}) + _written("DELETE", CUSTOMER))
        assert [_receive(connection).status, _receive(connection).status] == [400, 200]
    assert [operation.kind for operation in api.applied("42")] == ["identify"] * 3 + ["delete"]


def test_a_connection_is_closed_when_the_client_says_so(api: TrackAPI) -> None:
    with _connect(api) as connection:
        connection.sendall(_written("DELETE", CUSTOMER, headers={"Connection": "close"}))
        assert _receive(connection).status == 200
        assert connection.recv(1) == b""


def test_requests_from_many_threads_are_all_kept(api: TrackAPI) -> None:
    def post(customer: int) -> None:
        with _connect(api) as connection:
            for number in range(50):
                connection.sendall(_written("PUT", b"/api/v1/customers/%d" % customer, {"number": number}))
                assert _receive(connection).status == 200

    threads = [threading.Thread(target=post, args=(customer,)) for customer in range(8)]
    for thread in threads:
        thread.start()
    api.wait_until(lambda: api.count_applied() == 400, timeout=10)
    for thread in threads:
        thread.join()
    for customer in range(8):
        assert [each.body["number"] for each in api.applied(str(customer))] == list(range(50))


@pytest.mark.parametrize(
    ("method", "target", "body", "said"),
    [
        ("POST", EVENTS, {"name": ""}, {"meta": {"errors": ["event name must not be blank"]}}),
        ("POST", b"/api/v1/merge_customers", {}, {"meta": {"error": "merge.primary is missing"}}),
        (
            "POST",
            b"/api/v2/entity",
            {"type": "person", "action": "delete", "identifiers": {"id": ""}},
            {"errors": [{"reason": "invalid", "field": "identifiers.id", "message": "id must not be blank"}]},
        ),
        (
            "POST",
            b"/api/v2/entity",
            {"type": "person", "action": "delete"},
            {"errors": [{"reason": "required", "field": "identifiers", "message": "identifiers is missing"}]},
        ),
        (
            "POST",
            b"/api/v2/entity",
            {"type": "delivery", "action": "event"},
            {
                "errors": [
                    {"reason": "invalid", "field": "action", "message": "there is no operation of this type and action"}
                ]
            },
        ),
    ],
)
def test_an_error_has_the_shape_of_its_path(
    api: TrackAPI, method: str, target: bytes, body: dict[str, Any], said: dict[str, Any]
) -> None:
    answer = _send(api, method, target, body)
    assert (answer.status, answer.json) == (400, said)


def test_a_submitted_form_is_answered_without_a_body(api: TrackAPI) -> None:
    with requests.Session() as session:
        for _ in range(2):  # over one connection: nothing of the first answer may be left in it
            answer = session.post(
                f"{api.url}/api/v1/forms/7/submit", json={"data": {"id": "1"}}, auth=("site", "key"), timeout=5
            )
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-length" not in answer.headers


def test_a_segment_is_changed_by_the_only_path_that_has_a_query(api: TrackAPI) -> None:
    target = b"/api/v1/segments/7/add_customers?id_type=email"
    assert _send(api, "POST", target, {"ids": ["Ada@example.com"]}).status == 200
    assert api.state["segments"] == {"7": {"email:ada@example.com"}}


def test_a_batch_is_applied_but_for_the_items_that_are_refused(api: TrackAPI) -> None:
    items = [_event("a"), _event(""), _event("b"), {**_event("c"), "data": {}}, _event("x" * 33_000)]
    answer = _send(api, "POST", BATCH, {"batch": items})
    assert answer.status == 207
    errors = answer.json["errors"]
    assert [(each["batch_index"], each["reason"], each["field"]) for each in errors] == [
        (1, "invalid", "name"),
        (3, "invalid", "data"),
        (4, "invalid", "request"),
    ]
    assert errors[0]["message"] == "event name must not be blank"
    assert [each.body["name"] for each in api.applied("42")] == ["a", "b"]
    assert [(each.status, each.target) for each in api.refused] == [(207, BATCH)] * 3
    assert (api.requests, api.count_applied(), api.batches, api.singles) == (1, 2, [5], 0)


def test_a_batch_that_is_all_right_is_answered_with_nothing(api: TrackAPI) -> None:
    answer = _send(api, "POST", BATCH, {"batch": [_event("a"), _event("b")]})
    assert (answer.status, answer.body) == (200, b"{}\n")
    assert _send(api, "POST", b"/api/v2/entity", _event("c")).body == b"{}\n"
    assert [each.body["name"] for each in api.applied("42")] == ["a", "b", "c"]
    assert (api.batches, api.singles) == ([2], 1)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"batch": [', id="cut off"),
        pytest.param({}, id="no batch"),
        pytest.param({"batch": {}}, id="a batch that is no list"),
        pytest.param({"batch": []}, id="an empty batch"),
        pytest.param({"batch": [{}]}, id="an empty item"),
        pytest.param({"batch": [None]}, id="an item that is null"),
        pytest.param({"batch": [{"action": "event", "name": "a"}]}, id="an item without a type"),
        pytest.param({"batch": [{"type": "person", "name": "a"}]}, id="an item without an action"),
        pytest.param({"batch": [{"type": "person", "action": "buy"}]}, id="an unknown action"),
        pytest.param({"batch": [{"type": "person", "action": ["event"]}]}, id="a list of actions"),
        pytest.param({"batch": [{"type": "object", "action": "event"}]}, id="an action of another type"),
        pytest.param({"batch": [{"type": "delivery", "action": "event"}]}, id="a delivery"),
        pytest.param({"batch": [{"type": "person", "action": "delete"}], "more": 1}, id="a key beside it"),
    ],
)
def test_of_a_malformed_batch_nothing_is_applied(api: TrackAPI, body: dict[str, Any] | bytes) -> None:
    if isinstance(body, dict) and isinstance(body.get("batch"), list) and body["batch"]:
        body = {**body, "batch": [_event("a"), *body["batch"], _event("b")]}
    answer = _send(api, "POST", BATCH, body)
    assert answer.status == 400
    (error,) = answer.json["errors"]
    assert error.keys() == {"reason", "field", "message"}
    assert (api.count_applied(), api.batches, len(api.refused)) == (0, [], 1)


def test_a_batch_may_have_500000_bytes(api: TrackAPI) -> None:
    items = [_event("a", {"a": "x" * 31_000}) for _ in range(16)]
    spare = 500_000 - len(_dump({"batch": items}))
    items.append(_event("a", {"a": "x" * (spare - len(_dump([_event("a", {"a": ""})])) + 1)}))
    whole = _dump({"batch": items})
    assert len(whole) == 500_000
    assert _send(api, "POST", BATCH, whole).status == 200
    assert _send(api, "POST", BATCH, whole + b" ").status == 400
    assert (api.count_applied(), api.batches) == (17, [17])


def test_a_test_can_have_one_operation_refused_however_it_comes() -> None:
    seen: list[dict[str, Any]] = []

    def refuse(operation: dict[str, Any]) -> str | None:
        seen.append(operation)
        return "poison" if operation["body"].get("name") == "bad" else None

    with TrackAPI(refuse_item=refuse) as api:
        v1 = _send(api, "POST", EVENTS, {"name": "bad", "type": "event"})
        assert (v1.status, v1.json) == (400, {"meta": {"errors": ["poison"]}})
        error = {"reason": "invalid", "field": "operation", "message": "poison"}
        entity = _send(api, "POST", b"/api/v2/entity", _event("bad"))
        assert (entity.status, entity.json) == (400, {"errors": [error]})
        batch = _send(api, "POST", BATCH, {"batch": [_event("good"), _event("bad")]})
        assert (batch.status, batch.json) == (207, {"errors": [{"batch_index": 1, **error}]})
        assert seen[0] == seen[1] == seen[3]
        assert seen[0] == {"kind": "event", "person": "id:42", "body": {"name": "bad", "type": "event"}}
        assert [each.body["name"] for each in api.applied("42")] == ["good"]
        api.refuse_item = lambda _: None
        assert _send(api, "POST", b"/api/v2/entity", _event("bad")).status == 200


def test_a_fault_befalls_a_whole_batch() -> None:
    def busy(request: ParsedRequest) -> Fault | None:
        return Reply(status=503) if len(json.loads(request.body)["batch"]) > 1 else None

    with TrackAPI(answer=busy) as api:
        assert _send(api, "POST", BATCH, {"batch": [_event("a"), _event("b")]}).status == 503
        assert _send(api, "POST", BATCH, {"batch": [_event("a")]}).status == 200
        assert (api.count_applied(), api.batches, api.refused) == (1, [1], [])


def test_a_batch_is_authorised_as_everything_else(api: TrackAPI) -> None:
    answer = _send(api, "POST", BATCH, {"batch": [_event("a")]}, headers={"authorization": "Basic eDp5"})
    assert (answer.status, answer.json) == (401, {"meta": {"error": "Unauthorized"}})
    assert (api.count_applied(), api.batches) == (0, [])


def test_a_fault_takes_the_place_of_the_answer() -> None:
    page = Reply(status=503, headers={"Retry-After": "2", "Content-Type": "text/html"}, body=b"<h1>busy</h1>")
    with TrackAPI(answer=_first(page)) as api:
        answer = requests.put(f"{api.url}/api/v1/customers/42", json={}, auth=("site", "key"), timeout=5)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert (answer.text, api.people, api.refused) == ("<h1>busy</h1>", {}, [])
        assert _send(api, "PUT", CUSTOMER, {}).status == 200
        assert (api.requests, api.count_applied()) == (2, 1)


def test_a_status_that_no_standard_names_can_be_answered() -> None:
    with TrackAPI(answer=_first(Reply(status=524))) as api:
        assert _send(api, "PUT", CUSTOMER, {}).status == 524


def test_faults_see_the_request_and_can_change_while_the_server_runs(api: TrackAPI) -> None:
    seen: list[ParsedRequest] = []
    api.answer = seen.append
    _send(api, "POST", EVENTS, {"name": "Paid"})
    api.answer = lambda _: Reply(status=500)
    assert _send(api, "POST", EVENTS, {"name": "Paid"}).status == 500
    assert [(each.number, each.method, each.target) for each in seen] == [(1, "POST", EVENTS)]
    assert json.loads(seen[0].body) == {"name": "Paid"}


@pytest.mark.parametrize("applied", [False, True])
def test_a_reset_connection_leaves_the_client_in_doubt(applied: bool) -> None:
    with TrackAPI(answer=_first(Reset(applied=applied))) as api, _connect(api) as connection:
        connection.sendall(_written("PUT", CUSTOMER, {}))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert api.count_applied() == int(applied)


def test_a_delayed_answer_is_late_and_its_request_applied_at_once() -> None:
    with TrackAPI(answer=_first(Delay(seconds=0.2))) as api:
        assert _send(api, "PUT", CUSTOMER, {}).status == 200
        assert time.monotonic() - api.applied("42")[0].at >= 0.2


def test_a_hanging_server_has_applied_and_never_answers_and_can_be_closed() -> None:
    with TrackAPI(answer=_first(Hang())) as api, _connect(api) as connection:
        connection.sendall(_written("PUT", CUSTOMER, {}))
        api.wait_until(lambda: api.count_applied() == 1, timeout=5)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_slow_server_applies_only_when_it_answers() -> None:
    began = time.monotonic()
    with TrackAPI(answer=_first(Slow(seconds=0.2))) as api:
        assert _send(api, "PUT", CUSTOMER, {}).status == 200
        assert api.applied("42")[0].at - began >= 0.2


def test_an_answer_can_trickle() -> None:
    with TrackAPI(answer=_first(Trickle(seconds=0.2))) as api:
        began = time.monotonic()
        assert _send(api, "PUT", CUSTOMER, {}).json == {}
        assert time.monotonic() - began >= 0.2
        assert api.applied("42")[0].at - began < 0.2


def test_a_server_that_is_away_refuses_connections_and_comes_back_with_what_it_knows(api: TrackAPI) -> None:
    with _connect(api) as connection:
        connection.sendall(_written("PUT", CUSTOMER, {"plan": "pro"}))
        assert connection.recv(12) == b"HTTP/1.1 200"
        with api.away(), pytest.raises(ConnectionRefusedError):
            _connect(api)
        while connection.recv(1_000):  # the rest of the answer, and then the end
            pass
    assert _send(api, "PUT", CUSTOMER, {"seats": 1}).status == 200
    assert api.people == {"id:42": {"plan": "pro", "seats": 1}}


def test_a_client_that_is_killed_harms_nobody(api: TrackAPI) -> None:
    connection = _connect(api)
    connection.sendall(_written("PUT", CUSTOMER, {"plan": "pro"})[:-1])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert _send(api, "PUT", CUSTOMER, {}).status == 200


def test_a_mistake_in_a_fault_fails_the_test_that_made_it() -> None:
    def broken(request: ParsedRequest) -> None:
        raise ZeroDivisionError

    def run() -> None:
        with TrackAPI(answer=broken) as api, _connect(api) as connection:
            connection.sendall(_written("DELETE", CUSTOMER))
            assert connection.recv(1) == b""

    with pytest.raises(ZeroDivisionError):
        run()


def test_waiting_ends_with_the_facts(api: TrackAPI) -> None:
    with pytest.raises(TimeoutError, match="0 requests arrived"):
        api.wait_until(lambda: False, timeout=0.05)


class _Answer:
    """An answer as raw sockets see it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head.split(b" ")[1])
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _event(name: str, attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    told = {} if attributes is None else {"attributes": attributes}
    return {"type": "person", "action": "event", "identifiers": {"id": "42"}, "name": name, **told}


def _dump(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _first(fault: Fault) -> Answer:
    return lambda request: fault if request.number == 1 else None


def _send(
    api: TrackAPI,
    method: str,
    target: bytes,
    body: dict[str, Any] | bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> _Answer:
    with _connect(api) as connection:
        connection.sendall(_written(method, target, body, headers=headers))
        return _receive(connection)


def _written(
    method: str, target: bytes, body: dict[str, Any] | bytes | None = None, *, headers: Mapping[str, str] | None = None
) -> bytes:
    written = json.dumps(body).encode() if isinstance(body, dict) else body
    fields = {"host": "127.0.0.1", "authorization": "Basic c2l0ZTprZXk="}
    if written is not None:
        fields |= {"content-type": "application/json", "content-length": str(len(written))}
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode() + b"\r\n" + (written or b"")


def _connect(api: TrackAPI) -> socket.socket:
    port = int(api.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def _receive(connection: socket.socket) -> _Answer:
    """Read one answer byte by byte, so that nothing of the next is taken along."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return _Answer(head, body)
