"""What the stand-in accepts and refuses, and the state that operations leave; without connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.trackapi import ParsedRequest, Reply, TrackAPI

ULID = "01JABCDEFGHJKMNPQRSTVWXYZ0"
NOW = 1_700_000_000
ACME = {"object_type_id": "1", "object_id": "acme"}
TO_ACME = {"identifiers": ACME, "relationship_attributes": {"role": "admin"}}
ADA, BOB = {"id": "ada"}, {"id": "bob"}
IOS = {"platform": "ios"}
MANY = {f"a{number}": 1 for number in range(300)}
NO_DATA: list[Any] = [None, [], {"a": "x" * 99_993}]
NO_ATTRIBUTES: list[Any] = [[], MANY | {"more": 1}]
LARGE_EVENT = {"name": "n" * 100, "id": ULID, "timestamp": 10**11 - 1, "data": {"a": "x" * 99_992}}

Body: TypeAlias = dict[str, Any]


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI() as server:
        yield server


def person(action: str, identifiers: Body | None = None, **keys: Any) -> Body:
    return {"type": "person", "action": action, "identifiers": identifiers or ADA, **keys}


def object_(action: str, **keys: Any) -> Body:
    return {"type": "object", "action": action, "identifiers": ACME, **keys}


def merge(primary: Body, secondary: Body) -> Body:
    return {"type": "person", "action": "merge", "primary": primary, "secondary": secondary}


def respond(api: TrackAPI, method: str, target: str, body: Any) -> Reply:
    headers = {"authorization": "Basic c2l0ZTprZXk=", "content-type": "application/json"}
    data = b"" if body is None else dump(body)
    return api.respond(ParsedRequest(number=1, method=method, target=target.encode(), headers=headers, body=data))


def v1(api: TrackAPI, request: str, body: Any) -> Reply:
    """Send a request of v1, as ``PUT customers/ada``."""
    method, target = request.split(" ")
    return respond(api, method, f"/api/v1/{target}", body)


def entity(api: TrackAPI, operation: Body) -> Reply:
    return respond(api, "POST", "/api/v2/entity", operation)


def batch(api: TrackAPI, *operations: Body) -> Reply:
    return respond(api, "POST", "/api/v2/batch", {"batch": operations})


def dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def related(relationships: Any, action: str = "add_relationships") -> Body:
    return {"cio_relationships": {"action": action, "relationships": relationships}}


# Requests of v1 with bodies of which each is accepted alone, and with bodies of which each is refused.
ACCEPTED: list[tuple[str, list[Any]]] = [
    ("PUT customers/ada", [{}, MANY | {"_timestamp": NOW}, {"n" * 150: "v" * 1000, "created_at": 10**9}]),
    ("PUT customers/ada", [{"tags": ["x" * 2000], "address": {"city": "Graz"}, "gone": None, "email": None}]),
    ("PUT customers/ada", [{"id": "ada", "email": "ada@example.com", "anonymous_id": "a"}]),
    ("PUT customers/ada%40example.com", [{"email": "ADA@example.com"}]),
    ("PUT customers/ada", [related([TO_ACME]), related([{"identifiers": ACME}], "delete_relationships")]),
    ("PUT customers/ada", [{"cio_subscription_preferences": {"topics": {"topic_1": True}}}]),
    ("PUT customers/ada", [{"cio_subscription_preferences.topics.topic_7": True}]),
    ("PUT customers/" + "%C3%BC" * 75, [{}]),
    ("PUT customers/cio_" + "a" * 150, [{}]),
    ("POST customers/ada/events", [LARGE_EVENT, {"name": "n" * 200, "type": "page"}]),
    ("POST events", [{"name": "Seen", "anonymous_id": "a"}, {"name": "Invite", "data": {"recipient": "a@b.c"}}]),
    ("PUT customers/ada/devices", [{"device": {"id": "t" * 1000, "platform": "android", "last_used": NOW}}]),
    ("PUT customers/ada/devices", [{"device": {"id": "t", **IOS, "attributes": {"a": "1"}}}]),
    ("DELETE customers/ada/devices/t%3A1%2F2", [None]),
    ("POST customers/ada/suppress", [None, {}]),
    ("POST customers/cio_1/unsuppress", [None, {}]),
    ("POST merge_customers", [{"primary": {"id": "1"}, "secondary": {"email": "ada@example.com"}}]),
    ("POST merge_customers", [{"primary": {"cio_id": "a1"}, "secondary": {"id": "a1"}}]),
    ("POST forms/contact%20us/submit", [{"data": {"id": "1", "size": "42"}}, {"data": {"email": "ada@b.c"}}]),
    ("POST segments/7/add_customers", [{"ids": ["1"]}]),
    ("POST segments/7/add_customers?id_type=id", [{"ids": [str(number) for number in range(1000)]}]),
    ("POST segments/7/remove_customers?id_type=email", [{"ids": ["ada@example.com"]}]),
]
REFUSED: list[tuple[str, list[Any]]] = [
    ("PUT customers/ada", [MANY | {"more": 1}, {"n" * 151: 1}, {"ü" * 76: 1}, {" ": 1}]),
    ("PUT customers/ada", [{"bio": "v" * 1001}, {"bio": "ü" * 501}, {"_update": "true"}]),
    ("PUT customers/ada", [{"_timestamp": NOW * 1000}, {"_timestamp": "1700000000"}]),
    ("PUT customers/ada", [{"created_at": 1_700_000_000.0}, {"created_at": True}]),
    ("PUT customers/ada", [{"id": 42}, {"id": ""}, {"id": "43"}]),
    ("PUT customers/ada%40example.com", [{"email": "bob@example.com"}]),
    ("PUT customers/ada", [{"cio_relationships": [TO_ACME]}, related([TO_ACME], "relate"), related([])]),
    ("PUT customers/ada", [{"cio_relationships": {"relationships": [TO_ACME]}}]),
    ("PUT customers/ada", [{"cio_subscription_preferences": {"topic_1": True}}]),
    ("PUT customers/ada", [{"cio_subscription_preferences": {"topics": {"topic_1": "yes"}}}]),
    ("PUT customers/ada", [{"cio_subscription_preferences.topics.news": True}]),
    ("POST customers/ada/events", [{}, {"name": "  "}, {"name": 7}, {"name": "n" * 101}]),
    ("POST customers/ada/events", [{"name": "n" * 101, "type": "screen"}, {"name": "n" * 1001, "type": "page"}]),
    ("POST customers/ada/events", [{"name": "a", "type": "identify"}, {"name": "a", "type": None}]),
    ("POST customers/ada/events", [{"name": "a", "attributes": {}}, {"name": "a", "anonymous_id": "a"}]),
    (
        "POST customers/ada/events",
        [{"name": "a", "id": id_} for id_ in ("evt_1", "8" + ULID[1:], ULID[:-1] + "U", None)],
    ),
    ("POST customers/ada/events", [{"name": "a", "timestamp": at} for at in (NOW * 1000, 10**9 - 1, "2026", None)]),
    ("POST customers/ada/events", [{"name": "a", "data": data} for data in NO_DATA]),
    ("POST events", [{"name": "a"}, {"name": "a", "data": {"a": 1}}, {"name": "a", "anonymous_id": ""}]),
    ("PUT customers/ada/devices", [{"device": {"id": "t", **IOS}, "more": 1}, {"id": "t", **IOS}]),
    ("DELETE customers/ada/devices/t", [{}]),
    ("DELETE customers/ada/devices/%20", [None]),
    ("DELETE customers/ada", [{}]),
    ("POST customers/ada/suppress", [{"suppress": True}, []]),
    ("POST customers/ada/suppress?id_type=id", [{}]),
    ("POST merge_customers", [{}, {"primary": ADA}, {"primary": ADA, "secondary": BOB, "more": 1}]),
    ("POST merge_customers", [{"primary": ADA, "secondary": ADA}]),
    ("POST merge_customers", [{"primary": {"email": "a@b.c"}, "secondary": {"email": "A@B.C"}}]),
    (
        "POST merge_customers",
        [{"primary": ADA, "secondary": bad} for bad in ({}, {"id": 1}, "bob", ADA | {"email": "a"})],
    ),
    (
        "POST merge_customers",
        [{"primary": ADA, "secondary": bad} for bad in ({"cio_id": "cio_1"}, {"anonymous_id": "1"})],
    ),
    ("POST forms/7/submit", [{"data": {"size": "42"}}, {"data": {"id": "1", "email": "a@b.c"}}, {"data": {"id": ""}}]),
    ("POST forms/7/submit", [{"data": {"id": "1" * 151}}, {"data": {"email": "ada"}}, {"data": []}, {"id": "1"}]),
    ("POST forms/7/submit", [{"data": {"id": "1", **more}} for more in ({"a": 42}, {"a": None}, {"form_name": "a"})]),
    ("POST forms/%20/submit", [{"data": {"id": "1"}}]),
    ("POST segments/7/add_customers", [{"ids": []}, {"ids": "1"}, {"ids": [1]}, {"ids": [""]}, {"ids": ["1"] * 1001}]),
    ("POST segments/7/add_customers", [{"ids": ["1"], "id_type": "id"}]),
    ("POST segments/vip/add_customers", [{"ids": ["1"]}]),
    ("POST segments/7/add_customers?id_type=email", [{"ids": ["ada"]}]),
    ("POST segments/7/add_customers?id_type=cio_id", [{"ids": ["cio_1"]}]),
    *((f"POST segments/7/add_customers?{query}", [{"ids": ["1"]}]) for query in ("id_type=phone", "", "type=id")),
]


@pytest.mark.parametrize(("request_line", "bodies"), ACCEPTED)
def test_v1_accepts(api: TrackAPI, request_line: str, bodies: list[Any]) -> None:
    for body in bodies:
        assert v1(api, request_line, body).status in (200, 204), body
    assert api.refused == []


@pytest.mark.parametrize(("request_line", "bodies"), REFUSED)
def test_v1_refuses(api: TrackAPI, request_line: str, bodies: list[Any]) -> None:
    for body in bodies:
        assert v1(api, request_line, body).status == 400, body
    assert (api.state["log"], len(api.refused)) == ({}, len(bodies))


@pytest.mark.parametrize(
    "device",
    [
        *(None, {}, IOS, {"id": "t"}, {"token": "t", **IOS}, {"id": " ", **IOS}, {"id": 7, **IOS}),
        *({"id": "t" * 1001, **IOS}, {"id": "t", "platform": "iOS"}, {"id": "t", "platform": ["ios"]}),
        *({"id": "t", **IOS, "last_used": NOW * 1000}, {"id": "t", **IOS, "last_used": None}),
        *({"id": "t", **IOS, "model": "x"}, {"id": "t", **IOS, "attributes": None}),
        *({"id": "t", **IOS, "attributes": bad} for bad in ({"a": 1}, {"a": "x" * 1001}, {"a" * 151: "x"})),
    ],
)
def test_both_versions_refuse_a_device_that_would_be_lost(api: TrackAPI, device: Any) -> None:
    assert v1(api, "PUT customers/ada/devices", {"device": device}).status == 400
    renamed = {{"id": "token", "token": "id"}.get(key, key): device[key] for key in device} if device else device
    assert entity(api, person("add_device", device=renamed)).status == 400
    assert api.state["log"] == {}


@pytest.mark.parametrize(
    "operation",
    [
        person("identify"),
        person("identify", attributes={"_update": True}, timestamp=NOW, cio_relationships=[TO_ACME]),
        person("identify", {"email": "Ada@Example.com"}, attributes={"email": "ada@example.com"}),
        person("identify", {"cio_id": "a1"}, attributes=MANY, timestamp=NOW),
        person("identify", {"id": "ü" * 75}, attributes={"created_at": NOW}),
        person("event", name="Paid", id=ULID, timestamp=NOW, attributes={"total": 4.5}),
        person("event", {"anonymous_id": "a"}, name="n" * 100),
        person("page", name="https://example.com/" + "a" * 200),
        person("screen", name="Home"),
        *(person(action) for action in ("delete", "suppress", "unsuppress")),
        person("add_device", device={"token": "t", **IOS, "last_used": NOW, "attributes": {"a": "1"}}),
        person("delete_device", device={"token": "t"}),
        person("add_relationships", cio_relationships=[TO_ACME, {"identifiers": ACME}]),
        person("delete_relationships", cio_relationships=[{"identifiers": ACME}]),
        merge(ADA, {"cio_id": "a1"}),
        object_("identify"),
        object_("identify", attributes={"name": "Acme", "gone": None}, cio_relationships=[{"identifiers": ADA}]),
        object_("identify_anonymous", cio_relationships=[{"identifiers": {"anonymous_id": "a"}}]),
        object_("delete"),
        object_("delete") | {"identifiers": {"cio_object_id": "obb7"}},
        person("identify", {"phone": "+4912345"}),
        person("event", {"phone": "+4912345"}, name="Seen"),
    ],
)
def test_v2_accepts(api: TrackAPI, operation: Body) -> None:
    assert entity(api, operation) == batch(api, operation)
    assert (api.refused, api.singles, api.batches) == ([], 1, [1])


BAD_ACME = {"identifiers": {**ACME, "object_id": 7}}
V2_REFUSED: list[tuple[str, list[Body]]] = [
    ("identifiers", [person("delete", {"id": "1", "email": "a@b.c"}), person("delete", {"fax": "+4912345"})]),
    (
        "identifiers",
        [person("delete", {"anonymous_id": "1"}), person("delete", ACME), merge(ADA, BOB) | {"identifiers": ADA}],
    ),
    ("identifiers", [person("delete") | {"identifiers": bad} for bad in (None, "ada")]),
    ("identifiers", [object_("delete") | {"identifiers": bad} for bad in (ADA, {"object_id": "1"})]),
    ("identifiers.cio_id", [person("delete", {"cio_id": "cio_1"})]),
    ("identifiers.email", [person("delete", {"email": "ada"})]),
    ("identifiers.phone", [person("delete", {"phone": bad}) for bad in ("4912345", "+49 12345", "+1234567890123456")]),
    ("identifiers.id", [person("delete", {"id": bad}) for bad in (7, " ", "ü" * 76)]),
    ("identifiers.anonymous_id", [person("event", {"anonymous_id": ""}, name="Seen")]),
    ("identifiers.object_type_id", [object_("delete") | {"identifiers": {**ACME, "object_type_id": 1}}]),
    ("identifiers.object_id", [object_("delete") | {"identifiers": {**ACME, "object_id": "a" * 151}}]),
    ("attributes", [person("delete", attributes={}), person("identify", attributes=None)]),
    (
        "attributes",
        [person("identify", attributes=bad) for bad in (MANY | {"more": 1}, {"n" * 151: 1}, {"_timestamp": NOW})],
    ),
    ("attributes", [person("identify", attributes={"cio_relationships": [TO_ACME]})]),
    ("attributes", [person("event", name="Paid", attributes=[])]),
    ("attributes", [object_("identify", attributes=bad) for bad in NO_ATTRIBUTES]),
    ("attributes.bio", [make("identify", attributes={"bio": "x" * 1001}) for make in (person, object_)]),
    ("attributes.id", [person("identify", attributes={"id": "bob"})]),
    ("attributes._update", [person("identify", attributes={"_update": "true"})]),
    ("attributes.created_at", [person("identify", attributes={"created_at": "now"})]),
    ("timestamp", [person("identify", timestamp=NOW * 1000), person("identify", timestamp=None)]),
    ("timestamp", [person("event", name="Paid", timestamp="2026-01-01"), object_("identify", timestamp=NOW)]),
    ("plan", [person("identify", plan="pro")]),
    ("name", [person("event"), *(person("event", name=bad) for bad in (" ", "n" * 101))]),
    ("name", [person("screen", name="n" * 101), person("page", name="n" * 1001)]),
    ("data", [person("event", name="Paid", data={})]),
    ("id", [person("event", name="Paid", id="evt_1")]),
    ("device", [person("delete_device")]),
    ("device.platform", [person("delete_device", device={"token": "t", **IOS})]),
    ("device.token", [person("delete_device", device={"id": "t"})]),
    ("cio_relationships", [person("add_relationships"), person("add_relationships", cio_relationships=[])]),
    ("cio_relationships", [person("identify", **related([TO_ACME]))]),
    ("cio_relationships[0]", [person("add_relationships", cio_relationships=["acme"])]),
    ("cio_relationships[1].identifiers", [person("add_relationships", cio_relationships=[TO_ACME, {}])]),
    ("cio_relationships[0].identifiers", [person("add_relationships", cio_relationships=[{"identifiers": ADA}])]),
    ("cio_relationships[0].identifiers", [object_("identify", cio_relationships=[TO_ACME])]),
    ("cio_relationships[0].identifiers", [object_("identify_anonymous", cio_relationships=[{"identifiers": ADA}])]),
    ("cio_relationships[0].identifiers.object_id", [person("add_relationships", cio_relationships=[BAD_ACME])]),
    (
        "cio_relationships[0].relationship_attributes",
        [person("add_relationships", cio_relationships=[{**TO_ACME, "relationship_attributes": []}])],
    ),
    (
        "cio_relationships[0].attributes",
        [person("add_relationships", cio_relationships=[{**TO_ACME, "attributes": {}}])],
    ),
    ("secondary", [merge(ADA, ADA), {"type": "person", "action": "merge", "primary": ADA}]),
    ("secondary.cio_id", [merge(ADA, {"cio_id": "cio_1"})]),
    ("request", [person("event", name="Paid", attributes={"a": "x" * 32_000})]),
]


@pytest.mark.parametrize(("field", "operation"), [(field, bad) for field, several in V2_REFUSED for bad in several])
def test_v2_refuses_and_names_the_field(api: TrackAPI, operation: Body, field: str) -> None:
    single, batched = entity(api, operation), batch(api, operation, person("delete", BOB))
    (error,) = json.loads(batched.body)["errors"]
    assert (single.status, batched.status, error.pop("batch_index"), error["field"]) == (400, 207, 0, field)
    assert [refusal.status for refusal in api.refused] == [400, 207]
    assert list(api.state["log"]) == ["id:bob"]
    if field != "request":  # too large an entity is not even read
        assert json.loads(single.body) == {"errors": [error]}


@pytest.mark.parametrize("attributes", [{"a": "x" * 31_903}, {"a": "ü" * 15_951 + "x"}])
def test_an_operation_may_have_32000_bytes(api: TrackAPI, attributes: Body) -> None:
    operation = person("event", name="Paid", attributes=attributes)
    longer = person("event", name="Paid!", attributes=attributes)
    assert len(dump(operation)) == 32_000
    assert [entity(api, operation).status, entity(api, longer).status] == [200, 400]
    assert [batch(api, operation).status, batch(api, longer).status] == [200, 207]


# What operations leave behind

EVENT: Body = {"name": "Paid", "id": ULID, "timestamp": NOW}
DEVICE: Body = {**IOS, "last_used": NOW, "attributes": {"a": "1"}}
#: The same operations as requests of v1 and as operations of v2.
PAIRS: list[tuple[str, Body | None, Body]] = [
    (
        "PUT customers/ada",
        {"plan": "pro", "tags": ["a"], "_timestamp": NOW, **related([TO_ACME])},
        person("identify", attributes={"plan": "pro", "tags": ["a"]}, timestamp=NOW, cio_relationships=[TO_ACME]),
    ),
    (
        "PUT customers/bob",
        {"plan": "free", "seats": 1},
        person("identify", BOB, attributes={"plan": "free", "seats": 1}),
    ),
    ("PUT customers/Eve%40b.c", {}, person("identify", {"email": "eve@B.c"})),
    ("PUT customers/cio_9", {"_update": True}, person("identify", {"cio_id": "9"}, attributes={"_update": True})),
    (
        "POST customers/ada/events",
        {**EVENT, "type": "event", "data": {"total": 1}},
        person("event", **EVENT, attributes={"total": 1}),
    ),
    ("POST customers/ada/events", {"name": " Seen "}, person("event", name="Seen", attributes={})),
    ("POST customers/ada/events", {"name": "/", "type": "page"}, person("page", name="/")),
    ("POST customers/ada/events", {"name": "Home", "type": "screen"}, person("screen", name="Home")),
    ("POST events", {"name": "Seen", "anonymous_id": "a"}, person("event", {"anonymous_id": "a"}, name="Seen")),
    (
        "PUT customers/bob/devices",
        {"device": {"id": "t", **DEVICE}},
        person("add_device", BOB, device={"token": "t", **DEVICE}),
    ),
    ("DELETE customers/bob/devices/u", None, person("delete_device", BOB, device={"token": "u"})),
    ("POST merge_customers", {"primary": ADA, "secondary": BOB}, merge(ADA, BOB)),
    ("DELETE customers/Eve%40b.c", None, person("delete", {"email": "eve@b.c"})),
    ("POST customers/cio_9/suppress", {}, person("suppress", {"cio_id": "9"})),
    ("PUT customers/cio_9", {"plan": "pro"}, person("identify", {"cio_id": "9"}, attributes={"plan": "pro"})),
    ("POST customers/eve/suppress", None, person("suppress", {"id": "eve"})),
    ("POST customers/eve/unsuppress", None, person("unsuppress", {"id": "eve"})),
    ("PUT customers/eve", {"plan": "new"}, person("identify", {"id": "eve"}, attributes={"plan": "new"})),
]


@pytest.mark.parametrize("size", [1, 3, len(PAIRS)])
def test_the_same_operations_leave_the_same_state_singly_and_in_batches(size: int) -> None:
    with TrackAPI() as first, TrackAPI() as second, TrackAPI() as batched:
        for request_line, body, operation in PAIRS:
            assert v1(first, request_line, body).status == 200
            assert entity(second, operation).status == 200
        for start in range(0, len(PAIRS), size):
            assert batch(batched, *(operation for *_, operation in PAIRS[start : start + size])).status == 200
        assert first.state == second.state == batched.state
        assert first.count_applied() == second.count_applied() == batched.count_applied() == len(PAIRS) - 2
        assert (first.singles, first.batches) == (second.singles, second.batches) == (len(PAIRS), [])
        assert (batched.singles, sum(batched.batches), max(batched.batches)) == (0, len(PAIRS), size)


def test_the_state_holds_everything(api: TrackAPI) -> None:
    for request_line, body, _ in PAIRS:
        v1(api, request_line, body)
    v1(api, "POST forms/7/submit", {"data": {"id": "eve"}})
    state = api.state
    log = state.pop("log")
    assert state == {
        "people": {"id:ada": {"plan": "pro", "tags": ["a"], "seats": 1}, "id:eve": {"plan": "new"}},
        "suppressed": {"cio_id:9"},
    }
    assert {subject: " ".join(kind for kind, _ in operations) for subject, operations in log.items()} == {
        "id:ada": "identify event event page screen merge",
        "id:bob": "identify add_device delete_device merge",
        "email:eve@b.c": "identify delete",
        "anonymous_id:a": "event",
        "cio_id:9": "suppress",
        "id:eve": "suppress unsuppress identify form",
    }
    assert log["id:eve"][-1] == ("form", {"form_id": "7", "data": {"id": "eve"}})


@pytest.mark.parametrize(
    ("segment", "key"),
    [
        *(("42", "id:42"), ("Ada%40Example.com", "email:ada@example.com"), ("cio_0a1b", "cio_id:0a1b")),
        *(("cio_", "id:cio_"), ("%2B4912345", "id:+4912345"), ("a%2Fb%20c", "id:a/b c"), ("j%C3%BCrgen", "id:jürgen")),
        *(("%252E%252E", "id:%2E%2E"), ("a%40b%20c", "id:a@b c")),
    ],
)
def test_the_form_of_an_identifier_in_a_path_decides_its_kind(api: TrackAPI, segment: str, key: str) -> None:
    assert v1(api, f"PUT customers/{segment}", {"plan": "pro"}).status == 200
    assert list(api.people) == [key]


def test_a_workspace_without_emails_reads_a_path_as_an_id_and_refuses_an_email_in_a_body() -> None:
    with TrackAPI(identifiers=("id",)) as api:
        assert v1(api, "PUT customers/Ada%40Example.com", {"plan": "pro"}).status == 200
        assert v1(api, "PUT customers/cio_9", {}).status == 200
        assert entity(api, person("delete", {"email": "ada@example.com"})).status == 400
        assert batch(api, person("delete", {"email": "ada@example.com"})).status == 207
        assert list(api.people) == ["id:Ada@Example.com", "cio_id:9"]


def test_attributes_accumulate_and_an_update_creates_nobody(api: TrackAPI) -> None:
    v1(api, "PUT customers/42", {"plan": "pro", "_update": True})
    assert (api.people, api.applied("42")) == ({}, [])
    for attributes in ({"plan": "free", "seats": 1}, {"seats": 2, "_timestamp": NOW}, {"plan": "pro", "_update": True}):
        v1(api, "PUT customers/42", attributes)
    assert api.people == {"id:42": {"plan": "pro", "seats": 2}}
    applied = api.applied("42")
    assert applied[1].body == {"seats": 2, "_timestamp": NOW}
    assert applied[0].at <= applied[1].at <= applied[2].at


def test_an_operation_of_v2_is_remembered_in_the_form_of_v1(api: TrackAPI) -> None:
    batch(api, person("event", **EVENT, attributes={"total": 1}), person("delete_device", device={"token": "t"}))
    assert [(operation.kind, operation.body) for operation in api.applied("ada")] == [
        ("event", {**EVENT, "type": "event", "data": {"total": 1}}),
        ("delete_device", {"device": {"id": "t"}}),
    ]


def test_an_event_is_applied_once_in_either_version_and_a_different_one_under_its_id_is_a_conflict(
    api: TrackAPI,
) -> None:
    assert v1(api, "POST customers/ada/events", EVENT).status == 200
    assert v1(api, "POST customers/ada/events", {**EVENT, "id": ULID.lower()}).status == 200
    operation = person("event", **EVENT)
    assert batch(api, operation, operation, person("event", BOB, **EVENT)).status == 200
    assert v1(api, "POST customers/ada/events", {**EVENT, "name": "Refunded"}).status == 200
    assert (api.count_applied(), api.repeats) == (1, 5)
    assert [operation.body["name"] for operation in api.conflicts] == ["Paid", "Paid", "Refunded"]


def test_a_suppressed_person_is_deleted_and_later_operations_have_no_effect(api: TrackAPI) -> None:
    operations = [person("identify"), person("add_device", device={"token": "t", **IOS}), person("event", **EVENT)]
    batch(api, operations[0], person("suppress"))
    assert batch(api, *operations, person("identify", BOB), merge(BOB, ADA)).status == 200
    assert (api.people, api.state["suppressed"]) == ({"id:bob": {}}, {"id:ada"})
    batch(api, person("unsuppress"), *operations)
    assert set(api.people) == {"id:ada", "id:bob"}
    assert [operation.kind for operation in api.applied("ada")] == [
        *("identify", "suppress", "merge", "unsuppress", "identify", "add_device", "event")
    ]


def test_a_merge_fills_the_gaps_of_the_primary_and_removes_the_secondary(api: TrackAPI) -> None:
    batch(
        api,
        person("identify", BOB, attributes={"plan": "free", "seats": 2}),
        merge(ADA, BOB),  # has no effect: the primary does not exist yet
        person("identify", attributes={"plan": "pro"}),
    )
    assert [operation.kind for operation in api.applied("bob")] == ["identify"]
    assert v1(api, "POST merge_customers", {"primary": ADA, "secondary": BOB}).status == 200
    assert api.people == {"id:ada": {"plan": "pro", "seats": 2}}
    assert api.applied("ada")[-1] == api.applied("bob")[-1]


_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
)
_VALUES = st.recursive(
    _SCALARS | st.sampled_from(["person", "identify", "add_device", ADA, ACME]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "token", "identifiers"]), inner),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_an_operation_holds_it_is_accepted_or_refused(data: st.DataObject) -> None:
    operation = dict(data.draw(st.sampled_from(PAIRS))[2])
    operation[data.draw(st.sampled_from([*operation, "cio_relationships"]))] = data.draw(_VALUES)
    with TrackAPI() as api:
        assert entity(api, operation).status in (200, 400)
        assert batch(api, operation).status in (200, 207, 400)
