"""Sending: claimed deliveries become requests, and go out from a pool of threads at the rate of their connection.

A request is one delivery, or a batch of deliveries to different customers.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gateway.customerio import wire
from gateway.customerio.batching import MOST_ITEMS, BatchItem, batch_item, pack, send_batch
from gateway.customerio.calls import Call, RawRequest, WorkspaceIdentifiers, from_json
from gateway.customerio.client import Sender
from gateway.customerio.rate_limit import RateLimit
from gateway.customerio.retry import Attempt, Probe
from gateway.event import JSON
from gateway.store import Claimed
from gateway.store.connection_state import ProbeResult, Target

log = logging.getLogger(__name__)

#: Deliveries being sent or in doubt, at most: an outage postpones so many, and a killed worker leaves their leases.
MOST_CLAIMED = 1_000


@dataclass(frozen=True, kw_only=True)
class OutgoingRequest:
    """Deliveries to one target that go out together.

    Attributes:
        items: Their calls, if they are a batch. A single delivery is only read when it is sent.
        send_before: The last moment to begin an attempt, by the monotonic clock: a later one may outlive the leases.
    """

    deliveries: tuple[Claimed, ...]
    items: tuple[BatchItem, ...] = ()
    send_before: float

    @property
    def target(self) -> Target:
        """Where they go."""
        return self.deliveries[0].target


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """Deliveries that share one attempt: one alone, or those of a batch that had the same fate.

    Attributes:
        retry: A raw request's own settings.
    """

    deliveries: tuple[Claimed, ...]
    attempt: Attempt
    retry: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """Where they went."""
        return self.deliveries[0].target


#: What the threads hand back; None only wakes the worker.
_Finished: TypeAlias = tuple[OutgoingRequest, list[SendResult]] | ProbeResult | None


class Outbox:
    """The requests of a worker on their way, and the pool of threads that sends them.

    Only the worker's thread may use it, except for `wake`.

    Args:
        rates: Requests a second, at most, by connection. A connection without one has no limit.
        identifiers: By which the workspace of a connection knows people, where that is known.
        threads: Requests at one time, at most.
        stopping: Once set, no attempt begins.
        may_send: Returns whether an attempt may begin under a lease.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        rates: Mapping[str, float],
        identifiers: Mapping[str, WorkspaceIdentifiers | None],
        threads: int,
        stopping: threading.Event,
        may_send: Callable[[int], bool],
    ) -> None:
        self._sender = sender
        self._identifiers = identifiers
        self._rate_limits = {name: RateLimit(rate) for name, rate in rates.items()}
        self._threads = threads
        self._stopping = stopping
        self._may_send_under = may_send
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sender")
        self._finished: queue.SimpleQueue[_Finished] = queue.SimpleQueue()
        #: Requests that wait for the rate of their connection, sorted by the moment of their turn.
        self._waiting: list[tuple[float, OutgoingRequest]] = []
        #: How many deliveries to each target wait or are being sent.
        self._deliveries: Counter[Target] = Counter()
        #: How many requests are being sent.
        self.in_flight = 0
        #: Deliveries that were not sent because we stop. Their leases are to be released.
        self.unsent: list[Claimed] = []

    def close(self) -> None:
        """Wait for the threads to end."""
        self._pool.shutdown()

    def wake(self) -> None:
        """Let `collect` return. Any thread or signal handler may call it."""
        self._finished.put(None)

    def limit(self, in_doubt: int) -> int:
        """Return how many deliveries to claim: enough to keep each thread busy while the next are fetched.

        Args:
            in_doubt: How many deliveries wait for a probe.
        """
        # What waits for the rate of one connection must not keep the others waiting, so it does not count.
        waiting = sum(len(request.deliveries) for _, request in self._waiting)
        claimed = self._deliveries.total() - waiting + in_doubt
        return max(min((2 * self._threads - self.in_flight) * MOST_ITEMS, MOST_CLAIMED - claimed), 0)

    def room(self) -> dict[str, int]:
        """Return how many deliveries each connection that has a rate can take now."""
        now = time.monotonic()
        waiting = {request.target.connection for _, request in self._waiting}
        return {
            name: 0 if name in waiting else rate_limit.room(now) * MOST_ITEMS
            for name, rate_limit in self._rate_limits.items()
        }

    def busy(self) -> set[Target]:
        """Return the targets that deliveries are on their way to."""
        return {target for target, number in self._deliveries.items() if number}

    def ready_in(self) -> float | None:
        """Return the seconds until a rate lets something be sent; None when no rate holds anything up."""
        now = time.monotonic()
        waits = [max(moment - now, 0.0) for moment, _ in self._waiting[:1]]
        waits += [max(limit.wait(now), 0.001) for limit in self._rate_limits.values() if not limit.room(now)]
        return min(waits, default=None)

    def send(self, claimed: Sequence[Claimed], send_before: float) -> None:
        """Make requests of what was claimed, and send those whose turn has come."""
        self._deliveries.update(delivery.target for delivery in claimed)
        now = time.monotonic()
        threads = max(self._threads - self.in_flight, 0)
        room = {name: rate_limit.room(now) for name, rate_limit in self._rate_limits.items()}
        for request in requests_for(claimed, threads, room, self._identifiers, send_before):
            rate_limit = self._rate_limits.get(request.target.connection)
            self._waiting.append((now + (rate_limit.take(now) if rate_limit is not None else 0.0), request))
        self._waiting.sort(key=lambda waiting: waiting[0])
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, request = self._waiting.pop(0)
            self.in_flight += 1
            self._pool.submit(self._send, request)

    def probe(self, target: Target, lease: int) -> None:
        """Probe a connection, by the right to it that *lease* names."""
        self._pool.submit(self._probe, target, lease)

    def collect(self, timeout: float) -> tuple[list[SendResult], list[ProbeResult]]:
        """Wait up to *timeout* seconds for results, and return all that there are."""
        results: list[SendResult] = []
        probe_results: list[ProbeResult] = []
        try:
            finished = self._finished.get(timeout=timeout) if timeout else self._finished.get_nowait()
            while True:
                match finished:
                    case ProbeResult():
                        probe_results.append(finished)
                    case (request, sent):
                        self.in_flight -= 1
                        self._withdraw(request, sent)
                        results += sent
                finished = self._finished.get_nowait()
        except queue.Empty:
            return results, probe_results

    def stop_waiting(self) -> None:
        """Give up the requests whose turn has not come."""
        for _, request in self._waiting:
            self._withdraw(request, [])
        self._waiting = []

    def _withdraw(self, request: OutgoingRequest, sent: Sequence[SendResult]) -> None:
        self._deliveries[request.target] -= len(request.deliveries)
        if self._stopping.is_set():
            with_result = {delivery.id for result in sent for delivery in result.deliveries}
            self.unsent += [delivery for delivery in request.deliveries if delivery.id not in with_result]
        # Else there was no time to send it: its lease ends by itself, and it is claimed again.

    # In the threads of the pool

    def _send(self, request: OutgoingRequest) -> None:
        try:
            results = self._send_batch(request) if request.items else self._send_single(request)
        except Exception as error:  # noqa: BLE001  # whatever fails here is an attempt that failed, and is retried
            log.error("delivery %d: sending failed (%s)", request.deliveries[0].id, type(error).__name__)
            failed = Attempt(status=None, reason=f"sending failed ({type(error).__name__})", at=time.time())
            results = [SendResult(deliveries=request.deliveries, attempt=failed)]
        self._finished.put((request, results))

    def _send_batch(self, request: OutgoingRequest) -> list[SendResult]:
        connection, region = request.target
        rate_limit, attempts_made = self._rate_limits.get(connection), 0

        def send(http_request: wire.HttpRequest) -> Attempt:
            nonlocal attempts_made
            attempts_made += 1
            if rate_limit is not None and attempts_made > 1:
                rate_limit.take(time.monotonic())  # the batch has had its turn; its halves delay the next request
            return self._sender.send(http_request, connection, region or None)

        attempts = send_batch(request.items, send, lambda: self._may_send(request))
        shared: dict[int, tuple[Attempt, list[Claimed]]] = {}
        for delivery, attempt in zip(request.deliveries, attempts, strict=True):
            if attempt is not None:
                shared.setdefault(id(attempt), (attempt, []))[1].append(delivery)
        return [SendResult(deliveries=tuple(deliveries), attempt=attempt) for attempt, deliveries in shared.values()]

    def _send_single(self, request: OutgoingRequest) -> list[SendResult]:
        if not self._may_send(request):
            return []
        (delivery,) = request.deliveries
        try:
            call = read_call(delivery)
            http_request = call.request()
        except Exception as error:  # noqa: BLE001  # one delivery that cannot be read must not stop the others
            reason = f"the gateway cannot make a request of it ({type(error).__name__})"
            unsendable = Attempt(status=None, reason=reason, at=time.time(), sendable=False)
            return [SendResult(deliveries=(delivery,), attempt=unsendable)]
        attempt = self._sender.send(http_request, delivery.connection, delivery.region)
        if isinstance(call, RawRequest):
            # Its path is the mapping's own, so a 404 says that the path is wrong.
            return [SendResult(deliveries=(delivery,), attempt=replace(attempt, about_call=True), retry=call.retry)]
        return [SendResult(deliveries=(delivery,), attempt=attempt)]

    def _may_send(self, request: OutgoingRequest) -> bool:
        in_time = time.monotonic() <= request.send_before and self._may_send_under(request.deliveries[0].lease)
        return in_time and not self._stopping.is_set()

    def _probe(self, target: Target, lease: int) -> None:
        try:
            probe = self._sender.probe(target.connection, target.region or None)
        except Exception as error:  # noqa: BLE001  # without a result, its connection would stay in doubt for ever
            probe = Probe(cause="unreachable", reason=f"the probe failed ({type(error).__name__})")
        self._finished.put(ProbeResult(target=target, lease=lease, probe=probe))


def requests_for(
    claimed: Sequence[Claimed],
    threads: int,
    room: Mapping[str, int],
    identifiers: Mapping[str, WorkspaceIdentifiers | None],
    send_before: float,
) -> Iterator[OutgoingRequest]:
    """Divide deliveries into requests: single ones if all of a target can be sent at once, else batches.

    Args:
        threads: How many requests can be sent at once.
        room: How many the rate of a connection allows, if it has one.
        identifiers: By which the workspace of a connection knows people, where that is known.
    """
    by_target: dict[Target, list[Claimed]] = {}
    for delivery in claimed:
        by_target.setdefault(delivery.target, []).append(delivery)
    for target, deliveries in by_target.items():
        batched: list[tuple[Claimed, BatchItem]] = []
        if len(deliveries) > min(threads, room.get(target.connection, threads)):
            workspace = identifiers.get(target.connection)
            candidates = ((delivery, _batch_item_of(delivery, workspace)) for delivery in deliveries)
            batched = [(delivery, item) for delivery, item in candidates if item is not None]
        for span in pack([len(item.body) for _, item in batched]):
            together, items = zip(*batched[span.start : span.stop], strict=True)
            yield OutgoingRequest(deliveries=together, items=items, send_before=send_before)
        in_batches = {delivery.id for delivery, _ in batched}
        for delivery in deliveries:
            if delivery.id not in in_batches:
                yield OutgoingRequest(deliveries=(delivery,), send_before=send_before)


def _batch_item_of(delivery: Claimed, workspace: WorkspaceIdentifiers | None) -> BatchItem | None:
    """Return a delivery as an item of a batch; None if it is to be sent singly."""
    if delivery.tries:
        return None  # it has failed before, perhaps as an item, and alone its next failure is certainly its own
    try:
        return batch_item(read_call(delivery), workspace)
    except Exception:  # noqa: BLE001  # sent singly it fails again, and is then settled as unsendable
        return None


def read_call(delivery: Claimed) -> Call:
    """Read the call of a delivery. Raises whatever an unreadable call makes fail."""
    return from_json(json.loads(delivery.call))
