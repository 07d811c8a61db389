"""Notices on both databases: when they begin and end, and which worker sends them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from gateway.customerio.retry import Delivered
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.notices import LEASE, Notice, Notices
from gateway.store.tables import deliveries
from tests.support.databases import opened_again
from tests.support.rows import begin, call, end, event, fail, open_notices, settle_due, shift


def test_a_notice_is_sent_when_it_begins_and_when_it_ends(database: Database) -> None:
    notices = Notices(database)
    assert notices.claim() == []
    assert begin(database, "paused", "default", "the reason")
    assert not begin(database, "paused", "default", "another reason")
    (notice,) = notices.claim()
    assert (notice.kind, notice.subject, notice.text) == ("paused", "default", "the reason")
    assert (notice.over, notice.is_first) == (False, True)
    notices.mark_sent(notice)
    shift(database, 2 * LEASE)
    assert notices.claim() == []

    assert end(database, "paused", "default")
    assert not end(database, "paused", "default")
    (notice,) = notices.claim()
    assert (notice.over, notice.is_first, round(notice.seconds / LEASE)) == (True, True, 2)
    notices.mark_sent(notice)
    shift(database, 2 * LEASE)
    assert notices.claim() == []


def test_a_notice_that_ended_before_it_was_sent_is_sent_once(database: Database) -> None:
    begin(database, "late")
    end(database, "late")
    (notice,) = Notices(database).claim()
    assert notice.over


def test_a_claimed_notice_that_was_not_sent_is_claimed_again_after_its_lease(database: Database) -> None:
    notices = Notices(database)
    begin(database, "late")
    (first,) = notices.claim()
    assert notices.claim() == []
    shift(database, LEASE)
    (again,) = notices.claim()
    assert (again.id, again.is_first, again.waiting >= LEASE) == (first.id, False, True)
    notices.mark_sent(first)  # too late: it belongs to the other now
    shift(database, LEASE)
    (again,) = notices.claim()
    notices.postpone(again, 3 * LEASE)
    shift(database, LEASE)
    assert notices.claim() == []
    shift(database, 2 * LEASE)
    assert len(notices.claim()) == 1


def test_an_end_is_sent_although_it_came_while_the_beginning_was_being_sent(database: Database) -> None:
    notices = Notices(database)
    begin(database, "late")
    (beginning,) = notices.claim()
    end(database, "late")
    notices.mark_sent(beginning)
    (ending,) = notices.claim()
    assert ending.over


def test_one_of_several_workers_claims_a_notice(database: Database) -> None:
    for number in range(5):
        begin(database, "failed", f"source-{number}")
    ready = threading.Barrier(6)

    def claim(_: int) -> list[Notice]:
        with opened_again(database) as again:
            ready.wait(10)
            return Notices(again).claim()

    with ThreadPoolExecutor(6) as pool:
        subjects = [notice.subject for claimed in pool.map(claim, range(6)) for notice in claimed]
    # A worker that waited for another's rows may have got none; claiming once more takes what is left.
    subjects += [notice.subject for notice in Notices(database).claim()]
    assert sorted(subjects) == [f"source-{number}" for number in range(5)]


def test_the_notice_of_failures_ends_when_no_failed_delivery_is_left(database: Database, store: Store) -> None:
    store.record([event("a", call("one", 1)), event("b", call("two", 2)), event("c", call("3", 3), source="github")])
    fail(store)
    assert open_notices(database) == [("failed", "github"), ("failed", "shop")]
    set_status(database, "one", "cancelled")
    assert not end_failed(database)
    set_status(database, "two", "cancelled")
    assert end_failed(database)
    assert open_notices(database) == [("failed", "github")]


def test_a_failure_that_is_being_committed_keeps_its_notice_open(database: Database, store: Store) -> None:
    """The last failed delivery goes while a new one fails, in two transactions that cannot see each other."""
    store.record([event("a", call("one", 1)), event("b", call("two", 2))])
    fail(store)
    set_status(database, "one", "cancelled")
    set_status(database, "two", "pending")
    written, go_on = threading.Event(), threading.Event()

    def fail_again() -> None:
        with database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.call == "two").values(status="failed"))
            Notices(database).begin(connection, "failed", "shop", "x")
            written.set()
            go_on.wait(10)

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(fail_again)
        assert written.wait(10)
        ending = pool.submit(end_failed, database)
        assert not ending.done()
        go_on.set()
        failing.result(10)
        assert not ending.result(10)
    assert open_notices(database) == [("failed", "shop")]


def test_a_delivery_that_arrives_is_no_notice(database: Database, store: Store) -> None:
    store.record([event("a", call("one", 1))])
    assert settle_due(store, Delivered()) == 1
    assert open_notices(database) == []


def set_status(database: Database, name: str, status: str) -> None:
    with database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.call == name).values(status=status))


def end_failed(database: Database) -> bool:
    with database.transaction() as connection:
        return Notices(database).end_failed(connection, "shop")
