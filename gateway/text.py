"""Numbers as text, and the patterns of names that several rooms check."""

from __future__ import annotations

import re
from decimal import Decimal

from gateway.errors import ExpressionError


def number_text(number: int | float) -> str:
    """Write a number out: 42 and 42.0 both give `42`, large integers exactly, no exponents.

    Raises ExpressionError: the number has more than a thousand digits.
    """
    if isinstance(number, float):
        return str(int(number)) if number.is_integer() else format(Decimal(repr(number)), "f")
    if number.bit_length() > _MAX_BITS_WRITTEN:
        raise ExpressionError("a number this large cannot be written as text")
    return str(number)


_MAX_BITS_WRITTEN = 4096  # far more than any id, and below what Python refuses to write

#: The name of an HTTP header: a token of RFC 9110.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

#: The name of a source or a connection. Both become parts of other names: of addresses and of variables.
NAME = re.compile(r"[a-z0-9-]+")
