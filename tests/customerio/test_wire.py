"""The exact request of each call, singly and in a batch, its address and its lanes."""

from __future__ import annotations

import json
from typing import Any, cast

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
    IdentifyAnonymous,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    Track,
    Unsuppress,
    WorkspaceIdentifiers,
    as_json,
    from_json,
)
from gateway.customerio.wire import HttpRequest

ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"
NOW = 1767225600
REGION = RawRequest(path="/v1/accounts/region")
ACME: dict[str, Any] = {"object_type_id": "1", "object_id": "acme"}


def http(text: str) -> HttpRequest:
    """Return the request with this method, path and JSON body."""
    method, path, *body = text.split(" ", maxsplit=2)
    headers = {"Content-Type": "application/json"} if body else {}
    return HttpRequest(method=method, path=path, body=body[0].encode() if body else None, headers=headers)


# Beginnings of v2 operations.
ANN = '"identifiers":{"email":"ann@example.com"}'
PHONE = '"type":"person","identifiers":{"phone":"+4930123"}'
N42 = '"type":"person","identifiers":{"id":"42"}'
OBJECT = '"identifiers":{"object_type_id":"1","object_id":"acme"}'
OWNER = '"relationship_attributes":{"role":"owner"}'
# The call, its single request, and its item of a batch. A request of None is the item as a v2 entity, an item of None
# means that the call is never part of a batch.
TABLE: list[tuple[Call, str | None, str | None]] = [
    (Identify(id="42"), "PUT /api/v1/customers/42 {}", f'{{{N42},"action":"identify","attributes":{{}}}}'),
    (
        Identify(id="42", email="ann@example.com", attributes={"plan": "pro", "a.b": 1}, timestamp=NOW),
        'PUT /api/v1/customers/42 {"email":"ann@example.com","plan":"pro","a.b":1,"_timestamp":1767225600}',
        f'{{{N42},"action":"identify","attributes":{{"email":"ann@example.com","plan":"pro","a.b":1}},'
        '"timestamp":1767225600}',
    ),
    (
        Identify(id="42", email="a@example.com", attributes={"email": "b@example.com", "_timestamp": NOW}),
        'PUT /api/v1/customers/42 {"email":"b@example.com","_timestamp":1767225600}',
        f'{{{N42},"action":"identify","attributes":{{"email":"b@example.com"}},"timestamp":1767225600}}',
    ),
    (
        Identify(email="Ann@Example.com", attributes={"a": None}),
        'PUT /api/v1/customers/Ann%40Example.com {"a":null}',
        '{"type":"person","identifiers":{"email":"Ann@Example.com"},"action":"identify","attributes":{"a":null}}',
    ),
    (
        Identify(cio_id="a3", id="42", email="ann@example.com", phone="+4930123"),
        'PUT /api/v1/customers/cio_a3 {"id":"42","email":"ann@example.com","phone":"+4930123"}',
        None,
    ),
    (Identify(cio_id="a3", id="42", attributes={"id": "43"}), 'PUT /api/v1/customers/cio_a3 {"id":"43"}', None),
    (
        Identify(cio_id="cio_a3", email="ann@example.com"),
        'PUT /api/v1/customers/cio_a3 {"email":"ann@example.com"}',
        '{"type":"person","identifiers":{"cio_id":"a3"},"action":"identify","attributes":{"email":"ann@example.com"}}',
    ),
    (
        Identify(id="ann@example.com", email="ann@example.com"),
        'PUT /api/v1/customers/ann%40example.com {"email":"ann@example.com"}',
        None,
    ),
    (
        Identify(phone="+4930123", attributes={"plan": "pro"}, timestamp=NOW),
        None,
        f'{{{PHONE},"action":"identify","attributes":{{"plan":"pro"}},"timestamp":1767225600}}',
    ),
    (
        Identify(id="42", attributes={"cio_subscription_preferences.topics": {"topic_7": True}}, update_only=True),
        'PUT /api/v1/customers/42 {"cio_subscription_preferences.topics.topic_7":true,"_update":true}',
        f'{{{N42},"action":"identify","attributes":{{"cio_subscription_preferences.topics.topic_7":true,"_update":true}}}}',
    ),
    (Identify(cio_id="a3", attributes={"id": "43"}), 'PUT /api/v1/customers/cio_a3 {"id":"43"}', None),
    (Identify(id="42", attributes={"anonymous_id": "a"}), 'PUT /api/v1/customers/42 {"anonymous_id":"a"}', None),
    (
        Track(id="42", name="Order Päid", attributes={"total": 49.5}, timestamp=NOW, event_id=ULID),
        f'POST /api/v1/customers/42/events {{"name":"Order Päid","type":"event","id":"{ULID}","timestamp":1767225600,'
        '"data":{"total":49.5}}',
        f'{{{N42},"action":"event","name":"Order Päid","id":"{ULID}","timestamp":1767225600,'
        '"attributes":{"total":49.5}}',
    ),
    (
        Track(anonymous_id="a/1", name="Seen"),
        'POST /api/v1/events {"name":"Seen","type":"event","data":{},"anonymous_id":"a/1"}',
        '{"type":"person","identifiers":{"anonymous_id":"a/1"},"action":"event","name":"Seen","attributes":{}}',
    ),
    (
        Track(phone="+4930123", anonymous_id="a", name="Seen", event_id=ULID),
        None,
        f'{{{PHONE},"action":"event","name":"Seen","id":"{ULID}","attributes":{{}}}}',
    ),
    (
        Track(anonymous=True, name="Invited", event_id=ULID, attributes={"recipient": "ann@example.com"}),
        f'POST /api/v1/events {{"name":"Invited","type":"event","id":"{ULID}",'
        '"data":{"recipient":"ann@example.com"}}',
        None,
    ),
    (
        Page(id="42", url="https://example.com/?a=1", timestamp=NOW),
        'POST /api/v1/customers/42/events {"name":"https://example.com/?a=1","type":"page","timestamp":1767225600,'
        '"data":{}}',
        f'{{{N42},"action":"page","name":"https://example.com/?a=1","timestamp":1767225600,"attributes":{{}}}}',
    ),
    (
        Screen(id="42", name="Home", attributes={"a": [1]}),
        'POST /api/v1/customers/42/events {"name":"Home","type":"screen","data":{"a":[1]}}',
        f'{{{N42},"action":"screen","name":"Home","attributes":{{"a":[1]}}}}',
    ),
    (Destroy(phone="+4930123"), None, f'{{{PHONE},"action":"delete"}}'),
    (Destroy(id="42"), "DELETE /api/v1/customers/42", f'{{{N42},"action":"delete"}}'),
    (
        Destroy(email="ann@example.com"),
        "DELETE /api/v1/customers/ann%40example.com",
        f'{{"type":"person",{ANN},"action":"delete"}}',
    ),
    (Suppress(id="42"), "POST /api/v1/customers/42/suppress {}", f'{{{N42},"action":"suppress"}}'),
    (
        Unsuppress(email="ann@example.com"),
        "POST /api/v1/customers/ann%40example.com/unsuppress {}",
        f'{{"type":"person",{ANN},"action":"unsuppress"}}',
    ),
    (
        Merge(into={"id": "42"}, from_={"cio_id": "cio_a3"}),
        'POST /api/v1/merge_customers {"primary":{"id":"42"},"secondary":{"cio_id":"a3"}}',
        '{"type":"person","action":"merge","primary":{"id":"42"},"secondary":{"cio_id":"a3"}}',
    ),
    (
        Merge(into={"email": "a@b.c"}, from_={"id": "ann@old.example"}),
        'POST /api/v1/merge_customers {"primary":{"email":"a@b.c"},"secondary":{"id":"ann@old.example"}}',
        '{"type":"person","action":"merge","primary":{"email":"a@b.c"},"secondary":{"id":"ann@old.example"}}',
    ),
    (
        AddDevice(id="42", token="t/1", platform="ios", last_used=NOW, attributes={"app_version": "2"}),
        'PUT /api/v1/customers/42/devices {"device":{"id":"t/1","platform":"ios","last_used":1767225600,'
        '"attributes":{"app_version":"2"}}}',
        f'{{{N42},"action":"add_device","device":{{"token":"t/1","platform":"ios","last_used":1767225600,'
        '"attributes":{"app_version":"2"}}}',
    ),
    (
        AddDevice(id="42", token="t", platform="android"),
        'PUT /api/v1/customers/42/devices {"device":{"id":"t","platform":"android"}}',
        f'{{{N42},"action":"add_device","device":{{"token":"t","platform":"android"}}}}',
    ),
    (
        DeleteDevice(id="42", token="t/1"),
        "DELETE /api/v1/customers/42/devices/t%2F1",
        f'{{{N42},"action":"delete_device","device":{{"token":"t/1"}}}}',
    ),
    (
        IdentifyObject(
            **ACME,
            attributes={"name": "Acme"},
            people=[{"id": "42", "attributes": {"role": "owner"}}, {"email": "ann@example.com"}],
        ),
        None,
        f'{{"type":"object",{OBJECT},"action":"identify","attributes":{{"name":"Acme"}},"cio_relationships":'
        f'[{{"identifiers":{{"id":"42"}},{OWNER}}},{{{ANN}}}]}}',
    ),
    (
        IdentifyObject(cio_object_id="obb7", people=[{"anonymous_id": "a/1", "attributes": {"role": "owner"}}]),
        None,
        '{"type":"object","identifiers":{"cio_object_id":"obb7"},"action":"identify_anonymous","attributes":{},'
        f'"cio_relationships":[{{"identifiers":{{"anonymous_id":"a/1"}},{OWNER}}}]}}',
    ),
    (
        IdentifyAnonymous(**ACME, anonymous_id="a/1", attributes={"name": "Acme"}),
        None,
        f'{{"type":"object",{OBJECT},"action":"identify_anonymous","attributes":{{"name":"Acme"}},'
        '"cio_relationships":[{"identifiers":{"anonymous_id":"a/1"}}]}',
    ),
    (DeleteObject(**ACME), None, f'{{"type":"object",{OBJECT},"action":"delete"}}'),
    (
        AddRelationships(id="42", objects=[{**ACME, "attributes": {"role": "owner"}}]),
        None,
        f'{{{N42},"action":"add_relationships","cio_relationships":[{{{OBJECT},{OWNER}}}]}}',
    ),
    (
        DeleteRelationships(id="ann@example.com", objects=[ACME, {"cio_object_id": "obb7"}]),
        None,
        '{"type":"person","identifiers":{"id":"ann@example.com"},"action":"delete_relationships","cio_relationships":'
        f'[{{{OBJECT}}},{{"identifiers":{{"cio_object_id":"obb7"}}}}]}}',
    ),
    (
        SubmitForm(form_id="sign up", email="ann@example.com", attributes={"color": "red"}),
        'POST /api/v1/forms/sign%20up/submit {"data":{"color":"red","email":"ann@example.com"}}',
        None,
    ),
    (SubmitForm(form_id="1", id="a@b.c"), 'POST /api/v1/forms/1/submit {"data":{"id":"a@b.c"}}', None),
    (SubmitForm(form_id="1", id="cio_x"), 'POST /api/v1/forms/1/submit {"data":{"id":"cio_x"}}', None),
    (REGION, "GET /api/v1/accounts/region", None),
]


@pytest.mark.parametrize(("call", "request_text", "item"), TABLE)
def test_each_call_has_one_exact_request_and_one_exact_item(
    call: Call, request_text: str | None, item: str | None
) -> None:
    assert call.request() == http(request_text or f"POST /api/v2/entity {item}")
    assert call.item() == (None if item is None else item.encode())


def test_no_call_is_missing_in_the_table() -> None:
    assert {call.name_of_call for call, _, _ in TABLE} == set(CALLS)


def test_items_make_a_batch_of_the_expected_size() -> None:
    items = [Destroy(id=str(number)).item() or b"" for number in range(3)]
    request = wire.batch(items)
    assert request == http('POST /api/v2/batch {"batch":[' + b",".join(items).decode() + "]}")
    assert len(request.body or b"") == wire.batch_size([len(item) for item in items])
    assert wire.batch_size([]) == len(wire.batch([]).body or b"")


def test_a_call_that_is_larger_than_an_item_has_a_single_request_only() -> None:
    def track(length: int) -> Track:
        return Track(id="42", name="x", attributes={"a": "v" * length})

    room = wire.MAX_ITEM_BYTES - len(track(0).item() or b"")
    assert track(room).item() is not None
    assert track(room + 1).item() is None
    assert b"vvv" in (track(room + 1).request().body or b"")


def test_a_form_with_files_is_a_multipart_body_with_the_same_bytes_each_time() -> None:
    call = RawRequest(path="/v1/x", form={"a": ["1", 2]}, files={"f": b"\xff"}, file_names={"f": 'ü"\n.bin'})
    request = call.request()
    content_type, _, boundary = request.headers["Content-Type"].partition("; boundary=")
    text = f"""--{boundary}
Content-Disposition: form-data; name="a"

1
--{boundary}
Content-Disposition: form-data; name="a"

2
--{boundary}
Content-Disposition: form-data; name="f"; filename="ü%22%0A.bin"
Content-Type: application/octet-stream

?
--{boundary}--
"""
    assert request.body == text.replace("\n", "\r\n").encode().replace(b"?", b"\xff")
    assert content_type == "multipart/form-data"
    assert call.request() == request


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
        (Destroy(id="ann@example.com"), Address(kind="id", value="ann@example.com")),
        (Destroy(id="cio_a3"), Address(kind="id", value="cio_a3")),
        (Destroy(email="\u200bAnn@example.com\u00a0"), Address(kind="email", value="Ann@example.com")),
        (Destroy(phone="+4930123", email="a@b.c"), Address(kind="email", value="a@b.c")),
        (Track(phone=" +4930123", anonymous_id="a", name="x"), Address(kind="phone", value="+4930123")),
        (Destroy(cio_id="cio_a3", id="42"), Address(kind="cio_id", value="a3")),
        (Destroy(id="42", email="ann@example.com"), Address(kind="id", value="42")),
        (Destroy(id="", email="ann@example.com"), Address(kind="email", value="ann@example.com")),
        (Track(anonymous_id="a", name="x"), Address(kind="anonymous_id", value="a")),
        (Track(anonymous_id="a", id="42", name="x"), Address(kind="id", value="42")),
        (Destroy(), None),
    ],
)
def test_the_address_is_the_first_identifier_and_its_kind_is_the_key(call: Call, expected: Address | None) -> None:
    assert call.address() == expected


@pytest.mark.parametrize(
    ("identifiers", "unknown", "id_only", "id_and_email"),
    [
        ({"id": "42"}, *['{"id":"42"}'] * 3),
        ({"cio_id": "a3"}, *['{"cio_id":"a3"}'] * 3),
        ({"phone": "+4930123"}, *['{"phone":"+4930123"}'] * 3),
        ({"email": "Ann@b.c"}, '{"email":"Ann@b.c"}', '{"id":"Ann@b.c"}', '{"email":"Ann@b.c"}'),
        ({"id": "Ann@b.c"}, None, '{"id":"Ann@b.c"}', '{"email":"Ann@b.c"}'),
        ({"id": "user@1"}, None, '{"id":"user@1"}', '{"email":"user@1"}'),
        ({"id": "@ann"}, None, '{"id":"@ann"}', None),
        ({"id": "cio_club_42"}, None, None, None),
    ],
)
def test_an_item_names_whom_the_workspace_reads_in_the_path(
    identifiers: dict[str, str], unknown: str | None, id_only: str | None, id_and_email: str | None
) -> None:
    call = Destroy(**cast("Any", identifiers))
    for workspace, expected in ((None, unknown), ("id", id_only), ("id,email", id_and_email)):
        item = call.item(cast("WorkspaceIdentifiers | None", workspace))
        operation = None if expected is None else f'{{"type":"person","identifiers":{expected},"action":"delete"}}'
        assert (item and item.decode()) == operation
    named = AddRelationships(**identifiers, objects=[ACME])
    assert named.item("id") == named.item("id,email") == named.item() == (named.request().body or b"")


def test_a_stored_call_of_a_version_that_took_anything_for_an_email_is_sent_as_it_was() -> None:
    for value, path in (("42", "42"), ("cio_a3", "cio_a3"), (" Ann@b.c", "Ann%40b.c")):
        call = from_json({"call": "destroy", "email": value})
        assert call.request().path == f"/api/v1/customers/{path}"


def lanes(call: Call, connection: str = "default") -> set[int]:
    return {*call.lanes(connection)}


def test_emails_share_a_lane_in_any_case_and_ids_do_not() -> None:
    ann = Destroy(id="ann")
    assert lanes(Destroy(email="Ann@Example.com ")) == lanes(Destroy(id="ann@example.com"))
    assert lanes(Destroy(cio_id="a3")) == lanes(Destroy(id="cio_a3"))
    assert lanes(Destroy(phone="+4930123")) != lanes(Destroy(id="+4930123"))
    invited = Track(anonymous=True, name="x", attributes={"recipient": "Ann@example.com"})
    assert lanes(invited) == lanes(Destroy(email="ann@example.com"))
    assert len(lanes(ann) | lanes(ann, "eu-prod") | lanes(Destroy(id="Ann"))) == 3
    assert -(2**63) <= min(lanes(ann)) < 2**63


def test_a_merge_has_the_lanes_of_both_people_an_object_its_own_and_a_raw_request_none() -> None:
    both = lanes(Destroy(id="42")) | lanes(Destroy(email="a@b.c"))
    assert lanes(Merge(into={"id": "42"}, from_={"email": "a@b.c"})) == both
    assert lanes(IdentifyObject(**ACME, people=[{"id": "42"}])) == lanes(DeleteObject(**ACME))
    assert lanes(IdentifyAnonymous(**ACME, anonymous_id="a")) == lanes(DeleteObject(**ACME))
    objects = (
        DeleteObject(**ACME),
        DeleteObject(**{**ACME, "object_type_id": "2"}),
        DeleteObject(cio_object_id="acme"),
    )
    assert len(set().union(*map(lanes, objects))) == 3
    assert lanes(REGION) == set()


@pytest.mark.parametrize(
    "call",
    [*(call for call, _, _ in TABLE), Identify(id="42", attributes={"a": [1, {"b": None}]}), Destroy(cio_id="a")],
)
def test_a_stored_call_is_read_back_as_the_same_call(call: Call) -> None:
    assert from_json(json.loads(json.dumps(as_json(call)))) == call


def test_the_stored_form_of_a_call_leaves_out_the_defaults() -> None:
    assert as_json(RawRequest(path="/v1/x")) == {"call": "request", "path": "/v1/x"}
    call = RawRequest(path="/v1/x", data={}, response_type="text")
    assert as_json(call) == {"call": "request", "path": "/v1/x", "data": {}, "response_type": "text"}
