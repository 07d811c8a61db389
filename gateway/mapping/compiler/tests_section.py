"""Compile `tests`: the calls that a file expects of example webhooks. Everything in it is data, not expressions."""

from __future__ import annotations

import json

from gateway.customerio.calls import CALLS
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import Diagnostics
from gateway.mapping.model import MappingTest
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar
from gateway.text import arrival_problem

#: When the webhook of a test arrives, unless the test says otherwise: 2026-01-01 in unix seconds.
TEST_RECEIVED_AT = 1767225600
#: The keys of a test.
TEST_KEYS = ("name", "body", "payload", "headers", "query", "received_at", "expect")


def read_tests(top: ObjectNode, diagnostics: Diagnostics) -> tuple[MappingTest, ...]:
    """Compile the tests of a file."""
    node = top.get("tests")
    if isinstance(node, ListNode):
        tests = [_read_test(item, diagnostics) for item in node.items]
        return tuple(test for test in tests if test is not None)
    diagnostics.refuse_unless_absent(node, "'tests' must be a list: each starts with '- name: …'")
    return ()


def _read_test(node: Node, diagnostics: Diagnostics) -> MappingTest | None:
    if not isinstance(node, ObjectNode):
        diagnostics.error(node.location, "test", "a test must be an object that starts with  name: …")
        return None
    diagnostics.refuse_unknown_keys(node, TEST_KEYS, "in a test")
    name, body, payload = node.get("name"), node.get("body"), node.get("payload")
    if name is None:
        diagnostics.error(node.location, "test", "a test needs a 'name' that says what it shows")
    if (body is None) == (payload is None):
        diagnostics.error(node.location, "test", "a test needs either 'body', or 'payload' with the name of a file")
    time, received_at = node.get("received_at"), TEST_RECEIVED_AT
    if isinstance(time, Scalar) and type(time.value) is int:
        received_at = time.value
    else:
        diagnostics.refuse_unless_absent(time, "'received_at' must be whole unix seconds")
    expect, error = _read_expectation(node, diagnostics)
    return MappingTest(
        location=node.location,
        name="" if name is None else _read_text(name, "name", diagnostics),
        body=None if body is None else yaml_nodes.plain(body),
        payload=None if payload is None else _read_text(payload, "payload", diagnostics),
        headers=_read_headers(node, diagnostics),
        query=_read_texts(node, "query", diagnostics),
        received_at=received_at,
        expect=expect,
        error=error,
    )


def _read_text(node: Node, name: str, diagnostics: Diagnostics) -> str:
    """Read text; a number or a boolean is taken as it is written."""
    if isinstance(node, Scalar) and node.value is not None:
        return node.value if isinstance(node.value, str) else json.dumps(node.value)
    diagnostics.refuse_unless_absent(node, f"'{name}' must be text", "test")
    return ""


def _read_texts(node: ObjectNode, name: str, diagnostics: Diagnostics) -> dict[str, str]:
    entries = diagnostics.entries_of(node.get(name), f"'{name}' must be an object of names and texts")
    return {str(key.value): _read_text(value, str(key.value), diagnostics) for key, value in entries}


def _read_headers(node: ObjectNode, diagnostics: Diagnostics) -> dict[str, str]:
    headers = node.get("headers")
    for key, _ in headers.entries if isinstance(headers, ObjectNode) else ():
        if problem := arrival_problem(str(key.value)):
            diagnostics.error(key.location, "header-name", problem)
    return _read_texts(node, "headers", diagnostics)


_EXPECT = "'expect' must be a list of calls ([] for none), or {error: text}"


def _read_expectation(
    node: ObjectNode, diagnostics: Diagnostics
) -> tuple[tuple[dict[str, JSON], ...] | None, str | None]:
    """Read `expect`: the calls, or None and the text of the error with which the whole event fails."""
    match node.get("expect"):
        case None:
            text = "a test needs 'expect': a list of calls ([] for none), or {error: text}"
            diagnostics.error(node.location, "test", text)
        case ListNode() as calls:
            return tuple(_read_expected_call(item, diagnostics) for item in calls.items), None
        case ObjectNode() as failure:
            hint = "; a list of calls starts each with '- call: …'"
            diagnostics.refuse_unknown_keys(failure, ("error",), "in 'expect'", hint)
            if not failure.entries:
                diagnostics.error(failure.location, "test", _EXPECT)
            error = failure.get("error")
            return None, "" if error is None else _read_text(error, "error", diagnostics)
        case other:
            diagnostics.refuse_unless_absent(other, _EXPECT)
    return (), None


def _read_expected_call(node: Node, diagnostics: Diagnostics) -> dict[str, JSON]:
    """Read one expected call, or ``{error: text}`` for a part that fails."""
    data = yaml_nodes.plain(node)
    if isinstance(node, ObjectNode) and [key.value for key, _ in node.entries] == ["error"]:
        return {"error": _read_text(node.entries[0][1], "error", diagnostics)}
    if isinstance(data, dict) and isinstance(data.get("call"), str) and data["call"] in CALLS:
        return data
    text = f"an expected call must be an object with  call: {'|'.join(CALLS)}"
    diagnostics.error(node.location, "test", text)
    return {}
