"""schema: the language of mapping files, for editors."""

from __future__ import annotations

import json

import click

from gateway.schema import language


@click.command()
def schema() -> None:
    """Print the JSON Schema of mapping files, by which editors complete, explain and check them.

    Kept as schema.json beside a mapping, it is used where the first line of the mapping is
    # yaml-language-server: $schema=schema.json
    """
    click.echo(json.dumps(language(), indent=2, ensure_ascii=False))
