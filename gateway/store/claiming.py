"""Claim deliveries: lease those that are due to one worker, and give leases back unused.

What a worker can send is shared between the connections, and for each between its queues (`gateway.store.tables`):
what is live first, equally between the sources; then what is sent in bulk, and what has failed before. Each has a
share that the others cannot take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    ScalarSelect,
    bindparam,
    cast,
    func,
    null,
    select,
    update,
)

from gateway.customerio.retry import LONGEST_DELAY, MOST_SUSPECTS, ConnectionState
from gateway.store.connection_state import ConnectionStates, ProbeResult, ProbeSchedule, Target
from gateway.store.database import Database
from gateway.store.lanes import lanes_of
from gateway.store.statements import CompiledStatement
from gateway.store.tables import BULK, IS_PENDING, RETRIED, deliveries

#: The parts of what can be sent that are kept for RETRIED and BULK, while there is more of what is live.
RETRIED_PART, BULK_PART = 1 / 4, 1 / 10
#: Retries that are brought forward at once, at most, and the seconds over which they are spread.
MOST_FORWARD, FORWARD_SECONDS = 1_000, 5


@dataclass(frozen=True, kw_only=True)
class ClaimRequest:
    """What a worker asks for when it settles outcomes and claims deliveries.

    Attributes:
        limit: Deliveries to claim, at most.
        most_retried: Those of them that have failed before, at most.
        lease: The token of the new leases and of the rights to probe.
        lease_seconds: How long the new leases last.
        probe_results: Results of the probes that this worker had the right to make.
        doubted: Connections that are to be probed. What has failed before waits until they are.
        stopped: Those of them on which everything waits.
        probing: The doubted connections that this worker is probing already.
        busy: Connections to which this worker is sending what has not failed before.
        room: How many deliveries a connection can take, where that is limited.
        rates: Requests a second of all workers together, by connection, where that is limited.
        unbooked: How many requests of this worker wait for the rate of a connection.
        schedule: How long pauses and rights to probe last.
    """

    limit: int
    most_retried: int = 1_000
    lease: int
    lease_seconds: float
    probe_results: Sequence[ProbeResult] = ()
    doubted: Collection[Target] = ()
    stopped: Collection[Target] = ()
    probing: Collection[Target] = ()
    busy: Collection[Target] = ()
    room: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    unbooked: Mapping[str, int] = field(default_factory=dict)
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
    queue: str
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

    @property
    def is_retried(self) -> bool:
        """Whether it has failed before by itself."""
        return self.queue == RETRIED


_TO_TARGET = (
    IS_PENDING,
    deliveries.c.connection == bindparam("target_connection"),
    deliveries.c.region == bindparam("target_region"),
)
#: The conditions of what waits for a target in one queue, in the order of the index of what is due.
IN_QUEUE = (*_TO_TARGET, deliveries.c.queue == bindparam("of_queue"))


def compile_queues(database: Database) -> CompiledStatement:
    """Compile the statement that selects the queues of a target, and in how many seconds each is due.

    It takes one step through the index for each queue, however many deliveries wait there.
    """
    name = deliveries.c.queue
    queues = select(_first(name, *_TO_TARGET).label("name")).cte("queues", recursive=True)
    next_name = _first(name, *_TO_TARGET, name > queues.c.name).correlate(queues)
    queues = queues.union_all(select(next_name).where(queues.c.name.is_not(None)))
    first_due_at = _first(deliveries.c.due_at, *_TO_TARGET, name == queues.c.name).correlate(queues)
    due_in = (first_due_at - database.now).label("due_in")
    return database.compile(select(queues.c.name, due_in).where(queues.c.name.is_not(None)))


class Claiming:
    """Claims and releases deliveries, in a transaction of the store."""

    def __init__(self, database: Database) -> None:
        self._numbers = database.numbers
        now = database.now
        due = (
            select(deliveries.c.id)
            .where(*IN_QUEUE, deliveries.c.due_at <= now)
            .limit(bindparam("most"))
            # On PostgreSQL two workers that claim at once get different rows. SQLite has no such lock and needs none.
            .with_for_update(skip_locked=True)
        )
        paused_for: BindParameter[float] = bindparam("paused_for", type_=Double())
        paused_since = paused_for - func.coalesce(deliveries.c.paused_before, paused_for)
        claim = (
            update(deliveries)
            .values(lease=bindparam("new_lease"), due_at=now + bindparam("seconds", type_=Double()))
            .returning(
                deliveries.c.id,
                deliveries.c.lease,
                deliveries.c.connection,
                deliveries.c.region,
                deliveries.c.lane,
                deliveries.c.other_lane,
                deliveries.c.call,
                deliveries.c.queue,
                deliveries.c.tries,
                (now - deliveries.c.first_failed_at - paused_since).label("failing_for"),
            )
        )
        place = (deliveries.c.due_at, deliveries.c.id)
        oldest, newest = due.order_by(*place), due.order_by(*(column.desc() for column in place))
        self._claim_oldest = database.compile(claim.where(deliveries.c.id.in_(oldest.scalar_subquery())))
        self._claim_newest = database.compile(claim.where(deliveries.c.id.in_(newest.scalar_subquery())))

        self._select_queues = compile_queues(database)

        later = (
            select(deliveries.c.id)
            .where(*IN_QUEUE, deliveries.c.due_at > now + float(FORWARD_SECONDS))
            .order_by(deliveries.c.due_at)
            .limit(MOST_FORWARD)
            .with_for_update(skip_locked=True)
        )
        tenths = cast(deliveries.c.id % (10 * FORWARD_SECONDS), Double)
        failing_since: BindParameter[float] = bindparam("failing_since", type_=Double())
        self._bring_forward = database.compile(
            update(deliveries)
            .where(
                deliveries.c.id.in_(later.scalar_subquery()),
                deliveries.c.lease.is_(None),
                # An outage lets a call through now and then, so it may have begun a little earlier.
                deliveries.c.first_failed_at >= failing_since - LONGEST_DELAY,
            )
            .values(due_at=now + tenths / 10.0)
        )
        self._release = database.compile(
            update(deliveries)
            .where(database.among(deliveries.c.id, "ids"), database.among(deliveries.c.lease, "leases"))
            .values(lease=null(), due_at=now)
        )

    def claim(
        self, connection: Connection, states: ConnectionStates, closed: Collection[Target], request: ClaimRequest
    ) -> tuple[list[Claimed], float | None]:
        """Claim due deliveries, splitting the limit fairly between the connections that are open and not *closed*.

        What one connection leaves of its share goes to those after it; which one is first depends on the lease, which
        is random.

        Returns:
            The deliveries; and the seconds until there may be something to claim or to probe, None where nothing waits.
        """
        if not request.limit:
            return [], None
        targets = [target for target in states.open() if target not in closed]
        first = request.lease % len(targets) if targets else 0
        claimed: list[Claimed] = []
        waits = [
            (state.resumes_at or states.now) - states.now
            for state in states.by_target.values()
            if state.cause is not None
        ]
        for number, target in enumerate(targets[first:] + targets[:first]):
            state = states.by_target[target]
            most = _most(request, claimed, target, state, len(targets) - number)
            queues = self._queues(connection, target)
            values = {
                **target.parameters,
                "new_lease": request.lease,
                "seconds": request.lease_seconds,
                "paused_for": state.paused_for,
            }
            # What is at the front has just failed, so the newest are on trial.
            taken = _claim_shares(queues, most, partial(self._claim, connection, values, newest=state.on_trial))
            claimed += taken
            if taken:
                most, queues = most.less(taken, on_trial=state.on_trial), self._queues(connection, target)
            waits += [due_in for queue, due_in in queues.items() if (most.retried if queue == RETRIED else most.fresh)]
        if len(claimed) >= request.limit:
            return claimed, 0.0  # there may be more
        return claimed, max(min(waits), 0.0) if waits else None

    def _queues(self, connection: Connection, target: Target) -> dict[str, float]:
        """Return in how many seconds each queue is due; where that is past, it is negative."""
        return {row.name: row.due_in for row in self._select_queues.rows(connection, target.parameters)}

    def _claim(
        self, connection: Connection, values: Mapping[str, Any], queue: str, most: int, *, newest: bool
    ) -> list[Claimed]:
        if most <= 0:
            return []
        statement = self._claim_newest if newest and queue != RETRIED else self._claim_oldest
        rows = statement.rows(connection, {**values, "of_queue": queue, "most": most})
        return sorted(map(_claimed, rows), key=lambda delivery: delivery.id)

    def bring_forward(self, connection: Connection, target: Target, failing_since: float) -> None:
        """Let the retries of a connection that was in trouble until now be due in the next few seconds."""
        self._bring_forward.run(connection, {**target.parameters, "of_queue": RETRIED, "failing_since": failing_since})

    def release(self, connection: Connection, claimed: Sequence[Claimed]) -> None:
        """Give leases back; one that has been lost to another worker stays as it is."""
        ids, leases = [delivery.id for delivery in claimed], {delivery.lease for delivery in claimed}
        self._release.run(connection, {"ids": self._numbers(ids), "leases": self._numbers(leases)})


@dataclass(frozen=True, kw_only=True)
class _Most:
    """How many deliveries may be claimed for a connection: in all, of what has not failed before, and of what has."""

    total: int
    fresh: int
    retried: int

    def less(self, taken: Sequence[Claimed], *, on_trial: bool) -> _Most:
        """Return what is left. On trial nothing is, until the results are there."""
        retried = sum(delivery.is_retried for delivery in taken)
        return _Most(
            total=self.total - len(taken),
            fresh=0 if on_trial else self.fresh - len(taken) + retried,
            retried=self.retried - retried,
        )


def _most(
    request: ClaimRequest, claimed: Sequence[Claimed], target: Target, state: ConnectionState, parts: int
) -> _Most:
    """Return how many deliveries may be claimed for a connection, which is the first of so many parts."""
    total = _share(request.limit - len(claimed), parts)
    if target.connection in request.room:
        of_connection = sum(delivery.connection == target.connection for delivery in claimed)
        total = max(min(total, request.room[target.connection] - of_connection), 0)
    fresh = total
    if state.on_trial:
        fresh = 0 if target in request.busy else min(total, MOST_SUSPECTS)
    retried = 0
    if target not in request.doubted:
        retried = _share(request.most_retried - sum(delivery.is_retried for delivery in claimed), parts)
    return _Most(total=total, fresh=fresh, retried=min(retried, total))


def _claim_shares(
    queues: Mapping[str, float], most: _Most, claim: Callable[[str, int], list[Claimed]]
) -> list[Claimed]:
    """Claim from the queues that are due: the live ones share equally, and leave some room to the other two."""
    # A source that is behind has older deliveries, so what the others leave of their shares is for it.
    due = sorted((queue for queue, due_in in queues.items() if due_in <= 0), key=queues.__getitem__, reverse=True)
    live = [queue for queue in due if queue not in (RETRIED, BULK)]
    fresh = most.fresh
    if RETRIED in due:
        fresh = min(fresh, most.total - min(most.retried, int(most.total * RETRIED_PART)))
    fresh_live = fresh - (int(fresh * BULK_PART) if BULK in due else 0)
    claimed: list[Claimed] = []
    has_more: list[str] = []
    for number, queue in enumerate(live):
        share = _share(fresh_live - len(claimed), len(live) - number)
        taken = claim(queue, share)
        claimed += taken
        has_more += [queue] if len(taken) == share else []
    if BULK in due:
        claimed += claim(BULK, fresh - len(claimed))
    if RETRIED in due:
        claimed += claim(RETRIED, min(most.retried, most.total - len(claimed)))
    for queue in has_more:  # what the others have left
        fresh_claimed = sum(not delivery.is_retried for delivery in claimed)
        claimed += claim(queue, min(most.fresh - fresh_claimed, most.total - len(claimed)))
    return claimed


def _share(number: int, parts: int) -> int:
    """Return the first of equal parts, rounded up."""
    return -(-number // parts)


def _first(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    """Select the least value of a column, from an index in its order."""
    return select(column).where(*conditions).order_by(column).limit(1).scalar_subquery()


def _claimed(row: Any) -> Claimed:
    return Claimed(
        id=row.id,
        lease=row.lease,
        connection=row.connection,
        region=row.region or None,
        lanes=lanes_of(row),
        call=row.call,
        queue=row.queue,
        tries=row.tries,
        failing_for=max(row.failing_for or 0.0, 0.0),
    )
