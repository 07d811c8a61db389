"""What anybody can send without a secret, in bounds, to a server on this machine.

    python -m bench.attacks NAME PORT SECONDS

The benchmarks run each attack as a process of its own, so that it does not slow their clocks. It prints a line when it
begins, and in the end how many answers of each status it got (0: none) as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.harness import http_post
from gateway.config import DEFAULT_MAX_BODY
from gateway.payload import FORM

#: Seconds after which an attack that was told to end is killed.
PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Clients that send the same request again and again.

    Attributes:
        request: Makes the request. An incomplete one is held open until the server closes the connection.
        clients: How many there are.
        every: Seconds between two requests of a client, or as long as an answer takes if that is longer.
    """

    request: Callable[[], bytes]
    clients: int
    every: float


def _announced_body() -> bytes:
    return http_post("/hooks/github", b"", {"Content-Length": str(DEFAULT_MAX_BODY)})


def _long_headers() -> bytes:
    """Return 3.2 MB of headers."""
    return http_post("/hooks/github", b"{}", {f"X-{number}": "x" * 32_000 for number in range(95)})


def _packed_form() -> bytes:
    """Return a form of a few kilobytes that unpacks to a megabyte of escapes, with a signature of the right shape."""
    form = b"&".join(b"%41" * 345 + b"=%d" % number for number in range(990))
    proof = base64.b64encode(b"x" * 20).decode()
    headers = {"Content-Type": FORM, "Content-Encoding": "gzip", "X-Twilio-Signature": proof}
    return http_post("/hooks/twilio", gzip.compress(form[:DEFAULT_MAX_BODY]), headers)


ATTACKS = {
    "slow bodies": Attack(request=_announced_body, clients=1_000, every=1.0),
    "long headers": Attack(request=_long_headers, clients=8, every=1.0),
    "packed forms": Attack(request=_packed_form, clients=4, every=0.18),
    "readyz": Attack(request=lambda: b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", clients=600, every=2.0),
    "malformed": Attack(request=lambda: b"G\x00T / HTTP/1.1\r\n\r\n", clients=8, every=0.02),
}


@contextmanager
def running(name: str | None, port: int, seconds: float) -> Iterator[Counter[int]]:
    """Run an attack beside the block, and yield the answers by status, which are known when the block has ended."""
    answers: Counter[int] = Counter()
    if name is None:
        yield answers
        return
    command = [sys.executable, "-m", "bench.attacks", name, str(port), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield answers
        printed, _ = process.communicate(timeout=seconds + PATIENCE)
        answers.update({int(status): number for status, number in json.loads(printed).items()})
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def run(attack: Attack, port: int, seconds: float) -> Counter[int]:
    """Attack for some seconds; return the answers by status."""
    request, answers = attack.request(), Counter[int]()
    print("begins", flush=True)
    ends = time.monotonic() + seconds

    async def send_again_and_again(number: int) -> None:
        await asyncio.sleep(attack.every * number / attack.clients)
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (began := time.monotonic()) < ends:
            try:
                async with asyncio.timeout(ends - began):
                    connection = connection or await asyncio.open_connection("127.0.0.1", port)
                    connection[1].write(request)
                    await connection[1].drain()
                    status, is_kept = await _read_answer(connection[0])
            except (OSError, EOFError, TimeoutError):
                status, is_kept = 0, False
            answers[status] += 1
            if not is_kept and connection is not None:
                connection[1].transport.abort()
                connection = None
            await asyncio.sleep(max(began + attack.every - time.monotonic(), 0.0))
        if connection is not None:
            connection[1].transport.abort()

    await asyncio.gather(*map(send_again_and_again, range(attack.clients)))
    return answers


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return the status of an answer, and whether the connection can be used again."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].split(maxsplit=1)
    await reader.readexactly(int(length[0]) if length else 0)
    return int(head[9:12]), b"connection: close" not in head


def main() -> None:
    """Run one attack and print its answers."""
    name, port, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(run(ATTACKS[name], int(port), float(seconds)))))


if __name__ == "__main__":
    main()
