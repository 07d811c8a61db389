"""gunicorn's settings, in one place: `gunicorn -c python:gateway.serving 'gateway.app:create_app()'`."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

# gunicorn reads every name of this module that is the name of a setting, and `config` is one: import names only.
from gateway.config import DEFAULT_MAX_BODY, listen_address, load
from gateway.errors import ConfigError
from gateway.receive.sources import list_unused, load_sources

bind = "{}:{}".format(*listen_address(os.environ))
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "gateway.receive.connections.Worker"
worker_connections = 1000
# Seconds; less than the 30 that Heroku allows for a request, and for a process to stop.
timeout = 25
graceful_timeout = 20
# A process that stops waits this long for idle connections.
keepalive = 5
# Each process touches a heartbeat file; on a disk that could block.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a directory, not a file of ours
# No header of a proxy may change the path of a request.
forwarder_headers = ""
# Nothing here uses this second way in.
control_socket_disable = True
# gunicorn would answer 400 to a larger header; verification answers 401 to a signature of any size.
limit_request_field_size = 32_768
logger_class = "gateway.receive.access_log.AccessLogger"
# Used only with --access-logfile.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(M)sms'


def when_ready(server: Any) -> None:
    """Log once, in the parent process, which sources are open and which are closed."""
    try:
        settings = load(os.environ)
        sources = load_sources(settings.mappings, os.environ)
    except ConfigError as error:
        server.log.error("%s", error)
        return
    for source in sources.values():
        for problem in source.problems:
            server.log.warning("%s", problem)
        if source.closed is None:
            server.log.info("source %s is open: POST %s", source.name, source.path)
        elif not source.is_unused:
            server.log.warning("source %s is closed: %s", source.name, source.closed)
    if unused := list_unused(sources.values()):
        server.log.info("%s", unused)


def post_worker_init(worker: Any) -> None:
    """Prepare a process that has loaded the application."""
    # Keep the garbage collector from examining again and again what is loaded once.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    # A daemon thread (under gevent a greenlet) does not delay the end of the process.
    sources = worker.wsgi.extensions["sources"]
    threading.Thread(target=sources.keep_current, args=(threading.Event(),), name="mapping files", daemon=True).start()


def pre_request(_worker: Any, req: Any) -> None:
    """Let other requests run first, and close the connection after a body that may not be read to its end."""
    # Without this, under gevent, a sender whose next request is always there would never give up its turn.
    time.sleep(0)
    # If GATEWAY_MAX_BODY is larger, this only closes the connections of larger bodies without need.
    length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "0")
    chunked = any(name == "TRANSFER-ENCODING" for name, _ in req.headers)
    if chunked or int(length) > DEFAULT_MAX_BODY:
        req.force_close()
    req.unreader.sock.begin_body(req, None if chunked else int(length))


def post_request(_worker: Any, req: Any, environ: dict[str, Any], _resp: Any) -> None:
    """Read on for a while after a refused body: closing at once resets the connection, and the answer is lost."""
    if req.must_close and (connection := environ.get("gunicorn.socket")) is not None:
        connection.linger()
