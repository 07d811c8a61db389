"""Late deliveries, failing mappings, and the end of both; detecting them costs little."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import event as engine_events
from sqlalchemy import text, update

from gateway.customerio.retry import Attempt, Retry
from gateway.operate.alerts.detect import FIXED_AFTER, NoticeDetector
from gateway.operate.backlog import VALID_FACTOR, Backlog, BacklogReader
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.notices import Notices
from gateway.store.tables import deliveries, events
from tests.support.rows import Hand, begin, call, event, fail, open_notices

QUARTER = 900.0


def detect(database: Database) -> None:
    NoticeDetector(database, late_after=QUARTER).run()


def age(database: Database, seconds: float) -> None:
    """Let time pass for the deliveries that wait."""
    times = {name: deliveries.c[name] - seconds for name in ("due_at", "first_failed_at")}
    with database.transaction() as connection:
        connection.execute(update(deliveries).values(**times))


def texts(database: Database) -> list[str]:
    return [notice.text for notice in Notices(database).claim()]


def read(database: Database) -> Backlog:
    with database.engine.connect() as connection:
        return BacklogReader(database).read(connection)


def test_the_backlog_counts_deliveries_and_knows_the_oldest(database: Database, store: Store) -> None:
    assert read(database) == Backlog(pending=0, parked=0, failed=0, oldest=0.0)
    store.record([event("a", call("one", 1), call("two", 1), call("three", 2))])
    age(database, 100)
    backlog = read(database)
    assert (backlog.pending, backlog.parked, backlog.failed) == (2, 1, 0)
    assert 100 <= backlog.oldest < 130
    fail(store)
    backlog = read(database)
    assert (backlog.pending, backlog.parked, backlog.failed) == (1, 0, 2)
    assert backlog.oldest < 30


def test_a_delivery_that_is_retried_waits_since_its_first_failure(database: Database, store: Store) -> None:
    store.record([event("a", call("one", 1))])
    hand = Hand(store)
    (claimed,) = hand.claim()
    assert read(database).oldest == 0.0  # it is being sent
    hand.settle(claimed, Retry(after=500, reason="x"), Attempt(status=503))
    age(database, 200)
    assert 200 <= read(database).oldest < 230


def test_the_backlog_is_read_again_after_fifty_times_as_long_as_reading_took(database: Database, store: Store) -> None:
    times = iter([0.0, 1.0, 1.0 + VALID_FACTOR - 0.5, 1.0 + VALID_FACTOR, 1.0 + VALID_FACTOR])
    backlogs = BacklogReader(database, clock=lambda: next(times))
    with database.engine.connect() as connection:
        assert backlogs.read(connection).pending == 0
    store.record([event("a", call("one", 1))])
    with database.engine.connect() as connection:
        assert backlogs.read(connection).pending == 0
        assert backlogs.read(connection).pending == 1


def test_late_deliveries_are_a_notice_until_they_move_again(database: Database, store: Store) -> None:
    store.record([event("a", call("one", 1), call("two", 1))])
    age(database, QUARTER - 60)
    detect(database)
    assert open_notices(database) == []
    age(database, 120)
    detect(database)
    detect(database)
    assert open_notices(database) == [("late", "")]
    assert texts(database) == [
        "deliveries are late: the oldest of 2 has waited for more than 15 minutes;"
        " is the worker running, is a connection paused?"
    ]
    age(database, -QUARTER / 3)
    detect(database)
    assert open_notices(database) == [("late", "")]  # not yet far enough below the limit
    fail(store)
    fail(store)
    detect(database)
    assert open_notices(database) == [("failed", "shop")]


def test_a_failing_mapping_is_a_notice_until_it_has_not_failed_for_an_hour(database: Database, store: Store) -> None:
    now = current(database)
    store.record([event("a", received_at=now, status="failed", problem="shop.yaml:3:1: id: no", source="shop")])
    store.record([event("b", received_at=now + 1, status="failed", problem="later", source="shop")])
    store.record([event("c", received_at=now - FIXED_AFTER - 60, status="failed", source="github")])
    detect(database)
    detect(database)
    assert open_notices(database) == [("broken", "shop")]
    assert texts(database) == ["webhooks of source shop fail, first event 1: shop.yaml:3:1: id: no"]
    with database.transaction() as connection:
        connection.execute(update(events).values(received_at=events.c.received_at - FIXED_AFTER - 60))
    detect(database)
    assert open_notices(database) == []


def test_repeats_are_a_notice_until_the_source_has_another_event(database: Database, store: Store) -> None:
    store.record([event("a", received_at=current(database) - 60)])
    begin(database, "repeats", "shop")
    store.record([event("b", received_at=current(database) + 1, source="other")])
    detect(database)
    assert open_notices(database) == [("repeats", "shop")]
    store.record([event("c", received_at=current(database) + 1)])
    detect(database)
    assert open_notices(database) == []


@pytest.mark.parametrize("kind", ["broken", "failed"])
def test_a_notice_ends_once_nothing_is_left_that_failed(database: Database, store: Store, kind: str) -> None:
    if kind == "broken":
        store.record([event("a", received_at=current(database), status="failed")])
    else:
        store.record([event("a", call("one", 1))])
        fail(store)
    detect(database)
    assert open_notices(database) == [(kind, "shop")]
    with database.transaction() as connection:  # as a replay and a cancellation would
        connection.execute(update(events).values(status="accepted"))
        connection.execute(update(deliveries).values(status="cancelled"))
    detect(database)
    assert open_notices(database) == []


def current(database: Database) -> float:
    with database.engine.connect() as connection:
        return float(connection.exec_driver_sql(_NOW[connection.dialect.name]).scalar() or 0)


_NOW = {"sqlite": "SELECT strftime('%s')", "postgresql": "SELECT extract(epoch FROM clock_timestamp())"}

# SQLite calls it a scan too when it reads a whole partial index, which holds only what waits or failed.
PARTIAL = r" USING (COVERING )?INDEX (deliveries|events)_(?!event|identity)"
WHOLE_TABLE = re.compile(rf"\b(SCAN (events|deliveries)(?!{PARTIAL})|Seq Scan on (events|deliveries))\b")


def test_no_query_of_the_detector_reads_a_whole_table(database: Database, store: Store) -> None:
    for group in range(100):
        store.record([event(f"{group}", *(call(f"{group}-{lane}", lane) for lane in range(5)))])
    fail(store)
    store.record([event("broken", received_at=current(database), status="failed")])
    begin(database, "repeats", "shop")
    with database.transaction() as connection:
        connection.execute(
            update(deliveries).where(deliveries.c.id > 20, deliveries.c.status == "parked").values(status="delivered")
        )
    age(database, 10 * QUARTER)
    statements: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|DELETE)", statement):
            statements.setdefault(statement, values[0] if many else values)

    for analyzed in (False, True):
        if analyzed:
            with database.transaction() as connection:
                connection.execute(text("ANALYZE"))
        engine_events.listen(database.engine, "before_cursor_execute", note)
        detect(database)
        Notices(database).claim()
        engine_events.remove(database.engine, "before_cursor_execute", note)
        assert len(statements) > 6
        explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
        with database.engine.connect() as connection:
            if database.engine.dialect.name == "postgresql":
                # PostgreSQL reads so small a table whole with good reason; without, it uses an index if there is one.
                connection.exec_driver_sql("SET enable_seqscan = off")
            for statement, values in statements.items():
                plan = "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, values))
                assert not WHOLE_TABLE.search(plan), f"{statement}\n{plan}"
