"""The mistakes that people make in mapping files, each with its messages: the place and the fix."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.errors import MappingError
from gateway.mapping.compiler import parse
from tests.support.cases import Case, read_cases

HEAD = "version: 1\nsource: shop\nverify: none\nevent_key: none\nevent_type: =type\n"
TRACK = "events:\n  a:\n    - call: track\n      id: =user.id\n      name: Paid\n"

#: mistakes.txt: the mistake; where it is, which may be a whole file, what is below HEAD, the `verify` of an empty file,
#: or further keys of TRACK, from line 11, column 7; and the messages, which are errors if they do not say warning.
MISTAKES = [
    *read_cases(Path(__file__).with_name("mistakes.txt"))["mistakes"],
    Case("a tab", "events:\n  a:\n\t- call: destroy", "8:1: yaml: a tab is used for indentation; use spaces"),
    Case(
        "a blank that only looks like one",
        "events:\n\xa0 a: []",
        "7:1: yaml: this line starts with U+00A0, which only looks like a space; type the spaces again",
    ),
]


def file_with(text: str) -> str:
    """The whole file of a mistake."""
    if text.startswith("version"):
        return f"{text}\n"
    if text.startswith("verify"):
        return HEAD.replace("verify: none", text) + "events: {}\n"
    if text.startswith("event"):
        return f"{HEAD}{text}\n"
    return HEAD + TRACK + indent(text, "      ") + "\n"


def messages(text: str) -> list[str]:
    """The messages as the checker prints them, after the name of the file."""
    return [line if ": warning " in line else line.replace(": ", ": error ", 1) for line in text.splitlines()]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_reported_with_its_place_and_the_fix(mistake: Case) -> None:
    try:
        _, problems = parse(file_with(mistake.text), "f")
    except MappingError as error:
        problems = error.problems
    assert [str(problem).removeprefix("f:") for problem in problems] == messages(mistake.expected)


def test_all_mistakes_of_a_folder_are_reported_at_once(tmp_path: Path) -> None:
    for number, mistake in enumerate(MISTAKES):
        file = file_with(mistake.text).replace("source: shop", f"source: m{number:02}")
        (tmp_path / f"m{number:02}.yaml").write_text(file)
    result = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert result.exit_code == 1
    for number, mistake in enumerate(MISTAKES):
        for message in messages(mistake.expected):
            assert f"m{number:02}.yaml:{message}\n" in result.output
