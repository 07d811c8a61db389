"""The rate of a connection is one for all workers: what they book never overlaps."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from sqlalchemy import update

from gateway.store import ClaimRequest, Store
from gateway.store.database import Database
from gateway.store.rates import GRACE, Booking, Rates
from gateway.store.tables import rates
from tests.support.databases import opened_again
from tests.support.rows import call, event


def book(database: Database, rate: float, wanted: int) -> tuple[float, Booking] | None:
    """Book requests, and return the moment when this was asked for with the booking."""
    with database.transaction() as connection:
        bookings = Rates(database).book(connection, {"default": rate}, {"default": wanted})
    return (time.monotonic(), bookings["default"]) if bookings else None


def test_what_two_workers_book_follows_each_other(database: Database) -> None:
    with opened_again(database) as again:
        booked = [book(worker, 10.0, 1) for worker in (database, again) * 4]
    moments = [moment + booking.begins_in for moment, booking in filter(None, booked)]
    assert len(moments) == 8
    # The first may begin a moment ago. The clocks of the test and of the database are read at different moments.
    assert moments[-1] - moments[0] == pytest.approx(0.7, abs=0.05)
    assert all(later > earlier for earlier, later in pairwise(moments))


@pytest.mark.parametrize(("rate", "wanted", "number"), [(100.0, 3, 3), (100.0, 500, 10), (1.0, 9, 1)])
def test_a_worker_books_what_it_needs_up_to_a_burst(database: Database, rate: float, wanted: int, number: int) -> None:
    booked = book(database, rate, wanted)
    assert booked is not None
    assert (booked[1].number, booked[1].interval) == (number, 1 / rate)
    assert booked[1].begins_in == pytest.approx(-GRACE, abs=0.001)
    assert book(database, rate, 0) is None


def test_a_clock_that_is_set_back_stops_nothing(database: Database) -> None:
    book(database, 100.0, 1)
    with database.transaction() as connection:
        connection.execute(update(rates).values(booked_until=rates.c.booked_until + 3_600))
    booked = book(database, 100.0, 1)
    assert booked is not None
    assert booked[1].begins_in == pytest.approx(-GRACE, abs=0.001)


def test_a_turn_books_for_what_it_claims_and_for_what_waits(store: Store) -> None:
    def numbers(limit: int, **waiting: int) -> list[int]:
        request = ClaimRequest(
            limit=limit, lease=1, lease_seconds=60.0, rates={"default": 100.0, "other": 1.0}, unbooked=waiting
        )
        return [booking.number for booking in store.settle_and_claim([], request).bookings.values()]

    assert numbers(10) == []
    store.record([event("a", *(call(f"{lane}", lane) for lane in range(4)))])
    assert numbers(3) == [3]
    assert numbers(3, default=5) == [6]
    assert numbers(3, default=5, other=7) == [5, 1]
