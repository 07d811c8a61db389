"""gateway events and gateway deliveries, as an operator uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from gateway.cli import main
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.receive.record import build_event
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.tables import deliveries, events
from tests.support.databases import url_of

MAPPING = """\
version: 1
source: shop
verify: none
event_type: =type
event_key: =key
events:
  paid:
    - call: track
      id: =customer
      name: {name}
      timestamp: =at
"""

Gateway = Callable[..., Result]


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    directory = tmp_path / "mappings"
    directory.mkdir()
    (directory / "shop.yaml").write_text(MAPPING.format(name="Paid"))
    return directory


@pytest.fixture
def gateway(database: Database, mappings: Path) -> Gateway:
    """Run a command as from a script, without a terminal to ask on."""
    environ = {"DATABASE_URL": url_of(database), "GATEWAY_MAPPINGS": str(mappings)}

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], env=environ)

    return run


@pytest.fixture
def received(store: Store, mappings: Path) -> None:
    """Three webhooks: two of ann's, and one on which the mapping fails."""
    rules, _ = parse((mappings / "shop.yaml").read_text(), "shop.yaml")
    customers = [("a", "ann", 1_767_225_600), ("b", "ann", 1_767_225_601), ("c", "\x1b[31mbob", "x")]
    for key, customer, at in customers:
        body = json.dumps({"key": key, "type": "paid", "customer": customer, "at": at}).encode()
        headers = {"content-type": "application/json"}
        webhook = Webhook(method="POST", url="", headers=headers, query={}, body=body)
        store.record([build_event(rules, webhook, 1_767_225_700.0)])


def fail_first(database: Database) -> None:
    """Fail delivery 1, so that delivery 2 of the same customer is due."""
    failed = {"status": "failed", "reason": "HTTP 400: 100%_wrong", "settled_at": 1.0}
    with database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == 1).values(**failed))
        connection.execute(update(deliveries).where(deliveries.c.id == 2).values(status="pending"))


def statuses(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.status).order_by(deliveries.c.id)))


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def ids(result: Result) -> list[int]:
    return [row["id"] for row in as_json(result)]


@pytest.mark.usefixtures("received")
def test_events_are_listed_and_shown(gateway: Gateway) -> None:
    lines = gateway("events", "list").stdout.splitlines()
    assert lines[0].split() == ["id", "received", "source", "type", "status", "calls", "problem"]
    assert "2026-01-01 00:01:40Z" in lines[1]
    for filters, expected in (
        ((), [3, 2, 1]),
        (("--status", "failed"), [3]),
        (("--limit", 1, "--before", 3), [2]),
        (("--since", "2026-01-02"), []),
        (("--until", "2026-01-02"), [3, 2, 1]),
    ):
        assert ids(gateway("events", "list", *filters, "--json")) == expected
    assert as_json(gateway("events", "show", 1, "--json"))["body"]["customer"] == "ann"
    assert gateway("events", "show", 99).exit_code == 1


@pytest.mark.usefixtures("received")
def test_no_terminal_code_of_a_payload_is_printed(gateway: Gateway) -> None:
    for command in (("events", "list"), ("events", "show", 3), ("deliveries", "list"), ("deliveries", "show", 1)):
        for words in (command, (*command, "--json")):
            assert "\x1b" not in gateway(*words).output


@pytest.mark.usefixtures("received")
def test_deliveries_are_listed_by_filters_and_shown(gateway: Gateway, database: Database) -> None:
    fail_first(database)
    for filters, expected in (
        (("--status", "failed", "--error", "100%_W"), [1]),
        (("--error", "100__w"), []),  # % and _ are no wildcards
        (("--source", "other"), []),
        (("--event", 2), [2]),
    ):
        assert ids(gateway("deliveries", "list", *filters, "--json")) == expected
    delivery = as_json(gateway("deliveries", "show", 1, "--json"))
    assert (delivery["status"], delivery["call"]["name"], delivery["attempts"]) == ("failed", "Paid", [])


@pytest.mark.usefixtures("received")
def test_a_failed_delivery_is_retried_and_others_are_refused_with_a_reason(
    gateway: Gateway, database: Database
) -> None:
    fail_first(database)
    dry = gateway("deliveries", "retry", 1, 2, 99, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (1, "1 delivery would be retried\n")
    assert "delivery 2 is pending; only failed ones are retried" in dry.stderr
    assert "there is no delivery 99" in dry.stderr
    assert statuses(database) == ["failed", "pending"]
    assert as_json(gateway("deliveries", "retry", "--error", "wrong", "--json"))["retried"] == [1]
    assert statuses(database) == ["parked", "pending"]
    assert gateway("deliveries", "retry", "--all").exit_code == 1, "there is none left"


@pytest.mark.usefixtures("received")
def test_bulk_work_without_a_terminal_needs_yes(gateway: Gateway, database: Database) -> None:
    refused = gateway("deliveries", "cancel", "--source", "shop")
    assert refused.exit_code == 2
    assert "cancel 2 deliveries? There is no terminal to ask on: add --yes" in refused.stderr
    assert statuses(database) == ["pending", "parked"]
    assert gateway("deliveries", "cancel", "--source", "shop", "--yes").stdout == "2 deliveries cancelled\n"
    assert statuses(database) == ["cancelled", "cancelled"]


@pytest.mark.parametrize("words", [("deliveries", "retry"), ("deliveries", "cancel"), ("events", "replay")])
def test_bulk_work_needs_ids_filters_or_all(gateway: Gateway, words: tuple[str, ...]) -> None:
    assert "choose some: ids, filters such as --source or --since, or --all" in gateway(*words).stderr
    assert "not both" in gateway(*words, 1, "--source", "shop").stderr


@pytest.mark.usefixtures("received")
def test_a_replay_prints_a_preview_and_does_the_same(gateway: Gateway, database: Database, mappings: Path) -> None:
    (mappings / "shop.yaml").write_text(MAPPING.format(name="Order Paid").replace("      timestamp: =at\n", ""))
    dry = as_json(gateway("events", "replay", 1, "--dry-run", "--json"))
    assert (dry["events"], dry["new"], dry["cancelled"]) == (1, 1, 1)
    assert statuses(database) == ["pending", "parked"]
    assert gateway("events", "replay", 1).exit_code == 0
    assert statuses(database) == ["cancelled", "pending", "parked"]
    assert as_json(gateway("events", "replay", 3, "--json"))["new"] == 1
    with database.engine.connect() as connection:
        assert list(connection.scalars(select(events.c.status).order_by(events.c.id))) == ["accepted"] * 3


@pytest.mark.usefixtures("received")
def test_a_delivered_call_is_sent_again_only_on_request_and_then_with_a_new_id(
    gateway: Gateway, database: Database
) -> None:
    with database.transaction() as connection:
        connection.execute(update(deliveries).values(status="delivered"))
    assert as_json(gateway("events", "replay", 1, "--json"))["delivered"] == 1
    assert statuses(database) == ["delivered", "delivered"]
    assert "counts twice" in gateway("events", "replay", 1, "--again").stderr
    assert as_json(gateway("events", "replay", 1, "--again", "--yes", "--json"))["again"] == 1
    assert statuses(database) == ["delivered", "delivered", "pending"]
    with database.engine.connect() as connection:
        event_ids = [json.loads(call)["event_id"] for call in connection.scalars(select(deliveries.c.call))]
    assert len(set(event_ids)) == 3


@pytest.mark.usefixtures("received")
def test_a_replay_fails_with_a_reason_without_a_usable_mapping(gateway: Gateway, mappings: Path) -> None:
    failed = gateway("events", "replay", 3)
    assert failed.exit_code == 1
    assert "1 event with a problem:" in failed.output
    (mappings / "shop.yaml").write_text(MAPPING.format(name="Paid").replace("source: shop", "source: other"))
    refused = gateway("events", "replay", 1, 99)
    assert refused.exit_code == 1
    assert "event 1: source shop has no usable mapping" in refused.stderr
    assert "there is no event 99" in refused.stderr
