"""The delivery loop on both databases: only the network is played by a function."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.customerio import calls
from gateway.customerio.calls import Identify
from gateway.customerio.retry import Attempt, Policy, Probe, Retry
from gateway.customerio.wire import BATCH_PATH, HttpRequest
from gateway.deliver.worker import Worker
from gateway.store import ClaimRequest, NewDelivery, Outcome, Store, Turn
from gateway.store.connection_state import ProbeResult
from gateway.store.database import Database, connect
from gateway.store.tables import connections, deliveries, notices
from tests.support.rows import event

Send = Callable[[HttpRequest], Attempt]


class Recorder:
    """A sender that notes what it is given and answers as told, of a batch what its items come to together."""

    def __init__(self, answer: Send = lambda _: Attempt(status=200)) -> None:
        self.sent: list[str] = []
        self.requests = 0
        self.answer = answer
        self.probe_answer: Callable[[], Probe] = Probe
        self._lock = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        singles = _items(request) if request.path == BATCH_PATH else [request]
        with self._lock:
            self.requests += 1
            self.sent += [
                f"{connection}{region or ''} {each.path.rsplit('/', 1)[1]} {_number(each)}" for each in singles
            ]
        return _together([self.answer(each) for each in singles])

    def probe(self, connection: str, region: str | None = None) -> Probe:  # noqa: ARG002  # as every sender
        return self.probe_answer()

    def wait_for(self, count: int, timeout: float = 10.0) -> list[str]:
        wait_until(lambda: len(self.sent) >= count, timeout)
        return self.sent


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.01)


def _items(batch: HttpRequest) -> list[HttpRequest]:
    assert batch.body is not None
    return [
        HttpRequest(
            method="PUT",
            path=f"/api/v1/customers/{item['identifiers']['id']}",
            body=json.dumps(item["attributes"]).encode(),
        )
        for item in json.loads(batch.body)["batch"]
    ]


def _together(answers: list[Attempt]) -> Attempt:
    """Answer a batch: what is no refusal fails it as a whole, the refused are named."""
    whole = [each for each in answers if each.status is None or each.status == 429 or each.status >= 500]
    refused = {number: str(each.reason) for number, each in enumerate(answers) if each.status == 400}
    if whole or len(answers) == 1 or not refused:
        return (whole or answers)[0]
    return Attempt(status=207, reason="HTTP 207", refused_items=refused)


def _number(request: HttpRequest) -> int:
    assert request.body is not None
    number: int = json.loads(request.body)["number"]
    return number


def record(store: Store, *made: tuple[str, int], region: str | None = None, connection: str = "default") -> None:
    """Record one event with an identify for each (person, number)."""
    new = []
    for person, number in made:
        call = Identify(id=person, attributes={"number": number})
        text = json.dumps(calls.as_json(call))
        new.append(
            NewDelivery(
                identity=hashlib.sha256((connection + text).encode()).digest(),
                connection=connection,
                region=region,
                lanes=call.lanes(connection),
                call=text,
            )
        )
    store.record([event(repr((connection, made)), *new)])
    store.wake()


@contextmanager
def running(
    database: Database,
    sender: Recorder,
    *,
    lease: float = 30.0,
    deadline: float = 5.0,
    delay: float = 0.05,
    threads: int = 16,
    rates: Mapping[str, float] | None = None,
) -> Iterator[Worker]:
    own = connect(database.engine.url.render_as_string(hide_password=False))
    worker = Worker(
        own,
        sender,
        policies={"default": Policy(delay=delay), "other": Policy(delay=delay)},
        rates=rates or {},
        threads=threads,
        lease=lease,
        deadline=deadline,
        jitter=lambda: 0.0,
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(20)
        assert not thread.is_alive()
        own.engine.dispose()


def statuses(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.status).order_by(deliveries.c.id)))


def reasons(database: Database) -> list[str | None]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.reason).order_by(deliveries.c.id)))


def test_what_was_recorded_before_and_what_comes_later_is_delivered_in_order(database: Database, store: Store) -> None:
    sender = Recorder()
    record(store, ("ann", 1), ("bob", 1), ("ann", 2))
    with running(database, sender):
        sender.wait_for(3)
        record(store, ("ann", 3), region="eu")
        sender.wait_for(4)
        wait_until(lambda: statuses(database) == ["delivered"] * 4)
    assert [each for each in sender.sent if "ann" in each] == [
        "default ann 1",
        "default ann 2",
        "defaulteu ann 3",
    ]


def test_new_work_is_taken_up_at_once(database: Database, store: Store) -> None:
    sender = Recorder()
    with running(database, sender):
        time.sleep(0.5)
        began = time.monotonic()
        record(store, ("ann", 1))
        sender.wait_for(1)
        assert time.monotonic() - began < 0.5


def test_a_customer_who_cannot_be_served_holds_up_nobody_else(database: Database, store: Store) -> None:
    sender = Recorder(lambda request: Attempt(status=503 if "ann" in request.path else 200, reason="HTTP 503"))
    record(store, ("ann", 1), ("ann", 2), *((f"p{number}", 1) for number in range(40)))
    with running(database, sender, delay=0.2):
        wait_until(lambda: statuses(database).count("delivered") == 40)
        assert statuses(database)[:2] == ["pending", "parked"]
        sender.answer = lambda _: Attempt(status=200)
        wait_until(lambda: statuses(database).count("delivered") == 42)
    ann = [each for each in sender.sent if "ann" in each]
    assert ann[-1] == "default ann 2"
    assert set(ann[:-1]) == {"default ann 1"}


def test_a_refused_call_is_kept_as_failed_and_the_next_goes_out(database: Database, store: Store) -> None:
    sender = Recorder(lambda request: Attempt(status=400 if _number(request) == 1 else 200, reason="HTTP 400: no"))
    record(store, ("ann", 1), ("ann", 2))
    with running(database, sender):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])


def test_a_call_that_cannot_even_be_read_stops_nobody(database: Database, store: Store) -> None:
    record(store, ("ann", 1), ("bob", 1))
    with database.transaction() as connection:
        broken = deliveries.update().where(deliveries.c.call.contains("ann")).values(call="{")
        connection.execute(broken)
    sender = Recorder()
    with running(database, sender, delay=60):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])
    assert reasons(database) == ["the gateway cannot make a request of it (JSONDecodeError)", None]


def test_stopping_settles_what_is_in_flight_and_gives_the_rest_back(database: Database, store: Store) -> None:
    release = threading.Event()

    def answer(_: HttpRequest) -> Attempt:
        release.wait(10)
        return Attempt(status=200)

    sender = Recorder(answer)
    record(store, *((f"p{number}", 1) for number in range(250)))
    with running(database, sender, threads=2) as worker:
        sender.wait_for(200)
        worker.stop()
        release.set()
    assert (sender.requests, len(sender.sent)) == (2, 200)
    assert sorted(statuses(database)) == ["delivered"] * 200 + ["pending"] * 50
    assert len(store.settle_and_claim([], ClaimRequest(limit=100, lease=1, lease_seconds=1.0)).claimed) == 50


def test_what_waits_too_long_for_its_turn_is_not_sent_under_a_lease_that_may_have_ended(
    database: Database, store: Store
) -> None:
    def answer(request: HttpRequest) -> Attempt:
        if request.path.endswith("p0"):
            time.sleep(0.8)
        return Attempt(status=200)

    sender = Recorder(answer)
    record(store, *((f"p{number}", 1) for number in range(150)))
    with running(database, sender, lease=1.0, deadline=0.9, threads=1):
        wait_until(lambda: statuses(database) == ["delivered"] * 150, timeout=20)
    assert len(sender.sent) == len(set(sender.sent)) == 150


def test_a_worker_that_has_stopped_leaves_no_thread_behind(database: Database, store: Store) -> None:
    before = set(threading.enumerate())
    sender = Recorder()
    with running(database, sender):
        time.sleep(0.3)  # until it listens
        record(store, ("ann", 1))
        sender.wait_for(1)
    assert set(threading.enumerate()) <= before


def test_several_workers_share_the_work_and_keep_the_order(database: Database, store: Store) -> None:
    sender = Recorder()
    for number in range(1, 21):
        record(store, *((f"p{person}", number) for person in range(5)))
    with running(database, sender), running(database, sender), running(database, sender):
        wait_until(lambda: statuses(database) == ["delivered"] * 100, timeout=20)
    for person in range(5):
        assert [each for each in sender.sent if f" p{person} " in each] == [
            f"default p{person} {number}" for number in range(1, 21)
        ]


# The failure rules, at work. What each kind of failure comes to is a table in test_retry.

UNREACHABLE = Probe(cause="unreachable", reason="no connection within 5 s")
WRONG_KEY = Probe(cause="misconfigured", reason="HTTP 401: the site id or the API key is wrong")


class OneAtATime:
    """Answers probes, and notes whether two were ever made at once."""

    def __init__(self, answer: Probe) -> None:
        self.answer = answer
        self.made = 0
        self.overlapped = False
        self._making = threading.Lock()

    def __call__(self) -> Probe:
        if not self._making.acquire(blocking=False):
            self.overlapped = True
            return self.answer
        with_us = self.answer
        time.sleep(0.05)
        self.made += 1
        self._making.release()
        return with_us


def tries(database: Database) -> list[int]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.tries).order_by(deliveries.c.id)))


def causes(database: Database) -> list[str | None]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(connections.c.cause).order_by(connections.c.connection)))


def open_notices(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(notices.c.text).where(notices.c.ended_at.is_(None))))


def test_in_an_outage_one_worker_probes_and_nothing_is_held_against_a_delivery(
    database: Database, store: Store
) -> None:
    probe = OneAtATime(UNREACHABLE)
    sender = Recorder(lambda _: Attempt(status=None, reason="no answer in time"))
    sender.probe_answer = probe
    record(store, *((f"p{number}", 1) for number in range(40)))
    with running(database, sender), running(database, sender), running(database, sender):
        wait_until(lambda: probe.made >= 3)
        assert causes(database) == ["unreachable"]
        assert open_notices(database) == ["connection default is paused (unreachable): no connection within 5 s"]
        sent_in_the_outage = len(sender.sent)
        sender.answer = lambda _: Attempt(status=200)
        probe.answer = Probe()
        wait_until(lambda: statuses(database) == ["delivered"] * 40)
    assert not probe.overlapped
    assert sent_in_the_outage <= 3 * 32
    assert tries(database) == [1] * 40, "only the try that arrived counts"
    assert (causes(database), open_notices(database)) == ([None], [])


def test_a_wrong_key_pauses_the_connection_loudly_and_loses_nothing(
    database: Database, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Recorder(lambda _: Attempt(status=401, reason="HTTP 401: Unauthorized"))
    sender.probe_answer = lambda: WRONG_KEY
    record(store, ("ann", 1), ("ann", 2), ("bob", 1))
    with running(database, sender):
        wait_until(lambda: causes(database) == ["misconfigured"])
        assert sorted(statuses(database)) == ["parked", "pending", "pending"]
        wait_until(lambda: "connection default is paused (misconfigured): HTTP 401" in caplog.text)
        sender.answer = lambda _: Attempt(status=200)
        sender.probe_answer = Probe
        wait_until(lambda: statuses(database) == ["delivered"] * 3)
    assert "connection default: sending again" in caplog.text


def test_where_the_probe_is_good_a_refusal_is_the_deliverys_own(database: Database, store: Store) -> None:
    refused = Attempt(status=404, reason="HTTP 404", about_call=True)
    sender = Recorder(lambda request: refused if "ann" in request.path else Attempt(status=200))
    record(store, ("ann", 1), ("bob", 1))
    with running(database, sender):
        wait_until(lambda: statuses(database) == ["failed", "delivered"])
    assert causes(database) == [None]
    assert "deliveries of source shop fail, the first is 1: HTTP 404" in open_notices(database)


def test_throttling_stops_everything_for_as_long_as_asked_and_counts_for_nothing(
    database: Database, store: Store
) -> None:
    first = threading.Semaphore(1)
    moments: list[float] = []

    def answer(_: HttpRequest) -> Attempt:
        moments.append(time.monotonic())
        throttled = first.acquire(blocking=False)
        return Attempt(status=429, reason="HTTP 429", retry_after=1.0) if throttled else Attempt(status=200)

    sender = Recorder(answer)
    record(store, ("ann", 1), ("ann", 2))
    with running(database, sender):
        wait_until(lambda: statuses(database) == ["delivered"] * 2)
    assert moments[1] - moments[0] >= 1.0
    assert tries(database) == [1, 1]


def test_five_customers_who_fail_in_a_row_pause_the_connection_although_it_answers_probes(
    database: Database, store: Store
) -> None:
    sender = Recorder(lambda _: Attempt(status=500, reason="HTTP 500"))
    record(store, *((f"p{number}", 1) for number in range(8)))
    with running(database, sender, delay=0.1):
        wait_until(lambda: "failing" in causes(database))
        sender.answer = lambda _: Attempt(status=200)
        wait_until(lambda: statuses(database) == ["delivered"] * 8)
    assert causes(database) == [None]


def test_a_paused_connection_holds_up_no_other(database: Database, store: Store) -> None:
    sender = Recorder()
    sender.answer = lambda request: Attempt(status=200) if "bob" in request.path else Attempt(status=None, reason="x")
    sender.probe_answer = lambda: UNREACHABLE
    record(store, *((f"ann{number}", 1) for number in range(100)))
    record(store, *((f"bob{number}", 1) for number in range(20)), connection="other")
    with running(database, sender):
        wait_until(lambda: statuses(database).count("delivered") == 20)
    assert statuses(database) == ["pending"] * 100 + ["delivered"] * 20


def test_a_pause_does_not_count_as_failing(database: Database, store: Store) -> None:
    """A delivery's own 72 hours stand still while its connection is paused."""
    record(store, ("ann", 1))

    def turn(*outcomes: Outcome, probed: Sequence[ProbeResult] = ()) -> Turn:
        return store.settle_and_claim(outcomes, ClaimRequest(limit=1, lease=7, lease_seconds=60, probe_results=probed))

    (claimed,) = turn().claimed
    failed = Outcome(delivery=claimed, attempt=Attempt(status=500), decision=Retry(after=0.0, reason="x"))
    with database.transaction() as connection:
        hour = 3_600.0
        connection.execute(connections.update().values(paused_for=5 * hour))
    (claimed,) = turn(failed).claimed
    with database.transaction() as connection:
        earlier = {"first_failed_at": deliveries.c.first_failed_at - 9 * hour, "due_at": 0}
        connection.execute(deliveries.update().values(earlier))
        connection.execute(connections.update().values(paused_for=12 * hour))
    (claimed,) = turn().claimed
    assert claimed.failing_for == pytest.approx(2 * hour, abs=60)


def test_a_worker_is_woken_beside_one_that_is_busy_and_a_pipe_that_nobody_reads_is_cleared_away(
    tmp_path: Path,
) -> None:
    database = connect(f"sqlite:///{tmp_path}/gateway.db")
    pipes, stopping, woken = tmp_path / "gateway.db.workers", threading.Event(), threading.Event()
    listener = threading.Thread(target=database.listen, args=(woken.set, stopping))
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
    """Make a pipe that has a reader and no room, and give its descriptor."""
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b".")
    return descriptor
