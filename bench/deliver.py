"""Calls a second that one worker drains from a backlog, beside the official `customerio` package in 8 threads.

    python -m bench.deliver [--calls 20000] [--customers 5000] [--rounds 3] [--postgresql URL]

Both send the same kind of events to the same stand-in for the Track API, which answers each request 20 ms after it
arrived. In each round the package sends its calls one by one, and then a `gateway worker` drains a fresh database.
Its clock runs from the line "worker started" until all is settled in the database; that each call arrived exactly
once is asserted. Needs the package: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, exists, or_, select

from bench import fast_trackapi, serving, webhooks
from bench.fast_trackapi import Counts, StandIn
from gateway.customerio.calls import Track, from_json
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.receive.record import build_event
from gateway.store.database import Database, connect, reading
from gateway.store.record_and_claim import NewEvent, Store
from gateway.store.tables import IS_PARKED, IS_PENDING, deliveries

THREADS = 8
TARGET = 8.0
#: How many times what it holds after a quarter of the calls the worker's memory may be at the end.
MEMORY_TARGET = 1.05
GROUP = 256
#: Seconds between two looks at what has arrived, and then between two at what is settled.
LOOK, LAST_LOOK = 0.05, 0.005
#: Seconds that a worker may take to start; a drain, with the calls a second that are too slow to be waited for.
PATIENCE = 30.0
SLOWEST = 50


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one database made of it: medians of the rounds, and the slowest and the quickest of them.

    Attributes:
        official: Calls a second of the `customerio` package.
        ratio: To the package, in the same round.
        arriving: Calls a second between the first request and the last, as the stand-in saw them.
        cost, official_cost: Processor time of a call in the worker and in the package, in microseconds.
        standin_cost: That of the stand-in, which shares the machine, for a call of the worker.
        requests: That the worker made for its calls.
        after_a_quarter, at_the_end: What the worker held, in MiB, in the round in which that grew most.
    """

    name: str
    per_second: float
    slowest: float
    quickest: float
    official: float
    ratio: float
    arriving: float
    cost: float
    official_cost: float
    standin_cost: float
    requests: int
    after_a_quarter: float
    at_the_end: float
    ratio_met: bool
    memory_met: bool


def main() -> None:
    """Measure and print."""
    options = _options()
    servers = {"SQLite": ""} | ({"PostgreSQL": options.postgresql} if options.postgresql else {})
    cases = [_Case(name=name, server=server) for name, server in servers.items()]
    with fast_trackapi.running(options.latency_ms) as api:
        for number in range(options.rounds):
            official = _official(api, list(_events(f"official{number}", options.official_calls, options)))
            print(f"round {number + 1}: customerio {official.rate:.0f}/s", end="", flush=True)
            for case in cases:
                case.officials.append(official)
                case.drains.append(_drain(case, api, options))
                print(f", {case.name} {case.drains[-1].rate:.0f}/s", end="", flush=True)
            print()
    figures = list(map(_figures, cases))
    _print(figures)
    setting = {key: value for key, value in vars(options).items() if key != "postgresql"}
    targets = {"ratio": TARGET, "memory": MEMORY_TARGET}
    serving.keep(__file__, {"options": setting, "targets": targets, "databases": list(map(asdict, figures))})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="in the backlog")
    parser.add_argument("--customers", type=int, default=5_000, help="whom the calls go to, in turns")
    parser.add_argument("--official-calls", type=int, default=4_000, help="that the package makes a round")
    parser.add_argument("--latency-ms", type=float, default=20, help="what the stand-in takes for an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def _print(figures: Sequence[Figures]) -> None:
    print(
        f"\n{'':12}{'/s':>7}{'from':>7}{'to':>7}{'official':>10}{'ratio':>7}{'arriving':>10}{'cpu us':>8}"
        f"{'official':>10}{'requests':>10}{'MiB at 1/4':>12}{'at the end':>12}"
    )
    for each in figures:
        print(
            f"{each.name:12}{each.per_second:7.0f}{each.slowest:7.0f}{each.quickest:7.0f}{each.official:10.0f}"
            f"{each.ratio:7.2f}{each.arriving:10.0f}{each.cost:8.0f}{each.official_cost:10.0f}"
            f"{each.requests:10}{each.after_a_quarter:12.1f}{each.at_the_end:12.1f}"
        )
    for each in figures:
        ratio = f"ratio {each.ratio:.2f}, at least {TARGET:g}: {_verdict(each.ratio_met)}"
        grown = each.at_the_end / each.after_a_quarter
        print(f"{each.name}: {ratio}; memory x {grown:.2f}, at most {MEMORY_TARGET:g}: {_verdict(each.memory_met)}")


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"


@dataclass(frozen=True, kw_only=True)
class _Official:
    """One run of the package."""

    rate: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class _Drain:
    """One backlog, drained; memory in MiB."""

    rate: float
    arriving: float
    cost: float
    standin_cost: float
    requests: int
    early: float
    late: float


@dataclass(kw_only=True)
class _Case:
    """One database, and the rounds so far."""

    name: str
    server: str
    officials: list[_Official] = field(default_factory=list)
    drains: list[_Drain] = field(default_factory=list)


def _figures(case: _Case) -> Figures:
    rates = [each.rate for each in case.drains]
    rounds = zip(case.drains, case.officials, strict=True)
    ratio = statistics.median(drain.rate / official.rate for drain, official in rounds)
    grown = max(case.drains, key=lambda each: each.late / each.early)
    return Figures(
        name=case.name,
        per_second=round(statistics.median(rates)),
        slowest=round(min(rates)),
        quickest=round(max(rates)),
        official=round(statistics.median(each.rate for each in case.officials)),
        ratio=round(ratio, 2),
        arriving=round(statistics.median(each.arriving for each in case.drains)),
        cost=round(statistics.median(each.cost for each in case.drains)),
        official_cost=round(statistics.median(each.cost for each in case.officials)),
        standin_cost=round(statistics.median(each.standin_cost for each in case.drains)),
        requests=round(statistics.median(each.requests for each in case.drains)),
        after_a_quarter=round(grown.early, 1),
        at_the_end=round(grown.late, 1),
        ratio_met=ratio >= TARGET,
        memory_met=grown.late <= grown.early * MEMORY_TARGET,
    )


# The calls


def _events(prefix: str, number: int, options: argparse.Namespace) -> Iterator[NewEvent]:
    """Make events as the receiver does, of one call each."""
    mapping, _ = parse(webhooks.ONE_CALL, "bench.yaml")
    for each in range(number):
        written = webhooks.written(f"{prefix}-{each}", customer=f"{prefix}-{each % options.customers}")
        webhook = Webhook(
            method="POST",
            url="http://localhost/hooks/bench",
            headers={"content-type": "application/json"},
            query={},
            body=written.partition(b"\r\n\r\n")[2],
        )
        yield build_event(mapping, webhook, time.time())


# The yardstick


def _official(api: StandIn, events: Sequence[NewEvent]) -> _Official:
    """Have the package make the calls that the worker would make of these events."""
    calls = [_track(event) for event in events]
    # Found by its name: it is there for benchmarks only, and ships no types.
    client = importlib.import_module("customerio").CustomerIO("site", "key")
    # It always makes an https:// of the host that it is given. So that both sides send plain http to one
    # stand-in, the address is set afterwards, and what it would use for https (its own pool, retries and socket
    # options) is used for http too. All else is as it comes.
    client.base_url = f"{api.url}/api/v1"
    client.http.mount("http://", client.http.get_adapter("https://"))

    def make(first: int) -> None:
        for call in calls[first::THREADS]:
            client.track(call.id, call.name, call.attributes, id=call.event_id, timestamp=call.timestamp)

    api.forget()
    began, spent = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(make, first) for first in range(THREADS)]:
            done.result()
    seconds, spent = time.monotonic() - began, time.process_time() - spent
    client.close()
    _require_all(api.counts(), len(calls))
    return _Official(rate=len(calls) / seconds, cost=spent / len(calls) * 1e6)


def _track(event: NewEvent) -> Track:
    call = from_json(json.loads(event.deliveries[0].call))
    assert isinstance(call, Track)
    return call


def _require_all(counts: Counts, calls: int) -> None:
    assert not counts.refused, f"{counts.refused} requests were refused"
    arrived = f"of {calls} calls {counts.distinct} arrived, in all {counts.calls} times"
    assert counts.calls == counts.distinct == calls, arrived


# The worker


def _drain(case: _Case, api: StandIn, options: argparse.Namespace) -> _Drain:
    """Fill a fresh database, and see how a worker empties it."""
    with (
        serving.scratch_directory() as directory,
        serving.fresh_database(case.server, directory) as url,
    ):
        credentials = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key"}
        environ = webhooks.environment(directory, webhooks.ONE_CALL, url, **credentials, CUSTOMERIO_BASE_URL=api.url)
        serving.migrate(environ)
        database = connect(url)
        try:
            _record(database, list(_events(f"drain{len(case.drains)}", options.calls, options)))
            _tidy_up(url, database)
            api.forget()
            with _started_worker(environ, directory / "worker.log") as worker:
                drained = _watch(worker, database, api, options.calls)
            _require_all(api.counts(), options.calls)
            settled = Store(database).counts()["deliveries"]
            assert settled == {"delivered": options.calls}, f"deliveries came to {settled}"
            return drained
        finally:
            database.engine.dispose()


def _record(database: Database, events: Sequence[NewEvent]) -> None:
    store = Store(database)
    for first in range(0, len(events), GROUP):
        store.record(events[first : first + GROUP])


def _tidy_up(url: str, database: Database) -> None:
    """Have statistics, and nothing left to write of the recording: that is not what is measured."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in _AFTERWARDS[database.engine.dialect.name]:
            connection.exec_driver_sql(statement)
    engine.dispose()


_AFTERWARDS = {
    "sqlite": ("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"),
    "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
}


class _Worker:
    """A worker that runs, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    def memory(self) -> float:
        """Read what it holds, in MiB."""
        return sum(serving.memory(self.pid))

    def has_started(self) -> bool:
        return "worker started" in self._log.read_text()

    def require(self, until: float, waited_for: str) -> None:
        """Raise with the end of its log when it has ended, or when it is too late."""
        ended = self._process.poll() is not None
        if ended or time.monotonic() > until:
            why = "the worker ended" if ended else "the worker took too long"
            raise RuntimeError(f"{why}; waited for {waited_for}\n{self._log.read_text()[-2_000:]}")


@contextmanager
def _started_worker(environ: Mapping[str, str], log: Path) -> Iterator[_Worker]:
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*serving.GATEWAY, "worker"], env=dict(environ), start_new_session=True, stderr=stderr
        )
    try:
        worker = _Worker(process, log)
        until = time.monotonic() + PATIENCE
        while not worker.has_started():
            worker.require(until, "its start")
            time.sleep(LAST_LOOK)
        yield worker
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _watch(worker: _Worker, database: Database, api: StandIn, calls: int) -> _Drain:
    """Look on, at little cost, until all calls have arrived and are settled."""
    began, spent = time.monotonic(), serving.processor_seconds(worker.pid)
    standin_spent = api.counts().processor_seconds
    until = began + PATIENCE + calls / SLOWEST
    early = 0.0
    while (counts := api.counts()).distinct < calls:
        if not early and counts.distinct >= calls / 4:
            early = worker.memory()
        assert not counts.refused, f"{counts.refused} requests were refused"
        worker.require(until, f"calls; there are {counts}")
        time.sleep(LOOK)
    while _is_unsettled(database):
        worker.require(until, "what arrived to be settled")
        time.sleep(LAST_LOOK)
    seconds = time.monotonic() - began
    spent = serving.processor_seconds(worker.pid) - spent
    late = worker.memory()
    return _Drain(
        rate=calls / seconds,
        arriving=calls / max(counts.last - counts.first, LAST_LOOK),
        cost=spent / calls * 1e6,
        standin_cost=(counts.processor_seconds - standin_spent) / calls * 1e6,
        requests=counts.requests,
        early=early or late,
        late=late,
    )


def _is_unsettled(database: Database) -> bool:
    with reading(database) as connection:
        return bool(connection.scalar(_UNSETTLED))


_UNSETTLED = select(or_(*(exists(select(deliveries.c.id).where(each)) for each in (IS_PENDING, IS_PARKED))))


if __name__ == "__main__":
    main()
