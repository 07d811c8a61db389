"""The order of the lanes where two transactions meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

from sqlalchemy import Connection, update

from gateway.store import Store
from gateway.store.database import Database
from gateway.store.lanes import Lanes
from gateway.store.tables import deliveries
from tests.support.databases import opened_again
from tests.support.rows import call, event, statuses


def test_a_merge_is_promoted_when_both_heads_before_it_are_settled_at_once(store: Store, database: Database) -> None:
    """Each of the two transactions holds the lock of its own lane only, and cannot see what the other does."""
    store.record([event("a", call("1a", 1), call("2a", 2), call("merge", 1, 2))])

    def settle_elsewhere() -> None:
        with opened_again(database) as again, again.transaction() as connection:
            settle(again, connection, id_=2, lane=2)

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            settle(database, connection, id_=1, lane=1)
            other = pool.submit(settle_elsewhere)
            wait([other], timeout=0.5)
        other.result(10)
    assert statuses(database) == {"1a": "delivered", "2a": "delivered", "merge": "pending"}


def settle(database: Database, connection: Connection, *, id_: int, lane: int) -> None:
    database.lock_lanes(connection, [lane])
    connection.execute(update(deliveries).where(deliveries.c.id == id_).values(status="delivered"))
    Lanes(database).promote(connection, [lane])
