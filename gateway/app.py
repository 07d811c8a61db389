"""The Flask application that receives webhooks."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Request, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from gateway import config as configuration
from gateway.errors import defect
from gateway.logs import configure_logging
from gateway.operate.metrics import Metrics, metrics
from gateway.receive.health import health, readiness
from gateway.receive.record import Recorder
from gateway.receive.refusals import RefusalLog
from gateway.receive.reload import Sources
from gateway.receive.repeats import RepeatLog
from gateway.receive.view import Receiver, hooks
from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.postgresql import AnswerLimits

log = logging.getLogger(__name__)

#: By status: what to answer to a request that reached no view.
HTTP_PROBLEMS = {
    404: "there is nothing at this address; webhooks are posted to /hooks/<source>",
    405: "this address does not take that method; webhooks are sent with POST",
}


#: How the path of a webhook may begin: `//hooks/x`, where an address was put together from parts, or `/Hooks//x`.
_HOOKS = re.compile("/*hooks/+", re.IGNORECASE)


class Application(Flask):
    """Flask, which knows a webhook by its path, however that is written, and without a check of the Host header."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match a request by its path alone: a webhook with a Host that is no host name is still a webhook."""
        if request is None:
            return super().create_url_adapter(None)
        path = request.environ["PATH_INFO"]
        hooks = _HOOKS.match(path)
        environ = {"HTTP_HOST": "localhost", "PATH_INFO": f"/hooks/{path[hooks.end() :]}" if hooks else path}
        return self.url_map.bind_to_environ({**request.environ, **environ})


def create_app(
    environ: Mapping[str, str] | None = None,
    *,
    database: Database | None = None,
    clock: Callable[[], float] = time.time,
) -> Flask:
    """Create the application. It opens and starts nothing before the first request, so a process can be forked.

    Args:
        database: Used in place of the one that the environment names.
        clock: Returns the time, in unix seconds.

    Raises:
        ConfigError: The environment cannot be used.
    """
    environ = os.environ if environ is None else environ
    configure_logging()
    config = configuration.load(environ)
    # Anybody may ask for /readyz and /metrics: they have connections of their own, so that webhooks keep theirs.
    watching = database or connect(config.database_url, limits=AnswerLimits())
    database = database or connect(config.database_url, limits=AnswerLimits())
    sources, refusals = Sources(config.mappings, environ), RefusalLog(database)
    recorder, repeats = Recorder(Store(database)), RepeatLog(database)

    app = Application("gateway")
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
    app.url_map.merge_slashes = False  # a secret in a path may contain several in a row
    app.extensions["receiver"] = Receiver(
        config=config, sources=sources, recorder=recorder, refusals=refusals, repeats=repeats, clock=clock
    )
    app.extensions |= {"readiness": readiness(watching), "metrics": Metrics(watching, token=config.metrics_token)}
    # For the owner of the application: to close, and to keep current.
    app.extensions |= {"recorder": recorder, "refusals": refusals, "repeats": repeats, "sources": sources}
    app.extensions |= {"database": database, "watching": watching}
    for blueprint in (hooks, health, metrics):
        app.register_blueprint(blueprint)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unexpected_error)
    return app


def http_error(error: HTTPException) -> tuple[dict[str, Any], int, list[tuple[str, str]]]:
    """Return an error as JSON: with the text of our view that raised it, or one for its status."""
    status = error.code or 500
    if status == 404 and request.endpoint is None and request.method == "POST":
        current_app.extensions["receiver"].log_stray()
    is_our_text = error.description is not None and error.description != type(error).description
    text = error.description if is_our_text else HTTP_PROBLEMS.get(status, error.name)
    headers = [(name, value) for name, value in error.get_headers() if name in ("Allow", "Retry-After")]
    return {"error": text}, status, headers


def unexpected_error(error: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Answer 503, so that the sender tries again. The log names the place but no value, which may be a secret."""
    log.error("%s", defect(error))
    return {"error": "an error of the gateway's own; send the webhook again later"}, 503, {"Retry-After": "60"}
