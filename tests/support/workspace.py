"""What the stand-in for Customer.io's Track API knows: the operations, the rules that they have to keep, and the
people, devices, objects and relationships that they leave behind, whichever version of the API brought them."""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from gateway.event import JSON

#: Bytes of an operation of v2. Customer.io says 32 kb, and not whether its kb has 1,000 bytes or 1,024.
MAX_OPERATION = 32_000

Attributes: TypeAlias = dict[str, Any]
#: Given an operation, says why it is refused, if it is (see `Workspace`).
RefuseItem: TypeAlias = Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One operation that keeps the rules, in the one form to which both versions of the API are brought.

    Attributes:
        kind: As in `Operation`.
        subjects: The keys of whom or what it is about, as ``id:42`` or ``object:1:acme``: two for a merge,
            primary first, and any number for a segment.
        body: What v1 sends. Where v1 has no such operation: what v2 sends, without what stands in *kind* and
            *subjects*.
    """

    kind: str
    subjects: tuple[str, ...]
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation that was applied.

    Attributes:
        kind: identify, delete, event, page, screen, add_device, delete_device, suppress, unsuppress, merge,
            add_relationships, delete_relationships, form, add_to_segment or remove_from_segment; of an object:
            object_identify, object_identify_anonymous, object_delete, object_add_relationships or
            object_delete_relationships.
        body: In v1's form, whichever version it came by.
        at: The monotonic clock when it was applied, in seconds.
    """

    kind: str
    body: Mapping[str, JSON]
    at: float


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One request, or with status 207 one item of a batch, that the stand-in itself would not take, and why."""

    status: int
    method: str
    target: bytes
    errors: tuple[str, ...]


class RefusedError(Exception):
    """Something that the API does not take; *field* and *reason* are what v2 says beside the message."""

    def __init__(self, message: str, *, status: int = 400, field: str = "request", reason: str = "invalid") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.reason = reason

    def as_json(self) -> dict[str, JSON]:
        return {"reason": self.reason, "field": self.field, "message": self.message}


class Workspace:
    """What the API has taken, behind one lock.

    Args:
        region: us or eu.
        refuse_item: Called with every operation that keeps the rules, single or in a batch, before it is applied:
            ``{"kind": "event", "person": "id:42", "body": {"name": "Paid", ...}}``, where *kind* and *body* are
            those of `Operation` and *person* is the first key of `Change.subjects`, an object's too. What it
            returns, if anything, is the message with which the operation is refused.
    """

    def __init__(self, *, site_id: str, api_key: str, region: str, refuse_item: RefuseItem) -> None:
        self.authorization = "Basic " + base64.b64encode(f"{site_id}:{api_key}".encode()).decode()
        self.region = region
        self.lock = threading.Lock()
        self.model = Model()
        self.log: dict[str, list[Operation]] = {}
        self.applied = 0
        self.repeats = 0
        self.singles = 0
        self.batches: list[int] = []
        self.refused: list[Refusal] = []
        self.conflicts: list[Operation] = []
        self._refuse_item = refuse_item
        self._events: dict[str, object] = {}

    def apply(self, change: Change) -> None:
        """Apply a change, unless the real API would do nothing either.

        Raises:
            RefusedError: The test that made the workspace refuses it.
        """
        told = {"kind": change.kind, "person": change.subjects[0], "body": change.body}
        if message := self._refuse_item(told):
            raise RefusedError(message, field="operation")
        with self.lock:
            operation = Operation(kind=change.kind, body=change.body, at=time.monotonic())
            if not self.model.heeds(change) or self._is_repeat(change, operation):
                return
            self.model.apply(change)
            self.applied += 1
            for subject in change.subjects:
                self.log.setdefault(subject, []).append(operation)

    def count_single(self) -> None:
        with self.lock:
            self.singles += 1

    def count_batch(self, operations: int) -> None:
        with self.lock:
            self.batches.append(operations)

    def note_refusal(self, method: str, target: bytes, refused: RefusedError) -> None:
        refusal = Refusal(status=refused.status, method=method, target=target, errors=(refused.message,))
        with self.lock:
            self.refused.append(refusal)

    def state(self) -> dict[str, Any]:
        """Give everything that the operations have left, and the operations of each subject, without times."""
        with self.lock:
            log = {
                subject: [(each.kind, _comparable(each)) for each in operations]
                for subject, operations in self.log.items()
            }
            return copy.deepcopy({**self.model.as_json(), "log": log})

    def _is_repeat(self, change: Change, operation: Operation) -> bool:
        if change.kind not in _EVENTS or "id" not in change.body:
            return False
        this = (change.subjects, _comparable(operation))
        first = self._events.setdefault(change.body["id"].upper(), this)
        if first is this:
            return False
        self.repeats += 1
        if first != this:
            self.conflicts.append(operation)
        return True


def _comparable(operation: Operation) -> dict[str, Any]:
    """Write out what v1 lets an event leave away and v2 does not, or the other way round."""
    defaults = {"type": operation.kind, "data": {}} if operation.kind in _EVENTS else {}
    return {**defaults, **operation.body}


class Model:
    """People, devices, objects and relationships as the changes have left them.

    Each identifier is a person of its own: that an id and an email may be the same one's is not known here. A
    person exists from the first identify on.

    Attributes:
        people, objects: Attributes by key.
        devices: By person and token.
        relationships: Their attributes by person and object.
        segments: The people in each.
    """

    def __init__(self) -> None:
        self.people: dict[str, Attributes] = {}
        self.devices: dict[str, dict[str, Attributes]] = {}
        self.objects: dict[str, Attributes] = {}
        self.relationships: dict[str, dict[str, Attributes]] = {}
        self.segments: dict[str, set[str]] = {}
        self.suppressed: set[str] = set()

    def heeds(self, change: Change) -> bool:
        """Tell whether a change does anything; the real API takes it in either case and says nothing."""
        if change.kind in ("suppress", "unsuppress"):
            return True
        if self.suppressed.issuperset(change.subjects):
            return False
        exists = change.subjects[0] in self.people
        must_exist = change.kind == "merge" or (change.kind == "identify" and change.body.get("_update") is True)
        return exists or not must_exist

    def apply(self, change: Change) -> None:
        if change.kind in _EFFECTS:
            _EFFECTS[change.kind](self, change)

    def as_json(self) -> dict[str, Any]:
        return {
            "people": self.people,
            "devices": _but_empty(self.devices),
            "objects": self.objects,
            "relationships": _but_empty(self.relationships),
            "segments": _but_empty(self.segments),
            "suppressed": self.suppressed,
        }

    def _identify(self, change: Change) -> None:
        (person,) = change.subjects
        attributes = {name: value for name, value in change.body.items() if name not in _INSTRUCTIONS}
        self.people.setdefault(person, {}).update(attributes)
        if told := change.body.get("cio_relationships"):
            act = self._relate if told["action"] == "add_relationships" else self._unrelate
            act(person, told["relationships"])

    def _delete(self, change: Change) -> None:
        self._remove(change.subjects[0])

    def _suppress(self, change: Change) -> None:
        self._remove(change.subjects[0])
        self.suppressed.update(change.subjects)

    def _unsuppress(self, change: Change) -> None:
        self.suppressed.difference_update(change.subjects)

    def _remove(self, person: str) -> None:
        self.people.pop(person, None)
        self.devices.pop(person, None)
        self.relationships.pop(person, None)
        for members in self.segments.values():
            members.discard(person)

    def _merge(self, change: Change) -> None:
        primary, secondary = change.subjects
        self.people[primary] = {**self.people.get(secondary, {}), **self.people[primary]}
        for owned in (self.devices, self.relationships):
            owned[primary] = {**owned.get(secondary, {}), **owned.get(primary, {})}
        for members in self.segments.values():
            if secondary in members:
                members.add(primary)
        self._remove(secondary)

    def _add_device(self, change: Change) -> None:
        told = change.body["device"]
        device = self.devices.setdefault(change.subjects[0], {}).setdefault(told["id"], {"attributes": {}})
        device.update({name: told[name] for name in ("platform", "last_used") if name in told})
        device["attributes"].update(told.get("attributes", {}))

    def _delete_device(self, change: Change) -> None:
        self.devices.get(change.subjects[0], {}).pop(change.body["device"]["id"], None)

    def _add_to_segment(self, change: Change) -> None:
        self.segments.setdefault(change.body["segment_id"], set()).update(set(change.subjects) - self.suppressed)

    def _remove_from_segment(self, change: Change) -> None:
        self.segments.get(change.body["segment_id"], set()).difference_update(change.subjects)

    def _identify_object(self, change: Change) -> None:
        (thing,) = change.subjects
        _settle(self.objects.setdefault(thing, {}), change.body.get("attributes", {}))
        self._relate(thing, change.body.get("cio_relationships", []))

    def _delete_object(self, change: Change) -> None:
        (thing,) = change.subjects
        self.objects.pop(thing, None)
        for related in self.relationships.values():
            related.pop(thing, None)

    def _add_relationships(self, change: Change) -> None:
        self._relate(change.subjects[0], change.body["cio_relationships"])

    def _delete_relationships(self, change: Change) -> None:
        self._unrelate(change.subjects[0], change.body["cio_relationships"])

    def _relate(self, subject: str, listed: list[Attributes]) -> None:
        for person, thing, attributes in _relationships(subject, listed):
            if person not in self.suppressed:
                _settle(self.relationships.setdefault(person, {}).setdefault(thing, {}), attributes)

    def _unrelate(self, subject: str, listed: list[Attributes]) -> None:
        for person, thing, _ in _relationships(subject, listed):
            self.relationships.get(person, {}).pop(thing, None)


def _but_empty(named: dict[str, Any]) -> dict[str, Any]:
    return {name: held for name, held in named.items() if held}


def _settle(attributes: Attributes, told: Attributes) -> None:
    """Take attributes of an object or a relationship over: null or "" removes one."""
    for name, value in told.items():
        if value in (None, ""):
            attributes.pop(name, None)
        else:
            attributes[name] = value


def _relationships(subject: str, listed: list[Attributes]) -> Iterator[tuple[str, str, Attributes]]:
    """Go through relationships of a person or an object: person, object, attributes."""
    for each in listed:
        other, attributes = _named(each["identifiers"], _ANYTHING), each.get("relationship_attributes", {})
        yield (other, subject, attributes) if subject.startswith("object:") else (subject, other, attributes)


# Of the other kinds the log is all there is.
_EFFECTS: dict[str, Callable[[Model, Change], None]] = {
    "identify": Model._identify,
    "delete": Model._delete,
    "suppress": Model._suppress,
    "unsuppress": Model._unsuppress,
    "merge": Model._merge,
    "add_device": Model._add_device,
    "delete_device": Model._delete_device,
    "add_relationships": Model._add_relationships,
    "delete_relationships": Model._delete_relationships,
    "add_to_segment": Model._add_to_segment,
    "remove_from_segment": Model._remove_from_segment,
    "object_identify": Model._identify_object,
    "object_identify_anonymous": Model._identify_object,
    "object_delete": Model._delete_object,
    "object_add_relationships": Model._add_relationships,
    "object_delete_relationships": Model._delete_relationships,
}


# Whom and what an operation is about: the keys that may name somebody or something in a body, and what they say.

_PERSON = (("id",), ("email",), ("cio_id",))
_ANONYMOUS = (("anonymous_id",),)
_OBJECT = (("object_type_id", "object_id"),)
_ANYTHING = (*_PERSON, *_ANONYMOUS, *_OBJECT)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
# Bytes. Where none is documented, an attribute's holds.
_LIMITS = {"id": 150, "object_type_id": 150, "object_id": 150, "event": 100, "screen": 100}


def person_key(identifier: str) -> str:
    """Say whom v1 takes an identifier in a path for."""
    if identifier.startswith("cio_") and identifier != "cio_":
        return f"cio_id:{identifier.removeprefix('cio_')}"
    if _EMAIL.fullmatch(identifier):
        return f"email:{identifier.lower()}"
    return f"id:{identifier}"


def person_in_path(segment: str) -> str:
    """Check the identifier in a path, and give its person's key."""
    person = person_key(segment)
    kind, _, value = person.partition(":")
    _text(value, "the identifier in the path", limit=_LIMITS.get(kind, 1000))
    return person


def object_key(object_type_id: str, object_id: str) -> str:
    return f"object:{object_type_id}:{object_id}"


def _named(identifiers: JSON, kinds: tuple[tuple[str, ...], ...], field: str = "identifiers") -> str:
    """Give the key of whom or what identifiers in a body name; their kind is said there, and never guessed."""
    for names in kinds:
        if isinstance(identifiers, dict) and identifiers.keys() == set(names):
            values = [_identifier(name, identifiers[name], f"{field}.{name}") for name in names]
            return object_key(*values) if names in _OBJECT else f"{names[0]}:{values[0]}"
    alternatives = " or ".join(" and ".join(names) for names in kinds)
    raise RefusedError(f"{field} must have exactly {alternatives}", field=field)


def _identifier(kind: str, value: JSON, field: str) -> str:
    text = _text(value, kind, limit=_LIMITS.get(kind, 1000), field=field)
    if kind == "cio_id" and text.startswith("cio_"):
        raise RefusedError("a cio_id begins with cio_ only in a path", field=field)
    if kind == "email" and not _EMAIL.fullmatch(text):
        raise RefusedError("email must be an address", field=field)
    return text.lower() if kind == "email" else text


# The operations: each function checks one, and gives it in the form that both versions are brought to. Messages
# are in v1's words, fields in v2's, which alone tells them.

_EVENTS = ("event", "page", "screen")
_EVENT_KEYS = frozenset({"name", "type", "id", "timestamp", "data"})
_INSTRUCTIONS = frozenset({"_update", "_timestamp", "cio_relationships", "cio_subscription_preferences"})
_BESIDE_ATTRIBUTES = frozenset({"_timestamp", "cio_relationships"})  # there they stand in v2
_PREFERENCES = "cio_subscription_preferences"
_PREFERENCE = re.compile(r"topics\.topic_\w+")
_FORM_IGNORES = frozenset({"form_id", "form_name", "form_type", "form_url", "form_url_param"})
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def identify(person: str, body: dict[str, Any]) -> Change:
    attributes = {name: value for name, value in body.items() if name not in _BESIDE_ATTRIBUTES}
    _check_attributes(attributes, "attributes")
    for name, field in (("_timestamp", "timestamp"), ("created_at", "attributes.created_at")):
        if body.get(name) is not None:
            _check_timestamp(body[name], name, field)
    if not isinstance(body.get("_update", False), bool):
        raise RefusedError("_update must be true or false", field="attributes._update")
    _check_identifiers(person, body)
    _check_preferences(body)
    if "cio_relationships" in body:
        told = _checked(body["cio_relationships"], "cio_relationships", required="action relationships")
        if told["action"] not in ("add_relationships", "delete_relationships"):
            raise RefusedError("action must be add_relationships or delete_relationships")
        _check_relationships(told["relationships"], _OBJECT)
    return Change(kind="identify", subjects=(person,), body=body)


def bare(kind: str, person: str) -> Change:
    """Make a delete, suppress or unsuppress, which say nothing but whom they are about."""
    return Change(kind=kind, subjects=(person,), body={})


def event(person: str, body: dict[str, Any]) -> Change:
    return _event(person, body, keys=_EVENT_KEYS)


def anonymous_event(body: dict[str, Any]) -> Change:
    keys = _EVENT_KEYS | {"anonymous_id"}
    if "anonymous_id" in body:
        return _event(_named({"anonymous_id": body["anonymous_id"]}, _ANONYMOUS), body, keys=keys)
    data = body.get("data")
    if not (isinstance(data, dict) and data.get("recipient")):
        raise RefusedError("an event without anonymous_id needs data.recipient")
    return _event(f"invite:{data['recipient']}", body, keys=keys)


def _event(subject: str, body: dict[str, Any], *, keys: frozenset[str]) -> Change:
    """Check an event, and give it as it is kept: spaces around its name are dropped."""
    if unknown := body.keys() - keys:
        raise RefusedError(f"unknown keys in an event: {sorted(unknown)}")
    kind = body.get("type", "event")
    if kind not in _EVENTS:
        raise RefusedError("type must be event, page or screen", field="action")
    if "id" in body and not (isinstance(body["id"], str) and _ULID.fullmatch(body["id"])):
        raise RefusedError("id must be a ULID", field="id")
    if "timestamp" in body:
        _check_timestamp(body["timestamp"], "timestamp", "timestamp")
    _check_hash(body.get("data", {}), "event data", "attributes")
    name = _text(body.get("name"), "event name", limit=_LIMITS.get(kind, 1000), field="name")
    return Change(kind=kind, subjects=(subject,), body={**body, "name": name.strip()})


def add_device(person: str, body: dict[str, Any]) -> Change:
    device = _checked(body, "body", required="device")["device"]
    device = _checked(device, "device", required="id platform", optional="last_used attributes")
    _text(device["id"], "device id", limit=1000, field="device.token")
    if device["platform"] not in ("ios", "android"):
        raise RefusedError("platform must be ios or android", field="device.platform")
    if "last_used" in device:
        _check_timestamp(device["last_used"], "last_used", "device.last_used")
    _check_texts(device.get("attributes", {}), "device.attributes")
    return Change(kind="add_device", subjects=(person,), body=body)


def delete_device(person: str, token: JSON) -> Change:
    token = _text(token, "device id", limit=1000, field="device.token")
    return Change(kind="delete_device", subjects=(person,), body={"device": {"id": token}})


def merge(body: dict[str, Any]) -> Change:
    _checked(body, "merge", required="primary secondary")
    primary, secondary = (_named(body[name], _PERSON, name) for name in ("primary", "secondary"))
    if primary == secondary:
        raise RefusedError("nobody can be merged into themselves", field="secondary")
    return Change(kind="merge", subjects=(primary, secondary), body=body)


def form(form_id: str, body: dict[str, Any]) -> Change:
    """Check the submission of a form, which v2 has not."""
    _text(form_id, "form id", limit=1000)
    data = _checked(body, "body", required="data")["data"]
    _check_texts(data, "data")
    if ignored := data.keys() & _FORM_IGNORES:
        raise RefusedError(f"ignored in a form: {sorted(ignored)}")
    identifiers = {name: told for name, told in data.items() if name in ("id", "email")}
    person = _named(identifiers, (("id",), ("email",)), "data")
    return Change(kind="form", subjects=(person,), body={"form_id": form_id, "data": data})


def segment(kind: str, segment_id: str, id_type: str, body: dict[str, Any]) -> Change:
    """Check the ids that are added to a manual segment or removed from it, which v2 cannot."""
    if not re.fullmatch(r"[1-9][0-9]*", segment_id):
        raise RefusedError("the id of a segment must be a number")
    ids = _checked(body, "body", required="ids")["ids"]
    if not isinstance(ids, list) or not 1 <= len(ids) <= 1000:
        raise RefusedError("ids must be a list of 1 to 1000")
    people = dict.fromkeys(_named({id_type: each}, _PERSON, "ids") for each in ids)
    return Change(kind=kind, subjects=tuple(people), body={"segment_id": segment_id, "ids": ids, "id_type": id_type})


# The operations of v2.


class _Shape(NamedTuple):
    """The keys of an operation beside type and action, and what reads it once it has the right ones."""

    required: str
    optional: str
    read: Callable[[dict[str, Any]], Change]


def known(operation: JSON, place: str = "") -> dict[str, Any]:
    """Give what is an operation of v2, be it right or wrong; *place* is where it stands in a batch."""
    if not isinstance(operation, dict) or (operation.get("type"), operation.get("action")) not in [*_SHAPES]:
        raise RefusedError("there is no operation of this type and action", field=f"{place}action")
    return operation


def read_operation(operation: dict[str, Any]) -> Change:
    """Check a known operation, and bring it to the form that both versions share."""
    if size_of(operation) > MAX_OPERATION:
        raise RefusedError(f"an operation cannot be longer than {MAX_OPERATION} bytes")
    required, optional, read = _SHAPES[operation["type"], operation["action"]]
    _checked(operation, "", required=f"type action {required}", optional=optional)
    return read(operation)


def _read_identify(operation: dict[str, Any]) -> Change:
    attributes = operation.get("attributes", {})
    _check_hash(attributes, "attributes", "attributes")
    if beside := attributes.keys() & _BESIDE_ATTRIBUTES:
        raise RefusedError(f"not an attribute in v2: {sorted(beside)}", field="attributes")
    body = dict(attributes)
    if "timestamp" in operation:
        _check_timestamp(operation["timestamp"], "timestamp", "timestamp")
        body["_timestamp"] = operation["timestamp"]
    if "cio_relationships" in operation:
        told = operation["cio_relationships"]
        body["cio_relationships"] = {"action": "add_relationships", "relationships": told}
    return identify(_named(operation["identifiers"], _PERSON), body)


def _read_bare(operation: dict[str, Any]) -> Change:
    return bare(operation["action"], _named(operation["identifiers"], _PERSON))


def _read_event(operation: dict[str, Any]) -> Change:
    body = {"name": operation["name"], "type": operation["action"]}
    for theirs, ours in (("id", "id"), ("timestamp", "timestamp"), ("attributes", "data")):
        if theirs in operation:
            body[ours] = operation[theirs]
    subject = _named(operation["identifiers"], _PERSON + _ANONYMOUS)
    if subject.startswith("anonymous_id:"):
        return anonymous_event({**body, **operation["identifiers"]})
    return event(subject, body)


def _read_add_device(operation: dict[str, Any]) -> Change:
    device = operation["device"]
    device = dict(_checked(device, "device", required="token platform", optional="last_used attributes"))
    device = {"id": device.pop("token"), **device}
    return add_device(_named(operation["identifiers"], _PERSON), {"device": device})


def _read_delete_device(operation: dict[str, Any]) -> Change:
    device = _checked(operation["device"], "device", required="token")
    return delete_device(_named(operation["identifiers"], _PERSON), device["token"])


def _read_merge(operation: dict[str, Any]) -> Change:
    return merge({name: operation[name] for name in ("primary", "secondary")})


def _read_relationships(operation: dict[str, Any]) -> Change:
    person = _named(operation["identifiers"], _PERSON)
    _check_relationships(operation["cio_relationships"], _OBJECT)
    body = {"cio_relationships": operation["cio_relationships"]}
    return Change(kind=operation["action"], subjects=(person,), body=body)


def _read_object(operation: dict[str, Any]) -> Change:
    thing = _named(operation["identifiers"], _OBJECT)
    body = {name: told for name, told in operation.items() if name in ("attributes", "cio_relationships")}
    _check_attributes_of_object(body.get("attributes", {}), "attributes")
    if "cio_relationships" in body:
        people = _ANONYMOUS if operation["action"] == "identify_anonymous" else _PERSON
        _check_relationships(body["cio_relationships"], people)
    return Change(kind=f"object_{operation['action']}", subjects=(thing,), body=body)


_BARE = _Shape("identifiers", "", _read_bare)
_OCCURRENCE = _Shape("identifiers name", "id timestamp attributes", _read_event)
_RELATIONSHIPS = _Shape("identifiers cio_relationships", "", _read_relationships)
_OBJECT_IDENTIFY = _Shape("identifiers", "attributes cio_relationships", _read_object)
_OBJECT_RELATIONSHIPS = _Shape("identifiers cio_relationships", "", _read_object)
_SHAPES: dict[tuple[str, str], _Shape] = {
    ("person", "identify"): _Shape("identifiers", "attributes timestamp cio_relationships", _read_identify),
    **{("person", action): _BARE for action in ("delete", "suppress", "unsuppress")},
    **{("person", action): _OCCURRENCE for action in _EVENTS},
    ("person", "add_device"): _Shape("identifiers device", "", _read_add_device),
    ("person", "delete_device"): _Shape("identifiers device", "", _read_delete_device),
    ("person", "merge"): _Shape("primary secondary", "", _read_merge),
    ("person", "add_relationships"): _RELATIONSHIPS,
    ("person", "delete_relationships"): _RELATIONSHIPS,
    ("object", "identify"): _OBJECT_IDENTIFY,
    ("object", "identify_anonymous"): _OBJECT_IDENTIFY,
    ("object", "delete"): _Shape("identifiers", "", _read_object),
    ("object", "add_relationships"): _OBJECT_RELATIONSHIPS,
    ("object", "delete_relationships"): _OBJECT_RELATIONSHIPS,
}


# The rules.


def _check_attributes(attributes: dict[str, Any], field: str) -> None:
    if len(attributes) > 300:
        raise RefusedError("cannot identify more than 300 attributes in one request", field=field)
    for name, value in attributes.items():
        _text(name, "attribute name", limit=150, field=field)
        # Whether the limit holds for lists and objects too is documented nowhere.
        if isinstance(value, str) and size_of(value) > 1000:
            message = f"value for attribute '{name}' cannot be longer than 1000 bytes"
            raise RefusedError(message, field=f"{field}.{name}")


def _check_attributes_of_object(attributes: JSON, field: str) -> None:
    _check_attributes(_check_hash(attributes, field, field), field)


def _check_texts(attributes: JSON, field: str) -> None:
    """Check attributes of which all have to be text."""
    attributes = _check_hash(attributes, field, field)
    _check_attributes(attributes, field)
    for name, value in attributes.items():
        if not isinstance(value, str):
            raise RefusedError(f"{name} must be a string value", field=f"{field}.{name}")


def _check_hash(value: JSON, name: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(f"{name} must be a hash", field=field)
    if size_of(value) > 100_000:
        raise RefusedError(f"{name} cannot be longer than 100000 bytes", field=field)
    return value


def _check_identifiers(person: str, body: dict[str, Any]) -> None:
    kind, _, addressed = person.partition(":")
    for name in ("id", "email", "anonymous_id"):
        if name not in body or (body[name] is None and name != "id"):
            continue
        field = f"attributes.{name}"
        named = _text(body[name], name, limit=_LIMITS.get(name, 1000), field=field)
        # The real API answers 200 here and then records an "Attribute Update Failure".
        if kind == name and addressed != (named.lower() if kind == "email" else named):
            raise RefusedError(f"{name} in the body is not that of the person who is addressed", field=field)


def _check_preferences(body: dict[str, Any]) -> None:
    """Check subscriptions: all topics at once, or each under a key with dots that leaves the others alone."""
    for name, value in body.items():
        if name == _PREFERENCES:
            told = _checked(value, f"attributes.{name}", required="topics")["topics"]
            topics = _check_hash(told, "topics", f"attributes.{name}.topics")
            _check_topics({f"topics.{topic}": each for topic, each in topics.items()})
        elif name.startswith(f"{_PREFERENCES}."):
            _check_topics({name.removeprefix(f"{_PREFERENCES}."): value})


def _check_topics(topics: dict[str, Any]) -> None:
    for topic, value in topics.items():
        if not _PREFERENCE.fullmatch(topic) or not isinstance(value, bool):
            field = f"attributes.{_PREFERENCES}"
            raise RefusedError("a topic is topic_ and its id, and either true or false", field=field)


def _check_relationships(listed: JSON, kinds: tuple[tuple[str, ...], ...]) -> None:
    if not isinstance(listed, list) or not listed:
        raise RefusedError("cio_relationships must be a list of at least one", field="cio_relationships")
    for number, each in enumerate(listed):
        field = f"cio_relationships[{number}]"
        told = _checked(each, field, required="identifiers", optional="relationship_attributes")
        _named(told["identifiers"], kinds, f"{field}.identifiers")
        attributes = told.get("relationship_attributes", {})
        _check_attributes_of_object(attributes, f"{field}.relationship_attributes")


def _check_timestamp(value: JSON, name: str, field: str) -> None:
    # The real API takes another time for "now" without a word; refusing it is how a test hears of it.
    if type(value) is not int or not 10**9 <= value < 10**11:
        raise RefusedError(f"{name} must be whole unix seconds", field=field)


def _checked(value: JSON, field: str, *, required: str = "", optional: str = "") -> dict[str, Any]:
    """Give *value* if it is an object with all the *required* keys and none beyond the *optional* ones."""
    if not isinstance(value, dict):
        raise RefusedError(f"{field} must be an object", field=field)
    prefix = f"{field}." if field else ""
    for name in required.split():
        if name not in value:
            raise RefusedError(f"{prefix}{name} is missing", field=f"{prefix}{name}", reason="required")
    if unknown := value.keys() - {*required.split(), *optional.split()}:
        raise RefusedError(f"unknown keys: {sorted(unknown)}", field=f"{prefix}{min(unknown)}")
    return value


def _text(value: JSON, name: str, *, limit: int, field: str = "request") -> str:
    if not isinstance(value, str):
        raise RefusedError(f"{name} must be a string value", field=field)
    if not value.strip():
        raise RefusedError(f"{name} must not be blank", field=field)
    if len(value.encode()) > limit:
        raise RefusedError(f"{name} cannot be longer than {limit} bytes", field=field)
    return value


def size_of(value: JSON) -> int:
    """Count the bytes of a text, or of compact JSON."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(written.encode())
