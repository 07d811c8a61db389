"""functions and schema: the reference of the mapping language, for people and for editors."""

from __future__ import annotations

import json
from itertools import groupby
from textwrap import wrap
from typing import Any

import click

from gateway.cli.options import json_option
from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.mapping.functions import FUNCTIONS, Function
from gateway.mapping.json_schema import language

WIDTH = 100  # columns


@click.command()
def schema() -> None:
    """Print the JSON Schema of mapping files, with which editors complete, explain and check them.

    Save it as schema.json beside a mapping whose first line is
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
    wanted = [name.removesuffix("()") for name in names]
    for name in wanted:
        if name not in FUNCTIONS:
            raise click.ClickException(f"there is no function {name}(){did_you_mean(name, FUNCTIONS, '{}()')}")
    chosen = [FUNCTIONS[name] for name in wanted] or list(FUNCTIONS.values())
    if as_json:
        click.echo(json.dumps([_function_as_json(function) for function in chosen], indent=2, ensure_ascii=False))
        return
    paragraphs = []
    for kind, functions_of_kind in groupby(chosen, key=lambda function: function.kind):
        paragraphs += [kind.upper(), *map(_paragraph, functions_of_kind)]
    click.echo("\n\n".join(paragraphs))


def _function_as_json(function: Function) -> dict[str, Any]:
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


def _paragraph(function: Function) -> str:
    """Write a function with its example, in two lines if one would be too long."""
    example = function.example
    result = f"{example.expression} → {_as_json(example.output)}"
    setting = f"with {example.setting}" if example.setting else ""
    if example.input is not None:
        setting = f"of {_as_json(example.input)} {setting}".rstrip()
    line = f"{result}   {setting}"
    lines = [line] if len(line) + 4 <= WIDTH else [result, f"  {setting}"]
    signature = wrap(f"{function.signature}  {function.description}", WIDTH, subsequent_indent="    ")
    return "\n".join([*signature, *(f"    {line}" for line in lines)])


def _as_json(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)
