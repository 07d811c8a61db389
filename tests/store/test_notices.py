"""Notices on both databases: when they begin and end, and who tells them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select, update

from gateway.customerio.retry import Attempt, Delivered, Failed
from gateway.store import ClaimRequest, Outcome, Store
from gateway.store.database import Database, connect
from gateway.store.notices import LEASE, Notice, Notices
from gateway.store.tables import deliveries, notices
from tests.store.test_record_and_claim import call, event

REFUSED = Attempt(status=400, reason="HTTP 400: no", at=1.0, seconds=0.1)


def begin(database: Database, kind: str, subject: str = "", text: str = "x") -> bool:
    with database.transaction() as connection:
        return Notices(database).begin(connection, kind, subject, text)


def end(database: Database, kind: str, subject: str = "") -> bool:
    with database.transaction() as connection:
        return Notices(database).end(connection, kind, subject)


def fail(store: Store) -> None:
    """Let everything that is due fail for good."""
    claimed = store.settle_and_claim([], ClaimRequest(limit=100, lease=1, lease_seconds=60)).claimed
    outcomes = [Outcome(delivery=each, attempt=REFUSED, decision=Failed(reason="HTTP 400: no")) for each in claimed]
    store.settle_and_claim(outcomes, ClaimRequest(limit=0, lease=1, lease_seconds=60))


def open_notices(database: Database) -> list[tuple[str, str]]:
    with database.engine.connect() as connection:
        asked = select(notices).where(notices.c.ended_at.is_(None)).order_by(notices.c.kind, notices.c.subject)
        return [(row.kind, row.subject) for row in connection.execute(asked)]


def shift(database: Database, seconds: float) -> None:
    """Let time pass: move all that the notices know back into the past."""
    with database.transaction() as connection:
        connection.execute(
            update(notices).values(
                began_at=notices.c.began_at - seconds,
                ended_at=notices.c.ended_at - seconds,
                tell_at=notices.c.tell_at - seconds,
            )
        )


def test_a_notice_is_told_when_it_begins_and_when_it_ends(database: Database) -> None:
    told = Notices(database)
    assert told.claim() == []
    assert begin(database, "paused", "default", "the reason")
    assert not begin(database, "paused", "default", "another reason")
    (notice,) = told.claim()
    assert (notice.kind, notice.subject, notice.text) == ("paused", "default", "the reason")
    assert (notice.over, notice.is_first) == (False, True)
    told.mark_sent(notice)
    shift(database, 2 * LEASE)
    assert told.claim() == []

    assert end(database, "paused", "default")
    assert not end(database, "paused", "default")
    (notice,) = told.claim()
    assert (notice.over, notice.is_first, round(notice.seconds / LEASE)) == (True, True, 2)
    told.mark_sent(notice)
    shift(database, 2 * LEASE)
    assert told.claim() == []


def test_what_was_over_before_it_could_be_told_is_told_once(database: Database) -> None:
    begin(database, "late")
    end(database, "late")
    (notice,) = Notices(database).claim()
    assert notice.over


def test_what_was_taken_and_not_told_is_taken_again_after_a_minute(database: Database) -> None:
    told = Notices(database)
    begin(database, "late")
    (first,) = told.claim()
    assert told.claim() == []
    shift(database, LEASE)
    (again,) = told.claim()
    assert (again.id, again.is_first, again.waiting >= LEASE) == (first.id, False, True)
    told.mark_sent(first)  # too late: it belongs to the other now
    shift(database, LEASE)
    (again,) = told.claim()
    told.postpone(again, 3 * LEASE)
    shift(database, LEASE)
    assert told.claim() == []
    shift(database, 2 * LEASE)
    assert len(told.claim()) == 1


def test_an_end_is_told_although_it_came_while_the_beginning_was_being_told(database: Database) -> None:
    told = Notices(database)
    begin(database, "late")
    (beginning,) = told.claim()
    end(database, "late")
    told.mark_sent(beginning)
    (ending,) = told.claim()
    assert ending.over


def test_of_many_workers_one_tells(database: Database, database_url: str) -> None:
    for number in range(5):
        begin(database, "failed", f"source-{number}")
    ready = threading.Barrier(6)
    url = database.engine.url.render_as_string(hide_password=False)

    def take(_: int) -> list[Notice]:
        own = connect(url)
        ready.wait(10)
        taken = Notices(own).claim()
        own.engine.dispose()
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [notice.subject for each in pool.map(take, range(6)) for notice in each]
    # One that waited for another's rows may have found none; a second look takes what is left.
    taken += [notice.subject for notice in Notices(database).claim()]
    assert sorted(taken) == [f"source-{number}" for number in range(5)]


def test_failures_of_a_source_are_over_when_none_is_left(database: Database, store: Store) -> None:
    told = Notices(database)
    store.record([event("a", call("one", 1)), event("b", call("two", 2)), event("c", call("3", 3), source="github")])
    fail(store)
    assert open_notices(database) == [("failed", "github"), ("failed", "shop")]

    def end_failed(source: str) -> bool:
        with database.transaction() as connection:
            return told.end_failed(connection, source)

    def cancel(*calls: str) -> None:
        with database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.call.in_(calls)).values(status="cancelled"))

    cancel("one")
    assert not end_failed("shop")
    cancel("two")
    assert end_failed("shop")
    assert open_notices(database) == [("failed", "github")]


def test_a_failure_that_is_being_committed_keeps_its_notice_open(database: Database, store: Store) -> None:
    """The last failed one goes and a new one comes at the same moment, in transactions that cannot see each other."""
    told = Notices(database)
    store.record([event("a", call("one", 1)), event("b", call("two", 2))])
    fail(store)
    with database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.call == "one").values(status="cancelled"))
        connection.execute(update(deliveries).where(deliveries.c.call == "two").values(status="pending"))
    met, go_on = threading.Event(), threading.Event()

    def fail_again() -> None:
        with database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.call == "two").values(status="failed"))
            told.begin(connection, "failed", "shop", "x")
            met.set()
            go_on.wait(10)

    def end_it() -> bool:
        with database.transaction() as connection:
            return told.end_failed(connection, "shop")

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(fail_again)
        assert met.wait(10)
        ending = pool.submit(end_it)
        assert not ending.done()
        go_on.set()
        failing.result(10)
        assert not ending.result(10)
    assert open_notices(database) == [("failed", "shop")]


def test_a_delivery_that_arrives_is_no_notice(database: Database, store: Store) -> None:
    store.record([event("a", call("one", 1))])
    (claimed,) = store.settle_and_claim([], ClaimRequest(limit=9, lease=1, lease_seconds=60)).claimed
    outcome = Outcome(delivery=claimed, attempt=Attempt(status=200), decision=Delivered())
    store.settle_and_claim([outcome], ClaimRequest(limit=0, lease=1, lease_seconds=60))
    assert open_notices(database) == []
