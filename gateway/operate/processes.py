"""Run several processes as one: restart what dies, end all together."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: Seconds between SIGTERM and SIGKILL: a little more than a process needs to finish its current work.
GRACE = 28.0
#: Seconds; a process that ends sooner than this after its start counts as a false start.
SETTLED = 5.0
MAX_FALSE_STARTS = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    false_starts: int = 0

    def start(self, environ: Mapping[str, str]) -> None:
        # In a session of its own, so that Ctrl-C in the terminal reaches only us, and we end the children in order.
        self.process = subprocess.Popen(  # noqa: S603  # the command is our own
            self.command,
            env=dict(environ),
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self.started_at = time.monotonic()


def run_together(commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> int:
    """Run commands, by their names, until SIGINT or SIGTERM; return the exit status.

    A process that dies is started again. One that cannot start ends the others too, with exit status 1.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    children = [_Child(name=name, command=command) for name, command in commands.items()]
    try:
        while not stopping.is_set():
            for child in children:
                if not _keep_running(child, environ):
                    return 1
            stopping.wait(0.2)
    finally:
        _stop(children)
    return 0


def _keep_running(child: _Child, environ: Mapping[str, str]) -> bool:
    """Start a child that does not run; return False when it cannot be started."""
    if child.process is None:
        child.start(environ)
        return True
    status = child.process.poll()
    if status is None:
        return True
    is_false_start = time.monotonic() - child.started_at < SETTLED
    child.false_starts = child.false_starts + 1 if is_false_start else 0
    if child.false_starts >= MAX_FALSE_STARTS:
        log.error("%s does not start (exit status %d)", child.name, status)
        return False
    log.error("%s ended (exit status %d); starting it again", child.name, status)
    child.start(environ)
    return True


def _end_with_parent() -> None:
    """Ask Linux to send SIGTERM when our parent is killed: otherwise the process would run on."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(children: Sequence[_Child]) -> None:
    running = [child.process for child in children if child.process is not None and child.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not end in time; killing it", process.pid)
            process.kill()
            process.wait()
