"""The promise, kept by real processes: every accepted webhook's calls arrive, once, in order."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy.engine import make_url

from tests.gateway_process import GatewayProcess
from tests.trackapi import Delay, Fault, Operation, ParsedRequest, Reply, Reset, TrackAPI

CUSTOMERS = 200
ORDERS = 10  # of each customer
THREADS = 8
KILLS = 5  # of the web, and as many of the worker
SEED = 20_260_801
PATIENCE = 120.0  # seconds until a load that does not come to its end is given up

SECRET = "whsec_shop-secret-4711"
API_KEY = "api-key-4711"
PASSWORD = "database-password-4711"
CANARY = "canary-4711"

MAPPING = """\
version: 1
source: shop
verify: {scheme: stripe, secret_env: SHOP_WEBHOOK_SECRET}
event_type: =type
event_key: =id
defaults:
  id: =customer
events:
  order.paid:
    - call: identify
      attributes:
        last_order: =number
        note: =note
    - call: track
      name: Order Paid
      event_id: =id
      attributes:
        number: =number
        note: =note
  order.broken:
    - call: track
      name: Order Broken
      timestamp: =note
"""


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI(site_id="site", api_key=API_KEY) as server:
        yield server


@pytest.fixture
def gateway(tmp_path: Path, database_url: str, api: TrackAPI) -> Iterator[GatewayProcess]:
    mappings, logs = tmp_path / "mappings", tmp_path / "logs"
    mappings.mkdir()
    logs.mkdir()
    (mappings / "shop.yaml").write_text(MAPPING)
    environment = {
        "DATABASE_URL": _with_password(database_url),
        "GATEWAY_MAPPINGS": str(mappings),
        "CUSTOMERIO_SITE_ID": "site",
        "CUSTOMERIO_API_KEY": API_KEY,
        "CUSTOMERIO_REGION": "us",
        "CUSTOMERIO_BASE_URL": api.url,
        "CUSTOMERIO_RETRY_DELAY_MS": "50",
        "SHOP_WEBHOOK_SECRET": SECRET,
        "WEB_CONCURRENCY": "2",
    }
    with GatewayProcess(environment=environment, logs=logs, worker_options=("--lease", "3")) as processes:
        processes.start()
        yield processes
        sys.stdout.write(processes.read_logs()[-8_000:])  # pytest shows it when the test has failed


def test_every_accepted_webhook_arrives_once_and_in_order_although_processes_are_killed(
    gateway: GatewayProcess, api: TrackAPI
) -> None:
    load = _Load(gateway.url)
    with ThreadPoolExecutor(THREADS + 1) as pool:
        posting = [pool.submit(load.post_all, range(first, CUSTOMERS, THREADS)) for first in range(THREADS)]
        killing = pool.submit(_kill_and_restart, gateway, load, api)
        for each in as_completed((*posting, killing)):
            if each.exception() is not None:
                load.give_up()  # the others would go on for nothing
            each.result()
    assert load.accepted == CUSTOMERS * ORDERS

    api.wait_until(lambda: _has_all_arrived(api), timeout=60)
    arrived = {f"c{number}": _arrived(api, f"c{number}") for number in range(CUSTOMERS)}
    assert {customer: calls for customer, calls in arrived.items() if calls != _PROMISED} == {}
    assert (api.refused, api.conflicts) == ([], [])
    assert gateway.stop() == {"web": 0, "worker": 0}


def test_sigterm_ends_web_and_worker_after_what_they_have_in_hand(
    gateway: GatewayProcess, api: TrackAPI
) -> None:
    api.answer = lambda _: Delay(seconds=1)
    assert _post(gateway.url, _order("c1", 1)).status_code == 202
    api.wait_until(lambda: api.requests == 1, timeout=10)
    with ThreadPoolExecutor() as pool, _half_posted(gateway.port, _order("c1", 2)) as (connection, rest):
        stopping = pool.submit(gateway.stop)
        time.sleep(0.3)  # the signal has to come before the rest of the body
        connection.sendall(rest)
        assert connection.recv(64).startswith(b"HTTP/1.1 202 ")
        connection.close()  # the web waits for a while whether another request comes
        assert stopping.result() == {"web": 0, "worker": 0}

    api.answer = lambda _: None
    gateway.worker.start()
    api.wait_until(lambda: api.count_applied() >= 4, timeout=20)
    # Once each: what the worker had in hand was settled before it ended, and is not sent again.
    assert _arrived(api, "c1") == _PROMISED[:4]
    assert (api.count_applied(), api.repeats) == (4, 0)


def test_neither_a_secret_nor_anything_from_a_body_is_logged(gateway: GatewayProcess, api: TrackAPI) -> None:
    api.answer = _EchoingFaults()
    for post in _unwelcome_posts():
        headers = {**post.headers, **_ONCE}
        answer = requests.post(f"{gateway.url}/hooks/{post.source}", post.body, headers=headers, timeout=10)
        assert (post.name, answer.status_code) == (post.name, post.status)
        assert CANARY not in answer.text, post.name
    for fault in _FAULTS:
        order = _order(f"{CANARY}-{fault}", 1, note=CANARY)
        assert _post(gateway.url, order, query=f"?token={CANARY}").status_code == 202
    # Two calls for each, but the one that was refused.
    api.wait_until(lambda: api.count_applied() == 2 * len(_FAULTS) - 1, timeout=30)
    assert gateway.stop() == {"web": 0, "worker": 0}

    logs = gateway.read_logs()
    credentials = base64.b64encode(f"site:{API_KEY}".encode()).decode()
    assert [text for text in (CANARY, SECRET, API_KEY, credentials, PASSWORD) if text in logs] == []
    assert "HTTP 500" in logs  # and yet they do tell what happened


def test_a_stranger_cannot_write_a_line_of_the_log(gateway: GatewayProcess) -> None:
    answer = requests.post(f"{gateway.url}/hooks/x%0ACRITICAL%1B[31m", b"", headers=_ONCE, timeout=10)
    assert answer.status_code == 404
    assert gateway.stop() == {"web": 0, "worker": 0}
    logs = gateway.read_logs()
    assert [line for line in logs.splitlines() if line.startswith("CRITICAL")] == []
    assert "\x1b" not in logs


_PROMISED = [(kind, number) for number in range(1, ORDERS + 1) for kind in ("identify", "event")]


def _has_all_arrived(api: TrackAPI) -> bool:
    return all(len(set(_arrived(api, f"c{number}"))) == len(_PROMISED) for number in range(CUSTOMERS))


def _arrived(api: TrackAPI, customer: str) -> list[tuple[str, int]]:
    """List what reached a customer, in order.

    An identify that a killed worker had sent may be sent again, but only before the next call. An event may
    not: its id lets Customer.io drop the second, so one that is seen twice was applied twice.
    """
    arrived: list[tuple[str, int]] = []
    for operation in api.applied(customer):
        this = (operation.kind, _number(operation))
        if operation.kind == "event" or arrived[-1:] != [this]:
            arrived.append(this)
    return arrived


def _number(operation: Operation) -> int:
    if operation.kind == "identify":
        number = operation.body["last_order"]
    else:
        data = operation.body["data"]
        assert isinstance(data, dict)
        number = data["number"]
    assert isinstance(number, int)
    return number


class _Load:
    """Senders that post each webhook until it is accepted, and a customer's next one only then."""

    def __init__(self, url: str) -> None:
        self.accepted = 0
        self._url = url
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + PATIENCE

    def post_all(self, customers: Iterable[int]) -> None:
        dice = random.Random(f"{SEED} {customers}")
        with requests.Session() as session:
            for number, customer in itertools.product(range(1, ORDERS + 1), customers):
                order = _order(f"c{customer}", number)
                self._post_until_accepted(session, order)
                with self._lock:
                    self.accepted += 1
                if dice.random() < 0.02:
                    assert self._post_until_accepted(session, order) == 200

    def give_up(self) -> None:
        self._deadline = 0.0

    def assert_patience(self) -> None:
        assert time.monotonic() < self._deadline, f"only {self.accepted} accepted after {PATIENCE} s"

    def _post_until_accepted(self, session: requests.Session, order: bytes) -> int:
        while True:
            self.assert_patience()
            with contextlib.suppress(*_WEB_WAS_KILLED):
                answer = _post(self._url, order, session=session)
                if answer.status_code != 503:
                    assert answer.status_code in (200, 202)
                    return answer.status_code
            time.sleep(0.05)


_WEB_WAS_KILLED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def _kill_and_restart(gateway: GatewayProcess, load: _Load, api: TrackAPI) -> None:
    """Kill at seeded points of the work's progress, so that the kills are spread over it on any machine."""
    dice = random.Random(SEED)
    total = CUSTOMERS * ORDERS
    kill_web_at = sorted(dice.sample(range(total // 20, total * 19 // 20), KILLS))
    kill_worker_at = sorted(dice.sample(range(total // 10, total * 19 // 10), KILLS))
    while load.accepted < total or kill_worker_at:
        if kill_web_at and load.accepted >= kill_web_at[0]:
            kill_web_at.pop(0)
            gateway.web.kill()
            gateway.web.start()
        if kill_worker_at and api.count_applied() >= kill_worker_at[0]:
            kill_worker_at.pop(0)
            gateway.worker.kill()
            gateway.worker.start()
        gateway.web.assert_running()
        gateway.worker.assert_running()
        load.assert_patience()
        time.sleep(dice.uniform(0.001, 0.02))


@dataclass(frozen=True, kw_only=True)
class _UnwelcomePost:
    name: str
    body: bytes
    headers: Mapping[str, str]
    status: int
    source: str = "shop"


def _unwelcome_posts() -> Iterator[_UnwelcomePost]:
    """What a stranger or a mistaken sender posts, with the canary wherever a log might show it."""
    order = _order(CANARY, 1, note=CANARY)
    xml, cut_off = f"<note>{CANARY}</note>".encode(), f'{{"note": "{CANARY}'.encode()
    form = f"note={CANARY}&note%zz={CANARY}".encode()
    forged = {"Stripe-Signature": f"t={CANARY},v1={CANARY}", "Content-Type": "application/json"}
    yield _UnwelcomePost(name="forged", body=order, headers=forged, status=401)
    yield _UnwelcomePost(name="unsigned", body=order, headers={}, status=401)
    yield _UnwelcomePost(name="changed", body=order + b" ", headers=_signed(order), status=401)
    yield _UnwelcomePost(name="cut off", body=cut_off, headers=_signed(cut_off), status=400)
    yield _UnwelcomePost(name="xml", body=xml, headers=_signed(xml, "text/xml"), status=415)
    yield _UnwelcomePost(name="form", body=form, headers=_signed(form, _FORM), status=400)
    yield _UnwelcomePost(name="nobody's", body=order, headers=_signed(order), status=404, source="nobody")
    for name, changes in _UNMAPPABLE.items():
        body = _order(number=1, note=CANARY, **{"id": name, "customer": "c1", **changes})
        yield _UnwelcomePost(name=name, body=body, headers=_signed(body), status=202)


_FORM = "application/x-www-form-urlencoded"
_UNMAPPABLE: dict[str, dict[str, Any]] = {
    "unknown type": {"type": CANARY},
    "wrong timestamp": {"type": "order.broken"},
    "long customer": {"customer": CANARY * 20},
    "dots for a customer": {"customer": ".."},
    "list for a customer": {"customer": [CANARY]},
    "object for a type": {"type": {CANARY: CANARY}},
}

_FAULTS: dict[str, Fault] = {
    "refused": Reply(
        status=400,
        headers={"Content-Type": "application/json"},
        body=json.dumps({"meta": {"errors": [f"{CANARY} is wrong"]}}).encode(),
    ),
    "broken": Reply(status=500, headers={"Content-Type": "text/html"}, body=f"<h1>{CANARY}</h1>".encode()),
    "garbled": Reply(status=200, headers={"Content-Type": "text/html"}, body=f"<h1>{CANARY}</h1>".encode()),
    "moved": Reply(status=301, headers={"Location": f"https://{CANARY}.example/{CANARY}"}),
    "limited": Reply(status=429, headers={"Retry-After": CANARY}, body=CANARY.encode()),
    "reset": Reset(applied=False),
}


class _EchoingFaults:
    """Meets the first request for each customer with the fault that the customer is named for."""

    def __init__(self) -> None:
        self._left = dict(_FAULTS)

    def __call__(self, request: ParsedRequest) -> Fault | None:
        name = next((name for name in self._left if f"-{name}".encode() in request.target), None)
        return self._left.pop(name) if name else None


def _order(customer: object, number: int, *, note: str = "thank you", **changes: object) -> bytes:
    order = {"type": "order.paid", "id": f"{customer}-{number}", "customer": customer, "number": number}
    return json.dumps({**order, "note": note, **changes}).encode()


def _post(
    url: str, order: bytes, *, session: requests.Session | None = None, query: str = ""
) -> requests.Response:
    url = f"{url}/hooks/shop{query}"
    if session is None:
        return requests.post(url, order, headers={**_signed(order), **_ONCE}, timeout=10)
    return session.post(url, order, headers=_signed(order), timeout=10)


# A connection that is kept open would hold up the end of the web.
_ONCE = {"Connection": "close"}


def _signed(body: bytes, content_type: str = "application/json") -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={signature}", "Content-Type": content_type}


@contextlib.contextmanager
def _half_posted(port: int, order: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """Send a webhook but for the second half of its body, and give the connection with that half."""
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(order)), **_signed(order)}
    head = "POST /hooks/shop HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in headers.items()
    )
    middle = len(order) // 2
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n" + order[:middle])
        time.sleep(0.3)  # until the web has taken the connection
        yield connection, order[middle:]


def _with_password(database_url: str) -> str:
    """Give a database that trusts this machine a password all the same, to see that no log tells it."""
    url = make_url(database_url)
    if url.drivername != "postgresql" or url.password:
        return database_url
    return url.set(password=PASSWORD).render_as_string(hide_password=False)
