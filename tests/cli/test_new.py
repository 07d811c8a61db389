"""gateway new, as used by somebody who connects a sender for the first time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

PAYLOAD = {
    "id": "evt_1",
    "type": "order.paid",
    "created": 1767225600,
    "data": {"order": {"id": "o_7", "total": 49.5}, "customer": {"id": 42, "email": "ida@example.com"}},
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a directory with a payload and an empty directory for mappings, without settings of the gateway."""
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "paid.json").write_text(json.dumps(PAYLOAD))
    return tmp_path


def run(command: str, stdin: str | None = None, **environ: str) -> Result:
    return CliRunner().invoke(main, command.split(), input=stdin, env=environ)


def refusal(command: str, **environ: str) -> str:
    result = run(command, **environ)
    assert result.exit_code == 1
    return result.stderr


def test_the_mapping_that_is_written_passes_gateway_check(files: Path) -> None:
    result = run("new shop --payload paid.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "mappings/shop.yaml is written; it compiles, and its test passes",
        "guessed: type =type (order.paid), id =data.customer.id (42),"
        " email =lower(data.customer.email) (ida@example.com), time =created (1767225600)",
        "next: read the comments in it, set SHOP_WEBHOOK_SECRET to the sender's secret, let the sender post to"
        " /hooks/shop, and run  gateway check mappings/shop.yaml",
    ]
    assert run("check --strict").stdout == "1 file, 1 test: no errors\n"
    (call, *_) = json.loads(run("translate mappings/shop.yaml paid.json").stdout)
    assert (call["call"], call["id"]) == ("identify", "42")


def test_a_printed_mapping_begins_with_what_has_to_be_set_up(files: Path) -> None:
    result = run("new shop --payload - -o -", stdin=json.dumps(PAYLOAD))
    assert result.exit_code == 0
    where, secret, variable = result.stdout.splitlines()[:3]
    assert where == "# Where: let the sender post to https://<your gateway>/hooks/shop"
    assert secret.startswith("# The secret: ")
    assert variable == "# The environment variable that holds it here: SHOP_WEBHOOK_SECRET"
    assert "\nsource: shop\n" in result.stdout
    assert result.stderr.startswith("guessed: type =type")
    assert list((files / "mappings").iterdir()) == []


def test_editors_find_the_schema_beside_the_mappings(files: Path) -> None:
    (files / "mappings" / "schema.json").write_text("{}")
    assert run("new shop --payload paid.json").exit_code == 0
    first, second = (files / "mappings" / "shop.yaml").read_text().splitlines()[:2]
    assert first == "# yaml-language-server: $schema=schema.json"
    assert second.startswith("# Where: ")


def test_a_mapping_that_exists_is_not_changed(files: Path) -> None:
    run("new shop --payload paid.json -o mappings/orders.yml")
    before = (files / "mappings" / "orders.yml").read_text()
    (files / "paid.json").write_text('{"type": "other", "user_id": 1}')
    message = refusal("new shop --payload paid.json")
    assert "shop has a mapping already: mappings/orders.yml" in message
    assert "-o FILE" in message
    assert "exists already and is not changed" in refusal("new shop --payload paid.json -o mappings/orders.yml")
    assert (files / "mappings" / "orders.yml").read_text() == before


@pytest.mark.parametrize("is_captured_request", [True, False])
def test_headers_tell_the_kind_of_the_body_the_scheme_and_the_type(files: Path, is_captured_request: bool) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Topic": "lead.new", "X-Sig-Sha1": "ab" * 20}
    captured = {"headers": headers, "query": {}} if is_captured_request else headers
    (files / "headers.json").write_text(json.dumps(captured))
    (files / "body").write_text("contact[id]=7&contact[email]=ida%40example.com")
    result = run("new crm --payload body --headers headers.json -o -")
    assert "event_type: =header('X-Topic')" in result.stdout
    assert "id: =contact.id" in result.stdout
    assert "algorithm: sha1" in result.stdout


def test_mappings_are_written_where_the_gateway_reads_them(files: Path) -> None:
    assert run("new shop --payload paid.json", GATEWAY_MAPPINGS="elsewhere/new").exit_code == 0
    assert (files / "elsewhere" / "new" / "shop.yaml").exists()
    message = refusal("new shop --payload paid.json -o nowhere/shop.yaml")
    assert "the directory nowhere does not exist; create it, or name another file" in message
    (files / "file").write_text("")
    message = refusal("new shop --payload paid.json", GATEWAY_MAPPINGS="file/below")
    assert "file/below/shop.yaml cannot be written (Not a directory)" in message


@pytest.mark.parametrize("headers", ['["X-Topic"]', "[]"])
@pytest.mark.parametrize("command", ["new other --payload paid.json", "translate mappings/shop.yaml paid.json"])
def test_headers_that_are_no_object_are_refused(files: Path, command: str, headers: str) -> None:
    run("new shop --payload paid.json")
    (files / "headers.json").write_text(headers)
    message = refusal(f"{command} --headers headers.json")
    assert 'headers.json must hold an object of headers: {"X-Topic": "…"}' in message


def test_a_warning_says_that_nobody_was_found(files: Path) -> None:
    (files / "paid.json").write_text('{"type": "payout.paid", "data": {"amount": 1}}')
    result = run("new bank --payload paid.json")
    assert result.exit_code == 0
    assert "NOBODY FOUND" in result.stdout
    assert run("check --strict").stdout == "1 file, 1 test: no errors\n"


@pytest.mark.parametrize(
    ("source", "payload", "message"),
    [
        ("My_Shop", "{}", "did you mean my-shop?"),
        ("ü", "{}", "SOURCE must be lower-case letters, digits and hyphens"),
        ("shop", "{", "is not valid JSON"),
        ("shop", "a=1&b=2", "if it is a form, add --headers"),
        ("shop", "[1, 2]", "the payload has no fields"),
        ("shop", '"text"', "the payload has no fields"),
        ("shop", "", "the body is empty"),
    ],
)
def test_nothing_is_written_where_no_mapping_can_be_drafted(
    files: Path, source: str, payload: str, message: str
) -> None:
    (files / "paid.json").write_text(payload)
    assert message in refusal(f"new {source} --payload paid.json")
    assert list((files / "mappings").iterdir()) == []


def test_a_form_with_json_in_it_is_drafted_from_that_json(files: Path) -> None:
    (files / "star").write_text(urlencode({"payload": json.dumps({"action": "created", "sender": {"id": 7}})}))
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Hub-Signature-256": "sha256=00"}
    (files / "headers.json").write_text(json.dumps(headers))
    result = run("new github --payload star --headers headers.json -o -")
    assert result.exit_code == 0, result.output
    assert "action: created" in result.stdout
    assert "payload:" not in result.stdout
