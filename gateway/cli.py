"""The commands."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from gateway import __version__, calls, checks, payloads, wire
from gateway import config as configuration
from gateway.app import configure_logging
from gateway.config import Config
from gateway.connections import Connection, variable_prefix
from gateway.customerio import DEADLINE, Client, DryRun, Sender
from gateway.database import Database, connect, migrate, require_schema
from gateway.errors import ConfigError, GatewayError, RequestError, Severity, StoreError
from gateway.events import JSON, Event
from gateway.processes import run_together
from gateway.translate import Planned, translate
from gateway.worker import LEASE, THREADS, Worker

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _plain_errors(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Show our own errors as one message, without a traceback."""

    @wraps(command)
    def shown(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error

    return shown


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Turn webhooks into Customer.io calls: each one arrives, once, in order."""
    configure_logging()


_mappings = click.option(
    "--mappings",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the mapping files are.  [GATEWAY_MAPPINGS, else mappings]",
)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port to listen on.  [PORT, else 8000]")
@click.option("--host", help="The address to listen on.  [0.0.0.0 where PORT is set, else 127.0.0.1]")
@_mappings
@click.option(
    "--workers", type=click.IntRange(1, 64), help="How many web processes.  [WEB_CONCURRENCY, else 2]"
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print each request instead of sending it, on a temporary database whatever DATABASE_URL says.",
)
@_plain_errors
def serve(
    port: int | None, host: str | None, mappings: Path | None, workers: int | None, dry_run: bool
) -> None:
    """Receive webhooks and deliver calls: web and worker together."""
    scratched = tempfile.TemporaryDirectory(prefix="gateway-dry-run-") if dry_run else nullcontext(None)
    with scratched as scratch:
        environ = _environment(mappings, workers)
        if scratch is not None:
            environ["DATABASE_URL"] = f"sqlite:///{scratch}/gateway.db"
        config = configuration.load(environ)
        configuration.mapping_files(config.mappings)  # says at once that there are none
        if not dry_run:
            _require_credentials(config)
        address = _free_address(host, port, environ)
        if config.embedded:
            with _opened(config) as database:
                migrate(database)
        web = [sys.executable, "-m", "gunicorn", "-c", "python:gateway.serving", "--bind", address]
        commands = {"web": [*web, "gateway.app:create_app()"]}
        if dry_run:
            click.echo("dry run: requests are printed here and not sent; stop with Ctrl-C", err=True)
            with _printing_worker(config):
                status = run_together(commands, environ)
        else:
            commands["worker"] = [sys.executable, "-m", "gateway", "worker"]
            status = run_together(commands, environ)
    sys.exit(status)


@main.command()
@click.option("--lease", type=click.FloatRange(min=1), default=LEASE, hidden=True)
@_plain_errors
def worker(lease: float) -> None:
    """Deliver the calls that are due, until stopped."""
    config = configuration.load(os.environ)
    _require_credentials(config)
    deadline = min(DEADLINE, lease / 2)
    with _opened(config) as database:
        require_schema(database)
        client = Client(config.connections, pool=THREADS, deadline=deadline)
        running = _worker(config, database, client, lease=lease, deadline=deadline)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: running.stop())
        log.info("worker started")
        running.run()
        client.close()
    log.info("worker stopped")


@main.command(name="migrate")
@_plain_errors
def migrate_command() -> None:
    """Bring the database's schema to this version's."""
    config = configuration.load(os.environ)
    with _opened(config) as database:
        migrate(database)
        click.echo(f"the database's schema is at version {require_schema(database)}")


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@_plain_errors
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
    click.echo(f"{_count(len(files), 'file')}, {_count(tests, 'test')}: {_count(failures, 'error')}")
    sys.exit(1 if failures else 0)


@main.command(name="translate")
@click.argument("mapping", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("payload", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--headers", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A JSON file of headers."
)
@click.option("--query", multiple=True, metavar="K=V", help="A parameter of the URL's query.")
@click.option("--http", is_flag=True, help="Print the exact requests instead of the calls.")
@_plain_errors
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


@main.command()
@_mappings
@_plain_errors
def doctor(mappings: Path | None) -> None:
    """Examine the environment, the database, the mappings, the secrets and the connections."""
    environ = _environment(mappings, None)
    findings = list(_examine(environ))
    for good, text in findings:
        click.echo(f"{'ok     ' if good else 'PROBLEM'}  {text}")
    sys.exit(0 if all(good for good, _ in findings) else 1)


# serve and worker


def _environment(mappings: Path | None, workers: int | None) -> dict[str, str]:
    """The environment that the options make for the processes that we start."""
    environ = dict(os.environ)
    if mappings is not None:
        environ["GATEWAY_MAPPINGS"] = str(mappings)
    if workers is not None:
        environ["WEB_CONCURRENCY"] = str(workers)
    return environ


@contextmanager
def _opened(config: Config) -> Iterator[Database]:
    database = connect(config.database_url)
    try:
        yield database
    finally:
        database.engine.dispose()


def _require_credentials(config: Config) -> None:
    if not config.connections:
        raise ConfigError(
            "CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set: in Customer.io they are under Settings >"
            " Account settings > API credentials. To try things out without them: gateway serve --dry-run"
        )


def _free_address(host: str | None, port: int | None, environ: Mapping[str, str]) -> str:
    given = environ.get("PORT", "")
    if given and not (given.isascii() and given.isdigit() and 0 < int(given[:6]) < 65_536):
        raise ConfigError("PORT has to be a number from 1 to 65535")
    host = host or ("0.0.0.0" if given else "127.0.0.1")  # noqa: S104  # a platform that gives a port wants it open
    port = port or int(given or configuration.DEFAULT_PORT)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
            ) from error
    return f"{host}:{port}"


@contextmanager
def _printing_worker(config: Config) -> Iterator[None]:
    with _opened(config) as database:
        running = _worker(config, database, DryRun(config.connections), lease=LEASE, deadline=DEADLINE)
        thread = threading.Thread(target=running.run, name="worker")
        thread.start()
        try:
            yield
        finally:
            running.stop()
            thread.join()


def _worker(config: Config, database: Database, sender: Sender, *, lease: float, deadline: float) -> Worker:
    policies = {name: connection.policy for name, connection in config.connections.items()}
    return Worker(database, sender, policies=policies, lease=lease, deadline=deadline)


# check and translate


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


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
        "headers": request.headers,
        "body": None if request.body is None else json.loads(request.body),
    }


# doctor


def _examine(environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    try:
        config = configuration.load(environ)
    except ConfigError as error:
        yield from ((False, line) for line in str(error).splitlines())
        return
    yield True, "environment"
    yield _examine_database(config)
    yield from _examine_sources(config, environ)
    yield from _examine_connections(config)


def _examine_database(config: Config) -> tuple[bool, str]:
    if config.embedded and not Path(config.database_url.removeprefix("sqlite:///")).exists():
        return True, "database: SQLite; gateway serve will make it"
    try:
        with _opened(config) as database:
            return True, f"database: {database.engine.dialect.name}, schema {require_schema(database)}"
    except StoreError as error:
        return False, f"database: {error}"


def _examine_sources(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    try:
        sources = configuration.load_sources(config.mappings, environ)
    except ConfigError as error:
        yield False, f"mappings: {error}"
        return
    for source in sources.values():
        for problem in source.problems:
            yield problem.severity is not Severity.ERROR, str(problem)
        if source.closed is not None:
            yield False, f"source {source.name}: closed: {source.closed}"
        else:
            yield True, f"source {source.name}: {source.file}"


def _examine_connections(config: Config) -> Iterator[tuple[bool, str]]:
    if not config.connections:
        yield False, "Customer.io: CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set"
    client = Client(config.connections)
    for name, connection in config.connections.items():
        region, problem = client.region_of(name)
        if problem is not None:
            yield False, f"Customer.io connection {name}: {problem}"
        elif region != connection.region:
            fix = f"set {variable_prefix(name)}REGION={region}"
            yield False, f"Customer.io connection {name}: the workspace is in {region}; {fix}"
        else:
            yield True, f"Customer.io connection {name}: {region}"
    client.close()
