"""The stand-in as a server: HTTP, routes, credentials, bodies, batches and faults, over real sockets."""

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

from tests.support.trackapi import Answer, Delay, Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

CUSTOMER = b"/api/v1/customers/42"
EVENTS = b"/api/v1/customers/42/events"
ENTITY = b"/api/v2/entity"
BATCH = b"/api/v2/batch"


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI() as server:
        yield server


class Response:
    """An answer as raw sockets see it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head.split(b" ")[1])
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def event(name: str, attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    optional = {} if attributes is None else {"attributes": attributes}
    return {"type": "person", "action": "event", "identifiers": {"id": "42"}, "name": name, **optional}


def first(fault: Fault) -> Answer:
    return lambda request: fault if request.number == 1 else None


def send(api: TrackAPI, method: str, target: bytes, body: Any = None, **headers: str) -> Response:
    with connect(api) as connection:
        connection.sendall(http(method, target, body, **headers))
        return receive(connection)


def http(method: str, target: bytes, body: Any = None, **headers: str) -> bytes:
    data = body if isinstance(body, bytes | None) else json.dumps(body, separators=(",", ":")).encode()
    fields: Mapping[str, str] = {"host": "127.0.0.1", "authorization": "Basic c2l0ZTprZXk="}
    if data is not None:
        fields = {**fields, "content-type": "application/json", "content-length": str(len(data))}
    fields = {**fields, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode() + b"\r\n" + (data or b"")


def connect(api: TrackAPI) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=5)


def receive(connection: socket.socket) -> Response:
    """Read one answer byte by byte, so that nothing of the next is read."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return Response(head, body)


def test_the_region_needs_the_right_credentials_as_everything_does(api: TrackAPI) -> None:
    answer = requests.get(f"{api.url}/api/v1/accounts/region", auth=("site", "key"), timeout=5)
    assert (answer.status_code, answer.json()["region"]) == (200, "us")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    wrong: list[tuple[str, str] | None] = [None, ("site", "other"), ("other", "key"), ("key", "site"), ("site", "")]
    for path in ("/api/v1/customers/42/events", "/api/v2/batch"):
        for auth in wrong:
            answer = requests.post(f"{api.url}{path}", json={"batch": [event("a")]}, auth=auth, timeout=5)
            assert (answer.status_code, answer.json()) == (401, {"meta": {"error": "Unauthorized"}})
    assert [refusal.status for refusal in api.refused] == [401] * 10
    assert (api.count_applied(), api.batches) == (0, [])


CUSTOMERS = b"/api/v1/customers/"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        *(("GET", b"/", 400), ("GET", ENTITY, 405), ("GET", BATCH, 405), ("POST", b"/api/v2/batches", 404)),
        *(
            ("PUT", b"/api/v1/customers", 404),
            ("POST", CUSTOMER, 405),
            ("GET", EVENTS, 405),
            ("POST", CUSTOMER + b"/event", 404),
        ),
        *(("PUT", CUSTOMER + b"/suppress", 405), ("POST", CUSTOMER + b"/devices", 405)),
        *(("PUT", CUSTOMER + b"/devices/a/b", 404), ("POST", b"/api/v1/segments/7/customers", 404)),
        *(("POST", CUSTOMERS + dots + b"/events", 400) for dots in (b".", b"..", b"%2E%2e")),
        *(
            ("PUT", CUSTOMERS + name, 400)
            for name in (b"", b".", b"/42", b"%20", b"a@b.c", b"a+b", b"a%2", b"a%zz", b"%ff")
        ),
        *(("PUT", CUSTOMERS + name, 400) for name in (b"42?id=43", b"42#there", b"a" * 151, b"%C3%BC" * 76)),
        *(("POST", b"/api/v2/entity?dry=1", 400), ("PUT", b"http://127.0.0.1/api/v1/customers/42", 400)),
    ],
)
def test_a_wrong_path_is_refused(api: TrackAPI, method: str, target: bytes, status: int) -> None:
    assert send(api, method, target, None if method == "GET" else {"name": "Paid"}).status == status
    assert [refusal.target for refusal in api.refused] == [target]
    assert api.count_applied() == 0


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b'"name"', b'{"name": "Paid"', b'{"name": "\xff"}', b'{"name": "Paid", "data": {"a": NaN}}'),
        *(b'{"name": "Paid", "data": {"a": -Infinity}}', b'{"name": "Paid", "name": "Paid"}'),
        *(b'{"name": "Paid", "data": {"a": 1, "a": 2}}', rb'{"name": "Paid", "data": {"a": "\ud800"}}'),
        pytest.param(b'{"name": ' + b"[" * 100_000, id="nested without end"),
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused(api: TrackAPI, body: bytes) -> None:
    assert send(api, "POST", EVENTS, body).status == 400
    assert api.count_applied() == 0


def test_the_content_type_has_to_be_json(api: TrackAPI) -> None:
    for accepted in ("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        assert send(api, "PUT", CUSTOMER, {}, content_type=accepted).status == 200
    for wrong in ("application/json; charset=latin-1", "application/x-www-form-urlencoded", "text/plain", ""):
        assert send(api, "PUT", CUSTOMER, {}, content_type=wrong).status == 400


PUT = b"PUT /api HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"PUT /api HTTP/1.0\r\n\r\n", 400),
        (b"PUT  /api HTTP/1.1\r\n\r\n", 400),
        (b"PUT /a\xc3\xbc HTTP/1.1\r\n\r\n", 400),
        (b"PUT /api HTTP/1.1\nHost: a\n\n", 400),
        (b"PUT /api HTTP/1.1\r\n\r\n", 400),
        *(
            (PUT + header + b"\r\n\r\n", 400)
            for header in (b"Host: b", b"A : b", b" b: c", b"Transfer-Encoding: chunked")
        ),
        (b"PUT /" + b"a" * 9_000, 400),
        (PUT + b"\r\n", 411),
        (PUT + b"Content-Length: +2\r\n\r\n{}", 413),
        (PUT + b"Content-Length: 1048577\r\n\r\n", 413),
    ],
)
def test_bytes_that_are_not_a_clean_request_are_refused(api: TrackAPI, request_bytes: bytes, status: int) -> None:
    with connect(api) as connection:
        connection.sendall(request_bytes)
        assert receive(connection).status == status
        assert connection.recv(1) == b""
    assert [refusal.status for refusal in api.refused] == [status]


def test_half_a_request_is_ignored_also_where_the_client_was_killed(api: TrackAPI) -> None:
    whole = http("PUT", CUSTOMER, {"plan": "pro"})
    for end in (10, whole.index(b"\r\n\r\n") + 1, len(whole) - 1):
        for killed in (False, True):
            with connect(api) as connection:
                connection.sendall(whole[:end])
                if killed:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.shutdown(socket.SHUT_WR)
                    assert connection.recv(1) == b""
    assert (api.requests, api.people, api.refused) == (0, {}, [])


def test_one_connection_carries_many_requests_until_the_client_closes_it(api: TrackAPI) -> None:
    with connect(api) as connection:
        for number in range(3):
            connection.sendall(http("PUT", CUSTOMER, {"number": number}))
            assert receive(connection).status == 200
        connection.sendall(http("PUT", CUSTOMER, {"id": ""}) + http("DELETE", CUSTOMER, connection="close"))
        assert [receive(connection).status, receive(connection).status] == [400, 200]
        assert connection.recv(1) == b""
    assert [operation.kind for operation in api.applied("42")] == ["identify"] * 3 + ["delete"]


def test_requests_from_many_threads_are_all_applied(api: TrackAPI) -> None:
    def post(customer: int) -> None:
        with connect(api) as connection:
            for number in range(50):
                connection.sendall(http("PUT", b"/api/v1/customers/%d" % customer, {"number": number}))
                assert receive(connection).status == 200

    threads = [threading.Thread(target=post, args=(customer,)) for customer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for customer in range(8):
        assert [operation.body["number"] for operation in api.applied(str(customer))] == list(range(50))
    assert (api.requests, api.count_applied()) == (400, 400)


@pytest.mark.parametrize(
    ("target", "body", "error"),
    [
        (EVENTS, {"name": ""}, {"meta": {"errors": ["event name must not be blank"]}}),
        (b"/api/v1/merge_customers", {}, {"meta": {"error": "merge.primary is missing"}}),
        (
            ENTITY,
            {"type": "person", "action": "delete", "identifiers": {"id": ""}},
            {"errors": [{"reason": "invalid", "field": "identifiers.id", "message": "id must not be blank"}]},
        ),
        (
            ENTITY,
            {"type": "person", "action": "delete"},
            {"errors": [{"reason": "required", "field": "identifiers", "message": "identifiers is missing"}]},
        ),
    ],
)
def test_an_error_has_the_shape_of_its_path(api: TrackAPI, target: bytes, body: Any, error: Any) -> None:
    answer = send(api, "POST", target, body)
    assert (answer.status, answer.json) == (400, error)


def test_a_submitted_form_is_answered_without_a_body(api: TrackAPI) -> None:
    url, form = f"{api.url}/api/v1/forms/7/submit", {"data": {"id": "1"}}
    with requests.Session() as session:
        for _ in range(2):  # over one connection: nothing of the first answer may be left in it
            answer = session.post(url, json=form, auth=("site", "key"), timeout=5)
            assert (answer.status_code, answer.content) == (204, b"")
            assert "content-length" not in answer.headers


def test_a_batch_is_applied_but_for_the_items_that_are_refused(api: TrackAPI) -> None:
    items = [event("a"), event(""), event("b"), {**event("c"), "data": {}}, event("x" * 33_000)]
    answer = send(api, "POST", BATCH, {"batch": items})
    assert answer.status == 207
    errors = answer.json["errors"]
    assert [(error["batch_index"], error["reason"], error["field"]) for error in errors] == [
        (1, "invalid", "name"),
        (3, "invalid", "data"),
        (4, "invalid", "request"),
    ]
    assert errors[0]["message"] == "event name must not be blank"
    assert [(refusal.status, refusal.target) for refusal in api.refused] == [(207, BATCH)] * 3
    assert (api.requests, api.count_applied(), api.batches, api.singles) == (1, 2, [5], 0)
    answers = [send(api, "POST", BATCH, {"batch": [event("d"), event("e")]}), send(api, "POST", ENTITY, event("f"))]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"{}\n")] * 2
    assert [operation.body["name"] for operation in api.applied("42")] == ["a", "b", "d", "e", "f"]
    assert (api.batches, api.singles) == ([5, 2], 1)


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"batch": [', {}, {"batch": {}}, {"batch": []}, {"batch": [event("a")], "more": 1}),
        *({"batch": [event("a"), item, event("b")]} for item in ({}, None, {"action": "event"}, {"type": "person"})),
        *({"batch": [event("a"), {"type": "person", "action": action}]} for action in ("buy", ["event"])),
        *({"batch": [event("a"), {"type": type_, "action": "event"}]} for type_ in ("object", "delivery")),
    ],
)
def test_of_a_malformed_batch_nothing_is_applied(api: TrackAPI, body: Any) -> None:
    answer = send(api, "POST", BATCH, body)
    assert answer.status == 400
    (error,) = answer.json["errors"]
    assert error.keys() == {"reason", "field", "message"}
    assert (api.count_applied(), api.batches, len(api.refused)) == (0, [], 1)


def test_a_batch_may_have_500000_bytes(api: TrackAPI) -> None:
    items = [event("a", {"a": "x" * 31_000}) for _ in range(16)]
    size = len(json.dumps({"batch": [*items, event("a", {"a": ""})]}, separators=(",", ":")))
    items.append(event("a", {"a": "x" * (500_000 - size)}))
    whole = json.dumps({"batch": items}, separators=(",", ":")).encode()
    assert len(whole) == 500_000
    assert send(api, "POST", BATCH, whole).status == 200
    assert send(api, "POST", BATCH, whole + b" ").status == 400
    assert (api.count_applied(), api.batches) == (17, [17])


def test_a_test_can_refuse_one_operation_in_either_version() -> None:
    seen: list[dict[str, Any]] = []

    def refuse(operation: dict[str, Any]) -> str | None:
        seen.append(operation)
        return "poison" if operation["body"].get("name") == "bad" else None

    with TrackAPI(refuse_item=refuse) as api:
        single = send(api, "POST", EVENTS, {"name": "bad", "type": "event"})
        assert (single.status, single.json) == (400, {"meta": {"errors": ["poison"]}})
        error = {"reason": "invalid", "field": "operation", "message": "poison"}
        entity = send(api, "POST", ENTITY, event("bad"))
        assert (entity.status, entity.json) == (400, {"errors": [error]})
        batch = send(api, "POST", BATCH, {"batch": [event("good"), event("bad")]})
        assert (batch.status, batch.json) == (207, {"errors": [{"batch_index": 1, **error}]})
        assert seen[0] == seen[1] == seen[3]
        assert seen[0] == {"kind": "event", "person": "id:42", "body": {"name": "bad", "type": "event"}}
        assert [operation.body["name"] for operation in api.applied("42")] == ["good"]
        api.refuse_item = lambda _: None
        assert send(api, "POST", ENTITY, event("bad")).status == 200


def test_a_fault_is_the_answer_of_a_single_request_or_of_a_whole_batch(api: TrackAPI) -> None:
    seen: list[ParsedRequest] = []
    api.answer = seen.append
    assert send(api, "POST", BATCH, {"batch": [event("a")]}).status == 200
    page = Reply(status=503, headers={"Retry-After": "2", "Content-Type": "text/html"}, body=b"<h1>busy</h1>")
    api.answer = lambda _: page
    answer = requests.put(f"{api.url}/api/v1/customers/42", json={}, auth=("site", "key"), timeout=5)
    assert (answer.status_code, answer.headers["retry-after"], answer.text) == (503, "2", "<h1>busy</h1>")
    assert send(api, "POST", BATCH, {"batch": [event("a"), event("b")]}).status == 503
    api.answer = lambda _: Reply(status=524)  # which no standard names
    assert send(api, "PUT", CUSTOMER, {}).status == 524
    assert [(request.number, request.method, request.target) for request in seen] == [(1, "POST", BATCH)]
    assert json.loads(seen[0].body) == {"batch": [event("a")]}
    assert (api.requests, api.count_applied(), api.batches, api.people, api.refused) == (4, 1, [1], {}, [])


@pytest.mark.parametrize("applied", [False, True])
def test_a_connection_is_reset_before_or_after_the_request_is_applied(applied: bool) -> None:
    with TrackAPI(answer=first(Reset(applied=applied))) as api, connect(api) as connection:
        connection.sendall(http("PUT", CUSTOMER, {}))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert api.count_applied() == int(applied)


def test_a_delayed_answer_is_late_and_its_request_is_applied_at_once() -> None:
    with TrackAPI(answer=first(Delay(seconds=0.2))) as api:
        assert send(api, "PUT", CUSTOMER, {}).status == 200
        assert time.monotonic() - api.applied("42")[0].at >= 0.2


def test_a_hanging_server_applies_the_request_does_not_answer_and_can_be_closed() -> None:
    with TrackAPI(answer=first(Hang())) as api, connect(api) as connection:
        connection.sendall(http("PUT", CUSTOMER, {}))
        api.wait_until(lambda: api.count_applied() == 1, timeout=5)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_server_that_was_away_remembers_what_it_applied(api: TrackAPI) -> None:
    with connect(api) as connection:
        connection.sendall(http("PUT", CUSTOMER, {"plan": "pro"}))
        assert connection.recv(12) == b"HTTP/1.1 200"
        with api.away(), pytest.raises(ConnectionRefusedError):
            connect(api)
        while connection.recv(1_000):  # the rest of the answer, and then the end
            pass
    assert send(api, "PUT", CUSTOMER, {"seats": 1}).status == 200
    assert api.people == {"id:42": {"plan": "pro", "seats": 1}}


def test_an_error_in_a_fault_fails_the_test_that_passed_it() -> None:
    def broken(request: ParsedRequest) -> None:
        raise ZeroDivisionError

    def run() -> None:
        with TrackAPI(answer=broken) as api, connect(api) as connection:
            connection.sendall(http("DELETE", CUSTOMER))
            assert connection.recv(1) == b""

    with pytest.raises(ZeroDivisionError):
        run()


def test_waiting_too_long_raises_an_error_with_the_counts(api: TrackAPI) -> None:
    with pytest.raises(TimeoutError, match="0 requests arrived"):
        api.wait_until(lambda: False, timeout=0.05)
