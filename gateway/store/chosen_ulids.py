"""ULIDs that a mapping chose, each held by one delivery: Customer.io would drop a second event with it in silence.

The unique index keeps it so. An INSERT leaves out a delivery whose ULID another one holds; here is asked which one.
Two calls with one ULID may be in different lanes, so a ULID has a lock of its own, as a lane has: without it, two
transactions that insert the same ULIDs in another order would wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

from sqlalchemy import Connection, bindparam, select

from gateway.store.tables import HOLDS_ULID, deliveries

#: By connection and ULID: what Customer.io calls one event.
Holders: TypeAlias = "dict[tuple[str, str], Holder]"

# Values of one statement: SQLite takes 32,766.
_PORTION = 10_000


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The delivery that holds a ULID."""

    id: int
    event_id: int
    identity: bytes

    def objection(self, *, counts_once: bool = False) -> str:
        """Return why no other call can be sent with its ULID; see `NewDelivery.counts_once`."""
        same = f"the call of delivery {self.id} (event {self.event_id}) has the same 'event_id'"
        if counts_once:
            return f"{same}, person and name, so this one reports the same once more; Customer.io keeps the first"
        return (
            f"{same} and other content, so Customer.io would drop this one; let 'event_id' differ in the mapping,"
            " then replay the event"
        )


def ulid_locks(chosen_ulids: Iterable[str | None]) -> set[int]:
    """Return the locks of these ULIDs, which are taken together with those of the lanes."""
    return {crc32(ulid.encode()) for ulid in chosen_ulids if ulid is not None}


def ulid_holders(connection: Connection, chosen_ulids: Collection[str]) -> Holders:
    """Return the deliveries that hold these ULIDs, in any connection."""
    ulids = sorted(chosen_ulids)
    holders: Holders = {}
    for first in range(0, len(ulids), _PORTION):
        for row in connection.execute(_select_holders, {"ulids": ulids[first : first + _PORTION]}):
            holder = Holder(id=row.id, event_id=row.event_id, identity=row.identity)
            holders[row.connection, row.chosen_ulid] = holder
    return holders


_columns = (deliveries.c.connection, deliveries.c.chosen_ulid)
_select_holders = select(*_columns, deliveries.c.id, deliveries.c.event_id, deliveries.c.identity).where(
    HOLDS_ULID, deliveries.c.chosen_ulid.in_(bindparam("ulids", expanding=True))
)
