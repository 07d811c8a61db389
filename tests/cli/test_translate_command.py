"""`gateway translate --explain`: each step from a webhook to its calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.event import JSON

MAPPING = Path(__file__).with_name("explained.yaml").read_text(encoding="utf-8")


def explain(directory: Path, body: JSON) -> Result:
    (directory / "shop.yaml").write_text(MAPPING)
    (directory / "body.json").write_text(json.dumps(body))
    return CliRunner().invoke(main, ["translate", "--explain", "shop.yaml", "body.json"])


def steps(result: Result) -> list[str]:
    """Return the lines before the calls, without the spaces that align the columns."""
    return [" ".join(line.split()) for line in result.stdout.partition("\n\n")[0].splitlines()]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_the_entry_that_matched_and_the_value_of_each_expression(directory: Path) -> None:
    body: JSON = {"type": "order.paid", "id": 1, "customer": 42, "cents": 4950, "items": [{"name": "Lamp"}]}
    result = explain(directory, body)
    assert result.exit_code == 0
    assert steps(result) == [
        'event_type =type → "order.paid"',
        "the entry 'order.paid | order.settled' matches (shop.yaml:9:3)",
        "identify (shop.yaml:10:7)",
        "when =fresh → null",
        "no call: its 'when' is not true",
        "track (shop.yaml:12:7)",
        "id =customer → 42",
        "let.total =divide(cents, `100`) → 49.5",
        "attributes.total =var('total') → 49.5",
        "attributes.sku =sku → null",
        "track (shop.yaml:17:7)",
        'each =items → [{"name": "Lamp"}]',
        "item 0 of its 'each'",
        "id =customer → 42",
        'name =name → "Lamp"',
    ]
    calls = json.loads(result.stdout.partition("\n\n")[2])
    assert [call["name"] for call in calls] == ["Order Paid", "Lamp"]


def test_it_prints_the_steps_before_the_error_of_a_translation_that_fails(directory: Path) -> None:
    result = explain(directory, {"type": "order.paid", "id": 1, "customer": 42, "cents": "many"})
    assert result.exit_code == 1
    assert steps(result)[-1] == "let.total =divide(cents, `100`) → error: divide() needs numbers, got text"
    assert "shop.yaml:6:14: let.total: divide() needs numbers, got text" in result.stderr


def test_it_prints_that_no_entry_matched(directory: Path) -> None:
    result = explain(directory, {"type": "other"})
    assert steps(result)[-1] == "no entry of 'events' matches"
    assert "ignored: no entry of 'events' matches the event type" in result.stderr


def test_it_decodes_a_form_as_the_gateway_does(directory: Path) -> None:
    (directory / "hub.yaml").write_text(
        "version: 1\nsource: hub\nverify: {scheme: github, secret_env: S}\n"
        "events: {'*': [{call: track, id: =sender.id, name: x}]}\n"
    )
    (directory / "body").write_text("payload=%7B%22sender%22%3A%7B%22id%22%3A7%7D%7D")
    (directory / "headers.json").write_text('{"Content-Type": "application/x-www-form-urlencoded"}')
    result = CliRunner().invoke(main, ["translate", "hub.yaml", "body", "--headers", "headers.json"])
    assert [call["id"] for call in json.loads(result.stdout)] == ["7"]
