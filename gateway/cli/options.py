"""The options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
#: A file, or - for standard input.
FILE_OR_INPUT = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)

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
