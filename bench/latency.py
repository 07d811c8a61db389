"""Accepted -> applied at a steady rate, beside what Customer.io itself takes for an answer.

    python -m bench.latency [--seconds 10] [--rate 100] [--answer-ms 50] [--postgresql URL]

A webhook is accepted when its 202 has arrived at the sender. Its call is applied when the stand-in for the Track API
answers it, a known time after it came. The stand-in's own time is measured in the same seconds by the gateway's own
client, which calls it directly. The rest is the gateway's: at most 30 ms at the median.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from bench import fast_trackapi, harness
from bench.fast_trackapi import StandIn
from bench.harness import Load, percentile
from gateway.customerio import Client, Connection
from gateway.customerio.calls import Track

TARGET = 30.0  # milliseconds
SENDERS = 8
DIRECT_PER_SECOND = 10
WARM_UP, PATIENCE = 2.0, 30.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Milliseconds from accepted to applied; *own* is the stand-in's part, *above* the difference."""

    database: str
    webhooks: int
    p50: float
    p99: float
    own_p50: float
    own_p99: float
    above_p50: float
    above_p99: float
    met: bool


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, seconds=10.0, rate=100.0, answer_ms=50.0)
    rows = []
    for database, server in harness.servers(options.postgresql).items():
        with (
            fast_trackapi.running(options.answer_ms) as api,
            harness.bench_gateway(server, api_url=api.url) as environ,
            harness.web(environ) as web,
            harness.worker(environ),
        ):
            measure(web.port, api, rate=options.rate, seconds=WARM_UP)
            waits, own_times = measure(web.port, api, rate=options.rate, seconds=options.seconds)
        rows.append(_figures(database, waits, own_times))
    harness.print_table(rows)
    harness.keep(__file__, options, rows, target=TARGET)


def measure(port: int, api: StandIn, *, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long each webhook took from accepted to applied, and each direct call, in sorted milliseconds."""
    api.reset()
    own_times: list[float] = []
    direct = threading.Thread(target=_call_directly, args=(api.url, seconds, own_times))
    direct.start()
    run, count = time.monotonic_ns(), round(rate * seconds)

    def request(number: int) -> bytes:
        return harness.webhook(f"{run}-{number}", customer=f"{run}-{number % 1000}")

    load = Load(port, request, senders=SENDERS, count=count, rate=rate).join()
    direct.join()
    assert load.statuses == {202: count}, f"not every webhook was accepted: {load.statuses}"
    deadline = time.monotonic() + PATIENCE
    while len(applied := api.applied()) < count:
        assert time.monotonic() < deadline, f"of {count} calls {len(applied)} arrived within {PATIENCE:g} s"
        time.sleep(0.1)
    waits = sorted((applied[f"{run}-{number}"] - reply.at) * 1_000 for number, reply in load.replies.items())
    return waits, sorted(own_times)


def _call_directly(url: str, seconds: float, milliseconds: list[float]) -> None:
    with Client(Connection(site_id="site", api_key="key", base_url=url)) as client:
        for _ in range(round(DIRECT_PER_SECOND * seconds)):
            start = time.monotonic()
            client.call(Track(id="direct", name="Invoice Paid", attributes={"total": 49}))
            milliseconds.append((time.monotonic() - start) * 1_000)
            time.sleep(1 / DIRECT_PER_SECOND)


def _figures(database: str, waits: list[float], own_times: list[float]) -> Figures:
    p50, p99, own_p50, own_p99 = (percentile(times, percent) for times in (waits, own_times) for percent in (50, 99))
    return Figures(
        database=database,
        webhooks=len(waits),
        p50=round(p50, 1),
        p99=round(p99, 1),
        own_p50=round(own_p50, 1),
        own_p99=round(own_p99, 1),
        above_p50=round(p50 - own_p50, 1),
        above_p99=round(p99 - own_p99, 1),
        met=p50 - own_p50 <= TARGET,
    )


if __name__ == "__main__":
    main()
