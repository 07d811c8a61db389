"""Run the tests that a mapping file holds, the same way for `gateway check` and for pytest."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gateway.calls import as_json
from gateway.errors import GatewayError, Where
from gateway.events import JSON, Event
from gateway.mapping import Mapping, MappingTest
from gateway.translate import Translation, translate


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """How one test of a mapping file went; *difference* is None when it passed."""

    __test__: ClassVar[bool] = False  # pytest would take the name for a class of tests

    name: str
    where: Where
    difference: str | None


def run_tests(mapping: Mapping, load: Callable[[str], JSON]) -> list[TestResult]:
    """Run all tests of a mapping file; *load* gives the decoded body of a `payload` by its name in the test.

    What *load* raises as OSError, ValueError or GatewayError fails the test and no more.
    """
    return [
        TestResult(name=test.name, where=test.where, difference=_run(mapping, test, load))
        for test in mapping.tests
    ]


def _run(mapping: Mapping, test: MappingTest, load: Callable[[str], JSON]) -> str | None:
    try:
        payload = test.body if test.payload is None else load(test.payload)
    except (OSError, ValueError, GatewayError) as error:
        return f"the payload {test.payload} cannot be read: {error}"
    event = Event(
        source=mapping.source,
        key="test",
        payload=payload,
        headers={name.lower(): value for name, value in test.headers.items()},
        query=test.query,
        received_at=test.received_at,
    )
    return _difference(test, translate(mapping, event))


def _difference(test: MappingTest, got: Translation) -> str | None:
    if test.expect is None:
        return _error_difference(test.error or "", got)
    if got.problem is not None:
        return f"expected {len(test.expect)} calls, got an error:\n{got.problem}"
    expected = _lines([_comparable(call) for call in test.expect])
    actual = _lines([_comparable(as_json(planned.call)) for planned in got.planned])
    if expected == actual:
        return None
    difference = "\n".join(difflib.unified_diff(expected, actual, "expected", "got", n=1_000, lineterm=""))
    return difference if got.reason is None else f"{difference}\nignored: {got.reason}"


def _error_difference(error: str, got: Translation) -> str | None:
    if got.problem is None:
        calls = json.dumps([as_json(planned.call) for planned in got.planned], ensure_ascii=False, indent=2)
        return f"expected an error with {error!r}, got {got.status}:\n{calls}"
    if error not in str(got.problem):
        return f"expected an error with {error!r}, got:\n{got.problem}"
    return None


def _comparable(call: dict[str, JSON]) -> JSON:
    """Put a call in the one form that equal calls share: no attributes is the same as none written."""
    return _plain({name: value for name, value in call.items() if name != "attributes" or value != {}})


def _plain(value: JSON) -> JSON:
    """Make 10.0 the 10 that it equals; as JSON text, unlike in Python, true stays apart from 1."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
    return value


def _lines(calls: list[JSON]) -> list[str]:
    return json.dumps(calls, ensure_ascii=False, indent=2, sort_keys=True).splitlines()
