"""The commands, each in the module of its subject."""

from __future__ import annotations

import click

from gateway import __version__
from gateway.app import configure_logging
from gateway.cli.checking import check
from gateway.cli.deliveries import deliveries
from gateway.cli.doctor import doctor
from gateway.cli.drafting import new
from gateway.cli.events import events
from gateway.cli.ingest import ingest
from gateway.cli.reference import functions
from gateway.cli.running import migrate_command, serve, worker
from gateway.cli.schema import schema
from gateway.cli.sending import destroy, identify, page, request, track
from gateway.cli.translating import translate_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Turn webhooks into Customer.io calls: each one arrives, once, in order."""
    configure_logging()


for command in (
    *(serve, worker, migrate_command, new, check, translate_command, doctor, events, deliveries, ingest),
    *(identify, track, page, destroy, request, schema, functions),
):
    main.add_command(command)
