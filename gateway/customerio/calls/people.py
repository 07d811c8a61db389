"""Calls that create, update, delete, suppress or merge people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from gateway.customerio.calls.addresses import IDENTIFIERS, Address, check_address, lane_number, resolve_person
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Key, Kind, call_class, declared_keys, key, shared
from gateway.customerio.limits import Violation, check_attributes, check_moment, check_text_attributes
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON

# Keys that calls of several families have.
ID = Key(kind=Kind.IDENTIFIER, about="The id of the person.", examples=("=user.id",))
EMAIL = Key(kind=Kind.IDENTIFIER, about="The email address of the person.", examples=("=lower(trim(user.email))",))
WHEN = "When it happened, in unix seconds."
TIMESTAMP = Key(kind=Kind.TIMESTAMP, about=WHEN, examples=("=unix(created_at)", "=created"), check=check_moment)
ATTRIBUTES = Key(
    kind=Kind.ATTRIBUTES,
    about="Attributes by name, which stays flat; an expression that gives null leaves its attribute out.",
)
SHORT_ATTRIBUTES = replace(ATTRIBUTES, check=check_attributes)
TEXT_ATTRIBUTES = replace(ATTRIBUTES, kind=Kind.TEXTS, check=check_text_attributes)


@call_class
class ToPerson(Call):
    """A call to one known person."""

    id: str | None = shared(ID, default=None)
    email: str | None = shared(EMAIL, default=None)
    cio_id: str | None = key(
        Kind.IDENTIFIER, about="The person's id at Customer.io.", examples=("=user.cio_id",), default=None
    )

    def person(self) -> Address:
        """Return the address of a call that has one."""
        address = self.address()
        assert address is not None, "translation and client refuse a call without an address"
        return address

    def person_path(self) -> str:
        """Return the v1 path of the person."""
        person = self.person()
        return f"/api/v1/customers/{path_segment(f'cio_{person.value}' if person.kind == 'cio_id' else person.value)}"

    def person_operation(self, action: str, **details: JSON) -> dict[str, JSON]:
        """Return a v2 operation on the person."""
        person = self.person()
        return {"type": "person", "identifiers": {person.kind: person.value}, "action": action, **details}


@call_class
class Identify(ToPerson):
    """Create or update a person."""

    name_of_call: ClassVar = "identify"
    about: ClassVar = "Creates or updates a person."
    creates_person: ClassVar = True
    attributes: Mapping[str, JSON] = shared(SHORT_ATTRIBUTES, default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)

    def other_violations(self) -> Iterator[Violation]:
        """Check the attributes that are instructions to Customer.io."""
        yield from check_moment("attributes._timestamp", self.attributes.get("_timestamp"))
        if not isinstance(self.attributes.get("_update", True), bool):
            yield Violation(field="attributes._update", problem="is neither true nor false")

    def request(self) -> HttpRequest:
        return json_request("PUT", self.person_path(), self._profile())

    def operation(self) -> dict[str, JSON] | None:
        """Return the v2 form, unless an attribute may do something else there."""
        if not _V1_ONLY.isdisjoint(self.attributes):
            return None
        profile = self._profile()
        timestamp = profile.pop("_timestamp", None)
        dated: dict[str, JSON] = {} if timestamp is None else {"timestamp": timestamp}
        return self.person_operation("identify", attributes=profile, **dated)

    def _profile(self) -> dict[str, JSON]:
        body: dict[str, JSON] = {}
        if self.email and self.email != self.person().value:
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

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lanes of the person's first two identifiers: older calls to either are not sent any more."""
        named = (resolve_person({name: getattr(self, name)}) for name in IDENTIFIERS if getattr(self, name, None))
        lanes = dict.fromkeys(lane_number(connection, person.lane_key) for person in named if person is not None)
        return tuple(sorted([*lanes][:2]))

    def request(self) -> HttpRequest:
        return HttpRequest(method="DELETE", path=self.person_path())

    def operation(self) -> dict[str, JSON]:
        return self.person_operation("delete")


@call_class
class _Suppression(ToPerson):
    def request(self) -> HttpRequest:
        return json_request("POST", f"{self.person_path()}/{self.name_of_call}", {})

    def operation(self) -> dict[str, JSON]:
        return self.person_operation(self.name_of_call)


@call_class
class Suppress(_Suppression):
    """Delete a person for good; Customer.io ignores all later calls to them."""

    name_of_call: ClassVar = "suppress"
    about: ClassVar = "Deletes a person, and ignores all later calls to them."


@call_class
class Unsuppress(_Suppression):
    """Accept calls to a person again; what was deleted stays deleted."""

    name_of_call: ClassVar = "unsuppress"
    about: ClassVar = "Accepts calls to a suppressed person again."


@call_class
class Merge(Call):
    """Merge one person into another, for good; each is named by one identifier: ``{"id": "42"}``."""

    name_of_call: ClassVar = "merge"
    about: ClassVar = "Merges the person `from` into the person `into`, for good."
    into: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who stays.",
        example="{id: =user.id}",
        examples=({"id": "=user.id"},),
        keys=declared_keys(ToPerson),
    )
    from_: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who is merged into the other.",
        example="{id: =old.id}",
        examples=({"id": "=old.id"},),
        keys=declared_keys(ToPerson),
    )

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lanes of both people."""
        people = (resolve_person(self.into), resolve_person(self.from_))
        return tuple(sorted({lane_number(connection, person.lane_key) for person in people if person is not None}))

    def other_violations(self) -> Iterator[Violation]:
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
        return json_request("POST", "/api/v1/merge_customers", self._people())

    def operation(self) -> dict[str, JSON]:
        return {"type": "person", "action": "merge", **self._people()}

    def _people(self) -> dict[str, JSON]:
        return {"primary": identifiers_of(self.into), "secondary": identifiers_of(self.from_)}


def identifiers_of(named: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the identifier of one of several people, as v2 and a merge take it."""
    person = resolve_person(named)
    assert person is not None, "translation and client refuse a person without an identifier"
    return {person.kind: person.value}
