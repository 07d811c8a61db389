"""The gateway as real processes, started as in production; a test can kill and restart them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import requests

from tests.support.machine import free_port

PROJECT = Path(__file__).parents[2]
WEB = (sys.executable, "-m", "gunicorn", "-c", "python:gateway.serving", "gateway.app:create_app()")
GATEWAY = (sys.executable, "-m", "gateway")
#: Seconds that a process may take to end: longer than a request of 3 and an idle connection of 5.
_PATIENCE = 15.0


class GatewayProcess:
    """Webs and workers on one database.

    Leaving the context kills the processes that still run; an error that leaves it gets the end of the logs as a note.

    Args:
        webs: The number of webs, each with its own processes and port, as on several machines.
        workers: The number of workers.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        logs: Path,
        worker_options: Sequence[str] = (),
        webs: int = 1,
        workers: int = 1,
    ) -> None:
        self.ports = [free_port() for _ in range(webs)]
        self.logs = logs
        # Nothing of the developer's own environment may reach the gateway under test.
        python = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), **python, **environment}
        if self.ports:
            self._environment.setdefault("PORT", str(self.ports[0]))
        # The settings' own address is for a platform's router; a test listens on loopback only.
        binds = [("--bind", f"127.0.0.1:{port}") for port in self.ports]
        self.webs = [self._process("web", number, (*WEB, *bind)) for number, bind in enumerate(binds)]
        worker = (*GATEWAY, "worker", *worker_options)
        self.workers = [self._process("worker", number, worker) for number in range(workers)]

    def __enter__(self) -> GatewayProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.end()
        if error is not None:
            error.add_note(self.read_logs()[-8_000:])

    @property
    def web(self) -> _Process:
        return self.webs[0]

    @property
    def worker(self) -> _Process:
        return self.workers[0]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start(self, *, migrated: bool = False) -> None:
        """Create the schema unless the database has it, start webs and workers, and wait until all are ready."""
        if not migrated:
            with (self.logs / "migrate.log").open("ab") as log:
                command, environment = (*GATEWAY, "migrate"), self._environment
                subprocess.run(command, cwd=PROJECT, env=environment, stdout=log, stderr=log, timeout=60, check=True)
        for process in self._all:
            process.start()
        self.wait_until_ready()

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait until all webs answer /healthz and all workers have started; raise TimeoutError after *timeout* seconds.

        Before that a worker does not handle SIGTERM yet: the signal would kill it.
        """
        deadline = time.monotonic() + timeout
        while not (all(map(_is_ready, self.urls)) and all(worker.has_started for worker in self.workers)):
            self.assert_running()
            if time.monotonic() > deadline:
                raise TimeoutError(f"webs and workers were not ready within {timeout} s")
            time.sleep(0.05)

    def assert_running(self) -> None:
        for process in self._all:
            process.assert_running()

    def stop(self) -> dict[str, int]:
        """End webs and workers with SIGTERM, and return their exit statuses."""
        for process in self._all:
            process.terminate()
        return {process.name: process.wait() for process in self._all}

    def read_logs(self) -> str:
        """Return everything that the processes wrote, under their names."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='backslashreplace')}" for log in sorted(self.logs.glob("*.log"))
        )

    @property
    def _all(self) -> list[_Process]:
        return [*self.webs, *self.workers]

    def _process(self, kind: str, number: int, command: Sequence[str]) -> _Process:
        name = kind if number == 0 else f"{kind}-{number + 1}"
        return _Process(name, command, self._environment, self.logs)


class _Process:
    """A command that can be started again, in a process group with its children."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None, f"{self.name} was not started"
        return self._running.pid

    def start(self) -> None:
        assert self._running is None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command, cwd=PROJECT, env=dict(self._environment), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def has_started(self) -> bool:
        return b"worker started" in self._log.read_bytes()

    def assert_running(self) -> None:
        assert self._running is not None, f"{self.name} was not started"
        assert self._running.poll() is None, f"{self.name} ended by itself: {self._running.returncode}"

    def kill(self) -> None:
        """Kill the process with all its children; assert that it still ran."""
        self.assert_running()
        self.end()

    def terminate(self) -> None:
        """Send SIGTERM to every process of the group, as Heroku does to a dyno."""
        self.assert_running()
        assert self._running is not None
        _signal_group(self._running.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Return the exit status of a process that was sent a signal; none of its children may be left."""
        assert self._running is not None, f"{self.name} was not started"
        try:
            status = self._running.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            # Python's fault handler then writes a traceback of each thread to the log.
            _signal_group(self._running.pid, signal.SIGILL)
            self._running.wait(_PATIENCE)
            raise
        has_children = _signal_group(self._running.pid, signal.SIGKILL)
        self._running = None
        assert not has_children, f"{self.name} ended and left processes behind"
        return status

    def end(self) -> None:
        """Kill the process if it runs."""
        if self._running is not None:
            _signal_group(self._running.pid, signal.SIGKILL)
            self._running.wait()
            self._running = None


def _is_ready(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError, requests.Timeout):
        return requests.get(f"{url}/healthz", timeout=5).status_code == 200
    return False


def _signal_group(leader: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; return False where no process is left in it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True
