"""check: report what is wrong with mapping files before they are deployed, and run their own tests."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.captured import payload_loader
from gateway.cli.output import count
from gateway.errors import ConfigError, Location, Problem, Severity, printable
from gateway.mapping import selftests
from gateway.receive.sources import load_source, mapping_files, read_mapping


@dataclass(kw_only=True)
class _Report:
    """The problems of some mapping files, with failed tests among them."""

    files: int = 0
    tests: int = 0
    problems: list[Problem] = field(default_factory=list)

    def number(self, severity: Severity) -> int:
        return sum(problem.severity is severity for problem in self.problems)

    @property
    def summary(self) -> str:
        errors, warnings = self.number(Severity.ERROR), self.number(Severity.WARNING)
        also = f", {count(warnings, 'warning')}" if warnings else ""
        return f"{count(self.files, 'file')}, {count(self.tests, 'test')}: {count(errors, 'error')}{also}"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    help="For people (the default), for programs, or as annotations of a GitHub workflow.",
)
@click.option("--strict", is_flag=True, help="Report warnings as errors.")
def check(paths: tuple[Path, ...], form: str, strict: bool) -> None:
    """Find what is wrong in mapping files, and run their own tests.

    Without PATH, check all files in GATEWAY_MAPPINGS (default: mappings). The exit status is 1 if there is an error.
    """
    paths = paths or (configuration.mappings_directory(os.environ),)
    files = [file for path in paths for file in (mapping_files(path) if path.is_dir() else [path])]
    report = _check_files(dict.fromkeys(files))  # a file that is named twice is checked once
    if strict:
        report.problems = [replace(problem, severity=Severity.ERROR) for problem in report.problems]
    for line in {"text": _as_text, "json": _as_json, "github": _as_github}[form](report):
        click.echo(line)
    sys.exit(1 if report.number(Severity.ERROR) else 0)


def _check_files(files: Iterable[Path]) -> _Report:
    report = _Report()
    file_of_source: dict[str, Path] = {}
    for file in files:
        report.files += 1
        source = load_source(file, os.environ)
        report.problems += source.problems
        if source.mapping is None:
            if not source.problems:
                location = Location(file=source.file, line=1, column=1)
                report.problems.append(Problem(location=location, code="unreadable", text=str(source.closed)))
            continue
        other = file_of_source.setdefault(source.name, file)
        if other != file:
            text = f"{other} says  source: {source.name}  too; give one of them another name"
            lines = enumerate(_lines(str(file)), start=1)
            number = next((number for number, line in lines if re.match(r"source\s*:", line)), 1)
            location = Location(file=str(file), line=number, column=1)
            report.problems.append(Problem(location=location, code="duplicate-source", text=text))
        for result in selftests.run_tests(source.mapping, payload_loader(file)):
            report.tests += 1
            if result.difference is not None:
                text = f"the test '{result.name}' fails\n{result.difference}"
                report.problems.append(Problem(location=result.location, code="test-failed", text=text))
    return report


def _lines(file: str) -> list[str]:
    try:
        return read_mapping(Path(file)).splitlines()
    except ConfigError:
        return []  # reported as unreadable already


# Formats


def _as_text(report: _Report) -> Iterator[str]:
    """Yield the lines for people: each problem, its line with a caret, and a failed test's difference in color."""
    for problem in report.problems:
        first, *rest = str(problem).split("\n")
        yield click.style(first, bold=True)
        yield from _excerpt(problem.location)
        for line in rest:
            color = {"-": "red", "+": "green"}.get(line[:1])
            yield f"    {click.style(line, fg=color) if color else line}"
    yield report.summary


_BEFORE, _WIDTH = 60, 100  # characters of a line: at most so many before the place, and in all


def _excerpt(location: Location) -> Iterator[str]:
    """Yield the line of a problem with a caret below the place, if the file has that line."""
    lines = _lines(location.file)
    if location.line > len(lines):
        return
    line, column = lines[location.line - 1].rstrip(), location.column - 1
    start = max(column - _BEFORE, 0)
    excerpt = printable(line[start:].replace("\t", " "), _WIDTH)
    yield f"{location.line:>6} | {'…' if start else ''}{excerpt}"
    yield f"{'':>6} | {'':{column - start + bool(start)}}{click.style('^', fg='red', bold=True)}"


def _as_json(report: _Report) -> Iterator[str]:
    document = {
        "files": report.files,
        "tests": report.tests,
        "errors": report.number(Severity.ERROR),
        "warnings": report.number(Severity.WARNING),
        "problems": [
            {
                **asdict(problem.location),
                "severity": problem.severity.value,
                "code": problem.code,
                "message": problem.text,
            }
            for problem in report.problems
        ],
    }
    yield json.dumps(document, indent=2, ensure_ascii=False)


def _as_github(report: _Report) -> Iterator[str]:
    """Yield workflow commands, which GitHub shows as annotations: one line for each problem."""
    for problem in report.problems:
        location = problem.location
        place = f"file={_escaped(location.file)},line={location.line},col={location.column}"
        title = f"title={_escaped(problem.code)}"
        yield f"::{problem.severity.value} {place},{title}::{_escaped(problem.text, message=True)}"
    yield report.summary


def _escaped(text: str, *, message: bool = False) -> str:
    """Escape a property, or a message, as GitHub's documentation of workflow commands says."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped if message else escaped.replace(":", "%3A").replace(",", "%2C")
