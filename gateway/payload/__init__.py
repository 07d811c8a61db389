"""Decode the bytes of a webhook's body, which are not trusted, as JSON values.

Errors name the place and the kind of a problem, and never quote the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload.charsets import codec_of
from gateway.payload.compression import unpack
from gateway.payload.forms import FORM, MAX_FORM_FIELDS, form_fields, nest
from gateway.payload.json_text import (
    MAX_NESTING,
    STRICT_JSON,
    decode_json,
    is_too_deep,
    utf8,
    whole_characters,
)
from gateway.payload.multipart import MULTIPART, multipart_fields
from gateway.payload.xml import decode_xml

__all__ = [
    "FORM",
    "MAX_FORM_FIELDS",
    "MAX_NESTING",
    "MULTIPART",
    "STRICT_JSON",
    "decode",
    "decode_sent",
    "form_fields",
    "is_form",
    "is_too_deep",
    "is_xml",
    "media_type_of",
    "unpack",
    "utf8",
    "whole_characters",
]

#: Bytes to which a stored body may be unpacked.
MAX_UNPACKED = 64 * 1_048_576

_JSON_TYPES = ("", "application/json", "text/json", "text/plain", "application/octet-stream")
_STRUCTURED_JSON = re.compile(r"[^/\s]+/[^/\s]+\+json")
_XML = re.compile(r"(?:text|application)/xml|[^/\s]+/[^/\s]+\+xml")
#: How JSON begins, and a form does not: its sender escapes these characters.
_JSON_AS_FORM = re.compile(rb'\s*+(?:\{|\[\s*+[\[{"])')


def decode(
    body: bytes, content_type: str, json_field: str | None = None, *, most_fields: int = MAX_FORM_FIELDS
) -> JSON:
    """Decode a body by its content type. What is no form and no XML is read as JSON.

    Args:
        json_field: A field of a form that holds JSON: where it was sent, its value is decoded. If that is an object,
            the other fields of the form stand beside its own, which count where both have a name.
        most_fields: Of a form.

    Raises:
        RequestError: The body cannot be decoded.
    """
    media_type = media_type_of(content_type)
    if media_type in _JSON_TYPES or _STRUCTURED_JSON.fullmatch(media_type):
        return decode_json(body, "the body", content_type)
    if is_form(body, content_type):
        return _unwrap(nest(form_fields(body, content_type, most=most_fields)), json_field)
    if media_type == MULTIPART:
        return _unwrap(nest(multipart_fields(body, content_type, most=most_fields)), json_field)
    if is_xml(content_type):
        return decode_xml(body, codec_of(content_type, none=None))
    try:
        return decode_json(body, "the body", content_type)
    except RequestError as error:
        if media_type == FORM:
            raise
        text = "the content type is not read here; send JSON, a form (urlencoded or multipart/form-data) or XML"
        raise RequestError(415, text) from error


def decode_sent(body: bytes, headers: Mapping[str, str], json_field: str | None = None) -> JSON:
    """Decode a body by its headers, which also say whether it is still packed.

    Raises:
        RequestError: The body cannot be unpacked or decoded.
    """
    if encoding := headers.get("content-encoding"):
        body = unpack(body, encoding, MAX_UNPACKED)
    return decode(body, headers.get("content-type", ""), json_field)


def is_form(body: bytes, content_type: str) -> bool:
    """Return whether a body is an urlencoded form. JSON with that content type, which `curl -d` sends, is not."""
    return media_type_of(content_type) == FORM and not _JSON_AS_FORM.match(body)


def is_xml(content_type: str) -> bool:
    """Return whether a content type is one of XML."""
    return _XML.fullmatch(media_type_of(content_type)) is not None


def media_type_of(content_type: str) -> str:
    """Return a content type in lower case without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _unwrap(form: dict[str, JSON], json_field: str | None) -> JSON:
    text = None if json_field is None else form.get(json_field)
    if json_field is None or not isinstance(text, str):
        return form
    value = decode_json(utf8(text), f"the field {json_field} of the form")
    others = {name: other for name, other in form.items() if name != json_field}
    return {**others, **value} if isinstance(value, dict) else value
