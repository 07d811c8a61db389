"""What the rooms pass on to each other: a webhook before and after verification, a call to deliver, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One request to /hooks/<source> as it arrived, not yet trusted.

    Attributes:
        headers: By name in lower case; the values of a header that was sent twice are joined by ", ".
        query: The first value of each parameter of the URL's query.
        body: As it was sent, or unpacked if it had a Content-Encoding.
        url: The public address that the sender posted to, for schemes that sign it.
        rest: What follows the source's name in the path, for schemes with the secret there.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    rest: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One verified webhook, as a mapping translates it.

    Attributes:
        key: SHA-256 of the event key, in hexadecimal. A stranger's key may have any size; the hash is short enough to
            be stored with the event, so that a replay has it too.
        payload: The decoded body.
        received_at: Unix seconds.
    """

    source: str
    key: str
    payload: JSON
    headers: Mapping[str, str]
    query: Mapping[str, str]
    received_at: int


# Not frozen, although nobody changes one: a frozen value takes more than twice as long to make.
@dataclass(kw_only=True, slots=True)
class NewDelivery:
    """A call to record: what translation makes and the store inserts.

    Attributes:
        identity: 32 bytes, unique among all deliveries; the same whenever the same event asks for the same call.
        connection: The Customer.io workspace by name.
        region: The region that the mapping asks for; None leaves it to the connection.
        lanes: The one lane, or two of a merge, in which the call keeps its order; none: it has no order.
        text: The call as it is stored: compact JSON in ASCII.
        queue: Where it waits for its turn: that of its source, unless it is sent in bulk (`gateway.store.tables.BULK`).
        happened_at: When what the call reports happened, in unix seconds; None: it makes nobody exist who did not.
        deleted_at: When the person whom the call deletes was deleted, in unix seconds; None: it deletes nobody.
        chosen_ulid: The ULID that is sent, where the mapping chose it: Customer.io would drop another call with it.
        counts_once: That ULID is the hash of an event id with the person and the name. So another call with it reports
            the same occurrence once more; without this, it may report another one.
    """

    identity: bytes
    connection: str
    region: str | None
    lanes: tuple[int, ...]
    # Not compared: payloads that differ only in the order of an object's keys ask for the same call.
    text: str = field(compare=False)
    queue: str = field(default="", compare=False)
    happened_at: int | None = None
    deleted_at: int | None = None
    chosen_ulid: str | None = None
    counts_once: bool = False
