"""What the commands have in common: options, and errors without a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from gateway.errors import GatewayError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def plain_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Show our own errors as one message, without a traceback."""

    @wraps(command)
    def shown(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error

    return shown


mappings_option = click.option(
    "--mappings",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the mapping files are.  [GATEWAY_MAPPINGS, else mappings]",
)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def environment_of(mappings: Path | None, workers: int | None) -> dict[str, str]:
    """The environment that the options make for the processes that we start."""
    environ = dict(os.environ)
    if mappings is not None:
        environ["GATEWAY_MAPPINGS"] = str(mappings)
    if workers is not None:
        environ["WEB_CONCURRENCY"] = str(workers)
    return environ


def count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{f'{number:,}' if number else 'no'} {noun if number == 1 else plural or noun + 's'}"
