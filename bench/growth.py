"""The cost of receiving and of delivering one event with few and with many rows behind it.

    python -m bench.growth [--full] [--rounds 8] [--postgresql URL]

Each database is filled by bulk SQL with events, deliveries and attempts that are done, and once more with 50,000
deliveries parked behind one failing customer. Then, on all of them in turns, webhooks are posted to a real web for
some seconds, and what they ask for is claimed and settled in groups. A ratio is to the smallest database of the
same run, and may be 1.2. At the end web and worker run on the largest one, and what they hold in memory is read.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import Connection, create_engine, text

from bench import serving, webhooks
from bench.ingest import Load
from gateway.customerio.connection import DEFAULT
from gateway.customerio.retry import Attempt, Delivered
from gateway.store import Claimed, ClaimRequest, Outcome, Store
from gateway.store.database import Database, connect
from gateway.store.schema import migrate
from tests.support.trackapi import TrackAPI

GROUP = 32
CONNECTIONS = 32
WARM_UP = 1.0  # seconds
PARKED = 50_000
TARGET = 1.2
MEMORY_TARGET = 150.0  # MiB
#: Rows of one transaction while a database is filled.
PORTION = 50_000
SENDERS = 8


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many events were done before, and how many deliveries wait behind one that fails."""

    rows: int
    parked: int = 0

    def __str__(self) -> str:
        return f"{self.rows:,}" + (f" + {self.parked:,} parked" if self.parked else "")


QUICK = (Size(rows=1_000), Size(rows=100_000), Size(rows=100_000, parked=PARKED))
FULL = (*QUICK, Size(rows=1_000_000), Size(rows=1_000_000, parked=PARKED))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The cost of one event on one database, and its ratio to that on the smallest.

    Attributes:
        receive: Processor time of a webhook in the web processes, in microseconds: the median of the rounds.
        per_second: How many were accepted; SQLite's writing back of its log counts here too.
        deliver: Time of settling one and claiming the next, in microseconds: the median of the groups.
        deliver_mean: The same, with whatever else the database and the machine did.
    """

    database: str
    size: str
    receive: float
    receive_ratio: float
    per_second: float
    per_second_ratio: float
    deliver: float
    deliver_ratio: float
    deliver_mean: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one process of web or worker holds, in MiB, after a third of the webhooks and after all."""

    database: str
    process: str
    after_a_third: float
    at_the_end: float


def main() -> None:
    """Measure and print."""
    options = _options()
    servers = {"SQLite": ""} | ({"PostgreSQL": options.postgresql} if options.postgresql else {})
    growth: list[Figures] = []
    memory: list[Memory] = []
    for name, server in servers.items():
        with serving.scratch_directory() as directory, ExitStack() as opened:
            sizes = FULL if options.full else QUICK
            cases = [opened.enter_context(_case(size, server, directory)) for size in sizes]
            for _ in range(options.rounds):
                for case in cases:
                    case.measure(options.seconds)
            found = list(_figures(name, cases))
            _print_growth(found)
            growth += found
            memory += _memory(name, cases[-1].url, directory, options.webhooks)
    _print_memory(memory)
    met = {
        "growth_met": all(max(each.receive_ratio, each.deliver_ratio) <= TARGET for each in growth),
        "memory_met": all(each.at_the_end <= MEMORY_TARGET for each in memory),
    }
    kept = {"growth": list(map(asdict, growth)), "memory": list(map(asdict, memory)), **met}
    serving.keep(__file__, kept)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="with a million rows too; takes minutes")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5, help="of receiving, in each round on each database")
    parser.add_argument("--webhooks", type=int, default=6_000, help="how many the memory is measured with")
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def _print_growth(found: Sequence[Figures]) -> None:
    columns = f"{'receive us':>12}{'ratio':>7}{'/s':>7}{'ratio':>7}{'deliver us':>12}{'ratio':>7}{'mean us':>9}"
    print(f"\n{found[0].database:32}{columns}")
    for each in found:
        print(
            f"{each.size:32}{each.receive:12.0f}{each.receive_ratio:7.2f}{each.per_second:7.0f}"
            f"{each.per_second_ratio:7.2f}{each.deliver:12.0f}{each.deliver_ratio:7.2f}{each.deliver_mean:9.0f}"
        )


def _print_memory(found: Sequence[Memory]) -> None:
    print(f"\n{'memory, MiB':32}{'after a third':>14}{'at the end':>12}")
    for each in found:
        print(f"{each.database + ', ' + each.process:32}{each.after_a_third:14.0f}{each.at_the_end:12.0f}")


# What one event costs


@dataclass(kw_only=True)
class _Case:
    """One filled database with a web on it, and what has been measured there."""

    size: Size
    url: str
    store: Store
    web: serving.Web
    received: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        """Receive for some seconds, then deliver all of it: the lanes are free again afterwards."""
        before = serving.processor_seconds(self.web.pid)
        load = Load(self.web.port, CONNECTIONS, seconds)
        assert not load.refused, f"{load.refused} webhooks were not accepted"
        self.received.append((serving.processor_seconds(self.web.pid) - before) / len(load.times) * 1e6)
        self.rates.append(len(load.times) / load.seconds)
        claimed = _settle_and_claim(self.store, [])
        while claimed:
            outcomes = list(map(_outcome, claimed))
            began = time.perf_counter()
            claimed = _settle_and_claim(self.store, outcomes)
            self.delivered.append((time.perf_counter() - began) / len(outcomes) * 1e6)


def _settle_and_claim(store: Store, outcomes: Sequence[Outcome]) -> list[Claimed]:
    return store.settle_and_claim(
        outcomes, ClaimRequest(limit=GROUP, lease=secrets.randbits(63), lease_seconds=120)
    ).claimed


def _outcome(delivery: Claimed) -> Outcome:
    attempt = Attempt(status=200, at=time.time(), seconds=0.05)
    return Outcome(delivery=delivery, attempt=attempt, decision=Delivered())


def _figures(database: str, cases: Sequence[_Case]) -> Iterator[Figures]:
    received, rate, delivered = _medians(cases[0])
    for case in cases:
        its_received, its_rate, its_delivered = _medians(case)
        yield Figures(
            database=database,
            size=str(case.size),
            receive=round(its_received),
            receive_ratio=round(its_received / received, 2),
            per_second=round(its_rate),
            per_second_ratio=round(its_rate / rate, 2),
            deliver=round(its_delivered, 1),
            deliver_ratio=round(its_delivered / delivered, 2),
            deliver_mean=round(statistics.mean(case.delivered), 1),
        )


def _medians(case: _Case) -> tuple[float, float, float]:
    return statistics.median(case.received), statistics.median(case.rates), statistics.median(case.delivered)


# Filling a database


@contextmanager
def _case(size: Size, server: str, directory: Path) -> Iterator[_Case]:
    name = hashlib.sha256(str(size).encode()).hexdigest()[:8]
    with serving.fresh_database(server, directory, name) as url:
        database = connect(url)
        try:
            migrate(database)
            _fill(url, database, size)
            own = directory / name
            own.mkdir()
            with serving.web(webhooks.environment(own, webhooks.ONE_CALL, url)) as web:
                Load(web.port, CONNECTIONS, WARM_UP)
                yield _Case(size=size, url=url, store=Store(database), web=web)
        finally:
            database.engine.dispose()


def _fill(url: str, database: Database, size: Size) -> None:
    began = time.monotonic()
    dialect = database.engine.dialect.name
    for first in range(1, size.rows + 1, PORTION):
        numbers = {"first": first, "last": min(first + PORTION - 1, size.rows)}
        with database.transaction() as connection:
            for statement in (_EVENTS, _DONE, _ATTEMPTS):
                _run(connection, statement, dialect, numbers)
    if size.parked:
        last = size.rows + size.parked
        with database.transaction() as connection:
            _run(connection, _WAITING, dialect, {"first": size.rows + 1, "last": last, "head": size.rows + 1})
    _tidy_up(url, _AFTERWARDS[dialect])
    print(f"filled {dialect} with {size} in {time.monotonic() - began:.0f} s", flush=True)


def _run(connection: Connection, statement: str, dialect: str, parameters: dict[str, int]) -> None:
    written = statement
    for word, means in _DIALECTS[dialect].items():
        written = written.replace(word, means)
    connection.execute(text(written), parameters)


def _tidy_up(url: str, statements: Sequence[str]) -> None:
    """Have statistics and no backlog, outside of any transaction: those of the gateway's own engine would begin one."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


# As wide as the webhooks that are received: bytes of the JSON as it is stored.
_BODY = '{"type":"invoice.paid","data":"' + "x" * 1_200 + '"}'
_HEADERS = '{"user-agent":"' + "x" * 500 + '"}'
_CALL = '{"call":"track","id":"cus_1","name":"Invoice Paid","attributes":{"note":"' + "x" * 150 + '"}}'

_DIALECTS = {
    "sqlite": {
        "NUMBERS": "(WITH RECURSIVE upto(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM upto WHERE n < :last)"
        " SELECT n FROM upto)",
        "HASH": "randomblob(32)",
        "LANE": "random()",
        "BYTES(": "CAST(",
        ")BYTES": " AS BLOB)",
    },
    "postgresql": {
        "NUMBERS": "(SELECT n FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n)",
        "HASH": "sha256(CAST(CAST(n AS text) || CAST(random() AS text) AS bytea))",
        "LANE": "CAST(random() * 9e18 AS bigint)",
        "BYTES(": "CAST(",
        ")BYTES": " AS bytea)",
    },
}
_EVENTS = f"""\
INSERT INTO events (source, key, received_at, headers, query, body, event_type, status)
SELECT 'bench', HASH, 1.7e9 + n, BYTES('{_HEADERS}')BYTES, BYTES('{{}}')BYTES, BYTES('{_BODY}')BYTES,
       'invoice.paid', 'accepted'
FROM NUMBERS AS numbers
"""
_DONE = f"""\
INSERT INTO deliveries (event_id, identity, connection, lane, call, status, due_at, tries, settled_at)
SELECT n, HASH, '{DEFAULT}', LANE, '{_CALL}', 'delivered', 1.7e9 + n, 1, 1.7e9 + n FROM NUMBERS AS numbers
"""
_ATTEMPTS = """\
INSERT INTO attempts (delivery_id, at, seconds, status) SELECT n, 1.7e9 + n, 0.05, 200 FROM NUMBERS AS numbers
"""
# All in lane 1, and the first of them is not due for a long time.
_WAITING = f"""\
INSERT INTO deliveries (event_id, identity, connection, lane, call, status, due_at, tries, first_failed_at)
SELECT n, HASH, '{DEFAULT}', 1, '{_CALL}', CASE WHEN n = :head THEN 'pending' ELSE 'parked' END,
       4e9, CASE WHEN n = :head THEN 9 ELSE 0 END, CASE WHEN n = :head THEN 1.7e9 END
FROM NUMBERS AS numbers
"""
_AFTERWARDS = {
    "sqlite": ("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"),
    "postgresql": ("VACUUM ANALYZE", "CHECKPOINT"),
}


# Memory


def _memory(name: str, url: str, directory: Path, number: int) -> Iterator[Memory]:
    with TrackAPI() as api:
        credentials = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key"}
        environ = webhooks.environment(directory, webhooks.ONE_CALL, url, **credentials, CUSTOMERIO_BASE_URL=api.url)
        with serving.web(environ) as web, serving.worker(environ) as worker:
            _send(web.port, 0, number // 3)
            api.wait_until(lambda: api.count_applied() >= number // 3, timeout=300)
            early = _processes(web.pid, worker)
            _send(web.port, number // 3, number)
            api.wait_until(lambda: api.count_applied() >= number, timeout=300)
            late = _processes(web.pid, worker)
    for process, size in late.items():
        yield Memory(database=name, process=process, after_a_third=round(early[process], 1), at_the_end=round(size, 1))


def _send(port: int, first: int, last: int) -> None:
    def send(sender: int) -> None:
        with webhooks.connect(port) as connection:
            for key in range(first + sender, last, SENDERS):
                status = webhooks.send(connection, webhooks.written(f"m{key}", customer=f"m{key % 1_000}"))
                assert status == 202, f"HTTP {status}"

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _processes(web: int, worker: int) -> dict[str, float]:
    main_process, *processes = serving.memory(web)
    named = {f"web process {number}": size for number, size in enumerate(processes, 1)}
    return {"gunicorn's main process": main_process, **named, "worker": max(serving.memory(worker))}


if __name__ == "__main__":
    main()
