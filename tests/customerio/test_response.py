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
    MAX_REASON,
    MAX_SHOWN,
    Response,
    attempt_of,
    reason_of,
    shown_without_answer,
)
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

NOW = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC
NO_JSON = "the answer is not Customer.io's JSON: something else answers at this address"
DEEP = b"[" * 100_000 + b"]" * 100_000


def asking(response_type: str = "json", *, debug: bool = False) -> HttpRequest:
    return HttpRequest(method="GET", path="/api/v1/x?id=1", response_type=response_type, debug=debug)


def answered(
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    request: HttpRequest | None = None,
) -> Attempt:
    answer = Response(status=status, body=body, headers=headers or {})
    return attempt_of(request or asking(), answer, at=NOW - 2, seconds=1.5, now=NOW)


def errors(*listed: object) -> bytes:
    return json.dumps({"errors": list(listed)}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        # {"meta":{"error":"…"}}
        (400, b'{"meta":{"error":"id attribute must be present"}}', "HTTP 400: id attribute must be present"),
        (401, b'{"meta":{"error":"Unauthorized"}}', "HTTP 401: Unauthorized"),
        (400, b'{"meta":{"error":null}}', "HTTP 400"),
        (400, b'{"meta":{"error":7}}', "HTTP 400: 7"),
        # {"meta":{"errors":["…"]}}
        (400, b'{"meta":{"errors":["a","b"]}}', "HTTP 400: a; b"),
        (400, b'{"meta":{"error":"a","errors":["b",null,""]}}', "HTTP 400: a; b"),
        (400, b'{"meta":{"errors":"a"}}', "HTTP 400"),
        (400, b'{"meta":["a"]}', "HTTP 400"),
        # {"errors":[{"reason":"…","field":"…","message":"…"}]}
        (
            400,
            errors({"reason": "required", "field": "name", "message": "is blank"}),
            "HTTP 400: name: required: is blank",
        ),
        (400, errors({"reason": "a", "message": "b"}, {"field": "c"}), "HTTP 400: a: b; c"),
        (
            400,
            errors({"field": "name", "reason": "invalid", "message": "invalid"}),
            "HTTP 400: name: invalid",
        ),
        (400, errors({"detail": "wrong datacenter", "status": "301"}), "HTTP 400: wrong datacenter"),
        (400, errors("a", None, 7, {}), "HTTP 400: a; 7"),
        (400, b'{"errors":{"a":1}}', "HTTP 400"),
        # neither
        (400, b"", "HTTP 400"),
        (500, b"{}", "HTTP 500"),
        (502, b"<html><h1>Bad Gateway</h1></html>", f"HTTP 502: {NO_JSON}"),
        (400, b'["a"]', f"HTTP 400: {NO_JSON}"),
        (400, b"null", f"HTTP 400: {NO_JSON}"),
        (400, b'{"meta":{"error":"cut o', f"HTTP 400: {NO_JSON}"),
        (400, b'{"meta":{"error":"\xff"}}', f"HTTP 400: {NO_JSON}"),
        (400, DEEP, f"HTTP 400: {NO_JSON}"),
        (400, b'{"meta":' + b"9" * 5_000 + b"}", f"HTTP 400: {NO_JSON}"),
        (400, b'\xef\xbb\xbf{"meta":{"error":"a"}}', "HTTP 400: a"),
        # one line, for logs and a database that takes no NUL
        (
            400,
            b'{"meta":{"error":"a\\nb\\u0000\\u001b[2J\\ud800"}}',
            "HTTP 400: a\ufffdb\ufffd\ufffd[2J\ufffd",
        ),
        # a redirect says nothing that is to be believed
        (
            301,
            errors({"detail": "wrong datacenter"}),
            "HTTP 301: redirected, so the region is probably wrong",
        ),
    ],
)
def test_every_shape_of_error_becomes_one_line(status: int, body: bytes, reason: str) -> None:
    assert answered(status, body).reason == reason
    assert reason_of(Response(status=status, body=body, headers={})) == reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"meta":{"error":"' + b"x" * 5_000 + b'"}}',
        b'{"meta":{"errors":["' + b'xxxx","' * 5_000 + b'x"]}}',
        errors({"field": "name", "message": "x" * 5_000}),
    ],
)
def test_a_long_reason_is_cut(body: bytes) -> None:
    reason = answered(400, body).reason
    assert reason is not None
    assert len(reason) == MAX_REASON
    assert reason.startswith("HTTP 400: ")
    assert reason.endswith("x")


@given(st.integers(100, 599), st.binary(max_size=60) | st.sampled_from([b"{}", b"", b"null", errors({})]))
def test_whatever_is_answered_is_an_attempt(status: int, body: bytes) -> None:
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
        (302, b"", "json", True, "HTTP 302: redirected, so the region is probably wrong"),
        pytest.param(101, b"", "json", True, "HTTP 101"),
    ],
)
def test_an_answer_is_understood_when_it_is_what_was_asked_for(
    status: int, body: bytes, response_type: str, understood: bool, reason: str | None
) -> None:
    attempt = answered(status, body, request=asking(response_type))
    assert (attempt.understood, attempt.reason, attempt.refused_items) == (understood, reason, {})


def told(index: object, **more: str) -> dict[str, object]:
    return {"batch_index": index, **more}


BLANK = {"field": "name", "reason": "required", "message": "is blank"}


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (errors(told(0, **BLANK)), {0: "HTTP 207: name: required: is blank"}),
        (errors(told(7, message="a"), told(2, message="b")), {7: "HTTP 207: a", 2: "HTTP 207: b"}),
        (errors(told(1, message="a"), told(0), told(1, message="b")), {1: "HTTP 207: a; b", 0: "HTTP 207: refused"}),
        (errors(told(3, message="a\nb")), {3: "HTTP 207: a\ufffdb"}),
    ],
)  # fmt: skip
def test_a_207_tells_which_items_were_refused_and_why(body: bytes, refused: dict[int, str]) -> None:
    attempt = answered(207, body)
    assert (attempt.understood, attempt.refused_items) == (True, refused)
    assert attempt.reason is not None
    assert attempt.reason.startswith("HTTP 207")


def test_what_is_said_of_one_item_is_cut_however_often_it_is_said() -> None:
    items = [told(0, message="x" * 200)] * 50 + [told(1, message="y" * 5_000)]
    refused = answered(207, errors(*items)).refused_items
    assert {number: len(reason) for number, reason in refused.items()} == {0: MAX_REASON, 1: MAX_REASON}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html>",
        b"[]",
        DEEP,
        b'{"errors":[]}',
        b'{"errors":null}',
        b'{"errors":{"batch_index":0}}',
        errors("a"),
        errors(BLANK),
        errors(told("0")),
        errors(told(1.0)),
        errors(told(True)),
        errors(told(-1)),
        errors(told(None)),
        errors(told(0, message="a"), told("1", message="b")),
        errors(told(0, message="a"), BLANK),
    ],
)
def test_a_207_that_does_not_tell_for_certain_is_not_understood(body: bytes) -> None:
    attempt = answered(207, body)
    assert (attempt.understood, attempt.refused_items) == (False, {})
    assert attempt.reason is not None


def test_only_a_207_is_about_items() -> None:
    assert answered(400, errors(told(0, **BLANK))).refused_items == {}


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
def test_a_date_without_a_zone_is_one_of_greenwich(header: str, west_of_greenwich: None) -> None:
    assert answered(429, headers={"retry-after": header}).retry_after == 30


@pytest.mark.parametrize("header", ["Thu, 01 Jan 99999999999 00:00:00 GMT", f"Thu, 01 Jan 2026 00:00:00 +{'9' * 20}"])
def test_a_retry_after_beyond_all_time_is_no_time(header: str) -> None:
    assert answered(503, headers={"retry-after": header}).retry_after is None


SHOWN = """\
POST /api/v1/customers/42/events
Content-Type: application/json

{"name":"Päid"}

HTTP 200
content-type: application/json; charset=utf-8

{}
"""


def test_a_request_and_its_answer_are_shown_where_the_request_asks_for_it() -> None:
    request = HttpRequest(
        method="POST",
        path="/api/v1/customers/42/events",
        body='{"name":"Päid"}'.encode(),
        headers={"Content-Type": "application/json"},
        debug=True,
    )
    headers = {"content-type": "application/json; charset=utf-8", "set-cookie": "session=s3cret"}
    assert answered(200, b"{}\n", headers, request=request).debug == SHOWN
    assert shown_without_answer(request) == SHOWN.partition("\n\nHTTP")[0]


def test_nothing_is_shown_where_nobody_asks() -> None:
    assert answered(200, b"{}").debug is None
    assert shown_without_answer(asking()) is None


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "GET /api/v1/x?id=1\n\nHTTP 200"),
        (b"\xff\x00\xfe", "GET /api/v1/x?id=1\n\nHTTP 200\n\n<3 bytes>"),
        (b"x" * MAX_SHOWN, f"GET /api/v1/x?id=1\n\nHTTP 200\n\n{'x' * MAX_SHOWN}"),
        (
            b"x" * (MAX_SHOWN + 1),
            f"GET /api/v1/x?id=1\n\nHTTP 200\n\n{'x' * MAX_SHOWN}\n<{MAX_SHOWN + 1} bytes in all>",
        ),
        # a character that the cut divides is left out
        (
            b"x" + "ü".encode() * MAX_SHOWN,
            f"GET /api/v1/x?id=1\n\nHTTP 200\n\nx{'ü' * (MAX_SHOWN // 2 - 1)}\n<{2 * MAX_SHOWN + 1} bytes in all>",
        ),
        (b"\xff\xd8\xff\x00" * MAX_SHOWN, f"GET /api/v1/x?id=1\n\nHTTP 200\n\n<{4 * MAX_SHOWN} bytes>"),
    ],
)
def test_of_a_body_that_is_long_or_no_text_no_more_is_shown_than_helps(body: bytes, shown: str) -> None:
    assert answered(200, body, request=asking("binary", debug=True)).debug == shown


def test_an_answers_body_is_read_as_json_and_as_text() -> None:
    assert Response(status=200, body=b'{"a":1}', headers={}).json == {"a": 1}
    assert Response(status=200, body=b"", headers={}).json is None
    assert Response(status=200, body="grüß \xff".encode("latin-1"), headers={}).text == "gr\ufffd\ufffd \ufffd"
