"""What the benchmarks share: databases, the gateway's processes as they are deployed, signed webhooks, load and tables.

Every benchmark prints ratios of what it measures side by side in one run: figures do not carry over to other machines.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import psycopg
from sqlalchemy import create_engine

from tests.support.machine import process_family

#: What was measured, by the names of the columns.
Row: TypeAlias = dict[str, Any]

MAPPINGS = Path(__file__).parents[1] / "mappings"
GATEWAY = (sys.executable, "-m", "gateway")
GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "python:gateway.serving", "--log-level", "error", "-w", "2")
APPLICATION = "gateway.app:create_app()"
BARE_APPLICATION = "bench.harness:bare_app()"
#: Seconds that a server may take to start.
START_PATIENCE = 20.0
#: Seconds in which all connections of a load are made, and after which a sender gives up.
CONNECTING, GIVE_UP = 0.3, 5.0


def options(description: str | None, **defaults: float) -> argparse.Namespace:
    """Parse the command line: one option for each default, of its type, and --postgresql."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--postgresql", default="", metavar="URL", help="postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def servers(postgresql: str) -> dict[str, str]:
    """Return the database servers to measure by their names; SQLite has no server."""
    return {"SQLite": ""} | ({"PostgreSQL": postgresql} if postgresql else {})


# Databases


@contextmanager
def fresh_database(server: str, directory: Path, name: str = "gateway") -> Iterator[str]:
    """Create an empty database, yield its URL, and drop it."""
    if not server:
        yield f"sqlite:///{directory}/{name}.db"
        return
    name = f"gateway_bench_{os.getpid()}_{name}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{server}/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def collect_statistics(url: str) -> None:
    """Write the log back and collect statistics after a bulk load, so that neither is measured."""
    statements = ("ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)")
    if not url.startswith("sqlite"):
        statements = ("VACUUM ANALYZE", "CHECKPOINT")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


# Processes


def bare_app() -> object:
    """Make the yardstick: a Flask view that reads the body and answers 202."""
    from flask import Flask, request

    app = Flask("bare")
    # gunicorn's settings start a thread that reads changed mapping files: there are none here.
    app.extensions["sources"] = SimpleNamespace(keep_current=lambda _stopping: None)

    @app.post("/hooks/<source>")
    def receive(source: str) -> tuple[dict[str, Any], int]:
        return {"source": source, "calls": len(request.get_data()) and 0}, 202

    return app


def environment(url: str, mappings: Path, api_url: str = "", **variables: str) -> dict[str, str]:
    """Return the environment of a gateway; *api_url* is the stand-in that its calls go to."""
    own = {"DATABASE_URL": url, "GATEWAY_MAPPINGS": str(mappings), "BENCH_SECRET": SECRET}
    if api_url:
        own |= {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key", "CUSTOMERIO_BASE_URL": api_url}
    return {**os.environ, **own, **variables}


@contextmanager
def bench_gateway(
    server: str, *, mapping: str = "", api_url: str = "", name: str = "gateway"
) -> Iterator[dict[str, str]]:
    """Create a migrated database and a directory with the mapping `bench`; yield the environment that names both."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory_name:
        directory = Path(directory_name)
        (directory / "bench.yaml").write_text(mapping or ONE_CALL)
        with fresh_database(server, directory, name) as url:
            environ = environment(url, directory, api_url)
            migrate(environ)
            yield environ


def migrate(environ: Mapping[str, str]) -> None:
    """Create the schema."""
    subprocess.run([*GATEWAY, "migrate"], env=dict(environ), check=True, capture_output=True)


class Web(NamedTuple):
    """A gunicorn with two worker processes."""

    port: int
    pid: int


@contextmanager
def web(environ: Mapping[str, str], application: str = APPLICATION, *, log: Path | None = None) -> Iterator[Web]:
    """Run gunicorn until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    logging = ("--capture-output", "--error-logfile", str(log)) if log else ()
    with running([*GUNICORN, "--bind", f"127.0.0.1:{port}", *logging, application], environ) as process:
        wait_until(lambda: _accepts_connections(port), START_PATIENCE, "the server accepts connections")
        time.sleep(1.0)
        yield Web(port=port, pid=process.pid)


def _accepts_connections(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@contextmanager
def worker(environ: Mapping[str, str], *, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `gateway worker` until the block ends."""
    with running([*GATEWAY, "worker"], environ, log=log) as process:
        yield process


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], *, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and kill the group when the block ends."""
    with (log or Path(os.devnull)).open("wb") as stderr:
        process = subprocess.Popen(command, env=dict(environ), start_new_session=True, stderr=stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(condition: Callable[[], bool], seconds: float, expected: str, *, interval: float = 0.1) -> None:
    """Return as soon as a condition holds; raise TimeoutError after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {expected}")
        time.sleep(interval)


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants, in seconds."""
    ticks = 0
    for member in process_family(pid):
        # After the name, which is in brackets and may hold anything, fields 12 and 13 are user and system time.
        fields_after_name = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields_after_name[11]) + int(fields_after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# Webhooks

SECRET = "bench-secret"
ONE_CALL = """\
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
        key: =id
        total: =divide(data.object.total, `100`)
        currency: =upper(data.object.currency)
        number: =data.object.number
        lines: =length(data.object.lines)
"""
TWO_CALLS = f"""{ONE_CALL}\
    - call: identify
      attributes:
        email: =data.object.customer_email
        plan: =data.object.lines[0].plan
        last_paid_at: =created
"""
_LINES = [{"id": f"il_{n}", "plan": "pro", "amount": 4900, "description": "Pro plan, monthly " * 3} for n in range(8)]
_INVOICE = {"customer_email": "ann@example.com", "total": 4900, "currency": "eur", "number": "A-1", "lines": _LINES}


def invoice(key: str, *, customer: str) -> bytes:
    """Return the body of a webhook of 1.2 KB for the mapping `bench`."""
    data = {"object": {"id": f"in_{key}", "customer": customer, **_INVOICE}}
    return json.dumps({"id": key, "type": "invoice.paid", "created": 1767225600, "data": data}).encode()


def http_post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a POST request as HTTP/1.1 writes it."""
    all_headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(body), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items()), "\r\n"]
    return "\r\n".join(lines).encode() + body


def webhook(key: str, *, customer: str) -> bytes:
    """Return a signed webhook for the mapping `bench` as an HTTP request."""
    body = invoice(key, customer=customer)
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return http_post("/hooks/bench", body, {"X-Hub-Signature-256": f"sha256={signature}"})


def webhooks(run: str, customers: str = "cus") -> Callable[[int], bytes]:
    """Return a function that makes the signed webhook of each number, with the key ``{run}-{number}``."""
    return lambda number: webhook(f"{run}-{number}", customer=f"{customers}-{number % 1000}")


def new_run() -> str:
    """Return a beginning of keys that no earlier run has used."""
    return str(time.monotonic_ns())


# Load


class Reply(NamedTuple):
    """One answer: the status (0: none in time), when it came, and the seconds since the request was due."""

    status: int
    at: float
    seconds: float


class Load:
    """Post requests over kept-alive connections; every free sender takes the next one.

    Without a *rate* each sender posts as soon as its last request is answered. With one, request *n* is due *n / rate*
    seconds after the start, and its time runs from then: a slow server does not slow the load down.

    Args:
        request: Returns request number *n*.
        seconds: How long to post; *count* how many requests at most.

    Attributes:
        replies: By the number of the request.
        seconds: How long it took in all.
    """

    def __init__(
        self,
        port: int,
        request: Callable[[int], bytes],
        *,
        senders: int,
        seconds: float = 3_600.0,
        count: int | None = None,
        rate: float | None = None,
    ) -> None:
        self._port = port
        self._request = request
        self._count = count
        self._rate = rate
        self._numbers = itertools.count()
        self._start = time.monotonic() + CONNECTING
        self._end = self._start + seconds
        self.replies: dict[int, Reply] = {}
        self.seconds = 0.0
        self._threads = [threading.Thread(target=self._post_requests) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def join(self) -> Load:
        """Wait until every request is answered or given up."""
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._start
        return self

    @property
    def statuses(self) -> dict[int, int]:
        """The number of replies by status."""
        return dict(sorted(Counter(reply.status for reply in self.replies.values()).items()))

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return (len(self.replies) - self.statuses.get(0, 0)) / self.seconds

    def require_status(self, status: int) -> None:
        """Require the same status of all answers."""
        assert self.statuses.keys() == {status}, f"not every answer was {status}: {self.statuses}"

    def milliseconds(self) -> list[float]:
        """Return how long each reply took, sorted."""
        return sorted(reply.seconds * 1_000 for reply in self.replies.values())

    def _post_requests(self) -> None:
        connection = _Connection(self._port)
        for number in self._numbers:
            if self._count is not None and number >= self._count:
                break
            request = self._request(number)
            due = self._start + number / self._rate if self._rate else max(self._start, time.monotonic())
            if due >= self._end:
                break
            time.sleep(max(due - time.monotonic(), 0.0))
            # A request for which no connection became free in time counts as given up.
            status = connection.post(request) if time.monotonic() < due + GIVE_UP else 0
            now = time.monotonic()
            self.replies[number] = Reply(status, now, now - due)
        connection.close()


class _Connection:
    """A kept-alive connection, opened again after a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def post(self, request: bytes) -> int:
        """Send a request and return the status of its answer; 0: there was none."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=GIVE_UP)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(request)
            answer = b""
            while not _is_complete(answer):
                received = self._socket.recv(4096)
                if not received:
                    raise ConnectionError("closed before the answer was complete")
                answer += received
        except OSError:
            self.close()
            return 0
        return int(answer[9:12])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def _is_complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


# Figures


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values."""
    return values[min(int(len(values) * percent / 100), len(values) - 1)]


def rates(per_second: Sequence[float]) -> Row:
    """Return the median of the rounds, and those of the slowest and the fastest round."""
    return {"per_second": statistics.median(per_second), "lowest": min(per_second), "highest": max(per_second)}


def report(script: str, command_line: argparse.Namespace, rows: Sequence[Row], **further: object) -> None:
    """Print rows of the same columns as a table, and write them to the JSON file beside a benchmark."""
    figures = [{name: _rounded(value) for name, value in row.items()} for row in rows]
    print_table(figures)
    settings = {name: value for name, value in vars(command_line).items() if name != "postgresql"}
    document = {"options": settings, **further, "figures": figures}
    Path(script).with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def print_table(rows: Sequence[Row]) -> None:
    """Print rows of the same columns."""
    cells = [list(rows[0]), *(list(map(_cell, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 2) if abs(value) < 100 else round(value)
    return value


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}:{number}" for key, number in value.items()) or "-"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
