"""The rate of each connection, which its workers share: they book moments to begin requests at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, Double, bindparam, case

from gateway.customerio.rate_limit import burst_of
from gateway.store.database import Database
from gateway.store.tables import rates

#: Seconds for which moments that nobody has booked can still be: what a worker needs to fetch its next deliveries must
#: not lower the rate. So a second has the requests of 1.1 seconds, at most.
GRACE = 0.1
#: Seconds, and requests, that may be booked already, by others. What is later was booked before a clock was set back.
AHEAD_SECONDS, AHEAD_REQUESTS = 10.0, 100


@dataclass(frozen=True, kw_only=True)
class Booking:
    """The right to begin requests: the first in *begins_in* seconds, and each *interval* seconds after the last."""

    begins_in: float
    number: int
    interval: float


class Rates:
    """Books requests, in transactions of the store."""

    def __init__(self, database: Database) -> None:
        seconds: BindParameter[float] = bindparam("seconds", type_=Double())
        earliest = database.now - GRACE
        latest = database.now + bindparam("ahead", type_=Double())
        begins_at = case((rates.c.booked_until.between(earliest, latest), rates.c.booked_until), else_=earliest)
        insert = database.insert(rates).values(connection=bindparam("of_connection"), booked_until=earliest + seconds)
        self._book = database.compile(
            insert.on_conflict_do_update(
                index_elements=[rates.c.connection], set_={"booked_until": begins_at + seconds}
            ).returning((rates.c.booked_until - database.now).label("ends_in"))
        )

    def book(
        self, connection: Connection, rate_of: Mapping[str, float], wanted: Mapping[str, int]
    ) -> dict[str, Booking]:
        """Book requests for connections, each up to one burst of its rate. What a worker does not use is lost."""
        bookings = {}
        for name in sorted(wanted):  # in one order, so that two workers never wait for each other
            interval, number = 1 / rate_of[name], min(wanted[name], burst_of(rate_of[name]))
            if number:
                ahead = AHEAD_SECONDS + AHEAD_REQUESTS * interval
                values = {"of_connection": name, "seconds": number * interval, "ahead": ahead}
                (row,) = self._book.rows(connection, values)
                begins_in = row.ends_in - number * interval
                bookings[name] = Booking(begins_in=begins_in, number=number, interval=interval)
        return bookings
