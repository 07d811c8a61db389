"""Calls that create, update or delete objects, and relate people to them. They have no v1 form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from gateway.customerio.calls.addresses import check_identifiers, lane_number, resolve_person, trimmed_person
from gateway.customerio.calls.attributes import OBJECT
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Kind, call_class, declared_keys, key, shared
from gateway.customerio.calls.people import ANONYMOUS_ID, KNOWN_PERSON, ToPerson, attributes_with, identifiers_of
from gateway.customerio.limits import MAX_ID_BYTES, Violation, check_text
from gateway.event import JSON

_ATTRIBUTES = attributes_with(OBJECT)
_RELATIONSHIP = {"attributes": _ATTRIBUTES}
_check_id = partial(check_text, limit=MAX_ID_BYTES)


def object_type_problem(number: str) -> str | None:
    """Return what is wrong with the type of an object, or None."""
    return None if _OBJECT_TYPE.fullmatch(number) else "is not the number of a type of objects, such as 1"


_OBJECT_TYPE = re.compile(r"[1-9][0-9]{0,17}")


class _OnlyV2(Call):
    """A call that has no v1 form, so it may not be larger than a v2 entity."""

    @property
    def has_v1_form(self) -> bool:
        return False


@call_class
class ToObject(_OnlyV2):
    """A call to one object, which is named by its type and id, or by the id that Customer.io gave it."""

    object_type_id: str | None = key(
        Kind.TEXT,
        about="The number that Customer.io gave the type of the object.",
        example='"1"',
        examples=("1",),
        problem=object_type_problem,
        unless="cio_object_id",
        default=None,
    )
    object_id: str | None = key(
        Kind.REFERENCE,
        about="The id of the object.",
        example="=company.id",
        examples=("=company.id",),
        check=_check_id,
        unless="cio_object_id",
        default=None,
    )
    cio_object_id: str | None = key(
        Kind.REFERENCE,
        about="The object's id at Customer.io, instead of its type and id; it creates none.",
        examples=("=company.cio_object_id",),
        check=_check_id,
        default=None,
    )

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lane of the object."""
        if self.cio_object_id:
            return (lane_number(connection, f"cio_object:{self.cio_object_id}"),)
        return (lane_number(connection, "object:" + json.dumps([self.object_type_id, self.object_id])),)

    def other_violations(self) -> Iterator[Violation]:
        """Check that the call names an object."""
        return _check_object("", vars(self))

    def object_operation(self, action: str, **details: JSON) -> dict[str, JSON]:
        """Return a v2 operation on the object."""
        return {"type": "object", "identifiers": _object_ids(vars(self)), "action": action, **details}


def _check_object(place: str, named: Mapping[str, Any]) -> Iterator[Violation]:
    """Check that an object is named; *place* stands before the keys in the path of a field."""
    for name in () if named.get("cio_object_id") else ("object_type_id", "object_id"):
        if not named.get(name):
            problem = "is missing or null; an object is named by object_type_id and object_id, or by cio_object_id"
            yield Violation(field=f"{place}{name}", problem=problem)


def _check_relationship(place: str, member: Mapping[str, Any]) -> Iterable[Violation]:
    attributes = member.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        return [Violation(field=f"{place}.attributes", problem="has to be an object")]
    return OBJECT.check(f"{place}.attributes", attributes)


def _check_people(field: str, people: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    kinds = set()
    for number, member in enumerate(people):
        place = f"{field}[{number}]"
        person = resolve_person(member)
        if person is None or person.kind not in _RELATED_PERSON:
            yield Violation(field=place, problem=f"names nobody; it needs one of {', '.join(_RELATED_PERSON)}")
        else:
            yield from check_identifiers(f"{place}.", member)
            kinds.add(person.kind == "anonymous_id")
        yield from _check_relationship(place, member)
    if len(kinds) > 1:
        problem = "holds known and anonymous people, which Customer.io takes in two calls only: write a call for each"
        yield Violation(field=field, problem=problem)


def _trimmed_people(people: Any) -> Any:
    return [trimmed_person(person) for person in people] if isinstance(people, list) else people


_RELATED_PERSON = {**KNOWN_PERSON, "anonymous_id": ANONYMOUS_ID}


@call_class
class IdentifyObject(ToObject):
    """Create or update an object, and relate people to it.

    Attributes:
        people: Each has an identifier and, if wanted, the ``attributes`` of the relationship; either all of them are
            known or all are anonymous.
    """

    name_of_call: ClassVar = "identify_object"
    about: ClassVar = "Creates or updates an object, such as a company."
    attributes: Mapping[str, JSON] = shared(_ATTRIBUTES, default_factory=dict)
    people: Sequence[Mapping[str, JSON]] = key(
        Kind.MEMBERS,
        about="People to relate: a list, or an expression that gives one.",
        examples=("=members[].{id: id}",),
        keys={**_RELATED_PERSON, **_RELATIONSHIP},
        check=_check_people,
        clean=_trimmed_people,
        default_factory=list,
    )

    def operation(self) -> dict[str, JSON]:
        identifiers = [identifiers_of(person) for person in self.people]
        related = [
            _relationship(person_identifiers, person.get("attributes"))
            for person_identifiers, person in zip(identifiers, self.people, strict=True)
        ]
        # All of them are known, or none.
        action = "identify_anonymous" if identifiers and "anonymous_id" in identifiers[0] else "identify"
        operation = self.object_operation(action, attributes=dict(self.attributes))
        return {**operation, "cio_relationships": related} if related else operation


@call_class
class IdentifyAnonymous(ToObject):
    """Create or update an object, and relate a person to it who is not known yet."""

    name_of_call: ClassVar = "identify_anonymous"
    about: ClassVar = "Relates somebody who is not known yet to an object, which it creates or updates."
    anonymous_id: str | None = shared(ANONYMOUS_ID, default=None)
    attributes: Mapping[str, JSON] = shared(_ATTRIBUTES, default_factory=dict)

    def operation(self) -> dict[str, JSON]:
        related = [_relationship({"anonymous_id": self.anonymous_id}, None)]
        return self.object_operation("identify_anonymous", attributes=dict(self.attributes), cio_relationships=related)


@call_class
class DeleteObject(ToObject):
    """Delete an object."""

    name_of_call: ClassVar = "delete_object"
    about: ClassVar = "Deletes an object."
    erases: ClassVar = True

    def operation(self) -> dict[str, JSON]:
        return self.object_operation("delete")


_OBJECT_CHECKS = {name: of.checker for name, of in declared_keys(ToObject).items() if of.checker}


def _check_objects(field: str, objects: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    if not objects:
        yield Violation(field=field, problem="is empty; name one object at least")
    for number, member in enumerate(objects):
        place = f"{field}[{number}]."
        yield from _check_object(place, member)
        for name, check in _OBJECT_CHECKS.items():
            if isinstance(value := member.get(name), str):
                yield from check(f"{place}{name}", value)
        yield from _check_relationship(f"{field}[{number}]", member)


@call_class
class _Relationships(_OnlyV2, ToPerson):
    largest_key: ClassVar = "objects"
    objects: Sequence[Mapping[str, JSON]] = key(
        Kind.MEMBERS,
        about="Objects: a list, or an expression that gives one.",
        example="[{object_type_id: 1, object_id: =company.id}]",
        keys={**declared_keys(ToObject), **_RELATIONSHIP},
        check=_check_objects,
    )

    def operation(self) -> dict[str, JSON]:
        related = [_relationship(_object_ids(member), member.get("attributes")) for member in self.objects]
        return self.person_operation(self.name_of_call, cio_relationships=related)


@call_class
class AddRelationships(_Relationships):
    """Relate a person to objects: each ``object_type_id``, ``object_id`` and, if wanted, ``attributes``."""

    name_of_call: ClassVar = "add_relationships"
    about: ClassVar = "Relates a person to objects."
    creates_person: ClassVar = True


@call_class
class DeleteRelationships(_Relationships):
    """Delete relationships of a person to objects."""

    name_of_call: ClassVar = "delete_relationships"
    about: ClassVar = "Deletes relationships of a person to objects."


def _object_ids(named: Mapping[str, Any]) -> dict[str, JSON]:
    if cio_object_id := named.get("cio_object_id"):
        return {"cio_object_id": cio_object_id}
    return {"object_type_id": named["object_type_id"], "object_id": named["object_id"]}


def _relationship(identifiers: JSON, attributes: JSON) -> JSON:
    return {"identifiers": identifiers, **({"relationship_attributes": attributes} if attributes else {})}
