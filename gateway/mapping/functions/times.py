"""The function for times."""

from __future__ import annotations

import math
import re
from datetime import date
from decimal import Decimal

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.table import Group, one_of

function = Group("time")


@function(
    one_of("x", str, int, float),
    example=("unix(created_at)", {"created_at": "2026-01-01T01:00:00.250+01:00"}, 1767225600),
)
def unix(x: str | int | float) -> JSON:
    """Unix seconds of a time in ISO 8601 (default zone UTC), RFC 2822, seconds or milliseconds."""
    if not isinstance(x, str):
        return _seconds(Decimal(x))
    if match := _ISO.fullmatch(x):
        return _moment(match, int(match["month"]))
    if match := _RFC.fullmatch(x):
        return _moment(match, _MONTHS.index(match["month"].lower()) + 1)
    if _DIGITS.fullmatch(x):
        return _seconds(Decimal(x))
    raise ExpressionError("unix() cannot read this text as a time")


_ISO = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]{1,9})?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_RFC = re.compile(
    rf"(?:(?:mon|tue|wed|thu|fri|sat|sun),? *)?(?P<day>[0-9]{{1,2}}) +(?P<month>{'|'.join(_MONTHS)})"
    r" +(?P<year>[0-9]{4}) +(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
    r" +(?P<zone>[+-][0-9]{4}|gmt|utc|ut|z|est|edt|cst|cdt|mst|mdt|pst|pdt)(?: +\([a-z ]*\))?",
    re.ASCII | re.IGNORECASE,
)
_AMERICAN_HOURS = {"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}
# Not four, six or eight digits: they are more likely a date (20260102) than seconds of the year 1970.
_DIGITS = re.compile(r"-?(?!(?:[0-9]{4}|[0-9]{6}|[0-9]{8})(?![0-9]))[0-9]{1,13}(?:\.[0-9]{1,9})?")
# Smaller numbers are seconds (until the year 5138), larger ones milliseconds (until 2286).
_FIRST_MILLISECONDS, _PAST_MILLISECONDS = 10**11, 10**13
_EPOCH = date(1970, 1, 1).toordinal()


def _seconds(number: Decimal) -> int:
    if abs(number) >= _PAST_MILLISECONDS:
        raise ExpressionError("unix() needs seconds or milliseconds, and this number is too large for either")
    return math.floor(number if abs(number) < _FIRST_MILLISECONDS else number / 1000)


def _moment(match: re.Match[str], month: int) -> int:
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    try:
        days = date(int(match["year"]), month, int(match["day"])).toordinal() - _EPOCH
    except ValueError:
        raise ExpressionError("unix() cannot read this text as a time: there is no such day") from None
    if hour > 23 or minute > 59 or second > 60:  # 60 is a leap second
        raise ExpressionError("unix() cannot read this text as a time: there is no such hour")
    return ((days * 24 + hour) * 60 + minute) * 60 + second - _zone_seconds((match["zone"] or "z").lower())


def _zone_seconds(zone: str) -> int:
    if zone[0] not in "+-":
        return _AMERICAN_HOURS.get(zone, 0) * 3600
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ExpressionError("unix() cannot read this text as a time: there is no such zone")
    return (hours * 60 + minutes) * 60 * (-1 if zone[0] == "-" else 1)
