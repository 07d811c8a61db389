"""Run the tests that a mapping file holds, the same way for `gateway check` and for pytest."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from gateway.customerio.calls import as_json
from gateway.errors import GatewayError, Location
from gateway.event import JSON, Event
from gateway.mapping.model import SPECS, MappingFile, MappingTest
from gateway.mapping.translate import Translation, translate


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """How one test of a mapping file went; *difference* is None when it passed."""

    __test__: ClassVar[bool] = False  # pytest would take the name for a class of tests

    name: str
    where: Location
    difference: str | None


def run_tests(mapping: MappingFile, load: Callable[[str], JSON]) -> list[TestResult]:
    """Run all tests of a mapping file; *load* gives the decoded body of a `payload` by its name in the test.

    What *load* raises as OSError, ValueError or GatewayError fails the test and no more.
    """
    return [
        TestResult(name=test.name, where=test.where, difference=_run(mapping, test, load)) for test in mapping.tests
    ]


def _run(mapping: MappingFile, test: MappingTest, load: Callable[[str], JSON]) -> str | None:
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
    if got.problem is not None and not any("error" in each for each in test.expect):
        return f"expected {len(test.expect)} calls, got an error:\n{got.problem}"
    expected = [_comparable(each) for each in test.expect]
    found = [each for part in got.parts or (got,) for each in _outcome(part)]
    actual = [_as_expected(each, wanted) for each, wanted in zip_longest(found, expected[: len(found)])]
    lines = _lines(expected), _lines(actual)
    if lines[0] == lines[1]:
        return None
    difference = "\n".join(difflib.unified_diff(*lines, "expected", "got", n=1_000, lineterm=""))
    return difference if got.reason is None else f"{difference}\nignored: {got.reason}"


def _outcome(part: Translation) -> list[dict[str, JSON]]:
    if part.problem is not None:
        return [{"error": str(part.problem)}]
    return [_comparable(as_json(planned.call)) for planned in part.planned]


def _as_expected(found: dict[str, JSON], wanted: dict[str, JSON] | None) -> dict[str, JSON]:
    """Take an error for the text that is expected of it, if that is in it."""
    if wanted is not None and "error" in found and "error" in wanted:
        return wanted if str(wanted["error"]) in str(found["error"]) else found
    return found


def _error_difference(error: str, got: Translation) -> str | None:
    if got.problem is None:
        calls = json.dumps([as_json(planned.call) for planned in got.planned], ensure_ascii=False, indent=2)
        return f"expected an error with {error!r}, got {got.status}:\n{calls}"
    if error not in str(got.problem):
        return f"expected an error with {error!r}, got:\n{got.problem}"
    return None


def _comparable(call: dict[str, JSON]) -> dict[str, JSON]:
    """Put a call in the one form that equal calls share: no attributes is the same as none written."""
    spec = SPECS.get(str(call.get("call")))
    order = [name for name in ("call", *(spec.keys if spec else ())) if name in call]
    names = [*order, *sorted(call.keys() - set(order))]
    return {name: _plain(call[name]) for name in names if name != "attributes" or call["attributes"] != {}}


def _plain(value: JSON) -> JSON:
    """Make 10.0 the 10 that it equals; as JSON text, unlike in Python, true stays apart from 1."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in sorted(value.items())}
    return value


def _lines(calls: Sequence[JSON]) -> list[str]:
    return json.dumps(calls, ensure_ascii=False, indent=2).splitlines()
