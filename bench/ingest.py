"""Accepted webhooks a second, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.ingest [--seconds 8] [--connections 32] [--class gevent --class gthread] [--postgresql URL]

Each webhook is signed, verified, translated into two calls and committed durably before its 202. The load
comes from one process of this machine, so both sides share its cores: read the ratios, not the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

SECRET = "bench-secret"
MAPPING = """\
version: 1
source: bench
verify: {scheme: github, secret_env: BENCH_SECRET}
event_type: =type
event_key: =id
defaults:
  id: =data.object.customer
  timestamp: =created
events:
  invoice.paid:
    - call: track
      name: Invoice Paid
      event_id: =id
      attributes:
        total: =divide(data.object.total, `100`)
        currency: =upper(data.object.currency)
        number: =data.object.number
        lines: =length(data.object.lines)
    - call: identify
      email: =data.object.customer_email
      attributes:
        plan: =data.object.lines[0].plan
        last_paid_at: =created
"""


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
    servers: list[tuple[str, str, str, str]] = []
    for kind in options.classes:
        servers.append((f"bare Flask, {kind}", kind, "bench.ingest:bare_app()", ""))
        servers.append((f"gateway on SQLite, {kind}", kind, "gateway.app:create_app()", "sqlite"))
        if options.postgresql:
            servers.append(
                (f"gateway on PostgreSQL, {kind}", kind, "gateway.app:create_app()", options.postgresql)
            )
    figures = []
    yardstick = 0.0
    print(f"{'':34}{'/s':>8}{'ratio':>8}{'p50 ms':>8}{'p99 ms':>8}{'not 2xx':>8}")
    for name, kind, application, database in servers:
        found = _measure(name, kind, application, database, options)
        yardstick = yardstick if database else found.per_second
        figures.append(asdict(found) | {"ratio": round(found.per_second / yardstick, 2)})
        ratio = found.per_second / yardstick
        print(
            f"{name:34}{found.per_second:8.0f}{ratio:8.2f}{found.p50:8.1f}{found.p99:8.1f}{found.refused:8}"
        )
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--class", dest="classes", action="append")
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    options = parser.parse_args()
    options.classes = options.classes or ["gevent"]
    return options


def _measure(name: str, kind: str, application: str, database: str, options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as directory, _database(database, directory) as url:
        Path(directory, "bench.yaml").write_text(MAPPING)
        environ = {**os.environ, "DATABASE_URL": url, "GATEWAY_MAPPINGS": directory, "BENCH_SECRET": SECRET}
        if url:
            subprocess.run(
                [sys.executable, "-m", "gateway", "migrate"], env=environ, check=True, capture_output=True
            )
        with _serving(kind, application, environ) as port:
            _Load(port, options.connections, 1.0)
            return _Load(port, options.connections, options.seconds).figures(name)


@contextmanager
def _database(kind: str, directory: str) -> Iterator[str]:
    if not kind.startswith("postgres"):
        yield f"sqlite:///{directory}/gateway.db" if kind else ""
        return
    name = f"gateway_bench_{os.getpid()}"
    with psycopg.connect(f"{kind}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{kind}/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _serving(kind: str, application: str, environ: Mapping[str, str]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = ["-c", "python:gateway.serving", "--bind", f"127.0.0.1:{port}", "-w", "2", "-k", kind]
    threads = ["--threads", "16"] if kind == "gthread" else []
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *settings, *threads, "--log-level", "error", application],
        env=dict(environ),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(1.0)
            return
    raise TimeoutError("the server does not answer")


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
        with socket.create_connection(("127.0.0.1", self._port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            count = 0
            while time.monotonic() < self._ends:
                count += 1
                request = _request(f"{number}-{count}-{time.monotonic_ns()}")
                began = time.monotonic()
                connection.sendall(request)
                status = _status(connection)
                self._times.append(time.monotonic() - began)
                self._refused += status != b"202"


def _status(connection: socket.socket) -> bytes:
    answer = connection.recv(4096)
    while b"}" not in answer:
        more = connection.recv(4096)
        if not more:
            break
        answer += more
    return answer[9:12]


_LINES = [
    {"id": f"il_{n}", "plan": "pro", "amount": 4900, "description": "Pro plan, monthly " * 3}
    for n in range(8)
]


def _request(key: str) -> bytes:
    invoice = {
        "id": f"in_{key}",
        "customer": f"cus_{hash(key) % 1000}",
        "customer_email": "ann@example.com",
        "total": 4900,
        "currency": "eur",
        "number": "A-1",
        "lines": _LINES,
    }
    body = json.dumps(
        {"id": key, "type": "invoice.paid", "created": 1767225600, "data": {"object": invoice}}
    ).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        "POST /hooks/bench HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main()
