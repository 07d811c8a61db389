"""The bounds of a connection, on a pair of sockets, and of what strangers can make gunicorn log."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from gateway.errors import RequestError
from gateway.receive.access_log import AccessLogger
from gateway.receive.connections import HEAD_SECONDS, LEAST_RATE, PATIENCE, Connection, Connections

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"
IDLE = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Request:
    """As much of gunicorn's request as a connection touches."""

    must_close = False

    def __init__(self) -> None:
        self.body, self.unreader = SimpleNamespace(buf=None), SimpleNamespace(buf=None)

    def force_close(self) -> None:
        self.must_close = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections(clock: Clock) -> Connections:
    return Connections(10, 1_048_576, IDLE, clock)


class Pair:
    def __init__(self, connections: Connections) -> None:
        self.client, server = socket.socketpair()
        server.settimeout(2)
        self.client.settimeout(2)
        self.connection = Connection(server, connections)


@pytest.fixture
def pairs(connections: Connections) -> Iterator[list[Pair]]:
    pairs = [Pair(connections) for _ in range(3)]
    yield pairs
    for pair in pairs:
        pair.connection.close()
        pair.client.close()


@pytest.fixture
def pair(pairs: list[Pair]) -> Pair:
    return pairs[0]


def begin(pair: Pair, length: int, *, body: bytes = b"") -> Request:
    pair.client.sendall(HEAD + body)
    assert pair.connection.recv(8192) == HEAD
    request = Request()
    pair.connection.begin_body(request, length)
    return request


def refused(pair: Pair) -> int:
    with pytest.raises(RequestError) as caught:
        pair.connection.recv(8192)
    return caught.value.status


def test_a_head_comes_in_one_piece_and_a_body_ends_where_the_next_head_begins(pair: Pair) -> None:
    request = begin(pair, 3, body=b"abc" + HEAD)
    assert pair.connection.recv(8192) == b"abc"
    assert pair.connection.recv(8192) == HEAD
    assert not request.must_close


@pytest.mark.parametrize("size", [2, 7, 50])
def test_a_head_in_pieces_is_put_together(pair: Pair, size: int) -> None:
    head = HEAD[:-2] + b"X: " + b"x" * 100 + b"\r\n\r\n"
    for place in range(0, len(head), size):
        pair.client.sendall(head[place : place + size])
    assert pair.connection.recv(8192) == head


@pytest.mark.parametrize("header", [b"x" * 70_000, b"x" * 65_000 + b"\r\nY: " + b"y" * 1_000, b"\r\na:" * 110])
def test_a_head_that_is_too_long_is_refused(pair: Pair, header: bytes) -> None:
    pair.client.sendall(HEAD[:-2] + b"X: " + header + b"\r\n\r\n")
    assert refused(pair) == 431


def test_bare_line_feeds_are_handed_on_to_be_refused_at_once(pair: Pair) -> None:
    pair.client.sendall(b"GET / HTTP/1.1\n\n")
    assert pair.connection.recv(8192) == b"GET / HTTP/1.1\n\n"


def test_a_head_that_does_not_end_is_cut(pair: Pair, connections: Connections, clock: Clock) -> None:
    pair.client.sendall(HEAD[:-2])
    with ThreadPoolExecutor(1) as reader:
        status = reader.submit(refused, pair)
        while not pair.connection.began:
            time.sleep(0.001)
        clock.now += HEAD_SECONDS + 1
        connections.cut_late()
        assert status.result() == 408


def test_a_connection_that_sends_nothing_is_closed_without_an_answer(
    pair: Pair, connections: Connections, clock: Clock
) -> None:
    clock.now += IDLE + 1
    connections.cut_late()
    assert pair.connection.recv(8192) == b""
    assert pair.client.recv(1) == b""


def test_a_body_that_stalls_is_cut_and_can_be_answered(pair: Pair, connections: Connections, clock: Clock) -> None:
    request = begin(pair, 100, body=b"x")
    assert pair.connection.recv(8192) == b"x"
    clock.now += PATIENCE + 1
    connections.cut_late()
    assert refused(pair) == 408
    assert request.must_close
    pair.connection.sendall(b"answer")
    assert pair.client.recv(100) == b"answer"


@pytest.mark.parametrize(("rate", "is_cut"), [(LEAST_RATE * 2, False), (LEAST_RATE // 8, True)])
def test_a_body_may_be_as_slow_as_the_least_rate(
    pair: Pair, connections: Connections, clock: Clock, rate: int, is_cut: bool
) -> None:
    begin(pair, 100 * rate)
    for _ in range(20):
        pair.client.sendall(b"x" * rate)
        clock.now += 1
        connections.cut_late()
        if is_cut and pair.connection.behind_since is None:
            break
        for _ in range(0, rate, 65_536):
            pair.connection.recv(65_536)
    assert (pair.connection.behind_since is None) == is_cut


def test_a_request_that_was_read_is_never_cut(pair: Pair, connections: Connections, clock: Clock) -> None:
    begin(pair, 3, body=b"abc")
    pair.connection.recv(8192)
    clock.now += 1_000
    connections.cut_late()
    pair.connection.sendall(b"answer")
    assert pair.client.recv(100) == b"answer"


def test_where_connections_run_short_the_slowest_goes(
    pairs: list[Pair], connections: Connections, clock: Clock
) -> None:
    answered, slow, quick = pairs
    begin(answered, 0)
    begin(slow, 100)
    clock.now += 1
    begin(quick, 100)
    clock.now += 0.1
    others = [Pair(connections) for _ in range(connections.most - 3)]
    assert refused(slow) == 503
    assert answered.connection.behind_since is None
    assert quick.connection.behind_since is not None
    for other in others:
        other.connection.close()
        other.client.close()


def test_where_memory_runs_short_the_slowest_body_goes(
    pairs: list[Pair], connections: Connections, clock: Clock
) -> None:
    slow, quick, idle = pairs
    connections.most_held = 10_000
    begin(slow, 100_000, body=b"x" * 6_000)
    clock.now += 1
    begin(quick, 100_000)
    quick.client.sendall(b"x" * 6_000)
    assert quick.connection.recv(8192)
    assert refused(slow) == 503
    assert idle.connection.behind_since is not None
    assert connections.held == quick.connection.held < 10_000


def test_what_a_connection_held_is_given_back(pair: Pair, connections: Connections) -> None:
    begin(pair, 3, body=b"abc")
    assert connections.held == len(HEAD) + 3
    pair.connection.close()
    assert connections.held == 0


def test_malformed_requests_are_logged_a_few_times_and_without_what_they_hold(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = AccessLogger(Config())
    for _ in range(100):
        log.warning("Invalid request from ip=127.0.0.1: Invalid HTTP Version: 'HTTP/\x1b[31m'")
    written = capfd.readouterr().err
    assert written.count("Invalid request from ip=127.0.0.1: Invalid HTTP Version") == 5
    assert "[31m" not in written
