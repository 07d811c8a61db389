"""Accepted -> applied at a steady rate, beside what Customer.io itself takes for an answer.

    python -m bench.latency [--seconds 10] [--rate 100] [--answer-ms 50] [--postgresql URL]

A webhook is accepted when its 202 has arrived at the sender. Its call is applied when the stand-in for the Track API
answers it, a known time after it came. The stand-in's own time is measured in the same seconds by the gateway's own
client, which calls it directly (`own`). The rest is the gateway's (`above`): at most 30 ms at the median.
"""

from __future__ import annotations

import threading
import time

from bench import fast_trackapi, harness
from bench.fast_trackapi import StandIn
from bench.harness import Load, Row, percentile
from gateway.customerio import Client, Connection
from gateway.customerio.calls import Track

TARGET = 30.0  # milliseconds
SENDERS = 8
DIRECT_PER_SECOND = 10
WARM_UP, PATIENCE = 2.0, 30.0  # seconds


def main() -> None:
    """Measure and print."""
    options = harness.options(__doc__, seconds=10.0, rate=100.0, answer_ms=50.0)
    rows: list[Row] = []
    for database, server in harness.servers(options.postgresql).items():
        with (
            fast_trackapi.running(options.answer_ms) as api,
            harness.bench_gateway(server, api_url=api.url) as environ,
            harness.web(environ) as web,
            harness.worker(environ),
        ):
            measure(web.port, api, rate=options.rate, seconds=WARM_UP)
            waits, own = measure(web.port, api, rate=options.rate, seconds=options.seconds)
        row: Row = {"database": database, "webhooks": len(waits)}
        for name, percent in (("p50", 50), ("p99", 99)):
            row |= {name: percentile(waits, percent), f"own_{name}": percentile(own, percent)}
            row[f"above_{name}"] = row[name] - row[f"own_{name}"]
        rows.append(row | {"met": row["above_p50"] <= TARGET})
    harness.report(__file__, options, rows, target=TARGET)


def measure(port: int, api: StandIn, *, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long each webhook took from accepted to applied, and each direct call, in sorted milliseconds."""
    api.reset()
    own: list[float] = []
    direct = threading.Thread(target=_call_directly, args=(api.url, seconds, own))
    direct.start()
    run, count = harness.new_run(), round(rate * seconds)
    load = Load(port, harness.webhooks(run, customers=run), senders=SENDERS, count=count, rate=rate).join()
    direct.join()
    load.require_status(202)
    # The direct calls have no attribute "key", and so are not among those applied.
    harness.wait_until(lambda: len(api.applied()) >= count, PATIENCE, f"all of {count} calls arrive")
    applied = api.applied()
    return sorted((applied[f"{run}-{number}"] - reply.at) * 1_000 for number, reply in load.replies.items()), sorted(
        own
    )


def _call_directly(url: str, seconds: float, milliseconds: list[float]) -> None:
    with Client(Connection(site_id="site", api_key="key", base_url=url)) as client:
        for _ in range(round(DIRECT_PER_SECOND * seconds)):
            start = time.monotonic()
            client.call(Track(id="direct", name="Invoice Paid", attributes={"total": 49}))
            milliseconds.append((time.monotonic() - start) * 1_000)
            time.sleep(1 / DIRECT_PER_SECOND)


if __name__ == "__main__":
    main()
