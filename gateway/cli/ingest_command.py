"""ingest: record historic payloads."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import FILE_OR_INPUT, environment_of, mappings_option
from gateway.cli.output import json_text
from gateway.config import Config
from gateway.errors import ConfigError, StoreError, did_you_mean
from gateway.mapping.model import MappingFile
from gateway.operate.body_files import BodyFiles
from gateway.operate.ingest import Ingest, Summary
from gateway.receive.sources import load_sources
from gateway.store import Store
from gateway.store.schema import migrate, require_schema


@click.command()
@click.argument("source")
@click.argument("files", nargs=-1, required=True, type=FILE_OR_INPUT)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of each body.")
@click.option("--query", "query", multiple=True, metavar="K=V", help="A parameter of each body's query.")
@click.option("--whole", is_flag=True, help="Each file is one body, even if it is an array or has several lines.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many bodies.")
@click.option("--dry-run", is_flag=True, help="Translate and count; record nothing and search no duplicates.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@mappings_option
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
    """Record historic payloads as if they were posted to /hooks/SOURCE now.

    FILES hold JSON lines, a JSON array of bodies, or one body; gzip or not; - is standard input.
    No signature is checked. The time of receipt is now: a mapping that sets a timestamp sets
    the historic one. What is recorded already is skipped, so a run that was stopped can just be started again.

    Recording leaves half of the time to webhooks that are received meanwhile. The calls are sent
    in the order of recording, together with those of such webhooks.

    The exit status is 1 when a body could not be read, when its mapping failed, or when the run was stopped.
    """
    environ = environment_of(mappings, None)
    config = configuration.load(environ)
    interrupts = _Interrupts()
    with ExitStack() as stack:
        store = None
        if not dry_run:
            database = stack.enter_context(open_database(config))
            if config.embedded:
                migrate(database)
            require_schema(database)
            store = Store(database)
        run = Ingest(
            _mapping_of(config, environ, source),
            store,
            headers={name.strip().lower(): value.strip() for name, value in _pairs("--header", headers, ":")},
            query=dict(_pairs("--query", query, "=")),
            max_body=config.max_body,
            uninterrupted=interrupts.deferred,
        )
        stack.enter_context(interrupts.handled())
        stopped = _run(run, BodyFiles(files, whole=whole), limit)
    if as_json:
        click.echo(json_text(_summary_as_json(run.summary, stopped)))
    else:
        click.echo("\n".join(_summary_as_text(run.summary, dry_run=dry_run)))
    if stopped is not None:
        advice = "to go on, run the same command again: what is recorded is skipped"
        click.echo(f"stopped: {stopped}\n{advice}", err=True)
    sys.exit(0 if run.summary.is_good and stopped is None else 1)


def _mapping_of(config: Config, environ: Mapping[str, str], name: str) -> MappingFile:
    sources = load_sources(config.mappings, environ)
    source = sources.get(name)
    if source is None:
        raise ConfigError(f"there is no source {name} in {config.mappings}{did_you_mean(name, sources)}")
    return source.require_mapping()


def _pairs(option: str, texts: tuple[str, ...], separator: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            word = "a colon" if separator == ":" else separator
            raise click.BadParameter(f"'{name}' has to be followed by {word} and a value", param_hint=option)
        yield name, value


def _run(run: Ingest, bodies: BodyFiles, limit: int | None) -> str | None:
    """Record everything; return why it stopped before the end."""
    size = bodies.size
    hidden = size is None or not sys.stderr.isatty()
    try:
        with click.progressbar(length=size or 0, label="ingesting", file=sys.stderr, hidden=hidden) as bar:
            for _ in run.run(itertools.islice(bodies, limit)):
                bar.update(bodies.position - bar.pos)
    except KeyboardInterrupt:
        return "interrupted"
    except StoreError as error:
        return str(error)
    return None


class _Interrupts:
    """Turns Ctrl-C and SIGTERM into KeyboardInterrupt, at a moment when the work may end."""

    def __init__(self) -> None:
        self._requested = False
        self._deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals within this block."""
        handlers = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise an interrupt of this block at its end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._requested:
            raise KeyboardInterrupt

    def _request(self, _number: int, _frame: object) -> None:
        self._requested = True
        if not self._deferred:
            raise KeyboardInterrupt


def _summary_as_text(summary: Summary, *, dry_run: bool) -> Iterator[str]:
    statuses = summary.statuses
    by_status = ", ".join(f"{statuses[status]:,} {status}" for status in ("accepted", "ignored", "failed"))
    yield f"{'would record' if dry_run else 'recorded':12} {statuses.total():,} ({by_status})"
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in summary.calls.most_common())
    yield f"{'calls':12} {summary.calls.total():,}" + (f" ({kinds})" if kinds else "")
    if not dry_run:
        yield f"{'duplicates':12} {summary.duplicates:,}"
    if summary.unsent:
        yield f"{'not sent':12} {summary.unsent:,} (gateway deliveries list --status cancelled or failed says why)"
    yield f"{'not taken':12} {summary.unreadable:,}"
    yield from summary.problems
    if (more := statuses["failed"] + summary.unreadable - len(summary.problems)) > 0:
        yield f"… and {more:,} more"


def _summary_as_json(summary: Summary, stopped: str | None) -> dict[str, object]:
    return {
        "recorded": dict(summary.statuses),
        "calls": dict(summary.calls),
        "duplicates": summary.duplicates,
        "not_sent": summary.unsent,
        "not_taken": summary.unreadable,
        "problems": summary.problems,
        "stopped": stopped,
    }
