"""What an answer means, as tables: whether it is one at all, what it complains of, and how long it asks to wait."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio.response import (
    MAX_DEBUG_BODY,
    MAX_REASON,
    Response,
    attempt_of,
    attempt_without_answer,
    reason_of,
)
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

NOW = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
NO_JSON = "the answer is not Customer.io's JSON: something else answers at this address"
DEEP = b"[" * 100_000 + b"]" * 100_000
REDIRECTED = "redirected, so the region is probably wrong"


def get(response_type: str = "json", *, debug: bool = False) -> HttpRequest:
    return HttpRequest(method="GET", path="/api/v1/x?id=1", response_type=response_type, debug=debug)


def answered(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, request: HttpRequest | None = None
) -> Attempt:
    response = Response(status=status, body=body, headers=headers or {})
    return attempt_of(request or get(), response, at=NOW - 2, seconds=1.5, now=NOW)


def errors(*listed: object) -> bytes:
    return json.dumps({"errors": list(listed)}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        # {"meta":{"error":"…"}}
        (400, b'{"meta":{"error":"id attribute must be present"}}', "id attribute must be present"),
        (401, b'{"meta":{"error":"Unauthorized"}}', "Unauthorized"),
        (400, b'{"meta":{"error":null}}', None),
        (400, b'{"meta":{"error":7}}', "7"),
        # {"meta":{"errors":["…"]}}
        (400, b'{"meta":{"errors":["a","b"]}}', "a; b"),
        (400, b'{"meta":{"error":"a","errors":["b",null,""]}}', "a; b"),
        (400, b'{"meta":{"errors":"a"}}', None),
        (400, b'{"meta":["a"]}', None),
        # {"errors":[{"reason":"…","field":"…","message":"…"}]}
        (400, errors({"reason": "required", "field": "name", "message": "is blank"}), "name: required: is blank"),
        (400, errors({"reason": "a", "message": "b"}, {"field": "c"}), "a: b; c"),
        (400, errors({"field": "name", "reason": "invalid", "message": "invalid"}), "name: invalid"),
        (400, errors({"detail": "wrong datacenter", "status": "301"}), "wrong datacenter"),
        (400, errors("a", None, 7, {}), "a; 7"),
        (400, b'{"errors":{"a":1}}', None),
        # neither
        (400, b"", None),
        (500, b"{}", None),
        (502, b"<html><h1>Bad Gateway</h1></html>", NO_JSON),
        (400, b'["a"]', NO_JSON),
        (400, b"null", NO_JSON),
        (400, b'{"meta":{"error":"cut o', NO_JSON),
        (400, b'{"meta":{"error":"\xff"}}', NO_JSON),
        (400, DEEP, NO_JSON),
        (400, b'{"meta":' + b"9" * 5_000 + b"}", NO_JSON),
        (400, b'\xef\xbb\xbf{"meta":{"error":"a"}}', "a"),
        # one line, for logs and a database that takes no NUL
        (400, b'{"meta":{"error":"a\\nb\\u0000\\u001b[2J\\ud800"}}', "a\ufffdb\ufffd\ufffd[2J\ufffd"),
        # what stands in a redirect is not to be believed
        (301, errors({"detail": "wrong datacenter"}), REDIRECTED),
    ],
)
def test_every_shape_of_error_becomes_one_line(status: int, body: bytes, reason: str | None) -> None:
    line = f"HTTP {status}" if reason is None else f"HTTP {status}: {reason}"
    assert answered(status, body).reason == line
    assert reason_of(Response(status=status, body=body, headers={})) == line


@pytest.mark.parametrize(
    "body",
    [
        b'{"meta":{"error":"' + b"x" * 5_000 + b'"}}',
        b'{"meta":{"errors":["' + b'xxxx","' * 5_000 + b'x"]}}',
        errors({"field": "name", "message": "x" * 5_000}),
    ],
)
def test_a_long_reason_is_cut(body: bytes) -> None:
    reason = answered(400, body).reason or ""
    assert (len(reason), reason[:10], reason[-1]) == (MAX_REASON, "HTTP 400: ", "x")


@given(st.integers(100, 599), st.binary(max_size=60) | st.sampled_from([b"{}", b"", b"null", errors({})]))
def test_any_answer_is_an_attempt(status: int, body: bytes) -> None:
    attempt = answered(status, body)
    assert (attempt.status, attempt.at, attempt.seconds) == (status, NOW - 2, 1.5)
    assert attempt.reason is None or attempt.reason.isprintable()


@pytest.mark.parametrize(
    ("status", "body", "response_type", "understood", "reason"),
    [
        (200, b"{}", "json", True, None),
        (200, b"{}\n", "json", True, None),
        (200, b"", "json", True, None),
        (204, b"", "json", True, None),
        (200, b"<html>Welcome to the airport</html>", "json", False, f"HTTP 200: {NO_JSON}"),
        (200, b"[]", "json", False, f"HTTP 200: {NO_JSON}"),
        (200, DEEP, "json", False, f"HTTP 200: {NO_JSON}"),
        (200, b"<html>", "text", True, None),
        (200, b"\xff\x00", "binary", True, None),
        (400, b"<html>", "json", False, f"HTTP 400: {NO_JSON}"),
        (400, b"<html>", "text", True, "HTTP 400"),
        (400, b"\xff\x00", "binary", True, "HTTP 400"),
        (400, b'{"meta":{"error":"a"}}', "text", True, "HTTP 400: a"),
        (500, b"oops", "text", True, "HTTP 500"),
        (302, b"", "json", True, f"HTTP 302: {REDIRECTED}"),
        (101, b"", "json", True, "HTTP 101"),
    ],
)
def test_an_answer_is_understood_when_it_has_the_type_that_was_asked_for(
    status: int, body: bytes, response_type: str, understood: bool, reason: str | None
) -> None:
    attempt = answered(status, body, request=get(response_type))
    assert (attempt.understood, attempt.reason, attempt.refused_items) == (understood, reason, {})


def item(index: object, **more: str) -> dict[str, object]:
    return {"batch_index": index, **more}


BLANK = {"field": "name", "reason": "required", "message": "is blank"}


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (errors(item(0, **BLANK)), {0: "HTTP 207: name: required: is blank"}),
        (errors(item(7, message="a"), item(2, message="b")), {7: "HTTP 207: a", 2: "HTTP 207: b"}),
        (errors(item(1, message="a"), item(0), item(1, message="b")), {1: "HTTP 207: a; b", 0: "HTTP 207: refused"}),
        (errors(item(3, message="a\nb")), {3: "HTTP 207: a\ufffdb"}),
        # without a clear list of what was refused, it is not understood
        (b"", {}),
        (b"{}", {}),
        (b"<html>", {}),
        (b"[]", {}),
        (DEEP, {}),
        (b'{"errors":[]}', {}),
        (b'{"errors":null}', {}),
        (b'{"errors":{"batch_index":0}}', {}),
        (errors("a"), {}),
        (errors(BLANK), {}),
        *((errors(item(index)), {}) for index in ("0", 1.0, True, -1, None)),
        (errors(item(0, message="a"), item("1", message="b")), {}),
        (errors(item(0, message="a"), BLANK), {}),
    ],
)
def test_a_207_names_the_items_that_were_refused(body: bytes, refused: dict[int, str]) -> None:
    attempt = answered(207, body)
    assert (attempt.understood, attempt.refused_items) == (bool(refused), refused)
    assert attempt.reason is not None
    assert attempt.reason.startswith("HTTP 207")


def test_the_reason_of_an_item_is_cut_however_often_it_is_named() -> None:
    items = [item(0, message="x" * 200)] * 50 + [item(1, message="y" * 5_000)]
    refused = answered(207, errors(*items)).refused_items
    assert {number: len(reason) for number, reason in refused.items()} == {0: MAX_REASON, 1: MAX_REASON}


def test_only_a_207_is_about_items() -> None:
    assert answered(400, errors(item(0, **BLANK))).refused_items == {}


@pytest.mark.parametrize(
    ("body", "about_call"),
    [
        (b"", False),
        (b"{}", False),
        (b"<html>", False),
        (b'{"meta":{"error":"Not Found"}}', False),
        (errors("a", {"reason": "not_found", "message": "no such path"}), False),
        (errors({"reason": "not_found", "field": "identifiers"}), True),
    ],
)
def test_an_answer_is_about_the_call_when_it_names_a_field(body: bytes, about_call: bool) -> None:
    assert answered(404, body).about_call is about_call


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("86400", 86_400.0),
        ("9" * 9, 999_999_999.0),
        ("9" * 5_000, 999_999_999.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Thu, 01 Jan 2026 01:00:30 +0100", 30.0),
        ("Thursday, 01-Jan-26 00:00:30 GMT", 30.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_635_075_199.0),
        ("", None),
        (" ", None),
        ("soon", None),
        ("-5", None),
        ("+5", None),
        ("7.5", None),
        ("1e3", None),
        ("٧", None),
        ("7, 8", None),
        ("Thu, 32 Jan 2026 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +9999", None),
        # beyond what Python's dates hold
        ("Thu, 01 Jan 99999999999 00:00:00 GMT", None),
        (f"Thu, 01 Jan 2026 00:00:00 +{'9' * 20}", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"retry-after": header}
    assert answered(429, headers=headers).retry_after == seconds


@pytest.fixture
def west_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's clock is set to a zone that is not UTC."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("header", ["Thu Jan  1 00:00:30 2026", "Thu, 01 Jan 2026 00:00:30 -0000"])
def test_a_date_without_a_zone_is_in_utc(header: str, west_of_greenwich: None) -> None:
    assert answered(429, headers={"retry-after": header}).retry_after == 30


DEBUG = """\
POST /api/v1/customers/42/events
Content-Type: application/json

{"name":"Päid"}

HTTP 200
content-type: application/json; charset=utf-8

{}
"""


def test_debug_keeps_the_request_and_its_answer() -> None:
    request = HttpRequest(
        method="POST",
        path="/api/v1/customers/42/events",
        body='{"name":"Päid"}'.encode(),
        headers={"Content-Type": "application/json"},
        debug=True,
    )
    headers = {"content-type": "application/json; charset=utf-8", "set-cookie": "session=s3cret"}
    assert answered(200, b"{}\n", headers, request=request).debug == DEBUG
    unanswered = attempt_without_answer(request, "x", at=NOW, seconds=1.5)
    expected = Attempt(status=None, reason="x", at=NOW, seconds=1.5, debug=DEBUG.partition("\n\nHTTP")[0])
    assert unanswered == expected


def test_without_debug_nothing_of_them_is_kept() -> None:
    assert answered(200, b"{}").debug is None
    assert attempt_without_answer(get(), "x", at=NOW, seconds=1.5).debug is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"\xff\x00\xfe", "\n\n<3 bytes>"),
        (b"x" * MAX_DEBUG_BODY, f"\n\n{'x' * MAX_DEBUG_BODY}"),
        (b"x" * (MAX_DEBUG_BODY + 1), f"\n\n{'x' * MAX_DEBUG_BODY}\n<{MAX_DEBUG_BODY + 1} bytes in all>"),
        # a character that the cut divides is left out
        (
            b"x" + "ü".encode() * MAX_DEBUG_BODY,
            f"\n\nx{'ü' * (MAX_DEBUG_BODY // 2 - 1)}\n<{2 * MAX_DEBUG_BODY + 1} bytes in all>",
        ),
        (b"\xff\xd8\xff\x00" * MAX_DEBUG_BODY, f"\n\n<{4 * MAX_DEBUG_BODY} bytes>"),
    ],
)
def test_debug_cuts_a_long_body_and_shows_only_the_size_of_a_binary_one(body: bytes, text: str) -> None:
    debug = answered(200, body, request=get("binary", debug=True)).debug
    assert debug == f"GET /api/v1/x?id=1\n\nHTTP 200{text}"


def test_a_body_is_read_as_json_and_as_text() -> None:
    assert Response(status=200, body=b'{"a":1}', headers={}).json == {"a": 1}
    assert Response(status=200, body=b"", headers={}).json is None
    assert Response(status=200, body="grüß \xff".encode("latin-1"), headers={}).text == "gr\ufffd\ufffd \ufffd"
