"""The delivery loop: claim what is due, send it, settle what came of it.

One thread talks to the database and a pool of threads to Customer.io. Settling and claiming are one
transaction, so a call that waited behind another goes out as soon as that one is settled.
"""

from __future__ import annotations

import logging
import queue
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from gateway.customerio import wire
from gateway.customerio.batching import MOST_ITEMS, send_together
from gateway.customerio.calls import RawRequest
from gateway.customerio.client import Sender
from gateway.customerio.rate_limit import RateLimit
from gateway.customerio.retry import (
    Attempt,
    ConnectionState,
    Decision,
    Doubtful,
    Failed,
    Policy,
    Postponed,
    Retry,
    judge,
    judge_alone,
    policy_with,
    postpone,
)
from gateway.deliver.parcels import Parcel, parcels_of, read
from gateway.errors import StoreError
from gateway.event import JSON
from gateway.store import Claimed, ClaimRequest, Outcome, Store, Turn
from gateway.store.connection_state import ProbeResult, ProbeSchedule, Target
from gateway.store.database import Database

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
class _Tried:
    """Deliveries that share an attempt: one alone, or those of a batch that had one fate.

    Attributes:
        retry: The settings of a raw request's own.
    """

    deliveries: Sequence[Claimed]
    attempt: Attempt
    retry: Mapping[str, JSON]

    @property
    def target(self) -> Target:
        return self.deliveries[0].target


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What became of a parcel.

    Attributes:
        attempts: One for each of its deliveries; None for what there was no time to send.
        retry: As of what was tried.
    """

    parcel: Parcel
    attempts: Sequence[Attempt | None]
    retry: Mapping[str, JSON] = field(default_factory=dict)


_Finished: TypeAlias = "queue.SimpleQueue[_Sent | ProbeResult | _Wake]"


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
        self._paces = {name: RateLimit(rate) for name, rate in rates.items()}
        self._threads = threads
        self._lease = lease
        self._deadline = deadline
        self._jitter = jitter
        self._finished: _Finished = queue.SimpleQueue()
        self._unsettled: list[Outcome] = []
        self._unsent: list[Claimed] = []
        self._doubts: list[_Tried] = []  # of which only a probe can tell whose fault it was
        self._probed: list[ProbeResult] = []
        self._probing: dict[Target, list[_Tried]] = {}  # with the doubts that each probe is to settle
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
        with suppress(StoreError):  # else it looks up by itself, twice a second
            self._store.wake()
        # Only a database that does not even answer is not waited for.
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
        free = 2 * self._threads - self._out
        # What waits for the rate of its own connection is no reason to leave the others waiting.
        waiting = sum(len(parcel.deliveries) for _, parcel in self._waiting)
        return max(min(free * MOST_ITEMS, MOST_CLAIMED - self._in_hand.total() + waiting), 0)

    def _room(self, now: float) -> dict[str, int]:
        """Tell how many deliveries each connection that has a rate can take now."""
        waiting = {parcel.target.connection for _, parcel in self._waiting}
        return {name: 0 if name in waiting else pace.room(now) * MOST_ITEMS for name, pace in self._paces.items()}

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
        nexts += [max(pace.wait(now), 0.001) for pace in self._paces.values() if not pace.room(now)]
        return min(nexts)

    def _gather(self, patience: float) -> None:
        """Wait for outcomes and take all that there are."""
        try:
            self._take(self._finished.get(timeout=patience) if patience else self._finished.get_nowait())
            while True:
                self._take(self._finished.get_nowait())
        except queue.Empty:
            return

    def _take(self, finished: _Sent | ProbeResult | _Wake) -> None:
        match finished:
            case _Sent():
                self._out -= 1
                self._weigh(finished)
            case ProbeResult():
                self._learn(finished)
            case _Wake():
                pass

    def _weigh(self, sent: _Sent) -> None:
        """Decide what can be decided of a parcel without a probe."""
        fates: dict[int, tuple[Attempt, list[Claimed]]] = {}
        for delivery, attempt in zip(sent.parcel.deliveries, sent.attempts, strict=True):
            if attempt is None:
                self._unsend(delivery)
            else:
                fates.setdefault(id(attempt), (attempt, []))[1].append(delivery)
        for attempt, deliveries in fates.values():
            tried = _Tried(deliveries=deliveries, attempt=attempt, retry=sent.retry)
            judged = self._judged(tried, judge)
            decisions = [each for each in judged if not isinstance(each, Doubtful)]
            if len(decisions) == len(judged):
                self._conclude(tried, decisions)
            else:
                self._doubts.append(tried)

    def _unsend(self, delivery: Claimed) -> None:
        self._in_hand[delivery.target] -= 1
        if self._stopping.is_set():
            self._unsent.append(delivery)
        # Else it was not sent in time, and is ours no longer: its lease ends by itself.

    def _judged(self, tried: _Tried, rule: Callable[..., Judged]) -> list[Judged]:
        policy = self._policies.get(tried.target.connection, Policy())
        if tried.retry:
            policy = policy_with(policy, tried.retry)
        return [
            rule(
                tried.attempt,
                tries=each.tries + 1,
                failing_for=each.failing_for,
                policy=policy,
                jitter=self._jitter(),
            )
            for each in tried.deliveries
        ]

    def _learn(self, probed: ProbeResult) -> None:
        """Decide what the probe was to tell; a doubt that came up after its beginning waits for the next."""
        for doubt in self._probing.pop(probed.target):
            if probed.probe.cause is None:
                self._resolve(doubt, self._judged(doubt, judge_alone))
            else:
                self._put_off(doubt)
        self._probed.append(probed)

    def _postpone(self, paused: Collection[Target]) -> None:
        """Put off what is in doubt on a connection that is paused: another worker's probe has told."""
        for doubt in [each for each in self._doubts if each.target in paused - self._probing.keys()]:
            self._put_off(doubt)

    def _put_off(self, doubt: _Tried) -> None:
        self._resolve(doubt, [postpone(doubt.attempt)] * len(doubt.deliveries))

    def _resolve(self, doubt: _Tried, decisions: Sequence[Decision]) -> None:
        self._doubts = [each for each in self._doubts if each is not doubt]
        self._conclude(doubt, decisions)

    def _conclude(self, tried: _Tried, decisions: Sequence[Decision]) -> None:
        self._in_hand[tried.target] -= len(decisions)
        for number, (delivery, decision) in enumerate(zip(tried.deliveries, decisions, strict=True)):
            # A batch is one failure, not one of each of its customers.
            told = replace(decision, suspect=False) if number and isinstance(decision, Retry) else decision
            self._unsettled.append(Outcome(delivery=delivery, attempt=tried.attempt, decision=told))
        _tell(tried, decisions[0])

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
        request = ClaimRequest(
            limit=limit,
            # A token of its own for each claim: an outcome of an earlier one can never pass for one of this.
            lease=secrets.randbits(63),
            lease_seconds=self._lease,
            probe_results=self._probed,
            doubted=doubted,
            probing=self._probing.keys(),
            busy={target for target, number in self._in_hand.items() if number},
            room=self._room(time.monotonic()),
            schedule=ProbeSchedule(policies=self._policies, jitter=self._jitter(), probe_seconds=2 * self._deadline),
        )
        return self._store.settle_and_claim(outcomes, request)

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
        try:
            sent = self._send_batch(parcel) if parcel.ready else self._send_single(parcel)
        except Exception as error:  # noqa: BLE001  # whatever fails here is an attempt that did, and is tried again
            log.error("delivery %d: sending failed (%s)", parcel.deliveries[0].id, type(error).__name__)
            failed = Attempt(status=None, reason=f"sending failed ({type(error).__name__})", at=time.time())
            sent = _Sent(parcel=parcel, attempts=[failed] * len(parcel.deliveries))
        self._finished.put(sent)

    def _may_send(self, parcel: Parcel) -> bool:
        ends = parcel.claimed_at + self._lease
        return not self._stopping.is_set() and time.monotonic() + self._deadline <= ends

    def _send_batch(self, parcel: Parcel) -> _Sent:
        pace, sent = self._paces.get(parcel.target.connection), 0

        def send(request: wire.HttpRequest) -> Attempt:
            nonlocal sent
            sent += 1
            if pace is not None and sent > 1:
                pace.take(time.monotonic())  # the batch has had its turn; its halves are at the expense of the next
            return self._sender.send(request, parcel.target.connection, parcel.target.region or None)

        return _Sent(parcel=parcel, attempts=send_together(parcel.ready, send, lambda: self._may_send(parcel)))

    def _send_single(self, parcel: Parcel) -> _Sent:
        if not self._may_send(parcel):
            return _Sent(parcel=parcel, attempts=[None])
        (claimed,) = parcel.deliveries
        try:
            call = read(claimed)
            request = call.request()
        except Exception as error:  # noqa: BLE001  # one poisonous delivery must not stop the others
            reason = f"the gateway cannot make a request of it ({type(error).__name__})"
            poison = Attempt(status=None, reason=reason, at=time.time(), sendable=False)
            return _Sent(parcel=parcel, attempts=[poison])
        attempt = self._sender.send(request, claimed.connection, claimed.region)
        if isinstance(call, RawRequest):
            # Its path is the mapping's own, so a 404 says that the path is wrong.
            return _Sent(parcel=parcel, attempts=[replace(attempt, about_call=True)], retry=call.retry)
        return _Sent(parcel=parcel, attempts=[attempt])

    def _probe(self, target: Target, lease: int) -> None:
        """Ask whether a connection is well, in a thread of the pool."""
        probe = self._sender.probe(target.connection, target.region or None)
        self._finished.put(ProbeResult(target=target, lease=lease, probe=probe))

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
            self._put_off(doubt)
        try:
            if self._unsettled or self._probed:
                self._claim(self._unsettled, 0)
            self._store.release(self._unsent)
        except StoreError as error:
            log.warning("%s; what was in flight is tried again when its lease ends", error)


def _report(changes: Mapping[Target, ConnectionState]) -> None:
    for target, health in changes.items():
        if health.cause is None:
            log.warning("connection %s: sending again", target)
        elif health.cause in ("unreachable", "misconfigured"):
            log.error("connection %s is paused (%s): %s", target, health.cause, health.reason)
        else:
            # The reason may be Customer.io's own words, which quote what was sent: they stay in the database.
            log.error("connection %s is paused (%s)", target, health.cause)


def _tell(tried: _Tried, decision: Decision) -> None:
    """Log what did not arrive; of a batch that had one fate only its first and its size."""
    said = f"delivery {tried.deliveries[0].id}"
    if more := len(tried.deliveries) - 1:
        said += f" and {more} sent with it"
    match decision:
        case Retry(after=after):
            log.warning("%s: %s; next try in %.1f s", said, _short(tried.attempt), after)
        case Postponed():
            log.warning("%s: %s; it waits for its connection", said, _short(tried.attempt))
        case Failed():
            log.error("%s: failed: %s", said, _short(tried.attempt))


def _short(attempt: Attempt) -> str:
    """Name an outcome for the log: Customer.io's own words may quote what was sent, so they stay in the database."""
    return f"HTTP {attempt.status}" if attempt.status is not None else attempt.reason or "no answer"
