"""The promise, kept by real processes: every accepted webhook's calls arrive, once, in order."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from sqlalchemy.engine import make_url

from gateway.store.database import Database
from tests.support.gateway_process import GatewayProcess
from tests.support.shop import (
    API_KEY,
    SECRET,
    Load,
    arrived,
    assert_promise_kept,
    paid_order,
    promised,
    running_gateway,
    signed,
    wait_until_settled,
)
from tests.support.trackapi import Delay, Fault, ParsedRequest, Reply, Reset, TrackAPI

CUSTOMERS = 30
ORDERS = 8  # of each
PATIENCE = 60.0  # seconds that a load may take

# Processes take seconds to start: on the other database these tests run only with `pytest -m faults`.
MOSTLY_SQLITE = ["sqlite", pytest.param("postgresql", marks=pytest.mark.faults)]
MOSTLY_POSTGRESQL = [pytest.param("sqlite", marks=pytest.mark.faults), "postgresql"]

PASSWORD = "database-password-4711"
CANARY = "canary-4711"


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI(site_id="site", api_key=API_KEY) as server:
        yield server


@pytest.fixture
def gateway(tmp_path: Path, database_url: str, database: Database, api: TrackAPI) -> Iterator[GatewayProcess]:
    """One process of each kind."""
    one, url = {"WEB_CONCURRENCY": "1"}, _with_password(database_url)
    with running_gateway(tmp_path, url, api, environment=one, migrated=True) as processes:
        yield processes
        sys.stdout.write(processes.read_logs()[-8_000:])  # pytest shows it when the test has failed


def test_every_accepted_webhook_arrives_once_and_in_order_although_processes_are_killed(
    tmp_path: Path, api: TrackAPI, database_url: str
) -> None:
    with running_gateway(tmp_path, database_url, api) as gateway:
        load = Load(gateway.urls, customers=CUSTOMERS, orders=ORDERS, patience=PATIENCE)
        load.run(lambda load: _kill_each_once(gateway, load))
        wait_until_settled(database_url, load, timeout=PATIENCE)
        assert_promise_kept(api, load)
        assert gateway.stop() == {"web": 0, "worker": 0}


@pytest.mark.parametrize("database_url", MOSTLY_SQLITE, indirect=True)
def test_sigterm_ends_web_and_worker_after_their_current_work(gateway: GatewayProcess, api: TrackAPI) -> None:
    api.answer = lambda _: Delay(seconds=1)
    assert _post(gateway.url, paid_order("c1", 1)).status_code == 202
    api.wait_until(lambda: api.requests == 1, timeout=10)
    with ThreadPoolExecutor() as pool, _half_posted(gateway.port, paid_order("c1", 2)) as (connection, rest):
        stopping = pool.submit(gateway.stop)
        time.sleep(0.3)  # the signal has to come before the rest of the body
        connection.sendall(rest)
        assert connection.recv(64).startswith(b"HTTP/1.1 202 ")
        connection.close()  # or the web waits for another request
        assert stopping.result() == {"web": 0, "worker": 0}

    api.answer = lambda _: None
    gateway.worker.start()
    api.wait_until(lambda: api.count_applied() >= 4, timeout=20)
    # Once each: the worker settled its current delivery before it ended, and does not send it again.
    assert arrived(api, "c1") == list(promised(2))
    assert (api.count_applied(), api.repeats) == (4, 0)


@pytest.mark.parametrize("database_url", MOSTLY_POSTGRESQL, indirect=True)
def test_no_secret_no_part_of_a_body_and_no_line_of_a_stranger_is_logged(
    gateway: GatewayProcess, api: TrackAPI
) -> None:
    api.answer = _EchoingFaults()
    for post in _unwelcome_posts():
        headers = {**post.headers, **_ONCE}
        answer = requests.post(f"{gateway.url}/hooks/{post.source}", post.body, headers=headers, timeout=10)
        assert (post.name, answer.status_code) == (post.name, post.status)
        assert CANARY not in answer.text, post.name
    for fault in _FAULTS:
        order = paid_order(f"{CANARY}-{fault}", 1, note=CANARY)
        assert _post(gateway.url, order, query=f"?token={CANARY}").status_code == 202
    # Two calls for each, but the one that was refused.
    api.wait_until(lambda: api.count_applied() == 2 * len(_FAULTS) - 1, timeout=30)
    assert gateway.stop() == {"web": 0, "worker": 0}

    logs = gateway.read_logs()
    credentials = base64.b64encode(f"site:{API_KEY}".encode()).decode()
    assert [text for text in (CANARY, SECRET, API_KEY, credentials, PASSWORD, "\nCRITICAL") if text in logs] == []
    assert "HTTP 500" in logs  # the reasons of failures are logged
    assert "\x1b" not in logs


def _kill_each_once(gateway: GatewayProcess, load: Load) -> None:
    """Kill worker and web once during the load; `pytest -m faults` does it often and at random."""
    load.wait_until(lambda: load.accepted >= load.events // 3)
    gateway.worker.kill()
    gateway.worker.start()
    load.wait_until(lambda: load.accepted >= load.events // 2)
    gateway.web.kill()
    gateway.web.start()


class _UnwelcomePost(NamedTuple):
    name: str
    status: int
    body: bytes
    headers: Mapping[str, str]
    source: str = "shop"


def _unwelcome_posts() -> Iterator[_UnwelcomePost]:
    """Return webhooks of strangers and mistaken senders, with the canary wherever a log might show it."""
    order = paid_order(CANARY, 1, note=CANARY)
    xml, cut_off = f"<note>{CANARY}</note>".encode(), f'{{"note": "{CANARY}'.encode()
    form = f"note={CANARY}&note%zz={CANARY}".encode()
    forged = {"Stripe-Signature": f"t={CANARY},v1={CANARY}", "Content-Type": "application/json"}
    yield _UnwelcomePost("forged", 401, order, forged)
    yield _UnwelcomePost("unsigned", 401, order, {})
    yield _UnwelcomePost("changed", 401, order + b" ", signed(order))
    yield _UnwelcomePost("cut off", 202, cut_off, signed(cut_off))
    yield _UnwelcomePost("xml", 202, xml[:-1], signed(xml[:-1], "text/xml"))
    yield _UnwelcomePost("form", 202, form, signed(form, _FORM))
    yield _UnwelcomePost("unknown source", 404, order, signed(order), source="nobody")
    yield _UnwelcomePost("a line of a log", 404, b"", {}, source="x%0ACRITICAL%1B[31m")
    for name, changes in _UNMAPPABLE.items():
        body = paid_order(number=1, note=CANARY, **{"id": name, "customer": "c1", **changes})
        yield _UnwelcomePost(name, 202, body, signed(body))


_FORM = "application/x-www-form-urlencoded"
_UNMAPPABLE: dict[str, dict[str, Any]] = {
    "unknown type": {"type": CANARY},
    "wrong timestamp": {"type": "order.broken"},
    "long customer": {"customer": CANARY * 20},
    "dots for a customer": {"customer": ".."},
    "list for a customer": {"customer": [CANARY]},
    "object for a type": {"type": {CANARY: CANARY}},
}

_HTML = {"Content-Type": "text/html"}
_FAULTS: dict[str, Fault] = {
    "refused": Reply(status=400, body=json.dumps({"meta": {"errors": [f"{CANARY} is wrong"]}}).encode()),
    "broken": Reply(status=500, headers=_HTML, body=f"<h1>{CANARY}</h1>".encode()),
    "garbled": Reply(status=200, headers=_HTML, body=f"<h1>{CANARY}</h1>".encode()),
    "moved": Reply(status=301, headers={"Location": f"https://{CANARY}.example/{CANARY}"}),
    "limited": Reply(status=429, headers={"Retry-After": CANARY}, body=CANARY.encode()),
    "reset": Reset(applied=False),
}


class _EchoingFaults:
    """Return for the first request of each customer the fault that the customer is named for."""

    def __init__(self) -> None:
        self._left = dict(_FAULTS)

    def __call__(self, request: ParsedRequest) -> Fault | None:
        name = next((name for name in self._left if f"-{name}".encode() in request.target), None)
        return self._left.pop(name) if name else None


def _post(url: str, body: bytes, *, query: str = "") -> requests.Response:
    headers = {**signed(body), **_ONCE}
    return requests.post(f"{url}/hooks/shop{query}", body, headers=headers, timeout=10)


# A connection that is kept open would hold up the end of the web.
_ONCE = {"Connection": "close"}


@contextlib.contextmanager
def _half_posted(port: int, order: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """Send a webhook except the second half of its body; yield the connection and that half."""
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(order)), **signed(order)}
    head = "POST /hooks/shop HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    middle = len(order) // 2
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n" + order[:middle])
        time.sleep(0.3)  # until the web has accepted the connection
        yield connection, order[middle:]


def _with_password(database_url: str) -> str:
    """Add a password to the URL of a database that needs none, to see that it is not logged."""
    url = make_url(database_url)
    if url.drivername != "postgresql" or url.password:
        return database_url
    return url.set(password=PASSWORD).render_as_string(hide_password=False)
