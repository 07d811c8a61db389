"""`gateway check` reports problems of mapping files to people, programs and GitHub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

MAPPING = """\
version: 1
source: shop
verify: none
event_type: =type
event_key: =id
events:
  paid:
    - call: track
      id: =customer
      name: Order Paid
      attributes: {total: =total}
tests:
  - name: paid
    body: {type: paid, customer: 42, total: 9}
    expect:
      - {call: track, id: "42", name: Order Paid, attributes: {total: 9}, timestamp: 1767225600}
"""


@pytest.fixture
def mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GATEWAY_MAPPINGS", raising=False)
    directory = tmp_path / "mappings"
    directory.mkdir()
    (directory / "shop.yaml").write_text(MAPPING)
    return directory


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


def write(mappings: Path, old: str, new: str, name: str = "shop.yaml") -> None:
    assert old in MAPPING
    (mappings / name).write_text(MAPPING.replace(old, new))


def test_an_error_is_shown_with_its_line_and_a_caret_below_the_place(mappings: Path) -> None:
    write(mappings, "name: Order Paid\n      a", "name: =lowr(x)\n      a")
    result = check()
    assert result.exit_code == 1
    assert result.output == (
        "mappings/shop.yaml:10:14: error unknown-function: unknown function lowr(); did you mean lower()?\n"
        "    10 |       name: =lowr(x)\n"
        "       |              ^\n"
        "1 file, no tests: 1 error\n"
    )


def test_the_caret_is_below_its_place_in_a_long_line(mappings: Path) -> None:
    write(mappings, "name: Order Paid\n      a", f"name: =[a{', a' * 40}, lowr(x)]\n      a")
    lines = check().output.splitlines()
    assert lines[1][lines[2].index("^") :].startswith("lowr(x)")
    assert len(lines[1]) < 120


def test_all_errors_of_all_files_are_reported(mappings: Path) -> None:
    write(mappings, "id: =customer", "id: customer")
    write(mappings, "version: 1\nsource: shop", "version: 2\nsource: other\nextra: x", "other.yaml")
    result = check()
    lines = [line.split(": ") for line in result.output.splitlines() if ".yaml" in line]
    assert [f"{place} {problem}" for place, problem, *_ in lines] == [
        "mappings/other.yaml:1:10 error version",
        "mappings/other.yaml:3:1 error unknown-key",
        "mappings/shop.yaml:9:11 error not-an-expression",
    ]
    assert result.output.splitlines()[-1] == "2 files, no tests: 3 errors"


def test_a_warning_is_an_error_only_if_strict(mappings: Path) -> None:
    without_tests = MAPPING.partition("tests:")[0]
    (mappings / "shop.yaml").write_text(without_tests.replace("{total: =total}", "{plan: data.plan}"))
    result = check()
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "1 file, no tests: no errors, 1 warning")
    result = check("--strict")
    assert (result.exit_code, result.output.splitlines()[-1]) == (1, "1 file, no tests: 1 error")
    assert "error looks-like-a-path" in result.output


def test_a_failed_test_is_reported_as_a_difference(mappings: Path) -> None:
    write(mappings, "{total: 9}, t", "{total: 8}, t")
    result = check()
    assert result.exit_code == 1
    assert "mappings/shop.yaml:13:5: error test-failed: the test 'paid' fails\n" in result.output
    assert "    --- expected\n    +++ got\n" in result.output
    assert '    -      "total": 8\n    +      "total": 9\n' in result.output
    # In the order in which calls are written.
    assert result.output.index('"call"') < result.output.index('"id"') < result.output.index('"name"')
    assert result.output.index('"attributes"') < result.output.index('"timestamp"')


def test_two_files_of_one_source_are_an_error(mappings: Path) -> None:
    write(mappings, "version: 1", "# a copy\nversion: 1", "copy.yaml")
    result = check()
    assert result.exit_code == 1
    assert "mappings/shop.yaml:2:1: error duplicate-source: mappings/copy.yaml says  source: shop  too" in result.output


def test_a_file_that_cannot_be_read_is_an_error(mappings: Path) -> None:
    (mappings / "shop.yaml").write_bytes(b"\xff\xfe")
    result = check()
    assert result.exit_code == 1
    assert "mappings/shop.yaml:1:1: error unreadable: mappings/shop.yaml is not UTF-8 text" in result.output


@pytest.mark.parametrize("payload", ["../secret.json", "{outside}", "link.json", "fifo.json"])
def test_a_payload_outside_of_the_directory_is_not_read(mappings: Path, payload: str) -> None:
    outside = mappings.parent.absolute() / "secret.json"
    outside.write_text('{"topic": "4711-secret"}')
    (mappings / "link.json").symlink_to(outside)
    os.mkfifo(mappings / "fifo.json")
    write(mappings, "body: {type: paid, customer: 42, total: 9}", f"payload: {payload.format(outside=outside)}")
    result = check()
    assert result.exit_code == 1
    assert "test-failed" in result.output
    assert "put the file itself there" in result.output or "is not a regular file" in result.output
    assert "4711" not in result.output


def test_a_mapping_file_that_is_a_link_to_elsewhere_is_not_quoted(mappings: Path) -> None:
    (mappings / "environ.yaml").symlink_to("/proc/self/environ")
    result = check("mappings/environ.yaml")
    assert result.exit_code == 1
    assert result.output == (
        "mappings/environ.yaml:1:1: error unreadable: mappings/environ.yaml is not in mappings, or is a link out of it:"
        " put the file itself there\n1 file, no tests: 1 error\n"
    )


def test_a_file_named_twice_is_checked_once(mappings: Path) -> None:
    assert check("mappings", "mappings/shop.yaml").output == "1 file, 1 test: no errors\n"


def test_json_holds_the_counts_and_problems(mappings: Path) -> None:
    write(mappings, "id: =customer", "id: customer")
    result = check("--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "files": 1,
        "tests": 0,
        "errors": 1,
        "warnings": 0,
        "problems": [
            {
                "file": "mappings/shop.yaml",
                "line": 9,
                "column": 11,
                "severity": "error",
                "code": "not-an-expression",
                "message": "'id' must be an expression; did you mean  id: =customer",
            }
        ],
    }
    (mappings / "shop.yaml").write_text(MAPPING)
    assert json.loads(check("--format", "json").output)["problems"] == []


def test_github_gets_one_line_for_each_annotation(mappings: Path) -> None:
    write(mappings, "- name: paid", "- name: 'a, b: 100%'")
    (mappings / "shop.yaml").write_text((mappings / "shop.yaml").read_text().replace("total: 9}, t", "total: 8}, t"))
    result = check("--format", "github")
    annotation, summary = result.output.splitlines()
    assert annotation.startswith(
        "::error file=mappings/shop.yaml,line=13,col=5,title=test-failed::the test 'a, b: 100%25' fails%0A"
    )
    assert summary == "1 file, 1 test: 1 error"
    assert result.exit_code == 1
