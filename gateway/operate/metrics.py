"""GET /metrics: how the gateway is, as Prometheus reads it. It is read from the database, for all processes alike.

Anybody may ask, so it tells numbers and the names of connections, and nothing out of a webhook.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import Connection, func, select

from gateway.errors import StoreError
from gateway.operate.backlog import Backlog, Backlogs
from gateway.store.database import Database, reading
from gateway.store.gevent_support import run_in_native_thread
from gateway.store.notices import KINDS
from gateway.store.tables import IS_OPEN, connections, notices, refusals

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

log = logging.getLogger(__name__)

metrics = Blueprint("metrics", __name__)


@metrics.get("/metrics")
def metrics_page() -> Response:
    """Return all metrics as text."""
    try:
        return Response(current_app.extensions["metrics"].text(), content_type=CONTENT_TYPE)
    except StoreError as error:
        log.error("no metrics: %s", error)
        return Response("the database does not answer\n", 503, content_type="text/plain; charset=utf-8")


class Metrics:
    """The metrics of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backlogs = Backlogs(database)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Give all metrics as text.

        Raises:
            StoreError: The database cannot be used.
        """
        return run_in_native_thread(lambda: generate_latest(self._registry))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name nothing: the registry would read the database for it."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Read the metrics, for the registry."""
        with reading(self._database) as connection:
            yield from _of_backlog(self._backlogs.read(connection))
            yield _paused(connection)
            yield _open_notices(connection)
            yield _refused(connection)


def _of_backlog(backlog: Backlog) -> Iterator[GaugeMetricFamily]:
    waiting = GaugeMetricFamily(
        "gateway_deliveries",
        "Deliveries that are not settled (parked, pending) or that failed, by status.",
        labels=["status"],
    )
    for status, number in (
        ("parked", backlog.parked),
        ("pending", backlog.pending),
        ("failed", backlog.failed),
    ):
        waiting.add_metric([status], number)
    yield waiting
    yield GaugeMetricFamily(
        "gateway_oldest_unsettled_seconds",
        "For how long the delivery that waits longest has been waiting; 0 when none waits.",
        value=backlog.oldest,
    )


def _paused(connection: Connection) -> GaugeMetricFamily:
    paused = GaugeMetricFamily(
        "gateway_connection_paused",
        "1 while nothing is sent over a connection, with the cause; 0 while all is well.",
        labels=["connection", "region", "cause"],
    )
    asked = select(connections.c.connection, connections.c.region, connections.c.cause)
    for row in connection.execute(asked.order_by(connections.c.connection, connections.c.region)):
        paused.add_metric([row.connection, row.region, row.cause or ""], 0 if row.cause is None else 1)
    return paused


def _refused(connection: Connection) -> CounterMetricFamily:
    return CounterMetricFamily(
        "gateway_webhooks_refused",
        "Webhooks that were refused: unproven, of another network, or of a closed source; counted in steps.",
        value=connection.scalar(select(func.coalesce(func.sum(refusals.c.times), 0))),
    )


def _open_notices(connection: Connection) -> GaugeMetricFamily:
    told = GaugeMetricFamily("gateway_notices_open", "Notices that have begun and not ended, by kind.", labels=["kind"])
    asked = select(notices.c.kind, func.count().label("number")).where(IS_OPEN).group_by(notices.c.kind)
    numbers = {row.kind: row.number for row in connection.execute(asked)}
    for kind in KINDS:
        told.add_metric([kind], numbers.get(kind, 0))
    return told
