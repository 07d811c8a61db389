"""The store of one database: each verb of the receiver and of the worker is one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select

from gateway.customerio.retry import ConnectionState
from gateway.store.chosen_ulids import ulid_locks
from gateway.store.claiming import Claimed, Claiming, ClaimRequest
from gateway.store.connection_state import ConnectionStateTable, Target
from gateway.store.database import Database, readable_errors, reading, writing
from gateway.store.notices import Notices
from gateway.store.rates import Booking, Rates
from gateway.store.recording import NewEvent, Recorded, Recording, UnsentDelivery
from gateway.store.settling import Outcome, Settling
from gateway.store.tables import deliveries, events


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a worker has to do next.

    Attributes:
        lease: The token of the leases and of the rights to probe.
        claimed: Deliveries that this worker alone may send until their leases end.
        probes: Connections that this worker alone is to probe.
        paused: Connections that are paused and not probed for what is in doubt.
        changes: The new states of connections that this turn has paused or resumed.
        bookings: When the requests may begin, for connections with a rate.
        due_in: Seconds until there may be more to claim or to probe; None when nothing waits.
    """

    lease: int
    claimed: list[Claimed]
    probes: list[Target]
    paused: frozenset[Target]
    changes: Mapping[Target, ConnectionState]
    bookings: Mapping[str, Booking]
    due_in: float | None


class Store:
    """Records webhooks, and lets workers claim and settle deliveries.

    Every method is one transaction and raises StoreError when the database cannot be used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._states = ConnectionStateTable(database)
        self._recording = Recording(database)
        self._settling = Settling(database)
        self._claiming = Claiming(database)
        self._rates = Rates(database)
        self._notices = Notices(database)

    def record(self, new_events: Sequence[NewEvent]) -> list[Recorded]:
        """Record webhooks and their deliveries, all or none; a repeated event key records nothing."""
        self._database.require_space()
        locks = {lane for event in new_events for delivery in event.deliveries for lane in delivery.lanes}
        locks |= ulid_locks(delivery.chosen_ulid for event in new_events for delivery in event.deliveries)
        with writing(self._database, locks) as connection:
            new_events = self._recording.without_retyped(connection, new_events)
            recorded = self._recording.insert_events(connection, new_events)
            new_deliveries = [
                (result.id, delivery)
                for result, event in zip(recorded, new_events, strict=True)
                if not result.duplicate
                for delivery in event.deliveries
            ]
            unsent = self._recording.insert_deliveries(connection, new_deliveries)
            if unsent:
                recorded = self._with_unsent(connection, new_events, recorded, unsent)
            targets = {Target(delivery.connection, delivery.region or "") for _, delivery in new_deliveries}
            added = self._states.add(connection, targets)
        self._states.remember(added)
        return recorded

    def _with_unsent(
        self,
        connection: Connection,
        new_events: Sequence[NewEvent],
        recorded: Sequence[Recorded],
        unsent: Sequence[UnsentDelivery],
    ) -> list[Recorded]:
        """Return the results with the calls that are not sent; begin a notice for each source of one that failed."""
        unsent_by_event: dict[int, list[UnsentDelivery]] = {}
        for delivery in unsent:
            unsent_by_event.setdefault(delivery.event_id, []).append(delivery)
        results = []
        for event, result in zip(new_events, recorded, strict=True):
            of_event = () if result.duplicate else tuple(unsent_by_event.get(result.id, ()))
            for reason in (delivery.reason for delivery in of_event if delivery.status == "failed"):
                text = f"deliveries of source {event.source} fail, the first is of event {result.id}: {reason}"
                self._notices.begin(connection, "failed", event.source, text)
            results.append(replace(result, unsent=of_event))
        return results

    def wake(self) -> None:
        """Wake the workers, which otherwise look for due deliveries once a second."""
        with readable_errors(self._database):
            self._database.notify()

    def settle_and_claim(self, outcomes: Sequence[Outcome], request: ClaimRequest) -> Turn:
        """Write outcomes, promote the deliveries that waited behind them, then claim due deliveries as requested.

        It is one transaction, so a delivery that waited behind another is sent as soon as that one is settled.
        """
        lanes = {lane for outcome in outcomes for lane in outcome.delivery.lanes}
        with writing(self._database, lanes) as connection:
            states = self._states.read(connection)
            held = self._settling.settle(connection, outcomes, states) if outcomes else []
            decided = [(outcome.delivery.target, outcome.delivery.lane_or_id, outcome.decision) for outcome in held]
            before = states
            states, changes = self._states.update(connection, states, decided, request.probe_results, request.schedule)
            for target, state in before.by_target.items():
                if state.failing_since is not None and states.by_target[target].failing_since is None:
                    self._claiming.bring_forward(connection, target, state.failing_since)
            to_probe = set(request.doubted).difference(request.probing)
            probes = self._states.lease_probes(connection, states, to_probe, request.lease, request.schedule)
            closed = {target for target in states.by_target if request.room.get(target.connection) == 0}
            closed.update(request.stopped)
            claimed, due_in = self._claiming.claim(connection, states, closed, request)
            wanted = Counter(request.unbooked)
            wanted.update(delivery.connection for delivery in claimed if delivery.connection in request.rates)
            bookings = self._rates.book(connection, request.rates, wanted)
        return Turn(
            lease=request.lease,
            claimed=claimed,
            probes=probes,
            paused=frozenset(
                target for target, state in states.by_target.items() if state.cause not in (None, "failing")
            ),
            changes=changes,
            bookings=bookings,
            due_in=due_in,
        )

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Give leases back unused, so that other workers need not wait until they end."""
        if not claimed:
            return
        with writing(self._database) as connection:
            self._claiming.release(connection, claimed)
        self.wake()

    def counts(self) -> dict[str, dict[str, int]]:
        """Count events and deliveries by status. It reads the whole tables: not for the hot path."""
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
