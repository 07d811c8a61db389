"""The character encodings in which senders write forms, XML and, against the standard, JSON."""

from __future__ import annotations

import codecs
import re
from functools import cache
from typing import TypeVar

Default = TypeVar("Default", str, None)

_CHARSET = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^\s";]*)', re.IGNORECASE)

# Labels and what they mean are those of WHATWG's Encoding Standard. Not every codec of Python: some (punycode) take
# quadratic time, and looking up a stranger's text imports modules.
_CODECS = {
    **{f"{prefix}{number}": f"cp{number}" for number in range(1250, 1259) for prefix in ("windows-", "cp")},
    **{f"iso-8859-{number}": f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("shift_jis", "windows-31j"), "cp932"),
    "iso-8859-9": "cp1254",
    "windows-874": "cp874",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "macintosh": "mac-roman",
    "big5": "big5hkscs",
    "euc-jp": "euc-jp",
    "euc-kr": "cp949",
}


def codec_of(content_type: str, none: Default | str = "utf-8") -> Default | str:
    """Return Python's name of the charset of a content type; UTF-8 for one that is not known, *none* without one."""
    charset = _CHARSET.search(content_type)
    return codec_of_label(charset[1]) if charset else none


def codec_of_label(label: str) -> str:
    """Return Python's name of a charset; UTF-8 for one that is not known."""
    return _CODECS.get(label.strip().lower(), "utf-8")


def text_of(data: bytes, codec: str) -> str:
    """Decode a text; bytes that are none in this codec become U+FFFD."""
    table = _table(codec)
    return data.decode(codec, "replace") if table is None else codecs.charmap_decode(data, "strict", table)[0]


@cache
def _table(codec: str) -> str | None:
    """Return the characters of a codec that has one byte for each. Python takes 0.4 s for a megabyte of bad ones."""
    if not codec.startswith(("cp125", "cp874", "iso8859", "koi8", "mac")):
        return None
    return bytes(range(256)).decode(codec, "replace")
