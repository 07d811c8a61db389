"""The client against real sockets: the stand-in for the Track API, and servers that misbehave."""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import formatdate
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
)
from gateway.customerio.client import Client, DryRun
from gateway.customerio.connection import Connection
from gateway.customerio.retry import Attempt, Policy
from gateway.customerio.ulids import is_ulid, ulid_of_text
from gateway.customerio.wire import MAX_ITEM_BYTES
from gateway.errors import CallError, SendError
from tests.support.trackapi import Answer, Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

CALL = Identify(id="a/../b +%ü", attributes={"x": 1}).request()
Handler = Callable[[socket.socket], None]


def client_of(url: str, *, deadline: float = 5.0, api_key: str = "key") -> Client:
    connection = Connection(name="default", site_id="site", api_key=api_key, base_url=url)
    return Client({"default": connection}, deadline=deadline)


def send(client: Client) -> Attempt:
    try:
        return client.send(CALL, "default")
    finally:
        client.close()


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A server whose connections are handled by a function that plays them on the bare socket."""
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


def answering(answer: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    return handle


def test_a_request_goes_out_byte_for_byte_with_its_credentials() -> None:
    seen: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        received = connection.recv(65_536)
        while not received.endswith(b"}"):
            received += connection.recv(65_536)
        seen.append(received)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with serving(handle) as url:
        assert send(client_of(url)).status == 200
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PUT /api/v1/customers/a%2F..%2Fb%20%2B%25%C3%BC HTTP/1.1"
    assert b"Authorization: Basic c2l0ZTprZXk=" in lines
    assert b"Content-Type: application/json" in lines
    assert body == b'{"x":1}'


def test_the_stand_in_takes_each_of_the_calls_over_one_connection() -> None:
    with TrackAPI() as api:
        client = client_of(api.url)
        for call in (Identify(id="1", attributes={"a": 1}), Track(id="1", name="x"), Destroy(id="1")):
            attempt = client.send(call.request(), "default")
            assert (attempt.status, attempt.reason, attempt.understood) == (200, None, True)
        assert api.refused == []
        assert [each.kind for each in api.applied("1")] == ["identify", "event", "delete"]
        client.close()


def test_a_region_of_the_call_wins_over_the_connections() -> None:
    connection = Connection(name="default", site_id="site", api_key="key", region="us")
    assert connection.host() == "https://track.customer.io"
    assert connection.host("eu") == "https://track-eu.customer.io"


def test_a_wrong_key_is_an_attempt_with_a_reason() -> None:
    with TrackAPI() as api:
        attempt = send(client_of(api.url, api_key="wrong"))
    assert attempt.status == 401
    assert attempt.reason is not None
    assert attempt.reason.startswith("HTTP 401")


def test_the_region_is_asked_for() -> None:
    with TrackAPI(region="eu") as api:
        client = client_of(api.url)
        assert client.region_of("default") == ("eu", None)
        client.close()
        wrong = client_of(api.url, api_key="wrong")
        assert wrong.region_of("default") == (
            None,
            "HTTP 401: the site id or the API key is wrong (CUSTOMERIO_SITE_ID, CUSTOMERIO_API_KEY)",
        )
        wrong.close()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"meta":{"error":"id attribute must be present"}}', "HTTP 400: id attribute must be present"),
        (b'{"meta":{"errors":["a","b"]}}', "HTTP 400: a; b"),
        (
            b'{"errors":[{"reason":"invalid","field":"name","message":"is blank"}]}',
            "HTTP 400: name: invalid: is blank",
        ),
        (b"", "HTTP 400"),
        (b"<html>", "HTTP 400: the answer is not Customer.io's JSON: something else answers at this address"),
    ],
)
def test_every_shape_of_error_becomes_one_reason(body: bytes, reason: str) -> None:
    with TrackAPI(answer=lambda _: Reply(status=400, body=body)) as api:
        assert send(client_of(api.url)).reason == reason


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with TrackAPI() as other:
        reply = Reply(status=status, headers={"Location": f"{other.url}/api/v1/customers/1"})
        with TrackAPI(answer=lambda _: reply) as api:
            attempt = send(client_of(api.url))
        assert attempt.status == status
        assert attempt.reason == f"HTTP {status}: redirected, so the region is probably wrong"
        assert other.requests == 0


def test_a_success_that_is_not_json_is_not_understood() -> None:
    with TrackAPI(answer=lambda _: Reply(status=200, body=b"<html>Welcome to the airport</html>")) as api:
        attempt = send(client_of(api.url))
    assert (attempt.status, attempt.understood) == (200, False)
    assert attempt.reason is not None


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    headers = iter(["7", formatdate(time.time() + 90, usegmt=True), "soon"])
    with TrackAPI(answer=lambda _: Reply(status=429, headers={"Retry-After": next(headers)})) as api:
        client = client_of(api.url)
        seconds, date, neither = (client.send(CALL, "default").retry_after for _ in range(3))
        client.close()
    assert seconds == 7
    assert date is not None
    assert 80 < date <= 90
    assert neither is None


@pytest.mark.parametrize("applied", [True, False])
def test_a_reset_is_an_attempt_without_a_status(applied: bool) -> None:
    with TrackAPI(answer=lambda _: Reset(applied=applied)) as api:
        attempt = send(client_of(api.url))
    assert attempt.status is None
    assert attempt.reason is not None
    assert attempt.reason.startswith("the connection failed: ")


def test_a_refused_connection_is_an_attempt_without_a_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    attempt = send(client_of(f"http://127.0.0.1:{port}"))
    assert (attempt.status, attempt.reason) == (None, "the connection failed: Connection refused")


def test_an_answer_that_trickles_is_ended_at_the_deadline() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n")
        try:
            for _ in range(200):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            return

    with serving(handle) as url:
        attempt = send(client_of(url, deadline=0.5))
    assert (attempt.status, attempt.reason) == (None, "no whole answer within 0.5 s")
    assert 0.4 < attempt.seconds < 2


def test_headers_that_trickle_are_ended_at_the_deadline() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        try:
            for each in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200:
                connection.sendall(bytes([each]))
                time.sleep(0.05)
        except OSError:
            return

    with serving(handle) as url:
        attempt = send(client_of(url, deadline=0.5))
    assert (attempt.status, attempt.reason) == (None, "no whole answer within 0.5 s")


def test_silence_is_ended_at_the_deadline() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.recv(1)

    with serving(handle) as url:
        attempt = send(client_of(url, deadline=0.3))
    assert attempt.status is None
    assert attempt.seconds < 2


def test_an_answer_without_end_is_not_read_without_end() -> None:
    def handle(connection: socket.socket) -> None:
        received = connection.recv(65_536)
        while not received.endswith(b"}"):
            received += connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b" " * 2_000_000)

    with serving(handle) as url:
        attempt = send(client_of(url))
    assert attempt.status is None
    assert attempt.reason == "HTTP 200 with an answer of over 1048576 bytes"


def test_a_connection_without_credentials_says_which_variables_are_missing() -> None:
    attempt = Client({}).send(CALL, "eu-prod")
    expected = "connection 'eu-prod' is not known: set CUSTOMERIO_EU_PROD_SITE_ID and CUSTOMERIO_EU_PROD_API_KEY"
    assert attempt.reason == expected


def test_no_reason_and_no_repr_shows_the_key() -> None:
    connection = Connection(name="default", site_id="site", api_key="s3cret", base_url="http://127.0.0.1:1")
    assert "s3cret" not in repr(connection)
    assert "s3cret" not in str(Client({"default": connection}).send(CALL, "default"))


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

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"


STANDARD = Policy()


@contextmanager
def calling(
    url: str, *, policy: Policy = STANDARD, rate: float = 1_000, deadline: float = 5.0
) -> Iterator[tuple[Client, list[float]]]:
    """A client that does not wait, and the waits that it would have made."""
    connection = Connection(site_id="site", api_key="key", base_url=url, policy=policy, rate=rate)
    waited: list[float] = []
    with Client(connection, deadline=deadline, sleep=waited.append, jitter=lambda: 1.0) as client:
        yield client, waited


def at_first(*faults: Fault) -> Answer:
    """Let these befall the first requests, one each."""
    left = iter(faults)
    return lambda _: next(left, None)


def receive(connection: socket.socket) -> bytes:
    """Read one whole request, or what comes of it before the client leaves."""
    received = b""
    while not _is_whole(received):
        more = connection.recv(65_536)
        if not more:
            break
        received += more
    return received


def _is_whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    return bool(end) and len(body) == int(length[1] if length else 0)


def test_a_program_sends_each_call_in_one_line() -> None:
    with TrackAPI(region="eu") as api, calling(api.url) as (client, waited):
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        client.identify(id=42, attributes={"plan": "pro", "since": moment, "credit": Decimal("1.5")})
        client.track(id=42, name="Order Paid", attributes={"total": 49.5}, event_id=ULID, timestamp=moment)
        client.page(id=42, url="https://example.com/")
        client.track(anonymous_id="a", name="Seen")
        client.destroy(id=42)
        answer = client.request("/v1/accounts/region")
        assert (answer.status, answer.json) == (
            200,
            {"url": "https://track-eu.customer.io", "region": "eu", "environment_id": 1},
        )
        assert api.refused == []
        assert waited == []
        applied = api.applied("42")
        assert [each.kind for each in applied] == ["identify", "event", "page", "delete"]
        assert applied[0].body == {"plan": "pro", "since": 1_767_225_600, "credit": 1.5}
        assert applied[1].body == {
            "name": "Order Paid",
            "type": "event",
            "id": ULID,
            "timestamp": 1_767_225_600,
            "data": {"total": 49.5},
        }
        assert len(api.applied_anonymously("a")) == 1


def test_a_call_gives_the_answer_of_customerio() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        answer = client.identify(id="1", attributes={})
        assert (answer.status, answer.json, answer.text) == (200, {}, "{}\n")
        assert client.call(SubmitForm(form_id="f", id="1")).status == 204


@pytest.mark.parametrize("method", ["track", "page"])
def test_what_happened_is_counted_once_when_its_answer_is_lost(method: str) -> None:
    said = {"url": "*"} if method == "page" else {"name": "Order Paid"}
    with TrackAPI(answer=at_first(Reset(applied=True))) as api, calling(api.url) as (client, waited):
        getattr(client, method)(id="42", **said)
        (applied,) = api.applied("42")
        assert is_ulid(str(applied.body["id"]))
        assert (api.requests, api.repeats, api.conflicts) == (2, 1, [])
        assert waited == [1.0]


def test_each_call_has_an_id_of_its_own_unless_it_is_given_one() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        for event_id in (None, None, "order-7", "order-7"):
            client.track(id="42", name="Order Paid", event_id=event_id)
        ids = [each.body["id"] for each in api.applied("42")]
        assert len(set(ids)) == 3
        assert ids[2] == ulid_of_text("order-7")
        assert (api.repeats, api.conflicts) == (1, [])


UNAVAILABLE = Reply(status=503)
# What befalls the first requests, the waits before the others, and the status of the error if it ends in one.
RETRIES: list[tuple[list[Fault], Policy, list[float], int | None]] = [
    ([Reply(status=500)], Policy(), [1.0], 200),
    ([UNAVAILABLE, Reset(applied=False), Reset(applied=True)], Policy(), [1.0, 2.0, 4.0], 200),
    ([Reply(status=502, body=b"<html>")], Policy(), [1.0], 200),
    ([Reply(status=503, headers={"Retry-After": "7"})], Policy(), [7.0], 200),
    ([Reply(status=429, headers={"Retry-After": "60"}), Reply(status=429)], Policy(), [60.0, 2.0], 200),
    ([Reply(status=408)], Policy(), [1.0], 200),
    ([UNAVAILABLE] * 9, Policy(), [1.0, 2.0, 4.0], 503),
    ([Reset(applied=False)] * 9, Policy(), [1.0, 2.0, 4.0], None),
    ([UNAVAILABLE] * 9, Policy(max=0), [], 503),
    ([UNAVAILABLE] * 9, Policy(max=2, delay=0.1, exponential=False), [0.1, 0.1], 503),
    ([Reply(status=503, headers={"Retry-After": "61"})], Policy(), [], 503),
    ([Reply(status=400)], Policy(), [], 400),
    ([Reply(status=401)], Policy(), [], 401),
    ([Reply(status=403)], Policy(), [], 403),
    ([Reply(status=404)], Policy(), [], 404),
    ([Reply(status=302)], Policy(), [], 302),
    ([Reply(status=200, body=b"<html>")], Policy(), [], 200),
    ([Reply(status=400), Reply(status=401)], Policy(all_errors=True), [1.0, 2.0], 200),
    ([Reply(status=400)] * 9, Policy(all_errors=True, max=1), [1.0], 400),
]


@pytest.mark.parametrize(("faults", "policy", "waits", "status"), RETRIES)
def test_a_call_is_tried_again_where_that_may_help(
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
        assert api.people == ({"id:42": {"a": 1}} if arrives or Reset(applied=True) in faults else {})


@pytest.mark.parametrize(
    ("own", "waits"),
    [
        ({}, [1.0, 2.0, 4.0]),
        ({"max": 0}, []),
        ({"max": 2, "delay_ms": 250}, [0.25, 0.5]),
        ({"max": 2, "delay_ms": 250, "exponential": False}, [0.25, 0.25]),
    ],
)
def test_a_raw_request_may_have_settings_of_its_own(own: dict[str, Any], waits: list[float]) -> None:
    with TrackAPI(answer=lambda _: UNAVAILABLE) as api, calling(api.url) as (client, waited):
        with pytest.raises(SendError, match="HTTP 503"):
            client.request("/v1/accounts/region", retry=own)
        assert waited == waits


def test_a_raw_request_may_have_its_refusals_tried_again() -> None:
    with TrackAPI(answer=at_first(Reply(status=400))) as api, calling(api.url) as (client, _):
        assert client.request("/v1/accounts/region", retry={"all_errors": True}).status == 200


ANN = "ann.secret@example.com"


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (
            Reply(status=400, body=b'{"meta":{"error":"name cannot be blank"}}'),
            400,
            "HTTP 400: name cannot be blank",
        ),
        (Reply(status=401, body=b'{"meta":{"error":"Unauthorized"}}'), 401, "HTTP 401: Unauthorized"),
        (
            Reply(status=403, body=f"<html>{ANN} must not</html>".encode()),
            403,
            "HTTP 403: the answer is not Customer.io's JSON: something else answers at this address",
        ),
        (
            Reply(status=200, body=f"<html>{ANN}</html>".encode()),
            200,
            "HTTP 200: the answer is not Customer.io's JSON: something else answers at this address",
        ),
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
        calling(api.url, policy=Policy(max=0)) as (client, _),
        pytest.raises(SendError) as error,
    ):
        client.track(id=ANN, name="secret", attributes={"note": "secret"})
    assert (error.value.status, str(error.value)) == (status, reason)
    assert "secret" not in repr(error.value)


def test_an_error_of_the_network_does_not_tell_the_path() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with calling(url, policy=Policy(max=0)) as (client, _), pytest.raises(SendError) as error:
        client.destroy(id=ANN)
    assert (error.value.status, str(error.value)) == (None, "the connection failed: Connection refused")


NOT_SENT: list[tuple[str, dict[str, Any], str]] = [
    ("identify", {}, "'identify' names nobody; give it one of cio_id, id, email"),
    ("identify", {"id": "", "email": None}, "'identify' names nobody; give it one of cio_id, id, email"),
    (
        "track",
        {"name": "x"},
        "'track' names nobody; give it one of cio_id, id, email, anonymous_id",
    ),
    ("destroy", {"id": ".."}, 'id "." and ".." cannot be sent: they change where the request goes'),
    ("destroy", {"id": " "}, "id is blank; Customer.io needs an identifier"),
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
    ("page", {"id": 1, "url": "x"}, 'url is neither a full address (https://…) nor "*" for any page'),
    ("request", {"path": "/v1/../x"}, 'path must not have a segment "." or "..": they change where the request goes'),
    (
        "request",
        {"path": "https://example.com/"},
        "path has to be a path below /api that starts with one slash, as /v1/accounts/region",
    ),
    ("request", {"path": "/x", "headers": {"Authorization": "x"}}, "headers.Authorization is set by the gateway"),
    ("request", {"path": "/x", "retry": {"max": -1}}, "retry.max has to be a whole number from 0 to 100"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "fields", "problem"), NOT_SENT)
def test_what_customerio_would_refuse_or_replace_is_not_sent(method: str, fields: dict[str, Any], problem: str) -> None:
    with TrackAPI() as api, calling(api.url) as (client, waited):
        with pytest.raises(CallError) as error:
            getattr(client, method)(**fields)
        assert str(error.value) == problem
        assert (api.requests, waited) == (0, [])


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("identify", {"id": float("nan")}),
        ("request", {"path": "/v1/accounts/region", "headers": {"X-Note": " a"}}),
    ],
)
def test_what_nobody_can_have_meant_is_not_sent(method: str, fields: dict[str, Any]) -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        with pytest.raises(CallError):
            getattr(client, method)(**fields)
        assert api.requests == 0


def test_a_redirect_to_another_host_is_not_followed_and_no_credentials_go_there() -> None:
    with TrackAPI() as other:
        reply = Reply(status=308, headers={"Location": f"{other.url}/api/v1/customers/42"})
        with TrackAPI(answer=lambda _: reply) as api, calling(api.url) as (client, _):
            for call in (Identify(id="42"), RawRequest(path="/v1/accounts/region")):
                with pytest.raises(SendError, match="HTTP 308: redirected"):
                    client.call(call)
            assert api.requests == 2
        assert other.requests == 0


@pytest.mark.parametrize("location", ["http://[::1", "/caf\xe9"])
def test_a_redirect_to_nowhere_is_an_attempt_with_a_reason(location: str) -> None:
    with TrackAPI(answer=lambda _: Reply(status=302, headers={"Location": location})) as api:
        attempt = send(client_of(api.url))
    assert (attempt.status, attempt.reason) == (302, "HTTP 302: redirected, so the region is probably wrong")


def test_a_retry_after_beyond_all_time_is_an_attempt_without_one() -> None:
    headers = {"Retry-After": f"Thu, 01 Jan 2026 00:00:00 +{'9' * 20}"}
    with TrackAPI(answer=lambda _: Reply(status=503, headers=headers)) as api:
        attempt = send(client_of(api.url))
    assert (attempt.status, attempt.retry_after) == (503, None)


def test_a_connection_that_is_not_known_says_which_variables_are_missing() -> None:
    expected = "connection 'eu-prod' is not known: set CUSTOMERIO_EU_PROD_SITE_ID and CUSTOMERIO_EU_PROD_API_KEY"
    with TrackAPI() as api, calling(api.url) as (client, _):
        with pytest.raises(SendError) as error:
            client.destroy(id=1, connection="eu-prod")
        assert (error.value.status, str(error.value)) == (None, expected)
        with pytest.raises(SendError) as error:
            client.batch([Destroy(id="1"), Destroy(id="2")], connection="eu-prod")
        assert (error.value.status, str(error.value)) == (None, expected)
        assert api.requests == 0


def test_each_of_several_connections_has_its_own_credentials() -> None:
    with TrackAPI(api_key="one") as first, TrackAPI(api_key="two") as second:
        connections = {
            "first": Connection(name="first", site_id="site", api_key="one", base_url=first.url),
            "second": Connection(name="second", site_id="site", api_key="two", base_url=second.url),
        }
        with Client(connections) as client:
            client.destroy(id="1", connection="first")
            assert client.batch([Destroy(id="2"), Destroy(id="3")], connection="second") == [None, None]
        assert (first.count_applied(), second.count_applied()) == (1, 2)


@pytest.mark.parametrize(
    ("own", "given", "host"),
    [
        ("us", None, "track.customer.io"),
        ("eu", None, "track-eu.customer.io"),
        ("us", "eu", "track-eu.customer.io"),
        ("eu", "us", "track.customer.io"),
    ],
)
def test_a_call_goes_to_the_host_of_its_region(
    own: str, given: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        seen.append(receive(connection))
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    # A proxy is told the host, and of what goes there nothing.
    with serving(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        connection = Connection(site_id="site", api_key="key", region=own, policy=Policy(max=0))
        with Client(connection) as client:
            with pytest.raises(SendError, match="the connection failed: "):
                client.destroy(id=ANN, region=given)
            with pytest.raises(SendError, match="the connection failed: "):
                client.request("/v1/accounts/region", region=given)
            assert client.batch([Destroy(id="1"), Destroy(id="2")], region=given)[0] is not None
    assert [each.split(b" HTTP")[0] for each in seen] == [f"CONNECT {host}:443".encode()] * 3
    assert not any(b"uthorization" in each or b"ann" in each for each in seen)


@pytest.mark.parametrize(
    ("timeout", "deadline", "seconds"), [(0.2, 5.0, "0.2"), (10.0, 0.2, "0.2"), (None, 0.2, "0.2")]
)
def test_a_raw_request_may_be_given_less_time_but_not_more(
    timeout: float | None, deadline: float, seconds: str
) -> None:
    attempts: list[Attempt] = []
    with (
        TrackAPI(answer=lambda _: Hang()) as api,
        calling(api.url, deadline=deadline, policy=Policy(max=0)) as (client, _),
        pytest.raises(SendError, match=f"^no whole answer within {seconds} s$|^no answer in time$"),
    ):
        client.call(RawRequest(path="/v1/accounts/region", timeout=timeout), on_attempt=attempts.append)
    assert 0.1 < attempts[0].seconds < 2


def test_what_a_debugged_request_sent_and_got_is_kept_without_credentials() -> None:
    attempts: list[Attempt] = []
    call = RawRequest(path="/v1/customers/42/events", data={"name": "Päid"}, debug=True)
    with (
        TrackAPI(answer=at_first(Reset(applied=False))) as api,
        calling(api.url) as (client, _),
    ):
        client.call(call, on_attempt=attempts.append)
    lost, arrived = (each.debug or "" for each in attempts)
    assert lost == ('POST /api/v1/customers/42/events\nContent-Type: application/json\n\n{"name":"Päid"}')
    assert arrived.startswith(f"{lost}\n\nHTTP 200\n")
    assert "c2l0ZTprZXk=" not in arrived
    assert "uthorization" not in arrived


@pytest.mark.parametrize(("response_type", "body"), [("text", b"gr\xc3\xbc\xc3\x9fe"), ("binary", b"\x89PNG\xff\x00")])
def test_a_raw_request_may_ask_for_what_is_no_json(response_type: str, body: bytes) -> None:
    with (
        TrackAPI(answer=lambda _: Reply(status=200, body=body)) as api,
        calling(api.url) as (client, _),
    ):
        assert client.request("/v1/export", response_type=response_type).body == body
        with pytest.raises(SendError, match="is not Customer"):
            client.request("/v1/export")


def test_threads_may_share_a_client() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _), ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda each: client.identify(id=each % 10, attributes={"a": each}), range(80))
        assert {each.status for each in answers} == {200}
        assert (api.count_applied(), len(api.people), api.refused) == (80, 10, [])


def test_requests_keep_to_the_rate_of_their_connection() -> None:
    with (
        TrackAPI(answer=at_first(Reply(status=500))) as api,
        calling(api.url, rate=0.1) as (client, waited),
    ):
        client.destroy(id=1)
        client.destroy(id=1)
        client.batch([Destroy(id="1"), Destroy(id="2"), RawRequest(path="/v1/accounts/region")])
        assert api.requests == 5
    retry, *turns = waited
    assert retry == 1.0
    # Nobody waited here, so each has to wait ten seconds longer than the one before.
    assert turns == pytest.approx([10, 20, 30, 40], abs=5)


# Many at once


def test_many_calls_go_out_in_few_requests() -> None:
    with TrackAPI() as api, calling(api.url) as (client, waited):
        assert client.batch([Identify(id=str(each)) for each in range(250)]) == [None] * 250
        assert (api.requests, api.batches, len(api.people)) == (3, [100, 100, 50], 250)
        assert waited == []


def test_nothing_takes_no_request_and_one_call_its_own() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        assert client.batch([]) == []
        assert api.requests == 0
        assert client.batch(iter([Destroy(id="1")])) == [None]
        assert (api.requests, api.singles, api.batches) == (1, 1, [])


def test_the_calls_of_one_person_keep_their_order_in_waves() -> None:
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
        assert [each.kind for each in api.applied("1")] == ["identify", "event", "delete", "identify"]
        assert api.people == {"id:1": {"n": 2}, "id:2": {"n": 1}, "email:ann@example.com": {"n": 2}}
        assert (api.batches, api.singles) == ([3, 2], 2)


def test_a_merge_waits_for_both_and_both_for_it() -> None:
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


LARGE = Track(id="large", name="x", attributes={"text": "v" * (MAX_ITEM_BYTES + 1)})


def test_what_no_batch_takes_goes_singly_beside_it() -> None:
    calls: list[Call] = [
        Identify(id="1"),
        SubmitForm(form_id="sign up", id="2", attributes={"color": "red"}),
        RawRequest(path="/v1/accounts/region"),
        LARGE,
        Identify(id="3", attributes={"anonymous_id": "a"}),
        Track(anonymous_id="a", name="Seen"),
    ]
    with TrackAPI() as api, calling(api.url) as (client, _):
        assert client.batch(calls) == [None] * 6
        assert (api.batches, api.singles, api.requests) == ([2], 3, 5)
        assert [each.kind for each in api.applied("large")] == ["event"]
        assert api.applied("2")[0].body == {"form_id": "sign up", "data": {"color": "red", "id": "2"}}
        assert api.refused == []


def poison(operation: dict[str, Any]) -> str | None:
    return "poison" if "poison" in operation["body"] else None


BAD = {"poison": True}


def test_a_refused_item_fails_alone() -> None:
    calls = [Identify(id=str(each), attributes=BAD if each == 4 else {}) for each in range(10)]
    with TrackAPI(refuse_item=poison) as api, calling(api.url) as (client, waited):
        told = client.batch(calls)
        assert told == [None] * 4 + ["HTTP 207: operation: invalid: poison"] + [None] * 5
        assert (len(api.people), api.requests, waited) == (9, 1, [])


def test_a_call_that_fails_a_whole_batch_fails_alone() -> None:
    def answer(seen: ParsedRequest) -> Reply | None:
        bad = b"poison" in seen.body
        return Reply(status=400, body=b'{"errors":[{"reason":"malformed"}]}') if bad else None

    calls = [Identify(id=str(each), attributes=BAD if each == 4 else {}) for each in range(10)]
    with TrackAPI(answer=answer) as api, calling(api.url) as (client, waited):
        assert client.batch(calls) == [None] * 4 + ["HTTP 400: malformed"] + [None] * 5
        assert (len(api.people), waited) == (9, [])
        assert api.requests <= 9


def test_a_batch_is_tried_again_and_what_happened_in_it_is_counted_once() -> None:
    calls = [Track(id=str(each), name="x") for each in range(10)]
    with (
        TrackAPI(answer=at_first(UNAVAILABLE, Reset(applied=True))) as api,
        calling(api.url) as (client, waited),
    ):
        assert client.batch(calls) == [None] * 10
        assert waited == [1.0, 2.0]
        assert (api.requests, api.count_applied(), api.repeats) == (3, 10, 10)


def test_only_what_failed_is_tried_again() -> None:
    left = iter([None, UNAVAILABLE, UNAVAILABLE])
    calls = [Identify(id=str(each), attributes=BAD if each == 4 else {}) for each in range(101)]
    with (
        TrackAPI(answer=lambda _: next(left, None), refuse_item=poison) as api,
        calling(api.url) as (client, waited),
    ):
        told = client.batch(calls)
        assert [number for number, problem in enumerate(told) if problem] == [4]
        assert (api.requests, api.batches, api.singles) == (4, [100], 1)
        assert waited == [1.0, 2.0]


def test_what_failed_is_tried_again_after_the_longest_of_its_waits() -> None:
    faults = [Reply(status=503, headers={"Retry-After": seconds}) for seconds in ("9", "3")]
    with TrackAPI(answer=at_first(*faults)) as api, calling(api.url) as (client, waited):
        assert client.batch([Identify(id=str(each)) for each in range(101)]) == [None] * 101
        assert waited == [9.0]


def test_an_outage_is_told_of_every_call_and_the_later_of_a_person_are_still_tried() -> None:
    with TrackAPI(answer=lambda _: UNAVAILABLE) as api, calling(api.url) as (client, waited):
        told = client.batch([Identify(id="1"), Identify(id="2"), Destroy(id="1")])
        assert told == ["HTTP 503"] * 3
        assert waited == [1.0, 2.0, 4.0] * 2


def test_of_many_calls_none_is_sent_if_one_cannot_be() -> None:
    with TrackAPI() as api, calling(api.url) as (client, _):
        with pytest.raises(CallError, match="names nobody"):
            client.batch([Identify(id="1"), Identify(), Identify(id="2")])
        assert api.requests == 0


def test_a_raw_request_has_its_own_settings_among_others_too() -> None:
    with TrackAPI(answer=lambda _: UNAVAILABLE) as api, calling(api.url) as (client, waited):
        assert client.batch([RawRequest(path="/v1/accounts/region", retry={"max": 1})]) == ["HTTP 503"]
        assert waited == [1.0]


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
        st.permutations(PEOPLE).map(lambda two: Merge(into=named_by(two[0]), from_=named_by(two[1]))),
    )


def named_by(person: str) -> Mapping[str, str]:
    return {"email" if "@" in person else "id": person}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 25).flatmap(lambda number: st.tuples(*map(any_call, range(number)))))
def test_together_calls_leave_what_they_leave_one_by_one(several: tuple[Call, ...]) -> None:
    with TrackAPI(refuse_item=poison) as api, calling(api.url) as (client, _):
        told = client.batch(several)
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
    assert [problem is None for problem in told] == one_by_one


# Connections that are kept open


def test_a_connection_that_was_closed_while_it_was_idle_is_replaced_without_an_error() -> None:
    seen: list[bytes] = []
    closed = threading.Event()

    def answer_and_leave(connection: socket.socket) -> None:
        seen.append(receive(connection))
        connection.sendall(OK)
        connection.close()  # without having said so
        closed.set()

    with serving(answer_and_leave) as url, calling(url) as (client, waited):
        for _ in range(3):
            closed.clear()
            assert client.send(CALL, "default").reason is None
            assert closed.wait(5)
        client.identify(id="1")
    assert len(seen) == 4
    assert waited == []


def test_a_connection_that_dies_as_it_is_used_again_is_a_failure_that_is_tried_again() -> None:
    seen: list[bytes] = []

    def leave_on_the_second(connection: socket.socket) -> None:
        is_first = not seen
        seen.append(receive(connection))
        connection.sendall(OK)
        if is_first:
            seen.append(receive(connection))

    with serving(leave_on_the_second) as url, calling(url) as (client, waited):
        client.track(id="1", name="x")
        client.track(id="1", name="x")
    assert waited == [1.0]
    one, two, again = (each.partition(b"\r\n\r\n")[2] for each in seen)
    assert two == again != one


def test_an_answer_that_announces_the_end_of_its_connection_is_whole() -> None:
    def handle(connection: socket.socket) -> None:
        receive(connection)
        connection.sendall(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    with serving(handle) as url, calling(url) as (client, waited):
        for _ in range(3):
            assert client.identify(id="1").json == {}
    assert waited == []


class _TwoHosts(Connection):
    """A connection of which each region has a host of its own, on loopback."""

    def host(self, region: str | None = None) -> str:
        return str(self.base_url).split(" ")[(region or self.region) == "eu"]


@pytest.mark.parametrize(
    ("key", "region", "expected"),
    [
        ("key", "us", "the workspace is in eu, not in us: set CUSTOMERIO_REGION=eu"),
        ("key", "eu", None),
        ("wrong", "us", "HTTP 401: the site id or the API key is wrong"),
        ("wrong", "eu", "HTTP 401: the site id or the API key is wrong"),
    ],
)
def test_a_key_that_another_region_knows_is_not_wrong_but_the_region_is(
    key: str, region: str, expected: str | None
) -> None:
    with TrackAPI(api_key="of somebody else") as us, TrackAPI(region="eu") as eu:
        hosts = f"{us.url} {eu.url}"
        with Client(_TwoHosts(site_id="site", api_key=key, region=region, base_url=hosts)) as client:
            reason = client.probe("default").reason
    assert (reason or "None").startswith(str(expected))


def test_a_wrong_key_is_told_also_where_the_other_region_is_not_reached() -> None:
    with TrackAPI(api_key="of somebody else") as us:
        hosts = f"{us.url} http://127.0.0.1:9"
        with Client(_TwoHosts(site_id="site", api_key="key", base_url=hosts)) as client:
            assert client.probe("default").cause == "misconfigured"


def test_the_address_of_a_connection_may_end_in_a_slash() -> None:
    with (
        TrackAPI() as api,
        Client(Connection(site_id="site", api_key="key", base_url=f"{api.url}/")) as client,
    ):
        client.identify(id="42")
        assert api.refused == []
