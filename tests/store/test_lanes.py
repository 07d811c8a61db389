"""The order of the lanes where two transactions meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

from sqlalchemy import Connection, update

from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.lanes import Lanes
from gateway.store.tables import deliveries
from tests.store.test_record_and_claim import call, event, statuses


def test_a_merge_is_promoted_though_both_heads_before_it_are_settled_at_once(store: Store, database: Database) -> None:
    """Each of the two transactions holds the lock of its own lane only, and cannot see what the other does."""
    store.record([event("a", call("1a", 1), call("2a", 2), call("merge", 1, 2))])
    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            settle(database, connection, id_=1, lane=1)
            other = pool.submit(settle_elsewhere, database, 2, 2)
            wait([other], timeout=0.5)
        other.result(10)
    assert statuses(database) == {"1a": "delivered", "2a": "delivered", "merge": "pending"}


def settle_elsewhere(database: Database, id_: int, lane: int) -> None:
    own = connect(database.engine.url.render_as_string(hide_password=False))
    with own.transaction() as connection:
        settle(own, connection, id_=id_, lane=lane)
    own.engine.dispose()


def settle(database: Database, connection: Connection, *, id_: int, lane: int) -> None:
    database.lock_lanes(connection, [lane])
    connection.execute(update(deliveries).where(deliveries.c.id == id_).values(status="delivered"))
    Lanes(database).promote(connection, [lane])
