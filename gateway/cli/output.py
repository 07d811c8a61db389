"""Text for terminals and machines: times, tables, JSON, and strangers' text that does nothing to a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateway.text import time_text

#: Characters of a table cell; `show` and `--json` have the whole.
MAX_CELL = 60


def format_time(seconds: float | None) -> str:
    """Return unix seconds as text in UTC; None gives an empty text."""
    return "" if seconds is None else time_text(seconds)


def printable(text: object) -> str:
    """Escape what is not printable, so that a stranger's text cannot control the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in str(text)
    )


def printable_lines(text: str) -> str:
    """Escape each line as `printable` does."""
    return "\n".join(map(printable, text.splitlines()))


def json_text(value: object) -> str:
    """Return indented JSON in ASCII, which cannot control a terminal."""
    return json.dumps(value, indent=2)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns. All cells but those of the last column are cut at MAX_CELL."""
    lines = [list(head)] + [["" if cell is None else printable(cell) for cell in row] for row in rows]
    for line in lines:
        line[:-1] = [cell if len(cell) <= MAX_CELL else cell[: MAX_CELL - 1] + "…" for cell in line[:-1]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def name_value_lines(values: Mapping[str, object]) -> str:
    """Write one "name  value" a line; values that are None are left out."""
    width = max(map(len, values))
    return "\n".join(
        f"{printable(name):{width}}  {printable(value)}" for name, value in values.items() if value is not None
    )


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write "no events", "1 event" or "1,200 events"."""
    return f"{f'{number:,}' if number else 'no'} {noun if number == 1 else plural or noun + 's'}"
