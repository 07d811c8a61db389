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
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from gateway import wire
from gateway.batches import MOST_ITEMS, send_together
from gateway.customerio import Sender
from gateway.database import Database
from gateway.errors import StoreError
from gateway.pace import Pace
from gateway.parcels import Parcel, parcels_of, read
from gateway.pauses import Change, Pacing, Probed, Target
from gateway.retry import (
    Attempt,
    Decision,
    Delivered,
    Doubtful,
    Policy,
    Postponed,
    Retry,
    judge,
    judge_alone,
    policy_with,
    postpone,
)
from gateway.store import Claimed, Outcome, Store, Turn

log = logging.getLogger(__name__)

LEASE = 120.0
#: Requests at one time.
THREADS = 16
#: Deliveries in our hands at one time, at most: what an outage puts off, and what our end leaves to a lease's.
MOST_CLAIMED = 1_000
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
    """An attempt of which only a probe can tell whether it is the deliveries' own fault."""

    deliveries: tuple[Claimed, ...]
    attempt: Attempt

    @property
    def target(self) -> Target:
        return self.deliveries[0].target


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What became of a parcel.

    Attributes:
        attempts: One for each of its deliveries; None for what there was no time to send.
    """

    parcel: Parcel
    attempts: Sequence[Attempt | None]


_Finished: TypeAlias = "queue.SimpleQueue[_Sent | Probed | _Wake]"


class Worker:
    """Delivers calls until it is stopped.

    Args:
        policies: How each connection's deliveries are retried.
        rates: Requests a second, at most, by connection; one that is not named has no limit.
        lease: Seconds that a delivery is ours; one attempt, which takes *deadline* seconds at most, fits in.
    """

    def __init__(
        self,
        database: Database,
        sender: Sender,
        *,
        policies: Mapping[str, Policy],
        rates: Mapping[str, float] = MappingProxyType({}),
        threads: int = THREADS,
        lease: float = LEASE,
        deadline: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._store = Store(database)
        self._sender = sender
        self._policies = policies
        self._paces = {name: Pace(rate) for name, rate in rates.items()}
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
        self._in_hand: Counter[Target] = Counter()  # deliveries that are claimed and not settled
        self._waiting: list[tuple[float, Parcel]] = []  # for their turn, each with its moment
        self._out = 0  # parcels that are being sent
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
        limit = self._limit()
        claimed_at = time.monotonic()
        try:
            turn = self._settle_and_claim(limit)
        except StoreError as error:
            log.warning("%s; trying again", error)
            self._stopping.wait(DATABASE_PAUSE)
            return
        self._plan(turn.claimed, claimed_at)
        self._dispatch(pool)
        for target in turn.probes:
            self._probing[target] = [each for each in self._doubts if each.target == target]
            pool.submit(self._probe, target, turn.lease)
        self._postpone(turn.paused)
        self._patience = self._until_next(turn, limit)
        _report(turn.changes)

    def _limit(self) -> int:
        """Tell how many deliveries to ask for: enough to keep each thread busy while the next are fetched."""
        free = 2 * self._threads - self._out - len(self._waiting)
        return max(min(free * MOST_ITEMS, MOST_CLAIMED - self._in_hand.total()), 0)

    def _room(self, now: float) -> dict[str, int]:
        """Tell how many deliveries each connection that has a rate can take now."""
        waiting = {parcel.target.connection for _, parcel in self._waiting}
        return {
            name: 0 if name in waiting else pace.room(now) * MOST_ITEMS for name, pace in self._paces.items()
        }

    def _plan(self, claimed: Sequence[Claimed], claimed_at: float) -> None:
        """Make parcels of what was claimed, each with its turn in the rate of its connection."""
        self._in_hand.update(each.target for each in claimed)
        now = time.monotonic()
        threads = max(self._threads - self._out, 0)
        room = {name: pace.room(now) for name, pace in self._paces.items()}
        idle = {each.target: min(threads, room.get(each.connection, threads)) for each in claimed}
        for parcel in parcels_of(claimed, idle, claimed_at):
            pace = self._paces.get(parcel.target.connection)
            self._waiting.append((now + pace.take(now) if pace is not None else now, parcel))
        self._waiting.sort(key=lambda each: each[0])

    def _dispatch(self, pool: ThreadPoolExecutor) -> None:
        """Hand the parcels whose turn has come to the senders."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, parcel = self._waiting.pop(0)
            self._out += 1
            pool.submit(self._deliver, parcel)

    def _until_next(self, turn: Turn, limit: int) -> float:
        """Seconds until there may be something to do, if nothing finishes and nobody wakes us before."""
        if self._unsettled:
            return 0.0
        now = time.monotonic()
        others = {each.target for each in self._doubts} - self._probing.keys()
        due_in = IDLE if turn.due_in is None or not limit else turn.due_in
        nexts = [max(due_in, 0.001) if due_in else 0.0, IDLE, PROBE_PAUSE if others else IDLE]
        nexts += [max(at - now, 0.0) for at, _ in self._waiting[:1]]
        nexts += [wait for pace in self._paces.values() if (wait := pace.wait(now))]
        return min(nexts)

    def _gather(self, patience: float) -> None:
        """Wait for outcomes and take all that there are."""
        try:
            self._take(self._finished.get(timeout=patience) if patience else self._finished.get_nowait())
            while True:
                self._take(self._finished.get_nowait())
        except queue.Empty:
            return

    def _take(self, finished: _Sent | Probed | _Wake) -> None:
        match finished:
            case _Sent():
                self._out -= 1
                self._weigh(finished)
            case Probed():
                self._learn(finished)
            case _Wake():
                pass

    def _weigh(self, sent: _Sent) -> None:
        """Decide what can be decided of a parcel without a probe."""
        doubtful: dict[int, list[Claimed]] = {}
        outcomes: list[Outcome] = []
        for delivery, attempt in zip(sent.parcel.deliveries, sent.attempts, strict=True):
            if attempt is None:
                self._unsend(delivery)
                continue
            decision = self._judged(judge, delivery, attempt)
            if isinstance(decision, Doubtful):
                doubtful.setdefault(id(attempt), []).append(delivery)
            else:
                outcomes.append(Outcome(delivery=delivery, attempt=attempt, decision=decision))
        attempts = {id(each): each for each in sent.attempts if each is not None}
        self._doubts += [
            _Doubt(deliveries=tuple(deliveries), attempt=attempts[key])
            for key, deliveries in doubtful.items()
        ]
        self._decide(outcomes)

    def _unsend(self, delivery: Claimed) -> None:
        self._in_hand[delivery.target] -= 1
        if self._stopping.is_set():
            self._unsent.append(delivery)
        # Else it was not sent in time, and is ours no longer: its lease ends by itself.

    def _learn(self, probed: Probed) -> None:
        """Decide what the probe was to tell; a doubt that came up after its beginning waits for the next."""
        for doubt in self._probing.pop(probed.target):
            if probed.probe.cause is None:
                self._settle_doubt(doubt, lambda each, attempt: self._judged(judge_alone, each, attempt))
            else:
                self._settle_doubt(doubt, lambda _, attempt: postpone(attempt))
        self._probed.append(probed)

    def _postpone(self, paused: Collection[Target]) -> None:
        """Put off what is in doubt on a connection that is paused: another worker's probe has told."""
        for doubt in [each for each in self._doubts if each.target in paused - self._probing.keys()]:
            self._settle_doubt(doubt, lambda _, attempt: postpone(attempt))

    def _settle_doubt(self, doubt: _Doubt, rule: Callable[[Claimed, Attempt], Decision]) -> None:
        self._doubts = [each for each in self._doubts if each is not doubt]
        decided = [(each, rule(each, doubt.attempt)) for each in doubt.deliveries]
        # A batch is one failure, not one of each of its customers.
        self._decide(
            [
                Outcome(
                    delivery=each,
                    attempt=doubt.attempt,
                    decision=replace(decision, suspect=number == 0)
                    if isinstance(decision, Retry)
                    else decision,
                )
                for number, (each, decision) in enumerate(decided)
            ]
        )

    def _decide(self, outcomes: Sequence[Outcome]) -> None:
        for each in outcomes:
            self._in_hand[each.delivery.target] -= 1
        self._unsettled += outcomes
        _tell(outcomes)

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
        doubted = {each.target for each in self._doubts}
        return self._store.settle_and_claim(
            outcomes,
            limit=limit,
            # A token of its own for each claim: an outcome of an earlier one can never pass for one of this.
            lease=secrets.randbits(63),
            seconds=self._lease,
            probed=self._probed,
            doubted=doubted,
            probing=self._probing.keys(),
            busy={target for target, number in self._in_hand.items() if number},
            room=self._room(time.monotonic()),
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

    def _deliver(self, parcel: Parcel) -> None:
        """Send a parcel, in a thread of the pool."""
        attempts: Sequence[Attempt | None]
        try:
            attempts = self._send_batch(parcel) if parcel.ready else [self._send_single(parcel)]
        except Exception as error:  # noqa: BLE001  # whatever fails here is an attempt that did, and is tried again
            log.error("delivery %d: sending failed (%s)", parcel.deliveries[0].id, type(error).__name__)
            failed = Attempt(status=None, reason=f"sending failed ({type(error).__name__})", at=time.time())
            attempts = [failed] * len(parcel.deliveries)
        self._finished.put(_Sent(parcel=parcel, attempts=attempts))

    def _may_send(self, parcel: Parcel) -> bool:
        ends = parcel.claimed_at + self._lease
        return not self._stopping.is_set() and time.monotonic() + self._deadline <= ends

    def _send_batch(self, parcel: Parcel) -> list[Attempt | None]:
        pace, sent = self._paces.get(parcel.target.connection), 0

        def send(request: wire.HttpRequest) -> Attempt:
            nonlocal sent
            sent += 1
            if pace is not None and sent > 1:
                pace.take(
                    time.monotonic()
                )  # the batch has had its turn; its halves are at the expense of the next
            return self._sender.send(request, parcel.target.connection, parcel.target.region or None)

        return send_together(parcel.ready, send, lambda: self._may_send(parcel))

    def _judged(self, rule: Callable[..., Judged], claimed: Claimed, attempt: Attempt) -> Judged:
        return rule(
            attempt,
            tries=claimed.tries + 1,
            failing_for=claimed.failing_for,
            policy=self._policy(claimed),
            jitter=self._jitter(),
        )

    def _policy(self, claimed: Claimed) -> Policy:
        policy = self._policies.get(claimed.connection, Policy())
        own = json.loads(claimed.call).get("retry") if '"retry":' in claimed.call else None
        return policy_with(policy, own) if own else policy

    def _send_single(self, parcel: Parcel) -> Attempt | None:
        if not self._may_send(parcel):
            return None
        (claimed,) = parcel.deliveries
        try:
            request = wire.request(read(claimed))
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
        for _, parcel in self._waiting:
            for each in parcel.deliveries:
                self._unsend(each)
        ends = time.monotonic() + self._deadline + 1
        while self._out > 0 and time.monotonic() < ends:
            self._gather(0.2)
        self._gather(0.0)
        for doubt in self._doubts:
            self._settle_doubt(doubt, lambda _, attempt: postpone(attempt))
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


def _tell(outcomes: Sequence[Outcome]) -> None:
    """Log what did not arrive; of a parcel with one fate only its size and its first."""
    fates: dict[tuple[type[Decision], int], list[Outcome]] = {}
    for each in outcomes:
        if not isinstance(each.decision, Delivered):
            fates.setdefault((type(each.decision), id(each.attempt)), []).append(each)
    for alike in fates.values():
        first, decision = alike[0], alike[0].decision
        more = f" (and {len(alike) - 1} sent with it)" if len(alike) > 1 else ""
        said = f"delivery {first.delivery.id}{more}: {{}}{_short(first.attempt)}{{}}"
        if isinstance(decision, Retry):
            log.warning(said.format("", f"; next try in {decision.after:.1f} s"))
        elif isinstance(decision, Postponed):
            log.warning(said.format("", "; it waits for its connection"))
        else:
            log.error(said.format("failed: ", ""))


def _short(attempt: Attempt) -> str:
    """Name an outcome for the log: Customer.io's own words may quote what was sent, so they stay in the database."""
    return f"HTTP {attempt.status}" if attempt.status is not None else attempt.reason or "no answer"
