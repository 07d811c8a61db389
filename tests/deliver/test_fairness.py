"""What fails never holds up what works, and the rate is one for all workers, on both databases."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from sqlalchemy import update

from gateway.customerio.retry import Attempt, Probe
from gateway.customerio.wire import HttpRequest
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.tables import RETRIED, connections, deliveries
from tests.deliver.running import column, running, statuses, wait_until
from tests.deliver.test_worker import OK, FakeSender, people, record

POISONED = 40


def poisoned_people() -> list[tuple[str, int]]:
    return [(f"x{person}", 1) for person in range(POISONED)]


def refuse_poisoned(request: HttpRequest) -> Attempt:
    return Attempt(status=500, reason="HTTP 500") if "/x" in request.path else OK


def wait_for_delivered(database: Database, number: int) -> None:
    wait_until(lambda: statuses(database).count("delivered") == number)


def test_forty_people_whose_calls_always_fail_hold_up_nobody(database: Database, store: Store) -> None:
    sender = FakeSender(refuse_poisoned)
    record(store, *poisoned_people())
    record(store, *people(60))
    with running(database, sender, delay=0.2):
        wait_for_delivered(database, 60)
        for number in (2, 3):  # while the others go on failing
            record(store, *((f"p{person}", number) for person in range(20)))
            wait_for_delivered(database, 40 + 20 * number)
        sender.answer = lambda _: OK
        wait_for_delivered(database, POISONED + 100)
    assert column(database, connections.c.cause) == [None]


def record_as_failed_before(database: Database, store: Store, *made: tuple[str, int]) -> None:
    record(store, *made)
    with database.transaction() as connection:
        connection.execute(update(deliveries).values(queue=RETRIED, tries=1))


def test_calls_that_fail_slowly_leave_most_threads_to_the_others(database: Database, store: Store) -> None:
    release, held = threading.Event(), threading.Semaphore(0)

    def answer(request: HttpRequest) -> Attempt:
        if "/x" in request.path:
            held.release()
            release.wait(20)
        return refuse_poisoned(request)

    record_as_failed_before(database, store, *poisoned_people())
    with running(database, FakeSender(answer)):
        for _ in range(4):
            assert held.acquire(timeout=10)
        record(store, *people(30))
        wait_for_delivered(database, 30)
        assert not held.acquire(blocking=False), "only a quarter of the threads is theirs"
        release.set()


def test_while_a_probe_runs_for_what_failed_before_the_others_go_on(database: Database, store: Store) -> None:
    release, probing = threading.Event(), threading.Event()

    def probe() -> Probe:
        probing.set()
        release.wait(20)
        return Probe()

    sender = FakeSender(refuse_poisoned)
    sender.probe_answer = probe
    record_as_failed_before(database, store, ("x1", 1))
    with running(database, sender):
        assert probing.wait(10)
        record(store, *people(5))
        wait_for_delivered(database, 5)
        release.set()


def test_the_retries_of_an_outage_follow_soon_after_the_first_call_that_arrives(
    database: Database, store: Store
) -> None:
    sender = FakeSender(lambda _: Attempt(status=500, reason="HTTP 500"))
    with running(database, sender, delay=600.0):  # as after many tries
        for person in range(3):
            record(store, (f"p{person}", 1))
        wait_until(lambda: column(database, deliveries.c.queue) == [RETRIED] * 3)
        sender.answer = lambda _: OK
        record(store, ("ann", 1))
        wait_for_delivered(database, 4)
    assert column(database, deliveries.c.tries) == [2, 2, 2, 1]


def test_three_workers_share_one_rate_and_reach_it(database: Database, store: Store) -> None:
    rate, number = 40.0, 60
    moments: list[float] = []

    def answer(_: HttpRequest) -> Attempt:
        moments.append(time.monotonic())
        return OK

    # Calls to these ids are sent singly.
    record(store, *((f"p{person}@example.com", 1) for person in range(number)))
    sender, rates = FakeSender(answer), {"default": rate}
    with ExitStack() as workers:
        for _ in range(3):
            workers.enter_context(running(database, sender, rates=rates))
        wait_for_delivered(database, number)
    assert sender.requests == number
    seconds = max(moments) - min(moments)
    # What was booked in the first tenth of a second may go at once; the first of them may begin late.
    assert seconds >= 0.8 * number / rate
    assert seconds < 4 * number / rate, "a worker that books what it does not use would take longer"
