"""The delivery loop: claim what is due, send it, settle what came of it.

One thread talks to the database and a pool of threads to Customer.io. Settling and claiming are one
transaction, so a call that waited behind another goes out as soon as that one is settled.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from gateway import calls, wire
from gateway.customerio import Sender
from gateway.database import Database
from gateway.errors import StoreError
from gateway.pauses import Change, Pacing, Probed, Target
from gateway.retry import (
    Attempt,
    Decision,
    Doubtful,
    Failed,
    Policy,
    Postponed,
    Retry,
    judge,
    judge_alone,
    postpone,
)
from gateway.store import Claimed, Outcome, Store, Turn

log = logging.getLogger(__name__)

LEASE = 120.0
THREADS = 16
#: Seconds between two looks at the database when nothing wakes the worker sooner.
IDLE = 1.0
#: Seconds that the end of the listener is waited for.
LISTENER_PATIENCE = 5.0
#: Seconds before the database is asked again after it failed.
DATABASE_PAUSE = 1.0


#: Seconds after which the right to probe a connection is asked for again, while another worker has it.
PROBE_PAUSE = 0.1


Judged = TypeVar("Judged")


class _Wake:
    """Says that there may be work."""


@dataclass(frozen=True, kw_only=True)
class _Doubt:
    """An attempt of which only a probe can tell whether it is the delivery's own fault."""

    delivery: Claimed
    attempt: Attempt


_Finished: TypeAlias = "queue.SimpleQueue[Outcome | Claimed | _Doubt | Probed | _Wake]"


class Worker:
    """Delivers calls until it is stopped.

    Args:
        policies: How each connection's deliveries are retried.
        lease: Seconds that a delivery is ours; one attempt, which takes *deadline* seconds at most, fits in.
    """

    def __init__(
        self,
        database: Database,
        sender: Sender,
        *,
        policies: Mapping[str, Policy],
        threads: int = THREADS,
        lease: float = LEASE,
        deadline: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._store = Store(database)
        self._sender = sender
        self._policies = policies
        self._threads = threads
        self._lease = lease
        self._deadline = deadline
        self._jitter = jitter
        self._finished: _Finished = queue.SimpleQueue()
        self._unsettled: list[Outcome] = []
        self._unsent: list[Claimed] = []
        self._doubts: list[_Doubt] = []
        self._probed: list[Probed] = []
        self._probing: dict[Target, list[_Doubt]] = {}  # with the doubts that each probe is to settle
        self._in_flight: Counter[Target] = Counter()
        self._patience = 0.0
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Finish what is being sent, give the rest back, and return from `run`. Safe in a signal handler."""
        self._stopping.set()
        self._finished.put(_Wake())

    def run(self) -> None:
        """Deliver until `stop` is called."""
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        listener.start()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="sender") as pool:
            while not self._stopping.is_set():
                self._turn(pool)
            self._wind_up()
        # It looks up at least twice a second; only a database that does not even answer is not waited for.
        listener.join(LISTENER_PATIENCE)

    def _turn(self, pool: ThreadPoolExecutor) -> None:
        self._gather(self._patience)
        # Enough to keep each thread busy while the next are fetched.
        limit = max(2 * self._threads - self._in_flight.total(), 0)
        began = time.monotonic()
        try:
            turn = self._settle_and_claim(limit)
        except StoreError as error:
            log.warning("%s; trying again", error)
            self._stopping.wait(DATABASE_PAUSE)
            return
        for each in turn.claimed:
            self._in_flight[each.target] += 1
            pool.submit(self._deliver, each, began)
        for target in turn.probes:
            self._probing[target] = [each for each in self._doubts if each.delivery.target == target]
            pool.submit(self._probe, target, turn.lease)
        self._postpone(turn.paused)
        self._patience = self._until_next(turn, limit)
        _report(turn.changes)

    def _until_next(self, turn: Turn, limit: int) -> float:
        """Seconds until there may be something to do, if nothing finishes and nobody wakes us before."""
        if self._unsettled:
            return 0.0
        others = {each.delivery.target for each in self._doubts} - self._probing.keys()
        due_in = IDLE if turn.due_in is None or not limit else turn.due_in
        return min(max(due_in, 0.001) if due_in else 0.0, IDLE, PROBE_PAUSE if others else IDLE)

    def _gather(self, patience: float) -> None:
        """Wait for outcomes and take all that there are."""
        try:
            self._take(self._finished.get(timeout=patience) if patience else self._finished.get_nowait())
            while True:
                self._take(self._finished.get_nowait())
        except queue.Empty:
            return

    def _take(self, finished: Outcome | Claimed | _Doubt | Probed | _Wake) -> None:
        match finished:
            case Outcome():
                self._in_flight[finished.delivery.target] -= 1
                self._unsettled.append(finished)
            case Claimed():
                self._in_flight[finished.target] -= 1
                if self._stopping.is_set():
                    self._unsent.append(finished)
                # Else it was not sent in time, and is ours no longer: its lease ends by itself.
            case _Doubt():
                self._doubts.append(finished)
            case Probed():
                self._learn(finished)
            case _Wake():
                pass

    def _learn(self, probed: Probed) -> None:
        """Decide what the probe was to tell; a doubt that came up after its beginning waits for the next."""
        for doubt in self._probing.pop(probed.target):
            if probed.probe.cause is None:
                self._decide(doubt, self._judged(judge_alone, doubt.delivery, doubt.attempt))
            else:
                self._decide(doubt, postpone(doubt.attempt))
        self._probed.append(probed)

    def _postpone(self, paused: Collection[Target]) -> None:
        """Put off what is in doubt on a connection that is paused: another worker's probe has told."""
        for doubt in [each for each in self._doubts if each.delivery.target in paused - self._probing.keys()]:
            self._decide(doubt, postpone(doubt.attempt))

    def _decide(self, doubt: _Doubt, decision: Decision) -> None:
        self._doubts.remove(doubt)
        self._in_flight[doubt.delivery.target] -= 1
        self._unsettled.append(self._outcome(doubt.delivery, doubt.attempt, decision))

    def _settle_and_claim(self, limit: int) -> Turn:
        outcomes = self._unsettled
        try:
            turn = self._claim(outcomes, limit)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # one outcome that cannot be written must not hold up the others
            log.error("settling failed (%s); settling one by one", type(error).__name__)
            self._settle_singly(outcomes)
            turn = self._claim([], 0)
        self._unsettled, self._probed = [], []
        return turn

    def _claim(self, outcomes: Sequence[Outcome], limit: int) -> Turn:
        doubted = {each.delivery.target for each in self._doubts}
        return self._store.settle_and_claim(
            outcomes,
            limit=limit,
            # A token of its own for each claim: an outcome of an earlier one can never pass for one of this.
            lease=secrets.randbits(63),
            seconds=self._lease,
            probed=self._probed,
            doubted=doubted,
            probing=self._probing.keys(),
            busy={target for target, number in self._in_flight.items() if number},
            pacing=Pacing(policies=self._policies, jitter=self._jitter(), probe_seconds=2 * self._deadline),
        )

    def _settle_singly(self, outcomes: Sequence[Outcome]) -> None:
        for each in outcomes:
            try:
                self._claim([each], 0)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001  # its lease ends, and it is tried again
                log.error("delivery %d: not settled (%s)", each.delivery.id, type(error).__name__)

    def _deliver(self, claimed: Claimed, began: float) -> None:
        """Make one attempt, in a thread of the pool."""
        overdue = time.monotonic() - began + self._deadline > self._lease
        if self._stopping.is_set() or overdue:
            self._finished.put(claimed)
            return
        attempt = self._attempt(claimed)
        decision = self._judged(judge, claimed, attempt)
        if isinstance(decision, Doubtful):
            self._finished.put(_Doubt(delivery=claimed, attempt=attempt))
        else:
            self._finished.put(self._outcome(claimed, attempt, decision))

    def _judged(self, rule: Callable[..., Judged], claimed: Claimed, attempt: Attempt) -> Judged:
        return rule(
            attempt,
            tries=claimed.tries + 1,
            failing_for=claimed.failing_for,
            policy=self._policies.get(claimed.connection, Policy()),
            jitter=self._jitter(),
        )

    def _outcome(self, claimed: Claimed, attempt: Attempt, decision: Decision) -> Outcome:
        if isinstance(decision, Retry):
            log.warning("delivery %d: %s; next try in %.1f s", claimed.id, _short(attempt), decision.after)
        elif isinstance(decision, Postponed):
            log.warning("delivery %d: %s; it waits for its connection", claimed.id, _short(attempt))
        elif isinstance(decision, Failed):
            log.error("delivery %d: failed: %s", claimed.id, _short(attempt))
        return Outcome(delivery=claimed, attempt=attempt, decision=decision)

    def _attempt(self, claimed: Claimed) -> Attempt:
        try:
            request = wire.request(calls.from_json(json.loads(claimed.call)))
        except Exception as error:  # noqa: BLE001  # one poisonous delivery must not stop the others
            reason = f"the gateway cannot make a request of it ({type(error).__name__})"
            return Attempt(status=None, reason=reason, at=time.time(), sendable=False)
        return self._sender.send(request, claimed.connection, claimed.region)

    def _probe(self, target: Target, lease: int) -> None:
        """Ask whether a connection is well, in a thread of the pool."""
        probe = self._sender.probe(target.connection, target.region or None)
        self._finished.put(Probed(target=target, lease=lease, probe=probe))

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._database.listen(lambda: self._finished.put(_Wake()), self._stopping)
            except Exception as error:  # noqa: BLE001  # without notices the worker looks once a second
                log.warning("notices of new work are interrupted (%s)", type(error).__name__)
                self._stopping.wait(DATABASE_PAUSE)

    def _wind_up(self) -> None:
        """Wait for what is being sent, settle it, and give the rest back; a lease that is left ends by itself."""
        ends = time.monotonic() + self._deadline + 1
        while self._in_flight.total() - len(self._doubts) > 0 and time.monotonic() < ends:
            self._gather(0.2)
        self._gather(0.0)
        for doubt in list(self._doubts):
            self._decide(doubt, postpone(doubt.attempt))
        try:
            if self._unsettled or self._probed:
                self._claim(self._unsettled, 0)
            self._store.release(self._unsent)
        except StoreError as error:
            log.warning("%s; what was in flight is tried again when its lease ends", error)


def _report(changes: Sequence[Change]) -> None:
    for change in changes:
        health = change.health
        if health.cause is None:
            log.warning("connection %s: sending again", change.target)
        elif health.cause in ("unreachable", "misconfigured"):
            log.error("connection %s is paused (%s): %s", change.target, health.cause, health.reason)
        else:
            # The reason may be Customer.io's own words, which quote what was sent: they stay in the database.
            log.error("connection %s is paused (%s)", change.target, health.cause)


def _short(attempt: Attempt) -> str:
    """Name an outcome for the log: Customer.io's own words may quote what was sent, so they stay in the database."""
    return f"HTTP {attempt.status}" if attempt.status is not None else attempt.reason or "no answer"
