"""`tests`: what the file itself says that it does."""

from __future__ import annotations

import json

from gateway.customerio.calls import CALLS
from gateway.event import JSON
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import (
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
TEST_KEYS = ("name", "body", "payload", "headers", "query", "received_at", "expect")


def read_tests(top: ObjectNode, diagnostics: Diagnostics) -> tuple[MappingTest, ...]:
    node = top.get("tests")
    if isinstance(node, ListNode):
        tests = [_test(item, diagnostics) for item in node.items]
        return tuple(test for test in tests if test is not None)
    refuse_unless_absent(node, "'tests' must be a list: each starts with '- name: …'", diagnostics)
    return ()


def _test(node: Node, diagnostics: Diagnostics) -> MappingTest | None:
    if not isinstance(node, ObjectNode):
        diagnostics.error(node.where, "test", "a test must be an object that starts with  name: …")
        return None
    refuse_unknown_keys(node, TEST_KEYS, "in a test", diagnostics)
    body, payload, name = node.get("body"), node.get("payload"), _test_name(node, diagnostics)
    if (body is None) == (payload is None):
        diagnostics.error(node.where, "test", "a test needs either 'body', or 'payload' with the name of a file")
    expect, error = _expectation(node, diagnostics)
    return MappingTest(
        where=node.where,
        name=name,
        body=None if body is None else yaml_nodes.plain(body),
        payload=None if payload is None else _test_text(payload, "payload", diagnostics),
        headers=_test_texts(node, "headers", diagnostics),
        query=_test_texts(node, "query", diagnostics),
        received_at=_test_time(node, diagnostics),
        expect=expect,
        error=error,
    )


def _test_name(node: ObjectNode, diagnostics: Diagnostics) -> str:
    written = node.get("name")
    if written is None:
        diagnostics.error(node.where, "test", "a test needs a 'name' that says what it shows")
        return ""
    return _test_text(written, "name", diagnostics)


def _test_text(node: Node, name: str, diagnostics: Diagnostics) -> str:
    """Read text out of a test, where everything is data: a number or a word is text as it was written."""
    if isinstance(node, Scalar) and node.value is not None:
        return node.value if isinstance(node.value, str) else json.dumps(node.value)
    if not is_empty(node):
        diagnostics.error(node.where, "test", f"'{name}' must be text")
    return ""


def _test_texts(node: ObjectNode, name: str, diagnostics: Diagnostics) -> dict[str, str]:
    entries = entries_of(node.get(name), f"'{name}' must be an object of names and texts", diagnostics)
    return {str(key.value): _test_text(value, str(key.value), diagnostics) for key, value in entries}


def _test_time(node: ObjectNode, diagnostics: Diagnostics) -> int:
    written = node.get("received_at")
    if isinstance(written, Scalar) and type(written.value) is int:
        return written.value
    refuse_unless_absent(written, "'received_at' must be whole unix seconds", diagnostics)
    return TEST_RECEIVED_AT


def _expectation(node: ObjectNode, diagnostics: Diagnostics) -> tuple[tuple[dict[str, JSON], ...] | None, str | None]:
    written = node.get("expect")
    match written:
        case None:
            diagnostics.error(
                node.where, "test", "a test needs 'expect': a list of calls ([] for none), or {error: text}"
            )
        case ListNode():
            return tuple(_expected_call(item, diagnostics) for item in written.items), None
        case ObjectNode():
            refuse_unknown_keys(
                written, ("error",), "in 'expect'", diagnostics, "; a list of calls starts each with '- call: …'"
            )
            error = written.get("error")
            if not written.entries:
                diagnostics.error(written.where, "test", _EXPECT)
            return None, "" if error is None else _test_text(error, "error", diagnostics)
        case _:
            refuse_unless_absent(written, _EXPECT, diagnostics)
    return (), None


_EXPECT = "'expect' must be a list of calls ([] for none), or {error: text}"


def _expected_call(node: Node, diagnostics: Diagnostics) -> dict[str, JSON]:
    """Read what is expected of one call, or of one part that is to fail: ``{error: text}``."""
    data = yaml_nodes.plain(node)
    if isinstance(node, ObjectNode) and [key.value for key, _ in node.entries] == ["error"]:
        return {"error": _test_text(node.entries[0][1], "error", diagnostics)}
    if isinstance(data, dict) and isinstance(data.get("call"), str) and data["call"] in CALLS:
        return data
    diagnostics.error(node.where, "test", f"an expected call must be an object with  call: {'|'.join(CALLS)}")
    return {}
