"""Run the tests of a mapping file, in the same way for `gateway check` and for pytest."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from gateway import payload
from gateway.customerio.calls import as_json
from gateway.errors import GatewayError, Location
from gateway.event import JSON, Event
from gateway.mapping.model import SPECS, MappingFile, MappingTest
from gateway.mapping.translate import Translation, translate


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """The result of one test of a mapping file; *difference* is None if it passed."""

    __test__: ClassVar[bool] = False  # pytest would collect the class because of its name

    name: str
    location: Location
    difference: str | None


def run_tests(mapping: MappingFile, load: Callable[[str], JSON | bytes]) -> list[TestResult]:
    """Run all tests of a mapping file. *load* returns the body of a test's `payload` by its name, decoded or as bytes.

    An OSError, ValueError or GatewayError of *load* fails that test only.
    """
    results = []
    for test in mapping.tests:
        headers = mapping.verify.scheme.as_received({name.lower(): value for name, value in test.headers.items()})
        try:
            body = test.body if test.payload is None else load(test.payload)
            decoded = _decoded(body, headers, mapping)
        except (OSError, ValueError, GatewayError) as error:
            name = "body" if test.payload is None else f"payload {test.payload}"
            difference: str | None = f"the {name} cannot be read: {error}"
        else:
            event = Event(
                source=mapping.source,
                key="test",
                payload=decoded,
                headers=headers,
                query=test.query,
                received_at=test.received_at,
            )
            difference = _difference(test, translate(mapping, event))
        results.append(TestResult(name=test.name, location=test.location, difference=difference))
    return results


def _decoded(body: JSON | bytes, headers: Mapping[str, str], mapping: MappingFile) -> JSON:
    """Return a body as it is when it is received. With a content type, text in a test is the body as it was sent."""
    if isinstance(body, str) and "content-type" in headers:
        body = body.encode()
    return payload.decode_sent(body, headers, mapping.verify.scheme.json_field) if isinstance(body, bytes) else body


def _difference(test: MappingTest, translation: Translation) -> str | None:
    """Return how a translation differs from what a test expects; None: it does not."""
    problem = translation.problem
    if test.expect is None:
        error = test.error or ""
        if problem is None:
            calls = json.dumps([as_json(planned.call) for planned in translation.planned], ensure_ascii=False, indent=2)
            return f"expected an error with {error!r}, got {translation.status}:\n{calls}"
        return None if error in str(problem) else f"expected an error with {error!r}, got:\n{problem}"
    if problem is not None and not any("error" in item for item in test.expect):
        return f"expected {len(test.expect)} calls, got an error:\n{problem}"

    expected = [_comparable(item) for item in test.expect]
    actual: list[dict[str, JSON]] = []
    for part in translation.parts or (translation,):
        if part.problem is None:
            actual += [_comparable(as_json(planned.call)) for planned in part.planned]
            continue
        # An error is as expected if it contains the expected text.
        item = expected[len(actual)] if len(actual) < len(expected) else {}
        text = str(part.problem)
        actual.append(item if "error" in item and str(item["error"]) in text else {"error": text})
    expected_lines, actual_lines = (
        json.dumps(calls, ensure_ascii=False, indent=2).splitlines() for calls in (expected, actual)
    )
    if expected_lines == actual_lines:
        return None
    lines = difflib.unified_diff(expected_lines, actual_lines, "expected", "got", n=1_000, lineterm="")
    ignored = "" if translation.reason is None else f"\nignored: {translation.reason}"
    return "\n".join(lines) + ignored


def _comparable(call: dict[str, JSON]) -> dict[str, JSON]:
    """Return a call in the form that all equal calls share: empty attributes are left out."""
    spec = SPECS.get(str(call.get("call")))
    order = [name for name in ("call", *(spec.keys if spec else ())) if name in call]
    names = [*order, *sorted(call.keys() - set(order))]
    return {name: _plain(call[name]) for name in names if name != "attributes" or call["attributes"] != {}}


def _plain(value: JSON) -> JSON:
    """Replace 10.0 by 10, which it equals. Texts are compared then, because Python takes true for 1."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in sorted(value.items())}
    return value
