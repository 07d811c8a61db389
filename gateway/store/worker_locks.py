"""Leases of a worker that was killed: others see that nobody holds its lock, and make its deliveries due again.

A worker holds a lock that ends with it: on SQLite the reader of its named pipe, on PostgreSQL an advisory lock of the
session that listens. Its number is in its leases. On PostgreSQL a session may end while its worker lives, so a worker
asks twice a second whether it still holds the lock. TRUSTED seconds after the last question that was answered, it has
broken off all that it sends under that number; others wait for DEAD_AFTER seconds. A number is never used again. While
a worker has no lock, as behind a pooler, its leases have no owner: they end by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, null, select, update

from gateway.store.claiming import IN_QUEUE, compile_queues
from gateway.store.database import Database, reading, writing
from gateway.store.lease_owners import owner_of
from gateway.store.tables import connections, deliveries

#: Seconds between the first look that finds a worker's lock free and the one that takes over from it.
DEAD_AFTER = 3.0


class TakeOver:
    """Takes over from the workers of one database that are dead.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._absent_since: dict[int, float] = {}
        self._select_targets = database.compile(
            select(connections.c.connection, connections.c.region, connections.c.probe)
        )
        self._select_queues = compile_queues(database)
        # By the index of what is due. What is due now needs nobody to take it over.
        is_leased = (*IN_QUEUE, deliveries.c.due_at > database.now, deliveries.c.lease < 0)
        self._select_leases = database.compile(select(deliveries.c.lease).where(*is_leased).distinct())
        self._give_back = database.compile(
            update(deliveries)
            .where(*is_leased, database.among(deliveries.c.lease, "leases"))
            .values(lease=null(), due_at=database.now)
        )
        self._give_back_probes = database.compile(
            update(connections)
            .where(database.among(connections.c.probe, "leases"))
            .values(probe=null(), probe_until=null())
        )

    def look(self) -> int:
        """Look for leases whose owner is dead, end those, and return the number of deliveries that are due again.

        Raises:
            StoreError: The database cannot be used.
        """
        with reading(self._database) as connection:
            targets = self._select_targets.rows(connection)
            queues = [values for target in targets for values in self._queues(connection, target)]
            leases = self._leases(connection, targets, queues)
            # Asked after the leases were read: a worker that has just begun holds its lock before its first lease.
            living = self._database.living_workers(connection)
        now = self._clock()
        absent = {owner_of(lease) for lease in leases} - living
        self._absent_since = {owner: self._absent_since.get(owner, now) for owner in absent}
        dead = {owner for owner, since in self._absent_since.items() if now - since >= DEAD_AFTER}
        ended = [lease for lease in leases if owner_of(lease) in dead]
        return self._end(queues, ended) if ended else 0

    def _queues(self, connection: Connection, target: Any) -> list[dict[str, str]]:
        """Return the parameters that name each queue of a target in which something waits."""
        values = {"target_connection": target.connection, "target_region": target.region}
        return [values | {"of_queue": row.name} for row in self._select_queues.rows(connection, values)]

    def _leases(self, connection: Connection, targets: list[Any], queues: list[dict[str, str]]) -> set[int]:
        leases = {target.probe for target in targets if target.probe is not None and target.probe < 0}
        for values in queues:
            leases.update(row.lease for row in self._select_leases.rows(connection, values))
        return leases

    def _end(self, queues: list[dict[str, str]], leases: list[int]) -> int:
        ended = {"leases": self._database.numbers(leases)}
        with writing(self._database) as connection:
            self._give_back_probes.run(connection, ended)
            return sum(self._give_back.run(connection, values | ended) for values in queues)
