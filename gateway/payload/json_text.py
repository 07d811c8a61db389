"""JSON as strangers send it."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import NoReturn

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload.charsets import codec_of, text_of

MAX_NESTING = 64


def decode_json(body: bytes, subject: str, content_type: str = "") -> JSON:
    """Decode JSON.

    Args:
        subject: What errors call it.
        content_type: Its charset has no meaning for JSON, so it counts only for what is not UTF-8.

    Raises:
        RequestError: 400, malformed.
    """
    # The parser is recursive, so the depth is checked first. For an ordinary body that is only a count.
    if is_too_deep(body):
        raise RequestError(400, f"{subject} is nested more than {MAX_NESTING} levels deep")
    text = _decode_text(body, subject, content_type).removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    try:
        value: JSON = STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise RequestError(400, f"{subject} is empty; send JSON") from None
        end = "; it looks cut off" if error.pos >= len(text.rstrip()) else ""
        raise RequestError(
            400, f"{subject} is not valid JSON at line {error.lineno}, column {error.colno}{end}"
        ) from None
    except ValueError:
        # The only other cause is Python's limit on the digits of an integer.
        raise RequestError(400, f"{subject} holds a number with too many digits; send it as text") from None
    return _without_surrogates(value) if _SURROGATE_ESCAPE.search(body) else value


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise RequestError(400, "the body holds a number that is too large; send it as text")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise RequestError(400, "the body holds NaN or Infinity, which JSON does not know; send null or text")


#: Decodes JSON; raises RequestError for NaN, Infinity and numbers out of range, ValueError for other problems. Control
#: characters in texts are accepted: senders that build JSON by hand leave line breaks in what people typed.
STRICT_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant, strict=False)

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


def _decode_text(data: bytes, subject: str, content_type: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        codec = codec_of(content_type)
        if codec == "utf-8":
            raise RequestError(400, f"{subject} is not UTF-8 text at byte {error.start + 1}") from None
        return text_of(data, codec)
