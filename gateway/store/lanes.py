"""The order of calls to one address: which lanes are occupied, which delivery is next, and whose person was deleted.

A lane is the order of calls to one (connection, address). Two invariants hold after every transaction:

1. A lane with unsettled deliveries has exactly one that is first.
2. A delivery is pending, and so can be claimed, exactly when it is first in every lane that it is in (a merge is in
   two lanes); all others are parked.

Two transactions cannot see each other's changes. Without locks, two that insert into an empty lane would both see no
head and make two, and one that settles the head while another inserts behind it would leave a delivery parked behind
nothing, for ever. So whoever calls these methods holds the locks of the lanes until its transaction ends. On SQLite
one file lock covers them all. On PostgreSQL a lane has the advisory lock of its number modulo 1,024: one lock for each
lane of a large transaction would not fit into the server's lock table, and lanes that share a lock by chance only wait
for each other. Locks are taken in ascending order, so that no two transactions wait for each other's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, ScalarSelect, func, or_, select, update

from gateway.store.database import Database
from gateway.store.tables import (
    IN_TWO_LANES,
    IS_ON_ITS_WAY,
    IS_PARKED,
    IS_PENDING,
    IS_UNSETTLED,
    PLACE,
    deletions,
    deliveries,
)
from gateway.text import time_text

#: Seconds after a deletion in which senders still report on the person: "customer.subscription.deleted".
AFTERMATH = 60


@dataclass(kw_only=True, slots=True)
class LaneStates:
    """Some lanes, as they are after the deliveries that have joined them so far.

    Attributes:
        occupied: The lanes with an unsettled delivery: a head, or a merge that waits for its turn in its other lane.
        deleted_at: When the person of a lane was deleted last, in unix seconds.
    """

    occupied: set[int]
    deleted_at: dict[int, float]

    def join(self, lanes: Collection[int], deleted_at: float | None = None) -> str:
        """Return the status of a delivery that joins the ends of these lanes, and note what it changes."""
        status = "pending" if self.occupied.isdisjoint(lanes) else "parked"
        self.occupied.update(lanes)
        if deleted_at is not None:
            self.deleted_at |= {lane: max(deleted_at, self.deleted_at.get(lane, deleted_at)) for lane in lanes}
        return status

    def why_undone(self, lanes: Collection[int], happened_at: float | None) -> str | None:
        """Return why a call would undo a deletion: it is older, and makes the person anew. None: it would not."""
        if happened_at is None or not self.deleted_at:
            return None
        deleted_at = max((self.deleted_at[lane] for lane in lanes if lane in self.deleted_at), default=None)
        if deleted_at is None or happened_at > deleted_at + AFTERMATH:
            return None
        return f"the person was deleted at {time_text(deleted_at)}; this call is from {time_text(happened_at)}"


class Lanes:
    """The lanes of one database, used in transactions that hold the lanes' locks (`Database.lock_lanes`)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        lane, other_lane = deliveries.c.lane, deliveries.c.other_lane
        wanted = database.number_rows("lanes")

        occupants = (
            _any_delivery(wanted, IS_PENDING, lane),
            _any_delivery(wanted, IS_PARKED, lane),
            _any_delivery(wanted, IN_TWO_LANES, other_lane),
        )
        is_occupied = or_(*(occupant.is_not(None) for occupant in occupants))
        deletion = select(deletions.c.delivery_id).where(deletions.c.lane == wanted.c.value).limit(1)
        self._select_states = database.compile(
            select(
                wanted.c.value,
                is_occupied.label("occupied"),
                deletion.correlate(wanted).scalar_subquery().is_not(None).label("deleted"),
            )
        )
        # A deletion that failed or was cancelled deletes nobody.
        its_delivery = select(deliveries.c.id).where(deliveries.c.id == deletions.c.delivery_id, IS_ON_ITS_WAY)
        self._select_deletions = database.compile(
            select(deletions.c.lane, func.max(deletions.c.deleted_at).label("deleted_at"))
            .where(
                database.among(deletions.c.lane, "lanes"),
                ~database.among(deletions.c.delivery_id, "cancelled"),
                its_delivery.correlate(deletions).scalar_subquery().is_not(None),
            )
            .group_by(deletions.c.lane)
        )

        heads = (_any_delivery(wanted, IS_PENDING, column) for column in (lane, other_lane))
        self._select_firsts = database.compile(
            select(
                wanted.c.value,
                _first_parked(wanted, lane).label("first"),
                _first_parked(wanted, other_lane).label("first_by_other_lane"),
            )
            .select_from(wanted)
            .where(*(head.is_(None) for head in heads))
        )

        by_ids = database.among(deliveries.c.id, "ids")
        places = select(deliveries.c.id, PLACE.label("place"), lane, other_lane).where(by_ids)
        self._select_places = database.compile(places)
        self._lock_places = database.compile(places.order_by(deliveries.c.id).with_for_update())

        promote = update(deliveries).values(status="pending", due_at=database.now)
        promote = promote.where(by_ids, IS_PARKED)
        self._promote = database.compile(promote)
        self._promote_in_one_lane = database.compile(promote.where(other_lane.is_(None)).returning(deliveries.c.id))

    def join(self, connection: Connection, lanes: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the status of deliveries that are about to join the ends of these lanes, one after the other."""
        states = self.states(connection, {lane for delivery_lanes in lanes for lane in delivery_lanes})
        return [states.join(delivery_lanes) for delivery_lanes in lanes]

    def states(self, connection: Connection, lanes: Collection[int], *, cancelled: Collection[int] = ()) -> LaneStates:
        """Return what is known of these lanes: in one statement, unless somebody was deleted.

        Args:
            cancelled: Deliveries that are about to be cancelled, and so delete nobody.
        """
        if not lanes:
            return LaneStates(occupied=set(), deleted_at={})
        rows = self._select_states.rows(connection, {"lanes": self._database.numbers(lanes)})
        deleted_at = {}
        if deleted := [row.value for row in rows if row.deleted]:
            values = {"lanes": self._database.numbers(deleted), "cancelled": self._database.numbers(cancelled)}
            deleted_at = {row.lane: row.deleted_at for row in self._select_deletions.rows(connection, values)}
        return LaneStates(occupied={row.value for row in rows if row.occupied}, deleted_at=deleted_at)

    def promote(self, connection: Connection, lanes: Collection[int]) -> None:
        """Make the first delivery of each lane pending where none is; a merge has to be first in both its lanes."""
        firsts = set(self._firsts(connection, lanes).values())
        if not firsts:
            return
        values = {"ids": self._database.numbers(firsts)}
        merges = firsts - {row.id for row in self._promote_in_one_lane.rows(connection, values)}
        if merges and (first_in_both := self._first_in_both(connection, merges)):
            self._promote.run(connection, {"ids": self._database.numbers(first_in_both)})

    def _firsts(self, connection: Connection, lanes: Collection[int]) -> dict[int, int]:
        """Return the first parked delivery of each lane that has one and no head."""
        if not lanes:
            return {}
        rows = self._select_firsts.rows(connection, {"lanes": self._database.numbers(lanes)})
        candidates = {row.value: list(filter(None, (row.first, row.first_by_other_lane))) for row in rows}
        # Places are read where there are two candidates only; a single one needs no comparison.
        rivals = [id_ for ids in candidates.values() if len(ids) == 2 for id_ in ids]
        values = {"ids": self._database.numbers(rivals)}
        places = {row.id: row.place for row in self._select_places.rows(connection, values)} if rivals else {}
        return {lane: min(ids, key=lambda id_: places.get(id_, id_)) for lane, ids in candidates.items() if ids}

    def _first_in_both(self, connection: Connection, merges: Collection[int]) -> set[int]:
        # Two transactions may settle the two heads before a merge, each with the lock of its own lane. Neither sees
        # that the other's head is settled, so neither would promote the merge. Its row is what both lock: the second
        # waits for it, and then sees what the first has done.
        rows = self._lock_places.rows(connection, {"ids": self._database.numbers(merges)})
        firsts = self._firsts(connection, {lane for row in rows for lane in lanes_of(row)})
        return {row.id for row in rows if all(firsts.get(lane) == row.id for lane in lanes_of(row))}


def lanes_of(row: Any) -> tuple[int, ...]:
    """Return the lanes of a delivery's row: none, one, or two of a merge."""
    return tuple(lane for lane in (row.lane, row.other_lane) if lane is not None)


def _any_delivery(
    wanted: FromClause, condition: ColumnElement[bool], column: ColumnElement[int | None]
) -> ScalarSelect[int]:
    """Select one delivery of each wanted lane, if there is any.

    For EXISTS PostgreSQL's planner may read all deliveries for which the condition holds, and make a hash of them.
    """
    query = select(deliveries.c.id).where(condition, column == wanted.c.value)
    return query.limit(1).correlate(wanted).scalar_subquery()


def _first_parked(wanted: FromClause, column: ColumnElement[int | None]) -> ScalarSelect[int]:
    """Select the first parked delivery of each wanted lane."""
    query = select(deliveries.c.id).where(IS_PARKED, IS_UNSETTLED, column == wanted.c.value)
    return query.order_by(PLACE).limit(1).correlate(wanted).scalar_subquery()
