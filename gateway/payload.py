"""Decode the bytes of a webhook's body, which are not trusted, as JSON values.

Errors name the place and the kind of a problem, and never quote the body.
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

_JSON_TYPES = ("", "application/json", "text/json", "text/plain")
_STRUCTURED_JSON = re.compile(r"[^/\s]+/[^/\s]+\+json")
_CHARSET = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^\s";]*)', re.IGNORECASE)


def decode(body: bytes, content_type: str) -> JSON:
    """Decode a body by its content type; a missing one, and text/plain, mean JSON.

    Raises:
        RequestError: 400 for a malformed body, 415 for a content type that is not supported.
    """
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    is_form = media_type == FORM
    if not is_form and media_type not in _JSON_TYPES and not _STRUCTURED_JSON.fullmatch(media_type):
        raise RequestError(
            415,
            "this content type is not read here; send application/json, another JSON type (…+json), "
            "text/plain with JSON in it, or application/x-www-form-urlencoded",
        )
    # ASCII is a part of UTF-8. A body that claims ASCII and contains other characters is decoded all the same.
    charset = _CHARSET.search(parameters)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise RequestError(415, "the charset named in the content type is not read here; send UTF-8")
    if not body.strip():
        raise RequestError(400, "the body is empty; send JSON or a form")
    return _decode_form(body) if is_form else _decode_json(body)


# gzip


def inflate(body: bytes, limit: int) -> bytes:
    """Unpack gzip, never more than *limit* bytes.

    Raises:
        RequestError: 400 unless the body is a sequence of complete gzip members, 413 past the limit.
    """
    parts: list[bytes] = []
    left = limit
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            # One byte more than allowed shows that a body is too large.
            part = member.decompress(body, left + 1)
        except zlib.error:
            raise RequestError(400, "the body is not valid gzip") from None
        if len(part) > left:
            raise RequestError(413, "the body is too large once it is unpacked")
        if not member.eof:
            raise RequestError(400, "the gzip body is cut off before its end")
        parts.append(part)
        left -= len(part)
        body = member.unused_data
        if not body:
            return b"".join(parts)
        if not body.startswith(b"\x1f\x8b"):
            raise RequestError(400, "something that is not gzip follows the end of the gzip body")
    raise RequestError(400, f"the gzip body has more than {MAX_GZIP_MEMBERS} members; compress it as one")


# JSON


def _decode_json(body: bytes) -> JSON:
    # The parser is recursive, so the depth is checked first. For an ordinary body that is only a count.
    if is_too_deep(body):
        raise RequestError(400, f"the body is nested more than {MAX_NESTING} levels deep")
    text = _decode_utf8(body, "the body").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    try:
        value: JSON = STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        end = "; it looks cut off" if error.pos >= len(text.rstrip()) else ""
        raise RequestError(
            400, f"the body is not valid JSON at line {error.lineno}, column {error.colno}{end}"
        ) from None
    except ValueError:
        # The only other cause is Python's limit on the digits of an integer.
        raise RequestError(400, "the body holds a number with too many digits; send it as text") from None
    return _without_surrogates(value) if _SURROGATE_ESCAPE.search(body) else value


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise RequestError(400, "the body holds a number that is too large; send it as text")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise RequestError(400, "the body holds NaN or Infinity, which JSON does not know; send null or text")


#: Decodes JSON; raises RequestError for NaN, Infinity and numbers out of range, ValueError for other problems.
STRICT_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)

_STEPS = [{"{": 1, "[": 1, "}": -1, "]": -1}.get(chr(byte), 0) for byte in range(256)]
_NOT_STRUCTURE = bytes(byte for byte in range(256) if chr(byte) not in '{}[]"')


def is_too_deep(body: bytes) -> bool:
    """Return whether lists and objects of JSON are nested more than 64 deep, without parsing it.

    The count is right as far as the body is well-formed, and no parser gets further than that.
    """
    if body.count(b"{") + body.count(b"[") <= MAX_NESTING:
        return False
    # Keep only brackets outside of texts: remove escaped quotes, then all other characters, then texts.
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = body.translate(None, _NOT_STRUCTURE).replace(b'""', b"")  # most texts hold no bracket
    brackets = b"".join(structure.split(b'"')[::2])
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_NESTING


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def whole_characters(text: str) -> str:
    """Replace lone surrogates by U+FFFD: no encoding can write them. A sender that cuts an emoji makes them."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def utf8(text: str) -> bytes:
    """Encode a text as UTF-8, with lone surrogates replaced."""
    return whole_characters(text).encode()


def _without_surrogates(value: JSON) -> JSON:
    """Replace lone surrogates in all texts and keys; the parser has already joined pairs."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _decode_utf8(data: bytes, subject: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{subject} is not UTF-8 text at byte {error.start + 1}") from None


# Forms

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NESTED_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a form in their order.

    Raises:
        RequestError: 400 for a malformed form, 415 for JSON.
    """
    # A real form escapes these two characters. JSON with the content type of forms is what `curl -d` sends.
    if body.lstrip().startswith((b"{", b"[")):
        raise RequestError(415, "the body looks like JSON but is sent as a form; send it as application/json")
    if body.count(b"&") >= MAX_FORM_FIELDS:
        raise RequestError(400, f"the form has more than {MAX_FORM_FIELDS} fields")
    if bad := _BAD_ESCAPE.search(body):
        raise RequestError(400, f"the form has a % without two hex digits after it at byte {bad.start() + 1}")
    fields = []
    for number, field in enumerate(body.split(b"&"), start=1):
        if field:
            name, _, value = field.replace(b"+", b" ").partition(b"=")
            subject = f"field {number} of the form"
            decoded = [_decode_utf8(unquote_to_bytes(part), subject) for part in (name, value)]
            fields.append((decoded[0], decoded[1]))
    return fields


def _decode_form(body: bytes) -> JSON:
    """Decode a form as an object: a repeated name gives a list, `a[b]` an object, `a[]` a list."""
    form: dict[str, JSON] = {}
    for number, (name, value) in enumerate(form_fields(body), start=1):
        if name.count("[") >= MAX_NESTING:
            raise RequestError(400, f"field {number} of the form is nested more than {MAX_NESTING} levels deep")
        # A name whose brackets do not match is one plain key.
        nested = _NESTED_NAME.fullmatch(name)
        _put(form, [nested[1], *nested[2][1:-1].split("][")] if nested else [name], value, number)
    return form


def _put(form: dict[str, JSON], keys: list[str], value: str, number: int) -> None:
    """Store a field; a key leads into an object, and an empty key appends to a list."""
    container: dict[str, JSON] | list[JSON] = form
    for key, next_key in pairwise(keys):
        container = _enter(container, key, next_key, number)
    if isinstance(container, list):
        container.append(value)
        return
    present = container.get(keys[-1])
    if isinstance(present, dict):
        raise _conflict(number)
    if isinstance(present, list):
        present.append(value)
    else:
        container[keys[-1]] = value if present is None else [present, value]


def _enter(
    container: dict[str, JSON] | list[JSON], key: str, next_key: str, number: int
) -> dict[str, JSON] | list[JSON]:
    """Return the object or list at a key, created if it is missing; the next key decides which of both it must be."""
    new: dict[str, JSON] | list[JSON] = {} if next_key else []
    if isinstance(container, list):
        container.append(new)
        return new
    present = container.setdefault(key, new)
    if isinstance(present, str) and not next_key:
        # a=1&a[]=2 means the same as a=1&a=2.
        present = container[key] = [present]
    if isinstance(present, list if not next_key else dict):
        return present
    raise _conflict(number)


def _conflict(number: int) -> RequestError:
    return RequestError(
        400, f"field {number} of the form needs an object where an earlier one put text or a list, or the reverse"
    )
