"""check: find what is wrong in mapping files before they are deployed, and run their own tests."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.captured import payload_loader
from gateway.cli.options import plain_errors
from gateway.cli.output import count
from gateway.config import Source
from gateway.errors import Location, Problem, Severity, printable
from gateway.mapping import selftests


@dataclass(kw_only=True)
class _Report:
    """What was found out about some files."""

    files: int = 0
    tests: int = 0
    problems: list[Problem] = field(default_factory=list)

    def number(self, severity: Severity) -> int:
        return sum(problem.severity is severity for problem in self.problems)

    @property
    def sum(self) -> str:
        warnings = self.number(Severity.WARNING)
        also = f", {count(warnings, 'warning')}" if warnings else ""
        errors = count(self.number(Severity.ERROR), "error")
        return f"{count(self.files, 'file')}, {count(self.tests, 'test')}: {errors}{also}"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    help="For people (the default), for programs, or as annotations of a GitHub workflow.",
)
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@plain_errors
def check(paths: tuple[Path, ...], form: str, strict: bool) -> None:
    """Find what is wrong in mapping files, and run their own tests.

    Without PATH all files in GATEWAY_MAPPINGS (else mappings) are checked. The exit status is 1 if there is an
    error.
    """
    report = _examined(_files(paths or (Path(os.environ.get("GATEWAY_MAPPINGS") or "mappings"),)))
    if strict:
        report.problems = [replace(problem, severity=Severity.ERROR) for problem in report.problems]
    for line in _FORMS[form](report):
        click.echo(line)
    sys.exit(1 if report.number(Severity.ERROR) else 0)


def _files(paths: Iterable[Path]) -> list[Path]:
    files = [file for path in paths for file in (configuration.mapping_files(path) if path.is_dir() else [path])]
    return list(dict.fromkeys(files))


def _examined(files: Iterable[Path]) -> _Report:
    report, first = _Report(), dict[str, Path]()
    for file in files:
        report.files += 1
        source = configuration.load_source(file, os.environ)
        report.problems += _problems(source)
        if source.mapping is None:
            continue
        other = first.setdefault(source.name, file)
        if other != file:
            text = f"{other} says  source: {source.name}  too; give one of them another name"
            where = _line_of_source(file)
            report.problems.append(Problem(where=where, code="duplicate-source", text=text))
        results = selftests.run_tests(source.mapping, payload_loader(file))
        report.tests += len(results)
        report.problems += [_failed(result) for result in results if result.difference is not None]
    return report


def _problems(source: Source) -> list[Problem]:
    if source.mapping is None and not source.problems:
        where = Location(file=source.file, line=1, column=1)
        return [Problem(where=where, code="unreadable", text=str(source.closed))]
    return list(source.problems)


def _failed(result: selftests.TestResult) -> Problem:
    text = f"the test '{result.name}' fails\n{result.difference}"
    return Problem(where=result.where, code="test-failed", text=text)


def _line_of_source(file: Path) -> Location:
    lines = enumerate(_lines(str(file)), start=1)
    number = next((number for number, line in lines if re.match(r"source\s*:", line)), 1)
    return Location(file=str(file), line=number, column=1)


# Forms


def _as_text(report: _Report) -> Iterator[str]:
    for problem in report.problems:
        first, *rest = str(problem).split("\n")
        yield click.style(first, bold=True)
        yield from _pointed(problem.where)
        yield from map(_colored, rest)
    yield report.sum


_DIFFERENCES = {"-": "red", "+": "green"}


def _colored(line: str) -> str:
    color = _DIFFERENCES.get(line[:1])
    return f"    {click.style(line, fg=color) if color else line}"


def _pointed(where: Location) -> Iterator[str]:
    """Show a line with a caret below the place, if there is such a line."""
    lines = _lines(where.file)
    if where.line > len(lines):
        return
    line, column = lines[where.line - 1].rstrip(), where.column - 1
    start = max(column - _BEFORE, 0)
    shown = printable(line[start:].replace("\t", " "), _SHOWN)
    yield f"{where.line:>6} | {'…' if start else ''}{shown}"
    yield f"{'':>6} | {'':{column - start + bool(start)}}{click.style('^', fg='red', bold=True)}"


_BEFORE, _SHOWN = 60, 100  # characters of a line


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []  # what is wrong with the file has been said


def _as_json(report: _Report) -> Iterator[str]:
    told = {
        "files": report.files,
        "tests": report.tests,
        "errors": report.number(Severity.ERROR),
        "warnings": report.number(Severity.WARNING),
        "problems": [
            {
                "file": problem.where.file,
                "line": problem.where.line,
                "column": problem.where.column,
                "severity": problem.severity.value,
                "code": problem.code,
                "message": problem.text,
            }
            for problem in report.problems
        ],
    }
    yield json.dumps(told, indent=2, ensure_ascii=False)


def _as_github(report: _Report) -> Iterator[str]:
    """Write workflow commands, as GitHub's documentation of actions has them."""
    for problem in report.problems:
        where = problem.where
        place = f"file={_escaped(where.file)},line={where.line},col={where.column},title={_escaped(problem.code)}"
        yield f"::{problem.severity.value} {place}::{_escaped(problem.text, message=True)}"
    yield report.sum


def _escaped(text: str, *, message: bool = False) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped if message else escaped.replace(":", "%3A").replace(",", "%2C")


_FORMS = {"text": _as_text, "json": _as_json, "github": _as_github}
