"""A shop that posts orders to the real gateway, and the promise to it: every call arrives, once, in order."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import requests
from sqlalchemy import create_engine, text

from tests.support.gateway_process import GatewayProcess
from tests.support.trackapi import TrackAPI

SECRET = "whsec_shop-secret-4711"
API_KEY = "api-key-4711"

# Two calls an order, both in the customer's lane.
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


@contextlib.contextmanager
def running_gateway(
    directory: Path,
    database_url: str,
    api: TrackAPI,
    *,
    webs: int = 1,
    workers: int = 1,
    lease: float = 3.0,
    environment: Mapping[str, str] | None = None,
    migrated: bool = False,
) -> Iterator[GatewayProcess]:
    """Run webs and workers for the shop's orders.

    Args:
        lease: Seconds that a worker may hold a delivery; one attempt may take half of it.
        environment: Added to that of all processes.
        migrated: Whether the database has its schema already.
    """
    mappings, logs = directory / "mappings", directory / "logs"
    mappings.mkdir()
    logs.mkdir()
    (mappings / "shop.yaml").write_text(MAPPING)
    settings = {
        "DATABASE_URL": database_url,
        "GATEWAY_MAPPINGS": str(mappings),
        "CUSTOMERIO_SITE_ID": "site",
        "CUSTOMERIO_API_KEY": API_KEY,
        "CUSTOMERIO_REGION": "us",
        "CUSTOMERIO_BASE_URL": api.url,
        "CUSTOMERIO_RETRY_DELAY_MS": "50",
        "SHOP_WEBHOOK_SECRET": SECRET,
        "WEB_CONCURRENCY": "2",
    }
    with GatewayProcess(
        environment=settings | dict(environment or {}),
        logs=logs,
        worker_options=("--lease", f"{lease:g}"),
        webs=webs,
        workers=workers,
    ) as processes:
        processes.start(migrated=migrated)
        yield processes


def paid_order(customer: object, number: int, *, note: str = "thank you", **changes: object) -> bytes:
    order = {"type": "order.paid", "id": f"{customer}-{number}", "customer": customer, "number": number}
    return json.dumps({**order, "note": note, **changes}).encode()


def signed(body: bytes, content_type: str = "application/json") -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={signature}", "Content-Type": content_type}


class Load:
    """Senders that post each order until it is accepted, and only then the customer's next one.

    Attributes:
        accepted: The number of orders accepted so far.
        answers: Seconds until each answer of any status.
        unavailable: The number of answers that were 503.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        customers: int,
        orders: int,
        patience: float,
        senders: int = 8,
        seed: int = 20_260_801,
    ) -> None:
        self.customers = [f"c{number}" for number in range(customers)]
        self.orders = orders
        self.accepted = 0
        self.answers: list[float] = []
        self.unavailable = 0
        self._urls = urls
        self._senders = senders
        self._seed = seed
        self._patience = patience
        self._deadline = 0.0
        self._lock = threading.Lock()

    @property
    def events(self) -> int:
        return len(self.customers) * self.orders

    @property
    def calls(self) -> int:
        return 2 * self.events

    def run(self, disturb: Callable[[Load], None] = lambda _: None) -> None:
        """Post all orders while *disturb* runs in another thread; return when both have ended."""
        self._deadline = time.monotonic() + self._patience
        with ThreadPoolExecutor(self._senders + 1) as pool:
            running = [pool.submit(self._post_all, number) for number in range(self._senders)]
            running.append(pool.submit(disturb, self))
            for future in as_completed(running):
                if future.exception() is not None:
                    self._deadline = 0.0  # ends the others too
                future.result()
        assert self.accepted == self.events

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return as soon as *reached* holds; raise AssertionError after the patience of the load."""
        while not reached():
            self.assert_patience()
            time.sleep(0.01)

    def assert_patience(self) -> None:
        progress = f"{self.accepted} of {self.events} orders were accepted, {self.unavailable} answers were 503"
        assert time.monotonic() < self._deadline, f"after {self._patience} s, or another's error: {progress}"

    def _post_all(self, sender: int) -> None:
        dice = random.Random(f"{self._seed} {sender}")
        urls = itertools.cycle(self._urls)
        with requests.Session() as session:
            customers = self.customers[sender :: self._senders]
            for number, customer in itertools.product(range(1, self.orders + 1), customers):
                body = paid_order(customer, number)
                self._post_until_accepted(session, urls, body)
                with self._lock:
                    self.accepted += 1
                if dice.random() < 0.02:
                    assert self._post_until_accepted(session, urls, body) == 200

    def _post_until_accepted(self, session: requests.Session, urls: Iterator[str], body: bytes) -> int:
        while True:
            self.assert_patience()
            with contextlib.suppress(*_WEB_IS_GONE):
                start = time.monotonic()
                answer = session.post(f"{next(urls)}/hooks/shop", body, headers=signed(body), timeout=10)
                with self._lock:
                    self.answers.append(time.monotonic() - start)
                    self.unavailable += answer.status_code == 503
                if answer.status_code != 503:
                    assert answer.status_code in (200, 202)
                    return answer.status_code
            time.sleep(0.05)


_WEB_IS_GONE = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def assert_promise_kept(api: TrackAPI, load: Load) -> None:
    """Compare the calls that the API has applied, customer by customer, with those of the accepted orders.

    A call that is lost, unexpected, repeated or out of order makes a customer's list differ.
    """
    expected = list(promised(load.orders))
    differing = {customer: calls for customer in load.customers if (calls := arrived(api, customer)) != expected}
    assert not differing, f"{len(differing)} customers differ from {expected}, among them {list(differing.items())[:3]}"
    assert (api.refused, api.conflicts) == ([], []), f"refused {api.refused[:3]}, conflicts {api.conflicts[:3]}"


def promised(orders: int) -> Iterator[tuple[str, int]]:
    """List a customer's calls in the order in which they have to arrive."""
    for number in range(1, orders + 1):
        yield "identify", number
        yield "event", number


def arrived(api: TrackAPI, customer: str) -> list[tuple[str, int]]:
    """List the calls that reached a customer, in order.

    A worker that is killed may have sent an identify that is then sent again, but only before the next call. An event
    is different: its id lets Customer.io drop the second, so one that is listed twice was applied twice.
    """
    calls: list[tuple[str, int]] = []
    for operation in api.applied(customer):
        body = operation.body
        call = (operation.kind, body["last_order"] if operation.kind == "identify" else body["data"]["number"])
        if operation.kind == "event" or calls[-1:] != [call]:
            calls.append(call)
    return calls


def wait_until_settled(database_url: str, load: Load, timeout: float) -> None:
    """Return when the database holds every order as accepted, and every call as delivered.

    The query is a plain one: the code under test must not judge itself.

    Raises:
        TimeoutError: After *timeout* seconds that is not so.
    """
    deadline = time.monotonic() + timeout
    wanted = {"events": {"accepted": load.events}, "deliveries": {"delivered": load.calls}}
    engine = create_engine(database_url)
    try:
        while True:
            counts: dict[str, dict[str, int]] = {}
            with engine.connect() as connection:
                for table in wanted:
                    rows = connection.execute(text(f"SELECT status, count(*) AS number FROM {table} GROUP BY status"))
                    counts[table] = {row.status: row.number for row in rows}
            if counts == wanted:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all is settled after {timeout} s; the database holds {counts}")
            time.sleep(0.25)
    finally:
        engine.dispose()
