"""A webhook before and after it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One request to /hooks/<source> as it arrived, not yet trusted.

    Attributes:
        headers: Names in lower case; a header that was sent twice has its values joined by ", ".
        query: The first value of each parameter of the URL's query.
        body: The bytes that the sender signed.
        url: The public address the sender posted to, for schemes that sign it.
        rest: What follows the source's name in the path, for schemes whose secret stands there.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    rest: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One webhook that has been verified: what a mapping translates.

    Attributes:
        key: SHA-256, in hexadecimal, of what makes a repeated webhook the same: strangers make keys of any
            size, and this much of one is kept with the event, so that it can be translated again.
        payload: The decoded body.
        received_at: Unix seconds.
    """

    source: str
    key: str
    payload: JSON
    headers: Mapping[str, str]
    query: Mapping[str, str]
    received_at: int
