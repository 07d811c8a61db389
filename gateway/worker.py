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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from gateway import calls, wire
from gateway.customerio import Sender
from gateway.database import Database
from gateway.errors import StoreError
from gateway.retry import Attempt, Failed, Policy, Retry, decide
from gateway.store import Claimed, Outcome, Store

log = logging.getLogger(__name__)

LEASE = 120.0
THREADS = 16
#: Seconds between two looks at the database when nothing wakes the worker sooner.
IDLE = 1.0
#: Seconds that the end of the listener is waited for.
LISTENER_PATIENCE = 5.0
#: Seconds before the database is asked again after it failed.
DATABASE_PAUSE = 1.0


class _Wake:
    """Says that there may be work."""


_Finished: TypeAlias = "queue.SimpleQueue[Outcome | Claimed | _Wake]"


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
        self._in_flight = 0
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
        limit = max(2 * self._threads - self._in_flight, 0)
        began = time.monotonic()
        try:
            claimed = self._settle_and_claim(limit)
            for each in claimed:
                self._in_flight += 1
                pool.submit(self._deliver, each, began)
            if not limit:
                self._patience = IDLE  # the next outcome ends the waiting
            else:
                self._patience = self._until_next() if len(claimed) < limit else 0.0
        except StoreError as error:
            log.warning("%s; trying again", error)
            self._stopping.wait(DATABASE_PAUSE)

    def _until_next(self) -> float:
        """Seconds until the next delivery is due, or until it is time to look again all the same."""
        due_in = self._store.due_in()
        return IDLE if due_in is None else min(max(due_in, 0.001), IDLE)

    def _gather(self, patience: float) -> None:
        """Wait for outcomes and take all that there are."""
        try:
            self._take(self._finished.get(timeout=patience) if patience else self._finished.get_nowait())
            while True:
                self._take(self._finished.get_nowait())
        except queue.Empty:
            return

    def _take(self, finished: Outcome | Claimed | _Wake) -> None:
        match finished:
            case Outcome():
                self._in_flight -= 1
                self._unsettled.append(finished)
            case Claimed():
                self._in_flight -= 1
                self._unsent.append(finished)
            case _Wake():
                pass

    def _settle_and_claim(self, limit: int) -> list[Claimed]:
        outcomes = self._unsettled
        self._unsent = []  # what was not sent in time is ours no longer: its lease ends by itself
        try:
            claimed = self._claim(outcomes, limit)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # one outcome that cannot be written must not hold up the others
            log.error("settling failed (%s); settling one by one", type(error).__name__)
            self._settle_singly(outcomes)
            claimed = []
        self._unsettled = []
        return claimed

    def _claim(self, outcomes: Sequence[Outcome], limit: int) -> list[Claimed]:
        # A token of its own for each claim: an outcome of an earlier one can never pass for one of this.
        token = secrets.randbits(63)
        return self._store.settle_and_claim(outcomes, limit=limit, lease=token, seconds=self._lease)

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
        policy = self._policies.get(claimed.connection, Policy())
        decision = decide(
            attempt,
            tries=claimed.tries + 1,
            failing_for=claimed.failing_for,
            policy=policy,
            jitter=self._jitter(),
        )
        self._finished.put(Outcome(delivery=claimed, attempt=attempt, decision=decision))
        if isinstance(decision, Retry):
            log.warning("delivery %d: %s; next try in %.1f s", claimed.id, _short(attempt), decision.after)
        elif isinstance(decision, Failed):
            log.error("delivery %d: failed: %s", claimed.id, _short(attempt))

    def _attempt(self, claimed: Claimed) -> Attempt:
        try:
            request = wire.request(calls.from_json(json.loads(claimed.call)))
            return self._sender.send(request, claimed.connection, claimed.region)
        except Exception as error:  # noqa: BLE001  # one poisonous delivery must not stop the others
            log.error("delivery %d: cannot be sent (%s)", claimed.id, type(error).__name__)
            return Attempt(status=None, reason=f"the gateway could not send it ({type(error).__name__})")

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
        while self._in_flight and time.monotonic() < ends:
            self._gather(0.2)
        self._gather(0.0)
        try:
            if self._unsettled:
                self._claim(self._unsettled, 0)
            self._store.release(self._unsent)
        except StoreError as error:
            log.warning("%s; what was in flight is tried again when its lease ends", error)


def _short(attempt: Attempt) -> str:
    """Name an outcome for the log: Customer.io's own words may quote what was sent, so they stay in the database."""
    return f"HTTP {attempt.status}" if attempt.status is not None else attempt.reason or "no answer"
