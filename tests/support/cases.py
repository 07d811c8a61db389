"""Tables of cases in text files: `== section ==`, and in it cases that are separated by blank lines.

A case is an optional `# name`, the text as a user writes it, and the expected messages, each behind `> `.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A text, and the messages about it, one a line; no message: the text is good."""

    name: str
    text: str
    expected: str


def read_cases(file: Path) -> dict[str, list[Case]]:
    """Return the cases of a file by section."""
    sections: dict[str, list[Case]] = {}
    for block in file.read_text(encoding="utf-8").strip("\n").split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("== "):
            sections[lines[0].strip("= ")] = []
            continue
        name = lines.pop(0).removeprefix("# ") if lines[0].startswith("# ") else ""
        expected = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
        text = "\n".join(line for line in lines if not line.startswith("> "))
        list(sections.values())[-1].append(Case(name=name or text, text=text, expected="\n".join(expected)))
    return sections


def read_rows(file: Path) -> list[list[str]]:
    """Return the rows of a file whose columns are separated by →, without empty lines and comments."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return [[cell.strip() for cell in line.split(" → ")] for line in lines if line and not line.startswith("# ")]
