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
    """Runs a command as from a script: there is nobody to ask."""
    environ = {
        "DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "GATEWAY_MAPPINGS": str(mappings),
    }

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(each) for each in words], env=environ)

    return run


@pytest.fixture
def received(store: Store, mappings: Path) -> None:
    """Three webhooks: two of ann's, and one on which the mapping fails."""
    rules, _ = parse((mappings / "shop.yaml").read_text(), "shop.yaml")
    for key, customer, at in (("a", "ann", 1_767_225_600), ("b", "ann", 1_767_225_601), ("c", "\x1b[31mbob", "x")):
        body = json.dumps({"key": key, "type": "paid", "customer": customer, "at": at}).encode()
        headers = {"content-type": "application/json"}
        store.record(
            [build_event(rules, Webhook(method="POST", url="", headers=headers, query={}, body=body), 1_767_225_700.0)]
        )


def fail(database: Database, id_: int = 1, reason: str = "HTTP 400: 100%_wrong") -> None:
    with database.transaction() as connection:
        connection.execute(
            update(deliveries).where(deliveries.c.id == id_).values(status="failed", reason=reason, settled_at=1.0)
        )
        connection.execute(update(deliveries).where(deliveries.c.id == 2).values(status="pending"))


def statuses(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.status).order_by(deliveries.c.id)))


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("received")
def test_events_are_listed_and_shown(gateway: Gateway) -> None:
    listed = gateway("events", "list").stdout.splitlines()
    assert listed[0].split() == ["id", "received", "source", "type", "status", "calls", "problem"]
    assert "2026-01-01 00:01:40Z" in listed[1]
    assert [each["id"] for each in as_json(gateway("events", "list", "--json"))] == [3, 2, 1]
    assert [each["id"] for each in as_json(gateway("events", "list", "--status", "failed", "--json"))] == [3]
    assert [each["id"] for each in as_json(gateway("events", "list", "--limit", 1, "--before", 3, "--json"))] == [2]
    assert as_json(gateway("events", "list", "--since", "2026-01-02", "--json")) == []
    assert len(as_json(gateway("events", "list", "--until", "2026-01-02", "--json"))) == 3
    assert as_json(gateway("events", "show", 1, "--json"))["body"]["customer"] == "ann"
    assert gateway("events", "show", 99).exit_code == 1


@pytest.mark.usefixtures("received")
def test_nothing_from_a_payload_does_anything_to_a_terminal(gateway: Gateway) -> None:
    for command in (("events", "list"), ("events", "show", 3), ("deliveries", "list"), ("deliveries", "show", 1)):
        for words in (command, (*command, "--json")):
            assert "\x1b" not in gateway(*words).output


@pytest.mark.usefixtures("received")
def test_deliveries_are_listed_by_what_is_asked(gateway: Gateway, database: Database) -> None:
    fail(database)
    found = as_json(gateway("deliveries", "list", "--status", "failed", "--error", "100%_W", "--json"))
    assert [each["id"] for each in found] == [1]
    assert as_json(gateway("deliveries", "list", "--error", "100__w", "--json")) == [], "% and _ mean themselves"
    assert as_json(gateway("deliveries", "list", "--source", "other", "--json")) == []
    assert [each["id"] for each in as_json(gateway("deliveries", "list", "--event", 2, "--json"))] == [2]
    shown = as_json(gateway("deliveries", "show", 1, "--json"))
    assert (shown["status"], shown["call"]["name"], shown["attempts"]) == ("failed", "Paid", [])


@pytest.mark.usefixtures("received")
def test_a_failed_delivery_is_retried_and_others_are_refused_with_the_reason(
    gateway: Gateway, database: Database
) -> None:
    fail(database)
    dry = gateway("deliveries", "retry", 1, 2, 99, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (1, "1 delivery would be retried\n")
    assert "delivery 2 is pending; only failed ones are retried" in dry.stderr
    assert "there is no delivery 99" in dry.stderr
    assert statuses(database) == ["failed", "pending"]
    assert as_json(gateway("deliveries", "retry", "--error", "wrong", "--json"))["retried"] == [1]
    assert statuses(database) == ["parked", "pending"]
    assert gateway("deliveries", "retry", "--all").exit_code == 1, "there is none left"


@pytest.mark.usefixtures("received")
def test_bulk_work_that_nobody_can_be_asked_about_needs_a_yes(gateway: Gateway, database: Database) -> None:
    refused = gateway("deliveries", "cancel", "--source", "shop")
    assert refused.exit_code == 2
    assert "cancel 2 deliveries? There is no terminal to ask on: add --yes" in refused.stderr
    assert statuses(database) == ["pending", "parked"]
    assert gateway("deliveries", "cancel", "--source", "shop", "--yes").stdout == "2 deliveries cancelled\n"
    assert statuses(database) == ["cancelled", "cancelled"]


@pytest.mark.parametrize("words", [("deliveries", "retry"), ("deliveries", "cancel"), ("events", "replay")])
def test_all_there_is_has_to_be_asked_for(gateway: Gateway, words: tuple[str, ...]) -> None:
    assert "choose some: ids, filters such as --source or --since, or --all" in gateway(*words).stderr
    assert "not both" in gateway(*words, 1, "--source", "shop").stderr


@pytest.mark.usefixtures("received")
def test_a_replay_says_what_it_will_do_and_does_it(gateway: Gateway, database: Database, mappings: Path) -> None:
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
def test_what_arrived_goes_out_again_only_when_asked_and_then_as_another_event(
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
        sent = [json.loads(each)["event_id"] for each in connection.scalars(select(deliveries.c.call))]
    assert len(set(sent)) == 3


@pytest.mark.usefixtures("received")
def test_a_replay_without_a_mapping_or_on_which_it_fails_says_so(gateway: Gateway, mappings: Path) -> None:
    failed = gateway("events", "replay", 3)
    assert failed.exit_code == 1
    assert "today's mapping fails on 1 event" in failed.output
    (mappings / "shop.yaml").write_text(MAPPING.format(name="Paid").replace("source: shop", "source: other"))
    refused = gateway("events", "replay", 1, 99)
    assert refused.exit_code == 1
    assert "event 1: source shop has no usable mapping" in refused.stderr
    assert "there is no event 99" in refused.stderr
