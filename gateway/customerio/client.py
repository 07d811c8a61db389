"""The Customer.io client: send one call or request and report what happened.

It can be used on its own, without the rest of the gateway (docs/client.md)::

    from gateway.customerio import Client, Connection

    with Client(Connection(site_id="…", api_key="…", region="eu")) as client:
        client.identify(id="42", attributes={"plan": "pro"})
        client.track(id="42", name="Order Paid", attributes={"total": 49.5}, event_id="order-7")
"""

from __future__ import annotations

import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Protocol, TextIO

from gateway.customerio import calls, wire
from gateway.customerio.batching import Ready, pack, send_together
from gateway.customerio.calls import IDENTIFIERS, Call, RawRequest
from gateway.customerio.coerce import coerce_call
from gateway.customerio.connection import DEFAULT, HOSTS, Connection, variable_prefix
from gateway.customerio.rate_limit import RateLimit
from gateway.customerio.response import Response, attempt_of, reason_of, shown_without_answer
from gateway.customerio.retry import Attempt, Policy, Probe, again_after, policy_with
from gateway.customerio.transport import NoAnswerError, Transport
from gateway.customerio.ulids import ulid
from gateway.customerio.wire import HttpRequest
from gateway.errors import CallError, SendError

__all__ = ["DEADLINE", "Client", "Connection", "DryRun", "Policy", "Response", "Sender"]

#: Seconds that an attempt may take in all.
DEADLINE = 20.0
#: While a probe is out nothing else is sent: an API that takes longer for it is not well.
PROBE_DEADLINE = 5.0


class Sender(Protocol):
    """What a worker needs of a client."""

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt."""

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Find out whether a connection is well."""


class Client:
    """Sends calls over one pool of kept-alive connections; any number of threads may share it.

    Args:
        connections: One workspace, or several by their names.
        pool: How many connections are kept open to each host.
        deadline: Seconds that an attempt may take in all, connecting and a trickling answer included.
        sleep: Waits for so many seconds; *jitter* gives a random number in [0, 1).
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
        self._paces = {name: RateLimit(connection.rate) for name, connection in self._connections.items()}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pool; the client cannot be used afterwards."""
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
        """Send any call now, and again as its connection's policy says (three times unless it does).

        An event, page view or screen without an `event_id` is given one, so that a retry is not counted twice.

        Args:
            on_attempt: Is told of each attempt.

        Raises:
            CallError: It cannot be sent as it is; nothing was sent.
            SendError: Customer.io did not take it.
        """
        checked = _checked(call, region)
        request = checked.request()
        policy = self._policy_of(checked, connection)
        for tries in count(1):
            self._wait_for_turn(connection)
            answer, attempt = self._exchange(request, connection, region)
            on_attempt(attempt)
            if answer is not None and attempt.reason is None:
                return answer
            after = again_after(attempt, tries=tries, policy=policy, jitter=self._jitter())
            if after is None:
                break
            self._sleep(after)
        more = f" (given up after {tries} tries)" if tries > 1 else ""
        raise SendError(f"{attempt.reason}{more}", attempt.status)

    def batch(
        self, several: Iterable[Call], *, connection: str = DEFAULT, region: str | None = None
    ) -> list[str | None]:
        """Send many calls now in as few requests as there can be, those of each person in their order.

        Gives for each what went wrong with it, or None where it arrived.

        Raises:
            CallError: One of them cannot be sent as it is; nothing was sent.
        """
        checked = [_checked(call, region) for call in several]
        problems: list[str | None] = [None] * len(checked)
        for wave in _waves(connection, checked):
            told = self._send_wave([Ready(checked[number]) for number in wave], connection, region)
            for number, problem in zip(wave, told, strict=True):
                problems[number] = problem
        return problems

    # One attempt, for the worker

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Make one attempt of a request, in the region given or the connection's own. Never raises for the network."""
        return self._exchange(request, connection, region)[1]

    def region_of(self, connection: str, region: str | None = None) -> tuple[str | None, str | None]:
        """Ask Customer.io for a connection's region, at the host of the one given or of its own.

        Gives the region, or what is wrong.
        """
        found, probe = self._asked(connection, region)
        return found, probe.reason

    def probe(self, connection: str, region: str | None = None) -> Probe:
        """Find out whether a connection is well: reachable, with the right credentials, in the expected region."""
        found, probe = self._asked(connection, region)
        known = self._connections.get(connection)
        expected = region or (known.region if known else None)
        if found is None or found == expected:
            return probe
        fix = f"set {variable_prefix(connection)}REGION={found}"
        if region is not None:
            fix = f"write region: {found} in the mapping, or leave the region out"
        return Probe(cause="misconfigured", reason=f"the workspace is in {found}, not in {expected}: {fix}")

    def _asked(self, connection: str, region: str | None) -> tuple[str | None, Probe]:
        if connection not in self._connections:
            return None, Probe(cause="misconfigured", reason=_not_known(connection))
        known = self._connections[connection]
        try:
            answer = self._ask_region(known, region)
            if answer.status == 401 and (elsewhere := self._region_elsewhere(known, region)):
                return elsewhere, Probe()
        except NoAnswerError as error:
            return None, Probe(cause="unreachable", reason=str(error))
        if found := _region_in(answer):
            return found, Probe()
        if answer.status == 401:
            prefix = variable_prefix(connection)
            reason = f"HTTP 401: the site id or the API key is wrong ({prefix}SITE_ID, {prefix}API_KEY)"
            return None, Probe(cause="misconfigured", reason=reason)
        return None, Probe(cause="unreachable", reason=reason_of(answer))

    def _ask_region(self, connection: Connection, region: str | None) -> Response:
        return self._transport.exchange(_ASK_REGION, connection, region, min(PROBE_DEADLINE, self._deadline))

    def _region_elsewhere(self, connection: Connection, asked: str | None) -> str | None:
        """Ask the other regions' hosts: a host may know nothing of a workspace that is not in its region."""
        for region in HOSTS:
            if connection.host(region) == connection.host(asked):
                continue
            try:
                found = _region_in(self._ask_region(connection, region))
            except NoAnswerError:
                continue  # what is not reached does not know the workspace either
            if found is not None:
                return found
        return None

    def _exchange(self, request: HttpRequest, name: str, region: str | None) -> tuple[Response | None, Attempt]:
        at, started = time.time(), time.monotonic()
        deadline = min(request.timeout or self._deadline, self._deadline)
        try:
            answer = self._transport.exchange(request, self._known(name), region, deadline)
        except NoAnswerError as error:
            seconds, debug = time.monotonic() - started, shown_without_answer(request)
            return None, Attempt(status=None, reason=str(error), at=at, seconds=seconds, debug=debug)
        seconds = time.monotonic() - started
        return answer, attempt_of(request, answer, at=at, seconds=seconds, now=time.time())

    def _known(self, name: str) -> Connection:
        if name not in self._connections:
            raise NoAnswerError(_not_known(name))
        return self._connections[name]

    def _policy_of(self, call: Call, name: str) -> Policy:
        if name not in self._connections:
            raise SendError(_not_known(name), None)
        policy = self._connections[name].policy
        return policy_with(policy, call.retry) if isinstance(call, RawRequest) else policy

    def _wait_for_turn(self, name: str) -> None:
        if wait := self._paces[name].take(time.monotonic()):
            self._sleep(wait)

    def _send_wave(self, wave: Sequence[Ready], connection: str, region: str | None) -> Iterable[str | None]:
        """Send calls of which no two are about the same person."""
        policies = [self._policy_of(each.call, connection) for each in wave]
        last: dict[int, Attempt] = {}
        left: Sequence[int] = range(len(wave))
        for tries in count(1):
            last.update(self._send_once({number: wave[number] for number in left}, connection, region))
            waits: dict[int, float] = {}
            for number in left:
                policy, jitter = policies[number], self._jitter()
                after = again_after(last[number], tries=tries, policy=policy, jitter=jitter)
                if after is not None:
                    waits[number] = after
            if not waits:
                break
            self._sleep(max(waits.values()))
            left = list(waits)
        return [last[number].reason for number in range(len(wave))]

    def _send_once(
        self, wave: Mapping[int, Ready], connection: str, region: str | None
    ) -> Iterator[tuple[int, Attempt]]:
        def send(request: HttpRequest) -> Attempt:
            self._wait_for_turn(connection)
            return self.send(request, connection, region)

        together = [number for number, each in wave.items() if each.item is not None]
        for span in pack([len(wave[number].item or b"") for number in together]):
            numbers = together[span.start : span.stop]
            told = send_together([wave[number] for number in numbers], send)
            yield from ((number, each) for number, each in zip(numbers, told, strict=True) if each is not None)
        yield from ((number, send(each.request)) for number, each in wave.items() if each.item is None)


class DryRun:
    """A sender that prints each request instead of sending it."""

    def __init__(self, connections: Mapping[str, Connection], out: TextIO = sys.stdout) -> None:
        self._connections = dict(connections)
        self._out = out
        self._turn = threading.Lock()

    def send(self, request: HttpRequest, connection: str, region: str | None = None) -> Attempt:
        """Print a request as it would go out, without credentials, and report it as delivered."""
        known = self._connections.get(connection) or Connection(name=connection, site_id="", api_key="")
        lines = [f"{request.method} {known.host(region)}{request.path}"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        lines += ["", request.body.decode(errors="replace")] if request.body is not None else []
        with self._turn:
            print("\n".join(lines), end="\n\n", file=self._out, flush=True)  # printing is its job
        return Attempt(status=200, at=time.time())

    def probe(self, connection: str, region: str | None = None) -> Probe:  # noqa: ARG002  # as every sender
        """Find everything well: nothing is sent that could fail."""
        return Probe()


_ASK_REGION = HttpRequest(method="GET", path=wire.REGION_PATH)


def _region_in(answer: Response) -> str | None:
    told = answer.json
    region = told.get("region") if answer.status == 200 and isinstance(told, dict) else None
    return region if isinstance(region, str) else None


def _not_known(name: str) -> str:
    prefix = variable_prefix(name)
    return f"connection '{name}' is not known: set {prefix}SITE_ID and {prefix}API_KEY"


def _checked(call: Call, region: str | None) -> Call:
    """Mend a call and make sure that Customer.io takes all of it."""
    if region is not None and region not in HOSTS:
        raise CallError(f"region must be one of {', '.join(HOSTS)}")
    checked = coerce_call(call, lambda: ulid(int(time.time() * 1000), secrets.token_bytes(10)))
    if checked.address() is None and hasattr(checked, "id"):
        known = [name for name in IDENTIFIERS if hasattr(checked, name)]
        raise CallError(f"'{checked.name_of_call}' names nobody; give it one of {', '.join(known)}")
    if found := checked.violations():
        raise CallError("; ".join(f"{each.field} {each.problem}" for each in found))
    return checked


def _waves(connection: str, several: Sequence[Call]) -> list[list[int]]:
    """Divide calls so that no two of one person go out together, nor a later one before an earlier one."""
    waves: list[list[int]] = []
    next_of: dict[int, int] = {}
    for number, call in enumerate(several):
        own = call.lanes(connection)
        wave = max((next_of.get(each, 0) for each in own), default=0)
        next_of.update(dict.fromkeys(own, wave + 1))
        if wave == len(waves):
            waves.append([])
        waves[wave].append(number)
    return waves
