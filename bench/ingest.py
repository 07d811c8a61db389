"""Accepted webhooks a second, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.ingest [--rounds 8] [--seconds 1.5] [--connections 32] [--postgresql URL]

Each webhook is signed, verified, translated into one call or two and committed durably before its 202. All servers
run at once and are posted to in turns, round after round: a machine that is slow for a while is slow for all of
them. The load comes from one process of the same machine, so it shares its cores: read the ratios, not the figures.
"""

from __future__ import annotations

import argparse
import re
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from bench import serving, webhooks

TARGET = 0.6
WARM_UP = 1.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one server did under the load: medians of the rounds, and the slowest and the quickest of them.

    Attributes:
        ratio: To the bare Flask of the same run.
        p50, p99: Of all its answers, in milliseconds.
        cost: Processor time of a webhook in the web processes, in microseconds.
    """

    name: str
    per_second: float
    slowest: float
    quickest: float
    ratio: float
    p50: float
    p99: float
    cost: float
    refused: int


def main() -> None:
    """Measure and print."""
    options = _options()
    with ExitStack() as opened:
        cases = [_case(opened, *each) for each in _servers(options.postgresql)]
        for _ in range(options.rounds):
            for case in cases:
                case.measure(options.connections, options.seconds)
        figures = list(_figures(cases))
    _print(figures)
    serving.keep(__file__, {"target": TARGET, "servers": list(map(asdict, figures))})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round on each server")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def _print(figures: Sequence[Figures]) -> None:
    print(f"{'':24}{'/s':>7}{'from':>7}{'to':>7}{'ratio':>7}{'p50 ms':>8}{'p99 ms':>8}{'cpu us':>8}{'not 2xx':>9}")
    for each in figures:
        print(
            f"{each.name:24}{each.per_second:7.0f}{each.slowest:7.0f}{each.quickest:7.0f}{each.ratio:7.2f}"
            f"{each.p50:8.1f}{each.p99:8.1f}{each.cost:8.0f}{each.refused:9}"
        )


@dataclass(kw_only=True)
class _Case:
    """One server, and what it has done so far."""

    name: str
    web: serving.Web
    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0
    refused: int = 0

    def measure(self, connections: int, seconds: float) -> None:
        """Post to it for some seconds."""
        before = serving.processor_seconds(self.web.pid)
        load = Load(self.web.port, connections, seconds)
        self.seconds += serving.processor_seconds(self.web.pid) - before
        self.rates.append(len(load.times) / load.seconds)
        self.times += load.times
        self.refused += load.refused


def _servers(postgresql: str) -> Iterator[tuple[str, str, str | None]]:
    """List names, mappings, and where the database is: None is bare Flask, which has none."""
    yield "bare Flask", webhooks.ONE_CALL, None
    databases = {"SQLite": ""} | ({"PostgreSQL": postgresql} if postgresql else {})
    for database, server in databases.items():
        yield f"{database}, one call", webhooks.ONE_CALL, server
        yield f"{database}, two calls", webhooks.TWO_CALLS, server


def _case(opened: ExitStack, name: str, mapping: str, server: str | None) -> _Case:
    directory = opened.enter_context(serving.scratch_directory())
    url = opened.enter_context(serving.fresh_database(server or "", directory, re.sub(r"\W+", "_", name)))
    environ = webhooks.environment(directory, mapping, url)
    if server is not None:
        serving.migrate(environ)
    application = serving.BARE_APPLICATION if server is None else serving.APPLICATION
    web = opened.enter_context(serving.web(environ, application=application))
    Load(web.port, 8, WARM_UP)
    return _Case(name=name, web=web)


def _figures(cases: Sequence[_Case]) -> Iterator[Figures]:
    yardstick = statistics.median(cases[0].rates)
    for case in cases:
        times = sorted(case.times)
        rate = statistics.median(case.rates)
        yield Figures(
            name=case.name,
            per_second=round(rate),
            slowest=round(min(case.rates)),
            quickest=round(max(case.rates)),
            ratio=round(rate / yardstick, 2),
            p50=round(times[len(times) // 2] * 1000, 1),
            p99=round(times[len(times) * 99 // 100] * 1000, 1),
            cost=round(case.seconds / len(times) * 1e6),
            refused=case.refused,
        )


class Load:
    """Post signed webhooks over kept-alive connections, each as soon as the last is answered.

    Attributes:
        times: Seconds until each answer.
        seconds: How long it took in all.
        refused: Answers other than 202.
    """

    def __init__(self, port: int, connections: int, seconds: float) -> None:
        self._port = port
        self.times: list[float] = []
        self.refused = 0
        began = time.monotonic()
        self._ends = began + seconds
        threads = [threading.Thread(target=self._post, args=(number,)) for number in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.monotonic() - began

    def _post(self, number: int) -> None:
        with webhooks.connect(self._port) as connection:
            count = 0
            while time.monotonic() < self._ends:
                count += 1
                key = f"{number}-{count}-{time.monotonic_ns()}"
                webhook = webhooks.written(key, customer=f"cus_{hash(key) % 1000}")
                began = time.monotonic()
                status = webhooks.send(connection, webhook)
                self.times.append(time.monotonic() - began)
                self.refused += status != 202


if __name__ == "__main__":
    main()
