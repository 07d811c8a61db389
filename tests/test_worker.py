"""The delivery loop on both databases: only the network is played by a function."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import select

from gateway import calls
from gateway.calls import Identify
from gateway.database import Database, connect
from gateway.retry import Attempt, Policy
from gateway.store import NewDelivery, NewEvent, Store
from gateway.tables import deliveries
from gateway.wire import HttpRequest
from gateway.worker import Worker

Send = Callable[[HttpRequest], Attempt]


class Recorder:
    """A sender that notes what it is given and answers as told."""

    def __init__(self, answer: Send = lambda _: Attempt(status=200)) -> None:
        self.sent: list[str] = []
        self.answer = answer
        self._lock = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        with self._lock:
            self.sent.append(
                f"{connection}{region or ''} {request.path.rsplit('/', 1)[1]} {_number(request)}"
            )
        return self.answer(request)

    def wait_for(self, count: int, timeout: float = 10.0) -> list[str]:
        wait_until(lambda: len(self.sent) >= count, timeout)
        return self.sent


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.01)


def _number(request: HttpRequest) -> int:
    assert request.body is not None
    number: int = json.loads(request.body)["number"]
    return number


def record(store: Store, *made: tuple[str, int], region: str | None = None) -> None:
    """Record one event with an identify for each (person, number)."""
    new = []
    for person, number in made:
        call = Identify(id=person, attributes={"number": number})
        text = json.dumps(calls.as_json(call))
        new.append(
            NewDelivery(
                identity=hashlib.sha256(text.encode()).digest(),
                connection="default",
                region=region,
                lanes=(calls.lane("default", calls.Address(kind="id", value=person)),),
                call=text,
            )
        )
    key = hashlib.sha256(repr(made).encode()).digest()
    empty = b"{}"
    store.record(
        [
            NewEvent(
                source="shop",
                key=key,
                received_at=time.time(),
                headers=empty,
                query=empty,
                body=empty,
                event_type=None,
                status="accepted",
                deliveries=tuple(new),
            )
        ]
    )


@contextmanager
def running(
    database: Database, sender: Recorder, *, lease: float = 30.0, deadline: float = 5.0, delay: float = 0.05
) -> Iterator[Worker]:
    own = connect(database.engine.url.render_as_string(hide_password=False))
    worker = Worker(
        own,
        sender,
        policies={"default": Policy(delay=delay)},
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


def test_what_was_recorded_before_and_what_comes_later_is_delivered_in_order(
    database: Database, store: Store
) -> None:
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
    sender = Recorder(
        lambda request: Attempt(status=503 if "ann" in request.path else 200, reason="HTTP 503")
    )
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
    sender = Recorder(
        lambda request: Attempt(status=400 if _number(request) == 1 else 200, reason="HTTP 400: no")
    )
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
        wait_until(lambda: statuses(database) == ["pending", "delivered"])
        wait_until(lambda: reasons(database) == ["the gateway could not send it (JSONDecodeError)", None])


def test_stopping_settles_what_is_in_flight_and_gives_the_rest_back(database: Database, store: Store) -> None:
    release = threading.Event()

    def answer(_: HttpRequest) -> Attempt:
        release.wait(10)
        return Attempt(status=200)

    sender = Recorder(answer)
    record(store, *((f"p{number}", 1) for number in range(40)))
    with running(database, sender) as worker:
        sender.wait_for(16)
        worker.stop()
        release.set()
    assert len(sender.sent) == 16
    assert sorted(statuses(database)) == ["delivered"] * 16 + ["pending"] * 24
    due_in = store.due_in()
    assert due_in is not None
    assert due_in <= 0


def test_what_waits_too_long_for_its_turn_is_not_sent_under_a_lease_that_may_have_ended(
    database: Database, store: Store
) -> None:
    def answer(_: HttpRequest) -> Attempt:
        time.sleep(0.8)
        return Attempt(status=200)

    sender = Recorder(answer)
    record(store, *((f"p{number}", 1) for number in range(20)))
    with running(database, sender, lease=1.0, deadline=0.9):
        wait_until(lambda: statuses(database) == ["delivered"] * 20, timeout=20)
    assert len(sender.sent) == len(set(sender.sent)) == 20


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
