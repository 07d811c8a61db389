"""What the operator's commands have in common: filters as options, tables, times, and asking before acting."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar

import click

from gateway import config as configuration
from gateway.cli.open_database import opened
from gateway.operate.queries import DeliveryFilter, DeliverySummary, EventFilter, EventSummary
from gateway.operate.requeue import PORTION, in_portions
from gateway.store.database import Database
from gateway.store.schema import require_schema

Filter = TypeVar("Filter", DeliveryFilter, EventFilter)
Entry = TypeVar("Entry", DeliverySummary, EventSummary)
Result = TypeVar("Result")

#: Characters of a cell that people read; the whole is in `show` and `--json`.
WIDEST = 60
#: What an id may be: more than that no database takes.
ID = click.IntRange(1, 2**63 - 1)
#: How many ids are named where there are many.
MOST_NAMED = 10

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[float]):
    """A moment as unix seconds: a date, a date and time (UTC unless it says otherwise), or "2h" for two hours ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        written = str(value)
        try:
            if written[-1:] in _UNITS and written[:-1].isdigit():
                ago = timedelta(**{_UNITS[written[-1]]: int(written[:-1])})
                return (datetime.now(UTC) - ago).timestamp()
            moment = datetime.fromisoformat(written)
        except (ValueError, OverflowError):
            self.fail(
                f"'{written}' is neither a date such as 2026-01-31 nor a time ago such as 2h or 3d",
                param,
                ctx,
            )
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def filters(kind: type[Filter], *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give a command several options at once, in this order, and hand them to it as one filter, *asked*.

    Args:
        kind: A dataclass whose fields bear the options' names; those that no option gives keep their defaults.
    """

    def decorate(command: Callable[..., object]) -> Callable[..., object]:
        @wraps(command)
        def handed(*args: Any, **given: Any) -> object:
            of_it = {each.name: given.pop(each.name) for each in dataclasses.fields(kind) if each.name in given}
            return command(*args, asked=kind(**of_it), **given)

        made: Callable[..., object] = handed
        for option in reversed(options):
            made = option(made)
        return made

    return decorate


source_option = click.option("--source", help="Of this source only.")
since_option = click.option("--since", type=Moment(), help="Received since then: 2026-01-31, or 2h, 3d ago.")
until_option = click.option("--until", type=Moment(), help="Received before then.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
before_option = click.option("--before", type=ID, metavar="ID", help="Older than this one: the next page.")
all_option = click.option("--all", "everything", is_flag=True, help="All that there are.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Tell what would happen, and change nothing.")


@contextmanager
def present_database() -> Iterator[Database]:
    """Open the database of the environment, which has to be there and of this version."""
    with opened(configuration.load(os.environ)) as database:
        require_schema(database)
        yield database


def moment(seconds: float | None) -> str:
    """Write unix seconds for people, in UTC."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(text: object) -> str:
    """Write a stranger's text so that it does nothing to a terminal: whatever is not printable is escaped."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in str(text)
    )


def plain_lines(text: str) -> str:
    """Write a stranger's lines in the same way."""
    return "\n".join(map(plain, text.splitlines()))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns; the last may be as long as it likes."""
    cells = [list(head)] + [["" if each is None else plain(each) for each in row] for row in rows]
    for row in cells:
        row[:-1] = [each if len(each) <= WIDEST else each[: WIDEST - 1] + "…" for each in row[:-1]]
    widths = [max(len(row[number]) for row in cells) for number in range(len(head))]
    return "\n".join(
        "  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def fields(named: Mapping[str, object]) -> str:
    """Write names and values below each other, leaving out what is not there."""
    width = max(map(len, named))
    return "\n".join(f"{plain(name):{width}}  {plain(value)}" for name, value in named.items() if value is not None)


def document(value: object) -> str:
    """Write JSON for people and machines; ASCII, so that nothing in it does anything to a terminal."""
    return json.dumps(value, indent=2)


def say_page(
    found: Sequence[Entry],
    *,
    head: Sequence[str],
    row: Callable[[Entry], Sequence[object]],
    none: str,
    limit: int,
) -> None:
    """Write one page of a list, and how to get the next."""
    if not found:
        click.echo(none)
        return
    click.echo(table(head, list(map(row, found))))
    if len(found) == limit:
        click.echo(f"the next page: --before {found[-1].id}", err=True)


def require_choice(ids: Sequence[int], everything: bool, asked: DeliveryFilter | EventFilter) -> None:
    """Refuse to act on all there is unless that is what was asked for."""
    filtered = asked != type(asked)()
    if ids and (filtered or everything):
        raise click.UsageError("give either ids or filters, not both")
    if not (ids or filtered or everything):
        raise click.UsageError("say which: ids, filters such as --source or --since, or --all")


def go_ahead(question: str, *, yes: bool) -> None:
    """Ask whether to go on; ends the command if not."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is nobody to ask here: add --yes, or --dry-run to only look.")
    click.confirm(question, abort=True, err=True)


def worked_through(
    ids: Sequence[int], work: Callable[[Sequence[int]], Result], *, label: str, size: int = PORTION
) -> list[Result]:
    """Do work on many ids in portions, with a bar on a terminal."""
    results = []
    hidden = len(ids) <= size or not sys.stderr.isatty()
    with click.progressbar(length=len(ids), label=label, file=sys.stderr, hidden=hidden) as bar:
        for result in in_portions(work, ids, size):
            results.append(result)
            bar.update(size)
    return results


def say_refused(refused: Mapping[int, str]) -> None:
    """Say why something was not done, for the first few."""
    for why in list(refused.values())[:MOST_NAMED]:
        click.echo(why, err=True)
    if len(refused) > MOST_NAMED:
        click.echo(f"… and {len(refused) - MOST_NAMED:,} more", err=True)
