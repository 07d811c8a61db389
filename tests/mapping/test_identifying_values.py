"""What tells webhooks, events, people and objects apart is neither the same for all of them nor lacks a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.errors import MappingError
from gateway.mapping.compiler import parse
from gateway.mapping.expressions import compile_expression
from gateway.mapping.model import SPECS
from gateway.verify import schemes
from tests.support.cases import read_rows

ROWS = read_rows(Path(__file__).with_name("identifying_values.txt"))
FILE = """\
version: 1
source: shop
verify: none
event_key: none
let:
  good: =user.id
  fixed: guest
  fallback: =user.id || 'guest'
  joined: =join('-', [a, b])
  object: {id: =user.id, kind: shop}
tables:
  known: {a: "1", b: "2"}
  plans: {a: "1", "*": "0"}
events:
  "*":
    - KEY
"""
#: Where such a value stands; % is its expression.
PLACES = {
    "event_key": "event_key: %",
    "event_id": "{call: track, id: =id, name: x, event_id: %}",
    **{name: f"{{call: track, name: x, {name}: %}}" for name in SPECS["track"].identifiers},
    "default": "defaults: {id: %}",
    "into": "{call: merge, into: {id: %}, from: {id: =id}}",
    "from": "{call: merge, into: {id: =id}, from: {email: %}}",
    "token": "{call: delete_device, id: =id, token: %}",
    "object_id": "{call: delete_object, object_type_id: 1, object_id: %}",
    "people": "{call: identify_object, object_type_id: 1, object_id: =id, people: [{id: %}]}",
    "objects": "{call: add_relationships, id: =id, objects: [{object_type_id: 1, object_id: %}]}",
    "form_id": "{call: submit_form, id: =id, form_id: %}",
    "people, in an expression": "{call: identify_object, object_type_id: 1, object_id: =id, people: PEOPLE}",
}


def codes(place: str, expression: str) -> set[str]:
    """The codes of the errors when an expression stands at a place."""
    text = PLACES[place].replace("%", json.dumps(f"={expression}"))
    text = text.replace("PEOPLE", json.dumps(f"=items[].{{id: {expression}}}"))
    if text.startswith("event_key"):
        file = FILE.replace("event_key: none", text).replace("KEY", "{call: destroy, id: =id}")
    elif text.startswith("defaults"):
        file = f"{FILE.replace('KEY', '{call: destroy}')}{text}\n"
    else:
        file = FILE.replace("KEY", text)
    try:
        parse(file, "m.yaml")
    except MappingError as error:
        return {problem.code for problem in error.problems}
    return set()


@pytest.mark.parametrize(("expression", "verdict"), ROWS)
def test_an_expression_tells_webhooks_apart_or_is_refused(expression: str, verdict: str) -> None:
    assert codes("event_id", expression) == ({verdict} if verdict != "good" else set())


@pytest.mark.parametrize("place", PLACES)
def test_every_key_and_identifier_is_checked(place: str) -> None:
    assert codes(place, "join('-', ['x', y])") == {"lossy-text"}
    assert codes(place, "format('x-{}', y)") == set()
    # A form is named by its author, who may choose between several too.
    assert codes(place, "'x'") == codes(place, "y || 'x'") == (set() if place == "form_id" else {"same-for-all"})


@pytest.mark.parametrize("value", ["event_type: =join('.', [type, action])", "x-type: 1"])
def test_an_event_type_may_be_joined(value: str) -> None:
    parse(f"{FILE.replace('KEY', '{call: destroy, id: =id}')}{value}\n", "m.yaml")


def test_the_event_keys_of_the_schemes_keep_the_same_rule() -> None:
    keys = {name: scheme.event_key for name, scheme in schemes().items() if scheme.event_key}
    for name, key in keys.items():
        origins = compile_expression(key.removeprefix("=")).origins
        assert (origins.lossy, origins.file, origins.webhook) == ((), False, True), name
