"""The state of each connection, shared by all workers: open, or paused with a probe from time to time.

This is what the field calls a circuit breaker: failures that are the connection's fault pause it for all its
deliveries, and a successful probe resumes it. What a state becomes is decided by `gateway.customerio.retry`; this
module keeps the states in the database and lets one worker at a time probe a connection.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, null, or_, select, tuple_, update

from gateway.customerio.retry import ConnectionState, Decision, Policy, Probe, needs_probe, next_state
from gateway.store.database import Database
from gateway.store.notices import Notices
from gateway.store.tables import connections


class Target(NamedTuple):
    """Where calls go: a connection, and the region that the mapping asks for (empty: the connection's own)."""

    connection: str
    region: str

    def __str__(self) -> str:
        return f"{self.connection} ({self.region})" if self.region else self.connection

    @property
    def parameters(self) -> dict[str, str]:
        """The values of a statement's parameters "target_connection" and "target_region"."""
        return {"target_connection": self.connection, "target_region": self.region}


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The result of a probe. It counts if the right to probe is still *lease*."""

    target: Target
    lease: int
    probe: Probe


@dataclass(frozen=True, kw_only=True)
class ProbeSchedule:
    """How long pauses and rights to probe last.

    Attributes:
        policies: By connection; their delay is that of the first pause.
        jitter: A random number in [0, 1).
        probe_seconds: How long the right to probe a connection lasts.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    jitter: float = 0.5
    probe_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class ConnectionStates:
    """The states of all connections at one moment.

    Attributes:
        now: That moment, by the database's clock in unix seconds.
        probe_leases: Who has the right to probe a connection.
    """

    now: float
    by_target: Mapping[Target, ConnectionState]
    probe_leases: Mapping[Target, int]

    def open(self) -> list[Target]:
        """Return the connections that are not paused."""
        return [target for target, state in self.by_target.items() if state.cause is None]


class ConnectionStateTable:
    """The table of connection states of one database, used in transactions of the store."""

    def __init__(self, database: Database) -> None:
        self._remembered: set[Target] = set()
        self._notices = Notices(database)
        self._insert = database.insert(connections).on_conflict_do_nothing()
        self._select = select(connections, database.now.label("now"))
        self._select_all = database.compile(self._select)
        is_target = (
            connections.c.connection == bindparam("target_connection"),
            connections.c.region == bindparam("target_region"),
        )
        self._write = update(connections).where(*is_target)
        is_free = or_(connections.c.probe_until.is_(None), connections.c.probe_until <= database.now)
        self._lease_probe = (
            update(connections)
            .where(*is_target, is_free)
            .values(probe=bindparam("token"), probe_until=database.now + bindparam("seconds"))
        )
        self._release_probe = (
            update(connections)
            .where(*is_target, connections.c.probe == bindparam("token"))
            .values(probe=null(), probe_until=null())
        )

    def add(self, connection: Connection, targets: Iterable[Target]) -> set[Target]:
        """Insert a row for each connection that has none; return those to `remember` after the commit."""
        unknown = set(targets) - self._remembered
        if unknown:
            rows = [{"connection": target.connection, "region": target.region} for target in sorted(unknown)]
            connection.execute(self._insert, rows)
        return unknown

    def remember(self, targets: set[Target]) -> None:
        """Insert no more rows for connections whose rows are committed: a row is never deleted."""
        self._remembered |= targets

    def read(self, connection: Connection) -> ConnectionStates:
        """Read the states of all connections."""
        return _states(self._select_all.rows(connection))

    def update(
        self,
        connection: Connection,
        states: ConnectionStates,
        decided: Sequence[tuple[Target, int, Decision]],
        probe_results: Sequence[ProbeResult],
        schedule: ProbeSchedule,
    ) -> tuple[ConnectionStates, dict[Target, ConnectionState]]:
        """Pause and resume connections; return all states, and the new states of those that were paused or resumed.

        Args:
            decided: What was decided about deliveries, each with its target and its lane.
        """
        after = _after_turn(states, decided, probe_results, schedule)
        changed = sorted(target for target, state in after.items() if state != states.by_target[target])
        if changed:
            # Another worker may be changing the same states. So read them again, locked, and work it out from those.
            key = tuple_(connections.c.connection, connections.c.region)
            rows = connection.execute(self._select.where(key.in_(changed)).order_by(*key).with_for_update()).all()
            locked = _states(rows)
            states = ConnectionStates(
                now=locked.now,
                by_target={**states.by_target, **locked.by_target},
                probe_leases={**states.probe_leases, **locked.probe_leases},
            )
            after = _after_turn(states, decided, probe_results, schedule)
            connection.execute(self._write, [_row(target, after[target]) for target in changed])
        for result in probe_results:
            connection.execute(self._release_probe, {**result.target.parameters, "token": result.lease})

        changes = {
            target: state
            for target, state in after.items()
            if (state.cause is None) != (states.by_target[target].cause is None)
        }
        for target, state in changes.items():
            if state.cause is None:
                self._notices.end(connection, "paused", str(target))
            else:
                # Customer.io's own words are left out, as they may quote a call; those of a probe cannot.
                reason = f": {state.reason}" if state.cause in ("unreachable", "misconfigured") else ""
                text = f"connection {target} is paused ({state.cause}){reason}"
                self._notices.begin(connection, "paused", str(target), text)
        return ConnectionStates(now=states.now, by_target=after, probe_leases=states.probe_leases), changes

    def lease_probes(
        self,
        connection: Connection,
        states: ConnectionStates,
        doubted: Collection[Target],
        lease: int,
        schedule: ProbeSchedule,
    ) -> list[Target]:
        """Take the right to probe connections that are doubted or due to be probed, where nobody else has it."""
        values = {"token": lease, "seconds": schedule.probe_seconds}
        to_probe = [
            target
            for target, state in states.by_target.items()
            if needs_probe(state, states.now) or (state.cause in (None, "failing") and target in doubted)
        ]
        # The statement changes no row where another worker has the right.
        return [
            target
            for target in to_probe
            if connection.execute(self._lease_probe, {**target.parameters, **values}).rowcount
        ]


def _after_turn(
    states: ConnectionStates,
    decided: Sequence[tuple[Target, int, Decision]],
    probe_results: Sequence[ProbeResult],
    schedule: ProbeSchedule,
) -> dict[Target, ConnectionState]:
    """Return the state of each connection after a turn of a worker."""
    return {
        target: next_state(
            state,
            [(lane, decision) for of, lane, decision in decided if of == target],
            # A result whose right to probe has ended may be older than what another worker has found since.
            [
                result.probe
                for result in probe_results
                if result.target == target and states.probe_leases.get(target) == result.lease
            ],
            states.now,
            policy=schedule.policies.get(target.connection, Policy()),
            jitter=schedule.jitter,
        )
        for target, state in states.by_target.items()
    }


def _states(rows: Sequence[Any]) -> ConnectionStates:
    by_target = {
        Target(row.connection, row.region): ConnectionState(
            cause=row.cause,
            reason=row.reason,
            paused_at=row.paused_at,
            resumes_at=row.resumes_at,
            level=row.level,
            suspects=tuple(json.loads(row.suspects)),
            failing_since=row.failing_since,
            paused_for=row.paused_for,
        )
        for row in rows
    }
    probe_leases = {Target(row.connection, row.region): row.probe for row in rows if row.probe is not None}
    return ConnectionStates(now=rows[0].now if rows else 0.0, by_target=by_target, probe_leases=probe_leases)


def _row(target: Target, state: ConnectionState) -> dict[str, Any]:
    return {**target.parameters, **vars(state), "suspects": json.dumps(state.suspects)}
