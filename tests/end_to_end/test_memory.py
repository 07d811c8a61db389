"""Memory stays flat under mixed load with edits of the mapping: `pytest -m faults`.

FAULTS_SCALE=1 is five minutes, and 12 an hour.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.gateway_process import GatewayProcess
from tests.support.machine import memory
from tests.support.shop import API_KEY, MAPPING, paid_order, running_gateway, signed
from tests.support.trackapi import Answer, Reply, TrackAPI

pytestmark = pytest.mark.faults

SECONDS = 300 * float(os.environ.get("FAULTS_SCALE") or 1)
#: Webhooks a second, and seconds between two edits of the mapping file.
RATE, EDIT_PAUSE = 60, 3.0
#: What a process may hold at the end, in MiB; and how much more than after a quarter of the time.
MOST = {"web": 75.0, "worker": 80.0}
GROWTH = 1.06


def test_memory_is_flat(tmp_path: Path, database_url: str) -> None:
    one_process = {"WEB_CONCURRENCY": "1"}
    with (
        TrackAPI(site_id="site", api_key=API_KEY) as api,
        running_gateway(tmp_path, database_url, api, environment=one_process) as gateway,
    ):
        api.answer = every_fiftieth_fails()
        early = _memory_after_load(gateway, tmp_path, "first", SECONDS / 4)
        late = _memory_after_load(gateway, tmp_path, "rest", SECONDS * 3 / 4)
        assert gateway.stop() == {"web": 0, "worker": 0}
    too_much = {name: mib for name, mib in late.items() if mib > min(MOST[name], early[name] * GROWTH)}
    assert not too_much, f"{early} MiB after a quarter, {late} at the end"


def _memory_after_load(gateway: GatewayProcess, directory: Path, run: str, seconds: float) -> dict[str, float]:
    """Post what senders and strangers post, edit the mapping, and return what web and worker hold at the end."""
    mapping = directory / "mappings" / "shop.yaml"
    began = time.monotonic()
    edits = itertools.count(1)
    with requests.Session() as session:
        for number, (body, headers) in enumerate(_webhooks(run)):
            if time.monotonic() > began + seconds:
                break
            if number % (RATE * EDIT_PAUSE) == 0:
                mapping.write_text(f"{MAPPING}# edit {next(edits)}\n")
            session.post(f"{gateway.url}/hooks/shop", body, headers=headers, timeout=10)
            time.sleep(max(began + number / RATE - time.monotonic(), 0.0))
    gateway.assert_running()
    return {"web": max(memory(gateway.web.pid)), "worker": max(memory(gateway.worker.pid))}


def _webhooks(run: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield webhooks and their headers: good ones, repeats, failing, unreadable and forged ones, and a large one."""
    for number in itertools.count():
        customer = f"c{number % 500}"
        order = paid_order(customer, number, id=f"{run}-{number}")
        yield order, signed(order)
        match number % 10:
            case 1:
                yield order, signed(order)
            case 3:
                broken = paid_order(customer, number, id=f"{run}-{number}-broken", type="order.broken")
                yield broken, signed(broken)
            case 5:
                yield order[:-1], signed(order[:-1])
            case 7:
                yield order, {"Stripe-Signature": "t=1,v1=00", "Content-Type": "application/json"}
            case 9 if number % 100 == 99:
                large = paid_order(customer, number, id=f"{run}-{number}-large", blob="x" * 500_000)
                yield large, signed(large)


def every_fiftieth_fails() -> Answer:
    """Return an answer function: every fiftieth request is answered 500."""
    numbers = itertools.count(1)
    return lambda _request: Reply(status=500) if next(numbers) % 50 == 0 else None
