"""ingest: the command that records historic payloads."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.open_database import opened
from gateway.cli.options import environment_of, mappings_option, plain_errors
from gateway.config import Config
from gateway.errors import ConfigError, StoreError, did_you_mean
from gateway.mapping.model import MappingFile
from gateway.operate.body_files import BodyFiles
from gateway.operate.ingest import Ingest, Summary
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.schema import migrate, require_schema


@click.command()
@click.argument("source")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of each body.")
@click.option("--query", "query", multiple=True, metavar="K=V", help="A parameter of each body's query.")
@click.option("--whole", is_flag=True, help="Each file is one body, also when it is an array or has lines.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many bodies.")
@click.option("--dry-run", is_flag=True, help="Translate and count; record nothing, look for no duplicates.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@mappings_option
@plain_errors
def ingest(
    source: str,
    files: tuple[Path, ...],
    headers: tuple[str, ...],
    query: tuple[str, ...],
    whole: bool,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    mappings: Path | None,
) -> None:
    """Record historic payloads as if they had been posted to /hooks/SOURCE now.

    FILES hold JSON lines, a JSON array of bodies, or one body; packed with gzip or not; - is standard input.
    No signature is asked for. The time of receipt is now: a mapping that gives its calls a timestamp gives
    them the historic one. What is recorded already is skipped, so a run that was stopped is just started again.

    Recording leaves half of the time to webhooks that are received meanwhile; the calls that come of it are
    sent in the order of recording, theirs among them.

    The exit status is 1 when a body could not be read, when its mapping failed, or when the run was stopped.
    """
    environ = environment_of(mappings, None)
    config = configuration.load(environ)
    interrupts = _Interrupts()
    with _database(config, dry_run=dry_run) as database:
        working = Ingest(
            _rules(config, environ, source),
            Store(database) if database is not None else None,
            headers=dict(map(_header, headers)),
            query=dict(map(_parameter, query)),
            max_body=config.max_body,
            uninterrupted=interrupts.held_back,
        )
        with interrupts.heard():
            stopped = _work(working, BodyFiles(files, whole=whole), limit)
    summary = working.summary
    click.echo(_as_json(summary, stopped) if as_json else "\n".join(_as_text(summary, dry_run=dry_run)))
    if stopped is not None:
        go_on = "to go on, run the same command again: what is recorded is skipped"
        click.echo(f"stopped: {stopped}\n{go_on}", err=True)
    sys.exit(0 if summary.is_good and stopped is None else 1)


@contextmanager
def _database(config: Config, *, dry_run: bool) -> Iterator[Database | None]:
    if dry_run:
        yield None
        return
    with opened(config) as database:
        if config.embedded:
            migrate(database)
        require_schema(database)
        yield database


def _rules(config: Config, environ: Mapping[str, str], name: str) -> MappingFile:
    sources = configuration.load_sources(config.mappings, environ)
    source = sources.get(name)
    if source is None:
        raise ConfigError(f"there is no source {name} in {config.mappings}{did_you_mean(name, sources)}")
    if source.mapping is None:
        # A source that is closed for want of its secret has a mapping, and nothing is verified here.
        raise ConfigError("\n".join(map(str, source.problems)) or str(source.closed))
    return source.mapping


def _header(written: str) -> tuple[str, str]:
    name, colon, value = written.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"'{name}' has to be followed by a colon and a value", param_hint="--header")
    return name.strip().lower(), value.strip()


def _parameter(written: str) -> tuple[str, str]:
    name, equals, value = written.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"'{name}' has to be followed by = and a value", param_hint="--query")
    return name, value


def _work(working: Ingest, bodies: BodyFiles, limit: int | None) -> str | None:
    """Record everything, and tell why that was stopped before its end."""
    size = bodies.size
    hidden = size is None or not sys.stderr.isatty()
    try:
        with click.progressbar(length=size or 0, label="ingesting", file=sys.stderr, hidden=hidden) as bar:
            for _ in working.run(itertools.islice(bodies, limit)):
                bar.update(bodies.position - bar.pos)
    except KeyboardInterrupt:
        return "interrupted"
    except StoreError as error:
        return str(error)
    return None


class _Interrupts:
    """Turns Ctrl-C and SIGTERM into KeyboardInterrupt, at a moment at which the work may end."""

    def __init__(self) -> None:
        self._asked = False
        self._held = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._asked:
            raise KeyboardInterrupt

    def _ask(self, _number: int, _frame: object) -> None:
        self._asked = True
        if not self._held:
            raise KeyboardInterrupt


def _as_text(summary: Summary, *, dry_run: bool) -> Iterator[str]:
    statuses = summary.statuses
    said = ", ".join(f"{statuses[each]:,} {each}" for each in ("accepted", "ignored", "failed"))
    yield f"{'would record' if dry_run else 'recorded':12} {statuses.total():,} ({said})"
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary.calls.most_common())
    yield f"{'calls':12} {summary.calls.total():,}" + (f" ({kinds})" if kinds else "")
    if not dry_run:
        yield f"{'duplicates':12} {summary.duplicates:,}"
    yield f"{'not taken':12} {summary.unreadable:,}"
    yield from summary.problems
    if (more := statuses["failed"] + summary.unreadable - len(summary.problems)) > 0:
        yield f"… and {more:,} more"


def _as_json(summary: Summary, stopped: str | None) -> str:
    told = {
        "recorded": dict(summary.statuses),
        "calls": dict(summary.calls),
        "duplicates": summary.duplicates,
        "not_taken": summary.unreadable,
        "problems": summary.problems,
        "stopped": stopped,
    }
    return json.dumps(told, indent=2)
