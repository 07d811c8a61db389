"""Calls that record what a person did: events, page views and screen views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from gateway.customerio.calls.kinds import Key, Kind, call_class, key, shared
from gateway.customerio.calls.people import ATTRIBUTES, TIMESTAMP, ToPerson, person_path
from gateway.customerio.limits import (
    MAX_EVENT_DATA_BYTES,
    MAX_EVENT_NAME_BYTES,
    MAX_TEXT_BYTES,
    Violation,
    check_moment,
    check_text,
    utf8_size,
)
from gateway.customerio.wire import HttpRequest, dump, json_request
from gateway.event import JSON

EVENT_ID = Key(
    kind=Kind.EVENT_ID,
    about="Any text that differs between the calls of an event; a repeat is dropped.",
    examples=("=id",),
)
NAME = Key(
    kind=Kind.TEXT,
    about="The name of the event or screen.",
    example="Invoice Paid",
    examples=("Invoice Paid",),
)


@call_class
class ToAnybody(ToPerson):
    """A call to one person, known or not."""

    anonymous_id: str | None = key(
        Kind.IDENTIFIER,
        about="Who it is as long as nobody knows them; counts when all else is null.",
        examples=("=anonymous_id",),
        default=None,
    )


class Occurrence(ToAnybody):
    """What happened once. Customer.io drops a repeat by its `event_id`, a ULID.

    Attributes:
        v2_action: Its type in v1, and its action in v2.
    """

    # Fields of each subclass: declared here they would come before its own in stored texts.
    attributes: Mapping[str, JSON]
    timestamp: int | None
    event_id: str | None
    v2_action: ClassVar[str]

    def with_event_id(self, event_id: str | None) -> Self:
        """Return the same call with another event id."""
        return replace(self, event_id=event_id)  # type: ignore[call-arg]  # each subclass has it as a field

    def event_name(self) -> str:
        """Return the name under which Customer.io records it."""
        raise NotImplementedError

    def own_violations(self, text: str | None, /) -> Sequence[Violation]:
        """Check the time, the name and the size of the data."""
        return (*check_moment("timestamp", self.timestamp), *self.name_violations(), *self._data_violations(text))

    def name_violations(self) -> Sequence[Violation]:
        """Check what `event_name` returns."""
        return check_text("name", self.event_name(), MAX_EVENT_NAME_BYTES)

    def _data_violations(self, text: str | None) -> Sequence[Violation]:
        # No JSON is longer in UTF-8 than it is in ASCII.
        if text is not None and len(text) <= MAX_EVENT_DATA_BYTES:
            return ()
        if (size := len(dump(dict(self.attributes)))) <= MAX_EVENT_DATA_BYTES:
            return ()
        problem = f"is {size} bytes of JSON; Customer.io takes {MAX_EVENT_DATA_BYTES}: choose with pick(…)"
        return (Violation(field="attributes", problem=problem),)

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        person = self.person()
        body: dict[str, JSON] = {"name": self.event_name(), "type": self.v2_action, **self._id_and_time()}
        body["data"] = dict(self.attributes)
        if person.kind == "anonymous_id":
            return json_request("POST", "/api/v1/events", {**body, "anonymous_id": person.value})
        return json_request("POST", f"{person_path(person)}/events", body)

    def operation(self) -> dict[str, JSON]:
        """Return the v2 form."""
        details = {"name": self.event_name(), **self._id_and_time(), "attributes": dict(self.attributes)}
        return self.person_operation(self.v2_action, **details)

    def _id_and_time(self) -> dict[str, JSON]:
        values: dict[str, JSON] = {}
        if self.event_id is not None:
            values["id"] = self.event_id
        if self.timestamp is not None:
            values["timestamp"] = self.timestamp
        return values


@call_class
class Track(Occurrence):
    """Record an event of a person, or of somebody not yet known."""

    name_of_call: ClassVar = "track"
    v2_action: ClassVar = "event"
    about: ClassVar = "Records what a person did."
    name: str = shared(NAME)
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)

    def event_name(self) -> str:
        """Return the name of the event."""
        return self.name


def url_problem(url: str) -> str | None:
    """Return what is wrong with the address of a page, or None."""
    if url != "*" and not url.lower().startswith(("http://", "https://")):
        return 'is neither a full address (https://…) nor "*" for any page'
    if (size := utf8_size(url)) > MAX_TEXT_BYTES:
        return f"is {size} bytes long; at most {MAX_TEXT_BYTES} are sent"
    return None


@call_class
class Page(Occurrence):
    """Record a page view; *url* is a full address, or ``*`` for any page."""

    name_of_call: ClassVar = "page"
    v2_action: ClassVar = "page"
    about: ClassVar = "Records that a person saw a page."
    url: str = key(
        Kind.TEXT,
        about="A full address, or * for any page.",
        example="=page.url",
        examples=("=page.url", "*"),
        problem=url_problem,
        pattern=r"^(?:\*$|[hH][tT][tT][pP][sS]?://)",
        pattern_problem='A page is a full address (https://…), or "*" for any',
    )
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)

    def event_name(self) -> str:
        """Return the address of the page, which Customer.io records as its name."""
        return self.url

    def name_violations(self) -> Sequence[Violation]:
        """Check the address of the page."""
        problem = url_problem(self.url)
        return () if problem is None else (Violation(field="url", problem=problem),)


@call_class
class Screen(Occurrence):
    """Record a screen view in a mobile app."""

    name_of_call: ClassVar = "screen"
    v2_action: ClassVar = "screen"
    about: ClassVar = "Records that a person saw a screen of an app."
    name: str = shared(replace(NAME, example="Settings"))
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)

    def event_name(self) -> str:
        """Return the name of the screen."""
        return self.name
