"""gateway new, as whoever connects a sender for the first time uses it."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
    """A directory with a payload and an empty one for mappings, and an environment without any setting of ours."""
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "paid.json").write_text(json.dumps(PAYLOAD))
    return tmp_path


def run(*arguments: str, given: str | None = None, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, input=given, env=environ)


def test_a_mapping_is_written_that_check_finds_nothing_wrong_with(files: Path) -> None:
    result = run("new", "shop", "--payload", "paid.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "mappings/shop.yaml is written; it compiles, and its test passes",
        "guessed: type =type (order.paid), id =data.customer.id (42),"
        " email =lower(data.customer.email) (ida@example.com), time =created (1767225600)",
        "next: read the comments in it, set SHOP_WEBHOOK_SECRET to the sender's secret, let the sender post to"
        " /hooks/shop, and run  gateway check mappings/shop.yaml",
    ]
    assert run("check", "--strict").stdout == "1 file, 1 test: no errors\n"
    (call, *_) = json.loads(run("translate", "mappings/shop.yaml", "paid.json").stdout)
    assert (call["call"], call["id"]) == ("identify", "42")


def test_the_file_begins_with_what_a_marketer_has_to_set_up(files: Path) -> None:
    lines = run("new", "shop", "--payload", "paid.json", "-o", "-").stdout.splitlines()
    assert lines[0] == "# Where: let the sender post to https://<your gateway>/hooks/shop"
    assert lines[1].startswith("# The secret: ")
    assert lines[2] == "# The environment variable that holds it here: SHOP_WEBHOOK_SECRET"


def test_editors_are_told_of_the_schema_that_lies_beside_the_mappings(files: Path) -> None:
    (files / "mappings" / "schema.json").write_text("{}")
    assert run("new", "shop", "--payload", "paid.json").exit_code == 0
    first, second = (files / "mappings" / "shop.yaml").read_text().splitlines()[:2]
    assert first == "# yaml-language-server: $schema=schema.json"
    assert second.startswith("# Where: ")


def test_what_is_there_is_left_as_it_is(files: Path) -> None:
    run("new", "shop", "--payload", "paid.json")
    before = (files / "mappings" / "shop.yaml").read_text()
    (files / "paid.json").write_text('{"type": "other", "user_id": 1}')
    again = run("new", "shop", "--payload", "paid.json")
    assert again.exit_code == 1
    assert "shop has a mapping already: mappings/shop.yaml" in again.stderr
    assert "-o FILE" in again.stderr
    onto = run("new", "shop", "--payload", "paid.json", "-o", "mappings/shop.yaml")
    assert onto.exit_code == 1
    assert "exists already and is not changed" in onto.stderr
    assert (files / "mappings" / "shop.yaml").read_text() == before


def test_a_source_whose_file_has_another_name_is_found_too(files: Path) -> None:
    run("new", "shop", "--payload", "paid.json", "-o", "mappings/orders.yml")
    result = run("new", "shop", "--payload", "paid.json")
    assert "shop has a mapping already: mappings/orders.yml" in result.stderr


def test_the_mapping_can_be_printed_and_the_payload_piped(files: Path) -> None:
    result = run("new", "shop", "--payload", "-", "-o", "-", given=json.dumps(PAYLOAD))
    assert result.exit_code == 0
    assert "\nsource: shop\n" in result.stdout
    assert result.stdout.startswith("# Where: ")
    assert result.stderr.startswith("guessed: type =type")
    assert list((files / "mappings").iterdir()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_captured_headers_tell_the_body_the_scheme_and_the_type(files: Path, whole: bool) -> None:
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Topic": "lead.new",
        "X-Sig-Sha1": "ab" * 20,
    }
    (files / "headers.json").write_text(json.dumps({"headers": headers, "query": {}} if whole else headers))
    (files / "body").write_text("contact[id]=7&contact[email]=ida%40example.com")
    result = run("new", "crm", "--payload", "body", "--headers", "headers.json", "-o", "-")
    assert "event_type: =header('X-Topic')" in result.stdout
    assert "id: =contact.id" in result.stdout
    assert "algorithm: sha1" in result.stdout


def test_mappings_are_written_where_the_gateway_reads_them(files: Path) -> None:
    result = run("new", "shop", "--payload", "paid.json", GATEWAY_MAPPINGS="elsewhere/made")
    assert result.exit_code == 0
    assert (files / "elsewhere" / "made" / "shop.yaml").exists()
    missing = run("new", "shop", "--payload", "paid.json", "-o", "nowhere/shop.yaml")
    assert missing.exit_code == 1
    assert "the directory nowhere does not exist; create it, or name another file" in missing.stderr
    (files / "file").write_text("")
    in_the_way = run("new", "shop", "--payload", "paid.json", GATEWAY_MAPPINGS="file/below")
    assert "file/below/shop.yaml cannot be written (Not a directory)" in in_the_way.stderr


@pytest.mark.parametrize("command", ["new other --payload paid.json", "translate mappings/shop.yaml paid.json"])
def test_headers_that_are_no_object_are_refused(files: Path, command: str) -> None:
    run("new", "shop", "--payload", "paid.json")
    (files / "headers.json").write_text('["X-Topic"]')
    result = run(*command.split(), "--headers", "headers.json")
    assert result.exit_code == 1
    assert 'headers.json must hold an object of headers: {"X-Topic": "…"}' in result.stderr


def test_that_nobody_was_found_is_said_loudly(files: Path) -> None:
    (files / "paid.json").write_text('{"type": "payout.paid", "data": {"amount": 1}}')
    result = run("new", "bank", "--payload", "paid.json")
    assert result.exit_code == 0
    assert "NOBODY FOUND" in result.stdout
    assert run("check", "--strict").stdout == "1 file, 1 test: no errors\n"


@pytest.mark.parametrize(
    ("source", "payload", "said"),
    [
        ("My Shop", "{}", "did you mean my-shop?"),
        ("ü", "{}", "SOURCE must be lower-case letters, digits and hyphens"),
        ("shop", "{", "is not valid JSON"),
        ("shop", "a=1&b=2", "if it is a form, add --headers"),
        ("shop", "[1, 2]", "the payload has no fields"),
        ("shop", '"text"', "the payload has no fields"),
        ("shop", "", "the body is empty"),
    ],
)
def test_what_cannot_be_drafted_is_said_and_nothing_is_written(
    files: Path, source: str, payload: str, said: str
) -> None:
    (files / "paid.json").write_text(payload)
    result = run("new", source, "--payload", "paid.json")
    assert result.exit_code == 1
    assert said in result.stderr
    assert list((files / "mappings").iterdir()) == []


def test_a_file_of_headers_holds_an_object(files: Path) -> None:
    (files / "headers.json").write_text("[]")
    result = run("new", "shop", "--payload", "paid.json", "--headers", "headers.json")
    assert result.exit_code == 1
    assert "headers.json must hold an object of headers" in result.stderr
