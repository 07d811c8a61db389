"""Numbers and times as text, text that is trimmed or cut, and the names of headers, sources and connections."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

from gateway.errors import ExpressionError


def number_text(number: int | float) -> str:
    """Return a number as text without an exponent; 42 and 42.0 both give `42`, large integers are exact.

    Raises:
        ExpressionError: The number has more than a thousand digits.
    """
    if isinstance(number, float):
        return str(int(number)) if number.is_integer() else format(Decimal(repr(number)), "f")
    if number.bit_length() > _MAX_BITS_WRITTEN:
        raise ExpressionError("a number this large cannot be written as text")
    return str(number)


_MAX_BITS_WRITTEN = 4096  # far more than in any id, and less than Python refuses to convert


def time_text(seconds: float) -> str:
    """Return unix seconds as text in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def trimmed(text: str) -> str:
    """Return text without white space and zero-width characters at its ends."""
    return text.strip(_BLANKS)


#: Characters of no width, which come along when text is copied: U+200B to U+200D, U+2060, U+FEFF.
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
# A set, not a regular expression, which takes quadratic time for many blanks in the text of a stranger.
_BLANKS = ZERO_WIDTH + "".join(filter(str.isspace, map(chr, range(0x3001))))  # U+3000 is the last white space


def truncated(text: str, size: int) -> str:
    """Return the longest beginning of a text that has at most *size* bytes in UTF-8."""
    encoded = text.encode(errors="surrogatepass")
    if len(encoded) <= size:
        return text
    while size > 0 and encoded[size] & 0xC0 == 0x80:  # in the middle of a character
        size -= 1
    return encoded[:size].decode(errors="surrogatepass")


#: The name of an HTTP header: a token of RFC 9110.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: The name of a header that a webhook can have here. Web servers drop names with an underscore: to an application
#: X_Name and X-Name are one, so a stranger could replace a header that a proxy has set.
ARRIVING_HEADER = re.compile(HEADER_NAME.pattern.replace("_", ""))


def arrival_problem(header: str) -> str | None:
    """Return why a header of this name never arrives, and what to do; None if it does."""
    if "_" not in header:
        return None
    return (
        f"the header {header} never arrives: web servers drop names with an underscore; write it as the sender does,"
        f" such as {header.replace('_', '-')}, or take the value from the body or the address"
    )


#: The name of a source or a connection. Both become parts of other names: of addresses and of variables.
NAME = re.compile(r"[a-z0-9-]+")
