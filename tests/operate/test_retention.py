"""What is old and done goes, in small steps; what waits, failed or is young stays."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from sqlalchemy import func, insert, select, update

from gateway.customerio.retry import Attempt, Decision, Delivered, Failed
from gateway.operate.retention import Removed, Retention
from gateway.store import ClaimRequest, Outcome, Store
from gateway.store.database import Database, connect
from gateway.store.schema import migrate
from gateway.store.tables import attempts, deliveries, events, notices
from tests.support.rows import call, event

DAY = 86_400.0


def settle_all(store: Store, decision: Decision) -> None:
    while claimed := store.settle_and_claim([], ClaimRequest(limit=500, lease=1, lease_seconds=60)).claimed:
        outcomes = [Outcome(delivery=each, attempt=Attempt(status=200), decision=decision) for each in claimed]
        store.settle_and_claim(outcomes, ClaimRequest(limit=0, lease=2, lease_seconds=60))


def kept(database: Database) -> tuple[int, int, int]:
    with database.engine.connect() as connection:
        events_, deliveries_, attempts_ = (
            connection.scalar(select(func.count()).select_from(table)) or 0 for table in (events, deliveries, attempts)
        )
    return events_, deliveries_, attempts_


def test_only_what_is_old_and_done_goes(database: Database, store: Store) -> None:
    old, young = time.time() - 31 * DAY, time.time() - 29 * DAY
    store.record([event("failed call", call("f", 1), received_at=old)])
    settle_all(store, Failed(reason="x"))
    store.record(
        [
            event("done", call("d", 2), call("d2", 2), received_at=old),
            event("ignored", status="ignored", received_at=old),
            event("young", call("y", 3), received_at=young),
            event("broken", status="failed", problem="x", received_at=old),
        ]
    )
    settle_all(store, Delivered())
    store.record([event("waiting", call("w", 4), received_at=old)])
    removed = Retention(database, 30).sweep(threading.Event())
    assert (removed.events, removed.deliveries, removed.attempts, removed.done) == (2, 2, 2, True)
    with database.engine.connect() as connection:
        left = set(connection.scalars(select(deliveries.c.call)))
        problems = list(connection.scalars(select(events.c.status).where(events.c.problem.is_not(None))))
    assert (left, problems) == ({"f", "y", "w"}, ["failed"])
    assert kept(database) == (4, 3, 2)


def test_a_sweep_goes_through_everything_in_steps_and_can_be_stopped(database: Database, store: Store) -> None:
    for first in range(0, 900, 300):
        store.record([event(f"{n}", received_at=1.0) for n in range(first, first + 300)])
    retention, stopping = Retention(database, 30), threading.Event()
    assert retention.step(200).events == 200
    stopping.set()
    assert retention.sweep(stopping).events == 0
    stopping.clear()
    removed = retention.sweep(stopping)
    assert (removed.events, removed.done) == (700, True)
    assert kept(database) == (0, 0, 0)


def test_what_stays_is_not_read_again_in_the_same_sweep(database: Database, store: Store) -> None:
    store.record([event(f"{n}", status="failed", received_at=1.0) for n in range(450)])
    store.record([event("done", received_at=1.0)])
    retention = Retention(database, 30)
    assert [retention.step(200).events for _ in range(3)] == [0, 0, 1]


def test_sqlite_gives_its_free_pages_back(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    database = connect(f"sqlite:///{path}")
    migrate(database)
    store = Store(database)
    for first in range(0, 1_000, 100):
        store.record([event(f"{n}", body=b"x" * 4_000, received_at=1.0) for n in range(first, first + 100)])
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    Retention(database, 30).sweep(threading.Event())
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    database.engine.dispose()
    assert before > 4_000_000
    assert path.stat().st_size < before / 5
    assert free < 1_000 / 20, "of a thousand pages that were freed"


def test_webhooks_are_recorded_while_it_sweeps(database: Database, store: Store) -> None:
    for first in range(0, 1_200, 300):  # six steps
        store.record([event(f"{n}", call(f"{n}"), received_at=1.0) for n in range(first, first + 300)])
    settle_all(store, Delivered())
    own = connect(database.engine.url.render_as_string(hide_password=False))
    stopping, removed = threading.Event(), list[Removed]()
    sweeping = threading.Thread(target=lambda: removed.append(Retention(own, 30).sweep(stopping)))
    sweeping.start()
    recorded, slowest = 0, 0.0
    while sweeping.is_alive():
        began = time.monotonic()
        store.record([event(f"new {recorded}", received_at=time.time())])
        slowest = max(slowest, time.monotonic() - began)
        recorded += 1
    sweeping.join()
    own.engine.dispose()
    assert removed[0].events == 1_200
    assert recorded > 5
    assert slowest < 1.0
    assert kept(database)[0] == recorded


def test_notices_that_are_over_and_told_go_too(database: Database) -> None:
    with database.transaction() as connection:
        row = {"kind": "late", "text": "x", "began_at": 1.0, "tell_at": None}
        connection.execute(insert(notices), [row | {"subject": each, "ended_at": 2.0} for each in "ab"])
        connection.execute(insert(notices), row | {"subject": "c", "ended_at": None})
        connection.execute(update(notices).where(notices.c.subject == "b").values(tell_at=5.0))
    Retention(database, 30).sweep(threading.Event())
    with database.engine.connect() as connection:
        assert set(connection.scalars(select(notices.c.subject))) == {"b", "c"}
