"""Claim deliveries: lease those that are due to one worker, and give leases back unused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Connection, Double, bindparam, func, null, select, update

from gateway.store.connection_state import ConnectionStates, ProbeResult, ProbeSchedule, Target
from gateway.store.database import Database
from gateway.store.lanes import lanes_of
from gateway.store.tables import IS_PENDING, deliveries


@dataclass(frozen=True, kw_only=True)
class ClaimRequest:
    """What a worker asks for when it settles outcomes and claims deliveries.

    Attributes:
        limit: Deliveries to claim, at most.
        lease: The token of the new leases and of the rights to probe.
        lease_seconds: How long the new leases last.
        probe_results: Results of the probes that this worker had the right to make.
        doubted: Connections to which nothing more is sent until they are probed.
        probing: The doubted connections that this worker is probing already.
        busy: Connections to which this worker is sending.
        room: How many deliveries a connection can take, where that is limited.
        schedule: How long pauses and rights to probe last.
    """

    limit: int
    lease: int
    lease_seconds: float
    probe_results: Sequence[ProbeResult] = ()
    doubted: Collection[Target] = ()
    probing: Collection[Target] = ()
    busy: Collection[Target] = ()
    room: Mapping[str, int] = field(default_factory=dict)
    schedule: ProbeSchedule = field(default_factory=ProbeSchedule)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that one worker alone may send until its lease ends.

    Attributes:
        tries: Attempts that were made before.
        failing_for: Seconds since the first of them that failed, without those in which its connection was paused.
    """

    id: int
    lease: int
    connection: str
    region: str | None
    lanes: tuple[int, ...]
    call: str
    tries: int
    failing_for: float

    @property
    def target(self) -> Target:
        """The connection and region that it is sent to."""
        return Target(self.connection, self.region or "")

    @property
    def lane_or_id(self) -> int:
        """What its failures are counted by: several failures in one lane are those of one customer."""
        return self.lanes[0] if self.lanes else self.id


class Claiming:
    """Claims and releases deliveries, in a transaction of the store."""

    def __init__(self, database: Database) -> None:
        self._numbers = database.numbers
        now = database.now
        to_target = (
            IS_PENDING,
            deliveries.c.connection == bindparam("target_connection"),
            deliveries.c.region == bindparam("target_region"),
        )
        due = (
            select(deliveries.c.id)
            .where(*to_target, deliveries.c.due_at <= now)
            .order_by(deliveries.c.due_at, deliveries.c.id)
            .limit(bindparam("most"))
            # On PostgreSQL two workers that claim at once get different rows. SQLite has no such lock and needs none.
            .with_for_update(skip_locked=True)
        )
        paused_for: BindParameter[float] = bindparam("paused_for", type_=Double())
        paused_since = paused_for - func.coalesce(deliveries.c.paused_before, paused_for)
        self._claim = database.compile(
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            .values(lease=bindparam("new_lease"), due_at=now + bindparam("seconds", type_=Double()))
            .returning(
                deliveries.c.id,
                deliveries.c.lease,
                deliveries.c.connection,
                deliveries.c.region,
                deliveries.c.lane,
                deliveries.c.other_lane,
                deliveries.c.call,
                deliveries.c.tries,
                (now - deliveries.c.first_failed_at - paused_since).label("failing_for"),
            )
        )
        next_due = select(deliveries.c.due_at).where(*to_target).order_by(deliveries.c.due_at).limit(1)
        self._select_due_in = database.compile(select((next_due.scalar_subquery() - now).label("due_in")))
        self._release = database.compile(
            update(deliveries)
            .where(database.among(deliveries.c.id, "ids"), database.among(deliveries.c.lease, "leases"))
            .values(lease=null(), due_at=now)
        )

    def claim(
        self, connection: Connection, states: ConnectionStates, closed: Collection[Target], request: ClaimRequest
    ) -> list[Claimed]:
        """Claim due deliveries, splitting the limit fairly between the connections that are open and not *closed*.

        What one connection leaves of its share goes to those after it; which one is first depends on the lease, which
        is random.
        """
        targets = [target for target in states.open() if target not in closed]
        first = request.lease % len(targets) if targets else 0
        room = dict(request.room)
        claimed: list[Claimed] = []
        for number, target in enumerate(targets[first:] + targets[:first]):
            # The share is rounded up.
            share = -(-(request.limit - len(claimed)) // (len(targets) - number))
            most = min(share, room.get(target.connection, share))
            state = states.by_target[target]
            if state.on_trial:
                most = min(most, 0 if target in request.busy else 1)
            if not most:
                continue
            values = {
                **target.parameters,
                "most": most,
                "new_lease": request.lease,
                "seconds": request.lease_seconds,
                "paused_for": state.paused_for,
            }
            rows = self._claim.rows(connection, values)
            claimed += sorted(map(_claimed, rows), key=lambda delivery: delivery.id)
            if target.connection in room:
                room[target.connection] -= len(rows)
        return claimed

    def due_in(
        self, connection: Connection, states: ConnectionStates, closed: Collection[Target], busy: Collection[Target]
    ) -> float | None:
        """Return the seconds until there may be something to claim or to probe; None where nothing waits."""
        waits: list[float] = []
        for target, state in states.by_target.items():
            if state.cause is not None:
                waits.append((state.resumes_at or states.now) - states.now)
            elif target not in closed and not (state.on_trial and target in busy):
                (row,) = self._select_due_in.rows(connection, target.parameters)
                waits += [] if row.due_in is None else [row.due_in]
        return max(min(waits), 0.0) if waits else None

    def release(self, connection: Connection, claimed: Sequence[Claimed]) -> None:
        """Give leases back; one that has been lost to another worker stays as it is."""
        ids, leases = [delivery.id for delivery in claimed], {delivery.lease for delivery in claimed}
        self._release.run(connection, {"ids": self._numbers(ids), "leases": self._numbers(leases)})


def _claimed(row: Any) -> Claimed:
    return Claimed(
        id=row.id,
        lease=row.lease,
        connection=row.connection,
        region=row.region or None,
        lanes=lanes_of(row),
        call=row.call,
        tries=row.tries,
        failing_for=max(row.failing_for or 0.0, 0.0),
    )
