"""What the benchmarks run: fresh databases, the gateway's processes as they are deployed, and their memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "python:gateway.serving", "--log-level", "error")
GATEWAY = (sys.executable, "-m", "gateway")
APPLICATION = "gateway.app:create_app()"
BARE_APPLICATION = "bench.serving:bare_app()"
#: Seconds that the web may take until it answers.
PATIENCE = 20


def bare_app() -> object:
    """Make the yardstick: Flask that reads the body and answers 202."""
    from flask import Flask, request

    app = Flask("bare")
    # The settings have each process look for changed mapping files; here there are none.
    app.extensions["sources"] = SimpleNamespace(keep_current=lambda _stopping: None)

    @app.post("/hooks/<source>")
    def receive(source: str) -> tuple[dict[str, Any], int]:
        return {"source": source, "calls": len(request.get_data()) and 0}, 202

    return app


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Give a directory that goes again."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        yield Path(name)


@contextmanager
def fresh_database(server: str, directory: Path, name: str = "gateway") -> Iterator[str]:
    """Give the URL of an empty database, which goes again: on a PostgreSQL server, or a file of SQLite.

    Args:
        server: Such as ``postgresql://postgres@127.0.0.1:5432``; empty for SQLite.
    """
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


def migrate(environ: Mapping[str, str]) -> None:
    """Make the schema."""
    subprocess.run([*GATEWAY, "migrate"], env=dict(environ), check=True, capture_output=True)


@dataclass(frozen=True, kw_only=True)
class Web:
    """A gunicorn with its workers."""

    port: int
    pid: int


@contextmanager
def web(environ: Mapping[str, str], *, application: str = APPLICATION, options: Sequence[str] = ()) -> Iterator[Web]:
    """Run a web of two processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    bind = ["--bind", f"127.0.0.1:{port}", "-w", "2"]
    with _running([*GUNICORN, *bind, *options, application], environ) as pid:
        _wait_for(port)
        yield Web(port=port, pid=pid)


@contextmanager
def worker(environ: Mapping[str, str]) -> Iterator[int]:
    """Run a worker, and give its process id."""
    with _running([*GATEWAY, "worker"], environ) as pid:
        yield pid


def memory(pid: int) -> list[float]:
    """Read what a process and its children hold in memory, in MiB each."""
    return [_resident(each) for each in _family(pid)]


def processor_seconds(pid: int) -> float:
    """Read the seconds that a process and its children have spent on a processor."""
    return sum(map(_processor_seconds, _family(pid)))


def keep(script: str, figures: object) -> None:
    """Write figures to the JSON file beside a benchmark."""
    Path(script).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def _running(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[int]:
    process = subprocess.Popen(command, env=dict(environ), start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(1.0)
            return
    raise TimeoutError(f"the server did not answer within {PATIENCE} s")


def _family(pid: int) -> list[int]:
    """Give a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _processor_seconds(pid: int) -> float:
    # After the name, which stands in brackets and may hold anything: the 12th and 13th are user and system time.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kibibytes) / 1024
