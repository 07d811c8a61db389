"""The client against real sockets: the stand-in for the Track API, and servers that misbehave."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from gateway.calls import Destroy, Identify, Track
from gateway.connections import Connection
from gateway.customerio import Client, DryRun
from gateway.retry import Attempt
from gateway.wire import request
from tests.trackapi import Reply, Reset, TrackAPI

CALL = request(Identify(id="a/../b +%ü", attributes={"x": 1}))
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
            attempt = client.send(request(call), "default")
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
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b" " * 2_000_000
    with serving(answering(answer)) as url:
        attempt = send(client_of(url))
    assert attempt.status is None
    assert attempt.reason == "HTTP 200 with an answer of over 1048576 bytes"


def test_a_connection_without_credentials_says_which_variables_are_missing() -> None:
    attempt = Client({}).send(CALL, "eu-prod")
    expected = (
        "connection 'eu-prod' is not known: set CUSTOMERIO_EU_PROD_SITE_ID and CUSTOMERIO_EU_PROD_API_KEY"
    )
    assert attempt.reason == expected


def test_no_reason_and_no_repr_shows_the_key() -> None:
    connection = Connection(name="default", site_id="site", api_key="s3cret", base_url="http://127.0.0.1:1")
    assert "s3cret" not in repr(connection)
    assert "s3cret" not in str(Client({"default": connection}).send(CALL, "default"))


def test_a_dry_run_prints_the_request_and_sends_nothing() -> None:
    out = io.StringIO()
    attempt = DryRun({}, out).send(request(Track(id="42", name="Päid")), "default", "eu")
    assert attempt.status == 200
    assert out.getvalue() == (
        "POST https://track-eu.customer.io/api/v1/customers/42/events\n"
        "Content-Type: application/json\n"
        "\n"
        '{"name":"Päid","type":"event","data":{}}\n'
        "\n"
    )
