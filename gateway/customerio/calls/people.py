"""Calls that create, update, delete, suppress or merge people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from gateway.customerio.calls.addresses import Address, check_address, lane_number, resolve_person
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Key, Kind, call_class, key, keys_of, shared
from gateway.customerio.limits import Violation, check_attributes, check_moment
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON

# Keys that several calls have.
ID = Key(kind=Kind.IDENTIFIER, about="The id of the person.", examples=("=user.id",))
EMAIL = Key(kind=Kind.IDENTIFIER, about="The email address of the person.", examples=("=lower(trim(user.email))",))
TIMESTAMP = Key(
    kind=Kind.TIMESTAMP,
    about="When it happened, in unix seconds.",
    examples=("=unix(created_at)", "=created"),
)
ATTRIBUTES = Key(
    kind=Kind.ATTRIBUTES,
    about="Attributes by their names, which stay flat; an expression that gives null leaves its attribute out.",
)
TEXT_ATTRIBUTES = replace(ATTRIBUTES, kind=Kind.TEXTS)


@call_class
class ToPerson(Call):
    """A call to one known person."""

    id: str | None = shared(ID, default=None)
    email: str | None = shared(EMAIL, default=None)
    cio_id: str | None = key(
        Kind.IDENTIFIER,
        about="The person's id at Customer.io.",
        examples=("=user.cio_id",),
        default=None,
    )

    def person(self) -> Address:
        """Return the address of a call that has one."""
        address = self.address()
        assert address is not None, "translation and client refuse a call without an address"
        return address

    def person_operation(self, action: str, **details: JSON) -> dict[str, JSON]:
        """Return a v2 operation on the person of the call."""
        person = self.person()
        return {"type": "person", "identifiers": {person.kind: person.value}, "action": action, **details}


def person_path(person: Address) -> str:
    """Return the v1 path of a person."""
    return f"/api/v1/customers/{path_segment(f'cio_{person.value}' if person.kind == 'cio_id' else person.value)}"


@call_class
class Identify(ToPerson):
    """Create or update a person."""

    name_of_call: ClassVar = "identify"
    about: ClassVar = "Adds a person, or changes attributes of one."
    attributes: Mapping[str, JSON] = shared(ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)

    def own_violations(self, _text: str | None, /) -> Iterator[Violation]:
        """Check the attributes, and those that are instructions to Customer.io."""
        yield from check_moment("timestamp", self.timestamp)
        yield from check_attributes(self.attributes)
        yield from check_moment("attributes._timestamp", self.attributes.get("_timestamp"))
        if not isinstance(self.attributes.get("_update", True), bool):
            yield Violation(field="attributes._update", problem="is neither true nor false")

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        person = self.person()
        return json_request("PUT", person_path(person), self._profile(person))

    def operation(self) -> dict[str, JSON] | None:
        """Return the v2 form, unless an attribute may do something else there."""
        if not _V1_ONLY.isdisjoint(self.attributes):
            return None
        profile = self._profile(self.person())
        timestamp = profile.pop("_timestamp", None)
        dated: dict[str, JSON] = {} if timestamp is None else {"timestamp": timestamp}
        return self.person_operation("identify", attributes=profile, **dated)

    def _profile(self, person: Address) -> dict[str, JSON]:
        body: dict[str, JSON] = {}
        if self.email and self.email != person.value:
            body["email"] = self.email
        body.update(self.attributes)
        if self.timestamp is not None:
            body["_timestamp"] = self.timestamp
        return body


# Attributes whose effect in v2 is not documented, or differs from v1's.
_V1_ONLY = frozenset({"id", "cio_id", "anonymous_id", "cio_relationships"})


@call_class
class Destroy(ToPerson):
    """Delete a person; a later call creates them anew."""

    name_of_call: ClassVar = "destroy"
    about: ClassVar = "Deletes a person."

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        return HttpRequest(method="DELETE", path=person_path(self.person()))

    def operation(self) -> dict[str, JSON]:
        """Return the v2 form."""
        return self.person_operation("delete")


@call_class
class Suppress(ToPerson):
    """Delete a person for good; Customer.io ignores all later calls to them."""

    name_of_call: ClassVar = "suppress"
    about: ClassVar = "Deletes a person, and ignores all that is sent about them later."

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        return json_request("POST", f"{person_path(self.person())}/suppress", {})

    def operation(self) -> dict[str, JSON]:
        """Return the v2 form."""
        return self.person_operation("suppress")


@call_class
class Unsuppress(ToPerson):
    """Accept calls to a person again; what was deleted stays deleted."""

    name_of_call: ClassVar = "unsuppress"
    about: ClassVar = "Ends that a person is suppressed."

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        return json_request("POST", f"{person_path(self.person())}/unsuppress", {})

    def operation(self) -> dict[str, JSON]:
        """Return the v2 form."""
        return self.person_operation("unsuppress")


@call_class
class Merge(Call):
    """Merge one person into another, for good; each is named by one identifier: ``{"id": "42"}``."""

    name_of_call: ClassVar = "merge"
    about: ClassVar = "Makes two people one: what is known of `from` goes to `into`."
    into: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who stays.",
        example="{id: =user.id}",
        examples=({"id": "=user.id"},),
        keys=keys_of(ToPerson),
    )
    from_: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who goes up in the other.",
        example="{id: =old.id}",
        examples=({"id": "=old.id"},),
        keys=keys_of(ToPerson),
    )

    def lanes(self, connection: str, _address: Address | None, /) -> tuple[int, ...]:
        """Return the lanes of both people."""
        people = (resolve_person(self.into), resolve_person(self.from_))
        return tuple(sorted({lane_number(connection, person.lane_key) for person in people if person is not None}))

    def own_violations(self, _text: str | None, /) -> Iterator[Violation]:
        """Check that two different people are named, each by one identifier."""
        lane_keys = []
        for field, identifiers in (("into", self.into), ("from", self.from_)):
            person = resolve_person(identifiers)
            if person is None:
                yield Violation(field=field, problem=f"names nobody; write  {field}: {{id: =…}}")
            elif person.kind == "anonymous_id" or len(identifiers) > 1:
                yield Violation(field=field, problem="has to be one of id, email, cio_id")
            else:
                yield from check_address(field, person)
            lane_keys.append(person and person.lane_key)
        if lane_keys[0] is not None and lane_keys[0] == lane_keys[1]:
            yield Violation(field="from", problem="is the same person as 'into'; nobody is merged into themselves")

    def request(self) -> HttpRequest:
        """Return the v1 form."""
        return json_request("POST", "/api/v1/merge_customers", self._people())

    def operation(self) -> dict[str, JSON]:
        """Return the v2 form."""
        return {"type": "person", "action": "merge", **self._people()}

    def _people(self) -> dict[str, JSON]:
        return {"primary": identifiers_of(self.into), "secondary": identifiers_of(self.from_)}


def identifiers_of(named: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the one identifier of a person as v2 and a merge take it."""
    person = resolve_person(named)
    assert person is not None, "translation and client refuse what names nobody"
    return {person.kind: person.value}
