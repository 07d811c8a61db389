"""events: list, show and replay webhooks."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gateway import config as configuration
from gateway.cli import operator_options as operators
from gateway.cli.options import environment_of, json_option, mappings_option
from gateway.cli.output import count, format_time, json_text, name_value_lines, printable, table
from gateway.mapping.model import MappingFile
from gateway.operate.queries import EVENT_STATUSES, EventDetails, EventFilter, EventSummary, Queries
from gateway.operate.replay import Replay, Replayed
from gateway.receive.sources import load_sources

#: Events of one portion; each is a transaction of its own.
PORTION = 20

_event_filter = operators.filter_options(
    EventFilter,
    click.option("--status", type=click.Choice(EVENT_STATUSES), help="With this status only."),
    operators.source_option,
    click.option("--type", "event_type", help="Of this event type only."),
    operators.since_option,
    operators.until_option,
)


@click.group()
def events() -> None:
    """Webhooks as they were received: what became of them, and how to translate them again."""


@events.command(name="list")
@_event_filter
@operators.limit_option
@operators.before_option
@json_option
def list_events(wanted: EventFilter, limit: int, before: int | None, as_json: bool) -> None:
    """List events, newest first."""
    with operators.open_current_database() as database:
        summaries = Queries(database).events(wanted, limit=limit, before=before)
    if as_json:
        click.echo(json_text([dataclasses.asdict(summary) for summary in summaries]))
        return
    head = ("id", "received", "source", "type", "status", "calls", "problem")
    operators.print_page(summaries, head=head, row=_row, none="no event matches", limit=limit)


def _row(summary: EventSummary) -> tuple[object, ...]:
    received = format_time(summary.received_at)
    return (summary.id, received, summary.source, summary.event_type, summary.status, summary.calls, summary.problem)


@events.command()
@click.argument("id_", metavar="ID", type=operators.ID)
@json_option
def show(id_: int, as_json: bool) -> None:
    """Show one event: headers, body, and its deliveries."""
    with operators.open_current_database() as database:
        details = Queries(database).event(id_)
    if details is None:
        raise click.ClickException(f"there is no event {id_}")
    click.echo(json_text(_details_as_json(details)) if as_json else _details_as_text(details))


@events.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=operators.ID)
@_event_filter
@operators.all_option
@click.option("--again", is_flag=True, help="Send what was delivered too; Customer.io will count it twice.")
@operators.dry_run_option
@operators.yes_option
@json_option
@mappings_option
def replay(
    ids: tuple[int, ...],
    wanted: EventFilter,
    everything: bool,
    again: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    mappings: Path | None,
) -> None:
    """Translate events again with today's mappings, and bring their deliveries into line.

    New calls are sent, failed ones are sent again, and unsent ones that are no longer wanted are cancelled.
    Delivered calls stay as they are, unless --again.
    """
    operators.require_choice(ids, everything, wanted)
    environ = environment_of(mappings, None)
    sources = load_sources(configuration.load(environ).mappings, environ)
    mapping_files = {name: source.mapping for name, source in sources.items() if source.mapping is not None}
    with operators.open_current_database() as database:
        queries, replayer = Queries(database), Replay(database)
        events_to_replay, refused = _mappings_of(queries, list(ids) or queries.event_ids(wanted), mapping_files)
        totals = _add_up(events_to_replay, replayer.preview, again=again, label="looking")
        if not as_json:
            operators.print_refusals(refused)
            text = _totals_as_text(totals, would=True) if events_to_replay else "no event matches"
            click.echo(text, err=not dry_run)
        if not dry_run and events_to_replay:
            warning = " What was delivered is sent once more and counts twice." if again else ""
            if len(events_to_replay) > 1 or again:
                operators.confirm(f"replay {count(len(events_to_replay), 'event')}?{warning}", yes=yes)
            totals = _add_up(events_to_replay, replayer.replay, again=again, label="replaying")
    if as_json:
        refusals = {str(id_): reason for id_, reason in refused.items()}
        click.echo(json_text({"dry_run": dry_run, **totals, "refused": refusals}))
    elif not dry_run and events_to_replay:
        click.echo(_totals_as_text(totals, would=False))
    sys.exit(0 if events_to_replay and not refused and not totals["failed"] else 1)


def _mappings_of(
    queries: Queries, ids: Sequence[int], mapping_files: Mapping[str, MappingFile]
) -> tuple[dict[int, MappingFile], dict[int, str]]:
    """Return the mapping of each event, and why some events cannot be replayed."""
    sources = queries.sources(ids)
    usable, refused = {}, {}
    for id_ in ids:
        if id_ not in sources:
            refused[id_] = f"there is no event {id_}"
        elif sources[id_] not in mapping_files:
            refused[id_] = f"event {id_}: source {sources[id_]} has no usable mapping; see gateway check"
        else:
            usable[id_] = mapping_files[sources[id_]]
    return usable, refused


_NUMBERS = {
    "new": "sent for the first time",
    "retried": "sent again after failing or being cancelled",
    "again": "sent once more, under a new id, so that they count again",
    "deleted": "not sent, as their person was deleted later",
    "taken": "not sent, as Customer.io has another event with their event_id (--again sends them under a new one)",
    "cancelled": "cancelled, as today's mapping does not ask for them",
    "delivered": "left alone: they were delivered",
    "waiting": "left alone: they wait to be sent",
}


def _add_up(
    mappings: Mapping[int, MappingFile], work: Callable[..., Replayed | None], *, again: bool, label: str
) -> dict[str, Any]:
    """Preview or replay each event, and add up the numbers."""
    total: Counter[str] = Counter()
    problems: list[str] = []

    def work_on(ids: Sequence[int]) -> None:
        for id_ in ids:
            replayed = work(id_, mappings[id_], again=again)
            if replayed is None:
                continue  # retention has deleted it meanwhile
            total["events"] += 1
            total.update({name: getattr(replayed, name) for name in _NUMBERS})
            if replayed.status == "failed":
                problems.append(f"event {id_}: {replayed.problem}")

    operators.run_in_portions(list(mappings), work_on, label=label, size=PORTION)
    return {"events": total["events"], **{name: total[name] for name in _NUMBERS}, "failed": problems}


def _totals_as_text(totals: Mapping[str, Any], *, would: bool) -> str:
    lines = [f"{count(totals['events'], 'event')} {'would be ' if would else ''}replayed; calls:"]
    lines += [f"{totals[name]:8,}  {meaning}" for name, meaning in _NUMBERS.items() if totals[name]]
    if len(lines) == 1:
        lines.append(f"{0:8}")
    if totals["failed"]:
        lines.append(f"{count(len(totals['failed']), 'event')} with a problem:")
    return "\n".join((*lines, *map(printable, totals["failed"][:10])))


def _details_as_json(details: EventDetails) -> dict[str, Any]:
    return {
        **dataclasses.asdict(details.summary),
        "key": details.key.hex(),
        "headers": json.loads(details.headers),
        "query": json.loads(details.query),
        "body": _readable(details.body),
        "deliveries": [
            {"id": delivery.id, "status": delivery.status, "reason": delivery.reason, "call": json.loads(delivery.call)}
            for delivery in details.deliveries
        ],
    }


def _readable(body: bytes) -> Any:
    """Return a body as JSON if it is JSON, else as text."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="backslashreplace")


def _details_as_text(details: EventDetails) -> str:
    summary = details.summary
    overview = name_value_lines(
        {
            "event": summary.id,
            "source": summary.source,
            "received": format_time(summary.received_at),
            "type": summary.event_type,
            "status": summary.status,
            "problem": summary.problem,
            "query": details.query.decode() if details.query != b"{}" else None,
        }
    )
    headers = [name_value_lines(json.loads(details.headers))] if details.headers != b"{}" else []
    rows = [
        (delivery.id, delivery.status, json.loads(delivery.call)["call"], delivery.reason)
        for delivery in details.deliveries
    ]
    calls = table(("delivery", "status", "call", "reason"), rows) if rows else "no calls"
    return "\n\n".join((overview, *headers, json_text(_readable(details.body)), calls))
