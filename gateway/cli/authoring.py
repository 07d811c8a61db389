"""check and translate: the commands for whoever writes mappings."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from gateway import calls, checks, payloads, wire
from gateway import config as configuration
from gateway.cli.options import count, plain_errors
from gateway.connections import Connection
from gateway.errors import ConfigError, RequestError, Severity
from gateway.events import JSON, Event
from gateway.translate import Planned, translate


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@plain_errors
def check(paths: tuple[Path, ...]) -> None:
    """Find what is wrong in mapping files, and run their own tests."""
    files = _files(paths or (Path(os.environ.get("GATEWAY_MAPPINGS") or "mappings"),))
    tests, failures = 0, 0
    for file in files:
        source = configuration.load_source(file, os.environ)
        for problem in source.problems:
            click.echo(str(problem))
        failures += sum(problem.severity is Severity.ERROR for problem in source.problems)
        if source.mapping is None:
            failures += not source.problems
            continue
        for result in checks.run_tests(source.mapping, _loader(file)):
            tests += 1
            if result.difference is not None:
                failures += 1
                click.echo(f"{result.where}: error test-failed: {result.name}\n{result.difference}")
    click.echo(f"{count(len(files), 'file')}, {count(tests, 'test')}: {count(failures, 'error')}")
    sys.exit(1 if failures else 0)


@click.command(name="translate")
@click.argument("mapping", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("payload", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--headers", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A JSON file of headers."
)
@click.option("--query", multiple=True, metavar="K=V", help="A parameter of the URL's query.")
@click.option("--http", is_flag=True, help="Print the exact requests instead of the calls.")
@plain_errors
def translate_command(
    mapping: Path, payload: Path, headers: Path | None, query: tuple[str, ...], http: bool
) -> None:
    """Print the calls that a mapping makes of a payload, as JSON. Nothing is sent.

    PAYLOAD is a file with the body of a webhook, or - for standard input.
    """
    source = configuration.load_source(mapping, os.environ)
    if source.mapping is None:
        raise click.ClickException("\n".join(map(str, source.problems)) or str(source.closed))
    event = _event(source.name, payload, headers, query)
    translation = translate(source.mapping, event)
    if translation.problem is not None:
        raise click.ClickException(str(translation.problem))
    if translation.reason is not None:
        click.echo(f"ignored: {translation.reason}", err=True)
    connections = configuration.load(os.environ).connections if http else {}
    shown = [
        _request(each, connections) if http else calls.as_json(each.call) for each in translation.planned
    ]
    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def _files(paths: tuple[Path, ...]) -> list[Path]:
    return [
        file for path in paths for file in (configuration.mapping_files(path) if path.is_dir() else [path])
    ]


def _loader(file: Path) -> Callable[[str], JSON]:
    def load(name: str) -> JSON:
        return _read_payload(file.parent / name, "")

    return load


def _read_payload(path: Path, content_type: str) -> JSON:
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return payloads.decode(body, content_type)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise ConfigError(f"{path}: {error}") from error


def _event(source: str, payload: Path, headers: Path | None, query: tuple[str, ...]) -> Event:
    read = _read_payload(headers, "") if headers is not None else {}
    given = read if isinstance(read, dict) else {}
    # A file may hold the headers themselves, or headers and query as a captured request has them.
    sent = given["headers"] if isinstance(given.get("headers"), dict) else given
    assert isinstance(sent, dict)
    names = {name.lower(): str(value) for name, value in sent.items()}
    parameters: dict[str, str] = {}
    if isinstance(captured := given.get("query"), dict):
        parameters = {name: str(value) for name, value in captured.items()}
    parameters.update(each.partition("=")[::2] for each in query)
    return Event(
        source=source,
        key="translate",
        payload=_read_payload(payload, names.get("content-type", "")),
        headers=names,
        query=parameters,
        received_at=int(time.time()),
    )


def _request(planned: Planned, connections: Mapping[str, Connection]) -> dict[str, Any]:
    connection = connections.get(planned.connection) or Connection(
        name=planned.connection, site_id="", api_key=""
    )
    request = wire.request(planned.sealed)
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
