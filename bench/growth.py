"""The cost of receiving and of delivering one event with few and with many rows in the database.

    python -m bench.growth [--rows 100000] [--rounds 8] [--postgresql URL]

Each database is filled by bulk SQL with events, deliveries and attempts that are done; one more has 50,000 deliveries
parked behind one failing customer. Then, on all of them in turns, webhooks are posted to a real web for some seconds,
and their calls are claimed and settled in groups. Ratios are to the smallest database of the same run: at most 1.2.
At the end web and worker run on the largest database, and their memory is read after a third of the webhooks and after
all. `--rows 1000000` takes minutes.

    receive_us  processor time of a webhook in the web processes: the median of the rounds
    per_second  webhooks accepted; here SQLite's checkpoints count too
    deliver_us  time to settle one delivery and claim the next: the median of the groups
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from sqlalchemy import text

from bench import fast_trackapi, harness
from bench.harness import Load, Row, Web
from gateway.customerio.connection import DEFAULT
from gateway.customerio.retry import Attempt, Delivered
from gateway.store import ClaimRequest, Outcome, Store
from gateway.store.database import Database
from tests.support.databases import opened
from tests.support.machine import memory

TARGET = 1.2
MEMORY_TARGET = 150.0  # MiB
SMALLEST, PARKED = 1_000, 50_000  # rows
GROUP, CONNECTIONS, SENDERS = 32, 32, 8
#: Rows of one transaction while a database is filled.
PORTION = 50_000


@dataclass(kw_only=True)
class Filled:
    """One filled database with a web on it, and what was measured there."""

    rows: int
    parked: int
    environ: dict[str, str]
    database: Database
    web: Web
    receive_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    deliver_us: list[float] = field(default_factory=list)

    def measure(self, seconds: float) -> None:
        """Receive for some seconds, then deliver all of it, so that the lanes are free again."""
        cpu_before = harness.processor_seconds(self.web.pid)
        load = post(self.web, seconds=seconds)
        load.require_status(202)
        cpu_seconds = harness.processor_seconds(self.web.pid) - cpu_before
        self.receive_us.append(cpu_seconds / len(load.replies) * 1e6)
        self.per_second.append(load.per_second)
        store, outcomes = Store(self.database), list[Outcome]()
        while True:
            start = time.perf_counter()
            request = ClaimRequest(limit=GROUP, lease=secrets.randbits(63), lease_seconds=120)
            claimed = store.settle_and_claim(outcomes, request).claimed
            if outcomes:
                self.deliver_us.append((time.perf_counter() - start) / len(outcomes) * 1e6)
            if not claimed:
                return
            attempt = Attempt(status=200, at=time.time(), seconds=0.05)
            outcomes = [Outcome(delivery=delivery, attempt=attempt, decision=Delivered()) for delivery in claimed]

    def row(self, name: str, smallest: Filled) -> Row:
        """Sum up the rounds, with ratios to the smallest database."""
        row: Row = {"database": name, "rows": self.rows, "parked": self.parked}
        for column in ("receive_us", "per_second", "deliver_us"):
            median = statistics.median(getattr(self, column))
            row |= {
                column: median,
                f"{column.removesuffix('_us')}_ratio": median / statistics.median(getattr(smallest, column)),
            }
        return row


def post(web: Web, *, seconds: float = 3_600.0, count: int | None = None, senders: int = CONNECTIONS) -> Load:
    """Post signed webhooks as fast as they are answered."""
    return Load(web.port, harness.webhooks(harness.new_run()), senders=senders, seconds=seconds, count=count).join()


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, rows=100_000, rounds=8, seconds=1.5, webhooks=6_000)
    growth: list[Row] = []
    memory: list[Row] = []
    for name, server in harness.servers(options.postgresql).items():
        with ExitStack() as stack:
            sizes = ((SMALLEST, 0), (options.rows, 0), (options.rows, PARKED))
            databases = [stack.enter_context(filled_database(server, *size)) for size in sizes]
            for _ in range(options.rounds):
                for database in databases:
                    database.measure(options.seconds)
            growth += [database.row(name, databases[0]) for database in databases]
            memory.append({"database": name, **measure_memory(databases[-1], options.webhooks)})
    harness.print_table(memory)
    met = all(max(row["receive_ratio"], row["deliver_ratio"]) <= TARGET for row in growth)
    memory_met = all(max(row["web_late"], row["worker_late"]) <= MEMORY_TARGET for row in memory)
    harness.report(__file__, options, growth, memory=memory, growth_met=met, memory_met=memory_met)


def measure_memory(largest: Filled, count: int) -> Row:
    """Post webhooks while a worker delivers them; return the MiB of the largest processes after a third and all."""
    row: Row = {}
    with fast_trackapi.running(latency_ms=0) as api:
        credentials = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key", "CUSTOMERIO_BASE_URL": api.url}
        environ = largest.environ | credentials
        with harness.web(environ) as web, harness.worker(environ) as worker:
            for when, part, total in (("early", count // 3, count // 3), ("late", count - count // 3, count)):
                post(web, count=part, senders=SENDERS).require_status(202)
                api.wait_for(total, seconds=300)
                row[f"web_{when}"] = round(max(memory(web.pid)), 1)
                row[f"worker_{when}"] = round(max(memory(worker.pid)), 1)
    return row


# Filling a database


@contextmanager
def filled_database(server: str, rows: int, parked: int) -> Iterator[Filled]:
    """Fill a database with rows that are done and with parked ones, and run a web on it."""
    with harness.bench_gateway(server, name=f"rows_{rows}_{parked}") as environ:
        url = environ["DATABASE_URL"]
        with opened(url) as database:
            for first in range(1, rows + 1, PORTION):
                bounds = {"first": first, "last": min(first + PORTION - 1, rows)}
                _insert(database, (_EVENTS, _DONE, _ATTEMPTS), bounds)
            if parked:
                _insert(database, (_WAITING,), {"first": rows + 1, "last": rows + parked, "head": rows + 1})
            harness.collect_statistics(url)
            print(f"filled {url.partition(':')[0]} with {rows:,} rows and {parked:,} parked", flush=True)
            with harness.web(environ) as web:
                post(web, seconds=1.0)  # warm up
                yield Filled(rows=rows, parked=parked, environ=environ, database=database, web=web)


def _insert(database: Database, statements: tuple[str, ...], numbers: dict[str, int]) -> None:
    words = _POSTGRESQL if database.engine.dialect.name == "postgresql" else _SQLITE
    with database.transaction() as connection:
        for statement in statements:
            for word, sql in words.items():
                statement = statement.replace(word, sql)
            connection.execute(text(statement), numbers)


_SQLITE = {
    "NUMBERS": "(WITH RECURSIVE upto(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM upto WHERE n < :last)"
    " SELECT n FROM upto)",
    "HASH": "randomblob(32)",
    "LANE": "random()",
    "BYTES": "BLOB",
}
_POSTGRESQL = {
    "NUMBERS": "(SELECT n FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n)",
    "HASH": "sha256(CAST(CAST(n AS text) || CAST(random() AS text) AS bytea))",
    "LANE": "CAST(random() * 9e18 AS bigint)",
    "BYTES": "bytea",
}
# As wide as real rows: the JSON of a webhook as it is stored.
_BODY = '{"type":"invoice.paid","data":"' + "x" * 1_200 + '"}'
_HEADERS = '{"user-agent":"' + "x" * 500 + '"}'
_CALL = '{"call":"track","id":"cus_1","name":"Invoice Paid","attributes":{"note":"' + "x" * 150 + '"}}'
_EVENTS = f"""\
INSERT INTO events (source, key, received_at, headers, query, body, event_type, status)
SELECT 'bench', HASH, 1.7e9 + n, CAST('{_HEADERS}' AS BYTES), CAST('{{}}' AS BYTES), CAST('{_BODY}' AS BYTES),
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
# All in lane 1; the first of them is not due for a long time.
_WAITING = f"""\
INSERT INTO deliveries (event_id, identity, connection, lane, call, status, due_at, tries, first_failed_at)
SELECT n, HASH, '{DEFAULT}', 1, '{_CALL}', CASE WHEN n = :head THEN 'pending' ELSE 'parked' END,
       4e9, CASE WHEN n = :head THEN 9 ELSE 0 END, CASE WHEN n = :head THEN 1.7e9 END
FROM NUMBERS AS numbers
"""

if __name__ == "__main__":
    main()
