"""The table of schemes that the package ships: read from schemes.yaml, once in the life of a process.

The only module of this room that reads a file; `read_scheme` parses the text. The file is part of the package and never
changes under a running process, so its schemes are constants like those in code: callers ask for them where they need
them, and nobody passes the table around.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from gateway.event import JSON
from gateway.verify.read_scheme import read_scheme, read_table
from gateway.verify.scheme import Scheme


@cache
def schemes() -> Mapping[str, Scheme]:
    """Return the schemes of the table by name, in the order of the file."""
    return read_table(_text())


def scheme_entries() -> dict[str, str]:
    """Return the entry of each scheme as it stands in schemes.yaml, with its comments, for people to read."""
    # An entry is a name at the start of a line and the indented lines below it.
    return {entry[1]: entry[0] for entry in re.finditer(r"^(\w+):\n(?:  .*\n)+", _text(), re.MULTILINE)}


def scheme_from(data: JSON) -> Scheme:
    """Read the scheme of a mapping against the table.

    Raises:
        SchemeError: The scheme is wrong, or cannot verify anything yet.
    """
    return read_scheme(data, schemes())


def _text() -> str:
    return resources.files("gateway.verify").joinpath("schemes.yaml").read_text(encoding="utf-8")
