"""The delivery loop on both databases: a function plays Customer.io."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.customerio.calls import Identify
from gateway.customerio.retry import Attempt, Probe, Retry
from gateway.customerio.wire import BATCH_PATH, HttpRequest
from gateway.store import Claimed, ClaimRequest, Outcome, Store
from gateway.store.database import Database, connect
from gateway.store.lease_owners import WorkerLock
from gateway.store.tables import connections, deliveries, notices
from tests.deliver.running import column, reasons, record_calls, running, statuses, wait_for, wait_until

OK = Attempt(status=200)


class FakeSender:
    """A sender that notes each call and answers by a function; a batch is answered as its items together.

    Attributes:
        sent: Each call as "connection[region] person number".
        requests: Single requests and batches.
    """

    def __init__(self, answer: Callable[[HttpRequest], Attempt] = lambda _: OK) -> None:
        self.sent: list[str] = []
        self.requests = 0
        self.answer = answer
        self.probe_answer: Callable[[], Probe] = Probe
        self._lock = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        singles = [request]
        if request.path == BATCH_PATH:
            singles = [
                HttpRequest(
                    method="PUT",
                    path=f"/api/v1/customers/{item['identifiers']['id']}",
                    body=json.dumps(item["attributes"]).encode(),
                )
                for item in json.loads(request.body or b"")["batch"]
            ]
        with self._lock:
            self.requests += 1
            self.sent += [f"{connection}{region or ''} {person(single)} {number(single)}" for single in singles]
        answers = [self.answer(single) for single in singles]
        # A failure that is no refusal is that of the whole batch; refused items are named.
        whole = [answer for answer in answers if answer.status is None or answer.status == 429 or answer.status >= 500]
        refused = {index: str(answer.reason) for index, answer in enumerate(answers) if answer.status == 400}
        if whole or len(answers) == 1 or not refused:
            return (whole or answers)[0]
        return Attempt(status=207, reason="HTTP 207", refused_items=refused)

    def probe(self, connection: str, region: str | None = None) -> Probe:  # noqa: ARG002  # as every sender
        return self.probe_answer()

    def break_off(self, within: float) -> None:
        """Nothing that is sent here takes long."""

    def sent_to(self, person: str) -> list[str]:
        return [line for line in self.sent if line.split()[1] == person]

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.sent) >= count)


def person(request: HttpRequest) -> str:
    return request.path.rsplit("/", 1)[1]


def number(request: HttpRequest) -> int:
    return int(json.loads(request.body or b"")["number"])


def record(store: Store, *made: tuple[str, int], region: str | None = None, connection: str = "default") -> None:
    """Record one event with an identify for each (person, number)."""
    calls = [Identify(id=person, attributes={"number": number}) for person, number in made]
    record_calls(store, calls, connection=connection, region=region)


def people(count: int) -> list[tuple[str, int]]:
    return [(f"p{person}", 1) for person in range(count)]


def test_what_was_recorded_before_and_what_comes_later_is_delivered_in_order(database: Database, store: Store) -> None:
    sender = FakeSender()
    record(store, ("ann", 1), ("bob", 1), ("ann", 2))
    with running(database, sender):
        sender.wait_for(3)
        record(store, ("ann", 3), region="eu")
        sender.wait_for(4)
        wait_for(database, *["delivered"] * 4)
    assert sender.sent_to("ann") == ["default ann 1", "default ann 2", "defaulteu ann 3"]


def test_new_work_is_claimed_at_once(database: Database, store: Store) -> None:
    sender = FakeSender()
    with running(database, sender):
        time.sleep(0.5)
        began = time.monotonic()
        record(store, ("ann", 1))
        sender.wait_for(1)
        assert time.monotonic() - began < 0.5


def test_a_delivery_that_fails_holds_up_no_other_customer(database: Database, store: Store) -> None:
    sender = FakeSender(lambda request: Attempt(status=503 if "ann" in request.path else 200, reason="HTTP 503"))
    record(store, ("ann", 1), ("ann", 2), *people(40))
    with running(database, sender, delay=0.2):
        wait_until(lambda: statuses(database).count("delivered") == 40)
        assert statuses(database)[:2] == ["pending", "parked"]
        sender.answer = lambda _: OK
        wait_until(lambda: statuses(database).count("delivered") == 42)
    *first, last = sender.sent_to("ann")
    assert (set(first), last) == ({"default ann 1"}, "default ann 2")


def test_a_refused_call_is_kept_as_failed_and_the_next_goes_out(database: Database, store: Store) -> None:
    sender = FakeSender(lambda request: Attempt(status=400 if number(request) == 1 else 200, reason="HTTP 400: no"))
    record(store, ("ann", 1), ("ann", 2))
    with running(database, sender):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])


def test_a_call_that_cannot_be_read_fails_and_stops_no_other(database: Database, store: Store) -> None:
    record(store, ("ann", 1), ("bob", 1))
    with database.transaction() as connection:
        connection.execute(deliveries.update().where(deliveries.c.call.contains("ann")).values(call="{"))
    with running(database, FakeSender(), delay=60):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])
    assert reasons(database) == ["the gateway cannot make a request of it (JSONDecodeError)", None]


def test_stopping_settles_what_is_in_flight_and_releases_the_rest(database: Database, store: Store) -> None:
    release = threading.Event()

    def answer(_: HttpRequest) -> Attempt:
        release.wait(10)
        return OK

    sender = FakeSender(answer)
    record(store, *people(250))
    with running(database, sender, threads=2) as worker:
        sender.wait_for(200)
        worker.stop()
        release.set()
    assert (sender.requests, len(sender.sent)) == (2, 200)
    assert sorted(statuses(database)) == ["delivered"] * 200 + ["pending"] * 50
    assert len(store.settle_and_claim([], ClaimRequest(limit=100, lease=1, lease_seconds=1.0)).claimed) == 50


def test_a_delivery_whose_lease_may_have_ended_is_not_sent(database: Database, store: Store) -> None:
    def answer(request: HttpRequest) -> Attempt:
        if request.path.endswith("p0"):
            time.sleep(0.8)
        return OK

    sender = FakeSender(answer)
    record(store, *people(150))
    with running(database, sender, lease=1.0, deadline=0.9, threads=1):
        wait_for(database, *["delivered"] * 150)
    assert len(sender.sent) == len(set(sender.sent)) == 150


def test_a_worker_that_has_stopped_leaves_no_thread_behind(database: Database, store: Store) -> None:
    before = set(threading.enumerate())
    sender = FakeSender()
    with running(database, sender):
        time.sleep(0.3)  # until it listens
        record(store, ("ann", 1))
        sender.wait_for(1)
    assert set(threading.enumerate()) <= before


def test_several_workers_share_the_work_and_keep_the_order(database: Database, store: Store) -> None:
    sender = FakeSender()
    for number in range(1, 21):
        record(store, *((f"p{person}", number) for person in range(5)))
    with running(database, sender), running(database, sender), running(database, sender):
        wait_for(database, *["delivered"] * 100)
    for person in range(5):
        assert sender.sent_to(f"p{person}") == [f"default p{person} {number}" for number in range(1, 21)]


# Failures at work; what follows each kind of failure is a table in test_retry

UNREACHABLE = Probe(cause="unreachable", reason="no connection within 5 s")
WRONG_KEY = Probe(cause="misconfigured", reason="HTTP 401: the site id or the API key is wrong")


def tries(database: Database) -> list[int]:
    return column(database, deliveries.c.tries)


def causes(database: Database) -> list[str | None]:
    return column(database, connections.c.cause)


def open_notices(database: Database) -> list[str]:
    return column(database, notices.c.text, notices.c.ended_at.is_(None))


class ProbeAnswer:
    """Answers probes, and notes whether two were ever made at once."""

    def __init__(self, answer: Probe) -> None:
        self.answer = answer
        self.number = 0
        self.overlapped = False
        self._lock = threading.Lock()

    def __call__(self) -> Probe:
        answer = self.answer
        if not self._lock.acquire(blocking=False):
            self.overlapped = True
            return answer
        time.sleep(0.05)
        self.number += 1
        self._lock.release()
        return answer


def test_in_an_outage_one_worker_probes_and_nothing_counts_against_a_delivery(database: Database, store: Store) -> None:
    probe = ProbeAnswer(UNREACHABLE)
    sender = FakeSender(lambda _: Attempt(status=None, reason="no answer in time"))
    sender.probe_answer = probe
    record(store, *people(40))
    with running(database, sender), running(database, sender), running(database, sender):
        wait_until(lambda: probe.number >= 3)
        assert causes(database) == ["unreachable"]
        assert open_notices(database) == ["connection default is paused (unreachable): no connection within 5 s"]
        sent_in_the_outage = len(sender.sent)
        sender.answer = lambda _: OK
        probe.answer = Probe()
        wait_for(database, *["delivered"] * 40)
    assert not probe.overlapped
    assert sent_in_the_outage <= 3 * 32
    assert tries(database) == [1] * 40, "only the attempt that arrived counts"
    assert (causes(database), open_notices(database)) == ([None], [])


def test_a_wrong_key_pauses_the_connection_loudly_and_loses_nothing(
    database: Database, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    sender = FakeSender(lambda _: Attempt(status=401, reason="HTTP 401: Unauthorized"))
    sender.probe_answer = lambda: WRONG_KEY
    record(store, ("ann", 1), ("ann", 2), ("bob", 1))
    with running(database, sender):
        wait_until(lambda: causes(database) == ["misconfigured"])
        assert sorted(statuses(database)) == ["parked", "pending", "pending"]
        wait_until(lambda: "connection default is paused (misconfigured): HTTP 401" in caplog.text)
        sender.answer = lambda _: OK
        sender.probe_answer = Probe
        wait_for(database, *["delivered"] * 3)
    assert "connection default: sending again" in caplog.text


def test_a_probe_that_raises_an_error_is_a_bad_one_and_another_follows(database: Database, store: Store) -> None:
    def fail() -> Probe:
        sender.answer, sender.probe_answer = lambda _: OK, Probe
        raise RuntimeError

    sender = FakeSender(lambda _: Attempt(status=500, reason="HTTP 500"))
    sender.probe_answer = fail
    record(store, ("ann", 1))
    with running(database, sender):
        wait_for(database, "delivered")
    assert tries(database) == [1], "the bad probe counts against no delivery"


def test_after_a_good_probe_a_refusal_is_the_calls_own_fault(database: Database, store: Store) -> None:
    refused = Attempt(status=404, reason="HTTP 404", about_call=True)
    sender = FakeSender(lambda request: refused if "ann" in request.path else OK)
    record(store, ("ann", 1), ("bob", 1))
    with running(database, sender):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])
    assert causes(database) == [None]
    assert "deliveries of source shop fail, the first is 1: HTTP 404" in open_notices(database)


def test_throttling_pauses_the_connection_for_as_long_as_asked_and_counts_no_try(
    database: Database, store: Store
) -> None:
    first = threading.Semaphore(1)
    moments: list[float] = []

    def answer(_: HttpRequest) -> Attempt:
        moments.append(time.monotonic())
        throttled = first.acquire(blocking=False)
        return Attempt(status=429, reason="HTTP 429", retry_after=1.0) if throttled else OK

    sender = FakeSender(answer)
    record(store, ("ann", 1), ("ann", 2))
    with running(database, sender):
        wait_for(database, *["delivered"] * 2)
    assert moments[1] - moments[0] >= 1.0
    assert tries(database) == [1, 1]


def test_five_customers_that_fail_in_a_row_pause_a_connection_whose_probes_are_good(
    database: Database, store: Store
) -> None:
    sender = FakeSender(lambda _: Attempt(status=500, reason="HTTP 500"))
    record(store, *people(8))
    with running(database, sender, delay=0.1):
        wait_until(lambda: "failing" in causes(database))
        sender.answer = lambda _: OK
        wait_for(database, *["delivered"] * 8)
    assert causes(database) == [None]


def test_a_paused_connection_holds_up_no_other(database: Database, store: Store) -> None:
    sender = FakeSender()
    sender.answer = lambda request: OK if "bob" in request.path else Attempt(status=None, reason="x")
    sender.probe_answer = lambda: UNREACHABLE
    record(store, *((f"ann{number}", 1) for number in range(100)))
    record(store, *((f"bob{number}", 1) for number in range(20)), connection="other")
    with running(database, sender):
        wait_until(lambda: statuses(database).count("delivered") == 20)
    assert statuses(database) == ["pending"] * 100 + ["delivered"] * 20


def test_a_pause_does_not_count_as_failing(database: Database, store: Store) -> None:
    """A delivery's own 72 hours stand still while its connection is paused."""
    record(store, ("ann", 1))

    hour = 3_600.0

    def claim(*outcomes: Outcome) -> Claimed:
        (claimed,) = store.settle_and_claim(outcomes, ClaimRequest(limit=1, lease=7, lease_seconds=60)).claimed
        return claimed

    claimed = claim()
    with database.transaction() as connection:
        connection.execute(connections.update().values(paused_for=5 * hour))
    claim(Outcome(delivery=claimed, attempt=Attempt(status=500), decision=Retry(after=0.0, reason="x")))
    with database.transaction() as connection:
        earlier = {"first_failed_at": deliveries.c.first_failed_at - 9 * hour, "due_at": 0}
        connection.execute(deliveries.update().values(earlier))
        connection.execute(connections.update().values(paused_for=12 * hour))
    claimed = claim()
    assert claimed.failing_for == pytest.approx(2 * hour, abs=60)


def test_a_worker_is_woken_beside_a_busy_one_and_a_pipe_without_a_reader_is_removed(tmp_path: Path) -> None:
    database = connect(f"sqlite:///{tmp_path}/gateway.db")
    pipes, stopping, woken = tmp_path / "gateway.db.workers", threading.Event(), threading.Event()
    listener = threading.Thread(target=database.listen, args=(woken.set, stopping, WorkerLock()))
    listener.start()
    assert woken.wait(5), "once at the beginning"
    os.mkfifo(pipes / "killed")
    busy = full_pipe(pipes / "busy")
    woken.clear()
    database.notify()
    assert woken.wait(5)
    assert len(list(pipes.iterdir())) == 2
    os.close(busy)
    stopping.set()
    listener.join(5)
    database.notify()
    assert list(pipes.iterdir()) == []


def full_pipe(path: Path) -> int:
    """Make a pipe that has a reader and no room, and return its descriptor."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b".")
    return descriptor
