"""What the tests of the worker share: recorded calls, a running worker, and what the database holds."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, select

from gateway.customerio.calls import Call, WorkspaceIdentifiers, as_json
from gateway.customerio.client import Sender
from gateway.customerio.retry import Policy
from gateway.deliver.worker import Worker
from gateway.event import NewDelivery
from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.tables import deliveries
from tests.support.rows import event


def record_calls(
    store: Store, calls: Sequence[Call], *, connection: str = "default", region: str | None = None
) -> None:
    """Record one event with these calls, and wake the workers."""
    new = []
    for number, call in enumerate(calls):
        text = json.dumps(as_json(call))
        new.append(
            NewDelivery(
                identity=hashlib.sha256(f"{connection} {number} {text}".encode()).digest(),
                connection=connection,
                region=region,
                lanes=call.lanes(connection),
                text=text,
            )
        )
    store.record([event(repr((connection, calls)), *new)])
    store.wake()


@contextmanager
def running(
    database: Database,
    sender: Sender,
    *,
    lease: float = 30.0,
    deadline: float = 5.0,
    delay: float = 0.05,
    threads: int = 16,
    rates: Mapping[str, float] | None = None,
    identifiers: WorkspaceIdentifiers | None = None,
) -> Iterator[Worker]:
    """A worker with its own connections to the database, stopped at the end."""
    own = connect(database.engine.url.render_as_string(hide_password=False))
    worker = Worker(
        own,
        sender,
        policies={"default": Policy(delay=delay), "other": Policy(delay=delay)},
        rates=rates or {},
        identifiers={"default": identifiers},
        threads=threads,
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


def wait_until(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    """Fail if *condition* is not true within *timeout* seconds."""
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, "it did not become true in time"
        time.sleep(0.01)


def wait_for(database: Database, *expected: str) -> None:
    """Wait until the deliveries have these statuses, in any order."""
    wait_until(lambda: sorted(statuses(database)) == sorted(expected))


def column(database: Database, wanted: Column[Any], *conditions: Any) -> list[Any]:
    """Return a column of a table in the order of its first column."""
    with database.engine.connect() as connection:
        return list(connection.scalars(select(wanted).where(*conditions).order_by(*wanted.table.primary_key)))


def statuses(database: Database) -> list[str]:
    """Return the status of each delivery."""
    return column(database, deliveries.c.status)


def reasons(database: Database) -> list[str | None]:
    """Return the reason of each delivery."""
    return column(database, deliveries.c.reason)
