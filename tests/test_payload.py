"""Bodies as bytes to JSON: what is decoded, and what is refused, quickly and without quoting it."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload import FORM, MAX_FORM_FIELDS, MAX_NESTING, decode, unpack
from gateway.payload.compression import inflate
from gateway.payload.forms import MAX_LONE_PERCENTS

MULTIPART = "multipart/form-data; boundary=B"


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
        *["text/json", "text/plain", "text/plain; charset=utf-8", "", "; charset=utf-8", "application/octet-stream"],
        *["application/json; charset=iso-8859-1", "application/json; charset=utf-16", 'text/plain; charset="latin1"'],
        # curl -d, and types that nobody has heard of
        *[FORM, "text/html", "json", "application/json, application/json", "\u0130\x00\ud800", "a/" * 30_000],
    ],
)
def test_json_is_read_whatever_its_content_type_says(content_type: str) -> None:
    with quickly():
        assert decode(b'{"a": "\xc3\xab"}', content_type) == {"a": "ë"}


@pytest.mark.parametrize("content_type", ["text/html", "application/pdf", "json", "a/" * 30_000, "a+json/b"])
def test_what_is_no_json_is_refused_under_another_content_type_with_a_list_of_the_supported_ones(
    content_type: str,
) -> None:
    with quickly(), refused(415, "send JSON, a form (urlencoded or multipart/form-data) or XML"):
        decode(b"<p>", content_type)


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("content_type", ["application/json", ""])
def test_an_empty_body_is_refused_as_empty(body: bytes, content_type: str) -> None:
    with refused(400, "the body is empty"):
        decode(body, content_type)


@pytest.mark.parametrize("content_type", ["application/json; charset=iso-8859-1", "text/plain; charset=Windows-1252"])
def test_json_that_is_not_utf_8_is_read_in_the_charset_that_its_sender_names(content_type: str) -> None:
    assert decode('{"price": "5 é"}'.encode("cp1252"), content_type) == {"price": "5 é"}


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
        (b'"\x01a\nb\tc"', "\x01a\nb\tc"),
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


# Of JSON, of forms, of forms with files, and of XML.
PIECES = [
    *[b'"', b"\\", b"[", b"]", b"{", b"}", b":", b",", b"1", b"e999", b"\\ud800"],
    *[b"=", b"&", b"%", b"a[", b"]", b"a[]", b"a[a]", b"%ff", b"data={", b"charset=cp1252"],
    *[b"--B", b"--", b"\r\n", b'\r\n--B\r\nContent-Disposition: form-data; name="a"', b'; filename="a"', b"\r\n\r\n"],
    *[b"<a>", b"</a>", b'<a a="', b'">', b"/>", b"<!DOCTYPE", b"&a;", b"<?xml", b"<![CDATA[", b"]]>"],
]


@given(
    body=st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join),
    content_type=st.sampled_from(["application/json", FORM, f"{FORM}; charset=gbk", MULTIPART, "text/xml", "a/b+xml"])
    | st.text(max_size=60),
    json_field=st.sampled_from([None, "a", "data"]),
)
def test_any_bytes_are_decoded_to_valid_json_or_refused(body: bytes, content_type: str, json_field: str | None) -> None:
    try:
        value = decode(body, content_type, json_field)
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
        (b"hunter2=1&" * 1_001, FORM),
        (b"data=hunter2", FORM),
        (b"hunter2", "hunter2/hunter2"),
        (b"hunter2", "text/plain; charset=hunter2"),
        (b"hunter2", "multipart/form-data; boundary=hunter2"),
        (b"<hunter2>&hunter2;</hunter3>", "text/xml"),
        (b"<?xml version='1.0' encoding='hunter2'?><a/>", "text/xml"),
    ],
)
def test_a_refusal_never_quotes_the_body(body: bytes, content_type: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(body, content_type, "data")

    assert "hunter2" not in str(caught.value)


# Forms


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {}),
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
        # A number is a name like any other: a list would have another shape as soon as one is left out.
        (b"a[0]=x&a[1]=y", {"a": {"0": "x", "1": "y"}}),
        (b"a[0][b]=x&a[2][b]=y", {"a": {"0": {"b": "x"}, "2": {"b": "y"}}}),
        (b"a[][b]=1&a[][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        (b"a[][]=1&a[][]=2", {"a": [["1"], ["2"]]}),
        (b"a[b c]=1", {"a": {"b c": "1"}}),
        (b"a[b=1&a]b=2&x=[c]&a[b]c=4&a[[b]]=5",
         {"a[b": "1", "a]b": "2", "x": "[c]", "a[b]c": "4", "a[[b]]": "5"}),
        (b"[0][a]=1", {"[0][a]": "1"}),
        (b"\xef\xbb\xbfa=1", {"\ufeffa": "1"}),
        (b"x=%7B%22a%22%3A1%7D", {"x": '{"a":1}'}),
        # the URL Standard: nothing is an error
        (b"a=100% sure&b=%&c=%4&d=%zz&%f=1", {"a": "100% sure", "b": "%", "c": "%4", "d": "%zz", "%f": "1"}),
        (b"n=%u010Dapek", {"n": "%u010Dapek"}),
        (b"a=%EB&b=\xff&%ED%A0%80=1", {"a": "\ufffd", "b": "\ufffd", "\ufffd\ufffd\ufffd": "1"}),
        # text beside an object
        (b"a=1&a[b]=2", {"a": {"": "1", "b": "2"}}),
        (b"a[b]=2&a=1", {"a": {"b": "2", "": "1"}}),
        (b"a[b]=1&a[]=2&a=3", {"a": {"b": "1", "": ["2", "3"]}}),
        (b"a[]=1&a[b]=2", {"a": {"": ["1"], "b": "2"}}),
        (b"a=1&a=2&a[b]=3", {"a": {"": ["1", "2"], "b": "3"}}),
        (b"a[b]=1&a[b][c]=2", {"a": {"b": {"": "1", "c": "2"}}}),
        (b"a[b]=1&a[][c]=2", {"a": {"b": "1", "": [{"c": "2"}]}}),
        (b"a" + b"[b]" * MAX_NESTING + b"=1", {"a" + "[b]" * MAX_NESTING: "1"}),
    ],
)  # fmt: skip
def test_a_form_is_an_object_of_text(body: bytes, expected: JSON) -> None:
    assert decode(body, FORM) == expected
    assert decode(body, FORM + "; charset=UTF-8") == expected


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b"charset=windows-1252&name=Zo%EB", ""),  # PayPal's
        (b"name=Zo%EB&_charset_=Windows-1252", ""),
        (b"name=Zo%EB", "; charset=iso-8859-1"),
        (b"name=Zo\xeb", '; charset="latin1"'),
        (b"name=Zo%C3%AB&charset=windows-1252", "; charset=utf-8"),
        (b"name=Zo%C3%AB&charset=utf-8", ""),
        (b"name=Zo%C3%AB&charset=punycode", ""),
        (b"name=Zo%C3%AB", "; charset=" + "x" * 60_000),
    ],
)
def test_a_form_is_read_in_its_charset(body: bytes, charset: str) -> None:
    form = decode(body, FORM + charset)
    assert isinstance(form, dict)
    assert form["name"] == "Zoë"


@pytest.mark.parametrize(
    "body", [b"&".join([b"a=1"] * (MAX_FORM_FIELDS + 1)), b"&" * 1_000_000], ids=["fields", "separators"]
)
def test_a_form_with_too_many_fields_is_refused(body: bytes) -> None:
    with quickly(), refused(400, "more than 1,000 fields"):
        decode(body, FORM)


@pytest.mark.parametrize("body", [b'{"type": "user.created"', b' [{"a": 1]', b'{"a": NaN}'])
def test_malformed_json_that_is_sent_as_a_form_is_refused_as_json(body: bytes) -> None:
    with refused(400, "the body"):
        decode(body, FORM)


def test_a_form_at_the_limits_is_decoded() -> None:
    most = MAX_NESTING - 3
    deepest = decode(b"a" + b"[b]" * most + b"=1", FORM)
    with_text = decode(b"a[c]" + b"[]" * (most - 1) + b"=1&a[c][d]=1", FORM)
    longest = decode(b"&".join([b"a=1"] * MAX_FORM_FIELDS), FORM)

    assert depth(deepest) == most + 1
    assert depth(with_text) == most + 2
    assert longest == {"a": ["1"] * MAX_FORM_FIELDS}


@pytest.mark.parametrize(
    "body",
    [
        b"&".join([b"a" + b"[]" * 61 + b"=1"] * 1000),
        b"&".join([b"a" + b"[b]" * number + b"=1" for number in range(60)] * 16),
        b"&".join([b"a[]=1"] * 1000),
        b"a=" + b"%41" * 300_000,
        b"a=" + b"%%41" * 10_000,
        b"a" + b"]" * 1_000_000 + b"=1",
        b"a" + b"[" * 1_000_000,
        b"a=" + b"+" * 1_000_000,
    ],
)
def test_the_worst_forms_are_decoded_quickly(body: bytes) -> None:
    with quickly():
        decode(body, FORM)


@pytest.mark.parametrize("lone", [b"%", b"%%", b"%z", b"%4z", b"%%4", b"%=", b"%\r\n", b"% ", b"%+", b"=%"])
def test_a_percent_sign_that_begins_no_escape_stands_for_itself(lone: bytes) -> None:
    text = unquote_to_bytes(lone.replace(b"+", b" ")).decode()
    assert decode(b"a=" + lone, FORM) == {"a": text}
    assert decode(b"a=%41" + lone + b"%3D%0A", FORM) == {"a": f"A{text}=\n"}


def test_percent_signs_that_begin_no_escape_have_a_limit() -> None:
    half = b"%z" * (MAX_LONE_PERCENTS // 2)
    assert decode(b"a=" + half + b"&b=" + half, FORM) == {"a": half.decode(), "b": half.decode()}
    with refused(400, "more than 10,000 percent signs that begin no escape"):
        decode(b"a=" + half + b"&b=%" + half, FORM)


@given(st.dictionaries(st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"])), TEXT, min_size=1))
def test_any_form_is_decoded_to_its_fields(fields: dict[str, str]) -> None:
    assert decode(urlencode(fields).encode(), FORM) == fields


@given(st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join) | st.binary(max_size=200))
def test_no_form_is_an_error_unless_it_looks_like_json(body: bytes) -> None:
    if not body.lstrip().startswith((b"{", b"[")):
        assert isinstance(decode(body, FORM), dict)


# JSON inside a form


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"payload=%7B%22a%22%3A1%7D", {"a": 1}),
        (b"payload=[1]&x=2", [1]),
        (b"page=p1&payload=%7B%22a%22%3A1%7D&a=2", {"page": "p1", "a": 1}),
        (b"a=1", {"a": "1"}),
        (b"payload[a]=1", {"payload": {"a": "1"}}),
        (b"payload=1&payload=2", {"payload": ["1", "2"]}),
        (b'{"payload": "{}"}', {"payload": "{}"}),
    ],
)
def test_json_in_the_field_that_the_scheme_names_is_decoded(body: bytes, expected: JSON) -> None:
    assert decode(body, FORM, "payload") == expected


def test_malformed_json_in_a_field_is_refused_with_the_name_of_the_field() -> None:
    with refused(400, "the field payload of the form is not valid JSON at line 1, column 2"):
        decode(b"payload={&x=1", FORM, "payload")


# Forms with files


def parts(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    """Return a form; each part is what follows `form-data` in its header, and its content."""
    written = (f"--B\r\nContent-Disposition: form-data{about}\r\n\r\n".encode() + body for about, body in parts)
    return b"\r\n".join([*written, end])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (parts(('; name="a"', b"1"), ('; name="a"', b"2")), {"a": ["1", "2"]}),
        (parts(('; name="a[b]"', b"1"), ('; name="a[c][]"', "é".encode())), {"a": {"b": "1", "c": ["é"]}}),
        (
            parts(('; name="f[]"; filename="a b.pdf"\r\nContent-Type: application/pdf', b"\x00\xff\r\n" * 1000)),
            {"f": [{"filename": "a b.pdf", "content_type": "application/pdf", "size": 4000}]},
        ),
        (
            parts(('; name="f"; filename=""', b""), ('; name="f"; filename="é.txt"', b"x")),
            {"f": [{"filename": n, "content_type": "", "size": s} for n, s in (("", 0), ("é.txt", 1))]},
        ),
        (
            parts(('; name="f[x]"', b"1"), ('; name="f"; filename="n"', b"")),
            {"f": {"x": "1", "": {"filename": "n", "content_type": "", "size": 0}}},
        ),
        (parts(('; name="a"\r\nContent-Type: text/plain; charset=iso-8859-2', b"\xe8")), {"a": "č"}),
        (parts(('; name="a"', b"\xe8"), ('; name="charset"', b"windows-1250")), {"a": "č", "charset": "windows-1250"}),
        (parts(('; name="a"', b"\xe8"), ("", b"2")), {"a": "\ufffd", "": "2"}),
        (parts(('; name="a"', b"x" * 100_000)), {"a": "x" * 100_000}),
        (b"--B--\r\n", {}),
        (b"preamble\r\n" + parts(('; name="a"', b"1"), end=b"--B--ignored"), {"a": "1"}),
        (parts(('; name="a"', b"1")).replace(b"\r\n", b"\n"), {"a": "1"}),
    ],
)
def test_a_form_with_files_is_an_object_of_text_without_what_is_in_the_files(body: bytes, expected: JSON) -> None:
    assert decode(body, MULTIPART) == expected


def test_json_in_a_part_is_decoded() -> None:
    body = parts(('; name="rawRequest"', b'{"q3_email": "a@b.c"}'), ('; name="formID"', b"7"))
    assert decode(body, MULTIPART, "rawRequest") == {"formID": "7", "q3_email": "a@b.c"}


@pytest.mark.parametrize(
    ("body", "content_type", "problem"),
    [
        (parts(('; name="a"', b"1"), end=b""), MULTIPART, "may be cut off"),
        (parts(('; name="a"', b"1"))[:-9], MULTIPART, "may be cut off"),
        (b"", MULTIPART, "may be cut off"),
        (b"a=1", MULTIPART, "may be cut off"),
        (b"\r\n" * 500_000 + parts(('; name="a"', b"1")), MULTIPART, "not valid multipart/form-data"),
        (b"--B\r\nX: 1\r\n\r\n1\r\n--B--\r\n", MULTIPART, "not valid multipart/form-data"),
        (b"--B\r\nX: \xff\r\n\r\n1\r\n--B--\r\n", MULTIPART, "not valid multipart/form-data"),
        (parts(), "multipart/form-data", "names no boundary"),
        (parts(), "multipart/form-data; boundary=" + "x" * 201, "names no boundary, or a very long one"),
        (parts(*[('; name="a"', b"1")] * (MAX_FORM_FIELDS + 1)), MULTIPART, "more than 1,000 fields"),
        (parts(*[(f'; name="{"a" * 1_000}"', b"1")] * 500), MULTIPART, "longer than 131,072 characters"),
        (parts((";a=b" * 500_000, b"1")), MULTIPART, "longer than 131,072 characters"),
        (parts(("\r\n " * 500_000, b"1")), MULTIPART, "longer than 131,072 characters"),
    ],
)
def test_a_malformed_form_with_files_is_refused(body: bytes, content_type: str, problem: str) -> None:
    with quickly(), refused(400, problem):
        decode(body, content_type)


@pytest.mark.parametrize("content", [bytes(2_000_000), b"\r\n--BX" * 200_000, (b"\n--B" + b" " * 1000) * 1000])
def test_large_files_are_left_out_quickly(content: bytes) -> None:
    with quickly(), contextlib.suppress(RequestError):
        decode(parts(('; name="f"; filename="f"', content)), MULTIPART)


# XML


SOAP = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body>
  <notifications xmlns="http://soap.sforce.com/2005/09/outbound">
   <SessionId xsi:nil="true"/>
   <Notification><Id>04l1</Id>
    <sObject xsi:type="sf:Contact" xmlns:sf="urn:sobject.partner.soap.sforce.com"><sf:Email>a@b.c</sf:Email></sObject>
   </Notification>
  </notifications>
 </soapenv:Body>
</soapenv:Envelope>"""
CONTACT: JSON = {"Id": "04l1", "sObject": {"@type": "sf:Contact", "Email": "a@b.c"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (SOAP, {"Envelope": {"Body": {"notifications": {"SessionId": None, "Notification": CONTACT}}}}),
        (b"<a/>", {"a": None}),
        (b"\xef\xbb\xbf <a> x </a>".replace(b" <", b"<"), {"a": "x"}),
        (b"<a><b>1</b><b/><b> </b></a>", {"a": {"b": ["1", None, None]}}),
        (b"<a b='1' xmlns='u' xmlns:x='v' x:c='2'>t<d/>u</a>", {"a": {"@b": "1", "@c": "2", "d": None, "#text": "tu"}}),
        (b"<a><![CDATA[<x>&y;]]> &lt;&#233;</a>", {"a": "<x>&y; <é"}),
        (b"<a nil='true'>x</a>", {"a": {"@nil": "true", "#text": "x"}}),
        ("<?xml version='1.0' encoding='iso-8859-1'?><a>é</a>".encode("latin-1"), {"a": "é"}),
        ("<?xml version='1.0' encoding='utf-16'?><a>é</a>".encode("utf-16"), {"a": "é"}),
    ],
)
@pytest.mark.parametrize("content_type", ["text/xml", "application/xml", "application/soap+xml; action=x"])
def test_xml_is_an_object(body: bytes, expected: JSON, content_type: str) -> None:
    assert decode(body, content_type) == expected


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("<a>é</a>".encode(), "utf-8"),
        ("<?xml version='1.0' encoding='utf-16'?><a>é</a>".encode(), "utf-8"),
        ("<a>é</a>".encode("cp1252"), "iso-8859-1"),
        ("<a>é</a>".encode("gbk"), "gbk"),
        ("<a>é</a>".encode("utf-16"), "utf-16"),
    ],
)
def test_the_charset_of_the_content_type_outranks_that_of_the_document(body: bytes, charset: str) -> None:
    assert decode(body, f"text/xml; charset={charset}") == {"a": "é"}


BOMB = b"<!DOCTYPE a [<!ENTITY b 'xxxxxxxxxx'><!ENTITY c '&b;&b;&b;&b;'>]><a>&c;</a>"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not valid XML at line 1, column 1"),
        (b'{"a": 1}', "not valid XML at line 1, column 1"),
        (b"<a>\n<b></a>", "not valid XML at line 2"),
        (b"<a>\xff</a>", "not valid XML at line 1"),
        (b"<a>&b;</a>", "not valid XML at line 1"),
        (b"<a/><a/>", "not valid XML"),
        (b"<?xml version='1.0' encoding='punycode'?><a/>", "an encoding that is not read here"),
        (BOMB, "document type"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type"),
        (b"<!DOCTYPE a [<!ATTLIST a b CDATA 'x'>]><a/>", "document type"),
        (BOMB.decode().encode("utf-16"), "document type"),
        (b"<a>" * 33 + b"</a>" * 33, "nested more than 32 levels deep"),
        (b"<a>" * 300_000, "nested more than 32 levels deep"),
        (b"<a>" + b"<b/>" * 100_000 + b"</a>", "more than 100,000 elements"),
        (b"<a b='" + b"x" * 1_000_000, "not valid XML"),
    ],
)
def test_malformed_and_dangerous_xml_is_refused(body: bytes, problem: str) -> None:
    with quickly(), refused(400, problem):
        decode(body, "text/xml")


def test_xml_at_the_limit_is_no_deeper_than_json() -> None:
    body = b"<a>" + b"<b/><b>" * 31 + b"</b>" * 31 + b"</a>"
    assert depth(decode(body, "text/xml")) <= MAX_NESTING


# Content-Encoding


@pytest.mark.parametrize("encoding", ["", "identity", "None", "utf-8", " UTF8 ", "identity, utf-8"])
def test_what_is_no_encoding_is_ignored(encoding: str) -> None:
    assert unpack(b"\x1f\x8b", encoding, 10) == b"\x1f\x8b"


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "utf-8, gzip"])
def test_gzip_is_undone_unless_that_has_happened_on_the_way(encoding: str) -> None:
    assert unpack(gzip.compress(b"{}"), encoding, 10) == b"{}"
    assert unpack(b"{}", encoding, 10) == b"{}"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "gzip;q=1", "x" * 100_000])
def test_another_encoding_is_refused(encoding: str) -> None:
    with refused(415, "Content-Encoding is not supported"):
        unpack(b"{}", encoding, 10)


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
