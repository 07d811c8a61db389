"""The hot path: record webhooks and their deliveries, lease what is due, settle what came of it.

What the operator asks and does is in `archive`; the order of the lanes is in `lanes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    bindparam,
    case,
    func,
    null,
    select,
    update,
)

from gateway.customerio.retry import Attempt, ConnectionState, Decision, Delivered, Failed, Postponed, Retry
from gateway.store.connection_state import (
    ConnectionStates,
    ConnectionStateTable,
    ProbeResult,
    ProbeSchedule,
    StateChange,
    Target,
)
from gateway.store.database import Database, readable_errors, reading, writing
from gateway.store.lanes import Lanes
from gateway.store.notices import Notices
from gateway.store.tables import IS_PENDING, attempts, deliveries, events

EventStatus: TypeAlias = Literal["accepted", "ignored", "failed"]


@dataclass(frozen=True, kw_only=True)
class NewDelivery:
    """A call to record; *lanes* are the one or two in which it keeps its order, or none."""

    identity: bytes
    connection: str
    region: str | None
    lanes: tuple[int, ...]
    call: str


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """A webhook to record together with its deliveries; *key* is the SHA-256 of its event key."""

    source: str
    key: bytes
    received_at: float
    headers: bytes
    query: bytes
    body: bytes
    event_type: str | None
    status: EventStatus
    problem: str | None = None
    deliveries: tuple[NewDelivery, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What became of a webhook: its event's id, or that of the event it repeats."""

    id: int
    duplicate: bool


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that we alone may send until its lease ends.

    Attributes:
        tries: Attempts that were made before.
        failing_for: Seconds since the first of them that failed.
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
        """Where it goes."""
        return Target(self.connection, self.region or "")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attempt of a claimed delivery came to."""

    delivery: Claimed
    attempt: Attempt
    decision: Decision


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
class Turn:
    """What a worker is to do next.

    Attributes:
        lease: The token by which it has been given deliveries and probes.
        claimed: Deliveries that it alone may send until their leases end.
        probes: Connections that it alone is to probe.
        paused: Connections that are paused.
        changes: Connections that this very turn has paused or resumed.
        due_in: Seconds until there may be more to claim or to probe; None when nothing waits.
    """

    lease: int
    claimed: list[Claimed]
    probes: list[Target]
    paused: frozenset[Target]
    changes: list[StateChange]
    due_in: float | None


class Store:
    """The events and deliveries of one database. Every method is one transaction.

    All raise StoreError when the database cannot be reached or used for now.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes = Lanes(database)
        self._pauses = ConnectionStateTable(database)
        self._notices = Notices(database)
        self._statements = _Statements(database)

    def record(self, batch: Sequence[NewEvent]) -> list[Recorded]:
        """Record webhooks and their deliveries, all or none; a repeat of an event key records nothing."""
        self._database.require_space()
        lanes = {lane for new in batch for delivery in new.deliveries for lane in delivery.lanes}
        with writing(self._database, lanes) as connection:
            fresh = self._insert_events(connection, batch)
            recorded = self._name(connection, batch, fresh)
            made = [
                (outcome.id, delivery)
                for outcome, new in zip(recorded, batch, strict=True)
                if not outcome.duplicate
                for delivery in new.deliveries
            ]
            self._insert_deliveries(connection, made)
            targets = {Target(new.connection, new.region or "") for _, new in made}
            met = self._pauses.meet(connection, targets)
        self._pauses.remember(met)
        return recorded

    def wake(self) -> None:
        """Tell the workers that there may be something to claim; unless told they look once a second."""
        with readable_errors():
            self._database.notify()

    def settle_and_claim(self, outcomes: Sequence[Outcome], request: ClaimRequest) -> Turn:
        """Write outcomes, promote the deliveries that waited behind them, then claim due deliveries as requested."""
        lanes = {lane for outcome in outcomes for lane in outcome.delivery.lanes}
        with writing(self._database, lanes) as connection:
            states = self._pauses.read(connection)
            held = self._settle(connection, outcomes, states) if outcomes else []
            decided = [(outcome.delivery.target, _lane(outcome.delivery), outcome.decision) for outcome in held]
            states, changes = self._pauses.weigh(connection, states, decided, request.probe_results, request.schedule)
            unprobed = set(request.doubted).difference(request.probing)
            probes = self._pauses.lease_probes(connection, states, unprobed, request.lease, request.schedule)
            closed = {target for target in states.healths if request.room.get(target.connection) == 0}
            closed.update(request.doubted)
            claimed = self._claim(connection, states, closed, request)
            if len(claimed) == request.limit:
                due_in = 0.0 if request.limit else None
            else:
                due_in = self._due_in(connection, states, closed, request.busy)
        return Turn(
            lease=request.lease,
            claimed=claimed,
            probes=probes,
            paused=frozenset(states.healths) - frozenset(states.open()),
            changes=changes,
            due_in=due_in,
        )

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Give leases back unused, so that others need not wait for their end."""
        if not claimed:
            return
        with writing(self._database) as connection:
            self._statements.release.run(
                connection,
                {
                    "ids": self._database.numbers([each.id for each in claimed]),
                    "leases": self._database.numbers({each.lease for each in claimed}),
                },
            )
        self.wake()

    def counts(self) -> dict[str, dict[str, int]]:
        """Count events and deliveries by their status. For people: it reads the tables whole."""
        with reading(self._database) as connection:
            return {
                table.name: {
                    row.status: row.number
                    for row in connection.execute(
                        select(table.c.status, func.count().label("number")).group_by(table.c.status)
                    )
                }
                for table in (events, deliveries)
            }

    # Recording

    def _insert_events(self, connection: Connection, batch: Sequence[NewEvent]) -> dict[tuple[str, bytes], int]:
        """Insert what is new and give its ids. In the order of the keys: two groups never wait crosswise."""
        rows = {(new.source, new.key): _event_row(new) for new in reversed(batch)}
        inserted = self._statements.insert_events(connection, [rows[key] for key in sorted(rows)])
        return {(source, key): id_ for source, key, id_ in inserted.rows}

    def _name(
        self, connection: Connection, batch: Sequence[NewEvent], fresh: dict[tuple[str, bytes], int]
    ) -> list[Recorded]:
        """Give each webhook of the batch its event's id: the first of a new key is fresh, all others repeat."""
        keys = [(new.source, new.key) for new in batch]
        ids = dict(fresh)
        if known := set(keys) - fresh.keys():
            found = select(events.c.source, events.c.key, events.c.id)
            # Column by column, and so maybe a few more than asked: of pairs SQLite's index finds the source only.
            sources, hashes = {source for source, _ in known}, {hash_ for _, hash_ in known}
            found = found.where(events.c.source.in_(sources), events.c.key.in_(hashes))
            ids.update({(row.source, row.key): row.id for row in connection.execute(found)})
        unseen = set(fresh)
        recorded = []
        for key in keys:
            recorded.append(Recorded(id=ids[key], duplicate=key not in unseen))
            unseen.discard(key)
        return recorded

    def _insert_deliveries(self, connection: Connection, made: list[tuple[int, NewDelivery]]) -> None:
        """Insert deliveries behind what waits in their lanes."""
        if not made:
            return
        lanes = {lane for _, new in made for lane in new.lanes}
        occupied = self._lanes.occupied(connection, lanes)
        rows = []
        for event_id, new in made:
            first = occupied.isdisjoint(new.lanes)
            occupied.update(new.lanes)
            rows.append(delivery_row(event_id, new, "pending" if first else "parked"))
        # A delivery whose identity is known is left out, and another may stand behind it that is first now.
        if self._statements.insert_deliveries(connection, rows).number < len(rows):
            self._lanes.promote(connection, lanes)

    # Settling and claiming

    def _settle(self, connection: Connection, outcomes: Sequence[Outcome], standing: ConnectionStates) -> list[Outcome]:
        """Write what is still ours to write, and give it."""
        held = self._still_held(connection, outcomes)
        if not held:
            return []
        self._statements.insert_attempts(connection, list(map(_attempt_row, held)))
        if delivered := [each.delivery.id for each in held if isinstance(each.decision, Delivered)]:
            self._statements.write_delivered.run(connection, {"ids": self._database.numbers(delivered)})
        if postponed := [each for each in held if isinstance(each.decision, Postponed)]:
            self._statements.write_postponed.run_for_each(connection, list(map(_postponed_row, postponed)))
        if failures := [each for each in held if isinstance(each.decision, Retry | Failed)]:
            rows = [_failure_row(each, standing) for each in failures]
            self._statements.write_failures.run_for_each(connection, rows)
        settled = [each for each in held if isinstance(each.decision, Delivered | Failed)]
        self._lanes.promote(connection, {lane for each in settled for lane in each.delivery.lanes})
        self._note_failed(connection, [each for each in held if isinstance(each.decision, Failed)])
        return held

    def _still_held(self, connection: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Leave out what another worker has leased since: its outcome counts, not ours."""
        ids = {"ids": self._database.numbers([each.delivery.id for each in outcomes])}
        leases = {row.id: row.lease for row in self._statements.select_leases.rows(connection, ids)}
        return [each for each in outcomes if leases.get(each.delivery.id) == each.delivery.lease]

    def _note_failed(self, connection: Connection, failed: Sequence[Outcome]) -> None:
        if not failed:
            return
        ids = {"ids": self._database.numbers([each.delivery.id for each in failed])}
        for row in self._statements.select_sources.rows(connection, ids):
            text = f"deliveries of source {row.source} fail, the first is {row.id}: {row.reason}"
            self._notices.begin(connection, "failed", row.source, text)

    def _claim(
        self, connection: Connection, standing: ConnectionStates, shut: Collection[Target], request: ClaimRequest
    ) -> list[Claimed]:
        """Take what is due, of each connection its share; what one does not need is the next one's."""
        targets = [target for target in standing.open() if target not in shut]
        left = dict(request.room)
        first = request.lease % len(targets) if targets else 0
        claimed: list[Claimed] = []
        for number, target in enumerate(targets[first:] + targets[:first]):
            most = -(-(request.limit - len(claimed)) // (len(targets) - number))
            most = min(most, left.get(target.connection, most))
            health = standing.healths[target]
            if health.on_trial:
                most = min(most, 0 if target in request.busy else 1)
            if most:
                given = {
                    "most": most,
                    "new_lease": request.lease,
                    "seconds": request.lease_seconds,
                    "paused": health.paused_for,
                }
                rows = self._statements.claim.rows(connection, {**target.bound, **given})
                claimed += sorted(map(_claimed, rows), key=lambda each: each.id)
                if target.connection in left:
                    left[target.connection] -= len(rows)
        return claimed

    def _due_in(
        self,
        connection: Connection,
        standing: ConnectionStates,
        shut: Collection[Target],
        busy: Collection[Target],
    ) -> float | None:
        """Tell in how many seconds there may be something to claim or to probe."""
        found: list[float] = []
        for target, health in standing.healths.items():
            if health.cause is not None:
                found.append((health.resumes_at or standing.now) - standing.now)
            elif target not in shut and not (health.on_trial and target in busy):
                (row,) = self._statements.select_due_in.rows(connection, target.bound)
                found += [] if row.due_in is None else [row.due_in]
        return max(min(found), 0.0) if found else None


class _Statements:
    """The statements of the hot path."""

    def __init__(self, database: Database) -> None:
        postgres = database.engine.dialect.name == "postgresql"
        now, prepare = database.now, database.prepare
        ids = database.among(deliveries.c.id, "ids")
        one = deliveries.c.id == bindparam("delivery")
        self.insert_events = database.inserter(events, _EVENT, returning=("source", "key", "id"))
        self.insert_deliveries = database.inserter(deliveries, DELIVERY, now=("due_at",))
        self.insert_attempts = database.inserter(attempts, _ATTEMPT)
        leases = select(deliveries.c.id, deliveries.c.lease).where(ids)
        self.select_leases = prepare(leases.with_for_update() if postgres else leases)
        self.write_delivered = prepare(
            update(deliveries)
            .where(ids)
            .values(
                status="delivered",
                lease=null(),
                tries=deliveries.c.tries + 1,
                settled_at=now,
                reason=null(),
            )
        )
        self.write_failures = prepare(
            update(deliveries)
            .where(one)
            .values(
                status=bindparam("new_status"),
                lease=null(),
                tries=deliveries.c.tries + 1,
                first_failed_at=func.coalesce(deliveries.c.first_failed_at, now),
                paused_before=func.coalesce(deliveries.c.paused_before, bindparam("paused", type_=Double())),
                due_at=now + bindparam("after", type_=deliveries.c.due_at.type),
                settled_at=case((bindparam("new_status") == "failed", now), else_=null()),
                reason=bindparam("new_reason"),
            )
        )
        self.release = prepare(
            update(deliveries).where(ids, database.among(deliveries.c.lease, "leases")).values(lease=null(), due_at=now)
        )
        self.write_postponed = prepare(
            update(deliveries).where(one).values(lease=null(), due_at=now, reason=bindparam("new_reason"))
        )
        self.select_sources = prepare(
            select(events.c.source, deliveries.c.id, deliveries.c.reason)
            .join_from(deliveries, events, events.c.id == deliveries.c.event_id)
            .where(ids)
        )
        to_target = (
            IS_PENDING,
            deliveries.c.connection == bindparam("its"),
            deliveries.c.region == bindparam("there"),
        )
        first = select(deliveries.c.due_at).where(*to_target).order_by(deliveries.c.due_at).limit(1)
        self.select_due_in = prepare(select((first.scalar_subquery() - now).label("due_in")))
        due = (
            select(deliveries.c.id)
            .where(*to_target, deliveries.c.due_at <= now)
            .order_by(deliveries.c.due_at, deliveries.c.id)
            .limit(bindparam("most"))
        )
        if postgres:
            due = due.with_for_update(skip_locked=True)
        paused: ColumnElement[float] = bindparam("paused", type_=Double())
        paused_since = paused - func.coalesce(deliveries.c.paused_before, paused)
        failing_for = now - deliveries.c.first_failed_at - paused_since
        self.claim = prepare(
            update(deliveries)
            .where(deliveries.c.id.in_(due.scalar_subquery()))
            .values(lease=bindparam("new_lease"), due_at=now + bindparam("seconds", type_=Double()))
            .returning(*_CLAIMED, failing_for.label("failing_for"))
        )


_CLAIMED = (
    deliveries.c.id,
    deliveries.c.lease,
    deliveries.c.connection,
    deliveries.c.region,
    deliveries.c.lane,
    deliveries.c.other_lane,
    deliveries.c.call,
    deliveries.c.tries,
)


_EVENT = ("source", "key", "received_at", "headers", "query", "body", "event_type", "status", "problem")


def _event_row(new: NewEvent) -> tuple[Any, ...]:
    return (
        new.source,
        new.key,
        new.received_at,
        new.headers,
        new.query,
        new.body,
        new.event_type,
        new.status,
        new.problem,
    )


DELIVERY = ("event_id", "identity", "connection", "region", "lane", "other_lane", "call", "status")


def delivery_row(event_id: int, new: NewDelivery, status: str) -> tuple[Any, ...]:
    """Give the values of a new delivery's columns, in the order of DELIVERY."""
    lane, other_lane = (*new.lanes, None, None)[:2]
    return (event_id, new.identity, new.connection, new.region or "", lane, other_lane, new.call, status)


_ATTEMPT = ("delivery_id", "at", "seconds", "status", "reason", "debug")


def _attempt_row(outcome: Outcome) -> tuple[Any, ...]:
    attempt = outcome.attempt
    debug = None if attempt.debug is None else attempt.debug.encode(errors="replace")
    return (outcome.delivery.id, attempt.at, attempt.seconds, attempt.status, attempt.reason, debug)


def _failure_row(outcome: Outcome, standing: ConnectionStates) -> dict[str, Any]:
    decision = outcome.decision
    assert isinstance(decision, Retry | Failed)
    health = standing.healths.get(outcome.delivery.target, ConnectionState())
    return {
        "delivery": outcome.delivery.id,
        "new_status": "pending" if isinstance(decision, Retry) else "failed",
        "after": decision.after if isinstance(decision, Retry) else 0.0,
        "paused": health.paused_in_all(standing.now),
        "new_reason": decision.reason,
    }


def _postponed_row(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome.decision, Postponed)
    return {"delivery": outcome.delivery.id, "new_reason": outcome.decision.reason}


def _lane(claimed: Claimed) -> int:
    """Tell whose failure it is: that of the lane, or of the call itself when it has none."""
    return claimed.lanes[0] if claimed.lanes else claimed.id


def _claimed(row: Any) -> Claimed:
    return Claimed(
        id=row.id,
        lease=row.lease,
        connection=row.connection,
        region=row.region or None,
        lanes=tuple(lane for lane in (row.lane, row.other_lane) if lane is not None),
        call=row.call,
        tries=row.tries,
        failing_for=max(row.failing_for or 0.0, 0.0),
    )
