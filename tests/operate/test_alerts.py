"""Alerts, posted to a real server; and the tasks beside the worker."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.errors import StoreError
from gateway.operate.alerts.post import GIVE_UP_AFTER, AlertPoster
from gateway.operate.housekeeping import Task, housekeeping
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.tables import notices
from tests.conftest import MakeApp
from tests.deliver.running import wait_until
from tests.support.gateway_process import GatewayProcess
from tests.support.rows import begin, call, end, event, fail, shift
from tests.support.trackapi import ParsedRequest, Reply, TrackAPI

Answer = Callable[["_Handler"], None]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
        server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
        """Print nothing."""


def status(code: int, **headers: str) -> Answer:
    def answer(handler: _Handler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


class Receiver(http.server.ThreadingHTTPServer):
    """Receives alerts as Slack does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: Answer = status(200)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/T4711"

    @property
    def texts(self) -> list[str]:
        return [body["text"] for _, _, body in self.received]

    def has_received(self, *parts: str) -> bool:
        return all(part in str(self.texts) for part in parts)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# Seconds that an answer may take: on a busy machine, and where the answer comes too late anyway.
DEADLINE, SHORT = 1.0, 0.2


@pytest.fixture
def alerts(request: pytest.FixtureRequest, database: Database, receiver: Receiver) -> Iterator[AlertPoster]:
    with closing(AlertPoster(database, receiver.url, deadline=getattr(request, "param", DEADLINE))) as poster:
        yield poster


RUNNING = threading.Event()


def seconds_until_posts(database: Database) -> list[float]:
    """Return in how many seconds each notice that is not yet posted is posted next."""
    with database.engine.connect() as connection:
        waiting = select(notices.c.tell_at - database.now).where(notices.c.tell_at.is_not(None))
        return list(connection.scalars(waiting))


def test_an_alert_has_the_form_of_slack(alerts: AlertPoster, receiver: Receiver, database: Database) -> None:
    begin(database, "broken", "shop", "a < b & <!channel>")
    alerts.post_due(RUNNING)
    alerts.post_due(RUNNING)
    text = "customerio-gateway: a &lt; b &amp; &lt;!channel&gt;"
    assert receiver.received == [("/T4711", "application/json", {"text": text})]
    assert seconds_until_posts(database) == []


def test_the_end_of_a_notice_says_how_long_it_lasted(
    alerts: AlertPoster, receiver: Receiver, database: Database
) -> None:
    begin(database, "late", "", "deliveries are late")
    shift(database, 90 * 60)
    end(database, "late")
    alerts.post_due(RUNNING)
    assert receiver.texts == ["customerio-gateway: over after 1.5 h: deliveries are late"]


def test_the_answer_of_customerio_is_not_part_of_an_alert(
    alerts: AlertPoster, receiver: Receiver, database: Database, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.record([event("a", call("one", 1))])
    fail(store)
    alerts.post_due(RUNNING)
    text = "deliveries of source shop fail; see: gateway deliveries list --status failed --source shop"
    assert receiver.texts == [f"customerio-gateway: {text}"]
    assert [record.getMessage() for record in caplog.records if record.name == "gateway.operate.alerts.post"] == [text]


@pytest.mark.parametrize(
    ("answer", "reason", "alerts"),
    [
        (status(500), "HTTP 500", DEADLINE),
        (status(302, Location="/elsewhere"), "HTTP 302", DEADLINE),
        (lambda handler: handler.connection.close(), "the connection failed", DEADLINE),
        (lambda _: time.sleep(0.5), "no whole answer within 0.2 s", SHORT),
    ],
    ids=["refused", "redirected", "closed", "silent"],
    indirect=["alerts"],
)
def test_an_alert_that_was_not_accepted_is_posted_again_later(
    answer: Answer,
    reason: str,
    alerts: AlertPoster,
    receiver: Receiver,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.answer = answer
    begin(database, "late", "", "deliveries are late")
    alerts.post_due(RUNNING)
    assert len(receiver.received) == 1
    assert f"posting an alert failed: {reason}" in caplog.text
    assert "4711" not in caplog.text
    (seconds,) = seconds_until_posts(database)
    assert 30 < seconds <= 60
    shift(database, 1_800)
    alerts.post_due(RUNNING)
    (seconds,) = seconds_until_posts(database)
    assert 1_700 < seconds <= 1_830
    shift(database, GIVE_UP_AFTER)
    alerts.post_due(RUNNING)
    assert "is given up" in caplog.text
    assert seconds_until_posts(database) == []
    assert caplog.text.count("deliveries are late") == 1


@pytest.mark.parametrize("alerts", [SHORT], indirect=True)
def test_a_trickling_answer_ends_at_the_deadline(
    alerts: AlertPoster, receiver: Receiver, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    closed = threading.Event()

    def trickle(handler: _Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        try:
            while not closed.wait(0.02):
                handler.wfile.write(b"x")
        except OSError:
            closed.set()

    receiver.answer = trickle
    begin(database, "late", "", "deliveries are late")
    began = time.monotonic()
    alerts.post_due(RUNNING)
    assert time.monotonic() - began < 3
    assert "no whole answer within 0.2 s" in caplog.text
    assert closed.wait(5)


def test_without_an_address_notices_are_only_logged(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    begin(database, "late", "", "deliveries are late")
    begin(database, "paused", "default", "connection default is paused (unreachable)")
    with closing(AlertPoster(database, None)) as alerts:
        alerts.post_due(RUNNING)
        end(database, "late")
        alerts.post_due(RUNNING)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    # The worker that paused a connection has logged that itself.
    assert lines == [("ERROR", "deliveries are late"), ("WARNING", "over after 0 s: deliveries are late")]
    assert seconds_until_posts(database) == []


# Housekeeping


def test_each_task_runs_at_its_own_interval_and_an_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    runs = {"good": 0, "gone": 0, "bad": 0}

    def task(name: str, error: Exception | None = None) -> Task:
        def run(_: threading.Event) -> None:
            runs[name] += 1
            if error is not None:
                raise error

        return Task(name=name, every=0.01, run=run)

    tasks = [
        task("good"),
        task("gone", StoreError("the database is away")),
        task("bad", ValueError("canary")),
        Task(name="slow", every=0.01, run=lambda stopping: assert_true(stopping.wait(30))),
    ]
    before = threading.active_count()
    with housekeeping(tasks):
        wait_until(lambda: min(runs.values()) > 3)
    assert threading.active_count() == before
    lines = sorted(record.getMessage() for record in caplog.records)
    assert lines == ["bad: unexpected ValueError; trying again", "gone: the database is away; trying again"]


def assert_true(value: bool) -> None:
    assert value


MAPPING = """\
version: 1
source: shop
verify: none
event_key: =key
events:
  "*":
    - call: track
      id: =customer
      name: =name
"""


# It waits for the intervals of its tasks, which do not depend on the database: PostgreSQL is for `pytest -m faults`.
@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.faults)], indirect=True
)
def test_the_worker_process_posts_pauses_failures_and_broken_mappings(
    tmp_path: Path, database_url: str, make_app: MakeApp, database: Database, receiver: Receiver
) -> None:
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "shop.yaml").write_text(MAPPING)
    (tmp_path / "logs").mkdir()

    def refuse(request: ParsedRequest) -> Reply | None:
        return Reply(status=400, body=b'{"meta": {"error": "canary"}}') if b"refused" in request.body else None

    with TrackAPI(api_key="another") as wrong, TrackAPI(answer=refuse) as right:
        environment = {
            "DATABASE_URL": database_url,
            "GATEWAY_MAPPINGS": str(tmp_path / "mappings"),
            "CUSTOMERIO_SITE_ID": "site",
            "CUSTOMERIO_API_KEY": "key",
            "GATEWAY_ALERT_URL": receiver.url,
        }
        # A worker looks for what fails as it starts, and then every 15 seconds only.
        web = make_app(environment, database=database).test_client()
        for key, name in enumerate(["refused", {"a": 1}]):
            assert web.post("/hooks/shop", json={"key": key, "customer": 7, "name": name}).status_code == 202
        # A notice that a worker had claimed when it was ended is posted only a minute later: wait for both of them.
        run_worker(
            environment | {"CUSTOMERIO_BASE_URL": wrong.url},
            tmp_path / "logs",
            lambda: receiver.has_received("is paused (misconfigured)", "webhooks of source shop fail"),
        )
        logs = run_worker(
            environment | {"CUSTOMERIO_BASE_URL": right.url},
            tmp_path / "logs",
            lambda: receiver.has_received("deliveries of source shop fail", "over after "),
        )
    texts = [text.removeprefix("customerio-gateway: ") for text in receiver.texts]
    assert [text for text in texts if text.startswith("webhooks of source shop fail, first event 2:")]
    assert [text for text in texts if text.startswith("over after ") and "is paused" in text]
    assert "canary" not in str(texts) + logs
    assert logs.count("is paused (misconfigured)") == 1
    assert logs.count("webhooks of source shop fail") == 1
    assert receiver.url not in logs


def run_worker(environment: dict[str, str], logs: Path, done: Callable[[], bool]) -> str:
    """Run a worker process until a condition holds; return its log and those of the workers before."""
    with GatewayProcess(environment=environment, logs=logs, webs=0) as gateway:
        gateway.start(migrated=True)
        wait_until(done, 30)
        assert gateway.stop() == {"worker": 0}
        return gateway.read_logs()
