"""Numbers as text, and the names of headers, sources and connections."""

from __future__ import annotations

import re
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
