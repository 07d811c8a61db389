"""Old events that are done are removed in small steps; those that wait, failed or are young stay."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, update

from gateway.customerio.retry import Decision, Delivered, Failed
from gateway.operate.requeue import Requeue
from gateway.operate.retention import Removed, Retention
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.schema import migrate
from gateway.store.tables import attempts, deletions, deliveries, events, notices
from tests.support.databases import opened, opened_again
from tests.support.rows import call, event, settle_due

DAY = 86_400.0


def settle_all(store: Store, decision: Decision) -> None:
    while settle_due(store, decision):
        pass


def record_old(store: Store, count: int, **changes: Any) -> None:
    """Record so many old events, in groups of 300."""
    for first in range(0, count, 300):
        numbers = range(first, min(first + 300, count))
        store.record([event(f"{number}", received_at=1.0, **changes) for number in numbers])


def counts(database: Database) -> tuple[int, int, int]:
    """Count the events, deliveries and attempts."""
    with database.engine.connect() as connection:
        events_, deliveries_, attempts_ = (
            connection.scalar(select(func.count()).select_from(table)) or 0 for table in (events, deliveries, attempts)
        )
    return events_, deliveries_, attempts_


def test_only_old_events_that_are_done_are_removed(database: Database, store: Store) -> None:
    old, young = time.time() - 31 * DAY, time.time() - 29 * DAY
    store.record([event("failed call", call("f", 1), received_at=old)])
    settle_all(store, Failed(reason="x"))
    store.record(
        [
            event("done", call("d", 2), call("d2", 2, deleted_at=int(old)), received_at=old),
            event("ignored", status="ignored", received_at=old),
            event("young", call("y", 3, deleted_at=int(young)), received_at=young),
            event("broken", status="failed", problem="x", received_at=old),
        ]
    )
    settle_all(store, Delivered())
    store.record([event("waiting", call("w", 4), received_at=old)])
    removed = Retention(database, 30, 90).sweep(threading.Event())
    assert (removed.events, removed.deliveries, removed.attempts, removed.done) == (2, 2, 2, True)
    with database.engine.connect() as connection:
        left = set(connection.scalars(select(deliveries.c.call)))
        problems = list(connection.scalars(select(events.c.status).where(events.c.problem.is_not(None))))
        assert list(connection.scalars(select(deletions.c.lane))) == [3]
    assert (left, problems) == ({"f", "y", "w"}, ["failed"])
    assert counts(database) == (4, 3, 2)


def test_what_failed_is_removed_later_unless_it_waits_again(database: Database, store: Store) -> None:
    old = time.time() - 91 * DAY
    store.record([event("retried", call("r", 1), received_at=old), event("failed", call("f", 2), received_at=old)])
    settle_all(store, Failed(reason="x"))
    store.record([event("broken", status="failed", problem="x", received_at=old)])
    with database.engine.connect() as connection:
        retried = connection.scalars(select(deliveries.c.id).where(deliveries.c.call == "r")).all()
    assert Requeue(database).retry(retried).ids == retried
    removed = Retention(database, 30, 92).sweep(threading.Event())
    assert (removed.events, removed.failed) == (0, 0)
    removed = Retention(database, 30, 90).sweep(threading.Event())
    assert (removed.events, removed.failed, removed.deliveries) == (2, 2, 1)
    with database.engine.connect() as connection:
        assert list(connection.scalars(select(deliveries.c.call))) == ["r"]


def test_a_sweep_goes_through_everything_in_steps_and_can_be_stopped(database: Database, store: Store) -> None:
    record_old(store, 900)
    retention, stopping = Retention(database, 30, 90), threading.Event()
    assert retention.step(200).events == 200
    stopping.set()
    assert retention.sweep(stopping).events == 0
    stopping.clear()
    removed = retention.sweep(stopping)
    assert (removed.events, removed.done) == (700, True)
    assert counts(database) == (0, 0, 0)


def test_an_event_that_stays_is_not_read_again_in_the_same_sweep(database: Database, store: Store) -> None:
    record_old(store, 450, status="failed")
    store.record([event("done", received_at=1.0)])
    retention = Retention(database, 30, 100_000)
    assert [retention.step(200).events for _ in range(3)] == [0, 0, 1]


def test_sqlite_returns_its_free_pages(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
    with opened(f"sqlite:///{path}") as database:
        migrate(database)
        record_old(Store(database), 1_000, body=b"x" * 4_000)
        with database.engine.connect() as connection:
            connection.exec_driver_sql(checkpoint)
        before = path.stat().st_size
        Retention(database, 30, 90).sweep(threading.Event())
        with database.engine.connect() as connection:
            connection.exec_driver_sql(checkpoint)
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    assert before > 4_000_000
    assert path.stat().st_size < before / 5
    assert free < 1_000 / 20, "of a thousand pages that were freed"


def test_a_sqlite_file_holds_nothing_of_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with opened(f"sqlite:///{path}") as database:
        migrate(database)
        contains = list[bool]()
        for change in (
            lambda: record_old(Store(database), 200, body=b"ann@example.com " * 100),
            Retention(database, 30, 90).step,
        ):
            change()
            with database.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            contains.append(b"ann@example.com" in path.read_bytes())
    assert contains == [True, False]


def test_webhooks_are_recorded_during_a_sweep(database: Database, store: Store) -> None:
    for first in range(0, 1_200, 300):  # six steps
        store.record([event(f"{n}", call(f"{n}"), received_at=1.0) for n in range(first, first + 300)])
    settle_all(store, Delivered())
    stopping, removed = threading.Event(), list[Removed]()
    recorded, slowest = 0, 0.0
    with opened_again(database) as own:
        sweeping = threading.Thread(target=lambda: removed.append(Retention(own, 30, 90).sweep(stopping)))
        sweeping.start()
        while sweeping.is_alive():
            began = time.monotonic()
            store.record([event(f"new {recorded}", received_at=time.time())])
            slowest = max(slowest, time.monotonic() - began)
            recorded += 1
        sweeping.join()
    assert removed[0].events == 1_200
    assert recorded > 5
    assert slowest < 1.0
    assert counts(database)[0] == recorded


def test_notices_that_have_ended_and_are_posted_are_removed(database: Database) -> None:
    with database.transaction() as connection:
        row = {"kind": "late", "text": "x", "began_at": 1.0, "tell_at": None}
        connection.execute(insert(notices), [row | {"subject": subject, "ended_at": 2.0} for subject in "ab"])
        connection.execute(insert(notices), row | {"subject": "c", "ended_at": None})
        connection.execute(update(notices).where(notices.c.subject == "b").values(tell_at=5.0))
    Retention(database, 30, 90).sweep(threading.Event())
    with database.engine.connect() as connection:
        assert set(connection.scalars(select(notices.c.subject))) == {"b", "c"}
