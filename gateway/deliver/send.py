"""Sending: claimed deliveries become requests, and go out from a pool of threads at the rate of their connection.

A request is one delivery, or a batch of deliveries to different customers.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gateway.customerio import wire
from gateway.customerio.batching import MOST_ITEMS, BatchItem, batch_item, pack, send_batch
from gateway.customerio.calls import Call, RawRequest, WorkspaceIdentifiers, from_json
from gateway.customerio.client import Sender
from gateway.customerio.rate_limit import burst_of
from gateway.customerio.retry import Attempt, Probe
from gateway.event import JSON
from gateway.store import Claimed
from gateway.store.connection_state import ProbeResult, Target
from gateway.store.rates import Booking

log = logging.getLogger(__name__)

#: Deliveries being sent or in doubt, at most: an outage postpones so many, and a killed worker leaves their leases.
MOST_CLAIMED = 1_000
#: The part of the threads for what has failed before: it may take all of an attempt's time to fail again.
RETRIED_THREADS = 1 / 4


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

    @property
    def is_retried(self) -> bool:
        """Whether it is a delivery that has failed before by itself."""
        return self.deliveries[0].is_retried


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


#: What the threads hand back: a request, its results, and how many more requests it took. None only wakes the worker.
_Finished: TypeAlias = tuple[OutgoingRequest, list[SendResult], int] | ProbeResult | None


class Outbox:
    """The requests of a worker on their way, and the pool of threads that sends them.

    Only the worker's thread may use it, except for `wake`.

    Args:
        rates: Requests a second of all workers, by connection. Without one, a connection's requests need no booking.
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
        self._rates = rates
        self._threads = threads
        self._stopping = stopping
        self._may_send_under = may_send
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sender")
        self._finished: queue.SimpleQueue[_Finished] = queue.SimpleQueue()
        #: Requests that wait until the rate of their connection has room for them.
        self._unbooked: dict[str, deque[OutgoingRequest]] = {name: deque() for name in rates}
        #: Those that have a booking, sorted by the moment of their turn.
        self._booked: list[tuple[float, OutgoingRequest]] = []
        #: The requests that were made beyond the bookings of each connection.
        self._overdrawn: Counter[str] = Counter()
        #: How many deliveries to each target wait or are being sent: those that have failed before, and others.
        self._retried: Counter[Target] = Counter()
        self._fresh: Counter[Target] = Counter()
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
        waiting = sum(len(request.deliveries) for request in self._waiting())
        claimed = self._fresh.total() + self._retried.total() - waiting + in_doubt
        return max(min((2 * self._threads - self.in_flight) * MOST_ITEMS, MOST_CLAIMED - claimed), 0)

    def most_retried(self) -> int:
        """Return how many of them may have failed before."""
        return max(max(int(self._threads * RETRIED_THREADS), 1) - self._retried.total(), 0)

    def room(self) -> dict[str, int]:
        """Return how many deliveries each connection that has a rate can take now."""
        waiting = {request.target.connection for request in self._waiting()}
        return {name: 0 if name in waiting else burst_of(rate) * MOST_ITEMS for name, rate in self._rates.items()}

    def unbooked(self) -> dict[str, int]:
        """Return how many requests each connection has to book, once those that are booked have gone."""
        booked = {request.target.connection for _, request in self._booked}
        return {
            name: len(requests) + self._overdrawn[name]
            for name, requests in self._unbooked.items()
            if requests and name not in booked
        }

    def busy(self) -> set[Target]:
        """Return the targets that deliveries are on their way to which have not failed before."""
        return {target for target, number in self._fresh.items() if number}

    def ready_in(self) -> float | None:
        """Return the seconds until a rate lets something be sent; None when no rate holds anything up."""
        if self.unbooked():
            return 0.0
        return max(self._booked[0][0] - time.monotonic(), 0.0) if self._booked else None

    def _waiting(self) -> Iterator[OutgoingRequest]:
        yield from itertools.chain.from_iterable(self._unbooked.values())
        yield from (request for _, request in self._booked)

    def send(self, claimed: Sequence[Claimed], bookings: Mapping[str, Booking], send_before: float) -> None:
        """Make requests of what was claimed, and send those whose turn has come."""
        now = time.monotonic()
        threads = max(self._threads - self.in_flight, 0)
        room = {name: bookings[name].number if name in bookings else 0 for name in self._rates}
        for request in requests_for(claimed, threads, room, self._identifiers, send_before):
            self._on_their_way(request)[request.target] += len(request.deliveries)
            if request.target.connection in self._unbooked:
                self._unbooked[request.target.connection].append(request)
            else:
                self._booked.append((now, request))
        for name, booking in bookings.items():
            self._use(booking, self._unbooked[name], name, now)
        self._booked.sort(key=lambda booked: booked[0])
        while self._booked and self._booked[0][0] <= now:
            _, request = self._booked.pop(0)
            self.in_flight += 1
            self._pool.submit(self._send, request)

    def _use(self, booking: Booking, requests: deque[OutgoingRequest], name: str, now: float) -> None:
        overdrawn = min(self._overdrawn[name], booking.number)
        self._overdrawn[name] -= overdrawn
        for place in range(overdrawn, min(booking.number, overdrawn + len(requests))):
            self._booked.append((now + booking.begins_in + place * booking.interval, requests.popleft()))

    def _on_their_way(self, request: OutgoingRequest) -> Counter[Target]:
        return self._retried if request.is_retried else self._fresh

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
                    case (request, sent, more_requests):
                        self.in_flight -= 1
                        self._overdrawn[request.target.connection] += more_requests
                        self._withdraw(request, sent)
                        results += sent
                finished = self._finished.get_nowait()
        except queue.Empty:
            return results, probe_results

    def stop_waiting(self) -> None:
        """Give up the requests whose turn has not come."""
        for request in self._waiting():
            self._withdraw(request, [])
        self._booked = []
        self._unbooked = {name: deque() for name in self._rates}

    def _withdraw(self, request: OutgoingRequest, sent: Sequence[SendResult]) -> None:
        self._on_their_way(request)[request.target] -= len(request.deliveries)
        if self._stopping.is_set():
            with_result = {delivery.id for result in sent for delivery in result.deliveries}
            self.unsent += [delivery for delivery in request.deliveries if delivery.id not in with_result]
        # Else there was no time to send it: its lease ends by itself, and it is claimed again.

    # In the threads of the pool

    def _send(self, request: OutgoingRequest) -> None:
        more_requests = 0
        try:
            if request.items:
                results, more_requests = self._send_batch(request)
            else:
                results = self._send_single(request)
        except Exception as error:  # noqa: BLE001  # whatever fails here is an attempt that failed, and is retried
            log.error("delivery %d: sending failed (%s)", request.deliveries[0].id, type(error).__name__)
            failed = Attempt(status=None, reason=f"sending failed ({type(error).__name__})", at=time.time())
            results = [SendResult(deliveries=request.deliveries, attempt=failed)]
        self._finished.put((request, results, more_requests))

    def _send_batch(self, request: OutgoingRequest) -> tuple[list[SendResult], int]:
        connection, region = request.target
        attempts_made = 0

        def send(http_request: wire.HttpRequest) -> Attempt:
            nonlocal attempts_made
            attempts_made += 1
            return self._sender.send(http_request, connection, region or None)

        attempts = send_batch(request.items, send, lambda: self._may_send(request))
        shared: dict[int, tuple[Attempt, list[Claimed]]] = {}
        for delivery, attempt in zip(request.deliveries, attempts, strict=True):
            if attempt is not None:
                shared.setdefault(id(attempt), (attempt, []))[1].append(delivery)
        results = [SendResult(deliveries=tuple(deliveries), attempt=attempt) for attempt, deliveries in shared.values()]
        # The batch has had its turn; its halves delay the next requests.
        return results, max(attempts_made - 1, 0)

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
        room: How many are booked for a connection that has a rate.
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
