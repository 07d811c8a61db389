"""The client against real sockets: the stand-in for the Track API, and servers that misbehave."""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.customerio.calls import (
    AddDevice,
    AddRelationships,
    Call,
    DeleteDevice,
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
    WorkspaceIdentifiers,
)
from gateway.customerio.client import Client
from gateway.customerio.connection import Connection
from gateway.customerio.dry_run import DryRun
from gateway.customerio.retry import Attempt, Policy
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.customerio.wire import MAX_ITEM_BYTES
from gateway.errors import CallError, SendError
from tests.support.trackapi import Answer, Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

CALL = Identify(id="a/../b +%ü", attributes={"x": 1}).request()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"
ANN = "ann.secret@example.com"
NO_JSON = "the answer is not Customer.io's JSON: something else answers at this address"
STANDARD = Policy()
NO_RETRY = Policy(max=0)
UNAVAILABLE = Reply(status=503)
Handler = Callable[[socket.socket], None]


@contextmanager
def calling(
    url: str,
    *,
    policy: Policy = STANDARD,
    rate: float = 1_000,
    deadline: float = 5.0,
    identifiers: WorkspaceIdentifiers | None = None,
) -> Iterator[tuple[Client, list[float]]]:
    """A client that does not wait, and the waits that it would have made."""
    connection = Connection(
        site_id="site", api_key="key", base_url=url, policy=policy, rate=rate, identifiers=identifiers
    )
    waits: list[float] = []
    with Client(connection, deadline=deadline, sleep=waits.append, jitter=lambda: 1.0) as client:
        yield client, waits


def attempt_at(url: str, *, deadline: float = 5.0) -> Attempt:
    with calling(url, deadline=deadline) as (client, _):
        return client.send(CALL, "default")


def at_first(*faults: Fault) -> Answer:
    """Answer the first requests with these faults, one each."""
    left = iter(faults)
    return lambda _: next(left, None)


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A server that gives each of its connections to a function."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def accept() -> None:
            while not stopping.is_set():
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    if not stopping.is_set():
                        handler(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def receive(connection: socket.socket) -> bytes:
    """Read one whole request, or what arrives of it before the client leaves."""
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: ([0-9]+)", head)
        more = b"" if end and len(body) == int(length[1] if length else 0) else connection.recv(65_536)
        if not more:
            return received
        received += more


# One attempt


def test_a_request_goes_out_byte_for_byte_with_its_credentials() -> None:
    received: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(OK)

    with serving(handle) as url:
        assert attempt_at(url).status == 200
    head, _, body = received[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PUT /api/v1/customers/a%2F..%2Fb%20%2B%25%C3%BC HTTP/1.1"
    assert b"Authorization: Basic c2l0ZTprZXk=" in lines
    assert b"Content-Type: application/json" in lines
    assert any(line.startswith(b"User-Agent: customerio-gateway/") for line in lines)
    assert body == b'{"x":1}'


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_no_credentials_go_there(status: int) -> None:
    with TrackAPI() as other:
        reply = Reply(status=status, headers={"Location": f"{other.url}/api/v1/customers/42"})
        with TrackAPI(answer=lambda _: reply) as api, calling(api.url) as (client, _):
            for call in (Identify(id="42"), RawRequest(path="/v1/accounts/region")):
                with pytest.raises(SendError) as error:
                    client.call(call)
                assert str(error.value) == f"HTTP {status}: redirected, so the region is probably wrong"
            assert api.requests == 2
        assert other.requests == 0


@pytest.mark.parametrize("location", ["http://[::1", "/caf\xe9"])
def test_a_redirect_to_nowhere_is_an_attempt_with_a_reason(location: str) -> None:
    with TrackAPI(answer=lambda _: Reply(status=302, headers={"Location": location})) as api:
        attempt = attempt_at(api.url)
    assert (attempt.status, attempt.reason) == (302, "HTTP 302: redirected, so the region is probably wrong")


@pytest.mark.parametrize(
    ("beginning", "trickle"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", b" "), (b"HTTP/1.1 200 OK\r\nX: ", b"y"), (b"", b"")],
    ids=["trickling body", "trickling headers", "silence"],
)
def test_a_slow_answer_is_ended_at_the_deadline(beginning: bytes, trickle: bytes) -> None:
    left = threading.Event()

    def handle(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(beginning)
        with suppress(OSError):
            while not left.wait(0.05):
                connection.sendall(trickle)

    with serving(handle) as url:
        attempt = attempt_at(url, deadline=0.5)
        left.set()
    assert (attempt.status, attempt.reason) == (None, "no whole answer within 0.5 s")
    assert 0.4 < attempt.seconds < 2


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    def handle(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b" " * 2_000_000)

    with serving(handle) as url:
        attempt = attempt_at(url)
    assert (attempt.status, attempt.reason) == (None, "HTTP 200 with an answer of over 1048576 bytes")


def test_neither_a_reason_nor_a_repr_shows_the_key() -> None:
    connection = Connection(name="default", site_id="site", api_key="s3cret", base_url="http://127.0.0.1:1")
    assert "s3cret" not in repr(connection)
    with Client(connection) as client:
        assert "s3cret" not in str(client.send(CALL, "default"))


def test_a_dry_run_prints_the_request_and_sends_nothing() -> None:
    out = io.StringIO()
    attempt = DryRun({}, out).send(Track(id="42", name="Päid").request(), "default", "eu")
    assert attempt.status == 200
    assert out.getvalue() == (
        "POST https://track-eu.customer.io/api/v1/customers/42/events\n"
        "Content-Type: application/json\n"
        "\n"
        '{"name":"Päid","type":"event","data":{}}\n'
        "\n"
    )


# Sent at once


def test_a_program_sends_each_call_in_one_line() -> None:
    with TrackAPI(region="eu") as api, calling(api.url) as (client, waits):
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        answer = client.identify(id=42, attributes={"plan": "pro", "since": moment, "credit": Decimal("1.5")})
        assert (answer.status, answer.json, answer.text) == (200, {}, "{}\n")
        client.track(id=42, name="Order Paid", attributes={"total": 49.5}, event_id=ULID, timestamp=moment)
        client.page(id=42, url="https://example.com/")
        client.track(anonymous_id="a", name="Seen")
        client.destroy(id=42)
        assert client.call(SubmitForm(form_id="f", id="1")).status == 204
        assert client.request("/v1/accounts/region").json == {
            "url": "https://track-eu.customer.io",
            "region": "eu",
            "environment_id": 1,
        }
        assert (api.refused, waits) == ([], [])
        applied = api.applied("42")
        assert [operation.kind for operation in applied] == ["identify", "event", "page", "delete"]
        assert applied[0].body == {"plan": "pro", "since": 1_767_225_600, "credit": 1.5}
        assert applied[1].body == {
            "name": "Order Paid",
            "type": "event",
            "id": ULID,
            "timestamp": 1_767_225_600,
            "data": {"total": 49.5},
        }
        assert len(api.applied_anonymously("a")) == 1


@pytest.mark.parametrize(("method", "field"), [("track", {"name": "Order Paid"}), ("page", {"url": "*"})])
def test_an_event_counts_once_when_its_answer_is_lost(method: str, field: dict[str, str]) -> None:
    with TrackAPI(answer=at_first(Reset(applied=True))) as api, calling(api.url) as (client, waits):
        getattr(client, method)(id="42", **field)
        (applied,) = api.applied("42")
        assert is_ulid(str(applied.body["id"]))
        assert (api.requests, api.repeats, api.conflicts, waits) == (2, 1, [], [1.0])


def test_each_event_has_its_own_id_unless_it_is_given_one() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        for event_id in (None, None, "order-7", "order-7"):
            client.track(id="42", name="Order Paid", event_id=event_id)
        ids = [operation.body["id"] for operation in api.applied("42")]
        assert len(set(ids)) == 3
        assert ids[2] == ulid_of_text('["track", "id:42", "Order Paid", "order-7"]')
        assert (api.repeats, api.conflicts) == (1, [])


# The faults of the first requests, the waits before the others, and the status of the error if it ends in one.
RETRIES: list[tuple[list[Fault], Policy, list[float], int | None]] = [
    ([Reply(status=500)], STANDARD, [1.0], 200),
    ([UNAVAILABLE, Reset(applied=False), Reset(applied=True)], STANDARD, [1.0, 2.0, 4.0], 200),
    ([Reply(status=502, body=b"<html>")], STANDARD, [1.0], 200),
    ([Reply(status=503, headers={"Retry-After": "7"})], STANDARD, [7.0], 200),
    ([Reply(status=429, headers={"Retry-After": "60"}), Reply(status=429)], STANDARD, [60.0, 2.0], 200),
    ([Reply(status=408)], STANDARD, [1.0], 200),
    ([UNAVAILABLE] * 9, STANDARD, [1.0, 2.0, 4.0], 503),
    ([Reset(applied=False)] * 9, STANDARD, [1.0, 2.0, 4.0], None),
    ([UNAVAILABLE] * 9, NO_RETRY, [], 503),
    ([UNAVAILABLE] * 9, Policy(max=2, delay=0.1, exponential=False), [0.1, 0.1], 503),
    ([Reply(status=503, headers={"Retry-After": "61"})], STANDARD, [], 503),
    ([Reply(status=400)], STANDARD, [], 400),
    ([Reply(status=401)], STANDARD, [], 401),
    ([Reply(status=403)], STANDARD, [], 403),
    ([Reply(status=404)], STANDARD, [], 404),
    ([Reply(status=302)], STANDARD, [], 302),
    ([Reply(status=200, body=b"<html>")], STANDARD, [], 200),
    ([Reply(status=400), Reply(status=401)], Policy(all_errors=True), [1.0, 2.0], 200),
    ([Reply(status=400)] * 9, Policy(all_errors=True, max=1), [1.0], 400),
]


@pytest.mark.parametrize(("faults", "policy", "waits", "status"), RETRIES)
def test_a_call_is_retried_where_that_may_help(
    faults: list[Fault], policy: Policy, waits: list[float], status: int | None
) -> None:
    arrives = len(waits) == len(faults)
    attempts: list[Attempt] = []
    with TrackAPI(answer=at_first(*faults)) as api, calling(api.url, policy=policy) as (client, waited):
        call = Identify(id="42", attributes={"a": 1})
        if arrives:
            assert client.call(call, on_attempt=attempts.append).status == 200
        else:
            with pytest.raises(SendError) as error:
                client.call(call, on_attempt=attempts.append)
            assert error.value.status == status
            more = f" (given up after {len(attempts)} tries)" if len(attempts) > 1 else ""
            assert str(error.value) == f"{attempts[-1].reason}{more}"
        assert waited == waits
        assert api.requests == len(attempts) == len(waits) + 1
        assert api.people == ({"id:42": {"a": 1}} if arrives else {})


@pytest.mark.parametrize(
    ("own", "fault", "waits"),
    [
        ({}, UNAVAILABLE, [1.0, 2.0, 4.0]),
        ({"max": 0}, UNAVAILABLE, []),
        ({"max": 2, "delay_ms": 250}, UNAVAILABLE, [0.25, 0.5]),
        ({"max": 2, "delay_ms": 250, "exponential": False}, UNAVAILABLE, [0.25, 0.25]),
        ({"max": 1, "all_errors": True}, Reply(status=400), [1.0]),
    ],
)
def test_a_raw_request_has_its_own_settings_alone_and_in_a_batch(
    own: dict[str, Any], fault: Reply, waits: list[float]
) -> None:
    with TrackAPI(answer=lambda _: fault) as api, calling(api.url) as (client, waited):
        with pytest.raises(SendError, match=f"HTTP {fault.status}"):
            client.request("/v1/accounts/region", retry=own)
        assert client.batch([RawRequest(path="/v1/accounts/region", retry=own)]) == [f"HTTP {fault.status}"]
        assert waited == waits * 2


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (
            Reply(status=400, body=b'{"meta":{"error":"name cannot be blank"}}'),
            400,
            "HTTP 400: name cannot be blank",
        ),
        (Reply(status=401, body=b'{"meta":{"error":"Unauthorized"}}'), 401, "HTTP 401: Unauthorized"),
        (Reply(status=403, body=f"<html>{ANN} must not</html>".encode()), 403, f"HTTP 403: {NO_JSON}"),
        (Reply(status=200, body=f"<html>{ANN}</html>".encode()), 200, f"HTTP 200: {NO_JSON}"),
        (
            Reply(status=301, headers={"Location": f"http://127.0.0.1:1/{ANN}"}),
            301,
            "HTTP 301: redirected, so the region is probably wrong",
        ),
        (Reply(status=500), 500, "HTTP 500"),
        (Reset(applied=False), None, "the connection failed: Connection reset by peer"),
    ],
)
def test_an_error_says_what_went_wrong_and_nothing_of_what_was_sent(
    fault: Fault, status: int | None, reason: str
) -> None:
    with (
        TrackAPI(answer=lambda _: fault) as api,
        calling(api.url, policy=NO_RETRY) as (client, _),
        pytest.raises(SendError) as error,
    ):
        client.track(id=ANN, name="secret", attributes={"note": "secret"})
    assert (error.value.status, str(error.value)) == (status, reason)
    assert "secret" not in repr(error.value)


def test_an_error_of_the_network_does_not_show_the_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with calling(url, policy=NO_RETRY) as (client, _), pytest.raises(SendError) as error:
        client.destroy(id=ANN)
    assert (error.value.status, str(error.value)) == (None, "the connection failed: Connection refused")


NOT_SENT: list[tuple[str, dict[str, Any], str]] = [
    ("identify", {}, "'identify' names nobody; give it one of cio_id, id, email, phone"),
    ("identify", {"id": "", "email": None}, "'identify' names nobody; give it one of cio_id, id, email, phone"),
    (
        "track",
        {"name": "x"},
        "'track' names nobody; give it one of cio_id, id, email, phone, anonymous_id",
    ),
    ("destroy", {"id": ".."}, 'id "." and ".." cannot be sent: they change where the request goes'),
    ("destroy", {"id": " "}, "id is blank; Customer.io needs an identifier"),
    ("destroy", {"email": 42}, "email is no email address; if it is an id, write  id: =…"),
    ("track", {"id": 1, "email": "x", "name": "x"}, "email is no email address; if it is an id, write  id: =…"),
    ("destroy", {"id": True}, "id must be text or a number, got a bool"),
    ("identify", {"id": "x" * 151}, "id is 151 bytes long; Customer.io takes 150"),
    (
        "identify",
        {"id": 1, "attributes": {"a": {1, 2}}},
        "attributes.a is a set, which JSON does not know; send it as text or a number",
    ),
    ("identify", {"id": 1, "attributes": {"a": "\ud800"}}, "attributes holds text that is not valid Unicode"),
    ("track", {"id": 1, "name": ""}, "name is blank; Customer.io needs the name"),
    ("identify", {"id": 1, "timestamp": 1_767_225_600_000}, "timestamp is not whole unix seconds; write unix(…)"),
    ("track", {"id": 1, "name": "x", "timestamp": "2026"}, "timestamp is not whole unix seconds; write unix(…)"),
    ("identify", {"id": 1, "region": "mars"}, "region must be one of us, eu"),
    ("page", {"id": 1, "url": " "}, "url is blank; Customer.io needs the url"),
    ("identify", {"id": 1, "update_only": "yes"}, "update_only must be True or False, got a str"),
    ("request", {"path": "/v1/../x"}, 'path must not have a segment "." or "..": they change where the request goes'),
    (
        "request",
        {"path": "https://example.com/"},
        "path has to be a path below /api that starts with one slash, as /v1/accounts/region",
    ),
    ("request", {"path": "/v1/x", "headers": {"Authorization": "x"}}, "headers.Authorization is set by the gateway"),
    ("request", {"path": "/v1/x", "retry": {"max": -1}}, "retry.max has to be a whole number from 0 to 100"),
    # whatever they say
    ("identify", {"id": float("nan")}, "*"),
    ("request", {"path": "/v1/accounts/region", "headers": {"X-Note": " a"}}, "*"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "fields", "problem"), NOT_SENT)
def test_what_customerio_would_refuse_or_replace_is_not_sent(method: str, fields: dict[str, Any], problem: str) -> None:
    with TrackAPI() as api, calling(api.url) as (client, waits):
        with pytest.raises(CallError) as error:
            getattr(client, method)(**fields)
        assert problem == "*" or str(error.value) == problem
        assert (api.requests, waits) == (0, [])


def test_a_connection_that_is_not_known_says_which_variables_are_missing() -> None:
    expected = "connection 'eu-prod' is not known: set CUSTOMERIO_EU_PROD_SITE_ID and CUSTOMERIO_EU_PROD_API_KEY"
    with TrackAPI() as api, calling(api.url) as (client, _):
        with pytest.raises(SendError) as error:
            client.destroy(id=1, connection="eu-prod")
        assert (error.value.status, str(error.value)) == (None, expected)
        with pytest.raises(SendError) as error:
            client.batch([Destroy(id="1"), Destroy(id="2")], connection="eu-prod")
        assert (error.value.status, str(error.value)) == (None, expected)
        assert client.send(CALL, "eu-prod").reason == expected
        assert client.probe("eu-prod").reason == expected
        assert api.requests == 0


def test_each_connection_has_its_own_credentials() -> None:
    with TrackAPI(api_key="one") as first, TrackAPI(api_key="two") as second:
        connections = {
            "first": Connection(name="first", site_id="site", api_key="one", base_url=first.url),
            "second": Connection(name="second", site_id="site", api_key="two", base_url=f"{second.url}/"),
        }
        with Client(connections) as client:
            client.destroy(id="1", connection="first")
            assert client.batch([Destroy(id="2"), Destroy(id="3")], connection="second") == [None, None]
        assert (first.count_applied(), second.count_applied()) == (1, 2)


@pytest.mark.parametrize(
    ("own", "region", "host"),
    [
        ("us", None, "track.customer.io"),
        ("eu", None, "track-eu.customer.io"),
        ("us", "eu", "track-eu.customer.io"),
        ("eu", "us", "track.customer.io"),
    ],
)
def test_a_call_goes_to_the_host_of_its_region(
    own: str, region: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    # A proxy learns the host, and nothing of what goes there.
    with serving(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with Client(Connection(site_id="site", api_key="key", region=own, policy=NO_RETRY)) as client:
            with pytest.raises(SendError, match="the connection failed: "):
                client.destroy(id=ANN, region=region)
            with pytest.raises(SendError, match="the connection failed: "):
                client.request("/v1/accounts/region", region=region)
            assert client.batch([Destroy(id="1"), Destroy(id="2")], region=region)[0] is not None
    assert [head.split(b" HTTP")[0] for head in received] == [f"CONNECT {host}:443".encode()] * 3
    assert not any(b"uthorization" in head or b"ann" in head for head in received)


@pytest.mark.parametrize(
    ("timeout", "deadline", "seconds"), [(0.2, 5.0, "0.2"), (10.0, 0.2, "0.2"), (None, 0.2, "0.2")]
)
def test_a_raw_request_may_be_given_less_time_but_not_more(
    timeout: float | None, deadline: float, seconds: str
) -> None:
    attempts: list[Attempt] = []
    with (
        TrackAPI(answer=lambda _: Hang()) as api,
        calling(api.url, deadline=deadline, policy=NO_RETRY) as (client, _),
        pytest.raises(SendError, match=f"^no whole answer within {seconds} s$"),
    ):
        client.call(RawRequest(path="/v1/accounts/region", timeout=timeout), on_attempt=attempts.append)
    assert 0.1 < attempts[0].seconds < 2


def test_debug_keeps_what_was_sent_and_answered_without_credentials() -> None:
    attempts: list[Attempt] = []
    call = RawRequest(path="/v1/customers/42/events", data={"name": "Päid"}, debug=True)
    with TrackAPI(answer=at_first(Reset(applied=False))) as api, calling(api.url) as (client, _):
        client.call(call, on_attempt=attempts.append)
    lost, arrived = (attempt.debug or "" for attempt in attempts)
    assert lost == 'POST /api/v1/customers/42/events\nContent-Type: application/json\n\n{"name":"Päid"}'
    assert arrived.startswith(f"{lost}\n\nHTTP 200\n")
    assert "c2l0ZTprZXk=" not in arrived
    assert "uthorization" not in arrived


@pytest.mark.parametrize(("response_type", "body"), [("text", b"gr\xc3\xbc\xc3\x9fe"), ("binary", b"\x89PNG\xff\x00")])
def test_a_raw_request_may_ask_for_an_answer_that_is_no_json(response_type: str, body: bytes) -> None:
    with TrackAPI(answer=lambda _: Reply(status=200, body=body)) as api, calling(api.url) as (client, _):
        assert client.request("/v1/export", response_type=response_type).body == body
        with pytest.raises(SendError, match="is not Customer"):
            client.request("/v1/export")


def test_threads_may_share_a_client() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _), ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda number: client.identify(id=number % 10, attributes={"a": number}), range(80))
        assert {answer.status for answer in answers} == {200}
        assert (api.count_applied(), len(api.people), api.refused) == (80, 10, [])


def test_requests_keep_to_the_rate_of_their_connection() -> None:
    with TrackAPI(answer=at_first(Reply(status=500))) as api, calling(api.url, rate=0.1) as (client, waits):
        client.destroy(id=1)
        client.destroy(id=1)
        client.batch([Destroy(id="1"), Destroy(id="2"), RawRequest(path="/v1/accounts/region")])
        assert api.requests == 5
    retry, *turns = waits
    assert retry == 1.0
    # Nobody waited here, so each has to wait ten seconds longer than the one before.
    assert turns == pytest.approx([10, 20, 30, 40], abs=5)


# Many at once


@pytest.mark.parametrize(("number", "batches", "requests"), [(250, [100, 100, 50], 3), (1, [], 1), (0, [], 0)], ids=str)
def test_many_calls_go_out_in_few_requests(number: int, batches: list[int], requests: int) -> None:
    with TrackAPI() as api, calling(api.url) as (client, waits):
        assert client.batch(Identify(id=str(person)) for person in range(number)) == [None] * number
        assert (api.requests, api.batches, len(api.people), waits) == (requests, batches, number, [])


def test_the_calls_of_one_person_keep_their_order() -> None:
    calls: list[Call] = [
        Identify(id="1", attributes={"n": 1}),
        Identify(id="2", attributes={"n": 1}),
        Track(id="1", name="a"),
        Destroy(id="1"),
        Identify(email="Ann@example.com", attributes={"n": 1}),
        Identify(id="ann@example.com", attributes={"n": 2}),
        Identify(id="1", attributes={"n": 2}),
    ]
    with TrackAPI() as api, calling(api.url) as (client, _):
        assert client.batch(calls) == [None] * 7
        assert [operation.kind for operation in api.applied("1")] == ["identify", "event", "delete", "identify"]
        assert api.people == {"id:1": {"n": 2}, "id:2": {"n": 1}, "email:ann@example.com": {"n": 2}}
        assert (api.batches, api.singles) == ([3], 4)


def test_a_merge_waits_for_both_people_and_both_for_it() -> None:
    calls: list[Call] = [
        Identify(id="1", attributes={"a": 1}),
        Identify(id="2", attributes={"b": 1}),
        Merge(into={"id": "1"}, from_={"id": "2"}),
        Identify(id="2", attributes={"c": 1}),
        Identify(id="1", attributes={"c": 1}),
    ]
    with TrackAPI() as api, calling(api.url) as (client, _):
        assert client.batch(calls) == [None] * 5
        assert api.people == {"id:1": {"a": 1, "b": 1, "c": 1}, "id:2": {"c": 1}}
        assert api.batches == [2, 2]


def test_a_call_without_a_form_for_a_batch_goes_singly() -> None:
    calls: list[Call] = [
        Identify(id="1"),
        SubmitForm(form_id="sign up", id="2", attributes={"color": "red"}),
        RawRequest(path="/v1/accounts/region"),
        Track(id="large", name="x", attributes={"text": "v" * (MAX_ITEM_BYTES + 1)}),
        Identify(id="3", attributes={"anonymous_id": "a"}),
        Track(anonymous_id="a", name="Seen"),
    ]
    with TrackAPI() as api, calling(api.url) as (client, _):
        assert client.batch(calls) == [None] * 6
        assert (api.batches, api.singles, api.requests) == ([2], 3, 5)
        assert [operation.kind for operation in api.applied("large")] == ["event"]
        assert api.applied("2")[0].body == {"form_id": "sign up", "data": {"color": "red", "id": "2"}}
        assert api.refused == []


BAD = {"poison": True}


def poison(operation: dict[str, Any]) -> str | None:
    return "poison" if "poison" in operation["body"] else None


def malformed(seen: ParsedRequest) -> Reply | None:
    return Reply(status=400, body=b'{"errors":[{"reason":"malformed"}]}') if b"poison" in seen.body else None


@pytest.mark.parametrize(
    ("server", "reason", "requests"),
    [
        (TrackAPI(refuse_item=poison), "HTTP 400: poison", 2),
        (TrackAPI(answer=malformed), "HTTP 400: malformed", 9),
    ],
    ids=["an item is refused", "the whole batch is refused"],
)
def test_a_bad_call_of_a_batch_fails_alone(server: TrackAPI, reason: str, requests: int) -> None:
    calls = [Identify(id=str(person), attributes=BAD if person == 4 else {}) for person in range(10)]
    with server as api, calling(api.url) as (client, waits):
        assert client.batch(calls) == [None] * 4 + [reason] + [None] * 5
        assert (len(api.people), waits) == (9, [])
        assert api.requests <= requests


@pytest.mark.parametrize(("identifiers", "refused", "singles"), [(None, 1, 2), ("id", 0, 0)])
def test_a_call_reaches_the_same_person_singly_as_in_a_batch(
    identifiers: WorkspaceIdentifiers | None, refused: int, singles: int
) -> None:
    calls: list[Call] = [Identify(id="1"), Destroy(id="2"), Identify(email="Ann@b.c"), Identify(id="bob@b.c")]
    with TrackAPI(identifiers=("id",)) as api, calling(api.url, identifiers=identifiers) as (client, waits):
        assert client.batch(calls) == [None] * 4
        assert api.people.keys() == {"id:1", "id:Ann@b.c", "id:bob@b.c"}
        assert (len(api.refused), api.singles, waits) == (refused, singles, [])


def test_a_call_that_a_batch_refused_stays_out_of_batches() -> None:
    calls = [Identify(email="ann@b.c"), Identify(email="bob@b.c")]
    answers = iter([None, UNAVAILABLE, UNAVAILABLE])
    with (
        TrackAPI(identifiers=("id",), answer=lambda _: next(answers, None)) as api,
        calling(api.url) as (client, _),
    ):
        assert client.batch(calls) == [None] * 2
        assert (api.batches, api.singles) == ([2], 2)


def test_a_batch_is_retried_and_its_events_count_once() -> None:
    calls = [Track(id=str(person), name="x") for person in range(10)]
    with TrackAPI(answer=at_first(UNAVAILABLE, Reset(applied=True))) as api, calling(api.url) as (client, waits):
        assert client.batch(calls) == [None] * 10
        assert waits == [1.0, 2.0]
        assert (api.requests, api.count_applied(), api.repeats) == (3, 10, 10)


def test_only_calls_that_failed_are_retried() -> None:
    left = iter([None, UNAVAILABLE, UNAVAILABLE])
    calls = [Identify(id=str(person), attributes=BAD if person == 4 else {}) for person in range(101)]
    with (
        TrackAPI(answer=lambda _: next(left, None), refuse_item=poison) as api,
        calling(api.url) as (client, waits),
    ):
        reasons = client.batch(calls)
        assert [number for number, reason in enumerate(reasons) if reason] == [4]
        assert (api.requests, api.batches, api.singles) == (5, [100], 2)
        assert waits == [1.0, 2.0]


def test_failed_calls_are_retried_after_the_longest_of_their_delays() -> None:
    faults = [Reply(status=503, headers={"Retry-After": seconds}) for seconds in ("9", "3")]
    with TrackAPI(answer=at_first(*faults)) as api, calling(api.url) as (client, waits):
        assert client.batch([Identify(id=str(person)) for person in range(101)]) == [None] * 101
        assert waits == [9.0]


def test_in_an_outage_every_call_has_a_reason_and_the_later_calls_of_a_person_are_still_tried() -> None:
    with TrackAPI(answer=lambda _: UNAVAILABLE) as api, calling(api.url) as (client, waits):
        assert client.batch([Identify(id="1"), Identify(id="2"), Destroy(id="1")]) == ["HTTP 503"] * 3
        assert waits == [1.0, 2.0, 4.0] * 2


def test_no_call_is_sent_if_one_of_them_cannot_be() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        with pytest.raises(CallError, match="names nobody"):
            client.batch([Identify(id="1"), Identify(), Identify(id="2")])
        assert api.requests == 0


PEOPLE = ("1", "2", "a@example.com")
ACME: dict[str, Any] = {"object_type_id": "1", "object_id": "acme"}


def any_call(number: int) -> st.SearchStrategy[Call]:
    """Make a call of any kind; *number* tells it from all others."""
    people, named = st.sampled_from(PEOPLE), {"event_id": f"event-{number}", "name": f"e{number}"}

    def of_person(kind: Callable[..., Call], **fields: Any) -> st.SearchStrategy[Call]:
        return people.map(lambda person: kind(id=person, **fields))

    return st.one_of(
        of_person(Identify, attributes={"n": number}),
        of_person(Identify, attributes={"n": number, "anonymous_id": "a"}),
        of_person(Identify, attributes={"n": number, **BAD}),
        of_person(Identify, attributes={f"m{number}": number}, timestamp=1_767_225_600 + number),
        of_person(Track, attributes={"n": number}, **named),
        of_person(Track, attributes={"text": "v" * MAX_ITEM_BYTES}, **named),
        of_person(Page, url="*", event_id=f"page-{number}"),
        of_person(Screen, **named),
        of_person(Destroy),
        of_person(Suppress),
        of_person(Unsuppress),
        of_person(AddDevice, token="t", platform="ios", attributes={"n": str(number)}),
        of_person(DeleteDevice, token="t"),
        of_person(AddRelationships, objects=[{**ACME, "attributes": {"n": number}}]),
        of_person(DeleteRelationships, objects=[ACME]),
        of_person(SubmitForm, form_id="f", attributes={"n": str(number)}),
        st.just(IdentifyObject(**ACME, attributes={"n": number})),
        st.permutations(PEOPLE).map(lambda two: Merge(into=identifier(two[0]), from_=identifier(two[1]))),
    )


def identifier(person: str) -> Mapping[str, str]:
    return {"email" if "@" in person else "id": person}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 25).flatmap(lambda number: st.tuples(*map(any_call, range(number)))))
def test_a_batch_leaves_the_same_state_as_its_calls_one_by_one(several: tuple[Call, ...]) -> None:
    with TrackAPI(refuse_item=poison) as api, calling(api.url) as (client, _):
        reasons = client.batch(several)
        together, conflicts = api.state, api.conflicts
    with TrackAPI(refuse_item=poison) as api, calling(api.url) as (client, _):
        one_by_one = []
        for call in several:
            try:
                client.call(call)
                one_by_one.append(True)
            except SendError:
                one_by_one.append(False)
        assert together == api.state
        assert conflicts == api.conflicts == []
    assert [reason is None for reason in reasons] == one_by_one


# Connections that are kept open


def test_a_connection_that_was_closed_while_it_was_idle_is_replaced_without_an_error() -> None:
    received: list[bytes] = []
    closed = threading.Event()

    def answer_and_leave(connection: socket.socket) -> None:
        received.append(receive(connection))
        connection.sendall(OK)
        connection.close()  # without having announced it
        closed.set()

    with serving(answer_and_leave) as url, calling(url) as (client, waits):
        for _ in range(3):
            closed.clear()
            assert client.send(CALL, "default").reason is None
            assert closed.wait(5)
        client.identify(id="1")
    assert (len(received), waits) == (4, [])


def test_a_connection_that_dies_when_it_is_used_again_is_a_failure_and_is_retried() -> None:
    received: list[bytes] = []

    def leave_on_the_second(connection: socket.socket) -> None:
        is_first = not received
        received.append(receive(connection))
        connection.sendall(OK)
        if is_first:
            received.append(receive(connection))

    with serving(leave_on_the_second) as url, calling(url) as (client, waits):
        client.track(id="1", name="x")
        client.track(id="1", name="x")
    assert waits == [1.0]
    one, two, again = (request.partition(b"\r\n\r\n")[2] for request in received)
    assert two == again != one


def test_an_answer_that_announces_the_end_of_its_connection_is_whole() -> None:
    def handle(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    with serving(handle) as url, calling(url) as (client, waits):
        for _ in range(3):
            assert client.identify(id="1").json == {}
    assert waits == []


# Probes


class _TwoHosts(Connection):
    """A connection with a host on loopback for each region."""

    def host(self, region: str | None = None) -> str:
        return str(self.base_url).split(" ")[(region or self.region) == "eu"]


WRONG_KEY = "HTTP 401: the site id or the API key is wrong (CUSTOMERIO_SITE_ID, CUSTOMERIO_API_KEY)"


IN_EU = "the workspace is in eu, not in us: "


@pytest.mark.parametrize(
    ("key", "own", "region", "problem"),
    [
        ("key", "us", None, f"{IN_EU}set CUSTOMERIO_REGION=eu"),
        ("key", "eu", None, None),
        ("key", "eu", "us", f"{IN_EU}write region: eu in the mapping, or leave the region out"),
        ("wrong", "us", None, WRONG_KEY),
        ("wrong", "eu", None, WRONG_KEY),
    ],
)
def test_a_probe_finds_a_wrong_key_or_region(key: str, own: str, region: str | None, problem: str | None) -> None:
    """A key that another region's host knows is not wrong; the region is."""
    with TrackAPI(api_key="of somebody else") as us, TrackAPI(region="eu") as eu:
        connection = _TwoHosts(site_id="site", api_key=key, region=own, base_url=f"{us.url} {eu.url}")
        with Client(connection) as client:
            probe = client.probe("default", region)
            assert (probe.cause, probe.reason) == (problem and "misconfigured", problem)


def test_a_probe_finds_a_wrong_key_although_the_other_region_is_not_reached() -> None:
    with TrackAPI(api_key="of somebody else") as us:
        connection = _TwoHosts(site_id="site", api_key="key", base_url=f"{us.url} http://127.0.0.1:9")
        with Client(connection) as client:
            assert client.probe("default").cause == "misconfigured"


def test_what_is_being_sent_can_be_broken_off_long_before_its_deadline() -> None:
    with TrackAPI(answer=lambda _: Hang()) as api:
        connection = Connection(site_id="site", api_key="key", region="us", base_url=api.url)
        with Client(connection, deadline=60.0) as client, ThreadPoolExecutor() as pool:
            sending = pool.submit(client.send, Identify(id="ann", attributes={"a": 1}).request(), "default")
            time.sleep(0.3)
            assert not sending.done()
            client.break_off(0.1)
            assert sending.result(timeout=20).status is None
