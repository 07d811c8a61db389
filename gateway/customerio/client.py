"""The Customer.io client: send a call or a request, and report what happened (docs/client.md)."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Protocol

from gateway.customerio import calls, wire
from gateway.customerio.batching import batch_item, pack, send_batch
from gateway.customerio.calls import IDENTIFIERS, Call, RawRequest
from gateway.customerio.coerce import coerce_call
from gateway.customerio.connection import DEFAULT, HOSTS, Connection, variable_prefix
from gateway.customerio.limits import MAX_TIMEOUT
from gateway.customerio.rate_limit import RateLimit
from gateway.customerio.response import Response, attempt_of, attempt_without_answer, reason_of
from gateway.customerio.retry import Attempt, Policy, Probe, policy_with, retry_delay_at_once
from gateway.customerio.transport import NoAnswerError, Transport
from gateway.customerio.ulids import ulid
from gateway.customerio.wire import HttpRequest
from gateway.errors import CallError, SendError

#: Seconds that an attempt may take in all: the most that a raw request may ask for.
DEADLINE = MAX_TIMEOUT
#: The same for a probe. Nothing else is sent meanwhile, and an API that needs longer for this is not well.
PROBE_DEADLINE = 5.0

_REGION_REQUEST = HttpRequest(method="GET", path=wire.REGION_PATH)


class Sender(Protocol):
    """What a worker needs of a client."""

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt."""

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Return whether a connection is well."""

    def break_off(self, within: float) -> None:
        """End what is being sent, within so many seconds."""


class Client:
    """Sends calls over one pool of kept-alive connections. Threads may share it.

    Args:
        connections: One workspace, or several by their names.
        pool: How many connections are kept open to each host.
        deadline: Seconds that an attempt may take in all, connecting and a trickling answer included.
        sleep: Waits for so many seconds.
        jitter: Returns a random number in [0, 1).
    """

    def __init__(
        self,
        connections: Connection | Mapping[str, Connection],
        *,
        pool: int = 16,
        deadline: float = DEADLINE,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if isinstance(connections, Connection):
            connections = {connections.name: connections}
        self._connections = dict(connections)
        self._deadline = deadline
        self._sleep = sleep
        self._jitter = jitter
        self._transport = Transport(self._connections, pool=pool)
        self._rate_limits = {name: RateLimit(connection.rate) for name, connection in self._connections.items()}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pool. The client cannot be used afterwards."""
        self._transport.close()

    # Sent at once, for programs and for the command line

    def identify(self, *, connection: str = DEFAULT, region: str | None = None, **fields: Any) -> Response:
        """Create or update a person; the fields are those of `calls.Identify`. Raises as `call` does."""
        return self.call(calls.Identify(**fields), connection=connection, region=region)

    def track(self, *, connection: str = DEFAULT, region: str | None = None, **fields: Any) -> Response:
        """Record an event; the fields are those of `calls.Track`. Raises as `call` does."""
        return self.call(calls.Track(**fields), connection=connection, region=region)

    def page(self, *, connection: str = DEFAULT, region: str | None = None, **fields: Any) -> Response:
        """Record a page view; the fields are those of `calls.Page`. Raises as `call` does."""
        return self.call(calls.Page(**fields), connection=connection, region=region)

    def destroy(self, *, connection: str = DEFAULT, region: str | None = None, **fields: Any) -> Response:
        """Delete a person; the fields are those of `calls.Destroy`. Raises as `call` does."""
        return self.call(calls.Destroy(**fields), connection=connection, region=region)

    def request(self, path: str, *, connection: str = DEFAULT, region: str | None = None, **fields: Any) -> Response:
        """Send any request below ``/api``; the fields are those of `calls.RawRequest`. Raises as `call` does."""
        return self.call(calls.RawRequest(path=path, **fields), connection=connection, region=region)

    def call(
        self,
        call: Call,
        *,
        connection: str = DEFAULT,
        region: str | None = None,
        on_attempt: Callable[[Attempt], None] = lambda _: None,
    ) -> Response:
        """Send any call now, and retry it as the policy of its connection says (three times unless it does).

        An event, page view or screen without an `event_id` is given one, so that a retry is not counted twice.

        Args:
            on_attempt: Called with each attempt.

        Raises:
            CallError: The call cannot be sent as it is; nothing was sent.
            SendError: Customer.io did not take it.
        """
        checked = _checked(call, region)
        request = checked.request()
        policy = self._policy(checked, connection)
        for tries in count(1):
            self._wait_for_rate(connection)
            response, attempt = self._attempt(request, connection, region)
            on_attempt(attempt)
            if response is not None and attempt.reason is None:
                return response
            delay = retry_delay_at_once(attempt, tries=tries, policy=policy, jitter=self._jitter())
            if delay is None:
                break
            self._sleep(delay)
        more = f" (given up after {tries} tries)" if tries > 1 else ""
        raise SendError(f"{attempt.reason}{more}", attempt.status)

    def batch(
        self, several: Iterable[Call], *, connection: str = DEFAULT, region: str | None = None
    ) -> list[str | None]:
        """Send many calls now in as few requests as possible, those of each person in their order.

        Returns:
            For each call what went wrong with it, or None where it arrived.

        Raises:
            CallError: One of the calls cannot be sent as it is; nothing was sent.
        """
        checked = [_checked(call, region) for call in several]
        reasons: list[str | None] = [None] * len(checked)
        for wave in _waves(connection, checked):
            attempts = self._send_wave([checked[number] for number in wave], connection, region)
            for number, attempt in zip(wave, attempts, strict=True):
                reasons[number] = attempt.reason
        return reasons

    # For the worker, which retries by itself

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt, in *region* or in the connection's own. Never raises for the network."""
        return self._attempt(request, connection, region)[1]

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Return whether a connection is well: reachable, with the right credentials, in the expected region."""
        known = self._connections.get(connection)
        if known is None:
            return Probe(cause="misconfigured", reason=_unknown_connection(connection))
        prefix, deadline = variable_prefix(connection), min(PROBE_DEADLINE, self._deadline)
        try:
            response = self._transport.exchange(_REGION_REQUEST, known, region, deadline)
        except NoAnswerError as error:
            return Probe(cause="unreachable", reason=str(error))
        actual, expected = _region_in(response), region or known.region
        if actual is None and response.status != 401:
            return Probe(cause="unreachable", reason=reason_of(response))
        # A host may not know the key of a workspace in another region: ask the other hosts before the key is blamed.
        others = [other for other in HOSTS if known.host(other) != known.host(region)] if actual is None else []
        for other in others:
            try:
                actual = actual or _region_in(self._transport.exchange(_REGION_REQUEST, known, other, deadline))
            except NoAnswerError:
                continue
        if actual == expected:
            return Probe()
        reason = f"the workspace is in {actual}, not in {expected}: set {prefix}REGION={actual}"
        if actual is None:
            reason = f"HTTP 401: the site id or the API key is wrong ({prefix}SITE_ID, {prefix}API_KEY)"
        elif region is not None:
            fix = f"write region: {actual} in the mapping, or leave the region out"
            reason = f"the workspace is in {actual}, not in {expected}: {fix}"
        return Probe(cause="misconfigured", reason=reason)

    def break_off(self, within: float) -> None:
        """Cut off the attempts and probes that are being made and do not end within so many seconds."""
        self._transport.break_off(within)

    def _attempt(self, request: HttpRequest, name: str, region: str | None) -> tuple[Response | None, Attempt]:
        at, started = time.time(), time.monotonic()
        if name not in self._connections:
            return None, attempt_without_answer(request, _unknown_connection(name), at=at, seconds=0.0)
        deadline = min(request.timeout or self._deadline, self._deadline)
        try:
            response = self._transport.exchange(request, self._connections[name], region, deadline)
        except NoAnswerError as error:
            return None, attempt_without_answer(request, str(error), at=at, seconds=time.monotonic() - started)
        seconds = time.monotonic() - started
        return response, attempt_of(request, response, at=at, seconds=seconds, now=time.time())

    def _send_wave(self, wave: Sequence[Call], connection: str, region: str | None) -> list[Attempt]:
        """Send calls of which no two go to the same person, retry those that failed, and return the last attempts."""
        policies = [self._policy(call, connection) for call in wave]
        attempts: dict[int, Attempt] = {}
        pending: Sequence[int] = range(len(wave))
        singly: set[int] = set()
        for tries in count(1):
            numbered = {number: wave[number] for number in pending}
            singly.update(number for number in pending if number in attempts and attempts[number].refused_in_batch)
            attempts.update(self._send_together(numbered, singly, connection, region))
            delays: dict[int, float] = {}
            for number in pending:
                policy, jitter = policies[number], self._jitter()
                delay = retry_delay_at_once(attempts[number], tries=tries, policy=policy, jitter=jitter)
                if delay is not None:
                    delays[number] = delay
            if not delays:
                break
            if longest := max(delays.values()):
                self._sleep(longest)
            pending = list(delays)
        return [attempts[number] for number in range(len(wave))]

    def _send_together(
        self, numbered: Mapping[int, Call], singly: Collection[int], connection: str, region: str | None
    ) -> Iterator[tuple[int, Attempt]]:
        """Send calls in batches where they have a form for it, else *singly*; yield the attempt of each."""

        def send(request: HttpRequest) -> Attempt:
            self._wait_for_rate(connection)
            return self.send(request, connection, region)

        workspace = self._connections[connection].identifiers
        items = {
            number: item
            for number, call in numbered.items()
            if number not in singly and (item := batch_item(call, workspace)) is not None
        }
        numbers = list(items)
        for span in pack([len(item.body) for item in items.values()]):
            batch = numbers[span.start : span.stop]
            attempts = send_batch([items[number] for number in batch], send)
            yield from ((number, attempt) for number, attempt in zip(batch, attempts, strict=True) if attempt)
        yield from ((number, send(call.request())) for number, call in numbered.items() if number not in items)

    def _policy(self, call: Call, name: str) -> Policy:
        if name not in self._connections:
            raise SendError(_unknown_connection(name), None)
        policy = self._connections[name].policy
        return policy_with(policy, call.retry) if isinstance(call, RawRequest) else policy

    def _wait_for_rate(self, name: str) -> None:
        if wait := self._rate_limits[name].take(time.monotonic()):
            self._sleep(wait)


def _region_in(response: Response) -> str | None:
    body = response.json
    region = body.get("region") if response.status == 200 and isinstance(body, dict) else None
    return region if isinstance(region, str) else None


def _unknown_connection(name: str) -> str:
    prefix = variable_prefix(name)
    return f"connection '{name}' is not known: set {prefix}SITE_ID and {prefix}API_KEY"


def _checked(call: Call, region: str | None) -> Call:
    """Return a call with its values coerced; raise CallError if Customer.io would not take all of it."""
    if region is not None and region not in HOSTS:
        raise CallError(f"region must be one of {', '.join(HOSTS)}")
    checked = coerce_call(call, lambda: ulid(int(time.time() * 1000), secrets.token_bytes(10)))
    known = [name for name in IDENTIFIERS if hasattr(checked, name)]
    if known and checked.address() is None and not getattr(checked, "anonymous", False):
        raise CallError(f"'{checked.name_of_call}' names nobody; give it one of {', '.join(known)}")
    if problems := checked.violations():
        raise CallError("; ".join(f"{violation.field} {violation.problem}" for violation in problems))
    return checked


def _waves(connection: str, several: Sequence[Call]) -> list[list[int]]:
    """Divide calls into waves, by their numbers: each person at most once in a wave, and in the order of the calls."""
    waves: list[list[int]] = []
    next_wave: dict[int, int] = {}  # by lane
    for number, call in enumerate(several):
        own_lanes = call.lanes(connection)
        wave = max((next_wave.get(lane, 0) for lane in own_lanes), default=0)
        next_wave.update(dict.fromkeys(own_lanes, wave + 1))
        if wave == len(waves):
            waves.append([])
        waves[wave].append(number)
    return waves
