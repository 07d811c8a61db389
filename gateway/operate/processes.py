"""Run a few processes side by side as one: start again what dies, end all together."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

#: Seconds between SIGTERM and SIGKILL, a little more than a process needs to finish what it has in hand.
GRACE = 28.0
#: A process that ends sooner than this after its start was not able to start.
SETTLED = 5.0
MOST_FALSE_STARTS = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    false_starts: int = field(default=0)


def run_together(commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> int:
    """Run commands by their names until SIGINT or SIGTERM, and give the exit status.

    A process that dies is started again; one that cannot start at all ends the others too.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    children = [_Child(name=name, command=command) for name, command in commands.items()]
    status = 0
    try:
        while not stopping.is_set() and not status:
            status = sum(_keep_running(child, environ) for child in children)
            stopping.wait(0.2)
    finally:
        _stop(children)
    return min(status, 1)


def _keep_running(child: _Child, environ: Mapping[str, str]) -> int:
    """Start a child that does not run; 1 means that it cannot be started."""
    if child.process is None:
        _start(child, environ)
        return 0
    ended = child.process.poll()
    if ended is None:
        return 0
    quick = time.monotonic() - child.started < SETTLED
    child.false_starts = child.false_starts + 1 if quick else 0
    if child.false_starts >= MOST_FALSE_STARTS:
        log.error("%s does not start (exit status %d)", child.name, ended)
        return 1
    log.error("%s ended (exit status %d); starting it again", child.name, ended)
    _start(child, environ)
    return 0


def _start(child: _Child, environ: Mapping[str, str]) -> None:
    # In a session of its own: Ctrl-C in the terminal reaches us alone, and we end the children in good order.
    child.process = subprocess.Popen(  # noqa: S603  # the command is our own
        child.command,
        env=dict(environ),
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    child.started = time.monotonic()


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM should our parent be killed: nobody would end us otherwise."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(children: Sequence[_Child]) -> None:
    running = [child.process for child in children if child.process is not None and child.process.poll() is None]
    for process in running:
        process.terminate()
    ends = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(ends - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not end in time; killing it", process.pid)
            process.kill()
            process.wait()
