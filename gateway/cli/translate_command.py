"""translate: print the calls that a mapping makes of a captured webhook, and why."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gateway import config as configuration
from gateway.cli.captured import captured_event
from gateway.cli.options import FILE, FILE_OR_INPUT
from gateway.customerio.calls import as_json
from gateway.customerio.connection import Connection
from gateway.errors import shortened
from gateway.event import JSON
from gateway.mapping.functions import Budget
from gateway.mapping.trace import Step, Trace
from gateway.mapping.translate import PlannedCall, translate
from gateway.receive.sources import load_source


@click.command(name="translate")
@click.argument("mapping", type=FILE)
@click.argument("payload", type=FILE_OR_INPUT)
@click.option("--headers", type=FILE, help="A JSON file of headers.")
@click.option("--query", multiple=True, metavar="K=V", help="A parameter of the URL's query.")
@click.option("--http", is_flag=True, help="Print the exact requests instead of the calls.")
@click.option("--explain", is_flag=True, help="First print which entry matched, and the value of each expression.")
def translate_command(
    mapping: Path, payload: Path, headers: Path | None, query: tuple[str, ...], http: bool, explain: bool
) -> None:
    """Print the calls that a mapping makes of a payload, as JSON. Nothing is sent.

    PAYLOAD is a file with the body of a webhook, or - for standard input.
    """
    mapping_file = load_source(mapping, os.environ).require_mapping()
    event = captured_event(mapping_file, payload, headers, query)
    trace = Trace() if explain else None
    translation = translate(mapping_file, event, trace=trace, budget=Budget(time.thread_time))
    for line in _explanation(trace.steps) if trace is not None else ():
        click.echo(line)
    if translation.reason is not None:
        click.echo(f"ignored: {translation.reason}", err=True)
    connections = configuration.load(os.environ).connections if http else {}
    output = [_request(call, connections) if http else as_json(call.call) for call in translation.planned]
    if translation.problem is None or output:
        click.echo(json.dumps(output, indent=2, ensure_ascii=False))
    if translation.problem is not None:
        raise click.ClickException(str(translation.problem))


_WIDEST_NAME, _DEEPEST, _LONGEST_VALUE = 30, 4, 120


def _explanation(steps: list[Step]) -> Iterator[str]:
    """Yield a line for each step; an evaluation is shown as name, expression and value, in columns."""
    widest = max((len(step.label) for step in steps if step.expression is not None), default=0)
    for step in steps:
        indentation = "  " * step.depth
        if step.expression is None:
            place = f"  ({step.location})" if step.location is not None else ""
            yield click.style(f"{indentation}{step.label}{place}", bold=True)
        else:
            name = f"{indentation}{step.label}".ljust(min(widest, _WIDEST_NAME) + 2 * _DEEPEST)
            value = shortened(json.dumps(step.value, ensure_ascii=False), _LONGEST_VALUE)
            if step.problem is not None:
                value = click.style(f"error: {step.problem}", fg="red")
            yield f"{name}  ={' '.join(step.expression.split())}  →  {value}"
    yield ""


def _request(planned: PlannedCall, connections: Mapping[str, Connection]) -> dict[str, Any]:
    connection = connections.get(planned.connection) or Connection(name=planned.connection, site_id="", api_key="")
    request = planned.sealed.request()
    body: JSON = None
    if request.body is not None:
        is_json = request.headers.get("Content-Type") == "application/json"
        body = json.loads(request.body) if is_json else request.body.decode(errors="replace")
    return {
        "method": request.method,
        "url": connection.host(planned.region) + request.path,
        "headers": dict(request.headers),
        "body": body,
    }
