"""doctor: check everything that webhooks and deliveries need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import environment_of, mappings_option
from gateway.config import Config
from gateway.customerio.client import Client
from gateway.errors import ConfigError, Severity, StoreError
from gateway.receive.sources import list_unused, load_sources
from gateway.store.schema import require_schema


@click.command()
@mappings_option
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
    if config.missing_file is not None:
        yield True, "database: SQLite; gateway serve will create it"
    else:
        try:
            with open_database(config) as database:
                schema = require_schema(database)
            yield True, f"database: {database.engine.dialect.name}, schema {schema}"
        except StoreError as error:
            yield False, f"database: {error}"
    yield from _check_sources(config, environ)
    if not config.connections:
        yield False, "Customer.io: CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set"
    client = Client(config.connections)
    for name, connection in config.connections.items():
        probe = client.probe(name)
        yield probe.cause is None, f"Customer.io connection {name}: {probe.reason or connection.region}"
    client.close()


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
