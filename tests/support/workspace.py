"""The rules of Customer.io's Track API, and what operations leave behind, whichever version of the API brought them.

What no call of the gateway uses is unknown here and refused.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from gateway.event import JSON

#: Bytes of an operation of v2. Customer.io says 32 kb, and not whether its kb has 1,000 bytes or 1,024.
MAX_OPERATION = 32_000

Object: TypeAlias = dict[str, Any]
#: Returns why an operation is refused, or None (see `Workspace`).
RefuseItem: TypeAlias = Callable[[Object], str | None]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One valid operation, in the form to which both versions of the API are brought.

    Attributes:
        kind: identify, delete, event, page, screen, add_device, delete_device, suppress, unsuppress, merge,
            add_relationships, delete_relationships, form, add_to_segment or remove_from_segment; of an object:
            object_identify, object_identify_anonymous or object_delete.
        subjects: The keys of the people or the object, as ``id:42`` or ``object:1:acme``; of a merge the primary first.
        body: As v1 sends it; where v1 has no such operation, as v2 does, without its kind and subjects.
        at: When it was applied, by the monotonic clock in seconds.
    """

    kind: str
    subjects: tuple[str, ...]
    body: Object
    at: float = 0.0

    def comparable(self) -> Object:
        """Return the body with the keys of an event that one version may leave out and the other not."""
        return {**({"type": self.kind, "data": {}} if self.kind in _EVENTS else {}), **self.body}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One request, or with status 207 one item of a batch, that was refused, and why."""

    status: int
    method: str
    target: bytes
    message: str


class RefusedError(Exception):
    """The API does not accept a request or an item; *field* and *reason* are what v2 answers beside the message."""

    def __init__(self, message: str, *, status: int = 400, field: str = "request", reason: str = "invalid") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.as_json: Object = {"reason": reason, "field": field, "message": message}


class Workspace:
    """What the API has accepted.

    Each identifier is a person of its own: that an id and an email may belong to one person is not known here. A
    person exists from the first identify on.

    Attributes:
        identifiers: By which it knows people, beside Customer.io's own id. Without "email" a path that looks like an
            email holds an id, and a body that names an email is refused.
        refuse_item: Called with every valid operation, single or in a batch, before it is applied, as
            ``{"kind": "event", "person": "id:42", "body": {"name": "Paid", ...}}``; *person* is the first subject, an
            object too. A message that it returns refuses the operation: 400, or 207 for the item of a batch.
        repeats: Events that were answered 200 and not applied, because their id was known.
        conflicts: Events under the id of a different event, which the real API loses without an error.
        batches: The number of operations of each accepted batch, refused items included.
        singles: Requests for one operation, applied or refused.
    """

    def __init__(self, refuse_item: RefuseItem, identifiers: Sequence[str] = ("id", "email", "phone")) -> None:
        self.identifiers = identifiers
        self.refuse_item = refuse_item
        self.repeats = 0
        self.conflicts: list[Operation] = []
        self.refused: list[Refusal] = []
        self.batches: list[int] = []
        self.singles = 0
        self._lock = threading.Lock()
        self._applied = 0
        self._log: dict[str, list[Operation]] = {}
        self._events: dict[str, object] = {}
        self._people: dict[str, Object] = {}
        self._suppressed: set[str] = set()

    @property
    def people(self) -> dict[str, Object]:
        """The attributes of everybody identified, by keys as ``id:42`` and ``email:a@example.com``."""
        with self._lock:
            return copy.deepcopy(self._people)

    @property
    def state(self) -> dict[str, Any]:
        """The people, those suppressed, and the kinds and bodies of what was applied to each subject, in order.

        What became of devices, objects and relationships follows from the last.
        """
        with self._lock:
            log = {
                subject: [(operation.kind, operation.comparable()) for operation in operations]
                for subject, operations in self._log.items()
            }
            return copy.deepcopy({"people": self._people, "suppressed": self._suppressed, "log": log})

    def applied(self, identifier: str) -> list[Operation]:
        """Return what was applied to a person, oldest first; *identifier* is read as a path of v1 is."""
        return self._applied_to(self.person_key(identifier))

    def applied_anonymously(self, anonymous_id: str) -> list[Operation]:
        """Return the events of an anonymous id, oldest first."""
        return self._applied_to(f"anonymous_id:{anonymous_id}")

    def _applied_to(self, subject: str) -> list[Operation]:
        with self._lock:
            return list(self._log.get(subject, ()))

    def count_applied(self) -> int:
        """Count the operations that were applied to anybody, singly and in batches."""
        return self._applied

    def person_key(self, identifier: str) -> str:
        """Return the key of the person that v1 reads in the identifier of a path."""
        if identifier.startswith("cio_") and identifier != "cio_":
            return f"cio_id:{identifier.removeprefix('cio_')}"
        is_email = "email" in self.identifiers and _EMAIL.fullmatch(identifier)
        return f"email:{identifier.lower()}" if is_email else f"id:{identifier}"

    def person_in_path(self, segment: str) -> str:
        """Check the identifier in a path, and return its person's key."""
        person = self.person_key(segment)
        kind, _, value = person.partition(":")
        _text(value, "the identifier in the path", limit=_LIMITS.get(kind, 1000))
        return person

    def apply(self, operation: Operation) -> None:
        """Apply an operation, unless the real API would do nothing either.

        Raises:
            RefusedError: It names a person by what is no identifier here, or `refuse_item` refuses it.
        """
        for subject in operation.subjects:
            kind = subject.partition(":")[0]
            if kind in ("id", "email", "phone") and kind not in self.identifiers:
                raise RefusedError(f"{kind} is no identifier of this workspace", field=f"identifiers.{kind}")
        seen = {"kind": operation.kind, "person": operation.subjects[0], "body": operation.body}
        if message := self.refuse_item(seen):
            raise RefusedError(message, field="operation")
        with self._lock:
            if not self._has_effect(operation) or self._is_repeat(operation):
                return
            self._change_people(operation)
            self._applied += 1
            applied = replace(operation, at=time.monotonic())
            for subject in operation.subjects:
                self._log.setdefault(subject, []).append(applied)

    def count_request(self, *, batch: int | None = None) -> None:
        """Count a request for one operation, or a batch of so many."""
        with self._lock:
            if batch is None:
                self.singles += 1
            else:
                self.batches.append(batch)

    def note_refusal(self, method: str, target: bytes, refused: RefusedError, *, status: int) -> None:
        """Record a refusal."""
        with self._lock:
            self.refused.append(Refusal(status=status, method=method, target=target, message=refused.message))

    def _has_effect(self, operation: Operation) -> bool:
        if operation.kind in ("suppress", "unsuppress"):
            return True
        if self._suppressed.issuperset(operation.subjects):
            return False
        only_updates = operation.kind == "identify" and operation.body.get("_update") is True
        return operation.subjects[0] in self._people or not (only_updates or operation.kind == "merge")

    def _is_repeat(self, operation: Operation) -> bool:
        if operation.kind not in _EVENTS or "id" not in operation.body:
            return False
        this = (operation.subjects, operation.comparable())
        first = self._events.setdefault(operation.body["id"].upper(), this)
        if first is this:
            return False
        self.repeats += 1
        if first != this:
            self.conflicts.append(operation)
        return True

    def _change_people(self, operation: Operation) -> None:
        subject, body = operation.subjects[0], operation.body
        match operation.kind:
            case "identify":
                attributes = {name: value for name, value in body.items() if name not in _INSTRUCTIONS}
                self._people.setdefault(subject, {}).update(attributes)
            case "delete" | "suppress":
                self._people.pop(subject, None)
                if operation.kind == "suppress":
                    self._suppressed.add(subject)
            case "unsuppress":
                self._suppressed.discard(subject)
            case "merge":  # fills the gaps of the primary, and removes the secondary
                secondary = self._people.pop(operation.subjects[1], {})
                self._people[subject] = {**secondary, **self._people[subject]}


# Identifiers

_PERSON = (("id",), ("email",), ("cio_id",))
_PHONE = ("phone",)
_ANONYMOUS = ("anonymous_id",)
_OBJECT = ("object_type_id", "object_id")
_OBJECTS = (_OBJECT, ("cio_object_id",))
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
# Bytes. Where none is documented, an attribute's 1,000 hold.
_LIMITS = {"id": 150, "object_type_id": 150, "object_id": 150, "event": 100, "screen": 100}


def _key_of(identifiers: JSON, kinds: tuple[tuple[str, ...], ...], field: str = "identifiers") -> str:
    """Return the key of the person or object that identifiers in a body name; there the kind is never guessed."""
    for names in kinds:
        if isinstance(identifiers, dict) and identifiers.keys() == set(names):
            values = [_identifier(name, identifiers[name], f"{field}.{name}") for name in names]
            return ":".join(["object" if names == _OBJECT else names[0], *values])
    alternatives = " or ".join(" and ".join(names) for names in kinds)
    raise RefusedError(f"{field} must have exactly {alternatives}", field=field)


def _identifier(kind: str, value: JSON, field: str) -> str:
    text = _text(value, kind, limit=_LIMITS.get(kind, 1000), field=field)
    if kind == "cio_id" and text.startswith("cio_"):
        raise RefusedError("a cio_id begins with cio_ only in a path", field=field)
    if kind == "email" and not _EMAIL.fullmatch(text):
        raise RefusedError("email must be an address", field=field)
    if kind == "phone" and not _E164.fullmatch(text):
        raise RefusedError("phone must be in E.164", field=field)
    return text.lower() if kind == "email" else text


# Operations: each function checks one. Messages are in v1's words, fields in v2's: v1 does not answer fields.

_EVENTS = ("event", "page", "screen")
_EVENT_KEYS = frozenset({"name", "type", "id", "timestamp", "data"})
_PREFERENCES = "cio_subscription_preferences"
_INSTRUCTIONS = frozenset({"_update", "_timestamp", "cio_relationships", _PREFERENCES})
_BESIDE_ATTRIBUTES = frozenset({"_timestamp", "cio_relationships"})  # there they are in v2
_TOPIC = re.compile(r"topics\.topic_\w+")
_FORM_IGNORES = frozenset({"form_id", "form_name", "form_type", "form_url", "form_url_param"})
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def identify(person: str, body: Object) -> Operation:
    """Check an update of a person's attributes."""
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
        change = _checked(body["cio_relationships"], "cio_relationships", required="action relationships")
        if change["action"] not in ("add_relationships", "delete_relationships"):
            raise RefusedError("action must be add_relationships or delete_relationships")
        _check_relationships(change["relationships"], _OBJECTS)
    return Operation(kind="identify", subjects=(person,), body=body)


def bare(kind: str, person: str) -> Operation:
    """Make a delete, suppress or unsuppress, which name a person and nothing else."""
    return Operation(kind=kind, subjects=(person,), body={})


def event(subject: str, body: Object, *, keys: frozenset[str] = _EVENT_KEYS) -> Operation:
    """Check an event; spaces around its name are dropped."""
    if unknown := body.keys() - keys:
        raise RefusedError(f"unknown keys in an event: {sorted(unknown)}")
    kind = body.get("type", "event")
    if kind not in _EVENTS:
        raise RefusedError("type must be event, page or screen", field="action")
    if "id" in body and not (isinstance(body["id"], str) and _ULID.fullmatch(body["id"])):
        raise RefusedError("id must be a ULID", field="id")
    if "timestamp" in body:
        _check_timestamp(body["timestamp"], "timestamp", "timestamp")
    _check_object(body.get("data", {}), "event data", "attributes")
    name = _text(body.get("name"), "event name", limit=_LIMITS.get(kind, 1000), field="name")
    return Operation(kind=kind, subjects=(subject,), body={**body, "name": name.strip()})


def anonymous_event(body: Object) -> Operation:
    """Check an event of an anonymous id, or of the recipient in its data."""
    keys, data = _EVENT_KEYS | {"anonymous_id"}, body.get("data")
    if "anonymous_id" in body:
        return event(_key_of({"anonymous_id": body["anonymous_id"]}, (_ANONYMOUS,)), body, keys=keys)
    if not (isinstance(data, dict) and data.get("recipient")):
        raise RefusedError("an event without anonymous_id needs data.recipient")
    return event(f"invite:{data['recipient']}", body, keys=keys)


def add_device(person: str, body: Object) -> Operation:
    """Check a new or changed device."""
    device = _checked(body, "body", required="device")["device"]
    device = _checked(device, "device", required="id platform", optional="last_used attributes")
    _text(device["id"], "device id", limit=1000, field="device.token")
    if device["platform"] not in ("ios", "android"):
        raise RefusedError("platform must be ios or android", field="device.platform")
    if "last_used" in device:
        _check_timestamp(device["last_used"], "last_used", "device.last_used")
    _check_texts(device.get("attributes", {}), "device.attributes")
    return Operation(kind="add_device", subjects=(person,), body=body)


def delete_device(person: str, token: JSON) -> Operation:
    """Check the token of a device to delete."""
    token = _text(token, "device id", limit=1000, field="device.token")
    return Operation(kind="delete_device", subjects=(person,), body={"device": {"id": token}})


def merge(body: Object) -> Operation:
    """Check the people of a merge."""
    _checked(body, "merge", required="primary secondary")
    primary, secondary = (_key_of(body[name], _PERSON, name) for name in ("primary", "secondary"))
    if primary == secondary:
        raise RefusedError("nobody can be merged into themselves", field="secondary")
    return Operation(kind="merge", subjects=(primary, secondary), body=body)


def form(form_id: str, body: Object) -> Operation:
    """Check the submission of a form, which v2 does not have."""
    _text(form_id, "form id", limit=1000)
    data = _checked(body, "body", required="data")["data"]
    _check_texts(data, "data")
    if ignored := data.keys() & _FORM_IGNORES:
        raise RefusedError(f"ignored in a form: {sorted(ignored)}")
    identifiers = {name: value for name, value in data.items() if name in ("id", "email")}
    person = _key_of(identifiers, (("id",), ("email",)), "data")
    return Operation(kind="form", subjects=(person,), body={"form_id": form_id, "data": data})


def segment(kind: str, segment_id: str, id_type: str, body: Object) -> Operation:
    """Check the ids to add to a manual segment or to remove from it, which v2 cannot; only the log holds them."""
    if not re.fullmatch(r"[1-9][0-9]*", segment_id):
        raise RefusedError("the id of a segment must be a number")
    ids = _checked(body, "body", required="ids")["ids"]
    if not isinstance(ids, list) or not 1 <= len(ids) <= 1000:
        raise RefusedError("ids must be a list of 1 to 1000")
    people = dict.fromkeys(_key_of({id_type: value}, _PERSON, "ids") for value in ids)
    return Operation(kind=kind, subjects=tuple(people), body={"segment_id": segment_id, "ids": ids, "id_type": id_type})


# Operations of v2


class _Shape(NamedTuple):
    """The keys of an operation beside type and action, and the function that reads it once it has them."""

    required: str
    optional: str
    read: Callable[[Object], Operation]


def known(operation: JSON, place: str = "") -> Object:
    """Return an object with the type and action of an operation of v2; *place* is where it is in a batch."""
    if not isinstance(operation, dict) or (operation.get("type"), operation.get("action")) not in [*_SHAPES]:
        raise RefusedError("there is no operation of this type and action", field=f"{place}action")
    return operation


def read_operation(operation: Object) -> Operation:
    """Check a known operation, and bring it to the form that both versions share."""
    if size_of(operation) > MAX_OPERATION:
        raise RefusedError(f"an operation cannot be longer than {MAX_OPERATION} bytes")
    required, optional, read = _SHAPES[operation["type"], operation["action"]]
    _checked(operation, "", required=f"type action {required}", optional=optional)
    return read(operation)


def _person(operation: Object) -> str:
    return _key_of(operation["identifiers"], (*_PERSON, _PHONE))


def _read_identify(operation: Object) -> Operation:
    attributes = _check_object(operation.get("attributes", {}), "attributes", "attributes")
    if beside := attributes.keys() & _BESIDE_ATTRIBUTES:
        raise RefusedError(f"not an attribute in v2: {sorted(beside)}", field="attributes")
    body = dict(attributes)
    if "timestamp" in operation:
        _check_timestamp(operation["timestamp"], "timestamp", "timestamp")
        body["_timestamp"] = operation["timestamp"]
    if "cio_relationships" in operation:
        body["cio_relationships"] = {
            "action": "add_relationships",
            "relationships": operation["cio_relationships"],
        }
    return identify(_person(operation), body)


def _read_event(operation: Object) -> Operation:
    names = {"name": "name", "action": "type", "id": "id", "timestamp": "timestamp", "attributes": "data"}
    body = {names[name]: value for name, value in operation.items() if name in names}
    subject = _key_of(operation["identifiers"], (*_PERSON, _PHONE, _ANONYMOUS))
    if subject.startswith("anonymous_id:"):
        return anonymous_event({**body, **operation["identifiers"]})
    return event(subject, body)


def _read_add_device(operation: Object) -> Operation:
    device = dict(_checked(operation["device"], "device", required="token platform", optional="last_used attributes"))
    return add_device(_person(operation), {"device": {"id": device.pop("token"), **device}})


def _read_delete_device(operation: Object) -> Operation:
    return delete_device(_person(operation), _checked(operation["device"], "device", required="token")["token"])


def _read_relationships(operation: Object) -> Operation:
    _check_relationships(operation["cio_relationships"], _OBJECTS)
    body = {"cio_relationships": operation["cio_relationships"]}
    return Operation(kind=operation["action"], subjects=(_person(operation),), body=body)


def _read_object(operation: Object) -> Operation:
    key = _key_of(operation["identifiers"], _OBJECTS)
    body = {name: value for name, value in operation.items() if name in ("attributes", "cio_relationships")}
    _check_attributes(_check_object(body.get("attributes", {}), "attributes", "attributes"), "attributes")
    if "cio_relationships" in body:
        people = (_ANONYMOUS,) if operation["action"] == "identify_anonymous" else _PERSON
        _check_relationships(body["cio_relationships"], people)
    return Operation(kind=f"object_{operation['action']}", subjects=(key,), body=body)


_BARE = _Shape("identifiers", "", lambda operation: bare(operation["action"], _person(operation)))
_EVENT = _Shape("identifiers name", "id timestamp attributes", _read_event)
_RELATIONSHIPS = _Shape("identifiers cio_relationships", "", _read_relationships)
_MERGE = _Shape("primary secondary", "", lambda body: merge({name: body[name] for name in ("primary", "secondary")}))
_SHAPES: dict[tuple[str, str], _Shape] = {
    ("person", "identify"): _Shape("identifiers", "attributes timestamp cio_relationships", _read_identify),
    **{("person", action): _BARE for action in ("delete", "suppress", "unsuppress")},
    **{("person", action): _EVENT for action in _EVENTS},
    ("person", "add_device"): _Shape("identifiers device", "", _read_add_device),
    ("person", "delete_device"): _Shape("identifiers device", "", _read_delete_device),
    ("person", "merge"): _MERGE,
    **{("person", action): _RELATIONSHIPS for action in ("add_relationships", "delete_relationships")},
    ("object", "identify"): _Shape("identifiers", "attributes cio_relationships", _read_object),
    ("object", "identify_anonymous"): _Shape("identifiers", "attributes cio_relationships", _read_object),
    ("object", "delete"): _Shape("identifiers", "", _read_object),
}


# Rules


def _check_attributes(attributes: Object, field: str) -> None:
    if len(attributes) > 300:
        raise RefusedError("cannot identify more than 300 attributes in one request", field=field)
    for name, value in attributes.items():
        _text(name, "attribute name", limit=150, field=field)
        # Whether the limit holds for lists and objects too is documented nowhere.
        if isinstance(value, str) and size_of(value) > 1000:
            raise RefusedError(
                f"value for attribute '{name}' cannot be longer than 1000 bytes", field=f"{field}.{name}"
            )


def _check_texts(attributes: JSON, field: str) -> None:
    """Check attributes whose values have to be text."""
    attributes = _check_object(attributes, field, field)
    _check_attributes(attributes, field)
    for name, value in attributes.items():
        if not isinstance(value, str):
            raise RefusedError(f"{name} must be a string value", field=f"{field}.{name}")


def _check_object(value: JSON, name: str, field: str) -> Object:
    if not isinstance(value, dict):
        raise RefusedError(f"{name} must be a hash", field=field)
    if size_of(value) > 100_000:
        raise RefusedError(f"{name} cannot be longer than 100000 bytes", field=field)
    return value


def _check_identifiers(person: str, body: Object) -> None:
    kind, _, addressed = person.partition(":")
    for name in ("id", "email", "anonymous_id"):
        if name not in body or (body[name] is None and name != "id"):
            continue
        field = f"attributes.{name}"
        value = _text(body[name], name, limit=_LIMITS.get(name, 1000), field=field)
        # The real API answers 200 here and then records an "Attribute Update Failure".
        if kind == name and addressed != (value.lower() if kind == "email" else value):
            raise RefusedError(f"{name} in the body is not that of the person who is addressed", field=field)


def _check_preferences(body: Object) -> None:
    """Check subscriptions: all topics at once, or each under a key with dots that leaves the others alone."""
    topics = {name.removeprefix(f"{_PREFERENCES}."): body[name] for name in body if name.startswith(f"{_PREFERENCES}.")}
    if _PREFERENCES in body:
        field = f"attributes.{_PREFERENCES}"
        together = _check_object(_checked(body[_PREFERENCES], field, required="topics")["topics"], "topics", field)
        topics |= {f"topics.{topic}": value for topic, value in together.items()}
    for topic, value in topics.items():
        if not _TOPIC.fullmatch(topic) or not isinstance(value, bool):
            raise RefusedError("a topic is topic_ and its id, and true or false", field=f"attributes.{_PREFERENCES}")


def _check_relationships(related: JSON, kinds: tuple[tuple[str, ...], ...]) -> None:
    if not isinstance(related, list) or not related:
        raise RefusedError("cio_relationships must be a list of at least one", field="cio_relationships")
    for number, item in enumerate(related):
        field = f"cio_relationships[{number}]"
        relationship = _checked(item, field, required="identifiers", optional="relationship_attributes")
        _key_of(relationship["identifiers"], kinds, f"{field}.identifiers")
        field = f"{field}.relationship_attributes"
        _check_attributes(_check_object(relationship.get("relationship_attributes", {}), field, field), field)


def _check_timestamp(value: JSON, name: str, field: str) -> None:
    # The real API takes any other time for "now" without an error; refusing it makes a test fail.
    if type(value) is not int or not 10**9 <= value < 10**11:
        raise RefusedError(f"{name} must be whole unix seconds", field=field)


def _checked(value: JSON, field: str, *, required: str = "", optional: str = "") -> Object:
    """Return *value* if it is an object with all *required* keys and no others but the *optional* ones."""
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
    if size_of(value) > limit:
        raise RefusedError(f"{name} cannot be longer than {limit} bytes", field=field)
    return value


def size_of(value: JSON) -> int:
    """Count the bytes of a text, or of a value as compact JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode())
