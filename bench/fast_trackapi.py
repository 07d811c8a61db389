"""A cheap stand-in for Customer.io's Track API: a process of its own that answers every request after the same time.

    python -m bench.fast_trackapi --latency-ms 20

It prints its port, counts the events of v1 and v2 requests, and ends with its standard input. It does not check what
the real API would refuse: `tests.support.trackapi` does, and is far slower.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

#: Bytes; the API takes a batch smaller than 500 kb.
BATCH_LIMIT = 500_000
REGION = {"url": "https://track.customer.io", "region": "us", "environment_id": 1}


@dataclass(kw_only=True)
class Counts:
    """What arrived since the last `reset`.

    Attributes:
        calls: Events; a batch holds many.
        distinct: Different event ids among them.
        refused: Requests that were answered 400.
        cpu_seconds: Processor time of the stand-in since it started.
    """

    requests: int = 0
    calls: int = 0
    distinct: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0


class StandIn:
    """The running stand-in, as a benchmark uses it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def reset(self) -> None:
        """Count from zero again."""
        self._ask("DELETE", "/counts")

    def counts(self) -> Counts:
        """Return what arrived since the last reset."""
        return Counts(**self._ask("GET", "/counts"))

    def wait_for(self, calls: int, seconds: float, interval: float = 0.1) -> Counts:
        """Wait until so many different calls arrived, at most some seconds; return what arrived."""
        deadline = time.monotonic() + seconds
        while (counts := self.counts()).distinct < calls and time.monotonic() < deadline:
            time.sleep(interval)
        return counts

    def require_each_once(self, calls: int) -> None:
        """Require that so many calls arrived, each once."""
        counts = self.counts()
        assert (counts.calls, counts.distinct, counts.refused) == (calls, calls, 0), f"of {calls} calls: {counts}"

    def applied(self) -> dict[str, float]:
        """Return when each event was answered, by its attribute `key`."""
        times: dict[str, float] = self._ask("GET", "/applied")
        return times

    def _ask(self, method: str, path: str) -> Any:
        self._connection.request(method, path)
        return json.load(self._connection.getresponse())


@contextmanager
def running(latency_ms: float) -> Iterator[StandIn]:
    """Run the stand-in until the block ends."""
    command = [sys.executable, "-m", "bench.fast_trackapi", "--latency-ms", str(latency_ms)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        yield StandIn(int(process.stdout.readline()))


def main() -> None:
    """Serve until the standard input ends: also when the benchmark is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=20)
    asyncio.run(_serve(parser.parse_args().latency_ms / 1000))


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    tally, input_ended = _Tally(), asyncio.Event()
    server = await loop.create_server(lambda: _Connection(tally, latency, loop), "127.0.0.1", 0)
    loop.add_reader(sys.stdin, input_ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await input_ended.wait()
    server.close()


class _Tally:
    """Counts events and chooses the answer."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.ids: set[str] = set()
        self.times: dict[str, float] = {}

    def own_answer(self, method: bytes, path: bytes) -> bytes:
        """Answer a question of the benchmark."""
        if method == b"DELETE":
            self.__init__()  # type: ignore[misc]  # start again from nothing
        if path == b"/applied":
            return _http(200, self.times)
        self.counts.distinct, self.counts.cpu_seconds = len(self.ids), time.process_time()
        return _http(200, asdict(self.counts))

    def answer(self, method: bytes, path: bytes, body: bytes, answered_at: float) -> bytes:
        """Count the events of a request of the gateway."""
        counts = self.counts
        counts.requests += 1
        if (method, path) == (b"GET", b"/api/v1/accounts/region"):
            return _http(200, REGION)
        if path == b"/api/v2/batch" and len(body) < BATCH_LIMIT:
            events = json.loads(body)["batch"]
        elif method == b"POST" and _V1_EVENTS.fullmatch(path):
            events = [json.loads(body)]
        else:
            counts.refused += 1
            return _http(400, {"meta": {"error": "the stand-in does not know this request"}})
        counts.calls += len(events)
        for event in events:
            self.ids.add(event["id"])
            attributes = event.get("attributes", event.get("data", {}))
            if "key" in attributes:
                self.times[attributes["key"]] = answered_at
        return _ACCEPTED


_V1_EVENTS = re.compile(rb"/api/v1/(customers/[^/]+/)?events")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One kept-alive connection: as much of HTTP/1.1 as clients use for requests with a Content-Length."""

    def __init__(self, tally: _Tally, latency: float, loop: asyncio.AbstractEventLoop) -> None:
        self._tally = tally
        self._latency = latency
        self._loop = loop
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(b"\r\n\r\n") + 4) >= 4:
            length = _LENGTH.search(self._received, 0, head_end)
            end = head_end + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            method, path, _ = bytes(self._received[:head_end]).split(b" ", 2)
            body = bytes(self._received[head_end:end])
            del self._received[:end]
            if path.startswith(b"/api/"):
                # The latency runs from here on, whatever the answer costs.
                answered_at = self._loop.time() + self._latency
                answer = self._tally.answer(method, path, body, answered_at)
                self._loop.call_at(answered_at, self._write, answer)
            else:
                self._write(self._tally.own_answer(method, path))

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def _http(status: int, content: object) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    head = f"HTTP/1.1 {status} {http.client.responses[status]}\r\nContent-Type: application/json; charset=utf-8"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


_ACCEPTED = _http(200, {})

if __name__ == "__main__":
    main()
