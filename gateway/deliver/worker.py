"""The delivery loop: claim what is due, send it, decide what follows, settle.

One thread talks to the database, and a pool of threads to Customer.io. Settling and claiming are one transaction, so
a delivery that waited behind another goes out as soon as that one is settled.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from types import MappingProxyType

from gateway.customerio.calls import WorkspaceIdentifiers
from gateway.customerio.client import Sender
from gateway.customerio.retry import ConnectionState, Policy
from gateway.deliver.decide import Decisions
from gateway.deliver.send import Outbox, SendResult
from gateway.errors import StoreError
from gateway.store import ClaimRequest, Outcome, Store, Turn
from gateway.store.connection_state import ProbeResult, ProbeSchedule, Target
from gateway.store.database import Database
from gateway.store.lease_owners import WorkerLock
from gateway.store.worker_locks import TakeOver

log = logging.getLogger(__name__)

#: Seconds that a claimed delivery is ours.
LEASE = 120.0
#: Requests at one time.
THREADS = 16
#: Seconds between two looks at the database when nothing wakes the worker sooner.
IDLE = 1.0
#: Seconds between two looks for leases of workers that are dead.
LOOK = 0.9
#: Seconds that the worker waits for its listener to end.
LISTENER_PATIENCE = 5.0
#: Seconds before the database is used again after it failed.
DATABASE_PAUSE = 1.0
#: Seconds between two requests for the right to probe a connection, while another worker has it.
PROBE_PAUSE = 0.1


class Worker:
    """Delivers calls until it is stopped.

    Args:
        policies: How the deliveries of each connection are retried.
        rates: Requests a second of all workers together, by connection. A connection without one has no limit.
        identifiers: By which the workspace of a connection knows people, where that is known.
        threads: Requests at one time, at most.
        lease: Seconds that a claimed delivery is ours. One attempt must fit in.
        deadline: Seconds that an attempt may take in all.
        jitter: Returns a random number in [0, 1).
    """

    def __init__(
        self,
        database: Database,
        sender: Sender,
        *,
        policies: Mapping[str, Policy],
        rates: Mapping[str, float] = MappingProxyType({}),
        identifiers: Mapping[str, WorkspaceIdentifiers | None] = MappingProxyType({}),
        threads: int = THREADS,
        lease: float = LEASE,
        deadline: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._store = Store(database)
        self._policies = policies
        self._rates = rates
        self._lease = lease
        self._deadline = deadline
        self._jitter = jitter
        self._stopping = threading.Event()
        self._ended = threading.Event()  # nothing is being sent any more
        self._sender = sender
        self._lock = WorkerLock()
        self._take_over = TakeOver(database)
        self._look_at = 0.0
        self._outbox = Outbox(
            sender,
            rates=rates,
            identifiers=identifiers,
            threads=threads,
            stopping=self._stopping,
            may_send=self._lock.may_send,
        )
        self._decisions = Decisions(policies, jitter)
        self._unsettled: list[Outcome] = []
        self._probe_results: list[ProbeResult] = []

    def stop(self) -> None:
        """Finish what is being sent, give the rest back, and return from `run`. Safe in a signal handler."""
        self._stopping.set()
        self._outbox.wake()

    def run(self) -> None:
        """Deliver until `stop` is called."""
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        listener.start()
        try:
            with closing(self._outbox):
                patience = 0.0
                while not self._stopping.is_set():
                    patience = self._turn(patience)
                self._finish()
        finally:
            self._ended.set()  # until now the lock has to be held
        with suppress(StoreError):  # without it, the listener looks by itself twice a second
            self._store.wake()
        # A database that does not even answer may hold the listener for longer; that is not waited for.
        listener.join(LISTENER_PATIENCE)

    def _turn(self, patience: float) -> float:
        """Wait up to *patience* seconds for results, decide, settle and claim, send; return the next patience."""
        self._decide(*self._outbox.collect(patience))
        limit = self._outbox.limit(self._decisions.number_in_doubt)
        claimed_at = time.monotonic()  # before the claim, so that our leases end no earlier than we think
        try:
            self._look_for_dead_workers()
            turn = self._settle_and_claim(limit)
        except StoreError as error:
            log.warning("%s; trying again", error)
            self._stopping.wait(DATABASE_PAUSE)
            return patience
        self._outbox.send(turn.claimed, turn.bookings, send_before=claimed_at + self._lease - self._deadline)
        for target in turn.probes:
            self._decisions.begin_probe(target)
            self._outbox.probe(target, turn.lease)
        self._unsettled += self._decisions.on_pause(turn.paused)
        log_state_changes(turn.changes)
        return self._next_patience(turn, limit)

    def _look_for_dead_workers(self) -> None:
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK
        if number := self._take_over.look():
            log.warning("a worker is dead: %d of its deliveries are due again", number)

    def _decide(self, results: Sequence[SendResult], probe_results: Sequence[ProbeResult]) -> None:
        for result in results:
            self._unsettled += self._decisions.decide(result)
        for probe_result in probe_results:
            self._unsettled += self._decisions.on_probe(probe_result)
            self._probe_results.append(probe_result)

    def _settle_and_claim(self, limit: int) -> Turn:
        try:
            turn = self._store.settle_and_claim(self._unsettled, self._claim_request(limit))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # one outcome that cannot be written must not hold up the others
            log.error("settling failed (%s); settling one by one", type(error).__name__)
            self._settle_singly()
            turn = self._store.settle_and_claim([], self._claim_request(0))
        self._unsettled, self._probe_results = [], []
        return turn

    def _settle_singly(self) -> None:
        for outcome in self._unsettled:
            try:
                self._store.settle_and_claim([outcome], self._claim_request(0))
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001  # its lease ends, and it is sent again
                log.error("delivery %d: not settled (%s)", outcome.delivery.id, type(error).__name__)

    def _claim_request(self, limit: int) -> ClaimRequest:
        return ClaimRequest(
            limit=limit,
            most_retried=self._outbox.most_retried(),
            # A new token for each claim: an outcome of an earlier lease can never pass for one of this.
            lease=self._lock.new_lease(),
            lease_seconds=self._lease,
            probe_results=self._probe_results,
            doubted=self._decisions.doubted,
            stopped=self._decisions.stopped,
            probing=self._decisions.probing,
            busy=self._outbox.busy(),
            room=self._outbox.room(),
            rates=self._rates,
            unbooked=self._outbox.unbooked(),
            schedule=ProbeSchedule(policies=self._policies, jitter=self._jitter(), probe_seconds=2 * self._deadline),
        )

    def _next_patience(self, turn: Turn, limit: int) -> float:
        """Return the seconds until there may be something to do, if nothing finishes and nobody wakes us before."""
        if self._unsettled:
            return 0.0
        due_in = turn.due_in if limit else None
        if due_in == 0.0:
            return 0.0
        waits = [IDLE, None if due_in is None else max(due_in, 0.001), self._outbox.ready_in()]
        if self._decisions.doubted - self._decisions.probing:
            waits.append(PROBE_PAUSE)
        return min(wait for wait in waits if wait is not None)

    def _finish(self) -> None:
        """Wait for what is being sent, settle it, and give the rest back. A lease that is left ends by itself."""
        self._outbox.stop_waiting()
        ends = time.monotonic() + self._deadline + 1
        while self._outbox.in_flight and time.monotonic() < ends:
            self._decide(*self._outbox.collect(0.2))
        self._decide(*self._outbox.collect(0.0))
        self._unsettled += self._decisions.on_stop()
        try:
            if self._unsettled or self._probe_results:
                self._store.settle_and_claim(self._unsettled, self._claim_request(0))
            self._store.release(self._outbox.unsent)
        except StoreError as error:
            log.warning("%s; what was in flight is tried again when its lease ends", error)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                self._database.listen(self._outbox.wake, self._ended, self._lock)
            except Exception as error:  # noqa: BLE001  # without notices the worker looks once a second
                log.warning("notices of new work are interrupted (%s)", type(error).__name__)
                # Others may soon take over what is being sent.
                self._sender.break_off(self._lock.lose())
                self._ended.wait(DATABASE_PAUSE)


def log_state_changes(changes: Mapping[Target, ConnectionState]) -> None:
    """Log which connections were paused or resumed."""
    for target, state in changes.items():
        if state.cause is None:
            log.warning("connection %s: sending again", target)
        elif state.cause in ("unreachable", "misconfigured"):
            log.error("connection %s is paused (%s): %s", target, state.cause, state.reason)
        else:
            # The reason may be Customer.io's own words, which quote what was sent: they stay in the database.
            log.error("connection %s is paused (%s)", target, state.cause)
