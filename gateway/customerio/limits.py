"""The limits of Customer.io's Track API, and the checks that several calls share.

Customer.io refuses, silently replaces or silently drops what violates one, so calls are checked before they are sent.
The numbers are those of its OpenAPI documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from gateway.event import JSON

MAX_ID_BYTES = 150
MAX_ATTRIBUTES = 300
MAX_ATTRIBUTE_NAME_BYTES = 150
MAX_ATTRIBUTE_VALUE_BYTES = 1_000
MAX_EVENT_NAME_BYTES = 100
MAX_EVENT_DATA_BYTES = 100_000
# Unix seconds: Customer.io takes anything else, milliseconds above all, for "now" and says nothing.
EARLIEST, LATEST = 1_000_000_000, 99_999_999_999
# Customer.io documents no limit for the address of a page, an email, a token; an attribute's is the nearest.
MAX_TEXT_BYTES = 1_000
#: Seconds that an attempt of a raw request may take: a delivery's lease is long enough for no more.
MAX_TIMEOUT = 20.0


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What Customer.io would refuse, replace or drop in a call.

    Attributes:
        field: Named as in a mapping.
        fits: A mapping's `fit: true` prevents it where the value comes out of `attributes_from`.
    """

    field: str
    problem: str
    fits: bool = False


def is_moment(value: object) -> TypeGuard[int]:
    """Return whether a value is a time as Customer.io takes it: whole unix seconds of these decades."""
    return type(value) is int and EARLIEST <= value <= LATEST


def is_unix_seconds(value: object) -> bool:
    """Return whether a value is whole unix seconds of any time since 1970, as a number or in digits."""
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) <= len(str(LATEST))
    return type(value) is int and 0 <= value <= LATEST


def utf8_size(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def check_moment(field: str, value: JSON) -> Sequence[Violation]:
    """Check an optional time in unix seconds."""
    if value is None or is_moment(value):
        return ()
    return (Violation(field=field, problem="is not whole unix seconds; write unix(…)"),)


def check_text(field: str, text: str, limit: int) -> Sequence[Violation]:
    """Check that a text is not blank and has at most *limit* bytes."""
    if not text.strip():
        return (Violation(field=field, problem=f"is blank; Customer.io needs the {field.rpartition('.')[2]}"),)
    return check_size(field, text, limit)


def too_long(text: str, limit: int) -> str:
    """Return what is wrong with a text that has more than *limit* bytes, and that can be cut."""
    return f"is {utf8_size(text)} bytes long; Customer.io takes {limit}: shorten it with truncate(…, `{limit}`)"


def check_name(field: str, text: str, limit: int) -> Sequence[Violation]:
    """Check the name of an event or a page. It is not blank, and has at most *limit* bytes."""
    if utf8_size(text) > limit:
        return (Violation(field=field, problem=too_long(text, limit)),)
    return check_text(field, text, limit)


def check_size(field: str, text: str, limit: int) -> Sequence[Violation]:
    """Check that a text has at most *limit* bytes."""
    if (size := utf8_size(text)) > limit:
        return (Violation(field=field, problem=f"is {size} bytes long; Customer.io takes {limit}"),)
    return ()


def check_dots(field: str, value: str) -> Sequence[Violation]:
    """Check a text that becomes a segment of a path: every HTTP library folds dots, encoded or not."""
    if value not in (".", ".."):
        return ()
    return (Violation(field=field, problem='"." and ".." cannot be sent: they change where the request goes'),)


def check_segment(field: str, text: str) -> Sequence[Violation]:
    """Check a text that is required and becomes a segment of a path."""
    return [*check_text(field, text, MAX_TEXT_BYTES), *check_dots(field, text)]


def check_encoding(values: Mapping[str, Any]) -> Iterator[Violation]:
    """Check that JSON can hold the values of a call: half of a surrogate pair would fail only while sending."""
    if encoding_problem(values) is None:
        return  # as nearly always: one look at the whole is enough
    for field, value in values.items():
        if problem := encoding_problem(value):
            yield Violation(field=field.rstrip("_"), problem=problem)


def encoding_problem(value: object) -> str | None:
    """Return why a value cannot be sent as JSON in UTF-8, or None."""
    try:
        json.dumps(value, ensure_ascii=False, default=_as_json, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "holds text that is not valid Unicode"
    except ValueError:
        return "holds a number that JSON cannot write"
    return None


def _as_json(value: Any) -> Any:
    # The contents of a file need not be text; anything else that JSON does not know is some mapping of what it knows.
    return "" if isinstance(value, bytes) else dict(value)
