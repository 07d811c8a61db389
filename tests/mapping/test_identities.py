"""Identities, lanes and stored texts stay as they have been since the first version.

Databases contain them: a different one would send a call twice, or put it into another lane.
So events of identities.yaml and entries of identities.json are added, and never changed. (Once the hash of an
`event_id` took in person and name: the ULIDs of such calls changed, and no identity did.)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.customerio.calls import from_json
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.translate import Translation, translate

HERE = Path(__file__)
MAPPING = HERE.with_name("identities.yaml").read_text(encoding="utf-8")
KEY = hashlib.sha256(b"webhook-1").hexdigest()
PINNED = json.loads(HERE.with_name("identities.json").read_text(encoding="utf-8"))
USER: JSON = {"id": "42", "email": "Ann@Example.com"}


def translated(payload: dict[str, JSON]) -> Translation:
    mapping, warnings = parse(MAPPING, "shop.yaml")
    assert warnings == []
    event = Event(source="shop", key=KEY, payload=payload, headers={}, query={}, received_at=1767225600)
    return translate(mapping, event)


@pytest.mark.parametrize("pinned", PINNED)
def test_a_webhook_gives_the_same_calls_as_ever(pinned: dict[str, Any]) -> None:
    planned = translated(pinned["payload"]).planned
    calls = [{"identity": call.identity.hex(), "lanes": [*call.lanes], "text": call.text} for call in planned]
    assert calls == pinned["calls"]


@pytest.mark.parametrize("pinned", PINNED)
def test_a_stored_text_is_read_back_as_the_call_that_is_sent(pinned: dict[str, Any]) -> None:
    for planned in translated(pinned["payload"]).planned:
        assert from_json(json.loads(planned.text)) == planned.sealed


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"k": "\ud83d"}, "holds text that is not valid Unicode"),
        ({"k": "\ud83d\ude00"}, "holds text that is not valid Unicode"),
        ({"x\ude00": 1}, "holds text that is not valid Unicode"),
        ({"x": [-(10**5_000)]}, "holds a number that JSON cannot write"),
        ({"x": {"y": float("nan")}}, "holds a number that JSON cannot write"),
        ({"x": "é" * 50_000}, "is 100038 bytes of JSON; Customer.io takes 100000: choose with pick(…)"),
    ],
)
def test_a_call_that_cannot_be_sent_is_refused_with_the_same_problem_as_ever(attributes: JSON, problem: str) -> None:
    translation = translated({"type": "whole", "user": USER, "o": attributes})
    assert str(translation.problem) == f"shop.yaml:34:19: attributes: {problem}"


@pytest.mark.parametrize("attributes", [{"x": "é" * 49_900}, {"x": "\\ud800"}, {"x": "\U0001f600"}])
def test_a_call_that_only_looks_too_large_or_cut_off_is_sent(attributes: JSON) -> None:
    assert len(translated({"type": "whole", "user": USER, "o": attributes}).planned) == 1
