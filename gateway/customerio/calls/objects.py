"""Calls that create, update or delete objects, and relate people to them. They have no v1 form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from gateway.customerio.calls.addresses import check_address, lane_number, resolve_person
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Kind, call_class, declared_keys, key, shared
from gateway.customerio.calls.people import SHORT_ATTRIBUTES, ToPerson, identifiers_of
from gateway.customerio.limits import MAX_ID_BYTES, Violation, check_attributes, check_text
from gateway.customerio.wire import MAX_ITEM_BYTES, dump
from gateway.event import JSON

_RELATIONSHIP = {"attributes": SHORT_ATTRIBUTES}
_check_id = partial(check_text, limit=MAX_ID_BYTES)


class _OnlyV2(Call):
    """A call that has no v1 form, so it may not be larger than a v2 entity."""

    largest_key: ClassVar[str]

    def violations(self, text: str | None = None) -> list[Violation]:
        """Return the violations of the keys, or that the whole is too large."""
        problems = super().violations(text)
        if not problems and (size := len(dump(self.operation()))) > MAX_ITEM_BYTES:
            problem = f"is {size} bytes of JSON; Customer.io takes {MAX_ITEM_BYTES}"
            problems.append(Violation(field=self.largest_key, problem=problem))
        return problems


@call_class
class ToObject(_OnlyV2):
    """A call to one object."""

    largest_key: ClassVar = "attributes"
    object_type_id: str = key(
        Kind.TEXT, about="The type of the object.", example='"1"', examples=("1",), check=_check_id
    )
    object_id: str = key(
        Kind.REFERENCE,
        about="The id of the object.",
        example="=company.id",
        examples=("=company.id",),
        check=_check_id,
    )

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lane of the object."""
        return (lane_number(connection, "object:" + json.dumps([self.object_type_id, self.object_id])),)


def _check_relationship(place: str, member: Mapping[str, Any]) -> Iterable[Violation]:
    attributes = member.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        return [Violation(field=f"{place}.attributes", problem="has to be an object")]
    return check_attributes(f"{place}.attributes", attributes)


def _check_people(field: str, people: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    for number, member in enumerate(people):
        place = f"{field}[{number}]"
        person = resolve_person(member)
        if person is None or person.kind == "anonymous_id":
            yield Violation(field=place, problem="names nobody; it needs an id, email or cio_id")
        else:
            yield from check_address(place, person)
        yield from _check_relationship(place, member)


@call_class
class IdentifyObject(ToObject):
    """Create or update an object, and relate people to it.

    Attributes:
        people: Each has an identifier and, if wanted, the ``attributes`` of the relationship.
    """

    name_of_call: ClassVar = "identify_object"
    about: ClassVar = "Creates or updates an object, such as a company."
    attributes: Mapping[str, JSON] = shared(SHORT_ATTRIBUTES, default_factory=dict)
    people: Sequence[Mapping[str, JSON]] = key(
        Kind.MEMBERS,
        about="People to relate: a list, or an expression that gives one.",
        examples=("=members[].{id: id}",),
        keys={**declared_keys(ToPerson), **_RELATIONSHIP},
        check=_check_people,
        default_factory=list,
    )

    def operation(self) -> dict[str, JSON]:
        operation: dict[str, JSON] = {"type": "object", "identifiers": _object_ids(vars(self)), "action": "identify"}
        operation["attributes"] = dict(self.attributes)
        if self.people:
            operation["cio_relationships"] = [
                _relationship(identifiers_of(person), person.get("attributes")) for person in self.people
            ]
        return operation


@call_class
class DeleteObject(ToObject):
    """Delete an object."""

    name_of_call: ClassVar = "delete_object"
    about: ClassVar = "Deletes an object."

    def operation(self) -> dict[str, JSON]:
        return {"type": "object", "identifiers": _object_ids(vars(self)), "action": "delete"}


def _check_objects(field: str, objects: Sequence[Mapping[str, Any]]) -> Iterator[Violation]:
    if not objects:
        yield Violation(field=field, problem="is empty; name one object at least")
    for number, member in enumerate(objects):
        for name in ("object_type_id", "object_id"):
            value = member.get(name)
            place = f"{field}[{number}].{name}"
            yield from (
                _check_id(place, value) if isinstance(value, str) else [Violation(field=place, problem="is missing")]
            )
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
    return {"object_type_id": named["object_type_id"], "object_id": named["object_id"]}


def _relationship(identifiers: JSON, attributes: JSON) -> JSON:
    return {"identifiers": identifiers, **({"relationship_attributes": attributes} if attributes else {})}
