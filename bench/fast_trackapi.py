"""A stand-in for Customer.io's Track API that costs little: a process of its own, whose every answer takes as long.

    python -m bench.fast_trackapi --latency-ms 20

It prints its port, counts the events that arrive by v1 and by v2, and ends with its standard input. What the real
API would refuse in an event is not looked at: `tests.support.trackapi` does that, and is far slower.
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
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

#: Bytes; the API takes a batch that is smaller than 500 kb.
LARGEST_BATCH = 500_000
REGION = {"url": "https://track.customer.io", "region": "us", "environment_id": 1}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What arrived so far.

    Attributes:
        calls: Events, of which a batch holds many.
        distinct: How many event ids they had.
        refused: Requests that were not answered 200.
        first, last: The monotonic clock, which all processes share, at the first request and at the last.
        processor_seconds: What the stand-in has spent on a processor since it began.
    """

    requests: int
    calls: int
    distinct: int
    refused: int
    first: float
    last: float
    processor_seconds: float


class StandIn:
    """The running stand-in, as a benchmark sees it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def counts(self) -> Counts:
        """Tell what arrived since it was told to forget."""
        return self._ask("GET")

    def forget(self) -> None:
        """Have it count from nothing."""
        self._ask("DELETE")

    def _ask(self, method: str) -> Counts:
        self._connection.request(method, "/count")
        return Counts(**json.load(self._connection.getresponse()))


@contextmanager
def running(latency_ms: float) -> Iterator[StandIn]:
    """Run the stand-in."""
    command = [sys.executable, "-m", "bench.fast_trackapi", "--latency-ms", str(latency_ms)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        yield StandIn(int(process.stdout.readline()))


def main() -> None:
    """Serve until the standard input ends, so also when whoever started it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=20)
    asyncio.run(_serve(parser.parse_args().latency_ms / 1000))


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    api, ended = _API(), asyncio.Event()
    server = await loop.create_server(lambda: _Connection(api, latency, loop), "127.0.0.1", 0)
    loop.add_reader(sys.stdin, ended.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


class _Request(NamedTuple):
    method: bytes
    path: bytes
    body: bytes


@dataclass(kw_only=True)
class _Tally:
    requests: int = 0
    calls: int = 0
    refused: int = 0
    first: float = 0.0
    last: float = 0.0
    ids: set[str] = field(default_factory=set)


class _API:
    """Counts events, and says what is answered."""

    def __init__(self) -> None:
        self._tally = _Tally()

    def answer(self, request: _Request) -> bytes:
        """Count what a request holds."""
        tally, now = self._tally, time.monotonic()
        tally.first = tally.first or now
        tally.last = now
        tally.requests += 1
        if request.method == b"GET" and request.path == b"/api/v1/accounts/region":
            return _answer(200, REGION)
        try:
            ids = _event_ids(request)
        except (ValueError, KeyError, TypeError):
            tally.refused += 1
            return _answer(400, {"meta": {"error": "the stand-in does not know this request"}})
        tally.calls += len(ids)
        tally.ids.update(ids)
        return _TAKEN

    def count(self, request: _Request) -> bytes:
        """Tell the counts, after forgetting them if that is asked for."""
        if request.method == b"DELETE":
            self._tally = _Tally()
        tally = self._tally
        counts = Counts(
            requests=tally.requests,
            calls=tally.calls,
            distinct=len(tally.ids),
            refused=tally.refused,
            first=tally.first,
            last=tally.last,
            processor_seconds=time.process_time(),
        )
        return _answer(200, asdict(counts))


def _event_ids(request: _Request) -> list[str]:
    """Read the ids of the events of a request; what it cannot read it raises."""
    if request.method != b"POST":
        raise ValueError("only events are taken")
    if request.path == b"/api/v2/batch":
        if len(request.body) >= LARGEST_BATCH:
            raise ValueError("the batch is too large")
        return [item["id"] for item in json.loads(request.body)["batch"]]
    if _V1_EVENTS.fullmatch(request.path):
        return [json.loads(request.body)["id"]]
    raise ValueError("no such path")


_V1_EVENTS = re.compile(rb"/api/v1/(customers/[^/]+/)?events")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One connection, kept alive: as much of HTTP/1.1 as clients use for requests with a Content-Length."""

    def __init__(self, api: _API, latency: float, loop: asyncio.AbstractEventLoop) -> None:
        self._api = api
        self._latency = latency
        self._loop = loop
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._next()) is not None:
            if request.path == b"/count":
                self._write(self._api.count(request))
            else:
                # The time runs from here on, whatever the answer costs.
                at = self._loop.time() + self._latency
                self._loop.call_at(at, self._write, self._api.answer(request))

    def _next(self) -> _Request | None:
        """Take a request that has arrived whole."""
        head_ends = self._received.find(b"\r\n\r\n") + 4
        if head_ends < 4:
            return None
        length = _LENGTH.search(self._received, 0, head_ends)
        ends = head_ends + (int(length[1]) if length else 0)
        if len(self._received) < ends:
            return None
        method, path, _ = bytes(self._received[:head_ends]).split(b" ", 2)
        request = _Request(method, path, bytes(self._received[head_ends:ends]))
        del self._received[:ends]
        return request

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def _answer(status: int, content: object) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {http.client.responses[status]}\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_TAKEN = _answer(200, {})

if __name__ == "__main__":
    main()
