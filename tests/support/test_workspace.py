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
ADA = {"id": "ada"}
BOB = {"id": "bob"}

Body: TypeAlias = dict[str, Any]
#: One operation: method, target and body as v1 has it, and as v2 does.
Pair: TypeAlias = tuple[str, str, Body | None, Body]


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI() as server:
        yield server


def person(action: str, identifiers: Body | None = None, **told: Any) -> Body:
    return {"type": "person", "action": action, "identifiers": identifiers or ADA, **told}


def thing(action: str, **told: Any) -> Body:
    return {"type": "object", "action": action, "identifiers": ACME, **told}


def merge(primary: Body, secondary: Body) -> Body:
    return {"type": "person", "action": "merge", "primary": primary, "secondary": secondary}


# What is taken, and what is refused. Requests are answered here without a connection: test_trackapi is about those.


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", "customers/ada/devices", {"device": {"id": "t", "platform": "ios"}}),
        ("PUT", "customers/ada/devices", {"device": {"id": "t" * 1000, "platform": "android", "last_used": NOW}}),
        ("PUT", "customers/ada/devices", {"device": {"id": "t", "platform": "ios", "attributes": {"a": "1"}}}),
        ("DELETE", "customers/ada/devices/t%3A1%2F2", None),
        ("POST", "customers/ada/suppress", None),
        ("POST", "customers/ada/suppress", {}),
        ("POST", "customers/ada%40example.com/unsuppress", None),
        ("POST", "customers/cio_1/unsuppress", {}),
        ("POST", "merge_customers", {"primary": {"id": "1"}, "secondary": {"email": "ada@example.com"}}),
        ("POST", "merge_customers", {"primary": {"cio_id": "a1"}, "secondary": {"id": "a1"}}),
        ("POST", "forms/contact%20us/submit", {"data": {"id": "1", "size": "42"}}),
        ("POST", "forms/7/submit", {"data": {"email": "ada@example.com", "note": ""}}),
        ("POST", "segments/7/add_customers", {"ids": ["1"]}),
        ("POST", "segments/7/add_customers?id_type=id", {"ids": [str(number) for number in range(1000)]}),
        ("POST", "segments/7/remove_customers?id_type=email", {"ids": ["ada@example.com"]}),
        ("POST", "segments/7/remove_customers?id_type=cio_id", {"ids": ["a1"]}),
        ("PUT", "customers/ada", {"cio_relationships": {"action": "add_relationships", "relationships": [TO_ACME]}}),
        (
            "PUT",
            "customers/ada",
            {"cio_relationships": {"action": "delete_relationships", "relationships": [{"identifiers": ACME}]}},
        ),
        ("PUT", "customers/ada", {"cio_subscription_preferences": {"topics": {"topic_1": True}}}),
        ("PUT", "customers/ada", {**{f"a{number}": 1 for number in range(300)}, "_timestamp": NOW}),
    ],
)
def test_v1_takes(api: TrackAPI, method: str, target: str, body: Body | None) -> None:
    assert _v1(api, method, target, body).status in (200, 204)
    assert api.refused == []


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(None, id="null"),
        pytest.param({}, id="empty"),
        pytest.param({"platform": "ios"}, id="no id"),
        pytest.param({"token": "t", "platform": "ios"}, id="v2's token"),
        pytest.param({"id": "t"}, id="no platform"),
        pytest.param({"id": " ", "platform": "ios"}, id="a blank id"),
        pytest.param({"id": 7, "platform": "ios"}, id="an id that is a number"),
        pytest.param({"id": "t" * 1001, "platform": "ios"}, id="a long id"),
        pytest.param({"id": "t", "platform": "iOS"}, id="another platform"),
        pytest.param({"id": "t", "platform": ["ios"]}, id="a list of platforms"),
        pytest.param({"id": "t", "platform": "ios", "last_used": NOW * 1000}, id="milliseconds"),
        pytest.param({"id": "t", "platform": "ios", "last_used": None}, id="last_used that is null"),
        pytest.param({"id": "t", "platform": "ios", "model": "x"}, id="an attribute at the root"),
        pytest.param({"id": "t", "platform": "ios", "attributes": None}, id="attributes that are null"),
        pytest.param({"id": "t", "platform": "ios", "attributes": {"a": 1}}, id="an attribute that is no text"),
        pytest.param({"id": "t", "platform": "ios", "attributes": {"a": "x" * 1001}}, id="a long attribute"),
        pytest.param({"id": "t", "platform": "ios", "attributes": {"a" * 151: "x"}}, id="a long name"),
    ],
)
def test_devices_that_would_be_lost_are_refused(api: TrackAPI, device: Any) -> None:
    assert _v1(api, "PUT", "customers/ada/devices", {"device": device}).status == 400
    renamed = {{"id": "token", "token": "id"}.get(key, key): device[key] for key in device} if device else device
    assert _entity(api, person("add_device", device=renamed)).status == 400
    assert api.state["log"] == {}


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", "customers/ada/devices", {"device": {"id": "t", "platform": "ios"}, "more": 1}),
        ("PUT", "customers/ada/devices", {"id": "t", "platform": "ios"}),
        ("DELETE", "customers/ada/devices/t", {}),
        ("DELETE", "customers/ada/devices/%20", None),
        ("POST", "customers/ada/suppress", {"suppress": True}),
        ("POST", "customers/ada/unsuppress", []),
        ("POST", "merge_customers", {}),
        ("POST", "merge_customers", {"primary": ADA}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": BOB, "more": 1}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": ADA}),
        ("POST", "merge_customers", {"primary": {"email": "a@b.c"}, "secondary": {"email": "A@B.C"}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": {}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": {"id": "1", "email": "a@b.c"}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": {"cio_id": "cio_1"}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": {"anonymous_id": "1"}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": {"id": 1}}),
        ("POST", "merge_customers", {"primary": ADA, "secondary": "bob"}),
        ("POST", "forms/7/submit", {"data": {"size": "42"}}),
        ("POST", "forms/7/submit", {"data": {"id": "1", "email": "a@b.c"}}),
        ("POST", "forms/7/submit", {"data": {"id": ""}}),
        ("POST", "forms/7/submit", {"data": {"id": "1" * 151}}),
        ("POST", "forms/7/submit", {"data": {"email": "ada"}}),
        ("POST", "forms/7/submit", {"data": {"id": "1", "size": 42}}),
        ("POST", "forms/7/submit", {"data": {"id": "1", "size": None}}),
        ("POST", "forms/7/submit", {"data": {"id": "1", "form_name": "Contact"}}),
        ("POST", "forms/7/submit", {"data": []}),
        ("POST", "forms/7/submit", {"id": "1"}),
        ("POST", "forms/%20/submit", {"data": {"id": "1"}}),
        ("POST", "segments/7/add_customers", {"ids": []}),
        ("POST", "segments/7/add_customers", {"ids": "1"}),
        ("POST", "segments/7/add_customers", {"ids": [1]}),
        ("POST", "segments/7/add_customers", {"ids": [""]}),
        ("POST", "segments/7/add_customers", {"ids": ["1"] * 1001}),
        ("POST", "segments/7/add_customers", {"ids": ["1"], "id_type": "id"}),
        ("POST", "segments/vip/add_customers", {"ids": ["1"]}),
        ("POST", "segments/7/add_customers?id_type=email", {"ids": ["ada"]}),
        ("POST", "segments/7/add_customers?id_type=cio_id", {"ids": ["cio_1"]}),
        ("POST", "segments/7/add_customers?id_type=phone", {"ids": ["1"]}),
        ("POST", "segments/7/add_customers?id_type=id&id_type=id", {"ids": ["1"]}),
        ("POST", "segments/7/add_customers?", {"ids": ["1"]}),
        ("POST", "segments/7/add_customers?type=id", {"ids": ["1"]}),
        ("POST", "customers/ada/suppress?id_type=id", {}),
        ("POST", "merge_customers?id_type=id", {"primary": ADA, "secondary": BOB}),
        ("PUT", "customers/ada", {"cio_relationships": [TO_ACME]}),
        ("PUT", "customers/ada", {"cio_relationships": {"action": "relate", "relationships": [TO_ACME]}}),
        ("PUT", "customers/ada", {"cio_relationships": {"action": "add_relationships", "relationships": []}}),
        ("PUT", "customers/ada", {"cio_relationships": {"relationships": [TO_ACME]}}),
        ("PUT", "customers/ada", {"cio_subscription_preferences": {"topic_1": True}}),
        ("PUT", "customers/ada", {"cio_subscription_preferences": {"topics": {"topic_1": "yes"}}}),
        ("PUT", "customers/ada", {"cio_subscription_preferences.topics.news": True}),
    ],
)
def test_v1_refuses(api: TrackAPI, method: str, target: str, body: Any) -> None:
    assert _v1(api, method, target, body).status == 400
    assert (api.state["log"], len(api.refused)) == ({}, 1)


@pytest.mark.parametrize(
    "operation",
    [
        person("identify"),
        person("identify", attributes={"plan": "pro", "_update": True}, timestamp=NOW, cio_relationships=[TO_ACME]),
        person("identify", {"email": "Ada@Example.com"}, attributes={"email": "ada@example.com"}),
        person("identify", {"cio_id": "a1"}, attributes={f"a{number}": 1 for number in range(300)}, timestamp=NOW),
        person("identify", {"id": "ü" * 75}, attributes={"created_at": NOW}),
        person("event", name="Paid", id=ULID, timestamp=NOW, attributes={"total": 4.5}),
        person("event", {"anonymous_id": "a"}, name="n" * 100),
        person("page", name="https://example.com/" + "a" * 200),
        person("screen", name="Home"),
        person("delete"),
        person("suppress"),
        person("unsuppress"),
        person("add_device", device={"token": "t", "platform": "ios", "last_used": NOW, "attributes": {"a": "1"}}),
        person("delete_device", device={"token": "t"}),
        person("add_relationships", cio_relationships=[TO_ACME, {"identifiers": ACME}]),
        person("delete_relationships", cio_relationships=[{"identifiers": ACME}]),
        merge(ADA, {"cio_id": "a1"}),
        thing("identify"),
        thing("identify", attributes={"name": "Acme", "gone": None}, cio_relationships=[{"identifiers": ADA}]),
        thing("identify_anonymous", cio_relationships=[{"identifiers": {"anonymous_id": "a"}}]),
        thing("delete"),
        thing("add_relationships", cio_relationships=[{"identifiers": {"email": "a@b.c"}}]),
        thing("delete_relationships", cio_relationships=[{"identifiers": ADA}]),
    ],
)
def test_v2_takes(api: TrackAPI, operation: Body) -> None:
    assert _entity(api, operation) == _batch(api, [operation])
    assert (api.refused, api.singles, api.batches) == ([], 1, [1])


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (person("delete", {"id": "1", "email": "a@b.c"}), "identifiers"),
        (person("delete", {"phone": "+4912345"}), "identifiers"),
        (person("delete", {"anonymous_id": "1"}), "identifiers"),
        (person("delete", {"object_type_id": "1", "object_id": "1"}), "identifiers"),
        (person("delete", {"cio_id": "cio_1"}), "identifiers.cio_id"),
        (person("delete", {"email": "ada"}), "identifiers.email"),
        (person("delete", {"id": 7}), "identifiers.id"),
        (person("delete", {"id": " "}), "identifiers.id"),
        (person("delete", {"id": "ü" * 76}), "identifiers.id"),
        ({"type": "person", "action": "delete"}, "identifiers"),
        ({"type": "person", "action": "delete", "identifiers": None}, "identifiers"),
        ({"type": "person", "action": "delete", "identifiers": "ada"}, "identifiers"),
        (person("delete", attributes={}), "attributes"),
        (person("identify", attributes=None), "attributes"),
        (person("identify", attributes={f"a{number}": 1 for number in range(301)}), "attributes"),
        (person("identify", attributes={"bio": "x" * 1001}), "attributes.bio"),
        (person("identify", attributes={"n" * 151: 1}), "attributes"),
        (person("identify", attributes={"_timestamp": NOW}), "attributes"),
        (person("identify", attributes={"cio_relationships": [TO_ACME]}), "attributes"),
        (person("identify", attributes={"id": "bob"}), "attributes.id"),
        (person("identify", attributes={"_update": "true"}), "attributes._update"),
        (person("identify", attributes={"created_at": "now"}), "attributes.created_at"),
        (person("identify", timestamp=NOW * 1000), "timestamp"),
        (person("identify", timestamp=None), "timestamp"),
        (person("identify", plan="pro"), "plan"),
        (
            person("identify", cio_relationships={"action": "add_relationships", "relationships": [TO_ACME]}),
            "cio_relationships",
        ),
        (person("event"), "name"),
        (person("event", name=" "), "name"),
        (person("event", name="n" * 101), "name"),
        (person("event", name="Paid", data={}), "data"),
        (person("event", name="Paid", kind="event"), "kind"),
        (person("event", name="Paid", attributes=[]), "attributes"),
        (person("event", name="Paid", id="evt_1"), "id"),
        (person("event", name="Paid", timestamp="2026-01-01"), "timestamp"),
        (person("screen", name="n" * 101), "name"),
        (person("page", name="n" * 1001), "name"),
        (person("event", {"anonymous_id": ""}, name="Seen"), "identifiers.anonymous_id"),
        (person("delete_device", device={"token": "t", "platform": "ios"}), "device.platform"),
        (person("delete_device", device={"id": "t"}), "device.token"),
        (person("delete_device"), "device"),
        (person("add_relationships"), "cio_relationships"),
        (person("add_relationships", cio_relationships=[]), "cio_relationships"),
        (person("add_relationships", cio_relationships=["acme"]), "cio_relationships[0]"),
        (person("add_relationships", cio_relationships=[TO_ACME, {}]), "cio_relationships[1].identifiers"),
        (person("add_relationships", cio_relationships=[{"identifiers": ADA}]), "cio_relationships[0].identifiers"),
        (
            person("add_relationships", cio_relationships=[{"identifiers": {**ACME, "object_id": 7}}]),
            "cio_relationships[0].identifiers.object_id",
        ),
        (
            person("add_relationships", cio_relationships=[{**TO_ACME, "relationship_attributes": []}]),
            "cio_relationships[0].relationship_attributes",
        ),
        (
            person("add_relationships", cio_relationships=[{**TO_ACME, "attributes": {}}]),
            "cio_relationships[0].attributes",
        ),
        ({**merge(ADA, BOB), "identifiers": ADA}, "identifiers"),
        (merge(ADA, ADA), "secondary"),
        (merge(ADA, {"cio_id": "cio_1"}), "secondary.cio_id"),
        ({"type": "person", "action": "merge", "primary": ADA}, "secondary"),
        (thing("delete") | {"identifiers": ADA}, "identifiers"),
        (thing("delete") | {"identifiers": {"object_id": "1"}}, "identifiers"),
        (thing("delete") | {"identifiers": {**ACME, "object_type_id": 1}}, "identifiers.object_type_id"),
        (thing("delete") | {"identifiers": {**ACME, "object_id": "a" * 151}}, "identifiers.object_id"),
        (thing("identify", attributes=[]), "attributes"),
        (thing("identify", attributes={f"a{number}": 1 for number in range(301)}), "attributes"),
        (thing("identify", attributes={"bio": "x" * 1001}), "attributes.bio"),
        (thing("identify", timestamp=NOW), "timestamp"),
        (thing("identify", cio_relationships=[TO_ACME]), "cio_relationships[0].identifiers"),
        (thing("identify_anonymous", cio_relationships=[{"identifiers": ADA}]), "cio_relationships[0].identifiers"),
        (thing("add_relationships"), "cio_relationships"),
        (thing("add_relationships", attributes={}, cio_relationships=[{"identifiers": ADA}]), "attributes"),
        (person("event", name="Paid", attributes={"a": "x" * 32_000}), "request"),
    ],
)
def test_v2_refuses_and_says_which_field(api: TrackAPI, operation: Body, field: str) -> None:
    single, batched = _entity(api, operation), _batch(api, [operation, person("delete", BOB)])
    (error,) = json.loads(batched.body)["errors"]
    assert (single.status, batched.status, error.pop("batch_index"), error["field"]) == (400, 207, 0, field)
    assert [refusal.status for refusal in api.refused] == [400, 207]
    assert list(api.state["log"]) == ["id:bob"]
    if field != "request":  # of what is too large, the entity is not even read
        assert json.loads(single.body) == {"errors": [error]}


@pytest.mark.parametrize("attributes", [{"a": "x" * 31_903}, {"a": "ü" * 15_951 + "x"}])
def test_an_operation_of_exactly_32000_bytes_is_taken(api: TrackAPI, attributes: Body) -> None:
    operation = person("event", name="Paid", attributes=attributes)
    longer = person("event", name="Paid!", attributes=attributes)
    assert len(_dump(operation)) == 32_000
    assert [_entity(api, operation).status, _entity(api, longer).status] == [200, 400]
    assert [_batch(api, [operation]).status, _batch(api, [longer]).status] == [200, 207]


# What is left behind.

EVENT: Body = {"name": "Paid", "id": ULID, "timestamp": NOW}
PAIRS: list[Pair] = [
    (
        "PUT",
        "customers/ada",
        {
            "plan": "pro",
            "tags": ["a"],
            "_timestamp": NOW,
            "cio_relationships": {"action": "add_relationships", "relationships": [TO_ACME]},
        },
        person("identify", attributes={"plan": "pro", "tags": ["a"]}, timestamp=NOW, cio_relationships=[TO_ACME]),
    ),
    (
        "PUT",
        "customers/bob",
        {"plan": "free", "seats": 1},
        person("identify", BOB, attributes={"plan": "free", "seats": 1}),
    ),
    ("PUT", "customers/Eve%40b.c", {}, person("identify", {"email": "eve@B.c"})),
    ("PUT", "customers/cio_9", {"_update": True}, person("identify", {"cio_id": "9"}, attributes={"_update": True})),
    (
        "POST",
        "customers/ada/events",
        {**EVENT, "type": "event", "data": {"total": 1}},
        person("event", **EVENT, attributes={"total": 1}),
    ),
    ("POST", "customers/ada/events", {"name": " Seen "}, person("event", name="Seen", attributes={})),
    ("POST", "customers/ada/events", {"name": "/", "type": "page"}, person("page", name="/")),
    ("POST", "customers/ada/events", {"name": "Home", "type": "screen"}, person("screen", name="Home")),
    (
        "POST",
        "events",
        {"name": "Seen", "type": "event", "anonymous_id": "a", "data": {}},
        person("event", {"anonymous_id": "a"}, name="Seen"),
    ),
    (
        "PUT",
        "customers/bob/devices",
        {"device": {"id": "t", "platform": "ios", "last_used": NOW, "attributes": {"a": "1"}}},
        person("add_device", BOB, device={"token": "t", "platform": "ios", "last_used": NOW, "attributes": {"a": "1"}}),
    ),
    ("DELETE", "customers/bob/devices/u", None, person("delete_device", BOB, device={"token": "u"})),
    ("POST", "merge_customers", {"primary": ADA, "secondary": BOB}, merge(ADA, BOB)),
    ("DELETE", "customers/Eve%40b.c", None, person("delete", {"email": "eve@b.c"})),
    ("POST", "customers/cio_9/suppress", {}, person("suppress", {"cio_id": "9"})),
    ("PUT", "customers/cio_9", {"plan": "pro"}, person("identify", {"cio_id": "9"}, attributes={"plan": "pro"})),
    ("POST", "customers/eve/suppress", None, person("suppress", {"id": "eve"})),
    ("POST", "customers/eve/unsuppress", None, person("unsuppress", {"id": "eve"})),
    ("PUT", "customers/eve", {"plan": "new"}, person("identify", {"id": "eve"}, attributes={"plan": "new"})),
]


@pytest.mark.parametrize("size", [1, 3, len(PAIRS)])
def test_the_same_operations_leave_the_same_state_singly_and_in_batches_of(size: int) -> None:
    with TrackAPI() as v1, TrackAPI() as entities, TrackAPI() as batched:
        for method, target, body, operation in PAIRS:
            assert _v1(v1, method, target, body).status == 200
            assert _entity(entities, operation).status == 200
        for start in range(0, len(PAIRS), size):
            operations = [operation for *_, operation in PAIRS[start : start + size]]
            assert _batch(batched, operations).status == 200
        assert v1.state == entities.state == batched.state
        assert v1.count_applied() == entities.count_applied() == batched.count_applied() == len(PAIRS) - 2
        assert (v1.singles, v1.batches) == (entities.singles, entities.batches) == (len(PAIRS), [])
        assert (batched.singles, sum(batched.batches), max(batched.batches)) == (0, len(PAIRS), size)


def test_the_state_holds_everything(api: TrackAPI) -> None:
    for method, target, body, _ in PAIRS:
        _v1(api, method, target, body)
    _v1(api, "POST", "forms/7/submit", {"data": {"id": "eve"}})
    _v1(api, "POST", "segments/7/add_customers", {"ids": ["eve", "ada"]})
    state = api.state
    assert state["people"] == {"id:ada": {"plan": "pro", "tags": ["a"], "seats": 1}, "id:eve": {"plan": "new"}}
    device = {"platform": "ios", "last_used": NOW, "attributes": {"a": "1"}}
    assert state["devices"] == {"id:ada": {"t": device}}
    assert state["relationships"] == {"id:ada": {"object:1:acme": {"role": "admin"}}}
    assert (state["objects"], state["suppressed"]) == ({}, {"cio_id:9"})
    assert state["segments"] == {"7": {"id:eve", "id:ada"}}
    kinds = {subject: [kind for kind, _ in operations] for subject, operations in state["log"].items()}
    assert kinds == {
        "id:ada": ["identify", "event", "event", "page", "screen", "merge", "add_to_segment"],
        "id:bob": ["identify", "add_device", "delete_device", "merge"],
        "email:eve@b.c": ["identify", "delete"],
        "anonymous_id:a": ["event"],
        "cio_id:9": ["suppress"],
        "id:eve": ["suppress", "unsuppress", "identify", "form", "add_to_segment"],
    }


def test_an_operation_of_v2_is_remembered_as_v1_has_it(api: TrackAPI) -> None:
    operation = person("event", **EVENT, attributes={"total": 1})
    assert _batch(api, [operation, person("delete"), person("delete_device", device={"token": "t"})]).status == 200
    applied = api.applied("ada")
    assert [(each.kind, each.body) for each in applied] == [
        ("event", {**EVENT, "type": "event", "data": {"total": 1}}),
        ("delete", {}),
        ("delete_device", {"device": {"id": "t"}}),
    ]
    assert applied[0].at <= applied[1].at <= applied[2].at


def test_an_event_is_known_again_by_whichever_version_it_comes(api: TrackAPI) -> None:
    operation = person("event", **EVENT)
    assert _v1(api, "POST", "customers/ada/events", EVENT).status == 200
    assert _batch(api, [operation, operation, person("event", BOB, **EVENT)]).status == 200
    assert (api.count_applied(), api.repeats) == (1, 3)
    assert [each.body for each in api.conflicts] == [{**EVENT, "type": "event"}]


def test_a_suppressed_person_is_deleted_and_nothing_of_theirs_is_taken(api: TrackAPI) -> None:
    before = [person("identify"), person("add_device", device={"token": "t", "platform": "ios"})]
    related = thing("add_relationships", cio_relationships=[{"identifiers": ADA}])
    _batch(api, [*before, related, person("suppress")])
    blocked = [*before, related, person("event", **EVENT), person("identify", BOB), merge(BOB, ADA)]
    assert _batch(api, blocked).status == 200
    state = api.state
    assert (state["people"], state["devices"], state["relationships"]) == ({"id:bob": {}}, {}, {})
    _batch(api, [person("unsuppress"), *before, person("event", **EVENT)])
    assert set(api.people) == {"id:ada", "id:bob"}
    assert [each.kind for each in api.applied("ada")][-3:] == ["identify", "add_device", "event"]


def test_a_merge_fills_the_gaps_of_the_primary_and_removes_the_secondary(api: TrackAPI) -> None:
    token = {"token": "t", "platform": "ios"}
    to_acme = {"identifiers": ACME, "relationship_attributes": {"role": "guest"}}
    _batch(
        api,
        [
            person("identify", attributes={"plan": "pro"}, cio_relationships=[TO_ACME]),
            person("identify", BOB, attributes={"plan": "free", "seats": 2}, cio_relationships=[to_acme]),
            person("add_device", device=token | {"last_used": NOW}),
            person("add_device", BOB, device=token | {"last_used": NOW - 1}),
            person("add_device", BOB, device=token | {"token": "u"}),
        ],
    )
    _v1(api, "POST", "segments/7/add_customers", {"ids": ["bob"]})
    assert _v1(api, "POST", "merge_customers", {"primary": ADA, "secondary": BOB}).status == 200
    state = api.state
    assert state["people"] == {"id:ada": {"plan": "pro", "seats": 2}}
    assert state["devices"]["id:ada"]["t"]["last_used"] == NOW
    assert {owner: set(devices) for owner, devices in state["devices"].items()} == {"id:ada": {"t", "u"}}
    assert state["relationships"] == {"id:ada": {"object:1:acme": {"role": "admin"}}}
    assert state["segments"] == {"7": {"id:ada"}}


def test_a_merge_into_nobody_does_nothing(api: TrackAPI) -> None:
    _batch(api, [person("identify", BOB, attributes={"plan": "free"}), merge(ADA, BOB)])
    assert api.people == {"id:bob": {"plan": "free"}}
    assert [each.kind for each in api.applied("bob")] == ["identify"]


def test_a_device_is_updated_and_goes_with_its_person(api: TrackAPI) -> None:
    device = {"id": "t", "platform": "ios", "last_used": NOW, "attributes": {"a": "1"}}
    _v1(api, "PUT", "customers/ada/devices", {"device": device})
    again = {"id": "t", "platform": "android", "attributes": {"b": "2"}}
    _v1(api, "PUT", "customers/ada/devices", {"device": again})
    expected = {"platform": "android", "last_used": NOW, "attributes": {"a": "1", "b": "2"}}
    assert api.state["devices"] == {"id:ada": {"t": expected}}
    _v1(api, "DELETE", "customers/ada/devices/t", None)
    assert api.state["devices"] == {}
    _v1(api, "PUT", "customers/ada/devices", {"device": device})
    _v1(api, "DELETE", "customers/ada", None)
    assert api.state["devices"] == {}


def test_attributes_of_objects_and_relationships_go_by_null_or_nothing(api: TrackAPI) -> None:
    to_ada = {"identifiers": ADA, "relationship_attributes": {"role": "admin", "since": 1, "ok": False}}
    gone = {"identifiers": ADA, "relationship_attributes": {"role": "", "since": None}}
    named = {"name": "Acme", "city": "Graz", "size": 0}
    _entity(api, thing("identify", attributes=named, cio_relationships=[to_ada]))
    _entity(api, thing("identify", attributes={"name": None, "city": ""}, cio_relationships=[gone]))
    state = api.state
    assert state["objects"] == {"object:1:acme": {"size": 0}}
    assert state["relationships"] == {"id:ada": {"object:1:acme": {"ok": False}}}
    assert [each.kind for each in api.applied_to_object("1", "acme")] == ["object_identify"] * 2


@pytest.mark.parametrize(
    "end",
    [
        person("delete_relationships", cio_relationships=[TO_ACME]),
        thing("delete_relationships", cio_relationships=[{"identifiers": ADA}]),
        person("delete"),
        thing("delete"),
    ],
)
def test_a_relationship_ends_from_either_side(api: TrackAPI, end: Body) -> None:
    _batch(api, [person("identify"), thing("identify"), person("add_relationships", cio_relationships=[TO_ACME])])
    assert api.state["relationships"] == {"id:ada": {"object:1:acme": {"role": "admin"}}}
    assert _entity(api, end).status == 200
    assert api.state["relationships"] == {}


def test_v1_takes_a_relationship_away_while_it_identifies(api: TrackAPI) -> None:
    for action, left in (
        ("add_relationships", {"id:ada": {"object:1:acme": {"role": "admin"}}}),
        ("delete_relationships", {}),
    ):
        told = {"action": action, "relationships": [TO_ACME]}
        assert _v1(api, "PUT", "customers/ada", {"cio_relationships": told}).status == 200
        assert api.state["relationships"] == left
    assert api.people == {"id:ada": {}}


def test_an_object_can_be_related_to_somebody_unknown(api: TrackAPI) -> None:
    _entity(api, thing("identify_anonymous", cio_relationships=[{"identifiers": {"anonymous_id": "a"}}]))
    assert api.state["relationships"] == {"anonymous_id:a": {"object:1:acme": {}}}


def test_a_segment_loses_whom_it_is_told_and_whoever_is_deleted(api: TrackAPI) -> None:
    _v1(api, "POST", "customers/4/suppress", None)
    _v1(api, "POST", "segments/7/add_customers", {"ids": ["1", "2", "3", "1", "4"]})
    _v1(api, "POST", "segments/7/remove_customers?id_type=id", {"ids": ["2"]})
    _v1(api, "DELETE", "customers/3", None)
    assert api.state["segments"] == {"7": {"id:1"}}
    assert (len(api.applied("1")), api.count_applied()) == (1, 4)


def test_a_submitted_form_is_kept_with_its_person(api: TrackAPI) -> None:
    data = {"email": "Ada@example.com", "note": "hello"}
    assert _v1(api, "POST", "forms/contact%20us/submit", {"data": data}) == Reply(status=204)
    (submitted,) = api.applied("ada@example.com")
    assert (submitted.kind, submitted.body) == ("form", {"form_id": "contact us", "data": data})


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
def test_whatever_an_operation_holds_it_is_taken_or_refused(data: st.DataObject) -> None:
    operation = dict(data.draw(st.sampled_from(PAIRS))[3])
    operation[data.draw(st.sampled_from([*operation, "cio_relationships"]))] = data.draw(_VALUES)
    with TrackAPI() as api:
        assert _entity(api, operation).status in (200, 400)
        assert _batch(api, [operation]).status in (200, 207, 400)


def _v1(api: TrackAPI, method: str, target: str, body: Any) -> Reply:
    return _respond(api, method, f"/api/v1/{target}", body)


def _entity(api: TrackAPI, operation: Body) -> Reply:
    return _respond(api, "POST", "/api/v2/entity", operation)


def _batch(api: TrackAPI, operations: list[Body]) -> Reply:
    return _respond(api, "POST", "/api/v2/batch", {"batch": operations})


def _respond(api: TrackAPI, method: str, target: str, body: Any) -> Reply:
    headers = {"authorization": "Basic c2l0ZTprZXk=", "content-type": "application/json"}
    written = b"" if body is None else _dump(body)
    return api.respond(ParsedRequest(number=1, method=method, target=target.encode(), headers=headers, body=written))


def _dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
