"""translate: show what a mapping makes of a captured webhook, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gateway import config as configuration
from gateway.cli.captured import captured_event
from gateway.cli.options import plain_errors
from gateway.customerio import calls, wire
from gateway.customerio.connection import Connection
from gateway.errors import shortened
from gateway.event import JSON
from gateway.mapping.trace import Step, Trace
from gateway.mapping.translate import Planned, translate
from gateway.receive.sources import load_source


@click.command(name="translate")
@click.argument("mapping", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("payload", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--headers", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A JSON file of headers.")
@click.option("--query", multiple=True, metavar="K=V", help="A parameter of the URL's query.")
@click.option("--http", is_flag=True, help="Print the exact requests instead of the calls.")
@click.option("--explain", is_flag=True, help="Print first which entry matched and what each expression gave.")
@plain_errors
def translate_command(
    mapping: Path, payload: Path, headers: Path | None, query: tuple[str, ...], http: bool, explain: bool
) -> None:
    """Print the calls that a mapping makes of a payload, as JSON. Nothing is sent.

    PAYLOAD is a file with the body of a webhook, or - for standard input.
    """
    source = load_source(mapping, os.environ)
    if source.mapping is None:
        raise click.ClickException("\n".join(map(str, source.problems)) or str(source.closed))
    event = captured_event(source.mapping, payload, headers, query)
    trace = Trace() if explain else None
    translation = translate(source.mapping, event, trace=trace)
    for line in _explained(trace.steps) if trace is not None else ():
        click.echo(line)
    if translation.reason is not None:
        click.echo(f"ignored: {translation.reason}", err=True)
    connections = configuration.load(os.environ).connections if http else {}
    shown = [_request(each, connections) if http else calls.as_json(each.call) for each in translation.planned]
    if translation.problem is None or shown:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    if translation.problem is not None:
        raise click.ClickException(str(translation.problem))


def _explained(steps: list[Step]) -> Iterator[str]:
    """Write one line for each step, what was evaluated as name, expression and value."""
    evaluated = [step for step in steps if step.expression is not None]
    widest = max((len(step.label) for step in evaluated), default=0)
    for step in steps:
        indentation = "  " * step.depth
        if step.expression is None:
            place = f"  ({step.where})" if step.where is not None else ""
            yield click.style(f"{indentation}{step.label}{place}", bold=True)
        else:
            name = f"{indentation}{step.label}".ljust(min(widest, _WIDEST_NAME) + 2 * _DEEPEST)
            yield f"{name}  ={' '.join(step.expression.split())}  →  {_value(step)}"
    yield ""


_WIDEST_NAME, _DEEPEST, _LONGEST_VALUE = 30, 4, 120


def _value(step: Step) -> str:
    if step.problem is not None:
        return click.style(f"error: {step.problem}", fg="red")
    return shortened(json.dumps(step.value, ensure_ascii=False), _LONGEST_VALUE)


def _request(planned: Planned, connections: Mapping[str, Connection]) -> dict[str, Any]:
    connection = connections.get(planned.connection) or Connection(name=planned.connection, site_id="", api_key="")
    request = planned.sealed.request()
    return {
        "method": request.method,
        "url": connection.host(planned.region) + request.path,
        "headers": dict(request.headers),
        "body": _body(request),
    }


def _body(request: wire.HttpRequest) -> JSON:
    """Show a body as what it is: JSON, or the text of a raw request."""
    if request.body is None:
        return None
    if request.headers.get("Content-Type") == "application/json":
        body: JSON = json.loads(request.body)
        return body
    return request.body.decode(errors="replace")
