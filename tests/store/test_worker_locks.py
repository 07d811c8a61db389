"""What a dead worker has left is due again in seconds, and what a living one holds stays its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select, text

from gateway.store import Store
from gateway.store.database import Database, writing
from gateway.store.lease_owners import TRUSTED, WorkerLock
from gateway.store.tables import connections
from gateway.store.worker_locks import DEAD_AFTER, TakeOver
from tests.deliver.running import wait_until
from tests.support.databases import opened_again
from tests.support.rows import Hand, call, event


@contextmanager
def held_lock(database: Database) -> Iterator[WorkerLock]:
    """The lock of a worker that lives until the block ends."""
    lock, ended = WorkerLock(), threading.Event()

    def listen() -> None:
        with opened_again(database) as own:
            own.listen(lambda: None, ended, lock)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        wait_until(lambda: lock.new_lease() < 0)
        yield lock
    finally:
        ended.set()
        thread.join()


def test_what_a_dead_worker_held_is_due_again_and_not_before_it_has_surely_stopped(
    database: Database, store: Store
) -> None:
    now = 0.0
    take_over = TakeOver(database, clock=lambda: now)
    store.record([event("a", call("one", 1), call("two", 2))])
    with held_lock(database) as lock, held_lock(database) as living:
        Hand(store, lock.new_lease()).claim(limit=1)
        (other,) = Hand(store, living.new_lease()).claim(limit=1)
        assert take_over.look() == 0
        now += 60
        assert take_over.look() == 0
    with held_lock(database) as living:
        with writing(database) as connection:
            values = {"lease": living.new_lease(), "id": other.id}
            connection.execute(text("UPDATE deliveries SET lease = :lease WHERE id = :id"), values)
        assert take_over.look() == 0
        now += DEAD_AFTER - 0.1
        assert take_over.look() == 0
        assert Hand(store, 7).claim() == []
        now += 0.2
        assert take_over.look() == 1
        assert len(Hand(store, 7).claim()) == 1
        now += 60
        assert take_over.look() == 0  # the other's worker lives, and a lease without an owner ends by itself
    assert DEAD_AFTER > TRUSTED


def test_the_right_of_a_dead_worker_to_probe_ends_too(database: Database, store: Store) -> None:
    now = 0.0
    take_over = TakeOver(database, clock=lambda: now)
    store.record([event("a", call("one", 1))])
    with held_lock(database) as lock, writing(database) as connection:
        values = {"lease": lock.new_lease()}
        connection.execute(text("UPDATE connections SET probe = :lease, probe_until = 1e12"), values)
    take_over.look()
    now += DEAD_AFTER
    take_over.look()
    with database.engine.connect() as connection:
        assert connection.scalars(select(connections.c.probe)).all() == [None]


def test_a_worker_sends_only_while_its_lock_is_confirmed() -> None:
    now = 0.0
    lock = WorkerLock(clock=lambda: now)
    assert lock.new_lease() >= 0
    assert lock.may_send(lock.new_lease())  # it ends by itself
    lock.confirm(5, asked_at=0.0)
    lease = lock.new_lease()
    assert lease < 0
    assert lock.may_send(lease)
    now = TRUSTED
    assert not lock.may_send(lease)
    assert lock.new_lease() >= 0
    lock.confirm(5, asked_at=2.0)
    assert lock.may_send(lease)
    now = 3.0
    assert lock.lose() == 2.0 + TRUSTED - 3.0
    lock.confirm(6, asked_at=3.0)
    assert not lock.may_send(lease)  # a new lock does not cover what the old one did
