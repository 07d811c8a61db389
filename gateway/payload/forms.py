"""Forms: urlencoded bodies by the URL Standard of WHATWG, and the objects that the fields of any form make."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload.charsets import codec_of, codec_of_label, text_of
from gateway.payload.json_text import MAX_NESTING

#: The media type of urlencoded forms.
FORM = "application/x-www-form-urlencoded"
MAX_FORM_FIELDS = 1_000

#: Percent signs of a form that begin no escape and stand for themselves: each takes as long as ten escapes.
MAX_LONE_PERCENTS = 10_000

_LONE_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NESTED_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
#: Three levels less than JSON has: for the form itself, for text beside an object, and for a file.
_MAX_BRACKETS = MAX_NESTING - 3


@dataclass(frozen=True, slots=True)
class File:
    """What is kept of a file in a form; *size* in bytes."""

    filename: str
    content_type: str
    size: int


Field: TypeAlias = tuple[str, str | File]
_Tree: TypeAlias = "dict[str, _Node]"
_Node: TypeAlias = "str | File | list[_Node] | dict[str, _Node]"


def form_fields(body: bytes, content_type: str = "", *, most: int = MAX_FORM_FIELDS) -> list[tuple[str, str]]:
    """Return the fields of an urlencoded form in their order. No escape is an error, and no byte.

    Raises:
        RequestError: 400, more than *most* fields, or than MAX_LONE_PERCENTS.
    """
    if body.count(b"&") >= most:
        raise too_many_fields(most)
    if b"%" in body:
        body, lone = _LONE_PERCENT.subn(b"%25", body, MAX_LONE_PERCENTS + 1)
        if lone > MAX_LONE_PERCENTS:
            raise RequestError(400, f"the form has more than {MAX_LONE_PERCENTS:,} percent signs that begin no escape")
    pairs = [_pair(field) for field in body.split(b"&") if field]
    codec = codec_of(content_type, none=None) or charset_field(pairs)
    return [(text_of(name, codec), text_of(value, codec)) for name, value in pairs]


def too_many_fields(most: int) -> RequestError:
    """Return the error of a form with more fields than are read."""
    return RequestError(400, f"the form has more than {most:,} fields")


def _pair(field: bytes) -> tuple[bytes, bytes]:
    name, _, value = field.replace(b"+", b" ").partition(b"=")
    return _unescape(name), _unescape(value)


def _unescape(text: bytes) -> bytes:
    # With = in the place of %, escapes are those of quoted-printable, which Python decodes in C: a megabyte of them
    # takes a sixth of the time of a regular expression that replaces each.
    return binascii.a2b_qp(text.replace(b"=", b"%3D").replace(b"%", b"=")) if b"%" in text else text


def charset_field(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the codec that a form names in a field of its own, as PayPal's do; UTF-8 without one."""
    for name, value in pairs:
        if name in (b"charset", b"_charset_"):
            return codec_of_label(value.decode("latin-1"))
    return "utf-8"


# Fields as an object


def nest(fields: Iterable[Field]) -> dict[str, JSON]:
    """Return fields as an object: a repeated name gives a list, `a[b]` an object, `a[]` a list.

    Where a name has both an object and something else, that is in the object under "". A name that is nested too
    deeply, or whose brackets do not match, is one plain key.
    """
    form: _Tree = {}
    has_files = False
    for name, value in fields:
        has_files = has_files or isinstance(value, File)
        nested = _NESTED_NAME.fullmatch(name) if name.count("[") <= _MAX_BRACKETS else None
        _put(form, [nested[1], *nested[2][1:-1].split("][")] if nested else [name], value)
    return _without_files(form) if has_files else form  # type: ignore[return-value]  # a tree without files is JSON


def _put(form: _Tree, keys: list[str], value: str | File) -> None:
    """Store a field; a key leads into an object, and an empty key appends to a list."""
    container: _Tree | list[_Node] = form
    for key, next_key in pairwise(keys):
        container = _enter(container, key, next_key)
    if isinstance(container, list):
        container.append(value)
    else:
        _add(container, keys[-1], value)


def _add(container: _Tree, key: str, value: str | File) -> None:
    present = container.get(key)
    if isinstance(present, dict):
        _add(present, "", value)
    elif isinstance(present, list):
        present.append(value)
    else:
        container[key] = value if present is None else [present, value]


def _enter(container: _Tree | list[_Node], key: str, next_key: str) -> _Tree | list[_Node]:
    """Return the object or list at a key, created if it is missing; the next key decides which of both it must be."""
    if isinstance(container, list):
        new: _Tree | list[_Node] = {} if next_key else []
        container.append(new)
        return new
    present = container.get(key)
    if next_key:
        if not isinstance(present, dict):
            present = container[key] = {} if present is None else {"": present}
        return present
    if isinstance(present, dict):
        return _enter(present, "", "")
    if not isinstance(present, list):
        # a=1&a[]=2 means the same as a=1&a=2.
        present = container[key] = [] if present is None else [present]
    return present


def _without_files(node: Any) -> Any:
    """Return a tree with an object for each file."""
    match node:
        case File():
            return asdict(node)
        case list():
            return [_without_files(item) for item in node]
        case dict():
            return {name: _without_files(item) for name, item in node.items()}
    return node
