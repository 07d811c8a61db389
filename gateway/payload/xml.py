"""XML as an object, by Python's own expat, without document types and so without entities."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from gateway.errors import RequestError
from gateway.event import JSON
from gateway.payload.charsets import text_of
from gateway.payload.json_text import MAX_NESTING

#: Each level may be an object in a list.
MAX_DEPTH = MAX_NESTING // 2
MAX_ELEMENTS = 100_000
#: The key of an element's text, where it has attributes or elements too; and what precedes an attribute's name.
_TEXT, _ATTRIBUTE = "#text", "@"


def decode_xml(body: bytes, codec: str | None) -> JSON:
    """Return an object with the root element: text, or an object of attributes (`@name`), elements and `#text`.

    Names lose their prefixes, which mean nothing by themselves. Repeated elements give a list, an empty one or one
    with xsi:nil gives null. White space around texts is removed.

    Args:
        codec: The charset that the content type names; None: the document says it.

    Raises:
        RequestError: 400, malformed, with a document type, or too large.
    """
    builder = _Builder()
    # The content type outranks the document (RFC 7303): .NET writes utf-16 into documents that are sent as UTF-8.
    if codec is None or body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        parser = expat.ParserCreate()
    else:
        parser, body = expat.ParserCreate("utf-8"), text_of(body, codec).encode()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.add_text
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        place = f"line {error.lineno}, column {error.offset + 1}"
        raise RequestError(400, f"the body is not valid XML at {place}") from None
    except (LookupError, ValueError):
        raise RequestError(400, "the XML names an encoding that is not read here; send UTF-8") from None
    return builder.root


def _refuse_document_type(*_: object) -> NoReturn:
    # Entities and default attributes let a small document expand without a limit.
    raise RequestError(400, "the XML has a document type (<!DOCTYPE …>), which is not read; leave it out")


@dataclass(slots=True)
class _Element:
    content: dict[str, JSON]
    is_nil: bool
    texts: list[str] = field(default_factory=list)


class _Builder:
    """Builds the object while expat reads the document."""

    def __init__(self) -> None:
        self.root: dict[str, JSON] = {}
        self._open = [_Element(self.root, is_nil=False)]
        self._elements = 0

    def start(self, _name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise RequestError(400, f"the XML has more than {MAX_ELEMENTS:,} elements")
        if len(self._open) > MAX_DEPTH:
            raise RequestError(400, f"the XML is nested more than {MAX_DEPTH} levels deep")
        content: dict[str, JSON] = {}
        is_nil = False
        for name, value in attributes.items():
            prefix, _, local_name = name.rpartition(":")
            if local_name == "nil" and prefix:
                is_nil = value in ("true", "1")
            elif "xmlns" not in (prefix, name):
                content[_ATTRIBUTE + local_name] = value
        self._open.append(_Element(content, is_nil))

    def add_text(self, text: str) -> None:
        self._open[-1].texts.append(text)

    def end(self, name: str) -> None:
        element = self._open.pop()
        text = "".join(element.texts).strip()
        value: JSON = element.content or text or None
        if element.is_nil:
            value = None
        elif element.content and text:
            element.content[_TEXT] = text
        _add(self._open[-1].content, name.rpartition(":")[2], value)


def _add(content: dict[str, JSON], name: str, value: JSON) -> None:
    if name not in content:
        content[name] = value
    elif isinstance(present := content[name], list):
        present.append(value)
    else:
        content[name] = [present, value]
