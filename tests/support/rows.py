"""Events, deliveries and notices in a real database: record, claim, settle and read them in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update

from gateway.customerio.retry import Attempt, Decision, Failed
from gateway.event import NewDelivery
from gateway.store import Claimed, ClaimRequest, NewEvent, Outcome, Store, Turn
from gateway.store.database import Database
from gateway.store.notices import Notices
from gateway.store.tables import deliveries, notices

OK = Attempt(status=200, at=1.0, seconds=0.1)
REFUSED = Attempt(status=400, reason="HTTP 400: no", at=1.0, seconds=0.1)


def call(name: str, *lanes: int, region: str | None = None, **changes: Any) -> NewDelivery:
    """Return a delivery whose call is its name."""
    values = {"identity": hashlib.sha256(name.encode()).digest(), "connection": "default", "text": name, **changes}
    return NewDelivery(region=region, lanes=lanes, **values)


def event(key: str, *new_deliveries: NewDelivery, **changes: Any) -> NewEvent:
    """Return an event of source "shop" with these deliveries."""
    values: dict[str, Any] = {
        "source": "shop",
        "key": hashlib.sha256(key.encode()).digest(),
        "received_at": 1_767_225_600.0,
        "headers": b"{}",
        "query": b"{}",
        "body": b"{}",
        "event_type": "x",
        "status": "accepted",
        "deliveries": new_deliveries,
    }
    return NewEvent(**values | changes)


class Hand:
    """A worker that claims and settles with a lease of its own."""

    def __init__(self, store: Store, lease: int = 1) -> None:
        self._store = store
        self._lease = lease

    def claim(self, limit: int = 100, seconds: float = 60.0) -> list[Claimed]:
        return self.turn(limit=limit, seconds=seconds).claimed

    def settle(self, claimed: Claimed, decision: Decision, attempt: Attempt = OK, limit: int = 0) -> list[Claimed]:
        """Settle one delivery, and claim others."""
        return self.turn(Outcome(delivery=claimed, attempt=attempt, decision=decision), limit=limit).claimed

    def turn(self, *outcomes: Outcome, limit: int = 100, seconds: float = 60.0) -> Turn:
        return self._store.settle_and_claim(
            outcomes, ClaimRequest(limit=limit, lease=self._lease, lease_seconds=seconds)
        )


def settle_due(store: Store, decision: Decision, attempt: Attempt = OK) -> int:
    """Settle all deliveries that are due now, and return how many there were."""
    hand = Hand(store)
    claimed = hand.claim(limit=500)
    hand.turn(*(Outcome(delivery=delivery, attempt=attempt, decision=decision) for delivery in claimed), limit=0)
    return len(claimed)


def fail(store: Store) -> None:
    """Fail all deliveries that are due now."""
    settle_due(store, Failed(reason="HTTP 400: no"), REFUSED)


def names(claimed: Sequence[Claimed]) -> list[str]:
    return [delivery.call for delivery in claimed]


def statuses(database: Database) -> dict[str, str]:
    """Return the status of each call."""
    with database.engine.connect() as connection:
        rows = connection.execute(select(deliveries.c.call, deliveries.c.status).order_by(deliveries.c.id))
        return {row.call: row.status for row in rows}


def begin(database: Database, kind: str, subject: str = "", text: str = "x") -> bool:
    """Begin a notice."""
    with database.transaction() as connection:
        return Notices(database).begin(connection, kind, subject, text)


def end(database: Database, kind: str, subject: str = "") -> bool:
    """End a notice."""
    with database.transaction() as connection:
        return Notices(database).end(connection, kind, subject)


def open_notices(database: Database) -> list[tuple[str, str]]:
    """Return kind and subject of the notices that are open."""
    with database.engine.connect() as connection:
        query = select(notices).where(notices.c.ended_at.is_(None)).order_by(notices.c.kind, notices.c.subject)
        return [(row.kind, row.subject) for row in connection.execute(query)]


def shift(database: Database, seconds: float) -> None:
    """Let time pass for the notices: move their times into the past."""
    times = {name: notices.c[name] - seconds for name in ("began_at", "ended_at", "tell_at")}
    with database.transaction() as connection:
        connection.execute(update(notices).values(**times))
