"""`tests`: what the file itself says that it does."""

from __future__ import annotations

import json

from gateway.customerio.calls import CALLS
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.compiler.diagnostics import (
    Diagnostics,
    entries_of,
    is_empty,
    refuse_unknown_keys,
    refuse_unless_absent,
)
from gateway.mapping.model import MappingTest
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar

# What a mapping's own tests take for the time of receipt unless they say otherwise: 2026-01-01.
TEST_RECEIVED_AT = 1767225600
_TEST = ("name", "body", "payload", "headers", "query", "received_at", "expect")


def read_tests(top: ObjectNode, notes: Diagnostics) -> tuple[MappingTest, ...]:
    node = top.get("tests")
    if isinstance(node, ListNode):
        tests = [_test(item, notes) for item in node.items]
        return tuple(test for test in tests if test is not None)
    refuse_unless_absent(node, "'tests' must be a list: each starts with '- name: …'", notes)
    return ()


def _test(node: Node, notes: Diagnostics) -> MappingTest | None:
    if not isinstance(node, ObjectNode):
        notes.error(node.where, "test", "a test must be an object that starts with  name: …")
        return None
    refuse_unknown_keys(node, _TEST, "in a test", notes)
    body, payload, name = node.get("body"), node.get("payload"), _test_name(node, notes)
    if (body is None) == (payload is None):
        notes.error(node.where, "test", "a test needs either 'body', or 'payload' with the name of a file")
    expect, error = _expectation(node, notes)
    return MappingTest(
        where=node.where,
        name=name,
        body=None if body is None else yaml_nodes.plain(body),
        payload=None if payload is None else _test_text(payload, "payload", notes),
        headers=_test_texts(node, "headers", notes),
        query=_test_texts(node, "query", notes),
        received_at=_test_time(node, notes),
        expect=expect,
        error=error,
    )


def _test_name(node: ObjectNode, notes: Diagnostics) -> str:
    written = node.get("name")
    if written is None:
        notes.error(node.where, "test", "a test needs a 'name' that says what it shows")
        return ""
    return _test_text(written, "name", notes)


def _test_text(node: Node, name: str, notes: Diagnostics) -> str:
    """Read text out of a test, where everything is data: a number or a word is text as it was written."""
    if isinstance(node, Scalar) and node.value is not None:
        return node.value if isinstance(node.value, str) else json.dumps(node.value)
    if not is_empty(node):
        notes.error(node.where, "test", f"'{name}' must be text")
    return ""


def _test_texts(node: ObjectNode, name: str, notes: Diagnostics) -> dict[str, str]:
    entries = entries_of(node.get(name), f"'{name}' must be an object of names and texts", notes)
    return {str(key.value): _test_text(value, str(key.value), notes) for key, value in entries}


def _test_time(node: ObjectNode, notes: Diagnostics) -> int:
    written = node.get("received_at")
    if isinstance(written, Scalar) and type(written.value) is int:
        return written.value
    refuse_unless_absent(written, "'received_at' must be whole unix seconds", notes)
    return TEST_RECEIVED_AT


def _expectation(node: ObjectNode, notes: Diagnostics) -> tuple[tuple[dict[str, JSON], ...] | None, str | None]:
    written = node.get("expect")
    match written:
        case None:
            notes.error(node.where, "test", "a test needs 'expect': a list of calls ([] for none), or {error: text}")
        case ListNode():
            return tuple(_expected_call(item, notes) for item in written.items), None
        case ObjectNode():
            refuse_unknown_keys(
                written, ("error",), "in 'expect'", notes, "; a list of calls starts each with '- call: …'"
            )
            error = written.get("error")
            if not written.entries:
                notes.error(written.where, "test", _EXPECT)
            return None, "" if error is None else _test_text(error, "error", notes)
        case _:
            refuse_unless_absent(written, _EXPECT, notes)
    return (), None


_EXPECT = "'expect' must be a list of calls ([] for none), or {error: text}"


def _expected_call(node: Node, notes: Diagnostics) -> dict[str, JSON]:
    """Read what is expected of one call, or of one part that is to fail: ``{error: text}``."""
    data = yaml_nodes.plain(node)
    if isinstance(node, ObjectNode) and [key.value for key, _ in node.entries] == ["error"]:
        return {"error": _test_text(node.entries[0][1], "error", notes)}
    if isinstance(data, dict) and isinstance(data.get("call"), str) and data["call"] in CALLS:
        return data
    notes.error(node.where, "test", f"an expected call must be an object with  call: {'|'.join(CALLS)}")
    return {}
