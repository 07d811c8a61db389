"""How long a sender waits for its answer, beside a bare Flask `202` under the same gunicorn settings.

    python -m bench.acknowledge [--seconds 10] [--rate 200] [--senders 32] [--postgresql URL]

Senders give up after 2 to 5 seconds, so 999 of 1,000 answers have to come in less than one. The gateway has all the
shipped mappings. Seven kinds of senders post what those turn into calls, each signed in its own way and no two alike;
a worker delivers to a stand-in for Customer.io. There are three situations:

    steady    so many webhooks a second, whatever the answers take; the time runs from when each was due
    greedy    every sender posts its next webhook as soon as its last is answered
    flooded   steady, while 8 more post as fast as they can what is refused: wrong signatures, half of them of 1 MiB

All servers run at once and take turns; a turn ends when everything is delivered. The load shares the machine's cores:
read the ratios. The exit status is 1 where a p99.9 of the gateway is a second or more, or where a webhook was not
accepted or a call not delivered.

    p50 … highest  of the answers, in milliseconds
    ratio          of the p50, to that of bare Flask
    *_mib          memory of the largest process of the web and of the worker
    behind         seconds from the last answer until all calls were delivered
    missing        calls that were not delivered
    statuses       of the genuine webhooks, 0 for no answer in time; flood: those of the flood
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import attacks, fast_trackapi, harness
from bench.attacks import ATTACKS
from bench.fast_trackapi import StandIn
from bench.harness import MAPPINGS, Load, Row, Web, percentile
from bench.senders import PUBLIC_URL, Traffic, made_up_secrets
from gateway.receive.sources import load_sources
from tests.support.machine import memory

STEADY, GREEDY, FLOODED = "steady", "greedy", "flooded"
BARE = "bare Flask"
LIMIT = 1_000.0  # milliseconds
#: Seconds until all accepted webhooks have to be delivered.
PATIENCE = 60.0
FLOODERS = 8
ANSWER_MS = 20.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server, the log of its web, and its worker."""

    name: str
    web: Web
    worker: subprocess.Popen[bytes] | None
    log: Path


def main() -> None:
    """Measure and print; the exit status says whether the limit is kept."""
    options = harness.options(__doc__, seconds=10.0, rate=200.0, senders=32)
    run(__file__, options, (STEADY, GREEDY, FLOODED), LIMIT)


def run(script: str, options: argparse.Namespace, situations: Sequence[str], limit: float) -> None:
    """Measure all servers in some situations, write the figures beside a script, and exit."""
    rows: list[Row] = []
    with ExitStack() as stack, fast_trackapi.running(ANSWER_MS) as api:
        secrets = made_up_secrets()
        traffic = Traffic(secrets)
        names: dict[str, str | None] = {BARE: None, **harness.servers(options.postgresql)}
        servers = [start(stack, name, address, api, secrets) for name, address in names.items()]
        for server in servers:
            warm_up = Load(server.web.port, traffic.genuine, senders=FLOODERS, seconds=1.0).join()
            _drain(api, server, warm_up, traffic)
        for situation in situations:
            bare_p50 = None
            for server in servers:
                rows.append(measure(server, situation, api, traffic, options, bare_p50, limit=limit))
                bare_p50 = bare_p50 or rows[-1]["p50"]  # bare Flask is the first
        errors = {server.name: _frequent_errors(server.log) for server in servers}
    harness.report(script, options, rows, limit=limit, errors=errors)
    print("errors in the logs:", errors)
    sys.exit(not all(row["met"] for row in rows))


def start(stack: ExitStack, name: str, address: str | None, api: StandIn, secrets: dict[str, str]) -> Server:
    """Start a web with all shipped mappings, and a worker unless it is bare Flask (no *address*)."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
    mappings = shutil.copytree(MAPPINGS, directory / "mappings")
    url = stack.enter_context(harness.fresh_database(address or "", directory))
    environ = harness.environment(url, mappings, api.url, GATEWAY_PUBLIC_URL=PUBLIC_URL, **secrets)
    closed = [source.closed for source in load_sources(mappings, environ).values() if source.closed is not None]
    assert not closed, closed
    log, application, worker = directory / "web.log", harness.BARE_APPLICATION, None
    if address is not None:
        application = harness.APPLICATION
        harness.migrate(environ)
        worker = stack.enter_context(harness.worker(environ))
    web = stack.enter_context(harness.web(environ, application, log=log))
    return Server(name=name, web=web, worker=worker, log=log)


def measure(
    server: Server,
    situation: str,
    api: StandIn,
    traffic: Traffic,
    options: argparse.Namespace,
    bare_p50: float | None,
    *,
    limit: float = LIMIT,
) -> Row:
    """Post to one server in one situation, or beside an attack, and wait until everything is delivered.

    Args:
        limit: Milliseconds that 999 of 1,000 answers may take.
    """
    api.reset()
    # Unless greedy there are as many senders as wait at once if every answer takes a second.
    rate, senders = options.rate, max(options.senders, round(options.rate * LIMIT / 1_000))
    if situation == GREEDY:
        rate, senders = None, options.senders
    attack = situation if situation in ATTACKS else None
    with attacks.running(attack, server.web.port, options.seconds) as flood:
        load = Load(server.web.port, traffic.genuine, senders=senders, seconds=options.seconds, rate=rate)
        if situation == FLOODED:
            wrong = traffic.wrong
            flood_load = Load(
                server.web.port, lambda number: wrong[number % len(wrong)], senders=FLOODERS, seconds=options.seconds
            )
            flood.update(flood_load.join().statuses)
        load.join()
    behind, missing = _drain(api, server, load, traffic)
    times = load.milliseconds()
    p50, p999 = percentile(times, 50), percentile(times, 99.9)
    all_accepted = all(200 <= status < 300 for status in load.statuses) and not missing
    return {
        "situation": situation,
        "server": server.name,
        "per_second": round(load.per_second),
        "p50": p50,
        "p99": percentile(times, 99),
        "p999": p999,
        "highest": times[-1],
        "ratio": p50 / (bare_p50 or p50),
        "web_mib": max(memory(server.web.pid)[1:]),
        "worker_mib": max(memory(server.worker.pid)) if server.worker else 0.0,
        "behind": behind,
        "missing": missing,
        "met": server.name == BARE or (p999 < limit and all_accepted),
        "statuses": load.statuses,
        "flood": dict(sorted(flood.items())),
    }


def _drain(api: StandIn, server: Server, load: Load, traffic: Traffic) -> tuple[float, int]:
    """Wait until the calls of all accepted webhooks arrived; return the seconds, and how many did not arrive."""
    if server.worker is None:
        return 0.0, 0
    accepted = [number for number, reply in load.replies.items() if 200 <= reply.status < 300]
    wanted, start = sum(map(traffic.calls, accepted)), time.monotonic()
    arrived = api.wait_for(wanted, PATIENCE).distinct
    return time.monotonic() - start, max(wanted - arrived, 0)


def _frequent_errors(log: Path) -> dict[str, int]:
    """Count the most frequent errors of a log; numbers do not make them different."""
    lines = log.read_text(errors="backslashreplace").splitlines()
    errors = (line for line in lines if re.search(r"\b(ERROR|CRITICAL)\b|^Traceback", line))
    return dict(Counter(re.sub(r"\d+", "N", line) for line in errors).most_common(5))


if __name__ == "__main__":
    main()
