"""The real gateway as separate processes, started as they are deployed, to be killed and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import requests

PROJECT = Path(__file__).parent.parent
WEB = (sys.executable, "-m", "gunicorn", "-c", "python:gateway.serving", "gateway.app:create_app()")
GATEWAY = (sys.executable, "-m", "gateway")


class GatewayProcess:
    """A web and a worker, and the database that `migrate` made for them.

    Leaving the context ends whatever still runs; an error that leaves it carries the end of the logs.
    """

    def __init__(
        self, *, environment: Mapping[str, str], logs: Path, worker_options: Sequence[str] = ()
    ) -> None:
        self.port = _free_port()
        self.logs = logs
        # Nothing of the developer's own environment may reach the gateway under test.
        own = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1", "PORT": str(self.port)}
        self._environment = own | dict(environment)
        # The settings' own address is for a platform's router; a test listens to this machine alone.
        self.web = _Process("web", (*WEB, "--bind", f"127.0.0.1:{self.port}"), self._environment, logs)
        self.worker = _Process("worker", (*GATEWAY, "worker", *worker_options), self._environment, logs)

    def __enter__(self) -> GatewayProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self.web, self.worker):
            process.end()
        if error is not None:
            error.add_note(self.read_logs()[-8_000:])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Make the database, start web and worker, and wait until the web answers."""
        self.migrate()
        self.web.start()
        self.worker.start()
        self.wait_until_ready()

    def migrate(self) -> None:
        with (self.logs / "migrate.log").open("ab") as log:
            subprocess.run(
                (*GATEWAY, "migrate"),
                cwd=PROJECT,
                env=self._environment,
                stdout=log,
                stderr=log,
                timeout=60,
                check=True,
            )

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait until the web answers /healthz; raise TimeoutError after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            self.web.assert_running()
            if time.monotonic() > deadline:
                raise TimeoutError(f"/healthz did not answer 200 within {timeout} s")
            time.sleep(0.05)

    def stop(self) -> dict[str, int]:
        """End web and worker with SIGTERM, and give their exit statuses."""
        for process in (self.web, self.worker):
            process.terminate()
        return {process.name: process.wait(timeout=40) for process in (self.web, self.worker)}

    def read_logs(self) -> str:
        """Read everything that the processes wrote, each under its name."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='backslashreplace')}"
            for log in sorted(self.logs.glob("*.log"))
        )

    def _is_ready(self) -> bool:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/healthz", timeout=5).status_code == 200
        return False


class _Process:
    """One command that can be started again; all that it starts in turn is of its process group."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._running is None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=PROJECT,
                env=dict(self._environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def assert_running(self) -> None:
        assert self._running is not None, f"{self.name} was not started"
        assert self._running.poll() is None, f"{self.name} ended by itself: {self._running.returncode}"

    def kill(self) -> None:
        """Kill it with all its children, at once; that it still ran is asserted."""
        self.assert_running()
        self.end()

    def terminate(self) -> None:
        """Send SIGTERM to every process of the group, which is what Heroku does to a dyno."""
        self.assert_running()
        assert self._running is not None
        _signal_group(self._running.pid, signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Give the exit status of a process that was told to end; none of its children may be left."""
        assert self._running is not None, f"{self.name} was not started"
        status = self._running.wait(timeout)
        left = _signal_group(self._running.pid, signal.SIGKILL)
        self._running = None
        assert not left, f"{self.name} ended and left processes behind"
        return status

    def end(self) -> None:
        """Kill whatever runs, without a question."""
        if self._running is not None:
            _signal_group(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None


def _signal_group(leader: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; False: there is nobody left in it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    """Find a port below those the system hands out to clients.

    From among those, a client that retries while the web is down could be given the web's own port.
    """
    for port in random.sample(range(12_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports were tried and none is free")
