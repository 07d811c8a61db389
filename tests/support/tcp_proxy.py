"""A TCP proxy in a thread that can lose its connections without closing them, delay them, and reset them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType


class TCPProxy:
    """Forwards connections from a port of its own to *target* while its context is entered.

    Attributes:
        port: The port on loopback that it listens on.
        target: The port on loopback that new connections are forwarded to.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallowed: set[socket.socket] = set()
        self._stalled = threading.Event()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> TCPProxy:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        for each in (self._listener, *(end for pair in self._pairs for end in pair)):
            each.close()
        self._selector.close()

    def swallow(self) -> int:
        """Forward nothing more on the connections that are open, and close neither end; return their number."""
        with self._lock:
            self._swallowed.update(end for pair in self._pairs for end in pair)
            return len(self._pairs)

    def stall(self) -> None:
        """Forward nothing on any connection, and accept none, until `resume`."""
        self._stalled.set()

    def resume(self) -> None:
        self._stalled.clear()

    def reset(self) -> None:
        """Reset all connections."""
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._close(pair)
            self._pairs = []

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._stalled.wait(0.0):
                self._closing.wait(0.05)
                continue
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._forward(key.data)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.close()
            return
        self._pairs.append((near, far))
        for pair in ((near, far), (far, near)):
            pair[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(pair[0], selectors.EVENT_READ, pair)

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """Pass on what one end has sent; when it has closed, close both."""
        source, sink = pair
        if source.fileno() == -1:
            return  # reset meanwhile
        received = b""
        with contextlib.suppress(OSError):
            received = source.recv(65_536)
        if source in self._swallowed:
            if not received:
                self._selector.unregister(source)
            return
        with contextlib.suppress(OSError):
            sink.sendall(received)
        if not received:
            self._close(pair)
            self._pairs = [other for other in self._pairs if source not in other]

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        for end in pair:
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            end.close()
