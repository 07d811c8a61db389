"""Calls that create, update, delete, suppress or merge people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from gateway.customerio.calls.addresses import (
    IDENTIFIERS,
    Address,
    WorkspaceIdentifiers,
    check_identifier,
    check_identifiers,
    lane_number,
    resolve_person,
    trimmed_identifier,
    trimmed_person,
)
from gateway.customerio.calls.attributes import EVENT, PERSON, AttributeRules, with_flat_topics
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Key, Kind, call_class, key, shared
from gateway.customerio.limits import Violation, check_moment
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON

# Keys that calls of several families have.
ID = Key(kind=Kind.IDENTIFIER, about="The id of the person.", examples=("=user.id",))
EMAIL = Key(
    kind=Kind.IDENTIFIER,
    about="The email address of the person.",
    examples=("=lower(trim(user.email))",),
    clean=trimmed_identifier,
)
CIO_ID = Key(kind=Kind.IDENTIFIER, about="The person's id at Customer.io.", examples=("=user.cio_id",))
PHONE = Key(
    kind=Kind.IDENTIFIER,
    about="The phone number of the person, as +14155552671.",
    examples=("=user.phone",),
    clean=trimmed_identifier,
)
ANONYMOUS_ID = Key(
    kind=Kind.IDENTIFIER,
    about="An id of a person who is not known yet; used where all other identifiers are null.",
    examples=("=anonymous_id",),
)
#: The keys of a person who is known, where one of several people is named.
KNOWN_PERSON = {"id": ID, "email": EMAIL, "cio_id": CIO_ID}
WHEN = "When it happened, in unix seconds."
TIMESTAMP = Key(kind=Kind.TIMESTAMP, about=WHEN, examples=("=unix(created_at)", "=created"), check=check_moment)
ATTRIBUTES = Key(
    kind=Kind.ATTRIBUTES,
    about="Attributes by name, which stays flat; an expression that gives null leaves its attribute out.",
    attributes=EVENT,
)


def attributes_with(of: AttributeRules) -> Key:
    """Return the key of attributes that are checked."""
    kind = Kind.TEXTS if of.texts else Kind.ATTRIBUTES
    return replace(ATTRIBUTES, kind=kind, attributes=of, check=of.check)


@call_class
class ToPerson(Call):
    """A call to one known person. A path of v1 takes no phone number, so such a call is sent by v2."""

    id: str | None = shared(ID, default=None)
    email: str | None = shared(EMAIL, default=None)
    cio_id: str | None = shared(CIO_ID, default=None)
    phone: str | None = shared(PHONE, default=None)

    @property
    def has_v1_form(self) -> bool:
        return not self.phone or bool(self.cio_id or self.id or self.email)

    def person(self) -> Address:
        """Return the address of a call that has one."""
        address = self.address()
        assert address is not None, "translation and client refuse a call without an address"
        return address

    def person_path(self) -> str:
        """Return the v1 path of the person."""
        return f"/api/v1/customers/{path_segment(self.person().in_path)}"

    def person_operation(self, action: str, **details: JSON) -> dict[str, JSON]:
        """Return a v2 operation on the person."""
        return {"type": "person", "identifiers": self.person().identifiers, "action": action, **details}

    def operation_for(self, workspace: WorkspaceIdentifiers | None) -> dict[str, JSON] | None:
        operation = self.operation()
        if operation is None or not self.has_v1_form:
            return operation
        person = self.person().as_path_of(workspace)
        if person is None:
            return None
        operation["identifiers"] = person.identifiers
        return operation


@call_class
class Identify(ToPerson):
    """Create or update a person."""

    name_of_call: ClassVar = "identify"
    about: ClassVar = "Creates or updates a person."
    creates_person: ClassVar = True
    attributes: Mapping[str, JSON] = shared(attributes_with(PERSON), default_factory=dict)
    timestamp: int | None = shared(TIMESTAMP, default=None)
    update_only: bool = key(
        Kind.FLAG, about="Updates the person if there is one, and never creates one.", default=False
    )

    def other_violations(self) -> Iterator[Violation]:
        """Check what several keys and attributes say together."""
        if self.update_only and self.attributes.get("_update") is False:
            yield Violation(field="attributes._update", problem="is the opposite of update_only: remove one of them")
        if self.cio_id and self.id:
            yield from check_identifier("id", "id", self.id)
        if not self.has_v1_form:
            for name in sorted(_V1_ONLY.intersection(self.attributes)):
                problem = "cannot be sent for a person who is named by phone; name them by id, email or cio_id"
                yield Violation(field=f"attributes.{name}", problem=problem)

    def v1_request(self) -> HttpRequest:
        return json_request("PUT", self.person_path(), self._profile())

    def operation(self) -> dict[str, JSON] | None:
        """Return the v2 form, unless an attribute may do something else there."""
        profile = self._profile()
        if self.has_v1_form and not _V1_ONLY.isdisjoint(profile):
            return None
        timestamp = profile.pop("_timestamp", None)
        dated: dict[str, JSON] = {} if timestamp is None else {"timestamp": timestamp}
        return self.person_operation("identify", attributes=profile, **dated)

    def _profile(self) -> dict[str, JSON]:
        """Return the attributes, and before them the identifiers beside the one that is the address."""
        address = self.person().kind
        written: dict[str, JSON] = {"id": self.id, "email": self.email, "phone": self.phone}
        body: dict[str, JSON] = {name: value for name, value in written.items() if value and name != address}
        body.update(with_flat_topics(self.attributes))
        if self.update_only:
            body["_update"] = True
        if self.timestamp is not None:
            body["_timestamp"] = self.timestamp
        return body


# Attributes whose effect in v2 is not documented, or differs from v1's.
_V1_ONLY = frozenset({"id", "cio_id", "anonymous_id", "cio_relationships"})


@call_class
class Destroy(ToPerson):
    """Delete a person; a later call creates them anew.

    Attributes:
        timestamp: When the person was deleted, in unix seconds. It is not sent: by it the gateway knows which calls are
            older, and so would make the person anew.
    """

    name_of_call: ClassVar = "destroy"
    about: ClassVar = "Deletes a person."
    erases: ClassVar = True
    timestamp: int | None = shared(TIMESTAMP, default=None)

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lanes of the person's first two identifiers: older calls to either are not sent any more."""
        named = (resolve_person({name: getattr(self, name)}) for name in IDENTIFIERS if getattr(self, name, None))
        lanes = dict.fromkeys(lane_number(connection, person.lane_key) for person in named if person is not None)
        return tuple(sorted([*lanes][:2]))

    def v1_request(self) -> HttpRequest:
        return HttpRequest(method="DELETE", path=self.person_path())

    def operation(self) -> dict[str, JSON]:
        return self.person_operation("delete")


@call_class
class _Suppression(ToPerson):
    def v1_request(self) -> HttpRequest:
        return json_request("POST", f"{self.person_path()}/{self.name_of_call}", {})

    def operation(self) -> dict[str, JSON]:
        return self.person_operation(self.name_of_call)


@call_class
class Suppress(_Suppression):
    """Delete a person for good; Customer.io ignores all later calls to them."""

    name_of_call: ClassVar = "suppress"
    about: ClassVar = "Deletes a person, and ignores all later calls to them."
    erases: ClassVar = True


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
    erases: ClassVar = True
    into: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who stays.",
        example="{id: =user.id}",
        examples=({"id": "=user.id"},),
        keys=KNOWN_PERSON,
        clean=trimmed_person,
    )
    from_: Mapping[str, str] = key(
        Kind.PERSON,
        about="The person who is merged into the other.",
        example="{id: =old.id}",
        examples=({"id": "=old.id"},),
        keys=KNOWN_PERSON,
        clean=trimmed_person,
    )

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lanes of both people."""
        people = (resolve_person(self.into), resolve_person(self.from_))
        return tuple(sorted({lane_number(connection, person.lane_key) for person in people if person is not None}))

    def other_violations(self) -> Iterator[Violation]:
        """Check that two different people are named, each by one identifier."""
        people = []
        for field, identifiers in (("into", self.into), ("from", self.from_)):
            person = resolve_person(identifiers)
            if person is None:
                yield Violation(field=field, problem=f"names nobody; write  {field}: {{id: =…}}")
            elif person.kind not in KNOWN_PERSON or len(identifiers) > 1:
                yield Violation(field=field, problem="has to be one of id, email, cio_id")
            else:
                yield from check_identifiers(f"{field}.", identifiers)
                people.append((person.kind, person.value.lower() if person.kind == "email" else person.value))
        if len(people) > len(set(people)):
            yield Violation(field="from", problem="is the same person as 'into'; nobody is merged into themselves")

    def v1_request(self) -> HttpRequest:
        return json_request("POST", "/api/v1/merge_customers", self._people())

    def operation(self) -> dict[str, JSON]:
        return {"type": "person", "action": "merge", **self._people()}

    def _people(self) -> dict[str, JSON]:
        return {"primary": identifiers_of(self.into), "secondary": identifiers_of(self.from_)}


def identifiers_of(named: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the identifier of one of several people, as v2 and a merge take it."""
    person = resolve_person(named)
    assert person is not None, "translation and client refuse a person without an identifier"
    return person.identifiers
