"""Calls a second that one worker drains from a backlog, beside the official `customerio` package in 8 threads.

    python -m bench.deliver [--calls 20000] [--customers 5000] [--rounds 3] [--postgresql URL]

Both send the same events to the same stand-in for the Track API, which answers each request 20 ms after it came. In
each round the package sends its calls one by one, then a `gateway worker` drains a fresh database. Its clock runs from
the log line "worker started" until everything is settled in the database; that each call arrived exactly once is
asserted. Needs the package: pip install -e '.[bench]'.

    official     calls a second of the package
    ratio        to the package, in the same round
    *_us         processor time of a call in the worker (cpu), the package and the stand-in, in microseconds
    requests     that the worker made for its calls
    early, late  MiB that the worker held after a quarter of the calls and at the end, where that grew most
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import exists, or_, select

from bench import fast_trackapi, harness
from bench.fast_trackapi import StandIn
from bench.harness import Row
from gateway.customerio.calls import Track, from_json
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.receive.record import build_event
from gateway.store import NewEvent, Store
from gateway.store.database import Database, reading
from gateway.store.tables import IS_PARKED, IS_PENDING, deliveries
from tests.support.databases import opened

THREADS = 8
TARGET = 8.0
#: How many times what it holds after a quarter of the calls the worker's memory may be at the end.
MEMORY_TARGET = 1.05
#: Events recorded in one transaction.
GROUP = 256
#: Seconds between two looks at what has arrived or is settled.
LOOK = 0.01
#: Seconds that a worker may take to start; calls a second that are too slow to wait for.
PATIENCE, SLOWEST = 30.0, 50


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, calls=20_000, customers=5_000, official_calls=4_000, latency_ms=20.0, rounds=3)
    servers = harness.servers(options.postgresql)
    drains: dict[str, list[Row]] = {name: [] for name in servers}
    with fast_trackapi.running(options.latency_ms) as api:
        for number in range(options.rounds):
            events = list(invoice_events(f"official{number}", options.official_calls, options.customers))
            official = send_with_official_package(api, events)
            for name, server in servers.items():
                drain = drain_backlog(server, api, options, number) | official
                drains[name].append(drain | {"ratio": drain["rate"] / official["official"]})
                print(f"round {number + 1}: {name} {drain['rate']:,.0f}/s", flush=True)
    rows = [_row(name, rounds) for name, rounds in drains.items()]
    harness.report(__file__, options, rows, targets={"ratio": TARGET, "memory": MEMORY_TARGET})


def _row(database: str, rounds: Sequence[Row]) -> Row:
    """Return the medians of the rounds; memory is of the round in which it grew most."""
    row: Row = {"database": database, **harness.rates([drain["rate"] for drain in rounds])}
    for column in ("official", "ratio", "cpu_us", "official_us", "standin_us", "requests"):
        row[column] = statistics.median(drain[column] for drain in rounds)
    grown = max(rounds, key=lambda drain: drain["late"] / drain["early"])
    row |= {"early": grown["early"], "late": grown["late"]}
    return row | {"met": row["ratio"] >= TARGET and row["late"] <= row["early"] * MEMORY_TARGET}


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


def send_with_official_package(api: StandIn, events: Sequence[NewEvent]) -> Row:
    """Send the calls of these events with the `customerio` package."""
    calls = [from_json(json.loads(event.deliveries[0].text)) for event in events]
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
    api.require_each_once(len(calls))
    return {"official": len(calls) / seconds, "official_us": cpu_seconds / len(calls) * 1e6}


def drain_backlog(server: str, api: StandIn, options: argparse.Namespace, number: int) -> Row:
    """Fill a fresh database and measure how a worker empties it."""
    calls = options.calls
    with (
        harness.bench_gateway(server, api_url=api.url) as environ,
        opened(environ["DATABASE_URL"]) as database,
        tempfile.NamedTemporaryFile() as log_file,
    ):
        events, store = list(invoice_events(f"drain{number}", calls, options.customers)), Store(database)
        for first in range(0, len(events), GROUP):
            store.record(events[first : first + GROUP])
        harness.collect_statistics(environ["DATABASE_URL"])
        api.reset()
        log = Path(log_file.name)
        with harness.worker(environ, log=log) as worker:

            def wait_until(condition: Callable[[], bool], expected: str) -> None:
                def holds() -> bool:
                    assert worker.poll() is None, f"the worker ended:\n{log.read_text()[-2_000:]}"
                    return condition()

                harness.wait_until(holds, PATIENCE + calls / SLOWEST, expected, interval=LOOK)

            wait_until(lambda: "worker started" in log.read_text(), "the worker starts")
            start, cpu_start = time.monotonic(), harness.processor_seconds(worker.pid)
            standin_cpu_start = api.counts().cpu_seconds
            wait_until(lambda: api.counts().distinct >= calls / 4, "a quarter of the calls arrives")
            early = sum(harness.memory(worker.pid))
            wait_until(lambda: api.counts().distinct >= calls, "all calls arrive")
            wait_until(lambda: not _has_unsettled(database), "all is settled")
            seconds = time.monotonic() - start
            cpu_seconds = harness.processor_seconds(worker.pid) - cpu_start
            late = sum(harness.memory(worker.pid))
        api.require_each_once(calls)
        assert store.counts()["deliveries"] == {"delivered": calls}
    counts = api.counts()
    return {
        "rate": calls / seconds,
        "cpu_us": cpu_seconds / calls * 1e6,
        "standin_us": (counts.cpu_seconds - standin_cpu_start) / calls * 1e6,
        "requests": counts.requests,
        "early": early,
        "late": late,
    }


_UNSETTLED = select(or_(*(exists(select(deliveries.c.id).where(state)) for state in (IS_PENDING, IS_PARKED))))


def _has_unsettled(database: Database) -> bool:
    with reading(database) as connection:
        return bool(connection.scalar(_UNSETTLED))


if __name__ == "__main__":
    main()
