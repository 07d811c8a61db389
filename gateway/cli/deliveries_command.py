"""deliveries: list, show, retry and cancel deliveries."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from gateway.cli import operator_options as operators
from gateway.cli.options import json_option
from gateway.cli.output import count, format_time, json_text, name_value_lines, printable_lines, table
from gateway.customerio.calls import IDENTIFIERS
from gateway.operate.queries import STATUSES, DeliveryDetails, DeliveryFilter, DeliverySummary, Queries, Status
from gateway.operate.requeue import Requeue, Requeued
from gateway.store.database import Database

_UNSENT: tuple[Status, ...] = ("parked", "pending", "failed")

_filter_options = (
    operators.source_option,
    click.option("--connection", help="Over this connection only."),
    click.option("--error", "reason", metavar="TEXT", help="With this text in the reason, in upper or lower case."),
    operators.since_option,
    operators.until_option,
)


def _status_option(choices: Sequence[str]) -> Callable[[Any], Any]:
    return click.option(
        "--status", "statuses", type=click.Choice(choices), multiple=True, help="With this status; repeatable."
    )


@click.group()
def deliveries() -> None:
    """Recorded calls: what became of them, and what to do about it."""


@deliveries.command(name="list")
@operators.filter_options(
    DeliveryFilter,
    _status_option(STATUSES),
    *_filter_options,
    click.option("--event", "event_id", type=operators.ID, metavar="ID", help="Of this event only."),
    *operators.page_options,
)
def list_deliveries(wanted: DeliveryFilter, limit: int, before: int | None, as_json: bool) -> None:
    """List deliveries, newest first."""
    with operators.open_current_database() as database:
        summaries = Queries(database).deliveries(wanted, limit=limit, before=before)
    if as_json:
        click.echo(json_text([_summary_as_json(summary) for summary in summaries]))
        return
    head = ("id", "event", "received", "source", "call", "status", "tries", "reason")
    operators.print_page(summaries, head=head, row=_row, none="no delivery matches", limit=limit)


@deliveries.command()
@click.argument("id_", metavar="ID", type=operators.ID)
@json_option
def show(id_: int, as_json: bool) -> None:
    """Show one delivery with its call and every attempt."""
    with operators.open_current_database() as database:
        details = Queries(database).delivery(id_)
    if details is None:
        raise click.ClickException(f"there is no delivery {id_}")
    if as_json:
        attempts = [dataclasses.asdict(attempt) for attempt in details.attempts]
        summary = _summary_as_json(details.summary)
        click.echo(json_text({**summary, "ahead": details.ahead, "attempts": attempts}))
    else:
        click.echo(_details_as_text(details))


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=operators.ID)
@operators.filter_options(DeliveryFilter, *_filter_options, *operators.bulk_options)
def retry(ids: tuple[int, ...], wanted: DeliveryFilter, everything: bool, **options: bool) -> None:
    """Send failed deliveries again, each at the end of the queue of its customer."""
    operators.require_choice(ids, everything, wanted)
    with operators.open_current_database() as database:
        chosen = list(ids) or Queries(database).delivery_ids(replace(wanted, statuses=("failed",)))
        _act(database, chosen, cancel=False, **options)


@deliveries.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=operators.ID)
@operators.filter_options(DeliveryFilter, _status_option(_UNSENT), *_filter_options, *operators.bulk_options)
def cancel(ids: tuple[int, ...], wanted: DeliveryFilter, everything: bool, **options: bool) -> None:
    """Cancel deliveries that have not arrived; the ones behind them go on."""
    operators.require_choice(ids, everything, wanted)
    with operators.open_current_database() as database:
        chosen = list(ids) or Queries(database).delivery_ids(replace(wanted, statuses=wanted.statuses or _UNSENT))
        # From the end: otherwise the next of a lane would be promoted, and sent, between two portions.
        _act(database, chosen[::-1], cancel=True, **options)


def _act(database: Database, ids: Sequence[int], *, cancel: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Ask, retry or cancel, and print what was done; the exit status is 1 when anything was refused."""
    requeue = Requeue(database)
    work, verb, participle = (requeue.cancel, "cancel", "cancelled") if cancel else (requeue.retry, "retry", "retried")
    refused = requeue.refusals(ids, cancel=cancel)
    allowed = [id_ for id_ in ids if id_ not in refused]
    results: list[Requeued] = []
    if not dry_run:
        if len(allowed) > 1:
            operators.confirm(f"{verb} {len(allowed):,} deliveries?", yes=yes)
        results = operators.run_in_portions(allowed, work, label=verb)
    done = allowed if dry_run else [id_ for result in results for id_ in result.ids]
    for result in results:
        refused |= result.refused
    if as_json:
        refusals = {str(id_): reason for id_, reason in refused.items()}
        click.echo(json_text({"dry_run": dry_run, participle: done, "refused": refusals}))
    else:
        operators.print_refusals(refused)
        click.echo(f"{count(len(done), 'delivery', 'deliveries')} {'would be ' if dry_run else ''}{participle}")
    sys.exit(0 if done and not refused else 1)


def _row(summary: DeliverySummary) -> tuple[object, ...]:
    received = format_time(summary.received_at)
    call, status = _short_call(json.loads(summary.call)), _status(summary)
    return (summary.id, summary.event_id, received, summary.source, call, status, summary.tries, summary.reason)


def _short_call(call: dict[str, Any]) -> str:
    """Write a call as its kind, its name and its address: "track Order Paid 42"."""
    name = next((call[key] for key in ("name", "url", "path", "form_id", "token") if key in call), None)
    address = next((call[key] for key in (*IDENTIFIERS, "object_id", "cio_object_id") if key in call), None)
    if call.get("call") == "merge":
        address = " <- ".join([*call["into"].values(), *call["from"].values()])
    return " ".join(str(part) for part in (call.get("call"), name, address) if part)


def _status(summary: DeliverySummary) -> str:
    return "sending" if summary.leased else summary.status


def _summary_as_json(summary: DeliverySummary) -> dict[str, Any]:
    return {**dataclasses.asdict(summary), "call": json.loads(summary.call)}


def _details_as_text(details: DeliveryDetails) -> str:
    summary = details.summary
    overview = name_value_lines(
        {
            "delivery": summary.id,
            "event": f"{summary.event_id} of source {summary.source}, received {format_time(summary.received_at)}",
            "connection": f"{summary.connection} ({summary.region})" if summary.region else summary.connection,
            "status": _status(summary),
            "reason": summary.reason,
            "waits behind": count(details.ahead, "other") if details.ahead else None,
            "next try": format_time(summary.due_at) or None,
            "failing since": format_time(summary.first_failed_at) or None,
            "settled": format_time(summary.settled_at) or None,
        }
    )
    rows = [
        (format_time(attempt.at), f"{attempt.seconds:.2f} s", attempt.status, attempt.reason)
        for attempt in details.attempts
    ]
    attempts = table(("attempt", "took", "HTTP", "reason"), rows) if rows else "no attempt yet"
    exchanges = [
        f"attempt of {format_time(attempt.at)}:\n\n{printable_lines(attempt.debug)}"
        for attempt in details.attempts
        if attempt.debug is not None
    ]
    return "\n\n".join([overview, json_text(json.loads(summary.call)), attempts, *exchanges])
