"""The connections of a web process: how long, how slowly and how much a stranger may send before anything is proven.

Each connection has a moment from which on it is behind. Whoever sends a body moves it: each byte by the time that it
may take at `LEAST_RATE`, but never beyond the present. So a connection that stalls and one that is too slow fall
behind, and are cut after some seconds. Where connections or memory run short, those that are behind the most go first.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import gevent
from gunicorn.workers.ggevent import GeventWorker

from gateway.config import DEFAULT_MAX_BODY, load
from gateway.errors import RequestError
from gateway.logs import LogThrottle
from gateway.receive.request import RETRY_AFTER

log = logging.getLogger(__name__)

#: Bytes of a request line and its headers, and lines of them: gunicorn reads each only when all of them are here.
MAX_HEAD, MAX_HEAD_LINES = 65_536, 103
#: Bytes of the trailers of a chunked body, and bytes of chunked bodies that are read in one turn.
MAX_TRAILERS, CHUNKED_STEP = 8_192, 2_048
#: Seconds that one request may be read without a turn for others, and of that turn. `sleep(0)` is none: gevent looks
#: for what has arrived only after a thousand of them.
MAX_TURN, PAUSE = 0.005, 0.0005
#: Bytes of a head and of a body that are read from a connection at once.
HEAD_STEP, STEP = 8_192, 65_536
#: Seconds for a request line and its headers, from their first byte on.
HEAD_SECONDS = 10.0
#: Seconds that a connection may be behind, while it sends a body or reads an answer; bytes a second that keep it even.
PATIENCE, LEAST_RATE = 10.0, 32_768
#: Bytes of requests that are not answered yet, in a process; four of the largest bodies, if that is more.
MAX_HELD = 32 * 1_048_576
#: Shares of the connections and of the bytes: above the first one some are cut, down to the second.
FULL, ROOM = 0.9, 0.8
#: Seconds and bytes that a connection is read after its last answer: closing at once would destroy the answer.
LINGER_SECONDS, LINGER_BYTES = 2.0, 8 * DEFAULT_MAX_BODY
_TOO_LONG = f"the headers are longer than {MAX_HEAD:,} bytes together, or more than 100"
#: File descriptors that are no connections.
_OTHER_FILES = 100

#: Why a connection is cut: the status to answer, and the text.
Reason: TypeAlias = tuple[int, str]
LATE: Reason = (408, "the request came too slowly; send it again")
CROWDED: Reason = (503, "too many requests are being received; send it again later")


class Connections:
    """The open connections of a process, and which of them have to go.

    Args:
        most: Connections at a time.
        max_body: Bytes of a body.
        idle: Seconds that a connection may be open between requests.
        clock: Returns monotonic seconds.
    """

    def __init__(self, most: int, max_body: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.most_held = max(MAX_HELD, 4 * max_body)
        self.max_chunked = 2 * max_body + STEP
        self.idle = idle
        self.clock = clock
        self.held = 0
        self._open: set[Connection] = set()
        self._throttle = LogThrottle(most=1)
        self._unlogged = 0

    def add(self, connection: Connection) -> None:
        """Register a new connection; where nearly all are in use, cut the slowest."""
        self._open.add(connection)
        if len(self._open) > FULL * self.most:
            self._cut(self._slowest()[: int((FULL - ROOM) * self.most) + 1], CROWDED)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        connection.release()
        self._open.discard(connection)

    def hold(self, count: int) -> None:
        """Count bytes that were received; where they are too many, cut the slowest connections that hold some."""
        self.held += count
        if self.held > self.most_held:
            for connection in self._slowest():
                if self.held <= ROOM * self.most_held:
                    return
                if connection.held:
                    self._cut([connection], CROWDED)

    def cut_late(self) -> None:
        """Cut the connections whose time is over."""
        now = self.clock()
        late = [connection for since, connection in self._waiting() if since + connection.patience < now]
        self._cut(late, LATE)

    def _waiting(self) -> list[tuple[float, Connection]]:
        waiting = [(connection.behind_since, connection) for connection in self._open]
        return [(since, connection) for since, connection in waiting if since is not None]

    def _slowest(self) -> list[Connection]:
        return [connection for _, connection in sorted(self._waiting(), key=lambda pair: pair[0])]

    def _cut(self, connections: list[Connection], reason: Reason) -> None:
        for connection in connections:
            if connection.began:
                self._unlogged += 1
            # No longer counted: the next ones are not cut for what is about to be closed.
            self._open.discard(connection)
            connection.cut(reason)
        if self._unlogged and self._throttle.allows("", self.clock()):
            log.warning("%d requests were cut while they were received, the last one: %s", self._unlogged, reason[1])
            self._unlogged = 0


class Connection:
    """The socket of a client, as gunicorn uses it: it reads a head in one piece, and a body no further than its end.

    Attributes:
        behind_since: Since when the client should have sent or read more, in monotonic seconds; None while the
            application works on its request.
        patience: Seconds after which it is cut.
        began: Whether something of the present request has come.
        held: Bytes of the present request.
    """

    def __init__(self, sock: Any, connections: Connections) -> None:
        self._sock = sock
        self._connections = connections
        self._rest = bytearray()
        self._in_body = False
        self._left: int | None = 0
        self._wire_left = 0
        self._turn_began = 0.0
        self._writes = False
        self._request: Any = None
        self._cut_for: Reason | None = None
        self.held = 0
        self.began = False
        self.behind_since: float | None = connections.clock()
        self.patience = connections.idle
        connections.add(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def close(self) -> None:
        """Close the socket, for good."""
        self._connections.remove(self)
        self._sock.close()

    def release(self) -> None:
        """Stop counting the bytes of the present request."""
        self._connections.held -= self.held
        self.held = 0

    def cut(self, reason: Reason) -> None:
        """Wake whoever waits for this connection; a reader raises *reason*, so that it can still be answered."""
        reads = self.began and not self._writes
        self._cut_for = reason
        self.behind_since = None
        self._rest = bytearray()
        self.release()
        self._sock.settimeout(LINGER_SECONDS)  # for its answer
        with contextlib.suppress(OSError):  # the client has left already
            self._sock.shutdown(socket.SHUT_RD if reads else socket.SHUT_RDWR)

    def begin_body(self, request: Any, length: int | None) -> None:
        """Let the body of a request be read, whose head was returned; *length* is None where it is chunked."""
        self._in_body, self._left, self._request = True, length, request
        self._expect_more(PATIENCE)
        self._turn_began = self._connections.clock()
        if length == 0:
            self.behind_since = None
        if length is None:
            self._wire_left = self._connections.max_chunked
            # gunicorn's own limit follows from that of the headers: 3.2 MB.
            request.body.reader.limit_trailer_section = MAX_TRAILERS

    def recv(self, size: int) -> bytes:
        """Return the next head as a whole, or more of the present body; nothing at the end of the connection.

        Raises:
            RequestError: 408, it came too slowly; 503, there was no room for it; 431, its head is too long;
                413, it has too much around its chunks.
        """
        if self._in_body and self._left != 0:
            return self._read_body(size)
        return self._read_head()

    def sendall(self, data: bytes) -> None:
        """Send an answer; a client that does not read it is cut."""
        before = self.behind_since, self.patience
        self._expect_more(PATIENCE)
        self._writes = True
        try:
            self._sock.sendall(data)
        except TimeoutError as error:  # it was cut, and does not read why
            raise BrokenPipeError(errno.EPIPE, "the client does not read") from error
        finally:
            (self.behind_since, self.patience), self._writes = before, False
        # What is left of the body may not be answered once more.
        self.began = False

    def linger(self) -> None:
        """Read on for a while after the last answer, unless the connection was cut."""
        if self._cut_for is not None:
            return
        self.release()
        now = self._connections.clock()
        self.began, left = False, LINGER_BYTES
        self._expect_more(LINGER_SECONDS)
        with contextlib.suppress(OSError):  # the client has left
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(LINGER_SECONDS)
            while left > 0 and self._connections.clock() < now + LINGER_SECONDS:
                received = len(self._sock.recv(STEP))
                if not received:
                    return
                left -= received

    def _read_head(self) -> bytes:
        self.release()
        self._in_body, self.began, head, self._rest = False, bool(self._rest), self._rest, bytearray()
        self._expect_more(HEAD_SECONDS if head else self._connections.idle)
        searched = 0
        if head:  # it was sent before the last answer
            self._hold(len(head))
            gevent.sleep(PAUSE)
        while (end := _end_of_head(head, searched)) < 0:
            if len(head) > MAX_HEAD:
                raise RequestError(431, _TOO_LONG)
            searched = max(0, len(head) - 3)
            received = self._receive(HEAD_STEP)
            if not received:
                return bytes(head)
            if not self.began:
                self.began = True
                self._expect_more(HEAD_SECONDS)
            head += received
        if end > MAX_HEAD or head.count(b"\n", 0, end) > MAX_HEAD_LINES:
            raise RequestError(431, _TOO_LONG)
        self.behind_since = None
        self._rest = head[end:]
        return bytes(head[:end])

    def _read_body(self, size: int) -> bytes:
        size = min(size, CHUNKED_STEP if self._left is None else STEP, size if self._left is None else self._left)
        if self._rest:
            received = bytes(self._rest[:size])
            del self._rest[:size]
        else:
            received = self._receive(size)
        if self._left is None:
            self._wire_left -= len(received)
            if self._wire_left < 0:
                raise RequestError(413, "there is too much around the chunks of the body; send larger chunks")
            # Reading very small chunks costs far more than receiving them.
            if self._connections.clock() - self._turn_began > MAX_TURN:
                gevent.sleep(PAUSE)
                self._turn_began = self._connections.clock()
        else:
            self._left -= len(received)
            if self._left == 0:
                self.behind_since = None
        return received

    def _receive(self, size: int) -> bytes:
        received: bytes = b"" if self._cut_for is not None else self._sock.recv(size)
        if received:
            if self._in_body and self.behind_since is not None:
                self.behind_since = min(self.behind_since + len(received) / LEAST_RATE, self._connections.clock())
            self._hold(len(received))
        if self._cut_for is not None and self.began:
            if self._request is not None:
                self._request.force_close()
                # The error refers to the frames that hold these, until the garbage collector finds it.
                self._request.body.buf, self._request.unreader.buf = io.BytesIO(), io.BytesIO()
            raise RequestError(*self._cut_for)
        return received

    def _expect_more(self, patience: float) -> None:
        self.behind_since, self.patience = self._connections.clock(), patience

    def _hold(self, count: int) -> None:
        self.held += count
        self._connections.hold(count)


def _end_of_head(head: bytearray, searched: int) -> int:
    """Return where a head ends, -1 if it does not. Two bare line feeds end it too: gunicorn refuses them at once."""
    ends = [place + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (place := head.find(mark, searched)) >= 0]
    return min(ends, default=-1)


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's gevent worker, whose connections are bounded."""

    def run(self) -> None:
        """Serve until stopped."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = self.worker_connections
        if files != resource.RLIM_INFINITY:
            most = max(10, min(most, files - _OTHER_FILES))
        self.connections = Connections(most, load(os.environ).max_body, self.cfg.keepalive)
        gevent.spawn(self._cut_late)
        super().run()

    def _cut_late(self) -> None:
        while True:
            gevent.sleep(1.0)
            self.connections.cut_late()

    def timeout_ctx(self) -> contextlib.AbstractContextManager[None]:
        """Return no timeout: a connection has its own."""
        return contextlib.nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve the requests of a connection."""
        connection = Connection(client, self.connections)
        try:
            super().handle(listener, connection, addr)
        finally:
            connection.close()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that cannot be read."""
        if not isinstance(exc, RequestError):
            super().handle_error(req, client, addr, exc)
            return
        body = json.dumps({"error": str(exc)}).encode()
        head = [
            f"HTTP/1.1 {exc.status} {HTTPStatus(exc.status).phrase}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        if exc.status in (408, 503):
            head.append(f"Retry-After: {RETRY_AFTER}")
        with contextlib.suppress(OSError):  # the client has left
            client.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            client.linger()
