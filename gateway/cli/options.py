"""What all commands share: options, and errors without a traceback."""

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
    """Print the gateway's own errors as one message, without a traceback."""

    @wraps(command)
    def with_plain_errors(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error

    return with_plain_errors


mappings_option = click.option(
    "--mappings",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the mapping files are.  [GATEWAY_MAPPINGS, else mappings]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def environment_of(mappings: Path | None, workers: int | None) -> dict[str, str]:
    """Return the environment with what the options --mappings and --workers say."""
    environ = dict(os.environ)
    if mappings is not None:
        environ["GATEWAY_MAPPINGS"] = str(mappings)
    if workers is not None:
        environ["WEB_CONCURRENCY"] = str(workers)
    return environ
