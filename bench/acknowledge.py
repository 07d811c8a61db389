"""How long a sender waits for its answer, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.acknowledge [--seconds 10] [--rate 200] [--senders 32] [--postgresql URL]

Senders give up after 2 to 5 seconds, so 999 of 1,000 answers have to come in less than one. The gateway has all the
shipped mappings; seven kinds of senders post to it what those make calls of, each signed in its own way and no two
alike, and a worker beside it delivers to a stand-in for Customer.io. There are three situations:

    steady    so many webhooks a second, whatever the answers take; the time runs from when each was due
    greedy    every sender posts its next webhook as soon as its last is answered
    flooded   steady, while 8 more post as fast as they can what is refused: wrong signatures, half of them of 1 MiB

Unless greedy there are as many senders as wait at once if an answer takes that second: what is due waits for the
gateway, not for a sender. All servers run at once and are posted to in turns, each when all before it is delivered.
The load comes from one process of the same machine, so it shares its cores: read the ratios. A sender gives up after
5 seconds, which is status 0.

The exit status is 1 where a p99.9 of the gateway is a second or more, or a webhook was not taken or not delivered.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import fast_trackapi, serving, webhooks
from bench.fast_trackapi import StandIn
from bench.senders import MAPPINGS, PUBLIC_URL, Mail, made_up_secrets
from gateway.receive.sources import load_sources

STEADY, GREEDY, FLOODED = "steady", "greedy", "flooded"
BARE = "bare Flask"
LIMIT = 1_000.0  # milliseconds
#: Seconds until a sender gives up, and until all that was taken has to be delivered.
GIVE_UP, PATIENCE = 5.0, 60.0
#: Seconds before the first measurement, and those in which all connections are made.
WARM_UP, CONNECTING = 1.0, 0.5
FLOODERS = 8
#: What the stand-in takes for an answer.
ANSWER_MS = 20.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What senders saw of one server in one situation; times in milliseconds.

    Attributes:
        per_second: Webhooks that were answered.
        ratio: Of the p50, to that of bare Flask.
        statuses: Of the genuine webhooks; 0 for no answer in time.
        refused: Of the flood.
        behind: Seconds from the last answer until all calls were delivered.
        missing: Calls that were not.
        memory: The most that a web process and the worker hold, in MiB.
    """

    situation: str
    server: str
    per_second: float
    p50: float
    p99: float
    p999: float
    max: float
    ratio: float
    statuses: Mapping[int, int]
    refused: Mapping[int, int]
    behind: float
    missing: int
    memory: Mapping[str, float]

    @property
    def is_met(self) -> bool:
        """Whether the gateway does what is asked of it; of bare Flask nothing is."""
        all_taken = all(map(_is_taken, self.statuses)) and not self.missing
        return self.server == BARE or (self.p999 < LIMIT and all_taken)


def main() -> None:
    """Measure and print; the exit status tells whether the demand is met."""
    options = _options()
    print(f"milliseconds; {options.seconds:g} s each, {options.rate:g} webhooks/s or {options.senders} greedy senders")
    columns = f"{'/s':>7}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}{'ratio':>7}{'MiB':>5}{'behind':>8}"
    print(f"{'':20}{columns}  statuses")
    figures: list[Figures] = []
    with ExitStack() as opened:
        api = opened.enter_context(fast_trackapi.running(ANSWER_MS))
        secrets = made_up_secrets()
        mail = Mail(secrets)
        cases = [_case(opened, *each, api, secrets, mail) for each in _servers(options.postgresql)]
        for situation in (STEADY, GREEDY, FLOODED):
            for case in cases:
                figures.append(_measure(case, situation, options, figures))
                _print(figures[-1])
        errors = {case.name: _errors(case.log) for case in cases}
    _keep(figures, errors, options)
    sys.exit(not all(each.is_met for each in figures))


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seconds", type=float, default=10, help="of each situation on each server")
    parser.add_argument("--rate", type=float, default=200, help="webhooks a second, unless greedy")
    parser.add_argument("--senders", type=int, default=32, help="that are greedy, with one webhook at a time each")
    parser.add_argument("--postgresql", default="", help="such as postgresql://postgres@127.0.0.1:5432")
    return parser.parse_args()


def _print(each: Figures) -> None:
    said = _told(each.statuses)
    said += f"; refused {_told(each.refused)}" if each.refused else ""
    said += f"; {each.missing} calls NOT delivered" if each.missing else ""
    said += "" if each.is_met else "; NOT met"
    print(
        f"{each.situation:9}{each.server:11}{each.per_second:7.0f}{each.p50:8.1f}{each.p99:8.1f}{each.p999:8.1f}"
        f"{each.max:8.1f}{each.ratio:7.2f}{each.memory['web']:5.0f}{each.behind:8.1f}  {said}",
        flush=True,
    )


def _told(statuses: Mapping[int, int]) -> str:
    return " ".join(f"{status}:{number}" for status, number in statuses.items())


def _keep(figures: Sequence[Figures], errors: Mapping[str, Mapping[str, int]], options: argparse.Namespace) -> None:
    for name, found in errors.items():
        for text, times in found.items():
            print(f"{name}'s log, {times} times: {text}")
    setting = {key: value for key, value in vars(options).items() if key != "postgresql"}
    met = all(each.is_met for each in figures)
    kept = {"options": setting, "limit": LIMIT, "met": met, "errors": errors}
    serving.keep(__file__, {**kept, "figures": list(map(asdict, figures))})


# The servers


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One server, what is posted to it, and where its calls go."""

    name: str
    web: serving.Web
    worker: int | None
    log: Path
    api: StandIn
    mail: Mail


def _servers(postgresql: str) -> Iterator[tuple[str, str | None]]:
    """List names, and where the database is: None is bare Flask, which has none."""
    yield BARE, None
    yield "SQLite", ""
    if postgresql:
        yield "PostgreSQL", postgresql


def _case(
    opened: ExitStack, name: str, server: str | None, api: StandIn, secrets: Mapping[str, str], mail: Mail
) -> _Case:
    directory = opened.enter_context(serving.scratch_directory())
    # A copy: whoever edits the shipped ones meanwhile does not disturb.
    mappings = shutil.copytree(MAPPINGS, directory / "mappings")
    environ = {
        **os.environ,
        **secrets,
        "DATABASE_URL": opened.enter_context(serving.fresh_database(server or "", directory)),
        "GATEWAY_MAPPINGS": str(mappings),
        "GATEWAY_PUBLIC_URL": PUBLIC_URL,
        "CUSTOMERIO_SITE_ID": "site",
        "CUSTOMERIO_API_KEY": "key",
        "CUSTOMERIO_BASE_URL": api.url,
    }
    closed = [each.closed for each in load_sources(mappings, environ).values() if each.closed is not None]
    assert not closed, closed
    log, application, worker = directory / "web.log", serving.BARE_APPLICATION, None
    if server is not None:
        application = serving.APPLICATION
        serving.migrate(environ)
        worker = opened.enter_context(serving.worker(environ))
    logging = ("--capture-output", "--error-logfile", str(log))
    web = opened.enter_context(serving.web(environ, application=application, options=logging))
    case = _Case(name=name, web=web, worker=worker, log=log, api=api, mail=mail)
    warm_up = _Load(web.port, mail.genuine, senders=FLOODERS, seconds=WARM_UP)
    warm_up.join()
    _drain(case, warm_up)
    return case


def _errors(log: Path) -> dict[str, int]:
    """Count the most frequent errors that a web logged, by what they say but for numbers."""
    lines = log.read_text(errors="backslashreplace").splitlines()
    errors = (line for line in lines if re.search(r"\b(ERROR|CRITICAL)\b|^Traceback", line))
    return dict(Counter(re.sub(r"\d+", "N", line) for line in errors).most_common(5))


# What is measured


def _measure(case: _Case, situation: str, options: argparse.Namespace, before: Sequence[Figures]) -> Figures:
    case.api.forget()
    rate, senders = options.rate, max(options.senders, round(options.rate * LIMIT / 1_000))
    if situation == GREEDY:
        rate, senders = None, options.senders
    load = _Load(case.web.port, case.mail.genuine, senders=senders, seconds=options.seconds, rate=rate)
    refused = _flood(case, options.seconds) if situation == FLOODED else {}
    load.join()
    behind, missing = _drain(case, load)
    times = sorted(seconds * 1_000 for seconds, _ in load.answers.values())
    p50 = times[len(times) // 2]
    bare = [each.p50 for each in before if (each.situation, each.server) == (situation, BARE)]
    processes = {"web": serving.memory(case.web.pid)[1:]}
    if case.worker is not None:
        processes["worker"] = serving.memory(case.worker)
    return Figures(
        situation=situation,
        server=case.name,
        per_second=round(sum(number for status, number in load.statuses.items() if status) / load.seconds, 1),
        p50=round(p50, 2),
        p99=round(times[len(times) * 99 // 100], 2),
        p999=round(times[len(times) * 999 // 1_000], 2),
        max=round(times[-1], 2),
        ratio=round(p50 / (bare[0] if bare else p50), 2),
        statuses=load.statuses,
        refused=refused,
        behind=round(behind, 1),
        missing=missing,
        memory={name: round(max(sizes), 1) for name, sizes in processes.items()},
    )


def _flood(case: _Case, seconds: float) -> dict[int, int]:
    wrong = case.mail.wrong()
    load = _Load(case.web.port, lambda number: wrong[number % len(wrong)], senders=FLOODERS, seconds=seconds)
    load.join()
    return load.statuses


def _drain(case: _Case, load: _Load) -> tuple[float, int]:
    """Wait until the calls of all that was taken have arrived; give the seconds, and how many have not."""
    if case.worker is None:
        return 0.0, 0
    taken = [number for number, (_, status) in load.answers.items() if _is_taken(status)]
    wanted, began = sum(map(case.mail.calls, taken)), time.monotonic()
    while (arrived := case.api.counts().distinct) < wanted and time.monotonic() < began + PATIENCE:
        time.sleep(0.1)
    return time.monotonic() - began, max(wanted - arrived, 0)


def _is_taken(status: int) -> bool:
    return 200 <= status < 300


class _Load:
    """Requests over kept connections: whichever is free takes the next one, at a *rate* when that is due.

    Attributes:
        answers: By the number of the request, the seconds from when it was due until its answer, and the status.
        seconds: How long all took.
    """

    def __init__(
        self,
        port: int,
        write: Callable[[int], bytes],
        *,
        senders: int,
        seconds: float,
        rate: float | None = None,
    ) -> None:
        self._port = port
        self._write = write
        self._rate = rate
        self._numbers = itertools.count()
        self._began = time.monotonic() + CONNECTING
        self._ends = self._began + seconds
        self.answers: dict[int, tuple[float, int]] = {}
        self.seconds = 0.0
        self._threads = [threading.Thread(target=self._post) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all is answered or given up."""
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers had which status."""
        return dict(sorted(Counter(status for _, status in self.answers.values()).items()))

    def _post(self) -> None:
        connection = _Connection(self._port)
        connection.open()
        for number in self._numbers:
            request = self._write(number)
            due = self._due(number)
            if due >= self._ends:
                break
            time.sleep(max(due - time.monotonic(), 0.0))
            # What no connection was free for in time, nobody waits for any more.
            status = connection.send(request) if time.monotonic() < due + GIVE_UP else 0
            self.answers[number] = time.monotonic() - due, status
        connection.close()

    def _due(self, number: int) -> float:
        if self._rate is None:
            return max(self._began, time.monotonic())
        return self._began + number / self._rate


class _Connection:
    """A connection to a web, made anew after a failure."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def open(self) -> socket.socket:
        """Make it, unless it is there."""
        if self._socket is None:
            self._socket = webhooks.connect(self._port)
            self._socket.settimeout(GIVE_UP)
        return self._socket

    def send(self, request: bytes) -> int:
        """Send a request, and give the status of its answer; 0: there was none."""
        try:
            return webhooks.send(self.open(), request)
        except OSError:
            self.close()
            return 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


if __name__ == "__main__":
    main()
