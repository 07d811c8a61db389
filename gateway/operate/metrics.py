"""GET /metrics: the state of the gateway for Prometheus, read from the database, so the same in every process.

It holds numbers and the names of connections, and nothing from a webhook. Anybody may read it, unless the operator has
set a token.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterator

from flask import Blueprint, Response, current_app, request
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import func, select

from gateway.errors import StoreError
from gateway.operate.backlog import BacklogReader
from gateway.receive.remembered import Remembered
from gateway.store.database import Database, reading
from gateway.store.gevent_support import run_in_native_thread
from gateway.store.notices import KINDS
from gateway.store.tables import IS_OPEN, connections, notices, refusals

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
UNAUTHORIZED = "the metrics need a token: send  Authorization: Bearer <the value of GATEWAY_METRICS_TOKEN>\n"

log = logging.getLogger(__name__)

metrics = Blueprint("metrics", __name__)


@metrics.get("/metrics")
def metrics_page() -> Response:
    """Return all metrics as text, to whom may read them."""
    page: Metrics = current_app.extensions["metrics"]
    if not page.may_be_read(request.headers.get("Authorization", "")):
        headers = {"WWW-Authenticate": "Bearer"}
        return Response(UNAUTHORIZED, 401, headers, content_type="text/plain; charset=utf-8")
    try:
        return Response(page.text(), content_type=CONTENT_TYPE)
    except StoreError as error:
        log.error("no metrics: %s", error)
        return Response("the database does not answer\n", 503, content_type="text/plain; charset=utf-8")


class Metrics:
    """The metrics of one database.

    Args:
        database: Not the one that records webhooks: to read a large backlog takes a second or two.
        token: What readers have to send; None: nothing.
    """

    def __init__(self, database: Database, *, token: str | None = None) -> None:
        self._token = token
        self._page = Remembered(lambda: run_in_native_thread(lambda: generate_latest(self._registry)))
        self._database = database
        self._backlog_reader = BacklogReader(database)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def may_be_read(self, authorization: str) -> bool:
        """Return whether the header Authorization holds the token, if there is one."""
        scheme, _, token = authorization.partition(" ")
        # Constant time: a comparison that stops at the first wrong byte tells how many were right.
        is_right = hmac.compare_digest(token.strip().encode("utf-8", "surrogatepass"), (self._token or "").encode())
        return self._token is None or (scheme.lower() == "bearer" and is_right)

    def text(self) -> bytes:
        """Return all metrics as text, a second old at most.

        Raises:
            StoreError: The database cannot be used.
        """
        return self._page.get()

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
