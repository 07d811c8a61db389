"""Accepted webhooks a second, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.ingest [--rounds 8] [--seconds 1.5] [--connections 32] [--postgresql URL]

Each webhook is signed, verified, translated into one call or two, and committed durably before its 202. All servers
run at once and take turns, round after round: a machine that is slow for a while is slow for all of them. The load
comes from one process of the same machine and shares its cores: read the ratios, not the figures.
"""

from __future__ import annotations

import re
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import harness
from bench.harness import Load, Web

TARGET = 0.6


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one server did under the load.

    Attributes:
        per_second: The median of the rounds; *lowest* and *highest* are those of single rounds.
        ratio: To bare Flask of the same run.
        p50, p99: Of all answers, in milliseconds.
        cpu_us: Processor time of a webhook in the web processes, in microseconds.
        refused: Answers other than 202.
    """

    server: str
    per_second: int
    lowest: int
    highest: int
    ratio: float
    p50: float
    p99: float
    cpu_us: int
    refused: int


@dataclass(kw_only=True)
class Server:
    """One server and what it has done so far."""

    name: str
    web: Web
    rates: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    refused: int = 0

    def measure(self, connections: int, seconds: float) -> None:
        """Post to it for some seconds."""
        cpu_before = harness.processor_seconds(self.web.pid)
        load = post_invoices(self.web, connections, seconds)
        self.cpu_seconds += harness.processor_seconds(self.web.pid) - cpu_before
        self.rates.append(len(load.replies) / load.seconds)
        self.milliseconds += load.milliseconds()
        self.refused += len(load.replies) - load.statuses.get(202, 0)

    def figures(self, bare_rate: float) -> Figures:
        """Sum up the rounds."""
        milliseconds, rate = sorted(self.milliseconds), statistics.median(self.rates)
        return Figures(
            server=self.name,
            per_second=round(rate),
            lowest=round(min(self.rates)),
            highest=round(max(self.rates)),
            ratio=round(rate / bare_rate, 2),
            p50=round(harness.percentile(milliseconds, 50), 1),
            p99=round(harness.percentile(milliseconds, 99), 1),
            cpu_us=round(self.cpu_seconds / len(milliseconds) * 1e6),
            refused=self.refused,
        )


def post_invoices(web: Web, connections: int, seconds: float) -> Load:
    """Post signed webhooks as fast as they are answered, of 1,000 customers."""
    run = time.monotonic_ns()

    def request(number: int) -> bytes:
        return harness.webhook(f"{run}-{number}", customer=f"cus_{number % 1000}")

    return Load(web.port, request, senders=connections, seconds=seconds).join()


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, rounds=8, seconds=1.5, connections=32)
    variants: list[tuple[str, str, str | None]] = [("bare Flask", harness.ONE_CALL, None)]
    for database, server_url in harness.servers(options.postgresql).items():
        variants.append((f"{database}, one call", harness.ONE_CALL, server_url))
        variants.append((f"{database}, two calls", harness.TWO_CALLS, server_url))
    with ExitStack() as stack:
        servers = []
        for name, mapping, address in variants:
            database_name = re.sub(r"\W+", "_", name)
            environ = stack.enter_context(harness.bench_gateway(address or "", mapping=mapping, name=database_name))
            application = harness.APPLICATION if address is not None else harness.BARE_APPLICATION
            web = stack.enter_context(harness.web(environ, application))
            post_invoices(web, connections=8, seconds=1.0)
            servers.append(Server(name=name, web=web))
        for _ in range(options.rounds):
            for server in servers:
                server.measure(options.connections, options.seconds)
    bare_rate = statistics.median(servers[0].rates)
    rows = [server.figures(bare_rate) for server in servers]
    harness.print_table(rows)
    harness.keep(__file__, options, rows, target=TARGET)


if __name__ == "__main__":
    main()
