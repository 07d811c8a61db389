"""The order of calls to one person: which lanes are occupied, and who is next. For the store's transactions.

Two invariants hold after every transaction: a lane with unsettled deliveries has exactly one that is first,
and a delivery is pending exactly when it is first in every lane that it stands in. Whoever calls these has
locked the lanes (`Database.lock_lanes`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, ScalarSelect, or_, select, update

from gateway.store.database import Database
from gateway.store.tables import IN_TWO_LANES, IS_PARKED, IS_PENDING, IS_UNSETTLED, PLACE, deliveries


class Lanes:
    """The lanes of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        own, other = deliveries.c.lane, deliveries.c.other_lane
        of_two = ((IN_TWO_LANES, own), (IN_TWO_LANES, other))
        wanted = database.each("lanes")
        occupant = (_some(wanted, condition, column) for condition, column in ((IS_PENDING, own), *of_two))
        self._select_occupied = database.prepare(
            select(wanted.c.value).where(or_(*(some.is_not(None) for some in occupant)))
        )
        heads = (_some(wanted, IS_PENDING, column) for column in (own, other))
        self._select_firsts = database.prepare(
            select(wanted.c.value, _first(wanted, own).label("own"), _first(wanted, other).label("other"))
            .select_from(wanted)
            .where(*(head.is_(None) for head in heads))
        )
        known = database.among(deliveries.c.id, "ids")
        standing = select(deliveries.c.id, PLACE.label("place"), own, other).where(known)
        self._select_standing = database.prepare(standing)
        self._lock_standing = database.prepare(standing.order_by(deliveries.c.id).with_for_update())
        promote = update(deliveries).values(status="pending", due_at=database.now)
        # Of the column alone PostgreSQL would find the index of all that is parked, and might go through it.
        promote = promote.where(known, deliveries.c.status.concat("") == "parked")
        self._promote_any = database.prepare(promote)
        self._promote_of_one = database.prepare(promote.where(other.is_(None)).returning(deliveries.c.id))

    def occupied(self, connection: Connection, lanes: Collection[int]) -> set[int]:
        """Find the lanes in which something is unsettled: a head, or a call of two lanes that waits in the other."""
        if not lanes:
            return set()
        rows = self._select_occupied.rows(connection, {"lanes": self._database.numbers(lanes)})
        return {row.value for row in rows}

    def promote(self, connection: Connection, lanes: Collection[int]) -> None:
        """Make the first of each lane pending where nothing is; a call of two lanes has to be first in both."""
        firsts = set(self._firsts(connection, lanes).values())
        if not firsts:
            return
        ids = {"ids": self._database.numbers(firsts)}
        of_two = firsts - {row.id for row in self._promote_of_one.rows(connection, ids)}
        if of_two and (first := self._first_in_both(connection, of_two)):
            self._promote_any.run(connection, {"ids": self._database.numbers(first)})

    def _firsts(self, connection: Connection, lanes: Collection[int]) -> dict[int, int]:
        """Find the first parked delivery of each lane that has one and no head."""
        if not lanes:
            return {}
        rows = self._select_firsts.rows(connection, {"lanes": self._database.numbers(lanes)})
        doubtful = [id_ for row in rows if row.own and row.other for id_ in (row.own, row.other)]
        places = {row.id: row.place for row in self._standing(connection, doubtful)}
        return {
            row.value: min(filter(None, (row.own, row.other)), key=lambda id_: places.get(id_, id_))
            for row in rows
            if row.own or row.other
        }

    def _first_in_both(self, connection: Connection, ids: Collection[int]) -> set[int]:
        # Two transactions may settle the two heads before it, each with the lock of its own lane: neither sees
        # the other's, so neither would promote it. The row is where they meet, and the second sees the first's.
        rows = self._lock_standing.rows(connection, {"ids": self._database.numbers(ids)})
        lanes_of = {row.id: {row.lane, row.other_lane} for row in rows}
        firsts = self._firsts(connection, set().union(*lanes_of.values()))
        return {id_ for id_, lanes in lanes_of.items() if all(firsts.get(lane) == id_ for lane in lanes)}

    def _standing(self, connection: Connection, ids: Collection[int]) -> Sequence[Any]:
        if not ids:
            return []
        return self._select_standing.rows(connection, {"ids": self._database.numbers(ids)})


def _some(wanted: FromClause, condition: ColumnElement[bool], column: ColumnElement[int | None]) -> ScalarSelect[int]:
    """Select one delivery of each wanted lane, if there is any.

    Where EXISTS is asked for, PostgreSQL's planner may read all that the condition holds for, and make a hash of it.
    """
    some = select(deliveries.c.id).where(condition, column == wanted.c.value)
    return some.limit(1).correlate(wanted).scalar_subquery()


def _first(wanted: FromClause, column: ColumnElement[int | None]) -> ScalarSelect[int]:
    """Select the first delivery that is parked in each wanted lane."""
    parked = select(deliveries.c.id).where(IS_PARKED, IS_UNSETTLED, column == wanted.c.value)
    return parked.order_by(PLACE).limit(1).correlate(wanted).scalar_subquery()
