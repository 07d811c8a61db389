"""GET /metrics on both databases, through the application and through its real server."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from gateway.app import create_app
from gateway.receive.refusals import RefusalRecord, RefusalTable
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.notices import Notices
from gateway.store.tables import connections, deliveries
from tests.support.gateway_process import GatewayProcess
from tests.support.rows import call, event, fail

MAPPING = """\
version: 1
source: shop
verify: none
event_key: =key
events:
  "*":
    - call: track
      id: =customer
      name: Ordered
"""


@pytest.fixture
def environ(tmp_path: Path, database_url: str) -> dict[str, str]:
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "shop.yaml").write_text(MAPPING)
    return {"DATABASE_URL": database_url, "GATEWAY_MAPPINGS": str(tmp_path / "mappings")}


@pytest.fixture
def web(environ: dict[str, str], database: Database) -> FlaskClient:
    return create_app(environ, database=database).test_client()


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_of_an_empty_gateway_are_zeros(web: FlaskClient) -> None:
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    zeros: dict[tuple[str, ...], float] = {
        **{("gateway_deliveries", status): 0 for status in ("parked", "pending", "failed")},
        **{("gateway_notices_open", kind): 0 for kind in ("paused", "failed", "late", "broken", "repeats")},
        ("gateway_oldest_unsettled_seconds",): 0,
        ("gateway_webhooks_refused_total",): 0,
    }
    assert samples(answer.text) == zeros


def test_refused_webhooks_are_counted_over_all_sources(web: FlaskClient, database: Database) -> None:
    refusals = RefusalTable(database)
    shop = [RefusalRecord(source="shop", times=times, problem=problem) for times, problem in ((3, "old"), (1, "new"))]
    refusals.add(shop)
    refusals.add([RefusalRecord(source="other", times=2, problem="odd")])
    assert samples(web.get("/metrics").text)[("gateway_webhooks_refused_total",)] == 6
    records = {source: (record.times, record.problem) for source, record in refusals.read().items()}
    assert records == {"shop": (4, "new"), "other": (2, "odd")}


def test_the_metrics_count_waiting_and_failed_deliveries_pauses_and_notices(
    web: FlaskClient, database: Database, store: Store
) -> None:
    store.record([event("a", call("gone", 1))])
    fail(store)
    store.record([event("b", call("one", 1), call("two", 1), call("canary", 2, region="eu"))])
    with database.transaction() as connection:
        connection.execute(update(deliveries).values(due_at=deliveries.c.due_at - 100))
        paused = update(connections).where(connections.c.region == "eu")
        connection.execute(paused.values(cause="throttled", reason="canary"))
        Notices(database).begin(connection, "paused", "default (eu)", "canary")
    text = web.get("/metrics").text
    values = samples(text)
    oldest = values.pop(("gateway_oldest_unsettled_seconds",))
    assert 100 <= oldest < 130
    assert {name: value for name, value in values.items() if value or "connection" in name[0]} == {
        ("gateway_deliveries", "parked"): 1,
        ("gateway_deliveries", "pending"): 2,
        ("gateway_deliveries", "failed"): 1,
        ("gateway_connection_paused", "", "default", ""): 0,
        ("gateway_connection_paused", "throttled", "default", "eu"): 1,
        ("gateway_notices_open", "paused"): 1,
        ("gateway_notices_open", "failed"): 1,
    }
    assert "canary" not in text


def test_a_database_that_does_not_answer_is_503(web: FlaskClient, environ: dict[str, str], database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP TABLE deliveries")
    away = create_app(environ | {"DATABASE_URL": "postgresql://nobody:pass4711@127.0.0.1:1/none"})
    for client in (web, away.test_client()):
        answer = client.get("/metrics")
        assert (answer.status_code, answer.text) == (503, "the database does not answer\n")


def test_a_token_closes_the_metrics(environ: dict[str, str], database: Database) -> None:
    token = "t4711-" + "x" * 20
    web = create_app(environ | {"GATEWAY_METRICS_TOKEN": token}, database=database).test_client()
    for wrong in ("", token, "Bearer", f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", "Bearer \udcff"):
        answer = web.get("/metrics", headers={"Authorization": wrong} if wrong else {})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "GATEWAY_METRICS_TOKEN" in answer.text
        assert "gateway_" not in answer.text
    for right in (f"Bearer {token}", f"bearer {token}"):
        assert web.get("/metrics", headers={"Authorization": right}).status_code == 200
    assert web.get("/readyz").status_code == 200


def test_webhooks_keep_their_connections_whoever_reads_readyz_and_metrics(
    environ: dict[str, str], database: Database
) -> None:
    app = create_app(environ)
    web, engines = app.test_client(), [app.extensions[name].engine for name in ("database", "watching")]
    recording, watching = engines
    most = 3 if database.engine.dialect.name == "postgresql" else 4
    with ExitStack() as stack:
        for engine in engines:
            stack.callback(engine.dispose)
        stack.callback(app.extensions["recorder"].close)  # it uses a connection
        with ExitStack() as taken:
            for _ in range(most):
                taken.enter_context(recording.connect())
            assert [web.get(path).status_code for path in ("/readyz", "/metrics")] == [200, 200]
        for _ in range(most):
            stack.enter_context(watching.connect())
        assert web.post("/hooks/shop", json={"key": 1, "customer": 7}).status_code == 202


def test_the_real_server_serves_metrics(environ: dict[str, str], database: Database, tmp_path: Path) -> None:
    one = environ | {"WEB_CONCURRENCY": "1"}
    with GatewayProcess(environment=one, logs=tmp_path, workers=0) as gateway:
        gateway.start(migrated=True)
        body = {"key": 1, "customer": 7}
        assert requests.post(f"{gateway.url}/hooks/shop", json=body, timeout=10).status_code == 202
        answer = requests.get(f"{gateway.url}/metrics", timeout=10)
        assert (answer.status_code, samples(answer.text)["gateway_deliveries", "pending"]) == (200, 1)
