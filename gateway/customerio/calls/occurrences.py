"""Calls that record what a person did: events, page views and screen views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, Self

from gateway.customerio.calls.addresses import Address, lane_number, trimmed_identifier
from gateway.customerio.calls.kinds import Key, Kind, call_class, key, shared
from gateway.customerio.calls.people import ANONYMOUS_ID, ATTRIBUTES, TIMESTAMP, ToPerson
from gateway.customerio.limits import (
    MAX_EVENT_DATA_BYTES,
    MAX_EVENT_NAME_BYTES,
    MAX_TEXT_BYTES,
    Violation,
    check_name,
    encoding_problem,
)
from gateway.customerio.wire import HttpRequest, dump, json_request
from gateway.event import JSON

EVENT_ID = Key(
    kind=Kind.EVENT_ID,
    about="Any text that is unique for a person and an event name; Customer.io drops a repeat.",
    examples=("=id",),
)
_NAME = Key(
    kind=Kind.TEXT,
    about="The name of the event or screen.",
    example="Invoice Paid",
    examples=("Invoice Paid",),
    check=partial(check_name, limit=MAX_EVENT_NAME_BYTES),
)


@call_class
class ToAnybody(ToPerson):
    """A call to one person, known or not."""

    anonymous_id: str | None = shared(ANONYMOUS_ID, default=None)
    anonymous: bool = key(
        Kind.FLAG,
        about="Names nobody, not even an anonymous id: mail goes to the `recipient` under `attributes`.",
        default=False,
    )


class Occurrence(ToAnybody):
    """What happened once. Customer.io drops a repeat by its `event_id`, a ULID."""

    creates_person: ClassVar = True
    action: ClassVar[str]
    name_key: ClassVar[str] = "name"
    # Fields of each subclass: as fields of this one they would come before its own in stored texts.
    attributes: Mapping[str, JSON]
    timestamp: int | None
    event_id: str | None

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lane of the person; of an event that names nobody, that of the email address it is for."""
        recipient = self._recipient()
        if not self.anonymous or recipient is None:
            return super().lanes(connection)
        return (lane_number(connection, Address(kind="email", value=recipient).lane_key),)

    def other_violations(self) -> Iterator[Violation]:
        """Check that an event names somebody, or says that it names nobody."""
        if self.anonymous and self.address() is not None:
            problem = "says that nobody is named, and an identifier names somebody; leave out one of the two"
            yield Violation(field="anonymous", problem=problem)
        elif self.anonymous and self._recipient() is None:
            problem = "need a 'recipient', an email address: without it, nothing comes of an event that names nobody"
            yield Violation(field="attributes", problem=problem)

    def _recipient(self) -> str | None:
        recipient = self.attributes.get("recipient")
        return trimmed_identifier(recipient) if isinstance(recipient, str) and recipient.strip() else None

    def with_event_id(self, event_id: str | None) -> Self:
        """Return the same call with another event id."""
        return replace(self, event_id=event_id)  # type: ignore[call-arg]  # each subclass has it as a field

    def event_id_facts(self) -> list[str | None]:
        """Return what makes the call a repeat of another one with the same `event_id`: kind, person, name and id."""
        address = self.address()
        return [self.name_of_call, None if address is None else address.lane_key, self._name(), self.event_id]

    def violations(self, text: str | None = None) -> list[Violation]:
        """Return also that the data is too large."""
        problems = super().violations(text)
        # No JSON is longer in UTF-8 than it is in ASCII.
        is_small = text is not None and len(text) <= MAX_EVENT_DATA_BYTES
        if not is_small and encoding_problem(self.attributes) is None:
            size = len(dump(dict(self.attributes)))
            if size > MAX_EVENT_DATA_BYTES:
                problem = f"is {size} bytes of JSON; Customer.io takes {MAX_EVENT_DATA_BYTES}: choose with pick(…)"
                problems.append(Violation(field="attributes", problem=problem, fits=True))
        return problems

    def v1_request(self) -> HttpRequest:
        body: dict[str, JSON] = {"name": self._name(), "type": self.action, **self._id_and_time()}
        body["data"] = dict(self.attributes)
        if self.anonymous:
            return json_request("POST", "/api/v1/events", body)
        person = self.person()
        if person.kind == "anonymous_id":
            return json_request("POST", "/api/v1/events", {**body, **person.identifiers})
        return json_request("POST", f"{self.person_path()}/events", body)

    def operation(self) -> dict[str, JSON] | None:
        if self.anonymous:
            return None
        attributes = dict(self.attributes)
        return self.person_operation(self.action, name=self._name(), **self._id_and_time(), attributes=attributes)

    def _name(self) -> str:
        name: str = getattr(self, self.name_key)
        return name

    def _id_and_time(self) -> dict[str, JSON]:
        values: dict[str, JSON] = {"id": self.event_id, "timestamp": self.timestamp}
        return {name: value for name, value in values.items() if value is not None}


@call_class
class Track(Occurrence):
    """Record an event of a person, or of somebody not yet known."""

    name_of_call: ClassVar = "track"
    about: ClassVar = "Records an event of a person."
    action: ClassVar = "event"
    name: str = shared(_NAME)
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)


@call_class
class Page(Occurrence):
    """Record a page view; *url* is the address, path or name of the page, or ``*`` for any page."""

    name_of_call: ClassVar = "page"
    about: ClassVar = "Records a page view."
    action: ClassVar = "page"
    name_key: ClassVar = "url"
    url: str = key(
        Kind.TEXT,
        about="The address, path or name of the page, or * for any page.",
        example="=page.url",
        examples=("=page.url", "/pricing", "*"),
        check=partial(check_name, limit=MAX_TEXT_BYTES),
    )
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)


@call_class
class Screen(Occurrence):
    """Record a screen view in a mobile app."""

    name_of_call: ClassVar = "screen"
    about: ClassVar = "Records a screen view in a mobile app."
    action: ClassVar = "screen"
    name: str = shared(replace(_NAME, example="Settings"))
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    event_id: str | None = shared(EVENT_ID, default=None)
