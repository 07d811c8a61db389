"""Read the bytes of a webhook's body as JSON, without trusting them.

Errors tell the place and the kind of what is wrong, and never show what the body says.
"""

from __future__ import annotations

import json
import re
import zlib
from itertools import accumulate, pairwise
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from gateway.errors import RequestError
from gateway.event import JSON

MAX_NESTING = 64
MAX_FORM_FIELDS = 1_000
MAX_GZIP_MEMBERS = 100

#: The media type of forms.
FORM = "application/x-www-form-urlencoded"


def decode(body: bytes, content_type: str) -> JSON:
    """Read a body as its content type says; a missing one, and text/plain, mean JSON.

    Raises RequestError: 400 for a malformed body, 415 for a content type that is not read here.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    is_form = media_type == FORM
    if not is_form and not _is_json(media_type):
        raise RequestError(
            415,
            "this content type is not read here; send application/json, another JSON type (…+json), "
            "text/plain with JSON in it, or application/x-www-form-urlencoded",
        )
    _check_charset(parameters)
    if not body.strip():
        raise RequestError(400, "the body is empty; send JSON or a form")
    return _form(body) if is_form else _json(body)


def inflate(body: bytes, limit: int) -> bytes:
    """Unpack gzip, never beyond *limit* bytes.

    Raises RequestError: 400 for anything but whole gzip members to the last byte, 413 past the limit.
    """
    parts: list[bytes] = []
    size = 0
    for _ in range(MAX_GZIP_MEMBERS):
        part, body = _inflate_member(body, limit - size)
        parts.append(part)
        size += len(part)
        if not body:
            return b"".join(parts)
        if not body.startswith(b"\x1f\x8b"):
            raise RequestError(400, "something that is not gzip follows the end of the gzip body")
    raise RequestError(400, f"the gzip body has more than {MAX_GZIP_MEMBERS} members; compress it as one")


def _inflate_member(body: bytes, limit: int) -> tuple[bytes, bytes]:
    """Unpack the first member, and give what follows it too."""
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        # One byte more than allowed tells a body that is too large from one that just fits.
        part = member.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(400, "the body is not valid gzip") from None
    if len(part) > limit:
        raise RequestError(413, "the body is too large once it is unpacked")
    if not member.eof:
        raise RequestError(400, "the gzip body is cut off before its end")
    return part, member.unused_data


_JSON_TYPES = ("", "application/json", "text/json", "text/plain")
_STRUCTURED_JSON = re.compile(r"[^/\s]+/[^/\s]+\+json")


def _is_json(media_type: str) -> bool:
    return media_type in _JSON_TYPES or _STRUCTURED_JSON.fullmatch(media_type) is not None


_CHARSET = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^\s";]*)', re.IGNORECASE)


def _check_charset(parameters: str) -> None:
    # ASCII is a part of UTF-8; a body that claims it and goes beyond is read all the same.
    named = _CHARSET.search(parameters)
    if named and named[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise RequestError(415, "the charset named in the content type is not read here; send UTF-8")


# JSON


def _json(body: bytes) -> JSON:
    # The parser recurses, so this comes first; for an ordinary body it is no more than a count.
    if is_too_deep(body):
        raise RequestError(400, f"the body is nested more than {MAX_NESTING} levels deep")
    text = _text(body, "the body").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    try:
        value: JSON = STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        end = "; it looks cut off" if error.pos >= len(text.rstrip()) else ""
        raise RequestError(
            400, f"the body is not valid JSON at line {error.lineno}, column {error.colno}{end}"
        ) from None
    except ValueError:
        # What is left is Python's limit on the digits of an integer.
        raise RequestError(400, "the body holds a number with too many digits; send it as text") from None
    return _without_surrogates(value) if _SURROGATE_ESCAPE.search(body) else value


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise RequestError(400, "the body holds a number that is too large; send it as text")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise RequestError(400, "the body holds NaN or Infinity, which JSON does not know; send null or text")


#: Reads JSON without NaN, Infinity and numbers out of range; raises ValueError, or RequestError for those.
STRICT_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)

_STEPS = [{"{": 1, "[": 1, "}": -1, "]": -1}.get(chr(byte), 0) for byte in range(256)]
_NOT_STRUCTURE = bytes(byte for byte in range(256) if chr(byte) not in '{}[]"')


def is_too_deep(body: bytes) -> bool:
    """Tell whether lists and objects of JSON are nested more than 64 deep, before any parser goes in."""
    if body.count(b"{") + body.count(b"[") <= MAX_NESTING:
        return False
    brackets = _brackets_outside_texts(body)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_NESTING


def _brackets_outside_texts(body: bytes) -> bytes:
    # Right as far as the body is well-formed, and the parser goes no further than that.
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most texts hold no bracket; what is left of them then are two quotes.
    structure = body.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    return b"".join(structure.split(b'"')[::2])


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """Replace halves of characters, as a sender may cut an emoji, by U+FFFD: no encoding can write them."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _without_surrogates(value: JSON) -> JSON:
    """Replace halves of characters everywhere; whole pairs have become one character."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{what} is not UTF-8 text at byte {error.start + 1}") from None


# Forms


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """Read the fields of a form in their order; raises RequestError for a malformed one."""
    # A real form writes these as %7B and %5B; JSON under a form's name is what `curl -d` sends.
    if body.lstrip().startswith((b"{", b"[")):
        raise RequestError(415, "the body looks like JSON but is sent as a form; send it as application/json")
    if body.count(b"&") >= MAX_FORM_FIELDS:
        raise RequestError(400, f"the form has more than {MAX_FORM_FIELDS} fields")
    if bad := _BAD_ESCAPE.search(body):
        raise RequestError(400, f"the form has a % without two hex digits after it at byte {bad.start() + 1}")
    fields = ((number, field.partition(b"=")) for number, field in enumerate(body.split(b"&"), start=1) if field)
    return [(_unquoted(name, number), _unquoted(value, number)) for number, (name, _, value) in fields]


def _form(body: bytes) -> JSON:
    form: dict[str, JSON] = {}
    for number, (name, value) in enumerate(form_fields(body), start=1):
        _put(form, _way(name, number), value, number)
    return form


_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def _unquoted(text: bytes, number: int) -> str:
    return _text(unquote_to_bytes(text.replace(b"+", b" ")), f"field {number} of the form")


_NESTED_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")


def _way(name: str, number: int) -> list[str]:
    """Take a name such as a[b][] apart; one whose brackets do not fit together is taken as it is."""
    if name.count("[") >= MAX_NESTING:
        raise RequestError(400, f"field {number} of the form is nested more than {MAX_NESTING} levels deep")
    nested = _NESTED_NAME.fullmatch(name)
    return [nested[1], *nested[2][1:-1].split("][")] if nested else [name]


def _put(form: dict[str, JSON], way: list[str], value: str, number: int) -> None:
    """Store a field: a step leads into an object, an empty one to the next place of a list."""
    place: dict[str, JSON] | list[JSON] = form
    for step, following in pairwise(way):
        place = _entered(place, step, following, number)
    if isinstance(place, list):
        place.append(value)
        return
    present = place.get(way[-1])
    if isinstance(present, dict):
        raise _clash(number)
    if isinstance(present, list):
        present.append(value)
    else:
        place[way[-1]] = value if present is None else [present, value]


def _entered(
    place: dict[str, JSON] | list[JSON], step: str, following: str, number: int
) -> dict[str, JSON] | list[JSON]:
    fresh: dict[str, JSON] | list[JSON] = {} if following else []
    if isinstance(place, list):
        place.append(fresh)
        return fresh
    present = place.setdefault(step, fresh)
    if isinstance(present, str) and not following:
        # a=1&a[]=2 means the same as a=1&a=2.
        present = place[step] = [present]
    if isinstance(present, list) and not following:
        return present
    if isinstance(present, dict) and following:
        return present
    raise _clash(number)


def _clash(number: int) -> RequestError:
    return RequestError(
        400,
        f"field {number} of the form needs an object where an earlier one put text or a list, or the reverse",
    )
