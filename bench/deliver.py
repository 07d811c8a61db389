"""Calls a second that one worker drains from a backlog, beside the official `customerio` package in 8 threads.

    python -m bench.deliver [--calls 20000] [--customers 5000] [--rounds 3] [--postgresql URL]

Both send the same events to the same stand-in for the Track API, which answers each request 20 ms after it came. In
each round the package sends its calls one by one, then a `gateway worker` drains a fresh database. Its clock runs from
the log line "worker started" until everything is settled in the database; that each call arrived exactly once is
asserted. Needs the package: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import exists, or_, select

from bench import fast_trackapi, harness
from bench.fast_trackapi import StandIn
from gateway.customerio.calls import Track, from_json
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.receive.record import build_event
from gateway.store import NewEvent, Store
from gateway.store.database import Database, connect, reading
from gateway.store.tables import IS_PARKED, IS_PENDING, deliveries

THREADS = 8
TARGET = 8.0
#: How many times what it holds after a quarter of the calls the worker's memory may be at the end.
MEMORY_TARGET = 1.05
#: Events recorded in one transaction.
GROUP = 256
#: Seconds between two looks at what has arrived, and then between two at what is settled.
LOOK, LAST_LOOK = 0.05, 0.005
#: Seconds that a worker may take to start; calls a second that are too slow to wait for.
PATIENCE, SLOWEST = 30.0, 50


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one database did: medians of the rounds.

    Attributes:
        official: Calls a second of the `customerio` package.
        ratio: To the package, in the same round.
        cpu_us, official_us, standin_us: Processor time of a call in the worker, the package and the stand-in.
        requests: That the worker made for its calls.
        early, late: MiB that the worker held after a quarter of the calls and at the end, where that grew most.
    """

    database: str
    per_second: int
    lowest: int
    highest: int
    official: int
    ratio: float
    cpu_us: int
    official_us: int
    standin_us: int
    requests: int
    early: float
    late: float
    met: bool


@dataclass(frozen=True, kw_only=True)
class Drain:
    """One drained backlog; *ratio* to the package in the same round, costs in microseconds, memory in MiB."""

    per_second: float
    official: float
    ratio: float
    cpu_us: float
    official_us: float
    standin_us: float
    requests: int
    early: float
    late: float


@dataclass(kw_only=True)
class Target:
    """A database and its rounds so far."""

    name: str
    server: str
    drains: list[Drain] = field(default_factory=list)

    def figures(self) -> Figures:
        """Sum up the rounds."""

        def median(name: str) -> float:
            return statistics.median(float(getattr(drain, name)) for drain in self.drains)

        most_grown = max(self.drains, key=lambda drain: drain.late / drain.early)
        rates = [drain.per_second for drain in self.drains]
        return Figures(
            database=self.name,
            per_second=round(median("per_second")),
            lowest=round(min(rates)),
            highest=round(max(rates)),
            official=round(median("official")),
            ratio=round(median("ratio"), 2),
            cpu_us=round(median("cpu_us")),
            official_us=round(median("official_us")),
            standin_us=round(median("standin_us")),
            requests=round(median("requests")),
            early=round(most_grown.early, 1),
            late=round(most_grown.late, 1),
            met=median("ratio") >= TARGET and most_grown.late <= most_grown.early * MEMORY_TARGET,
        )


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, calls=20_000, customers=5_000, official_calls=4_000, latency_ms=20.0, rounds=3)
    targets = [Target(name=name, server=server) for name, server in harness.servers(options.postgresql).items()]
    with fast_trackapi.running(options.latency_ms) as api:
        for number in range(options.rounds):
            events = list(invoice_events(f"official{number}", options.official_calls, options.customers))
            official, official_us = send_with_official_package(api, events)
            for target in targets:
                target.drains.append(drain_backlog(target.server, api, options, number, official, official_us))
                print(f"round {number + 1}: {target.name} {target.drains[-1].per_second:,.0f}/s", flush=True)
    rows = [target.figures() for target in targets]
    harness.print_table(rows)
    harness.keep(__file__, options, rows, targets={"ratio": TARGET, "memory": MEMORY_TARGET})


def invoice_events(prefix: str, count: int, customers: int) -> Iterator[NewEvent]:
    """Make events of one call each, as the receiver does."""
    mapping, _ = parse(harness.ONE_CALL, "bench.yaml")
    for number in range(count):
        webhook = Webhook(
            method="POST",
            url="http://localhost/hooks/bench",
            headers={"content-type": "application/json"},
            query={},
            body=harness.invoice(f"{prefix}-{number}", customer=f"{prefix}-{number % customers}"),
        )
        yield build_event(mapping, webhook, time.time())


def send_with_official_package(api: StandIn, events: Sequence[NewEvent]) -> tuple[float, float]:
    """Send the calls of these events; return calls a second, and microseconds of processor time a call."""
    calls = [from_json(json.loads(event.deliveries[0].call)) for event in events]
    # Imported by name: it is there for benchmarks only, and ships no types.
    client = importlib.import_module("customerio").CustomerIO("site", "key")
    # It always makes an https:// address. So that both sides send plain http to one stand-in, the address is set
    # afterwards, and its https adapter (its own pool, retries and socket options) is used for http too.
    client.base_url = f"{api.url}/api/v1"
    client.http.mount("http://", client.http.get_adapter("https://"))

    def send_every_nth(first: int) -> None:
        for call in calls[first::THREADS]:
            assert isinstance(call, Track)
            client.track(call.id, call.name, call.attributes, id=call.event_id, timestamp=call.timestamp)

    api.reset()
    start, cpu_start = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(send_every_nth, range(THREADS)))
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    client.close()
    _require_each_once(api, len(calls))
    return len(calls) / seconds, cpu_seconds / len(calls) * 1e6


def drain_backlog(
    server: str, api: StandIn, options: argparse.Namespace, round_: int, official: float, official_us: float
) -> Drain:
    """Fill a fresh database and measure how a worker empties it."""
    with harness.bench_gateway(server, api_url=api.url) as environ, tempfile.NamedTemporaryFile() as log_file:
        database, log = connect(environ["DATABASE_URL"]), Path(log_file.name)
        try:
            events = list(invoice_events(f"drain{round_}", options.calls, options.customers))
            store = Store(database)
            for first in range(0, len(events), GROUP):
                store.record(events[first : first + GROUP])
            harness.collect_statistics(environ["DATABASE_URL"])
            api.reset()
            deadline = time.monotonic() + PATIENCE + options.calls / SLOWEST
            with harness.worker(environ, log=log) as worker:

                def check_worker(waiting_for: str) -> None:
                    if worker.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"no {waiting_for} from the worker:\n{log.read_text()[-2_000:]}")

                while "worker started" not in log.read_text():
                    check_worker("start")
                    time.sleep(LAST_LOOK)
                start, cpu_start = time.monotonic(), harness.processor_seconds(worker.pid)
                standin_cpu_start, early = api.counts().cpu_seconds, 0.0
                while (counts := api.counts()).distinct < options.calls:
                    if not early and counts.distinct >= options.calls / 4:
                        early = sum(harness.memory(worker.pid))
                    check_worker("calls")
                    time.sleep(LOOK)
                while _has_unsettled(database):
                    check_worker("settlement")
                    time.sleep(LAST_LOOK)
                seconds = time.monotonic() - start
                cpu_seconds = harness.processor_seconds(worker.pid) - cpu_start
                late = sum(harness.memory(worker.pid))
            _require_each_once(api, options.calls)
            assert store.counts()["deliveries"] == {"delivered": options.calls}
        finally:
            database.engine.dispose()
    return Drain(
        per_second=options.calls / seconds,
        official=official,
        ratio=options.calls / seconds / official,
        cpu_us=cpu_seconds / options.calls * 1e6,
        official_us=official_us,
        standin_us=(counts.cpu_seconds - standin_cpu_start) / options.calls * 1e6,
        requests=counts.requests,
        early=early or late,
        late=late,
    )


def _require_each_once(api: StandIn, calls: int) -> None:
    counts = api.counts()
    assert not counts.refused, f"{counts.refused} requests were refused"
    assert counts.calls == counts.distinct == calls, f"of {calls} calls {counts.distinct} arrived, {counts.calls} times"


_UNSETTLED = select(or_(*(exists(select(deliveries.c.id).where(state)) for state in (IS_PENDING, IS_PARKED))))


def _has_unsettled(database: Database) -> bool:
    with reading(database) as connection:
        return bool(connection.scalar(_UNSETTLED))


if __name__ == "__main__":
    main()
