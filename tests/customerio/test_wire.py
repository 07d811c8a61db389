"""Each call's exact request, singly and in a batch, and the address that it goes to."""

from __future__ import annotations

import json

import pytest

from gateway.customerio import wire
from gateway.customerio.calls import (
    CALLS,
    AddDevice,
    AddRelationships,
    Address,
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
    as_json,
    from_json,
)
from gateway.customerio.wire import HttpRequest

ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"


def v1(method: str, path: str, body: str | None = None) -> HttpRequest:
    headers = {} if body is None else {"Content-Type": "application/json"}
    return HttpRequest(method=method, path=path, body=None if body is None else body.encode(), headers=headers)


def entity(body: str) -> HttpRequest:
    return v1("POST", "/api/v2/entity", body)


ANN = '"identifiers":{"email":"ann@example.com"}'
N42 = '"type":"person","identifiers":{"id":"42"}'
ACME = '"identifiers":{"object_type_id":"1","object_id":"acme"}'
# The call, its single request, and its item of a batch (None: it is never part of one).
TABLE: list[tuple[Call, HttpRequest, str | None]] = [
    (
        Identify(id="42"),
        v1("PUT", "/api/v1/customers/42", "{}"),
        f'{{{N42},"action":"identify","attributes":{{}}}}',
    ),
    (
        Identify(id="42", email="ann@example.com", attributes={"plan": "pro", "a.b": 1}, timestamp=1767225600),
        v1(
            "PUT",
            "/api/v1/customers/42",
            '{"email":"ann@example.com","plan":"pro","a.b":1,"_timestamp":1767225600}',
        ),
        f'{{{N42},"action":"identify","attributes":{{"email":"ann@example.com","plan":"pro","a.b":1}},'
        '"timestamp":1767225600}',
    ),
    (
        Identify(id="42", email="a@example.com", attributes={"email": "b@example.com", "_timestamp": 1767225600}),
        v1("PUT", "/api/v1/customers/42", '{"email":"b@example.com","_timestamp":1767225600}'),
        f'{{{N42},"action":"identify","attributes":{{"email":"b@example.com"}},"timestamp":1767225600}}',
    ),
    (
        Identify(email="Ann@Example.com", attributes={"a": None}),
        v1("PUT", "/api/v1/customers/Ann%40Example.com", '{"a":null}'),
        '{"type":"person","identifiers":{"email":"Ann@Example.com"},"action":"identify","attributes":{"a":null}}',
    ),
    (
        Identify(cio_id="a3000001", id="42"),
        v1("PUT", "/api/v1/customers/cio_a3000001", "{}"),
        '{"type":"person","identifiers":{"cio_id":"a3000001"},"action":"identify","attributes":{}}',
    ),
    (
        Identify(cio_id="a3", attributes={"id": "43"}),
        v1("PUT", "/api/v1/customers/cio_a3", '{"id":"43"}'),
        None,
    ),
    (
        Identify(id="42", attributes={"anonymous_id": "a"}),
        v1("PUT", "/api/v1/customers/42", '{"anonymous_id":"a"}'),
        None,
    ),
    (
        Track(id="42", name="Order Päid", attributes={"total": 49.5}, timestamp=1767225600, event_id=ULID),
        v1(
            "POST",
            "/api/v1/customers/42/events",
            f'{{"name":"Order Päid","type":"event","id":"{ULID}","timestamp":1767225600,"data":{{"total":49.5}}}}',
        ),
        f'{{{N42},"action":"event","name":"Order Päid","id":"{ULID}","timestamp":1767225600,'
        '"attributes":{"total":49.5}}',
    ),
    (
        Track(anonymous_id="a/1", name="Seen"),
        v1("POST", "/api/v1/events", '{"name":"Seen","type":"event","data":{},"anonymous_id":"a/1"}'),
        '{"type":"person","identifiers":{"anonymous_id":"a/1"},"action":"event","name":"Seen","attributes":{}}',
    ),
    (
        Page(id="42", url="https://example.com/?a=1", timestamp=1767225600),
        v1(
            "POST",
            "/api/v1/customers/42/events",
            '{"name":"https://example.com/?a=1","type":"page","timestamp":1767225600,"data":{}}',
        ),
        f'{{{N42},"action":"page","name":"https://example.com/?a=1","timestamp":1767225600,"attributes":{{}}}}',
    ),
    (
        Screen(id="42", name="Home", attributes={"a": [1]}),
        v1("POST", "/api/v1/customers/42/events", '{"name":"Home","type":"screen","data":{"a":[1]}}'),
        f'{{{N42},"action":"screen","name":"Home","attributes":{{"a":[1]}}}}',
    ),
    (
        Destroy(id="42"),
        v1("DELETE", "/api/v1/customers/42"),
        f'{{{N42},"action":"delete"}}',
    ),
    (
        Destroy(email="ann@example.com"),
        v1("DELETE", "/api/v1/customers/ann%40example.com"),
        f'{{"type":"person",{ANN},"action":"delete"}}',
    ),
    (
        Suppress(id="42"),
        v1("POST", "/api/v1/customers/42/suppress", "{}"),
        f'{{{N42},"action":"suppress"}}',
    ),
    (
        Unsuppress(email="ann@example.com"),
        v1("POST", "/api/v1/customers/ann%40example.com/unsuppress", "{}"),
        f'{{"type":"person",{ANN},"action":"unsuppress"}}',
    ),
    (
        Merge(into={"id": "42"}, from_={"cio_id": "cio_a3"}),
        v1("POST", "/api/v1/merge_customers", '{"primary":{"id":"42"},"secondary":{"cio_id":"a3"}}'),
        '{"type":"person","action":"merge","primary":{"id":"42"},"secondary":{"cio_id":"a3"}}',
    ),
    (
        Merge(into={"email": "ann@example.com"}, from_={"id": "ann@old.example"}),
        v1(
            "POST",
            "/api/v1/merge_customers",
            '{"primary":{"email":"ann@example.com"},"secondary":{"email":"ann@old.example"}}',
        ),
        '{"type":"person","action":"merge","primary":{"email":"ann@example.com"},'
        '"secondary":{"email":"ann@old.example"}}',
    ),
    (
        AddDevice(id="42", token="t/1", platform="ios", last_used=1767225600, attributes={"app_version": "2"}),
        v1(
            "PUT",
            "/api/v1/customers/42/devices",
            '{"device":{"id":"t/1","platform":"ios","last_used":1767225600,"attributes":{"app_version":"2"}}}',
        ),
        f'{{{N42},"action":"add_device","device":{{"token":"t/1","platform":"ios","last_used":1767225600,'
        '"attributes":{"app_version":"2"}}}',
    ),
    (
        AddDevice(id="42", token="t", platform="android"),
        v1("PUT", "/api/v1/customers/42/devices", '{"device":{"id":"t","platform":"android"}}'),
        f'{{{N42},"action":"add_device","device":{{"token":"t","platform":"android"}}}}',
    ),
    (
        DeleteDevice(id="42", token="t/1"),
        v1("DELETE", "/api/v1/customers/42/devices/t%2F1"),
        f'{{{N42},"action":"delete_device","device":{{"token":"t/1"}}}}',
    ),
    (
        IdentifyObject(
            object_type_id="1",
            object_id="acme",
            attributes={"name": "Acme"},
            people=[{"id": "42", "attributes": {"role": "owner"}}, {"email": "ann@example.com"}],
        ),
        entity(
            f'{{"type":"object",{ACME},"action":"identify","attributes":{{"name":"Acme"}},"cio_relationships":'
            '[{"identifiers":{"id":"42"},"relationship_attributes":{"role":"owner"}},'
            f"{{{ANN}}}]}}"
        ),
        f'{{"type":"object",{ACME},"action":"identify","attributes":{{"name":"Acme"}},"cio_relationships":'
        '[{"identifiers":{"id":"42"},"relationship_attributes":{"role":"owner"}},'
        f"{{{ANN}}}]}}",
    ),
    (
        DeleteObject(object_type_id="1", object_id="acme"),
        entity(f'{{"type":"object",{ACME},"action":"delete"}}'),
        f'{{"type":"object",{ACME},"action":"delete"}}',
    ),
    (
        AddRelationships(
            id="42",
            objects=[{"object_type_id": "1", "object_id": "acme", "attributes": {"role": "owner"}}],
        ),
        entity(
            f'{{{N42},"action":"add_relationships","cio_relationships":[{{{ACME},'
            '"relationship_attributes":{"role":"owner"}}]}'
        ),
        f'{{{N42},"action":"add_relationships","cio_relationships":[{{{ACME},'
        '"relationship_attributes":{"role":"owner"}}]}',
    ),
    (
        DeleteRelationships(id="42", objects=[{"object_type_id": "1", "object_id": "acme"}]),
        entity(f'{{{N42},"action":"delete_relationships","cio_relationships":[{{{ACME}}}]}}'),
        f'{{{N42},"action":"delete_relationships","cio_relationships":[{{{ACME}}}]}}',
    ),
    (
        SubmitForm(form_id="sign up", email="ann@example.com", attributes={"color": "red"}),
        v1(
            "POST",
            "/api/v1/forms/sign%20up/submit",
            '{"data":{"color":"red","email":"ann@example.com"}}',
        ),
        None,
    ),
    (
        SubmitForm(form_id="1", id="cio_x"),
        v1("POST", "/api/v1/forms/1/submit", '{"data":{"id":"cio_x"}}'),
        None,
    ),
    (RawRequest(path="/v1/accounts/region"), v1("GET", "/api/v1/accounts/region"), None),
]


@pytest.mark.parametrize(("call", "single", "item"), TABLE, ids=lambda each: getattr(each, "name_of_call", ""))
def test_each_call_has_one_exact_request_and_one_exact_item(call: Call, single: HttpRequest, item: str | None) -> None:
    assert call.request() == single
    assert call.item() == (None if item is None else item.encode())


def test_no_call_is_missing_in_the_table() -> None:
    assert {call.name_of_call for call, _, _ in TABLE} == set(CALLS)


def test_items_make_a_batch_of_the_size_foretold() -> None:
    items = [Destroy(id=str(number)).item() or b"" for number in range(3)]
    request = wire.batch(items)
    assert request == v1("POST", "/api/v2/batch", '{"batch":[' + b",".join(items).decode() + "]}")
    assert len(request.body or b"") == wire.batch_size([len(each) for each in items])
    assert wire.batch_size([]) == len(wire.batch([]).body or b"")


def test_what_is_larger_than_an_item_may_be_has_a_single_request_only() -> None:
    large = Track(id="42", name="x", attributes={"a": "v" * wire.MAX_ITEM_BYTES})
    assert large.item() is None
    assert b"vvv" in (large.request().body or b"")
    room = wire.MAX_ITEM_BYTES - len(Track(id="42", name="x", attributes={"a": ""}).item() or b"")
    assert Track(id="42", name="x", attributes={"a": "v" * room}).item() is not None
    assert Track(id="42", name="x", attributes={"a": "v" * (room + 1)}).item() is None


@pytest.mark.parametrize(
    ("identifier", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("jürgen", "j%C3%BCrgen"),
        ("a?b#c", "a%3Fb%23c"),
        ("a/../b", "a%2F..%2Fb"),
        ("cio_a3000001", "cio_a3000001"),
        ("x" * 150, "x" * 150),
        ("\x00\n", "%00%0A"),
    ],
)
def test_an_identifier_is_one_segment_of_the_path(identifier: str, segment: str) -> None:
    assert Destroy(id=identifier).request().path == f"/api/v1/customers/{segment}"
    assert Destroy(id=identifier).item() is not None
    assert Destroy(id=identifier).violations() == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Destroy(id="42"), Address(kind="id", value="42")),
        (Destroy(id="ann@example.com"), Address(kind="email", value="ann@example.com")),
        (Destroy(id="cio_a3"), Address(kind="cio_id", value="a3")),
        (Destroy(email="not an email"), Address(kind="id", value="not an email")),
        (Destroy(cio_id="cio_a3", id="42"), Address(kind="cio_id", value="a3")),
        (Destroy(id="42", email="ann@example.com"), Address(kind="id", value="42")),
        (Destroy(id="", email="ann@example.com"), Address(kind="email", value="ann@example.com")),
        (Track(anonymous_id="a", name="x"), Address(kind="anonymous_id", value="a")),
        (Track(anonymous_id="a", id="42", name="x"), Address(kind="id", value="42")),
        (Destroy(), None),
    ],
)
def test_the_address_is_the_first_identifier_read_as_customerio_reads_a_path(
    call: Call, expected: Address | None
) -> None:
    assert call.address() == expected


def lanes_of(call: Call, connection: str = "default") -> tuple[int, ...]:
    return call.lanes(connection)


def test_emails_share_a_lane_whatever_their_case_and_ids_do_not() -> None:
    assert lanes_of(Destroy(email="Ann@Example.com")) == lanes_of(Destroy(id="ann@example.com"))
    assert lanes_of(Destroy(id="Ann")) != lanes_of(Destroy(id="ann"))
    assert lanes_of(Destroy(id="ann")) != lanes_of(Destroy(id="ann"), connection="eu-prod")
    assert -(2**63) <= lanes_of(Destroy(id="ann"))[0] < 2**63


def test_a_merge_stands_in_both_lanes_an_object_in_its_own_and_a_raw_request_in_none() -> None:
    both = {*lanes_of(Destroy(id="42")), *lanes_of(Destroy(email="ann@example.com"))}
    assert set(lanes_of(Merge(into={"id": "42"}, from_={"email": "ann@example.com"}))) == both
    acme = IdentifyObject(object_type_id="1", object_id="acme", people=[{"id": "42"}])
    assert lanes_of(acme) == lanes_of(DeleteObject(object_type_id="1", object_id="acme"))
    assert lanes_of(acme) != lanes_of(DeleteObject(object_type_id="2", object_id="acme"))
    assert len(lanes_of(acme)) == 1
    assert lanes_of(RawRequest(path="/v1/accounts/region")) == ()


def test_a_call_is_read_back_as_it_was_written() -> None:
    for call in (
        Identify(id="42", attributes={"a": [1, {"b": None}]}, timestamp=1767225600),
        Track(anonymous_id="a", name="x", event_id=ULID),
        Page(email="a@b.c", url="*"),
        Destroy(cio_id="a3"),
        *(call for call, _, _ in TABLE),
    ):
        assert from_json(json.loads(json.dumps(as_json(call)))) == call


def test_of_a_raw_request_only_what_was_asked_for_is_written() -> None:
    assert as_json(RawRequest(path="/v1/x")) == {"call": "request", "path": "/v1/x"}
    asked: Call = RawRequest(path="/v1/x", data={}, response_type="text")
    assert as_json(asked) == {"call": "request", "path": "/v1/x", "data": {}, "response_type": "text"}
