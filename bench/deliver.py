"""Calls a second that one worker drains from a backlog, beside the official `customerio` package.

    python -m bench.deliver [--calls 20000] [--customers 5000] [--rounds 3] [--postgresql URL]

Both send the same events to the same stand-in for the Track API, which answers each request 20 ms after it came. In
each round the package sends its calls in three ways: one by one in 8 threads, and with its own `batch()` of 100, one
batch after the other and in 8 threads. It reads them from memory and forgets them. Then a `gateway worker` drains a
fresh database: its clock runs from the log line "worker started" until everything is settled there. That each call
arrived exactly once is asserted. Needs the package: pip install -e '.[bench]'.

    official     calls a second of the package, one by one in 8 threads
    batch        calls a second of its batches, one after the other; batch8: in 8 threads
    ratio*       to each of the three, in the same round
    *_us         processor time of a call, in microseconds, of the worker (cpu), package (single calls) and stand-in
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
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import exists, or_, select

from bench import fast_trackapi, harness
from bench.fast_trackapi import StandIn
from bench.harness import Row
from gateway.customerio.calls import Call, Track, from_json
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.receive.record import build_event
from gateway.store import NewEvent, Store
from gateway.store.database import Database, reading
from gateway.store.tables import IS_PARKED, IS_PENDING, deliveries
from tests.support.databases import opened
from tests.support.machine import memory

#: The ways in which the package sends: how many threads, and how many calls in a request.
OFFICIAL = {"official": (8, 1), "batch": (1, 100), "batch8": (8, 100)}
TARGET, BATCH_TARGET = 25.0, 3.0
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
            official = official_rates(api, options, number)
            for name, server in servers.items():
                drain = drain_backlog(server, api, options, number)
                ratios = {_ratio_to(way): drain["rate"] / official[way] for way in OFFICIAL}
                drains[name].append(drain | official | ratios)
                print(f"round {number + 1}: {name} {drain['rate']:,.0f}/s", flush=True)
    rows = [_row(name, rounds) for name, rounds in drains.items()]
    targets = {"ratio": TARGET, "ratio_batch": BATCH_TARGET, "memory": MEMORY_TARGET}
    harness.report(__file__, options, rows, targets=targets)


def _ratio_to(way: str) -> str:
    return "ratio" if way == "official" else f"ratio_{way}"


def _row(database: str, rounds: Sequence[Row]) -> Row:
    """Return the medians of the rounds; memory is of the round in which it grew most."""
    row: Row = {"database": database, **harness.rates([drain["rate"] for drain in rounds])}
    for column in (*OFFICIAL, *map(_ratio_to, OFFICIAL), "cpu_us", "official_us", "standin_us", "requests"):
        row[column] = statistics.median(drain[column] for drain in rounds)
    grown = max(rounds, key=lambda drain: drain["late"] / drain["early"])
    row |= {"early": grown["early"], "late": grown["late"]}
    is_fast = row["ratio"] >= TARGET and row["ratio_batch"] >= BATCH_TARGET
    return row | {"met": is_fast and row["late"] <= row["early"] * MEMORY_TARGET}


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


def official_rates(api: StandIn, options: argparse.Namespace, number: int) -> Row:
    """Send calls with the `customerio` package, in each of its ways."""
    rates: Row = {}
    for way, (threads, size) in OFFICIAL.items():
        count = options.official_calls if size == 1 else options.calls
        events = invoice_events(f"{way}{number}", count, options.customers)
        calls = [from_json(json.loads(event.deliveries[0].text)) for event in events]
        seconds, cpu_seconds = send_with_official_package(api, calls, threads, size)
        rates |= {way: count / seconds} | ({"official_us": cpu_seconds / count * 1e6} if size == 1 else {})
    return rates


def send_with_official_package(api: StandIn, calls: Sequence[Call], threads: int, size: int) -> tuple[float, float]:
    """Send calls with the `customerio` package, *size* in a request; return the seconds and the processor seconds."""
    # Imported by name: it is there for benchmarks only, and ships no types.
    client = importlib.import_module("customerio").CustomerIO("site", "key")
    # It makes https:// addresses only. Both sides send plain http to one stand-in, so its own adapter (with its pool,
    # retries and socket options) is told to.
    client.host, _, client.port = api.url.removeprefix("http://").partition(":")
    client.base_url = f"https://{client.host}:{client.port}/api/v1"
    adapter = client.http.get_adapter("https://")
    send_by_https = adapter.send

    def send_by_http(request: Any, **options: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return send_by_https(request, **options)

    adapter.send = send_by_http

    def send_single(call: Call) -> None:
        assert isinstance(call, Track)
        client.track(call.id, call.name, call.attributes, id=call.event_id, timestamp=call.timestamp)

    if size == 1:
        jobs = [partial(send_single, call) for call in calls]
    else:
        operations = [call.operation() for call in calls]
        jobs = [partial(client.batch, operations[first : first + size]) for first in range(0, len(calls), size)]

    api.reset()
    start, cpu_start = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for finished in [pool.submit(job) for job in jobs]:
            finished.result()
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    client.close()
    api.require_each_once(len(calls))
    return seconds, cpu_seconds


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
            early = sum(memory(worker.pid))
            wait_until(lambda: api.counts().distinct >= calls, "all calls arrive")
            wait_until(lambda: not _has_unsettled(database), "all is settled")
            seconds = time.monotonic() - start
            cpu_seconds = harness.processor_seconds(worker.pid) - cpu_start
            late = sum(memory(worker.pid))
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
