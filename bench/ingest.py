"""Accepted webhooks a second, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.ingest [--rounds 8] [--seconds 1.5] [--connections 32] [--postgresql URL]

Each webhook is signed, verified, translated into one call or two, and committed durably before its 202. All servers
run at once and take turns, round after round: a machine that is slow for a while is slow for all of them. The load
comes from one process of the same machine and shares its cores: read the ratios, not the figures.

    ratio     of the median of the rounds, to bare Flask in the same run
    p50, p99  of all answers, in milliseconds
    cpu_us    processor time of a webhook in the web processes, in microseconds
    refused   answers other than 202
"""

from __future__ import annotations

import re
from contextlib import ExitStack

from bench import harness
from bench.harness import Load, Row, Web, percentile

TARGET = 0.6


class Server:
    """One server and what it has done so far."""

    def __init__(self, name: str, web: Web) -> None:
        self.name = name
        self._web = web
        self._loads: list[Load] = []
        self._cpu_seconds = 0.0

    def measure(self, connections: int, seconds: float) -> None:
        """Post to it for some seconds, as fast as it answers."""
        cpu_before = harness.processor_seconds(self._web.pid)
        requests = harness.webhooks(harness.new_run())
        self._loads.append(Load(self._web.port, requests, senders=connections, seconds=seconds).join())
        self._cpu_seconds += harness.processor_seconds(self._web.pid) - cpu_before

    def row(self) -> Row:
        """Sum up the rounds."""
        milliseconds = sorted(time for load in self._loads for time in load.milliseconds())
        return {
            "server": self.name,
            **harness.rates([load.per_second for load in self._loads]),
            "p50": percentile(milliseconds, 50),
            "p99": percentile(milliseconds, 99),
            "cpu_us": self._cpu_seconds / len(milliseconds) * 1e6,
            "refused": sum(len(load.replies) - load.statuses.get(202, 0) for load in self._loads),
        }


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
            Load(web.port, harness.webhooks(harness.new_run()), senders=8, seconds=1.0).join()  # warm up
            servers.append(Server(name, web))
        for _ in range(options.rounds):
            for server in servers:
                server.measure(options.connections, options.seconds)
    rows = [server.row() for server in servers]
    for row in rows:
        row["ratio"] = row["per_second"] / rows[0]["per_second"]
    harness.report(__file__, options, rows, target=TARGET)


if __name__ == "__main__":
    main()
