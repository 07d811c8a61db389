"""serve, worker and migrate: run the gateway."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import environment_of, mappings_option
from gateway.config import Config
from gateway.customerio.client import DEADLINE, Client, Sender
from gateway.customerio.dry_run import DryRun
from gateway.deliver.worker import LEASE, THREADS, Worker
from gateway.errors import ConfigError
from gateway.operate.alerts.detect import NoticeDetector
from gateway.operate.alerts.post import AlertPoster
from gateway.operate.housekeeping import Task, housekeeping
from gateway.operate.processes import run_together
from gateway.operate.retention import Retention
from gateway.receive.sources import mapping_files
from gateway.store.database import Database
from gateway.store.postgresql import AnswerLimits
from gateway.store.schema import migrate, require_schema

log = logging.getLogger(__name__)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port to listen on.  [PORT, else 8000]")
@click.option("--host", help="The address to listen on.  [0.0.0.0 where PORT is set, else 127.0.0.1]")
@mappings_option
@click.option("--workers", type=click.IntRange(1, 64), help="How many web processes.  [WEB_CONCURRENCY, else 2]")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print each request instead of sending it, on a temporary database whatever DATABASE_URL says.",
)
def serve(port: int | None, host: str | None, mappings: Path | None, workers: int | None, dry_run: bool) -> None:
    """Receive webhooks and deliver calls: web and worker together."""
    temporary = tempfile.TemporaryDirectory(prefix="gateway-dry-run-") if dry_run else nullcontext(None)
    with temporary as directory:
        environ = environment_of(mappings, workers)
        if directory is not None:
            environ["DATABASE_URL"] = f"sqlite:///{directory}/gateway.db"
        config = configuration.load(environ)
        mapping_files(config.mappings)  # fails at once if there are none
        if not dry_run:
            _require_credentials(config)
        address = _free_address(host, port, environ)
        if config.embedded:
            with open_database(config) as database:
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


@click.command()
@click.option("--lease", type=click.FloatRange(min=1), default=LEASE, hidden=True)
def worker(lease: float) -> None:
    """Deliver the calls that are due, until stopped."""
    config = configuration.load(os.environ)
    _require_credentials(config)
    deadline = min(DEADLINE, lease / 2)
    with open_database(config, limits=AnswerLimits()) as database:
        require_schema(database)
        client = Client(config.connections, pool=THREADS, deadline=deadline)
        poster = AlertPoster(database, config.alert_url)
        running = _worker(config, database, client, lease=lease, deadline=deadline)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: running.stop())
        log.info("worker started")
        with housekeeping(_tasks(config, database, poster)):
            running.run()
        poster.close()
        client.close()
    log.info("worker stopped")


@click.command(name="migrate")
def migrate_command() -> None:
    """Create or upgrade the schema of the database."""
    config = configuration.load(os.environ)
    with open_database(config) as database:
        migrate(database)
        click.echo(f"the database's schema is at version {require_schema(database)}")


def _require_credentials(config: Config) -> None:
    if not config.connections:
        raise ConfigError(
            "CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set: in Customer.io they are under Settings >"
            " Account settings > API credentials. To try things out without them: gateway serve --dry-run"
        )


def _free_address(host: str | None, port: int | None, environ: Mapping[str, str]) -> str:
    host, port = configuration.listen_address(environ, host, port)
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
    with open_database(config) as database:
        running = _worker(config, database, DryRun(config.connections), lease=LEASE, deadline=DEADLINE)
        thread = threading.Thread(target=running.run, name="worker")
        thread.start()
        try:
            yield
        finally:
            running.stop()
            thread.join()


def _tasks(config: Config, database: Database, poster: AlertPoster) -> list[Task]:
    """Return what the worker process does beside delivering."""
    retention = Retention(database, config.retention_days, config.retention_failed_days)
    detector = NoticeDetector(database, late_after=config.late_after)

    def delete_old_events(stopping: threading.Event) -> None:
        removed = retention.sweep(stopping)
        if removed.events:
            counts = (removed.events, removed.deliveries, removed.attempts)
            log.info("deleted %d old events with %d deliveries and %d attempts", *counts)
        if removed.failed:
            log.warning("%d of the deleted events had failed, or deliveries of theirs had", removed.failed)

    return [
        Task(name="posting alerts", every=3.0, run=poster.post_due),
        Task(name="detecting late calls and failing mappings", every=15.0, run=lambda _stopping: detector.run()),
        Task(name="deleting old events", every=600.0, run=delete_old_events),
    ]


def _worker(config: Config, database: Database, sender: Sender, *, lease: float, deadline: float) -> Worker:
    policies = {name: connection.policy for name, connection in config.connections.items()}
    rates = {name: connection.rate for name, connection in config.connections.items()}
    identifiers = {name: connection.identifiers for name, connection in config.connections.items()}
    return Worker(
        database, sender, policies=policies, rates=rates, identifiers=identifiers, lease=lease, deadline=deadline
    )
