"""doctor: check everything that webhooks and deliveries need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import environment_of, mappings_option, plain_errors
from gateway.config import Config
from gateway.customerio.client import Client
from gateway.errors import ConfigError, Severity, StoreError
from gateway.receive.sources import list_unused, load_sources
from gateway.store.schema import require_schema


@click.command()
@mappings_option
@plain_errors
def doctor(mappings: Path | None) -> None:
    """Check the environment, the database, the mappings, the secrets and the connections."""
    environ = environment_of(mappings, None)
    findings = list(_check(environ))
    for good, text in findings:
        click.echo(f"{'ok     ' if good else 'PROBLEM'}  {text}")
    sys.exit(0 if all(good for good, _ in findings) else 1)


def _check(environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    try:
        config = configuration.load(environ)
    except ConfigError as error:
        yield from ((False, line) for line in str(error).splitlines())
        return
    yield True, "environment"
    yield _check_database(config)
    yield from _check_sources(config, environ)
    if not config.connections:
        yield False, "Customer.io: CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set"
    client = Client(config.connections)
    for name, connection in config.connections.items():
        probe = client.probe(name)
        yield probe.cause is None, f"Customer.io connection {name}: {probe.reason or connection.region}"
    client.close()


def _check_database(config: Config) -> tuple[bool, str]:
    if config.embedded and not Path(config.database_url.removeprefix("sqlite:///")).exists():
        return True, "database: SQLite; gateway serve will create it"
    try:
        with open_database(config) as database:
            return True, f"database: {database.engine.dialect.name}, schema {require_schema(database)}"
    except StoreError as error:
        return False, f"database: {error}"


def _check_sources(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    try:
        sources = load_sources(config.mappings, environ)
    except ConfigError as error:
        yield False, f"mappings: {error}"
        return
    for source in sources.values():
        for problem in source.problems:
            yield problem.severity is not Severity.ERROR, str(problem)
        if source.closed is None:
            doubt = source.doubt
            yield doubt is None, f"source {source.name}: {doubt or source.file}"
        elif not source.is_unused:
            yield False, f"source {source.name}: closed: {source.closed}"
    if unused := list_unused(sources.values()):
        yield True, unused
