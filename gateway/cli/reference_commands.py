"""functions and schema: what the language has, for people and for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

import click

from gateway.cli.options import json_option
from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.mapping.functions import FUNCTIONS, Example, Function
from gateway.mapping.json_schema import language

WIDTH = 100  # columns


@click.command()
def schema() -> None:
    """Print the JSON Schema of mapping files, by which editors complete, explain and check them.

    Kept as schema.json beside a mapping, it is used where the first line of the mapping is
    # yaml-language-server: $schema=schema.json
    """
    click.echo(json.dumps(language(), indent=2, ensure_ascii=False))


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME…]")
@json_option
def functions(names: tuple[str, ...], as_json: bool) -> None:
    """List the functions that expressions may call, each with an example.

    With NAMEs, only those.
    """
    chosen = [_function(name.removesuffix("()")) for name in names] or list(FUNCTIONS.values())
    if as_json:
        click.echo(json.dumps([*map(_described, chosen)], indent=2, ensure_ascii=False))
    else:
        click.echo(_listed(chosen))


def _function(name: str) -> Function:
    if name not in FUNCTIONS:
        raise click.ClickException(f"there is no function {name}(){did_you_mean(name, FUNCTIONS, '{}()')}")
    return FUNCTIONS[name]


def _described(function: Function) -> dict[str, Any]:
    example = function.example
    return {
        "name": function.name,
        "kind": function.kind,
        "signature": function.signature,
        "description": function.description,
        "example": {
            "expression": example.expression,
            "input": example.input,
            "setting": example.setting or None,
            "result": example.output,
        },
    }


def _listed(chosen: Sequence[Function]) -> str:
    paragraphs = []
    for kind, of_kind in groupby(chosen, key=lambda function: function.kind):
        paragraphs += [kind.upper(), *map(_paragraph, of_kind)]
    return "\n\n".join(paragraphs)


def _paragraph(function: Function) -> str:
    return "\n".join(
        [
            *wrap(f"{function.signature}  {function.description}", WIDTH, subsequent_indent="    "),
            *(f"    {line}" for line in _shown(function.example)),
        ]
    )


def _shown(example: Example) -> list[str]:
    """Write an example in one line, or in two where one is too long."""
    result = f"{example.expression} → {_json(example.output)}"
    given = f"with {example.setting}" if example.setting else ""
    if example.input is not None:
        given = f"of {_json(example.input)} {given}".rstrip()
    line = f"{result}   {given}"
    return [line] if len(line) + 4 <= WIDTH else [result, f"  {given}"]


def _json(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)
