"""Connections to PostgreSQL that are lost without a word: swallowed, reset, refused by a server that only reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import make_url, text

from gateway.errors import StoreError
from gateway.store import Store
from gateway.store.database import Database, connect, reading, writing
from gateway.store.postgresql import AnswerLimits
from tests.support.databases import PostgreSQL, opened, url_of
from tests.support.rows import event
from tests.support.tcp_proxy import TCPProxy


@dataclass
class Proxied:
    """A database behind a proxy, as a process that serves sees it, and the same one without the proxy."""

    database: Database
    direct: Database
    proxy: TCPProxy


@pytest.fixture
def proxied(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with opened(postgresql.migrated(tmp_path_factory.getbasetemp())) as direct:
        url = make_url(url_of(direct))
        with TCPProxy(url.port or 5432) as proxy:
            through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            database = connect(through, limits=AnswerLimits(write=0.6, read=1.0, test=0.3))
            try:
                yield Proxied(database, direct, proxy)
            finally:
                database.engine.dispose()


def record(database: Database, key: str) -> None:
    Store(database).record([event(key)])


def count(database: Database) -> int:
    return Store(database).counts()["events"].get("accepted", 0)


def test_a_swallowed_connection_is_an_error_in_time_and_the_whole_pool_is_replaced(proxied: Proxied) -> None:
    with reading(proxied.database), reading(proxied.database):
        pass  # two connections
    assert proxied.proxy.swallow() == 2
    with pytest.raises(StoreError, match=r"did not answer within 0\.6 s"):
        record(proxied.database, "a")
    record(proxied.database, "b")
    with writing(proxied.database), writing(proxied.database):
        pass  # the other connection is not tried before it is replaced
    assert count(proxied.direct) == 1


def test_a_connection_that_was_swallowed_while_it_was_idle_costs_no_error(proxied: Proxied) -> None:
    record(proxied.database, "a")
    time.sleep(1.1)
    proxied.proxy.swallow()
    record(proxied.database, "b")
    assert count(proxied.direct) == 2


def test_a_connection_that_is_swallowed_in_a_transaction_holds_no_lock_for_long(proxied: Proxied) -> None:
    def write() -> None:
        with writing(proxied.database, [7]) as connection:
            proxied.proxy.swallow()
            connection.execute(text("SELECT 1"))

    with pytest.raises(StoreError):
        write()
    with writing(proxied.direct, [7]):
        pass  # the server has ended the transaction that nobody goes on with; without that, this waits for ever


def test_after_a_stall_and_after_a_reset_the_next_write_succeeds(proxied: Proxied) -> None:
    record(proxied.database, "a")
    proxied.proxy.stall()
    with pytest.raises(StoreError):
        record(proxied.database, "b")
    proxied.proxy.resume()
    record(proxied.database, "b")
    proxied.proxy.reset()
    with pytest.raises(StoreError):
        record(proxied.database, "c")
    record(proxied.database, "c")
    assert count(proxied.direct) == 3


def test_a_long_statement_is_no_lost_connection_where_nobody_waits(proxied: Proxied) -> None:
    with writing(proxied.direct) as connection:
        connection.execute(text("SELECT pg_sleep(0.8)"))
    with pytest.raises(StoreError), writing(proxied.database) as connection:
        connection.execute(text("SELECT pg_sleep(0.8)"))


def test_a_server_that_only_reads_is_left_for_another_at_the_next_write(proxied: Proxied) -> None:
    proxied.database.engine.dispose()
    name = proxied.direct.engine.url.database
    with writing(proxied.direct) as admin:
        admin.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    with pytest.raises(StoreError, match="may write"):
        record(proxied.database, "a")
    with writing(proxied.direct) as admin:
        admin.execute(text(f'ALTER DATABASE "{name}" RESET ALL'))
    record(proxied.database, "a")


def test_the_wait_for_a_lock_ends_before_the_connection_is_taken_for_lost(proxied: Proxied) -> None:
    with writing(proxied.direct, [7]):
        with pytest.raises(StoreError, match="lock timeout"), writing(proxied.database, [7]):
            pass
        record(proxied.database, "a")
