"""GET /metrics: the state of the gateway for Prometheus, read from the database, so the same in every process.

Anybody may read it: it holds numbers and the names of connections, and nothing from a webhook.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import func, select

from gateway.errors import StoreError
from gateway.operate.backlog import BacklogReader
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
        self._backlog_reader = BacklogReader(database)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all metrics as text.

        Raises:
            StoreError: The database cannot be used.
        """
        return run_in_native_thread(lambda: generate_latest(self._registry))

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Read the metrics, for the registry."""
        with reading(self._database) as connection:
            backlog = self._backlog_reader.read(connection)
            waiting = GaugeMetricFamily(
                "gateway_deliveries",
                "Deliveries that are not settled (parked, pending) or that failed, by status.",
                labels=["status"],
            )
            for status in ("parked", "pending", "failed"):
                waiting.add_metric([status], getattr(backlog, status))
            yield waiting
            yield GaugeMetricFamily(
                "gateway_oldest_unsettled_seconds",
                "Seconds since the delivery that waits longest began to wait; 0 when none waits.",
                value=backlog.oldest,
            )

            paused = GaugeMetricFamily(
                "gateway_connection_paused",
                "1 while a connection is paused, with the cause; else 0.",
                labels=["connection", "region", "cause"],
            )
            columns = (connections.c.connection, connections.c.region, connections.c.cause)
            for row in connection.execute(select(*columns).order_by(columns[0], columns[1])):
                paused.add_metric([row.connection, row.region, row.cause or ""], 0 if row.cause is None else 1)
            yield paused

            open_notices = GaugeMetricFamily("gateway_notices_open", "Open notices by kind.", labels=["kind"])
            count_open = select(notices.c.kind, func.count().label("number")).where(IS_OPEN).group_by(notices.c.kind)
            numbers = {row.kind: row.number for row in connection.execute(count_open)}
            for kind in KINDS:
                open_notices.add_metric([kind], numbers.get(kind, 0))
            yield open_notices

            yield CounterMetricFamily(
                "gateway_webhooks_refused",
                "Webhooks refused: bad signature, unreadable, other network, or closed source; counted in steps.",
                value=connection.scalar(select(func.coalesce(func.sum(refusals.c.times), 0))),
            )
