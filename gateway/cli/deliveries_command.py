"""deliveries: the commands that list, show, retry and cancel deliveries."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from gateway.cli.options import count, json_option, plain_errors
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
    plain_lines,
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
from gateway.customerio.calls import IDENTIFIERS
from gateway.operate.queries import STATUSES, DeliveryDetails, DeliveryFilter, DeliverySummary, Queries, Status
from gateway.operate.requeue import Requeue, Requeued

_UNSENT: tuple[Status, ...] = ("parked", "pending", "failed")

_which = (
    source_option,
    click.option("--connection", help="Over this connection only."),
    click.option("--error", "reason", metavar="TEXT", help="With this text in the reason, in capitals or not."),
    since_option,
    until_option,
)


def _status_option(choice: Sequence[str]) -> Callable[[Any], Any]:
    return click.option(
        "--status", "statuses", type=click.Choice(choice), multiple=True, help="Of this status; repeatable."
    )


@click.group()
def deliveries() -> None:
    """Calls that we are responsible for: what became of them, and what to do about it."""


@deliveries.command(name="list")
@filters(
    DeliveryFilter,
    _status_option(STATUSES),
    *_which,
    click.option("--event", "event_id", type=ID, metavar="ID", help="Of this event only."),
)
@limit_option
@before_option
@json_option
@plain_errors
def list_deliveries(
    asked: DeliveryFilter,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List deliveries, the newest first."""
    with present_database() as database:
        found = Queries(database).deliveries(asked, limit=limit, before=before)
    if as_json:
        click.echo(document([_as_json(each) for each in found]))
        return
    head = ("id", "event", "received", "source", "call", "status", "tries", "reason")
    say_page(found, head=head, row=_row, none="no delivery is like that", limit=limit)


@deliveries.command()
@click.argument("id_", metavar="ID", type=ID)
@json_option
@plain_errors
def show(id_: int, as_json: bool) -> None:
    """Show one delivery with its call and every attempt."""
    with present_database() as database:
        record = Queries(database).delivery(id_)
    if record is None:
        raise click.ClickException(f"there is no delivery {id_}")
    click.echo(document(_record_as_json(record)) if as_json else _record_as_text(record))


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@filters(DeliveryFilter, *_which)
@all_option
@dry_run_option
@yes_option
@json_option
@plain_errors
def retry(
    ids: tuple[int, ...],
    asked: DeliveryFilter,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send failed deliveries again, each at the end of what waits for the same customer."""
    require_choice(ids, everything, asked)
    failed = replace(asked, statuses=("failed",))
    with present_database() as database:
        requeue = Requeue(database)
        chosen = list(ids) or Queries(database).delivery_ids(failed)
        refused = requeue.refusals(chosen)
        going = [id_ for id_ in chosen if id_ not in refused]
        _act("retry", "retried", going, refused, requeue.retry, dry_run=dry_run, yes=yes, as_json=as_json)


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@filters(DeliveryFilter, _status_option(_UNSENT), *_which)
@all_option
@dry_run_option
@yes_option
@json_option
@plain_errors
def cancel(
    ids: tuple[int, ...],
    asked: DeliveryFilter,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give up deliveries that have not arrived; what waits behind them goes on."""
    require_choice(ids, everything, asked)
    unsent = replace(asked, statuses=asked.statuses or _UNSENT)
    with present_database() as database:
        requeue = Requeue(database)
        chosen = list(ids) or Queries(database).delivery_ids(unsent)
        refused = requeue.refusals(chosen, cancel=True)
        # From the end on: else the next of a lane would be promoted, and sent, between two portions.
        going = [id_ for id_ in reversed(chosen) if id_ not in refused]
        _act("cancel", "cancelled", going, refused, requeue.cancel, dry_run=dry_run, yes=yes, as_json=as_json)


def _act(
    verb: str,
    done_word: str,
    going: Sequence[int],
    refused: Mapping[int, str],
    work: Callable[[Sequence[int]], Requeued],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Say what will be done, do it, and say what was; the exit status is 1 when something was not."""
    if len(going) > 1 and not dry_run:
        go_ahead(f"{verb} {len(going):,} deliveries?", yes=yes)
    results: list[Requeued] = [] if dry_run else worked_through(going, work, label=verb)
    done = list(going) if dry_run else [id_ for each in results for id_ in each.ids]
    not_done = dict(refused) | {id_: why for each in results for id_, why in each.refused.items()}
    if as_json:
        told = {
            "dry_run": dry_run,
            done_word: done,
            "refused": {str(id_): why for id_, why in not_done.items()},
        }
        click.echo(document(told))
    else:
        say_refused(not_done)
        number = count(len(done), "delivery", "deliveries")
        click.echo(f"{number} {'would be ' if dry_run else ''}{done_word}")
    sys.exit(0 if done and not not_done else 1)


def _row(entry: DeliverySummary) -> tuple[object, ...]:
    return (
        entry.id,
        entry.event_id,
        moment(entry.received_at),
        entry.source,
        _call_in_short(entry),
        _state(entry),
        entry.tries,
        entry.reason,
    )


def _call_in_short(entry: DeliverySummary) -> str:
    call = json.loads(entry.call)
    what = next((call[name] for name in ("name", "url", "path", "form_id", "token") if name in call), None)
    whom = next((call[name] for name in (*IDENTIFIERS, "object_id") if name in call), None)
    if call.get("call") == "merge":
        whom = " <- ".join([*call["into"].values(), *call["from"].values()])
    return " ".join(str(each) for each in (call.get("call"), what, whom) if each)


def _state(entry: DeliverySummary) -> str:
    return "sending" if entry.leased else entry.status


def _as_json(entry: DeliverySummary) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "call": json.loads(entry.call)}


def _record_as_json(record: DeliveryDetails) -> dict[str, Any]:
    attempts = [dataclasses.asdict(each) for each in record.attempts]
    return {**_as_json(record.summary), "ahead": record.ahead, "attempts": attempts}


def _record_as_text(record: DeliveryDetails) -> str:
    entry = record.summary
    said = fields(
        {
            "delivery": entry.id,
            "event": f"{entry.event_id} of source {entry.source}, received {moment(entry.received_at)}",
            "connection": f"{entry.connection} ({entry.region})" if entry.region else entry.connection,
            "status": _state(entry),
            "reason": entry.reason,
            "waits behind": count(record.ahead, "other") if record.ahead else None,
            "next try": moment(entry.due_at) or None,
            "failing since": moment(entry.first_failed_at) or None,
            "settled": moment(entry.settled_at) or None,
        }
    )
    rows = [(moment(each.at), f"{each.seconds:.2f} s", each.status, each.reason) for each in record.attempts]
    tried = table(("attempt", "took", "HTTP", "reason"), rows) if rows else "no attempt yet"
    shown = (
        f"\n\nattempt of {moment(each.at)}:\n\n{plain_lines(each.debug)}"
        for each in record.attempts
        if each.debug is not None
    )
    return f"{said}\n\n{document(json.loads(entry.call))}\n\n{tried}{''.join(shown)}"
