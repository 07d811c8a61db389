"""`gateway functions` lists the functions of expressions for people and for programs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.mapping.functions import FUNCTIONS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["functions", *arguments])


def test_all_functions_are_listed_within_100_columns() -> None:
    result = run()
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    for function in FUNCTIONS.values():
        assert f"\n\n{function.signature}  " in result.stdout
        assert f"\n    {function.example.expression} → " in result.stdout


def test_functions_are_grouped_by_kind() -> None:
    headings = [line for line in run().stdout.splitlines() if line.isupper() and line.strip() == line]
    assert headings == [
        *("AROUND THE BODY", "TEXT", "KINDS", "TIME", "HASH, ENCODE", "OBJECTS, LISTS", "NUMBERS, CHOICE")
    ]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (
            ["if()", "unix"],
            "NUMBERS, CHOICE\n\n"
            'if(condition, then, otherwise)  `then` if the condition is true, else `otherwise`; null, false, "",\n'
            "    [] and {} are false, 0 is true.\n"
            "    if(total > `100`, 'large', 'small') → \"large\"   of {\"total\": 120}\n\n"
            "TIME\n\n"
            "unix(x)  Unix seconds of a time in ISO 8601 (default zone UTC), RFC 2822, seconds or milliseconds.\n"
            '    unix(created_at) → 1767225600   of {"created_at": "2026-01-01T01:00:00.250+01:00"}\n',
        ),
        (
            ["lookup"],
            "AROUND THE BODY\n\n"
            'lookup(table, key)  The entry of a table for a key; a null or unknown key takes the entry "*".\n'
            "    lookup('plans', plan) → \"Starter\"\n"
            '      of {"plan": "price_1"} with tables: {plans: {price_1: Starter}}\n',
        ),
    ],
)
def test_a_function_is_printed_with_its_example(names: list[str], shown: str) -> None:
    assert run(*names).stdout == shown


def test_json_holds_the_same_facts() -> None:
    listed = json.loads(run("--json").stdout)
    assert [function["name"] for function in listed] == [*FUNCTIONS]
    assert json.loads(run("header", "--json").stdout) == [
        {
            "name": "header",
            "kind": "around the body",
            "signature": "header(name)",
            "description": "A header of the request, in upper or lower case; null if it was not sent.",
            "example": {
                "expression": "header('X-Name')",
                "input": None,
                "setting": "the header X-Name: Ada",
                "result": "Ada",
            },
        }
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("lowr", "there is no function lowr(); did you mean lower()?"), ("xyzzy", "there is no function xyzzy()")],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name: str, problem: str) -> None:
    result = run("lower", name)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {problem}\n")
