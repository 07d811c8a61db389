"""What the commands for operators share: filters as options, an open database, pages, confirmation, bulk work."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar

import click

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import json_option
from gateway.cli.output import table
from gateway.operate.queries import DeliveryFilter, DeliverySummary, EventFilter, EventSummary
from gateway.operate.requeue import PORTION, in_portions
from gateway.store.database import Database
from gateway.store.schema import require_schema

Filter = TypeVar("Filter", DeliveryFilter, EventFilter)
Summary = TypeVar("Summary", DeliverySummary, EventSummary)
Result = TypeVar("Result")

#: The range of ids that the databases can hold.
ID = click.IntRange(1, 2**63 - 1)
#: How many refusals are printed.
MAX_REFUSALS = 10

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class TimeParam(click.ParamType[float]):
    """A time as unix seconds: a date, a date and time (UTC unless it says otherwise), or "2h" for two hours ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            if text[-1:] in _UNITS and text[:-1].isdigit():
                ago = timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
                return (datetime.now(UTC) - ago).timestamp()
            time = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"'{text}' is neither a date such as 2026-01-31 nor a time ago such as 2h or 3d", param, ctx)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def filter_options(kind: type[Filter], *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give a command several options, in this order, and pass those of a filter to it as one named *wanted*.

    Args:
        kind: A dataclass with a field for each option of the filter; a field without an option keeps its default.
    """

    def decorate(command: Callable[..., object]) -> Callable[..., object]:
        @wraps(command)
        def with_filter(*args: Any, **parameters: Any) -> object:
            names = [field.name for field in dataclasses.fields(kind) if field.name in parameters]
            values = {name: parameters.pop(name) for name in names}
            return command(*args, wanted=kind(**values), **parameters)

        decorated: Callable[..., object] = with_filter
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


source_option = click.option("--source", help="Of this source only.")
since_option = click.option("--since", type=TimeParam(), help="Received since then: 2026-01-31, or 2h, 3d ago.")
until_option = click.option("--until", type=TimeParam(), help="Received before then.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
before_option = click.option("--before", type=ID, metavar="ID", help="Older than this one: the next page.")
all_option = click.option("--all", "everything", is_flag=True, help="All that there are.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
page_options = (limit_option, before_option, json_option)
bulk_options = (all_option, dry_run_option, yes_option, json_option)


@contextmanager
def open_current_database() -> Iterator[Database]:
    """Open the database of the environment, which has to exist and to have this version's schema."""
    with open_database(configuration.load(os.environ)) as database:
        require_schema(database)
        yield database


def print_page(
    summaries: Sequence[Summary],
    *,
    head: Sequence[str],
    row: Callable[[Summary], Sequence[object]],
    none: str,
    limit: int,
) -> None:
    """Print one page of a list, and how to get the next; *none* is the text for an empty list."""
    if not summaries:
        click.echo(none)
        return
    click.echo(table(head, list(map(row, summaries))))
    if len(summaries) == limit:
        click.echo(f"the next page: --before {summaries[-1].id}", err=True)


def require_choice(ids: Sequence[int], everything: bool, wanted: DeliveryFilter | EventFilter) -> None:
    """Refuse to act on everything unless --all was given."""
    is_filtered = wanted != type(wanted)()
    if ids and (is_filtered or everything):
        raise click.UsageError("give either ids or filters, not both")
    if not (ids or is_filtered or everything):
        raise click.UsageError("choose some: ids, filters such as --source or --since, or --all")


def confirm(question: str, *, yes: bool) -> None:
    """Ask whether to go on; end the command if not."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: add --yes, or --dry-run to only look.")
    click.confirm(question, abort=True, err=True)


def run_in_portions(
    ids: Sequence[int], work: Callable[[Sequence[int]], Result], *, label: str, size: int = PORTION
) -> list[Result]:
    """Do work on many ids in portions, with a progress bar on a terminal."""
    results = []
    hidden = len(ids) <= size or not sys.stderr.isatty()
    with click.progressbar(length=len(ids), label=label, file=sys.stderr, hidden=hidden) as bar:
        for result in in_portions(work, ids, size):
            results.append(result)
            bar.update(size)
    return results


def print_refusals(refused: Mapping[int, str]) -> None:
    """Print why things were refused, for the first few."""
    for reason in list(refused.values())[:MAX_REFUSALS]:
        click.echo(reason, err=True)
    if len(refused) > MAX_REFUSALS:
        click.echo(f"… and {len(refused) - MAX_REFUSALS:,} more", err=True)
