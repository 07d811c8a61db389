"""How the connections are, for all workers alike: which are paused, and who may probe them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, null, or_, select, tuple_, update

from gateway.customerio.retry import ConnectionState, Decision, Policy, Probe, needs_probe, next_state
from gateway.store.database import Database, insert_into
from gateway.store.notices import Notices
from gateway.store.tables import connections


class Target(NamedTuple):
    """Where calls go: a connection, and the region that the mapping asks for (empty: the connection's own)."""

    connection: str
    region: str

    def __str__(self) -> str:
        return f"{self.connection} ({self.region})" if self.region else self.connection

    @property
    def bound(self) -> dict[str, str]:
        """What the parameters "its" and "there" of a statement are for it."""
        return {"its": self.connection, "there": self.region}


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe came to that was ours by *lease*."""

    target: Target
    lease: int
    probe: Probe


@dataclass(frozen=True, kw_only=True)
class ProbeSchedule:
    """What the length of pauses depends on.

    Attributes:
        policies: By connection.
        jitter: A random number in [0, 1).
        probe_seconds: How long the right to probe a connection lasts.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    jitter: float = 0.5
    probe_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """A connection that was paused or resumed."""

    target: Target
    health: ConnectionState


@dataclass(frozen=True, kw_only=True)
class ConnectionStates:
    """How all connections are, at one moment of the database's clock, and who probes them."""

    now: float
    healths: Mapping[Target, ConnectionState]
    probes: Mapping[Target, int]

    def open(self) -> list[Target]:
        """List the connections that are not paused."""
        return [target for target, health in self.healths.items() if health.cause is None]


class ConnectionStateTable:
    """The state of each connection in one database."""

    def __init__(self, database: Database) -> None:
        self._met: set[Target] = set()
        self._notices = Notices(database)
        self._meet = insert_into(database, connections).on_conflict_do_nothing()
        self._select = select(connections, database.now.label("now"))
        self._read = database.prepare(self._select)
        its = (connections.c.connection == bindparam("its"), connections.c.region == bindparam("there"))
        self._write = update(connections).where(*its)
        is_free = or_(connections.c.probe_until.is_(None), connections.c.probe_until <= database.now)
        self._lease = (
            update(connections)
            .where(*its, is_free)
            .values(probe=bindparam("token"), probe_until=database.now + bindparam("seconds"))
        )
        self._unlease = (
            update(connections)
            .where(*its, connections.c.probe == bindparam("token"))
            .values(probe=null(), probe_until=null())
        )

    def meet(self, connection: Connection, targets: Iterable[Target]) -> set[Target]:
        """Make sure of a row for each connection; gives those that `remember` may be told of after the commit."""
        if new := set(targets) - self._met:
            rows = [{"connection": target.connection, "region": target.region} for target in sorted(new)]
            connection.execute(self._meet, rows)
        return new

    def remember(self, targets: set[Target]) -> None:
        """Ask no more for connections whose rows are committed: a row stays for ever."""
        self._met |= targets

    def read(self, connection: Connection) -> ConnectionStates:
        """Read how all connections are."""
        return _standing(self._read.rows(connection))

    def weigh(
        self,
        connection: Connection,
        standing: ConnectionStates,
        decided: Sequence[tuple[Target, int, Decision]],
        probed: Sequence[ProbeResult],
        pacing: ProbeSchedule,
    ) -> tuple[ConnectionStates, list[StateChange]]:
        """Let what a worker met with change how the connections are; gives how they are then, and what changed."""
        if not standing.healths:
            return standing, []
        weighed = _weighed(standing, decided, probed, pacing)
        touched = {target for target, health in weighed.items() if health != standing.healths[target]}
        if touched:
            # Another worker may be about to change the same: the last word is said under the rows' locks.
            columns = tuple_(connections.c.connection, connections.c.region)
            locked = self._select.where(columns.in_(sorted(touched))).order_by(*columns).with_for_update()
            held = _standing(connection.execute(locked).all())
            before = ConnectionStates(
                now=held.now,
                healths={**standing.healths, **held.healths},
                probes={**standing.probes, **held.probes},
            )
            weighed = _weighed(before, decided, probed, pacing)
            connection.execute(self._write, [_row(target, weighed[target]) for target in sorted(touched)])
            standing = before
        for each in probed:
            self._give_back(connection, each)
        changes = list(self._changes(connection, standing.healths, weighed))
        return ConnectionStates(now=standing.now, healths=weighed, probes=standing.probes), changes

    def lease_probes(
        self,
        connection: Connection,
        standing: ConnectionStates,
        doubted: Collection[Target],
        lease: int,
        pacing: ProbeSchedule,
    ) -> list[Target]:
        """Take the right to probe what is doubted or due for it, where nobody else has it."""
        wanted = [
            target
            for target, health in standing.healths.items()
            if needs_probe(health, standing.now) or (health.cause is None and target in doubted)
        ]
        rights = {"token": lease, "seconds": pacing.probe_seconds}
        return [target for target in wanted if connection.execute(self._lease, {**target.bound, **rights}).rowcount]

    def _give_back(self, connection: Connection, probed: ProbeResult) -> None:
        connection.execute(self._unlease, {**probed.target.bound, "token": probed.lease})

    def _changes(
        self,
        connection: Connection,
        before: Mapping[Target, ConnectionState],
        after: Mapping[Target, ConnectionState],
    ) -> Iterator[StateChange]:
        for target, health in after.items():
            if (health.cause is None) == (before[target].cause is None):
                continue
            if health.cause is None:
                self._notices.end(connection, "paused", str(target))
            else:
                self._notices.begin(connection, "paused", str(target), _text(target, health))
            yield StateChange(target=target, health=health)


def _text(target: Target, health: ConnectionState) -> str:
    """Say that a connection is paused, in words that may leave the house: not with Customer.io's about a call."""
    reason = f": {health.reason}" if health.cause in ("unreachable", "misconfigured") else ""
    return f"connection {target} is paused ({health.cause}){reason}"


def _weighed(
    standing: ConnectionStates,
    decided: Sequence[tuple[Target, int, Decision]],
    probed: Sequence[ProbeResult],
    pacing: ProbeSchedule,
) -> dict[Target, ConnectionState]:
    return {
        target: next_state(
            health,
            [(lane, decision) for of, lane, decision in decided if of == target],
            [each.probe for each in probed if each.target == target and standing.probes.get(target) == each.lease],
            standing.now,
            policy=pacing.policies.get(target.connection, Policy()),
            jitter=pacing.jitter,
        )
        for target, health in standing.healths.items()
    }


def _standing(rows: Sequence[Any]) -> ConnectionStates:
    healths = {
        Target(row.connection, row.region): ConnectionState(
            cause=row.cause,
            reason=row.reason,
            paused_at=row.paused_at,
            resumes_at=row.resumes_at,
            level=row.level,
            suspects=tuple(json.loads(row.suspects)),
            paused_for=row.paused_for,
        )
        for row in rows
    }
    probes = {Target(row.connection, row.region): row.probe for row in rows if row.probe is not None}
    return ConnectionStates(now=rows[0].now if rows else 0.0, healths=healths, probes=probes)


def _row(target: Target, health: ConnectionState) -> dict[str, Any]:
    return {
        **target.bound,
        "cause": health.cause,
        "reason": health.reason,
        "paused_at": health.paused_at,
        "resumes_at": health.resumes_at,
        "level": health.level,
        "suspects": json.dumps(health.suspects),
        "paused_for": health.paused_for,
    }
