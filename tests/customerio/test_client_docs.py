"""The examples of docs/client.md run, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gateway.config import load
from gateway.customerio.client import Client
from gateway.customerio.connection import Connection
from tests.support.trackapi import TrackAPI

DOCS = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
CREDENTIALS = {"CUSTOMERIO_SITE_ID": "s", "CUSTOMERIO_API_KEY": "k"}


def test_the_programs_run_against_the_stand_in() -> None:
    alone, calls, requests = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    shown = 'site_id="…", api_key="…", region="eu"'
    assert shown in alone
    with TrackAPI() as api:
        usable = f'site_id="site", api_key="key", base_url="{api.url}"'
        exec(alone.replace(shown, usable), {})
        with Client(Connection(site_id="site", api_key="key", base_url=api.url)) as client:
            world: dict[str, Any] = {"client": client, "leavers": ["1", "2"]}
            exec(calls, world)
            assert world["problems"] == [None, None]
            exec(requests, world)
        assert api.refused == []
        assert api.state["suppressed"] == {"id:1", "id:2"}
        kinds = [operation.kind for operation in api.applied("42")]
        assert kinds == ["identify", "event", "page", "add_device", "merge"]


def test_the_variables_are_those_that_are_read() -> None:
    names = set(re.findall(r"`(CUSTOMERIO_(?:RETRY_\w+|RATE))`", DOCS))
    policy = load(CREDENTIALS).connections["default"].policy
    assert {f"CUSTOMERIO_RETRY_{name.upper()}" for name in vars(policy) if name != "delay"} | {
        "CUSTOMERIO_RETRY_DELAY_MS",
        "CUSTOMERIO_RATE",
    } == names
