"""The promise, kept while processes, databases, networks, disks and clocks fail: `pytest -m faults`.

FAULTS_SCALE makes the runs shorter or longer: 1 (the default) is 5,100 orders of 300 customers, 20 kills of
the web and 20 of the worker, and a clock that moves by a minute; `.ci/run` takes 0.3.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, make_url, text

from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.receive.record import build_event
from gateway.store import NewEvent, Store
from tests.support.databases import opened
from tests.support.gateway_process import GatewayProcess
from tests.support.postgresql_server import PgBouncer, PostgreSQLServer, Standby
from tests.support.shim import Shim, build_shim
from tests.support.shop import (
    API_KEY,
    MAPPING,
    Load,
    assert_promise_kept,
    paid_order,
    running_gateway,
    signed,
    wait_until_settled,
)
from tests.support.tcp_proxy import TCPProxy
from tests.support.trackapi import Answer, Delay, Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

pytestmark = pytest.mark.faults

SCALE = float(os.environ.get("FAULTS_SCALE") or 1)
SEED = 20_260_801
CUSTOMERS = max(round(300 * SCALE), 20)
ORDERS = 17  # of each
#: Seconds until others have taken over from a worker that was killed: 5, and 5 for a process to start when all is busy.
RECOVERY = 10.0
PATIENCE = 120 + 480 * SCALE  # seconds that a load may take, and then its deliveries


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI(site_id="site", api_key=API_KEY) as server:
        yield server


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can read; the user of a database server cannot read pytest's own."""
    with tempfile.TemporaryDirectory(prefix="gateway-faults-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def shim(open_directory: Path) -> Shim:
    return build_shim(open_directory)


def test_web_and_worker_are_killed_at_random(tmp_path: Path, database_url: str, api: TrackAPI) -> None:
    with running_gateway(tmp_path, database_url, api) as gateway:
        load = _load(gateway)
        load.run(lambda load: kill_at_random(gateway, api, load))
        _assert_all_is_well(gateway, api, load, database_url)


def test_the_track_api_is_away_and_comes_back_unwell(tmp_path: Path, database_url: str, api: TrackAPI) -> None:
    unwell = Unwell()
    # An attempt that is never answered ends after half of the lease.
    with running_gateway(tmp_path, database_url, api, lease=2) as gateway:
        load = _load(gateway)
        load.run(lambda load: fall_ill(api, load, unwell))
        _assert_all_is_well(gateway, api, load, database_url)
    assert set(unwell.faults) == {"503", "reset", "hang"}
    assert api.repeats > 0  # the API did drop what was applied and came again


def test_postgresql_is_restarted_during_the_load(tmp_path: Path, open_directory: Path, api: TrackAPI) -> None:
    with PostgreSQLServer(open_directory, {}) as server, running_gateway(tmp_path, server.url, api) as gateway:
        load = _load(gateway)
        load.run(lambda load: restart_often(server, load, api))
        _assert_all_is_well(gateway, api, load, server.url)


def test_postgresql_fails_over_to_its_standby(tmp_path: Path, open_directory: Path, api: TrackAPI) -> None:
    with PostgreSQLServer(open_directory, {}) as primary, Standby(open_directory, primary) as standby:
        ports = f"port={primary.port},{standby.port}&target_session_attrs=read-write"
        either = f"postgresql://postgres@/postgres?host=127.0.0.1,127.0.0.1&{ports}"
        with running_gateway(tmp_path, either, api) as gateway:
            load = _load(gateway)
            load.run(lambda load: fail_over(primary, standby, load))
            _assert_all_is_well(gateway, api, load, standby.url)


def test_postgresql_is_behind_pgbouncer(tmp_path: Path, open_directory: Path, api: TrackAPI) -> None:
    with (
        PostgreSQLServer(open_directory, {}) as server,
        PgBouncer(open_directory, server) as pooler,
        running_gateway(tmp_path, pooler.url, api) as gateway,
    ):
        load = _load(gateway)
        load.run(lambda load: kill_at_random(gateway, api, load))
        _assert_all_is_well(gateway, api, load, server.url)


def test_three_webs_and_three_workers_run_at_once(tmp_path: Path, database_url: str, api: TrackAPI) -> None:
    with running_gateway(tmp_path, database_url, api, webs=3, workers=3) as gateway:
        load = _load(gateway)
        load.run(lambda load: kill_one_of_each(gateway, api, load))
        _assert_all_is_well(gateway, api, load, database_url)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_a_killed_worker_held_is_sent_within_seconds(
    tmp_path: Path, database_url: str, api: TrackAPI, workers: int, record_property: Callable[[str, object], None]
) -> None:
    with running_gateway(tmp_path, database_url, api, lease=120, workers=workers) as gateway:
        load = Load(gateway.urls, customers=20, orders=1, patience=PATIENCE, seed=SEED)
        api.answer = _always(Hang())
        load.run()
        time.sleep(1)
        for process in gateway.workers:
            process.kill()
        killed_at = time.monotonic()
        api.answer = lambda _: None
        for process in gateway.workers:
            process.start()
        load.wait_until(lambda: api.count_applied() >= load.calls)
        seconds = time.monotonic() - killed_at
        record_property("seconds", seconds)
        assert seconds < RECOVERY
        _assert_all_is_well(gateway, api, load, database_url)


def test_connections_to_postgresql_are_swallowed_and_reset(tmp_path: Path, open_directory: Path, api: TrackAPI) -> None:
    with PostgreSQLServer(open_directory, {}) as server, TCPProxy(make_url(server.url).port or 0) as proxy:
        through = make_url(server.url).set(port=proxy.port).render_as_string(hide_password=False)
        with running_gateway(tmp_path, through, api, lease=120) as gateway:
            load = _load(gateway)
            load.run(lambda load: lose_connections(proxy, load))
            _assert_all_is_well(gateway, api, load, server.url)


def test_what_fails_and_a_noisy_source_hold_up_no_order(
    tmp_path: Path, database_url: str, api: TrackAPI, record_property: Callable[[str, object], None]
) -> None:
    """Forty customers whose calls are always answered 500, and 50,000 calls of another source, come first."""
    # A batch with a poisoned item fails as a whole.
    api.answer = lambda request: (
        Reply(status=500) if b"poisoned" in request.target + request.body else Delay(seconds=0.05)
    )
    with running_gateway(tmp_path, database_url, api, lease=20) as gateway:
        gateway.worker.kill()
        for number in range(40):
            post_order(gateway, f"poisoned{number}")
        record_noise(database_url, round(25_000 * SCALE))
        gateway.worker.start()
        time.sleep(2)
        posted = {}
        for number in range(90):
            posted[f"good{number}"] = time.monotonic()
            post_order(gateway, f"good{number}")
            time.sleep(0.1)
        waited = arrivals(api, posted, patience=60)
        assert len(waited) == 90
        waited.sort()
        record_property("waited", (waited[45], waited[-1]))
        assert waited[-1] < 10
        api.answer = lambda _: None
        gateway.stop()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_the_clock_is_moved_by_a_minute(
    tmp_path: Path, open_directory: Path, shim: Shim, api: TrackAPI, engine: str
) -> None:
    shimmed = shim.environment()
    with (
        _database(engine, tmp_path, open_directory, shimmed) as database_url,
        running_gateway(tmp_path, database_url, api, environment=shimmed) as gateway,
    ):
        load = _load(gateway)
        load.run(lambda load: move_clock(shim, load))
        _assert_all_is_well(gateway, api, load, database_url)
        assert _largest_step_back(database_url) > MINUTE / 2


@pytest.mark.parametrize("milliseconds", [2, 10])
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_the_receiver_stays_usable_on_a_slow_disk(
    tmp_path: Path, open_directory: Path, shim: Shim, api: TrackAPI, engine: str, milliseconds: int
) -> None:
    shimmed = shim.environment(sync_seconds=milliseconds / 1000)
    with (
        _database(engine, tmp_path, open_directory, shimmed) as database_url,
        running_gateway(tmp_path, database_url, api, environment=shimmed) as gateway,
    ):
        synced = shim.times_acted()
        load = _load(gateway, senders=16)
        load.run()
        assert shim.times_acted() > synced
        assert load.unavailable == 0
        # Of 5,000 answers the first few of each connection are no hundredth; of fewer, they must not decide.
        answers = sorted(load.answers[3 * 16 :])
        assert answers[len(answers) * 99 // 100] < 1.0, f"the slowest took {answers[-5:]}"
        _assert_all_is_well(gateway, api, load, database_url)


# Disturbances, each at a point of the progress, so that they are spread over the load on any machine


def kill_at_random(gateway: GatewayProcess, api: TrackAPI, load: Load) -> None:
    dice, kills = random.Random(SEED), max(round(20 * SCALE), 5)
    webs = sorted(dice.sample(range(load.events // 20, load.events * 19 // 20), kills))
    workers = sorted(dice.sample(range(load.calls // 20, load.calls * 19 // 20), kills))
    while webs or workers:
        if webs and load.accepted >= webs[0]:
            webs.pop(0)
            gateway.web.kill()
            gateway.web.start()
        if workers and api.count_applied() >= workers[0]:
            workers.pop(0)
            gateway.worker.kill()
            gateway.worker.start()
        gateway.assert_running()
        load.assert_patience()
        time.sleep(dice.uniform(0.001, 0.02))


def kill_one_of_each(gateway: GatewayProcess, api: TrackAPI, load: Load) -> None:
    for process in (gateway.workers[1], gateway.webs[1], gateway.workers[2]):
        _wait_for_calls(api, load, api.count_applied() + load.calls // 5)
        process.kill()
        process.start()


class Unwell:
    """The fault of each request, the region probe included, while the Track API is unwell."""

    def __init__(self) -> None:
        self.faults: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, request: ParsedRequest) -> Fault | None:
        chance = random.Random(f"{SEED} {request.number}").random()
        if chance < 0.30:
            return self._give("503", Reply(status=503))
        if chance < 0.35:
            return self._give("reset", Reset(applied=False))
        if chance < 0.45:
            return self._give("hang", Hang())
        return None

    def _give(self, name: str, fault: Fault) -> Fault:
        with self._lock:
            self.faults[name] = self.faults.get(name, 0) + 1
        return fault


def fall_ill(api: TrackAPI, load: Load, unwell: Unwell) -> None:
    """Refuse, reset and answer 503 for a while each, then be unwell until half is applied."""
    _wait_for_calls(api, load, load.calls // 10)
    with api.away():
        time.sleep(OUTAGE)
    for fault in (Reset(applied=False), Reply(status=503), Reset(applied=True)):
        api.answer = _always(fault)
        time.sleep(OUTAGE)
    api.answer = unwell
    ends = time.monotonic() + 10 * OUTAGE
    load.wait_until(lambda: api.count_applied() >= load.calls // 2 or time.monotonic() > ends)
    # The worker sends little while the connection is paused: not every fault has met an event by then.
    load.wait_until(lambda: len(unwell.faults) == 3 and api.repeats > 0)
    api.answer = lambda _: None


OUTAGE = 1 + 2 * SCALE  # seconds


def restart_often(server: PostgreSQLServer, load: Load, api: TrackAPI) -> None:
    """Restart it twice while webhooks come in, and twice by the progress of the delivery."""
    load.wait_until(lambda: load.accepted >= load.events // 4)
    server.restart("fast")
    load.wait_until(lambda: load.accepted >= load.events // 2)
    server.restart("immediate")
    _wait_for_calls(api, load, load.calls * 2 // 3)
    server.restart("fast")
    _wait_for_calls(api, load, load.calls * 4 // 5)
    server.restart("immediate")


def lose_connections(proxy: TCPProxy, load: Load) -> None:
    """Swallow all connections, then reset them; each time webhooks are accepted again soon."""
    for part, lose in ((4, proxy.swallow), (2, proxy.reset)):
        load.wait_until(lambda part=part: load.accepted >= load.events // part)  # type: ignore[misc]  # bound now
        lose()
        lost_at, accepted = time.monotonic(), load.accepted
        # What was being answered when they were lost may still be counted: 8 senders.
        load.wait_until(lambda accepted=accepted: load.accepted > accepted + 8)  # type: ignore[misc]
        assert time.monotonic() - lost_at < RECOVERY


def fail_over(primary: PostgreSQLServer, standby: Standby, load: Load) -> None:
    """Let the primary crash and promote its standby; webhooks are accepted again soon."""
    load.wait_until(lambda: load.accepted >= load.events // 3)
    primary.stop()
    standby.promote()
    promoted_at, accepted = time.monotonic(), load.accepted
    load.wait_until(lambda: load.accepted > accepted + 8)
    assert time.monotonic() - promoted_at < RECOVERY


def move_clock(shim: Shim, load: Load) -> None:
    """Move it forward and back: a delivery that became due in between is due again only after as long."""
    load.wait_until(lambda: load.accepted >= load.events // 3)
    shim.move_clock(MINUTE)
    load.wait_until(lambda: load.accepted >= load.events * 2 // 3)
    shim.move_clock(0)


MINUTE = max(round(60 * SCALE), 10)


def _wait_for_calls(api: TrackAPI, load: Load, calls: int) -> None:
    load.wait_until(lambda: api.count_applied() >= calls)


def _always(fault: Fault) -> Answer:
    return lambda _: fault


# Poisoned and noisy orders


def post_order(gateway: GatewayProcess, customer: str) -> None:
    body = paid_order(customer, 1)
    assert requests.post(f"{gateway.url}/hooks/shop", body, headers=signed(body), timeout=10).status_code == 202


def record_noise(database_url: str, orders: int) -> None:
    """Record orders of another source, each with two calls."""
    mapping, _ = parse(MAPPING.replace("source: shop", "source: noisy"), "noisy.yaml")
    with opened(database_url) as database:
        store = Store(database)
        for first in range(0, orders, 250):
            bodies = (paid_order(f"noise{number}", 1) for number in range(first, min(first + 250, orders)))
            store.record([noise_event(mapping, body) for body in bodies])


def noise_event(mapping: MappingFile, body: bytes) -> NewEvent:
    headers = {"content-type": "application/json"}
    webhook = Webhook(method="POST", url="http://localhost/hooks/noisy", headers=headers, query={}, body=body)
    return build_event(mapping, webhook, time.time())


def arrivals(api: TrackAPI, posted: dict[str, float], patience: float) -> list[float]:
    """Return how many seconds each customer's two calls took to arrive, of those that do within *patience* seconds."""
    waiting, waited, ends = dict(posted), list[float](), time.monotonic() + patience
    while waiting and time.monotonic() < ends:
        for customer in [customer for customer in waiting if len(api.applied(customer)) == 2]:
            last = max(operation.at for operation in api.applied(customer))
            waited.append(last - waiting.pop(customer))
        time.sleep(0.05)
    return waited


# Set-up, and how every run has to end


def _load(gateway: GatewayProcess, *, senders: int = 8) -> Load:
    return Load(gateway.urls, customers=CUSTOMERS, orders=ORDERS, patience=PATIENCE, senders=senders, seed=SEED)


@contextlib.contextmanager
def _database(engine: str, directory: Path, open_directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the URL of a database whose server has the clock and the disk of *environment*."""
    if engine == "sqlite":
        yield f"sqlite:///{directory}/gateway.db"
        return
    with PostgreSQLServer(open_directory, environment) as server:
        yield server.url


def _assert_all_is_well(gateway: GatewayProcess, api: TrackAPI, load: Load, database_url: str) -> None:
    """Require that all calls are settled, applied once and in order, and that all processes end well."""
    wait_until_settled(database_url, load, timeout=PATIENCE)
    assert_promise_kept(api, load)
    # A process that has just been restarted may get the signal before it handles it.
    assert set(gateway.stop().values()) <= {0, -signal.SIGTERM}


def _largest_step_back(database_url: str) -> float:
    """Return the most seconds by which an event was received before the one recorded earlier."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            times: list[float] = list(connection.scalars(text("SELECT received_at FROM events ORDER BY id")))
    finally:
        engine.dispose()
    return max(earlier - later for earlier, later in itertools.pairwise(times))
