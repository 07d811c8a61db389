"""Forms with files (multipart/form-data), by werkzeug's decoder. Of a file only its name, type and size are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.errors import RequestError
from gateway.payload.charsets import codec_of, text_of
from gateway.payload.forms import MAX_FORM_FIELDS, Field, File, charset_field, too_many_fields

if TYPE_CHECKING:
    from werkzeug.sansio import multipart

MULTIPART = "multipart/form-data"
#: Bytes; the standard (RFC 2046) allows 70.
_MAX_BOUNDARY = 200
#: Characters of the headers of MAX_FORM_FIELDS parts: to read them takes thirty times as long as what is in the parts.
_MAX_HEADERS = 131_072
#: Bytes in which the first part begins, and that are read before the next look at the headers.
_CHUNK = 65_536
_MALFORMED = "the body is not valid multipart/form-data; it may be cut off"


def multipart_fields(body: bytes, content_type: str, *, most: int = MAX_FORM_FIELDS) -> list[Field]:
    """Return the parts of a form in their order.

    Raises:
        RequestError: 400, malformed, or more than *most* parts.
    """
    parts = list(_parts(body, content_type, most))
    default = codec_of(content_type, none=None) or charset_field((name.encode(), data) for name, data, _ in parts)
    fields: list[Field] = []
    for name, data, about in parts:
        text_or_file = about if isinstance(about, File) else text_of(data, about or default)
        fields.append((name, text_or_file))
    return fields


def _parts(body: bytes, content_type: str, most: int) -> Iterator[tuple[str, bytes, File | str | None]]:
    """Yield the name and content of each part, with what is kept of a file or the codec that a text names, if any."""
    # Imported here: most processes never decode one.
    from werkzeug.exceptions import RequestEntityTooLarge
    from werkzeug.sansio import multipart

    decoder = multipart.MultipartDecoder(_boundary(body, content_type), max_parts=most)
    most_headers = _MAX_HEADERS * most // MAX_FORM_FIELDS
    part: multipart.Field | multipart.File | None = None
    data: list[bytes] = []
    in_headers = 0
    try:
        for start in range(0, len(body) + _CHUNK, _CHUNK):
            decoder.receive_data(body[start : start + _CHUNK] or None)
            while not isinstance(event := decoder.next_event(), multipart.NeedData | multipart.Epilogue):
                if isinstance(event, multipart.Field | multipart.File):
                    part, data = event, []
                    in_headers += sum(len(value) for _, value in event.headers)
                elif isinstance(event, multipart.Data) and part is not None:
                    data.append(event.data)
                    if not event.more_data:
                        yield _part(part, b"".join(data))
            if in_headers > most_headers or (decoder.state is multipart.State.PART and len(decoder.buffer) > _CHUNK):
                raise RequestError(400, f"the headers of the parts are longer than {most_headers:,} characters")
    except RequestEntityTooLarge:
        raise too_many_fields(most) from None
    except ValueError:
        # A header of a part that is not UTF-8, or an end that is missing.
        raise RequestError(400, _MALFORMED) from None


def _boundary(body: bytes, content_type: str) -> bytes:
    from werkzeug.http import parse_options_header

    boundary = parse_options_header(content_type)[1].get("boundary", "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise RequestError(400, "the content type multipart/form-data names no boundary, or a very long one")
    # The decoder takes 60 ms for a megabyte of line breaks before the first part.
    if b"--" + boundary not in body[:_CHUNK]:
        raise RequestError(400, _MALFORMED)
    return boundary


def _part(part: multipart.Field | multipart.File, data: bytes) -> tuple[str, bytes, File | str | None]:
    content_type = part.headers.get("content-type", "")
    filename = getattr(part, "filename", None)
    about = codec_of(content_type, none=None) if filename is None else File(filename, content_type, len(data))
    # A part may lack its name, whatever the decoder's type says.
    return part.name or "", data, about
