"""new: draft a mapping from a captured webhook."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.captured import payload_loader, read_payload, read_sent
from gateway.cli.options import plain_errors
from gateway.errors import ConfigError
from gateway.event import JSON
from gateway.mapping.compiler import parse
from gateway.mapping.draft import Draft, DraftError, draft
from gateway.mapping.selftests import run_tests
from gateway.text import NAME


@click.command()
@click.argument("source")
@click.option(
    "--payload",
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file with the body of a webhook, JSON or a form; - for standard input.",
)
@click.option(
    "--headers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file of its headers: they tell the type of the body, and often how it is signed.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where to write the mapping; - prints it.  [SOURCE.yaml in GATEWAY_MAPPINGS, else in mappings]",
)
@plain_errors
def new(source: str, payload: Path, headers: Path | None, output: Path | None) -> None:
    """Write a mapping to start from, made from a captured webhook of SOURCE.

    What tells the type of an event, whom it is about and when it happened is guessed from the names in the
    payload, and what is worth keeping is chosen from it. The file says what was guessed, and holds a test; it
    compiles without a warning, and the test passes.
    """
    _check_name(source)
    target = output or _place(source)
    sent, _ = read_sent(headers)
    drafted = draft(source, _payload(payload, sent), sent)
    _check(drafted, target)
    if str(target) == "-":
        click.echo(drafted.text, nl=False)
    else:
        if output is None:
            _make(target.parent)
        _write(target, _for_editors(target) + drafted.text)
    _tell(source, drafted, target)


def _check_name(source: str) -> None:
    if not NAME.fullmatch(source):
        better = re.sub("[^a-z0-9]+", "-", source.lower()).strip("-")
        guess = f"; did you mean {better}?" if better else ""
        raise ConfigError(f"SOURCE must be lower-case letters, digits and hyphens, for it is part of an address{guess}")


def _place(source: str) -> Path:
    """Find the place of a source's mapping, unless the source has one already."""
    directory = Path(os.environ.get("GATEWAY_MAPPINGS") or "mappings")
    try:
        sources = configuration.load_sources(directory, os.environ)
    except ConfigError:
        sources = {}  # the first mapping of all
    if (present := sources.get(source)) is not None:
        raise ConfigError(f"{source} has a mapping already: {present.file}; {_ELSEWHERE}")
    return directory / f"{source}.yaml"


_ELSEWHERE = "to write the new one elsewhere, add  -o FILE  (-o - prints it)"


def _payload(path: Path, headers: Mapping[str, str]) -> JSON:
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    try:
        return read_payload(path, kind or "")
    except ConfigError as error:
        if kind is not None:
            raise
        hint = 'if it is a form, add --headers with {"Content-Type": "application/x-www-form-urlencoded"}'
        raise ConfigError(f"{error}; {hint}") from error


def _check(drafted: Draft, target: Path) -> None:
    """Check what was drafted as `gateway check` would: a draft that needs repair is no help."""
    mapping, problems = parse(drafted.text, str(target))
    failed = [str(test.difference) for test in run_tests(mapping, payload_loader(target)) if test.difference]
    if problems or failed:
        said = "\n".join([*map(str, problems), *failed])
        raise DraftError(f"no mapping can be drafted from this payload; write one by hand\n{said}")


def _for_editors(target: Path) -> str:
    """Tell editors where the language's schema is, if it is there, as it is beside the shipped mappings."""
    beside = (target.parent / "schema.json").is_file()
    return "# yaml-language-server: $schema=schema.json\n" if beside else ""


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"there is no directory {directory}, nor can it be made ({error.strerror})") from error


def _write(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{target} is there already, and is left as it is; {_ELSEWHERE}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"there is no directory {target.parent}: make it, or name another file with -o") from error
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror})") from error


def _tell(source: str, drafted: Draft, target: Path) -> None:
    printed = str(target) == "-"
    say = partial(click.echo, err=printed)
    if not printed:
        say(f"{target} is written; it compiles, and its test passes")
    if drafted.nobody:
        warning = "NOBODY FOUND: no field of this payload names a person, so the mapping makes no call yet."
        say(click.style(f"{warning} Name one in it, or try another payload.", fg="red", bold=True))
    say(f"guessed: {', '.join(f'{name} {guess}' for name, guess in drafted.guesses.items()) or 'nothing'}")
    file = "FILE" if printed else target
    say(
        f"next: read the comments in it, set {drafted.variable} to the sender's secret, let the sender post to"
        f" /hooks/{source}, and run  gateway check {file}"
    )
