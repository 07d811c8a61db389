"""Accepted -> applied at a steady rate, beside what Customer.io itself takes for an answer.

    python -m bench.latency [--seconds 10] [--rate 100] [--answer-ms 50] [--postgresql URL]

A webhook is accepted when its 202 has arrived at the sender, and its call is applied when the stand-in for the
Track API, after a known time, applies and answers it. The stand-in's own time is measured in the same seconds
by calls of the gateway's own client, straight to it. What is left is the gateway's: at most 30 ms of p50.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import asdict, dataclass

from bench import serving, webhooks
from gateway.customerio.calls import Track
from gateway.customerio.client import Client
from gateway.customerio.connection import DEFAULT, Connection
from tests.support.trackapi import Slow, TrackAPI

SENDERS = 8
CUSTOMERS = 1_000
DIRECT_PER_SECOND = 10
TARGET = 30.0  # milliseconds
#: Seconds of sending before the measurement, and those after it until all has to be applied.
WARM_UP, PATIENCE = 2.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one database made of it; times in milliseconds, *above* is over the stand-in's own p50 and p99."""

    name: str
    webhooks: int
    p50: float
    p99: float
    own_p50: float
    own_p99: float
    above_p50: float
    above_p99: float


def main() -> None:
    """Measure and print."""
    options = _options()
    servers = {"SQLite": ""} | ({"PostgreSQL": options.postgresql} if options.postgresql else {})
    print(f"{options.rate:g} webhooks/s, each one call; milliseconds; the target is {TARGET:g} above at p50")
    print(f"{'':12}{'p50':>8}{'p99':>8}{'own p50':>9}{'own p99':>9}{'above p50':>11}{'above p99':>11}")
    figures = []
    for name, server in servers.items():
        found = _measure(name, server, options)
        figures.append(asdict(found) | {"target": TARGET, "met": found.above_p50 <= TARGET})
        print(
            f"{name:12}{found.p50:8.1f}{found.p99:8.1f}{found.own_p50:9.1f}{found.own_p99:9.1f}"
            f"{found.above_p50:11.1f}{found.above_p99:11.1f}"
        )
    serving.keep(__file__, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=100, help="webhooks a second")
    parser.add_argument("--answer-ms", type=float, default=50, help="what the stand-in takes for an answer")
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def _measure(name: str, server: str, options: argparse.Namespace) -> Figures:
    slow = Slow(seconds=options.answer_ms / 1000)
    with (
        TrackAPI(answer=lambda _: slow) as api,
        serving.scratch_directory() as directory,
        serving.fresh_database(server, directory) as url,
    ):
        credentials = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key"}
        environ = webhooks.environment(directory, webhooks.ONE_CALL, url, **credentials, CUSTOMERIO_BASE_URL=api.url)
        serving.migrate(environ)
        with serving.web(environ) as web, serving.worker(environ):
            _Run(web.port, api, rate=options.rate, seconds=WARM_UP, name="warm")
            run = _Run(web.port, api, rate=options.rate, seconds=options.seconds, name="run")
        return _figures(name, run)


def _figures(name: str, run: _Run) -> Figures:
    found = {
        "p50": _part(run.waits, 50),
        "p99": _part(run.waits, 99),
        "own_p50": _part(run.own, 50),
        "own_p99": _part(run.own, 99),
    }
    above = {"above_p50": found["p50"] - found["own_p50"], "above_p99": found["p99"] - found["own_p99"]}
    rounded = {key: round(value, 1) for key, value in (found | above).items()}
    return Figures(name=name, webhooks=len(run.waits), **rounded)


def _part(seconds: list[float], hundredth: int) -> float:
    """Give a percentile, in milliseconds."""
    return sorted(seconds)[len(seconds) * hundredth // 100] * 1000


class _Run:
    """Sends webhooks at their times, and calls the stand-in directly beside.

    Attributes:
        waits: Seconds from accepted to applied, of each webhook.
        own: Seconds that the stand-in took for each direct call.
    """

    def __init__(self, port: int, api: TrackAPI, *, rate: float, seconds: float, name: str) -> None:
        self._port = port
        self._api = api
        self._rate = rate
        self._name = name
        self._number = round(rate * seconds)
        self._began = time.monotonic() + 0.1
        self._accepted: dict[str, float] = {}
        self.own: list[float] = []
        applied = api.count_applied()
        threads = [threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)]
        threads.append(threading.Thread(target=self._call_directly, args=(seconds,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self._accepted) == self._number, "not every webhook was accepted"
        wanted = applied + self._number + len(self.own)
        api.wait_until(lambda: api.count_applied() == wanted, timeout=PATIENCE)
        self.waits = [at - self._accepted[key] for key, at in self._applied().items()]

    def _send(self, sender: int) -> None:
        with webhooks.connect(self._port) as connection:
            for number in range(sender, self._number, SENDERS):
                key = f"{self._name}-{number}"
                webhook = webhooks.written(key, customer=f"{self._name}-{number % CUSTOMERS}")
                _sleep_until(self._began + number / self._rate)
                status = webhooks.send(connection, webhook)
                if status == 202:
                    self._accepted[key] = time.monotonic()

    def _call_directly(self, seconds: float) -> None:
        client = Client({DEFAULT: Connection(name=DEFAULT, site_id="site", api_key="key", base_url=self._api.url)})
        for number in range(round(DIRECT_PER_SECOND * seconds)):
            _sleep_until(self._began + number / DIRECT_PER_SECOND)
            request = Track(id="direct", name="Invoice Paid", attributes={"total": 49}).request()
            began = time.monotonic()
            attempt = client.send(request, DEFAULT)
            self.own.append(time.monotonic() - began)
            assert attempt.status == 200, attempt.reason
        client.close()

    def _applied(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for customer in range(min(CUSTOMERS, self._number)):
            for operation in self._api.applied(f"{self._name}-{customer}"):
                data = operation.body["data"]
                assert isinstance(data, dict)
                found[str(data["key"])] = operation.at
        return found


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))


if __name__ == "__main__":
    main()
