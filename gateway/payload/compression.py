"""Undo the Content-Encoding of a body."""

from __future__ import annotations

import zlib

from gateway.errors import RequestError

MAX_GZIP_MEMBERS = 100
_GZIP = b"\x1f\x8b"
#: What senders write where nothing is encoded.
_NO_ENCODING = ("", "identity", "none", "utf-8", "utf8")


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; a body that says gzip and is plain was unpacked on its way, and is taken as it is.

    Raises:
        RequestError: 415 for an encoding other than gzip, 413 for more than *limit* bytes, 400 for damaged gzip.
    """
    encodings = [name for item in encoding.lower().split(",") if (name := item.strip()) not in _NO_ENCODING]
    if not encodings:
        return body
    if encodings not in (["gzip"], ["x-gzip"]):
        raise RequestError(415, "the body's Content-Encoding is not supported; send it plain or as gzip")
    return inflate(body, limit) if body.startswith(_GZIP) else body


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
        if not body.startswith(_GZIP):
            raise RequestError(400, "something that is not gzip follows the end of the gzip body")
    raise RequestError(400, f"the gzip body has more than {MAX_GZIP_MEMBERS} members; compress it as one")
