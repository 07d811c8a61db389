"""Accepted webhooks a second, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.ingest [--seconds 8] [--connections 32] [--class gevent --class gthread] [--postgresql URL]

Each webhook is signed, verified, translated into one call or two and committed durably before its 202. The load
comes from one process of this machine, so both sides share its cores: read the ratios, not the figures.
"""

from __future__ import annotations

import argparse
import itertools
import threading
import time
from dataclasses import asdict, dataclass

from bench import serving, webhooks


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one server did under the load; times in milliseconds."""

    name: str
    per_second: float
    p50: float
    p99: float
    refused: int


def bare_app() -> object:
    """Make the yardstick: Flask that reads the body and answers 202."""
    from flask import Flask, request

    app = Flask("bare")

    @app.post("/hooks/bench")
    def receive() -> tuple[dict[str, int], int]:
        return {"calls": len(request.get_data()) and 0}, 202

    return app


def main() -> None:
    """Measure and print."""
    options = _options()
    databases = {"SQLite": ""} | ({"PostgreSQL": options.postgresql} if options.postgresql else {})
    servers: list[tuple[str, str, str, str | None]] = []
    for kind in options.classes:
        servers.append((f"bare Flask, {kind}", kind, "", None))
        for (database, server), (calls, mapping) in itertools.product(databases.items(), _MAPPINGS.items()):
            servers.append((f"{database}, {calls}, {kind}", kind, mapping, server))
    figures = []
    yardstick = 0.0
    print(f"{'':34}{'/s':>8}{'ratio':>8}{'p50 ms':>8}{'p99 ms':>8}{'not 2xx':>8}")
    for name, kind, mapping, server in servers:
        found = _measure(name, kind, mapping, server, options)
        yardstick = found.per_second if server is None else yardstick
        figures.append(asdict(found) | {"ratio": round(found.per_second / yardstick, 2)})
        ratio = found.per_second / yardstick
        print(
            f"{name:34}{found.per_second:8.0f}{ratio:8.2f}{found.p50:8.1f}{found.p99:8.1f}{found.refused:8}"
        )
    serving.keep(__file__, figures)


_MAPPINGS = {"one call": webhooks.ONE_CALL, "two calls": webhooks.TWO_CALLS}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--class", dest="classes", action="append")
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    options = parser.parse_args()
    options.classes = options.classes or ["gevent"]
    return options


def _measure(name: str, kind: str, mapping: str, server: str | None, options: argparse.Namespace) -> Figures:
    """Measure one server; without a database where *server* is None."""
    with serving.scratch_directory() as directory, serving.fresh_database(server or "", directory) as url:
        environ = webhooks.environment(directory, mapping or webhooks.ONE_CALL, url)
        if server is not None:
            serving.migrate(environ)
        settings = ["-k", kind, *(["--threads", "16"] if kind == "gthread" else [])]
        application = "bench.ingest:bare_app()" if server is None else serving.APPLICATION
        with serving.web(environ, application=application, options=settings) as web:
            _Load(web.port, options.connections, 1.0)
            return _Load(web.port, options.connections, options.seconds).figures(name)


class _Load:
    """Post signed webhooks over kept-alive connections, each as soon as the last is answered."""

    def __init__(self, port: int, connections: int, seconds: float) -> None:
        self._port = port
        self._times: list[float] = []
        self._refused = 0
        self._ends = time.monotonic() + seconds
        began = time.monotonic()
        threads = [threading.Thread(target=self._post, args=(number,)) for number in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._seconds = time.monotonic() - began

    def figures(self, name: str) -> Figures:
        times = sorted(self._times)
        return Figures(
            name=name,
            per_second=round(len(times) / self._seconds, 1),
            p50=round(times[len(times) // 2] * 1000, 1),
            p99=round(times[len(times) * 99 // 100] * 1000, 1),
            refused=self._refused,
        )

    def _post(self, number: int) -> None:
        with webhooks.connect(self._port) as connection:
            count = 0
            while time.monotonic() < self._ends:
                count += 1
                key = f"{number}-{count}-{time.monotonic_ns()}"
                webhook = webhooks.written(key, customer=f"cus_{hash(key) % 1000}")
                began = time.monotonic()
                status = webhooks.send(connection, webhook)
                self._times.append(time.monotonic() - began)
                self._refused += status != 202


if __name__ == "__main__":
    main()
