"""events: the commands that list, show and replay webhooks."""

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
from gateway.cli.options import count, environment_of, json_option, mappings_option, plain_errors
from gateway.cli.tables_and_filters import (
    ID,
    all_option,
    before_option,
    document,
    dry_run_option,
    fields,
    filters,
    go_ahead,
    limit_option,
    moment,
    plain,
    present_database,
    require_choice,
    say_page,
    say_refused,
    since_option,
    source_option,
    table,
    until_option,
    worked_through,
    yes_option,
)
from gateway.mapping.model import MappingFile
from gateway.operate.queries import EVENT_STATUSES, EventDetails, EventFilter, EventSummary, Queries
from gateway.operate.replay import Replay, Replayed

#: Events of one portion: each is a transaction of its own.
EVENTS_AT_ONCE = 20

_which = filters(
    EventFilter,
    click.option("--status", type=click.Choice(EVENT_STATUSES), help="Of this status only."),
    source_option,
    click.option("--type", "event_type", help="Of this event type only."),
    since_option,
    until_option,
)


@click.group()
def events() -> None:
    """Webhooks as they were received: what became of them, and how to translate them again."""


@events.command(name="list")
@_which
@limit_option
@before_option
@json_option
@plain_errors
def list_events(
    asked: EventFilter,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List events, the newest first."""
    with present_database() as database:
        found = Queries(database).events(asked, limit=limit, before=before)
    if as_json:
        click.echo(document([dataclasses.asdict(each) for each in found]))
        return
    head = ("id", "received", "source", "type", "status", "calls", "problem")
    say_page(found, head=head, row=_row, none="no event is like that", limit=limit)


@events.command()
@click.argument("id_", metavar="ID", type=ID)
@json_option
@plain_errors
def show(id_: int, as_json: bool) -> None:
    """Show one event: headers, body, and its deliveries."""
    with present_database() as database:
        record = Queries(database).event(id_)
    if record is None:
        raise click.ClickException(f"there is no event {id_}")
    click.echo(document(_record_as_json(record)) if as_json else _record_as_text(record))


@events.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@_which
@all_option
@click.option("--again", is_flag=True, help="Send also what arrived already; Customer.io will count it twice.")
@dry_run_option
@yes_option
@json_option
@mappings_option
@plain_errors
def replay(
    ids: tuple[int, ...],
    asked: EventFilter,
    everything: bool,
    again: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    mappings: Path | None,
) -> None:
    """Translate events again with today's mappings, and bring their deliveries into line.

    What is new is sent, what failed is sent again, what has not been sent and is not wanted any more is
    cancelled; what arrived stays as it is, unless --again.
    """
    require_choice(ids, everything, asked)
    environ = environment_of(mappings, None)
    sources = configuration.load_sources(configuration.load(environ).mappings, environ)
    rules = {name: each.mapping for name, each in sources.items() if each.mapping is not None}
    with present_database() as database:
        archive, replayer = Queries(database), Replay(database)
        chosen = list(ids) or archive.event_ids(asked)
        named, refused = _sources_of(archive, chosen, rules)
        plan = _through(named, rules, replayer.preview, again=again, label="looking")
        if not as_json:
            say_refused(refused)
            click.echo(_said(plan, would=True) if named else "no event is like that", err=not dry_run)
        if not dry_run and named:
            warning = " What arrived already is sent once more and counts twice." if again else ""
            if len(named) > 1 or again:
                go_ahead(f"replay {count(len(named), 'event')}?{warning}", yes=yes)
            done = _through(named, rules, replayer.replay, again=again, label="replaying")
        else:
            done = plan
    if as_json:
        told = {"dry_run": dry_run, **done, "refused": {str(id_): why for id_, why in refused.items()}}
        click.echo(document(told))
    elif not dry_run and named:
        click.echo(_said(done, would=False))
    sys.exit(0 if named and not refused and not done["failed"] else 1)


def _sources_of(
    archive: Queries, ids: Sequence[int], rules: Mapping[str, MappingFile]
) -> tuple[dict[int, str], dict[int, str]]:
    """Find the source of each event, and why some cannot be replayed."""
    found = archive.sources(ids)
    refused = {}
    for id_ in ids:
        if id_ not in found:
            refused[id_] = f"there is no event {id_}"
        elif found[id_] not in rules:
            refused[id_] = f"event {id_}: source {found[id_]} has no mapping that can be used; see gateway check"
    return {id_: found[id_] for id_ in ids if id_ not in refused}, refused


def _through(
    named: Mapping[int, str],
    rules: Mapping[str, MappingFile],
    work: Callable[..., Replayed | None],
    *,
    again: bool,
    label: str,
) -> dict[str, Any]:
    """Do one thing with each event and add up what it comes to."""
    total: Counter[str] = Counter()
    problems: list[str] = []

    def do(ids: Sequence[int]) -> None:
        for id_ in ids:
            replayed = work(id_, rules[named[id_]], again=again)
            if replayed is None:
                continue  # retention has removed it since
            total["events"] += 1
            total.update({name: getattr(replayed, name) for name in _NUMBERS})
            if replayed.status == "failed":
                problems.append(f"event {id_}: {replayed.problem}")

    worked_through(list(named), do, label=label, size=EVENTS_AT_ONCE)
    return {"events": total["events"], **{name: total[name] for name in _NUMBERS}, "failed": problems}


_NUMBERS = ("new", "retried", "again", "cancelled", "delivered", "waiting")


def _said(numbers: Mapping[str, Any], *, would: bool) -> str:
    calls = (
        ("sent for the first time", "new"),
        ("sent again after failing or being cancelled", "retried"),
        ("sent once more although they arrived", "again"),
        ("cancelled, as today's mapping does not ask for them", "cancelled"),
        ("left alone: they arrived", "delivered"),
        ("left alone: they wait to be sent", "waiting"),
    )
    lines = [f"{count(numbers['events'], 'event')} {'would be ' if would else ''}replayed; calls:"]
    lines += [f"{numbers[name]:8,}  {what}" for what, name in calls if numbers[name]]
    if len(lines) == 1:
        lines.append(f"{0:8}")
    if numbers["failed"]:
        lines.append(f"today's mapping fails on {count(len(numbers['failed']), 'event')}:")
    return "\n".join((*lines, *map(plain, numbers["failed"][:10])))


def _row(entry: EventSummary) -> tuple[object, ...]:
    return (
        entry.id,
        moment(entry.received_at),
        entry.source,
        entry.event_type,
        entry.status,
        entry.calls,
        entry.problem,
    )


def _record_as_json(record: EventDetails) -> dict[str, Any]:
    return {
        **dataclasses.asdict(record.summary),
        "key": record.key.hex(),
        "headers": json.loads(record.headers),
        "query": json.loads(record.query),
        "body": _readable(record.body),
        "deliveries": [
            {"id": each.id, "status": each.status, "reason": each.reason, "call": json.loads(each.call)}
            for each in record.deliveries
        ],
    }


def _readable(body: bytes) -> Any:
    """Give a body as the JSON that it is, else as text."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="backslashreplace")


def _record_as_text(record: EventDetails) -> str:
    entry = record.summary
    said = fields(
        {
            "event": entry.id,
            "source": entry.source,
            "received": moment(entry.received_at),
            "type": entry.event_type,
            "status": entry.status,
            "problem": entry.problem,
            "query": record.query.decode() if record.query != b"{}" else None,
        }
    )
    headers = [fields(json.loads(record.headers))] if record.headers != b"{}" else []
    rows = [(each.id, each.status, json.loads(each.call)["call"], each.reason) for each in record.deliveries]
    made = table(("delivery", "status", "call", "reason"), rows) if rows else "no call was made of it"
    return "\n\n".join((said, *headers, document(_readable(record.body)), made))
