"""gunicorn's settings, in one place: `gunicorn -c python:gateway.serving 'gateway.app:create_app()'`."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

# By name: whatever stands in this module under the name of a setting is that setting, and `config` is one.
from gateway.config import DEFAULT_MAX_BODY, DEFAULT_PORT, load, load_sources, told_of_unused
from gateway.errors import ConfigError

#: A platform that gives a port wants it served to the outside; a person's own machine does not.
bind = f"0.0.0.0:{os.environ['PORT']}" if os.environ.get("PORT") else f"127.0.0.1:{DEFAULT_PORT}"
workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "gevent"
worker_connections = 1000
# Seconds: less than the 30 that Heroku gives a request and a process that has to end.
timeout = 25
graceful_timeout = 20
# A connection that its sender keeps open without a request holds up the end of a process for as long.
keepalive = 5
# The heartbeat file of each process; on a disk it could block.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a directory, not a file of ours
# Whoever may say for whom a request was forwarded has no say in its path.
forwarder_headers = ""
# A second way in that nothing here uses.
control_socket_disable = True
# A signature of any size is ours to refuse.
limit_request_field_size = 32_768
logger_class = "gateway.receive.access_log.AccessLogger"
# Nothing is logged unless --access-logfile asks for it.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(b)s %(M)sms'

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 8 * DEFAULT_MAX_BODY


def when_ready(server: Any) -> None:
    """Say once, in the process that minds the others, which sources take webhooks and which do not."""
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
    if unused := told_of_unused(sources.values()):
        server.log.info("%s", unused)


def post_worker_init(worker: Any) -> None:
    """Make a process that has loaded the application ready for its webhooks."""
    # Out of the garbage collector's sight: it would look through all that is loaded again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    # Under gevent it is one of its threads; being a daemon, it holds up the end of the process in no case.
    sources = worker.wsgi.extensions["sources"]
    threading.Thread(target=sources.keep_current, args=(threading.Event(),), name="mapping files", daemon=True).start()


def pre_request(_worker: Any, req: Any) -> None:
    """Let all others go on first, and close the connection after a body that we may not read to its end."""
    # A sender whose next request is there at once would not wait for anything, and so keep its turn under gevent.
    time.sleep(0)
    # Where GATEWAY_MAX_BODY is larger, this only means that the connections of larger bodies are not kept.
    length = next((value for name, value in req.headers if name == "CONTENT-LENGTH"), "0")
    chunked = any(name == "TRANSFER-ENCODING" for name, _ in req.headers)
    if chunked or not length.isdigit() or int(length) > DEFAULT_MAX_BODY:
        req.force_close()


def post_request(_worker: Any, req: Any, environ: dict[str, Any], _resp: Any) -> None:
    """Let a sender whose body was refused read the answer: closing at once would reset its connection."""
    connection = environ.get("gunicorn.socket")
    if not req.must_close or connection is None:
        return
    ends, left = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_SECONDS)
        while left > 0 and time.monotonic() < ends:
            received = len(connection.recv(65_536))
            if not received:
                return
            left -= received
    except OSError:
        return  # the sender has gone: there is nobody to answer
