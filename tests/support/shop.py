"""A shop whose orders are posted to the real gateway, and what it was promised: every call, once, in order."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import requests
from sqlalchemy import Connection, create_engine, text

from tests.support.gateway_process import GatewayProcess
from tests.support.trackapi import Operation, TrackAPI

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
    """Run webs and workers that take the shop's orders.

    Args:
        lease: Seconds that a delivery is a worker's own; half of it is what one attempt may take.
        environment: Added to that of all its processes.
        migrated: The database has its schema.
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
    written = {"type": "order.paid", "id": f"{customer}-{number}", "customer": customer, "number": number}
    return json.dumps({**written, "note": note, **changes}).encode()


def signed(body: bytes, content_type: str = "application/json") -> dict[str, str]:
    now = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={signature}", "Content-Type": content_type}


class Load:
    """Senders that post each order until it is accepted, and a customer's next one only then.

    Attributes:
        accepted: How many orders were, so far.
        answers: Seconds until each answer, whatever it was.
        unavailable: How many answers were 503.
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
        """Post all orders while *disturb* runs beside, and return when both have come to their end."""
        self._deadline = time.monotonic() + self._patience
        with ThreadPoolExecutor(self._senders + 1) as pool:
            running = [pool.submit(self._post_all, number) for number in range(self._senders)]
            running.append(pool.submit(disturb, self))
            for each in as_completed(running):
                if each.exception() is not None:
                    self._deadline = 0.0  # the others would go on for nothing
                each.result()
        assert self.accepted == self.events

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return as soon as *reached* holds; give up where the load is given up."""
        while not reached():
            self.assert_patience()
            time.sleep(0.01)

    def assert_patience(self) -> None:
        seen = f"{self.accepted} of {self.events} orders were accepted, {self.unavailable} answers were 503"
        assert time.monotonic() < self._deadline, f"after {self._patience} s, or another's error: {seen}"

    def _post_all(self, sender: int) -> None:
        dice = random.Random(f"{self._seed} {sender}")
        urls = itertools.cycle(self._urls)
        with requests.Session() as session:
            mine = self.customers[sender :: self._senders]
            for number, customer in itertools.product(range(1, self.orders + 1), mine):
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
                status = self._post(session, next(urls), body)
                if status != 503:
                    assert status in (200, 202)
                    return status
            time.sleep(0.05)

    def _post(self, session: requests.Session, url: str, body: bytes) -> int:
        began = time.monotonic()
        answer = session.post(f"{url}/hooks/shop", body, headers=signed(body), timeout=10)
        with self._lock:
            self.answers.append(time.monotonic() - began)
            self.unavailable += answer.status_code == 503
        return answer.status_code


_WEB_IS_GONE = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How the promise was kept: but for *applied*, which are different calls, all is zero where it was.

    Attributes:
        duplicates: Events that were applied again.
        out_of_order: Calls that were applied after a later one of the same customer.
        refused: Requests that the API would not take, and events under the id of another.
    """

    applied: int
    unexpected: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    refused: int = 0


def assert_promise_kept(api: TrackAPI, load: Load) -> None:
    """Compare what the API has applied, call by call, with what was accepted."""
    expected = list(promised(load.orders))
    differences = {customer: calls for customer in load.customers if (calls := arrived(api, customer)) != expected}
    assert (_kept(api, load), differences) == (Kept(applied=load.calls), {})


def promised(orders: int) -> Iterator[tuple[str, int]]:
    """List a customer's calls in the order in which they have to arrive."""
    for number in range(1, orders + 1):
        yield "identify", number
        yield "event", number


def arrived(api: TrackAPI, customer: str) -> list[tuple[str, int]]:
    """List what reached a customer, in order.

    An identify that a killed worker had sent may be sent again, but only before the next call. An event may
    not: its id lets Customer.io drop the second, so one that is seen twice was applied twice.
    """
    seen: list[tuple[str, int]] = []
    for operation in api.applied(customer):
        this = (operation.kind, _number(operation))
        if operation.kind == "event" or seen[-1:] != [this]:
            seen.append(this)
    return seen


def wait_until_settled(database_url: str, load: Load, timeout: float) -> None:
    """Return when the database holds every order as accepted, and every call as delivered.

    Raises:
        TimeoutError: After *timeout* seconds that is not so.
    """
    deadline = time.monotonic() + timeout
    wanted = {"events": {"accepted": load.events}, "deliveries": {"delivered": load.calls}}
    while (found := _statuses(database_url)) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all is settled after {timeout} s; the database holds {found}")
        time.sleep(0.25)


def _kept(api: TrackAPI, load: Load) -> Kept:
    expected = {call: place for place, call in enumerate(promised(load.orders))}
    applied = unexpected = duplicates = out_of_order = 0
    for customer in load.customers:
        calls = arrived(api, customer)
        places = [expected[call] for call in calls if call in expected]
        applied += len(set(places))
        unexpected += len(calls) - len(places)
        events = [call for call in calls if call[0] == "event"]
        duplicates += len(events) - len(set(events))
        out_of_order += _steps_back(places)
    return Kept(
        applied=applied,
        unexpected=unexpected,
        duplicates=duplicates,
        out_of_order=out_of_order,
        refused=len(api.refused) + len(api.conflicts),
    )


def _steps_back(places: Iterable[int]) -> int:
    return sum(later < earlier for earlier, later in itertools.pairwise(places))


def _number(operation: Operation) -> int:
    if operation.kind == "identify":
        number = operation.body["last_order"]
    else:
        data = operation.body["data"]
        assert isinstance(data, dict)
        number = data["number"]
    assert isinstance(number, int)
    return number


def _statuses(database_url: str) -> dict[str, dict[str, int]]:
    """Count by status with a plain query: what is judged here must not be asked of the code that is judged."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            return {table: _by_status(connection, table) for table in ("events", "deliveries")}
    finally:
        engine.dispose()


def _by_status(connection: Connection, table: str) -> dict[str, int]:
    query = text(f"SELECT status, count(*) AS number FROM {table} GROUP BY status")
    return {row.status: row.number for row in connection.execute(query)}
