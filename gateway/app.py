"""The web side: a Flask application that receives webhooks and tells how it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from gateway import config as configuration
from gateway.errors import StoreError, defect
from gateway.logs import configure_logging
from gateway.operate.metrics import CONTENT_TYPE, Metrics
from gateway.receive.refusals import Kept, Refusals, Told
from gateway.receive.sources import Sources
from gateway.receive.view import WRONG_METHOD, Arrived, Receiver, Taken, translate_and_record
from gateway.store import Store
from gateway.store.database import OTHER_SCHEMA, Database, connect
from gateway.store.group_commit import GroupCommit
from gateway.store.schema import require_schema

log = logging.getLogger(__name__)

_HTTP_ERRORS = {
    404: "there is nothing at this address; webhooks are posted to /hooks/<source>",
    405: WRONG_METHOD,
}


def create_app(environ: Mapping[str, str] | None = None, *, database: Database | None = None) -> Flask:
    """Make the application from the environment. Nothing is opened or started before the first request.

    Args:
        database: Used instead of the one that the environment names.

    Raises:
        ConfigError: The environment cannot be used.
    """
    environ = os.environ if environ is None else environ
    configure_logging()
    config = configuration.load(environ)
    sources = Sources(config.mappings, environ)
    database = database or connect(config.database_url)
    store = Store(database)
    writer: GroupCommit[Arrived, Taken] = GroupCommit(partial(translate_and_record, store.record), then=store.wake)
    kept: GroupCommit[Told, None] = GroupCommit(Kept(database).add)
    app = Flask("gateway")
    app.extensions["writer"], app.extensions["refusals"] = (
        writer,
        kept,
    )  # for whoever made the application to close
    app.extensions["sources"] = sources  # for whoever runs it to keep current
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
    hooks = Receiver(config, sources, writer, Refusals(kept.write), unexpected=_unexpected_error)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/hooks": hooks})  # type: ignore[method-assign]  # as Flask asks
    _add_health(app, database)
    _add_metrics(app, database)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    return app


def _add_health(app: Flask, database: Database) -> None:
    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"ok": True}

    @app.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        try:
            require_schema(database)
        except StoreError as error:
            # Anybody may ask, and how the database is reached is not for anybody.
            said = OTHER_SCHEMA if str(error) == OTHER_SCHEMA else "the database does not answer"
            return {"ok": False, "error": said}, 503
        return {"ok": True}, 200


def _add_metrics(app: Flask, database: Database) -> None:
    told = Metrics(database)

    @app.get("/metrics")
    def metrics() -> Response:
        try:
            return Response(told.text(), content_type=CONTENT_TYPE)
        except StoreError as error:
            log.error("no metrics: %s", error)
            return Response("the database does not answer\n", 503, content_type="text/plain; charset=utf-8")


def _http_error(error: HTTPException) -> tuple[dict[str, Any], int, list[tuple[str, str]]]:
    headers = [(name, value) for name, value in error.get_headers() if name == "Allow"]
    said = _HTTP_ERRORS.get(error.code or 500) or error.name
    return {"error": said}, error.code or 500, headers


def _unexpected_error(error: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
    """A defect of ours: the sender keeps the webhook, and the log names the place but no value."""
    log.error("%s", defect(error))
    return (
        {"error": "an error of the gateway's own; send the webhook again later"},
        503,
        {"Retry-After": "60"},
    )
