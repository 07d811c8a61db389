"""new: draft a mapping from a captured webhook."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.captured import payload_loader, read_payload, read_sent
from gateway.cli.options import FILE, FILE_OR_INPUT
from gateway.errors import ConfigError
from gateway.mapping.compiler import parse
from gateway.mapping.draft import Draft, DraftError, draft, json_field_of
from gateway.mapping.selftests import run_tests
from gateway.receive.sources import load_sources
from gateway.text import NAME

_ELSEWHERE = "to write the new one elsewhere, add  -o FILE  (-o - prints it)"


@click.command()
@click.argument("source")
@click.option(
    "--payload",
    required=True,
    type=FILE_OR_INPUT,
    help="A file with the body of a webhook, JSON or a form; - for standard input.",
)
@click.option(
    "--headers",
    type=FILE,
    help="A JSON file of its headers: they tell the type of the body, and often how it is signed.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where to write the mapping; - prints it.  [SOURCE.yaml in GATEWAY_MAPPINGS, else in mappings]",
)
def new(source: str, payload: Path, headers: Path | None, output: Path | None) -> None:
    """Write a mapping to start from, made from a captured webhook of SOURCE.

    The type of the event, the person and the time are guessed from the names in the payload, and attributes are
    chosen from it. Comments in the file say what was guessed. The file compiles without a warning, and holds a test
    that passes.
    """
    if not NAME.fullmatch(source):
        better = re.sub("[^a-z0-9]+", "-", source.lower()).strip("-")
        hint = f"; did you mean {better}?" if better else ""
        raise ConfigError(f"SOURCE must be lower-case letters, digits and hyphens: it is part of an address{hint}")
    target = output or _default_target(source)
    sent, _ = read_sent(headers)
    by_name = {name.lower(): value for name, value in sent.items()}
    try:
        body = read_payload(payload, by_name, json_field_of(source, sent))
    except ConfigError as error:
        if "content-type" in by_name:
            raise
        hint = 'if it is a form, add --headers with {"Content-Type": "application/x-www-form-urlencoded"}'
        raise ConfigError(f"{error}; {hint}") from error
    drafted = draft(source, body, sent)
    # As gateway check does: a draft that has to be repaired is no help.
    mapping, problems = parse(drafted.text, str(target))
    differences = [test.difference for test in run_tests(mapping, payload_loader(target)) if test.difference]
    if problems or differences:
        reasons = "\n".join([*map(str, problems), *differences])
        raise DraftError(f"no mapping can be drafted from this payload; write one by hand\n{reasons}")
    if str(target) == "-":
        click.echo(drafted.text, nl=False)
    else:
        _write(drafted, target, make_directory=output is None)
    _report(source, drafted, target)


def _default_target(source: str) -> Path:
    """Return the file for the mapping of a source.

    Raises ConfigError: the source has a mapping already.
    """
    directory = configuration.mappings_directory(os.environ)
    try:
        sources = load_sources(directory, os.environ)
    except ConfigError:
        sources = {}  # there is no directory yet: this is the first mapping
    if source in sources:
        raise ConfigError(f"{source} has a mapping already: {sources[source].file}; {_ELSEWHERE}")
    return directory / f"{source}.yaml"


def _write(drafted: Draft, target: Path, *, make_directory: bool) -> None:
    """Write a new file; in a directory of shipped mappings with a line that tells editors of their schema."""
    has_schema = (target.parent / "schema.json").is_file()
    first_line = "# yaml-language-server: $schema=schema.json\n" if has_schema else ""
    try:
        if make_directory:
            target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(first_line + drafted.text)
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        if isinstance(error, FileNotFoundError):
            problem = (
                f"cannot be written: the directory {target.parent} does not exist; create it, or name another file"
            )
        elif target.exists():
            problem = f"exists already and is not changed; {_ELSEWHERE}"
        raise ConfigError(f"{target} {problem}") from error


def _report(source: str, drafted: Draft, target: Path) -> None:
    """Say what was guessed and what to do next; on standard error where standard output is the mapping."""
    is_printed = str(target) == "-"
    lines = [] if is_printed else [f"{target} is written; it compiles, and its test passes"]
    if drafted.nobody:
        warning = "NOBODY FOUND: no field of this payload names a person, so the mapping makes no call yet."
        lines.append(click.style(f"{warning} Name one in it, or try another payload.", fg="red", bold=True))
    lines.append(f"guessed: {', '.join(f'{name} {guess}' for name, guess in drafted.guesses.items()) or 'nothing'}")
    lines.append(
        f"next: read the comments in it, set {drafted.variable} to the sender's secret, let the sender post to"
        f" /hooks/{source}, and run  gateway check {'FILE' if is_printed else target}"
    )
    click.echo("\n".join(lines), err=is_printed)
