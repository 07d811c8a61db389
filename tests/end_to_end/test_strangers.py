"""Strangers without a secret, who open many connections and are slow, beside a sender and a health check.

FAULTS_SCALE makes the long runs smaller: 1 (the default) is 3,000 connections at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.gateway_process import GatewayProcess

MAPPING = "{version: 1, source: open, verify: none, event_key: =number, event_type: =type, events: {x: []}}"
SCALE = float(os.environ.get("FAULTS_SCALE") or 1)
BODY = b"POST /hooks/open HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
#: Seconds that a sender waits for its answer.
PATIENCE = 15
#: What each of many connections sends first, and then once a second.
ATTACKS = {
    "a body is announced": (BODY, b""),
    "a body of one byte a second": (BODY, b" "),
    "nothing": (b"", b""),
    "headers of one byte a second": (b"GET /healthz HTTP/1.1\r\nX: ", b"x"),
    "nearly all of a body": (BODY + b" " * 999_000, b""),
}


@contextlib.contextmanager
def running_web(directory: Path, **environment: str) -> Iterator[GatewayProcess]:
    """Run one web process on SQLite, with a source that takes everything."""
    (directory / "mappings").mkdir()
    (directory / "mappings" / "open.yaml").write_text(MAPPING)
    (directory / "logs").mkdir()
    own = {
        "DATABASE_URL": f"sqlite:///{directory}/gateway.db",
        "GATEWAY_MAPPINGS": f"{directory}/mappings",
        "WEB_CONCURRENCY": "1",
    }
    with GatewayProcess(environment=own | environment, logs=directory / "logs", workers=0) as web:
        web.start()
        yield web


class Stranger:
    """A connection that sends *first*, then *then* once a second, and is opened again when the gateway closes it."""

    def __init__(self, port: int, first: bytes, then: bytes) -> None:
        self._port = port
        self._first, self._rest, self._then = first, first, then
        self._socket: socket.socket | None = None

    def go_on(self) -> None:
        """Do what can be done without waiting."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=0.2)
                self._socket.setblocking(False)
                self._rest = self._first
            sent = self._socket.send(self._rest or self._then)
            self._rest = self._rest[sent:]
            if not self._socket.recv(1024):
                self.close()
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@contextlib.contextmanager
def attacked(port: int, count: int, first: bytes, then: bytes) -> Iterator[None]:
    """Keep *count* slow connections open."""
    stopping = threading.Event()
    strangers = [Stranger(port, first, then) for _ in range(count)]

    def attack() -> None:
        while not stopping.wait(1.0):
            for stranger in itertools.takewhile(lambda _: not stopping.is_set(), strangers):
                stranger.go_on()

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        yield
    finally:
        stopping.set()
        attacker.join()
        for stranger in strangers:
            stranger.close()


def seconds_of(request: Callable[[], requests.Response]) -> float:
    """Return how long a request took; infinity if it was not accepted."""
    began = time.monotonic()
    with contextlib.suppress(requests.RequestException):
        if request().status_code in (200, 202):
            return time.monotonic() - began
    return float("inf")


def resident(web: GatewayProcess) -> int:
    """Return the resident megabytes of the largest process of gunicorn."""
    sizes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"--bind\x00127.0.0.1:{web.port}".encode() in (status.parent / "cmdline").read_bytes():
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                sizes.append(int(lines["VmRSS"].split()[0]) // 1024)
    return max(sizes)


def watch(web: GatewayProcess, seconds: float) -> tuple[list[float], int]:
    """Send a webhook and a health check over and over; return the seconds that each took, and the most memory in MB."""
    took, most, ends, number = [], 0, time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        body = f'{{"type": "x", "number": {(number := number + 1)}}}'
        json = {"Content-Type": "application/json"}
        took.append(seconds_of(lambda: requests.get(f"{web.url}/healthz", timeout=PATIENCE)))
        took.append(seconds_of(lambda: requests.post(f"{web.url}/hooks/open", body, headers=json, timeout=PATIENCE)))  # noqa: B023
        most = max(most, resident(web))
        time.sleep(0.05)
    return took, most


def test_more_slow_connections_than_a_process_takes_delay_nobody(tmp_path: Path) -> None:
    with (
        running_web(tmp_path, GUNICORN_CMD_ARGS="--worker-connections 150") as web,
        attacked(web.port, 300, BODY, b""),
    ):
        took, _ = watch(web, 3)
    assert len(took) > 10
    assert max(took) < 4
    assert "requests were cut while they were received" in web.read_logs()


@pytest.mark.faults
@pytest.mark.parametrize("attack", ATTACKS)
def test_many_slow_strangers_delay_nobody(tmp_path: Path, attack: str) -> None:
    count = max(round(3_000 * SCALE), 1_100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 500)), hard))
    with running_web(tmp_path) as web:
        before = resident(web)
        with attacked(web.port, count, *ATTACKS[attack]):
            took, most = watch(web, 20)
    lost = sum(seconds == float("inf") for seconds in took)
    figures = f"{len(took)} requests, {lost} lost, the slowest {max(took):.2f} s, {before} MB, then {most} MB"
    assert lost == 0, figures
    # The strangers share the machine, and open their connections again each second: what counts is that all come in.
    assert statistics.median(took) < 3, figures
    assert most < before + 150, figures
