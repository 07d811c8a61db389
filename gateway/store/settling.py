"""Settle deliveries: write the outcome of each attempt, and promote what waited behind a delivery that is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Double, bindparam, case, func, null, select, update

from gateway.customerio.retry import Attempt, ConnectionState, Decision, Delivered, Failed, Postponed, Retry
from gateway.store.claiming import Claimed
from gateway.store.connection_state import ConnectionStates
from gateway.store.database import Database
from gateway.store.lanes import Lanes
from gateway.store.notices import Notices
from gateway.store.tables import RETRIED, attempts, deliveries, events

_ATTEMPT_COLUMNS = ("delivery_id", "at", "seconds", "status", "reason", "debug")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An attempt of a claimed delivery, and what was decided after it."""

    delivery: Claimed
    attempt: Attempt
    decision: Decision


class Settling:
    """Writes outcomes, in transactions that hold the locks of the deliveries' lanes."""

    def __init__(self, database: Database) -> None:
        self._numbers = database.numbers
        self._lanes = Lanes(database)
        self._notices = Notices(database)
        now = database.now
        by_ids = database.among(deliveries.c.id, "ids")
        by_id = deliveries.c.id == bindparam("delivery")
        self._select_leases = database.compile(
            select(deliveries.c.id, deliveries.c.lease).where(by_ids).with_for_update()
        )
        self._insert_attempts = database.compile_insert(attempts, _ATTEMPT_COLUMNS)
        self._write_delivered = database.compile(
            update(deliveries)
            .where(by_ids)
            .values(status="delivered", lease=null(), tries=deliveries.c.tries + 1, settled_at=now, reason=null())
        )
        self._write_postponed = database.compile(
            update(deliveries).where(by_id).values(lease=null(), due_at=now, reason=bindparam("new_reason"))
        )
        self._write_failures = database.compile(
            update(deliveries)
            .where(by_id)
            .values(
                status=bindparam("new_status"),
                queue=bindparam("new_queue"),
                lease=null(),
                tries=deliveries.c.tries + 1,
                first_failed_at=func.coalesce(deliveries.c.first_failed_at, now),
                paused_before=func.coalesce(deliveries.c.paused_before, bindparam("paused_for", type_=Double())),
                due_at=now + bindparam("after", type_=deliveries.c.due_at.type),
                settled_at=case((bindparam("new_status") == "failed", now), else_=null()),
                reason=bindparam("new_reason"),
            )
        )
        self._select_sources = database.compile(
            select(events.c.source, deliveries.c.id, deliveries.c.reason)
            .join_from(deliveries, events, events.c.id == deliveries.c.event_id)
            .where(by_ids)
        )

    def settle(self, connection: Connection, outcomes: Sequence[Outcome], states: ConnectionStates) -> list[Outcome]:
        """Write the outcomes of deliveries that the worker still holds, and return these outcomes."""
        # A delivery whose lease has ended may be another worker's by now: then that one's outcome counts.
        values = {"ids": self._numbers([outcome.delivery.id for outcome in outcomes])}
        leases = {row.id: row.lease for row in self._select_leases.rows(connection, values)}
        held = [outcome for outcome in outcomes if leases.get(outcome.delivery.id) == outcome.delivery.lease]
        if not held:
            return []

        self._insert_attempts.run(connection, list(map(_attempt_row, held)))
        delivered, postponed, failures, failed = [], [], [], []
        for outcome in held:
            delivery, decision = outcome.delivery, outcome.decision
            match decision:
                case Delivered():
                    delivered.append(delivery)
                case Postponed():
                    postponed.append({"delivery": delivery.id, "new_reason": decision.reason})
                case Retry() | Failed():
                    failures.append(_failure_values(outcome, states))
                    failed += [delivery] if isinstance(decision, Failed) else []
        if delivered:
            self._write_delivered.run(connection, {"ids": self._numbers([delivery.id for delivery in delivered])})
        if postponed:
            self._write_postponed.run_for_each(connection, postponed)
        if failures:
            self._write_failures.run_for_each(connection, failures)
        self._lanes.promote(connection, {lane for delivery in (*delivered, *failed) for lane in delivery.lanes})
        if failed:
            self._begin_notices(connection, failed)
        return held

    def _begin_notices(self, connection: Connection, failed: Sequence[Claimed]) -> None:
        values = {"ids": self._numbers([delivery.id for delivery in failed])}
        for row in self._select_sources.rows(connection, values):
            text = f"deliveries of source {row.source} fail, the first is {row.id}: {row.reason}"
            self._notices.begin(connection, "failed", row.source, text)


def _attempt_row(outcome: Outcome) -> tuple[Any, ...]:
    """Return the values of _ATTEMPT_COLUMNS."""
    attempt = outcome.attempt
    debug = None if attempt.debug is None else attempt.debug.encode(errors="replace")
    return (outcome.delivery.id, attempt.at, attempt.seconds, attempt.status, attempt.reason, debug)


def _failure_values(outcome: Outcome, states: ConnectionStates) -> dict[str, Any]:
    decision = outcome.decision
    assert isinstance(decision, Retry | Failed)
    state = states.by_target.get(outcome.delivery.target, ConnectionState())
    return {
        "delivery": outcome.delivery.id,
        "new_status": "pending" if isinstance(decision, Retry) else "failed",
        "new_queue": RETRIED if isinstance(decision, Retry) and decision.alone else outcome.delivery.queue,
        "after": decision.after if isinstance(decision, Retry) else 0.0,
        # Pauses until now do not count as failing; those from now on are subtracted when it is claimed again.
        "paused_for": state.paused_in_all(states.now),
        "new_reason": decision.reason,
    }
