"""Bodies as bytes to JSON: what is decoded, and what is refused, quickly and without quoting it."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload import MAX_FORM_FIELDS, MAX_NESTING, decode, inflate

FORM = "application/x-www-form-urlencoded"


@contextmanager
def refused(status: int, problem: str) -> Iterator[None]:
    with pytest.raises(RequestError) as caught:
        yield
    assert caught.value.status == status
    assert problem in str(caught.value)


@contextmanager
def quickly(seconds: float = 1.0) -> Iterator[None]:
    # Processor time, so that a busy machine fails nothing. The bound is far below what quadratic time would be.
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


# Content types


@pytest.mark.parametrize(
    "content_type",
    [
        *["application/json", "Application/JSON", " application/json ; charset=utf-8", "application/json;"],
        *['application/json; charset="UTF-8"', "application/json; version=1; charset=utf8"],
        *["application/json;charset=us-ascii", "application/cloudevents+json", "application/vnd.api+json; profile=x"],
        *["text/json", "text/plain", "text/plain; charset=utf-8", "", "; charset=utf-8"],
    ],
)
def test_many_content_types_mean_json(content_type: str) -> None:
    assert decode(b'{"a": 1}', content_type) == {"a": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        *["application/xml", "multipart/form-data; boundary=x", "text/html", "json", "+json", "application/+json"],
        *["application/json+xml", "application/json, application/json", "application/x-www-form-urlencoded-not"],
        *["\u0130\x00\ud800", "a/" * 30_000],
    ],
)
def test_another_content_type_is_refused_with_a_list_of_the_supported_ones(content_type: str) -> None:
    with quickly(), refused(415, "application/json, another JSON type (…+json), text/plain"):
        decode(b"{}", content_type)


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-16", '"latin1"', "", "utf-8x"])
@pytest.mark.parametrize("media_type", ["application/json", "text/plain", FORM])
def test_another_charset_is_refused(media_type: str, charset: str) -> None:
    with refused(415, "send UTF-8"):
        decode(b"{}", f"{media_type}; charset={charset}")


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
@pytest.mark.parametrize("content_type", ["application/json", FORM, ""])
def test_an_empty_body_is_refused_as_empty(body: bytes, content_type: str) -> None:
    with refused(400, "the body is empty"):
        decode(body, content_type)


# JSON


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"null", None),
        (b' "text" ', "text"),
        (b"\xef\xbb\xbf[1]", [1]),
        ('{"name": "Zoë 😀"}'.encode(), {"name": "Zoë 😀"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[1e308, -0.0, 1E-400, 12345678901234567890]", [1e308, -0.0, 0.0, 12345678901234567890]),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ud800"', "\ufffd"),
        (b'"\\uDFFF\\uD800x"', "\ufffd\ufffdx"),
        (b'"\\ud83d\\ude00\\ud83d"', "😀\ufffd"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"\\ud800": [{"\\udc00": "\\ud800"}]}', {"\ufffd": [{"\ufffd": "\ufffd"}]}),
        (b'{"\\ud800": 1, "\\ud801": 2}', {"\ufffd": 2}),
        (b'"\\u0000"', "\x00"),
    ],
)
def test_json_is_decoded(body: bytes, expected: JSON) -> None:
    assert decode(body, "application/json") == expected


DEEP, MALFORMED = "more than 64 levels deep", "not valid JSON"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"secret": }', "line 1, column 12"),
        (b'{\n  "a": 1,\n  b: 2}', "line 3, column 3"),
        (b'{"a": 1', "looks cut off"),
        (b'{"a": "hidd', "line 1, column 7"),
        (b"{'a': 1}", "line 1, column 2"),
        (b"[1] [2]", "line 1, column 5"),
        (b"[1,]", "line 1, column"),
        (b"[01]", "line 1, column 3"),
        (b"[+1]", "line 1, column 2"),
        (b"undefined", "line 1, column 1"),
        (b'"\x01"', "line 1, column 2"),
        (b'"\\x"', "line 1, column 2"),
        (b'"\\ud8"', "line 1, column"),
        (b"\xef\xbb\xbf\xef\xbb\xbf1", "line 1, column 1"),
        (b"\xff\xfe1\x00", "not UTF-8 text at byte 1"),
        (b'{"a": "\xe9"}', "not UTF-8 text at byte 8"),
        (b'"\xed\xa0\x80"', "not UTF-8 text at byte 2"),
        (b'"\xc0\x80"', "not UTF-8 text at byte 2"),
        (b"[NaN]", "NaN or Infinity"),
        (b"[Infinity]", "NaN or Infinity"),
        (b"[-Infinity]", "NaN or Infinity"),
        (b"[1e400]", "a number that is too large"),
        (b"[-1e400]", "a number that is too large"),
        (b"[1E+0000400]", "a number that is too large"),
        (b"1" * 400 + b".0", "a number that is too large"),
        (b"1" * 5000, "a number with too many digits"),
        (b"[-" + b"1" * 100_000 + b"]", "a number with too many digits"),
        # the worst brackets and quotes, without recursion
        (b"[" * 100_000, DEEP),
        (b'{"a":' * 100_000, DEEP),
        (b'[{"a":' * 100_000, DEEP),
        (b'["]]]]",' * 100_000, DEEP),
        (b'["\\"]",' * 100_000, DEEP),
        (b"[" * 65 + b"]" * 65, DEEP),
        (b"[]" * 1000 + b"[" * 65, DEEP),
        (b'"[' * 250_000, DEEP),
        (b'"' * 500_000, MALFORMED),
        (b'["' + b"\\" * 500_001, MALFORMED),
        (b"]" * 500_000, MALFORMED),
    ],
)
def test_malformed_json_is_refused_with_its_place(body: bytes, problem: str) -> None:
    with quickly(), refused(400, problem):
        decode(body, "application/json")


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"1") -> bytes:
    return opening * levels + inner + closing * levels


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"}]":', b"}]")])
def test_sixty_four_levels_are_decoded_and_no_more(opening: bytes, closing: bytes) -> None:
    most = MAX_NESTING // (opening.count(b"[") + opening.count(b"{"))

    decode(nested(most, opening, closing), "application/json")
    decode(b'[[], {"a": "["}, ' + nested(MAX_NESTING - 1) + b"]", "application/json")
    with refused(400, "more than 64 levels deep"):
        decode(nested(most + 1, opening, closing), "application/json")


def test_many_brackets_side_by_side_or_in_text_are_not_nesting() -> None:
    wide: JSON = [{"a": []}] * 200
    text: JSON = ['[{"\\', "[" * 200, '\\"' + "{" * 200, "]" * 200, '"[']

    assert decode(json.dumps([wide, text]).encode(), "") == [wide, text]


def depth(value: JSON) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    return 1 + max((depth(item) for item in value), default=0) if isinstance(value, list) else 0


TEXT = st.text(max_size=12) | st.text(st.sampled_from('[]{}"\\:,a'), max_size=12)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES: st.SearchStrategy[JSON] = st.recursive(
    ATOMS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)


@given(value=VALUES, around=st.integers(0, 80), as_object=st.booleans(), ascii_only=st.booleans())
def test_any_json_is_decoded_to_its_value_unless_it_is_too_deep(
    value: JSON, around: int, as_object: bool, ascii_only: bool
) -> None:
    for _ in range(around):
        value = {'"[{\\': value, "]": "}"} if as_object else [value, '"]\\']
    body = json.dumps(value, ensure_ascii=ascii_only).encode()

    if depth(value) > MAX_NESTING:
        with refused(400, "levels deep"):
            decode(body, "application/json")
    else:
        assert decode(body, "application/json") == value


PIECES = [b'"', b"\\", b"[", b"]", b"{", b"}", b":", b",", b"1", b"e999", b"\\ud800", b"=", b"&", b"%", b"a[", b"%ff"]


@given(
    body=st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join),
    content_type=st.sampled_from(["application/json", FORM]) | st.text(max_size=60),
)
def test_any_bytes_are_decoded_to_valid_json_or_refused(body: bytes, content_type: str) -> None:
    try:
        value = decode(body, content_type)
    except RequestError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    assert depth(value) <= MAX_NESTING


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"hunter2": hunter2}', ""),
        (b'{"a": "hunter2', ""),
        (b'"hunter2\xff"', ""),
        (b'{"hunter2": NaN}', ""),
        (b"hunter2=%hunter2", FORM),
        (b"hunter2=%ff", FORM),
        (b"hunter2=1&hunter2[hunter2]=2", FORM),
        (b"1", "hunter2/hunter2"),
        (b"1", "text/plain; charset=hunter2"),
    ],
)
def test_a_refusal_never_quotes_the_body(body: bytes, content_type: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(body, content_type)

    assert "hunter2" not in str(caught.value)


# Forms


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a=1&b=two+words", {"a": "1", "b": "two words"}),
        (b"a=%C3%A9%2B%26%3D&b=\xc3\xa9", {"a": "é+&=", "b": "é"}),
        (b"a=&b&=c&&", {"a": "", "b": "", "": "c"}),
        (b"a=1=2", {"a": "1=2"}),
        (b"a=1&a=2&a=3", {"a": ["1", "2", "3"]}),
        (b"a[]=1", {"a": ["1"]}),
        (b"a[]=1&a[]=2", {"a": ["1", "2"]}),
        (b"a=1&a[]=2", {"a": ["1", "2"]}),
        (b"a[]=1&a=2", {"a": ["1", "2"]}),
        (b"a[b]=1&a[c]=2", {"a": {"b": "1", "c": "2"}}),
        (b"a%5Bb%5D=1", {"a": {"b": "1"}}),
        (b"a[b][c]=1&a[b][d][]=2", {"a": {"b": {"c": "1", "d": ["2"]}}}),
        (b"a[b]=1&a[b]=2", {"a": {"b": ["1", "2"]}}),
        (b"a[0]=x&a[1]=y", {"a": {"0": "x", "1": "y"}}),
        (b"a[][b]=1&a[][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        (b"a[][]=1&a[][]=2", {"a": [["1"], ["2"]]}),
        (b"a[b c]=1", {"a": {"b c": "1"}}),
        (b"a[b=1&a]b=2&x=[c]&a[b]c=4&a[[b]]=5",
         {"a[b": "1", "a]b": "2", "x": "[c]", "a[b]c": "4", "a[[b]]": "5"}),
        (b"\xef\xbb\xbfa=1", {"\ufeffa": "1"}),
        (b"x=%7B%22a%22%3A1%7D", {"x": '{"a":1}'}),
    ],
)  # fmt: skip
def test_a_form_is_an_object_of_text(body: bytes, expected: JSON) -> None:
    assert decode(body, FORM) == expected
    assert decode(body, FORM + "; charset=UTF-8") == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"a=1&b=%", "a % without two hex digits after it at byte 7"),
        (b"a=%4", "a % without two hex digits"),
        (b"a=%zz", "a % without two hex digits"),
        (b"a=%u0041", "a % without two hex digits"),
        (b"%f=1", "a % without two hex digits"),
        (b"a=1&b=%ff", "field 2 of the form is not UTF-8"),
        (b"a=\xff", "field 1 of the form is not UTF-8"),
        (b"%ED%A0%80=1", "field 1 of the form is not UTF-8"),
        (b"a=1&a[b]=2", "field 2 of the form needs an object where an earlier one put text"),
        (b"a[b]=1&a=2", "field 2 of the form needs"),
        (b"a[b]=1&a[]=2", "field 2 of the form needs"),
        (b"a[]=1&a[b]=2", "field 2 of the form needs"),
        (b"a=1&a=2&a[b]=3", "field 3 of the form needs"),
        (b"a[b]=1&a[b][c]=2", "field 2 of the form needs"),
        (b"a" + b"[b]" * MAX_NESTING + b"=1", "nested more than 64 levels deep"),
        (b"a" + b"[]" * MAX_NESTING + b"=1", "nested more than 64 levels deep"),
        (b"&".join([b"a=1"] * (MAX_FORM_FIELDS + 1)), "more than 1000 fields"),
        (b"&" * 1_000_000, "more than 1000 fields"),
        (b"a" + b"[" * 1_000_000, "nested more than 64 levels deep"),
    ],
)
def test_a_malformed_form_is_refused_with_its_place(body: bytes, problem: str) -> None:
    with quickly(), refused(400, problem):
        decode(body, FORM)


@pytest.mark.parametrize("body", [b'{"type": "user.created"}', b' [{"a": 1}]'])
def test_json_sent_as_a_form_is_refused_with_the_fix(body: bytes) -> None:
    with refused(415, "send it as application/json"):
        decode(body, FORM)


def test_a_form_at_the_limits_is_decoded() -> None:
    deepest = decode(b"a" + b"[b]" * (MAX_NESTING - 1) + b"=1", FORM)
    longest = decode(b"&".join([b"a=1"] * MAX_FORM_FIELDS), FORM)

    assert depth(deepest) == MAX_NESTING
    assert longest == {"a": ["1"] * MAX_FORM_FIELDS}


@pytest.mark.parametrize(
    "body",
    [
        b"&".join([b"a" + b"[]" * 63 + b"=1"] * 1000),
        b"&".join([b"a[]=1"] * 1000),
        b"a=" + b"%41" * 300_000,
        b"a" + b"]" * 1_000_000 + b"=1",
        b"a=" + b"+" * 1_000_000,
    ],
)
def test_the_worst_forms_are_decoded_quickly(body: bytes) -> None:
    with quickly():
        decode(body, FORM)


@given(st.dictionaries(st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"])), TEXT, min_size=1))
def test_any_form_is_decoded_to_its_fields(fields: dict[str, str]) -> None:
    body = urlencode(fields).encode()

    if body.strip():
        assert decode(body, FORM) == fields


# gzip


@pytest.mark.parametrize(
    ("packed", "body"),
    [
        (gzip.compress(b"x" * 1000), b"x" * 1000),
        (gzip.compress(b"ab") + gzip.compress(b"") + gzip.compress(b"cd"), b"abcd"),
    ],
    ids=["one member", "several members"],
)
def test_gzip_is_unpacked_up_to_the_limit(packed: bytes, body: bytes) -> None:
    assert inflate(packed, len(body)) == body
    with refused(413, "too large once it is unpacked"):
        inflate(packed, len(body) - 1)


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (b"", "cut off"),
        (b"\x1f", "cut off"),
        (gzip.compress(b"abc", mtime=0)[:-1], "cut off"),
        (gzip.compress(b"abc", mtime=0)[:12], "cut off"),
        (gzip.compress(b"abc", mtime=0) + gzip.compress(b"abc", mtime=0)[:-1], "cut off"),
        (b'{"a": 1}', "not valid gzip"),
        (zlib.compress(b"abc"), "not valid gzip"),
        (gzip.compress(b"abc", mtime=0)[:-8] + bytes(8), "not valid gzip"),
        (gzip.compress(b"abc", mtime=0) + b"\x00", "follows the end"),
        (gzip.compress(b"abc", mtime=0) + b"more", "follows the end"),
    ],
)
def test_damaged_gzip_is_refused(packed: bytes, problem: str) -> None:
    with refused(400, problem):
        inflate(packed, 1000)


def test_a_gzip_bomb_is_not_unpacked_beyond_the_limit() -> None:
    squeeze = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join(squeeze.compress(zeros) for _ in range(64)) + squeeze.flush()

    tracemalloc.start()
    with refused(413, "too large"):
        inflate(bomb, 1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1 << 20


def test_too_many_gzip_members_are_refused_quickly() -> None:
    with quickly(), refused(400, "more than 100 members"):
        inflate(gzip.compress(b"") * 50_000, 1 << 20)


@given(st.binary(max_size=500), st.integers(0, 600))
def test_gzip_is_unpacked_to_what_was_packed_unless_it_is_too_large(data: bytes, limit: int) -> None:
    if len(data) > limit:
        with refused(413, "too large"):
            inflate(gzip.compress(data), limit)
    else:
        assert inflate(gzip.compress(data), limit) == data


@given(st.binary(max_size=100), st.binary(max_size=20), st.integers(0, 40))
def test_any_damaged_gzip_is_refused_or_unpacked_within_the_limit(data: bytes, noise: bytes, at: int) -> None:
    packed = gzip.compress(data)
    try:
        unpacked = inflate(packed[:at] + noise + packed[at + len(noise) :], 1000)
    except RequestError:
        return
    assert len(unpacked) <= 1000
