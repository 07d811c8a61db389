"""What Customer.io takes as attributes of people, events, objects, devices and forms, and which of them steer it."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gateway.customerio.limits import (
    MAX_ATTRIBUTE_NAME_BYTES,
    MAX_ATTRIBUTE_VALUE_BYTES,
    MAX_ATTRIBUTES,
    MAX_EVENT_DATA_BYTES,
    Violation,
    check_moment,
    encoding_problem,
    is_unix_seconds,
    too_long,
    utf8_size,
)
from gateway.customerio.wire import MAX_ITEM_BYTES, dump
from gateway.event import JSON
from gateway.text import truncated


@dataclass(frozen=True, kw_only=True)
class AttributeRules:
    """What Customer.io takes as the attributes of one kind of thing. Limits of None do not exist.

    Attributes:
        steering: Names that are instructions to Customer.io, and so are only taken where somebody wrote them, never
            out of a payload; one that ends with * stands for all names that begin like it.
        most: The number of attributes.
        name_bytes, value_bytes: The size of a name, and of a value that is text.
        json_bytes: The size of all of them as JSON.
        texts: All values have to be texts.
        special: The beginnings of all names that mean something to Customer.io: only these are looked at further.
        name_problem: Returns why an attribute cannot have a special name.
        value_problem: Returns what is wrong with the value of an attribute with a special name.
    """

    steering: tuple[str, ...] = ()
    most: int | None = MAX_ATTRIBUTES
    name_bytes: int | None = MAX_ATTRIBUTE_NAME_BYTES
    value_bytes: int | None = MAX_ATTRIBUTE_VALUE_BYTES
    json_bytes: int | None = None
    texts: bool = False
    special: tuple[str, ...] = ()
    name_problem: Callable[[str], str | None] = lambda _name: None
    value_problem: Callable[[str, JSON], str | None] = lambda _name, _value: None

    def steers(self, name: str) -> bool:
        """Return whether an attribute is never taken out of a payload."""
        return name in self.steering or name.startswith(self._steering_beginnings)

    def check(self, field: str, attributes: Mapping[str, JSON], computed: Container[str] = ()) -> Iterator[Violation]:
        """Yield the violations of the names and the values; nothing is known of values that are *computed*."""
        if self.most is not None and len(attributes) > self.most:
            many = f"has {len(attributes)} attributes; Customer.io takes {self.most}: choose with pick(…)"
            yield Violation(field=field, problem=many, fits=True)
        # No character has more than 4 bytes: nearly every attribute is seen to be good without a closer look.
        short_name, short_value = (self.name_bytes or 0) // 4, (self.value_bytes or 0) // 4
        special, texts = self.special, self.texts
        for number, (name, value) in enumerate(attributes.items(), start=1):
            is_short = len(value) <= short_value if type(value) is str else not texts
            if is_short and 0 < len(name) <= short_name and not name.isspace() and not name.startswith(special):
                continue
            yield from self._check_one(field, number, name, value, is_computed=name in computed)

    def _check_one(self, field: str, number: int, name: str, value: JSON, *, is_computed: bool) -> Iterator[Violation]:
        is_special = name.startswith(self.special)
        if self._is_bad_name(name):
            # The name is not shown: it may come out of a payload.
            size = f"the name of attribute {number} is {utf8_size(name)} bytes long"
            yield Violation(field=field, problem=f"{size}; Customer.io takes 1 to {self.name_bytes}", fits=True)
        elif is_special and (wrong := self.name_problem(name)):
            yield Violation(field=f"{field}.{name}", problem=wrong)
        elif is_computed:
            return
        elif self.texts and not isinstance(value, str):
            yield Violation(field=f"{field}.{name}", problem="has to be text; write =to_string(…)", fits=True)
        elif is_special and (wrong := self.value_problem(name, value)):
            yield Violation(field=f"{field}.{name}", problem=wrong)
        elif self.value_bytes is not None and isinstance(value, str) and utf8_size(value) > self.value_bytes:
            yield Violation(field=f"{field}.{name}", problem=too_long(value, self.value_bytes), fits=True)

    def fitted(self, whole: Mapping[str, JSON], beside: Mapping[str, JSON]) -> tuple[dict[str, JSON], list[str]]:
        """Cut the attributes of a payload to what Customer.io takes of them *beside* those that are written.

        A text that is too long is cut at its end. Left out are attributes with a bad name, values that have to be
        text and are none, those that are too many (the last ones), and the largest while all are too large together.

        Returns:
            What is left, and a sentence for each attribute that was cut or left out.
        """
        fitting: dict[str, JSON] = {}
        cuts: list[str] = []
        for name, value in whole.items():
            if self._is_bad_name(name):
                cuts.append(f"'{name}' is left out: Customer.io takes names of 1 to {self.name_bytes} bytes")
            elif self.most is not None and len(fitting) + len(beside) >= self.most:
                cuts.append(f"'{name}' is left out: Customer.io takes {self.most} attributes")
            elif self.texts and not isinstance(value, str):
                cuts.append(f"'{name}' is left out: it has to be text")
            elif self.value_bytes is not None and isinstance(value, str) and utf8_size(value) > self.value_bytes:
                fitting[name] = truncated(value, self.value_bytes)
                cuts.append(f"'{name}' is cut to {self.value_bytes} bytes")
            else:
                fitting[name] = value
        if self.json_bytes is not None and encoding_problem({**fitting, **beside}) is None:
            for name in _largest(fitting, len(dump({**fitting, **beside})) - self.json_bytes):
                del fitting[name]
                cuts.append(f"'{name}' is left out: Customer.io takes {self.json_bytes} bytes of JSON")
        return fitting, cuts

    @cached_property
    def _steering_beginnings(self) -> tuple[str, ...]:
        return tuple(name.removesuffix("*") for name in self.steering if name.endswith("*"))

    def _is_bad_name(self, name: str) -> bool:
        return self.name_bytes is not None and (not name.strip() or utf8_size(name) > self.name_bytes)


def _largest(attributes: Mapping[str, JSON], excess: int) -> Iterator[str]:
    """Yield the names of the largest attributes, which have at least *excess* bytes together."""
    sizes = {name: len(dump({name: value})) - 1 for name, value in attributes.items()}  # a comma for two braces
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            return
        excess -= sizes[name]
        yield name


_PREFERENCES = "cio_subscription_preferences"
#: The key of a person under which an object of topics is written out as one flat key for each.
TOPICS = f"{_PREFERENCES}.topics"
_TOPIC = re.compile(r"topic_[1-9][0-9]*")
_FLAT = f"write the flat key  {TOPICS}.topic_<id>"


def with_flat_topics(attributes: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return the attributes of a person with a flat key for each topic of an object under TOPICS.

    An object would replace what Customer.io knows of all other topics.
    """
    topics = attributes.get(TOPICS)
    if topics is None or not isinstance(topics, Mapping):  # None first: it is quick
        return attributes
    others = {name: value for name, value in attributes.items() if name != TOPICS}
    return others | {f"{TOPICS}.{topic}": value for topic, value in topics.items()}


def _preference_name_problem(name: str) -> str | None:
    if not name.startswith(f"{_PREFERENCES}.") or name == TOPICS:
        return None
    topic = name.removeprefix(f"{TOPICS}.")
    return None if _TOPIC.fullmatch(topic) else f"is not the preference for a topic; {_FLAT}"


def _person_problem(name: str, value: JSON) -> str | None:
    """Return what is wrong with an attribute that Customer.io would misunderstand."""
    if name.startswith(_PREFERENCES):
        return _preference_problem(name, value)
    if value is None:  # the same to it as an attribute that is not there
        return None
    if name == "unsubscribed":
        return _unsubscribed_problem(value)
    if name == "created_at":
        return None if is_unix_seconds(value) else "is not whole unix seconds; write =unix(…)"
    if name == "_timestamp":
        return next((violation.problem for violation in check_moment(name, value)), None)
    if name == "_update":
        return None if isinstance(value, bool) else "is neither true nor false"
    return None


def _unsubscribed_problem(value: JSON) -> str | None:
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, bool) or (isinstance(word, int | str) and word in (0, 1, "0", "1", "true", "false")):
        return None
    return "is neither true nor false, and Customer.io takes it for subscribed; write true or false, or =to_bool(…)"


def _preference_problem(name: str, value: JSON) -> str | None:
    if name == _PREFERENCES:
        return f"replaces the preferences for all topics; {_FLAT}"
    topics = [value]
    if name == TOPICS:
        if not isinstance(value, Mapping) or not all(map(_TOPIC.fullmatch, value)):
            return f"has to be an object of topics, such as {{topic_7: true}}; or {_FLAT}"
        topics = [*value.values()]
    elif not name.startswith(f"{TOPICS}."):
        return None
    if all(topic is None or topic == "" or isinstance(topic, bool) for topic in topics):
        return None
    return "is neither true nor false; write =to_bool(…)"


_PERSON_STEERING = ("id", "cio_id", "_update", "_timestamp", "unsubscribed", "cio_relationships", f"{_PREFERENCES}*")
PERSON = AttributeRules(
    steering=_PERSON_STEERING,
    special=("unsubscribed", "created_at", "_timestamp", "_update", _PREFERENCES),
    name_problem=_preference_name_problem,
    value_problem=_person_problem,
)

#: These override the settings of a campaign, so that a payload could redirect a mail.
EVENT = AttributeRules(
    steering=("recipient", "from_address", "reply_to"),
    most=None,
    name_bytes=None,
    value_bytes=None,
    json_bytes=MAX_EVENT_DATA_BYTES,
)

#: Objects and relationships. They have no v1 form: an object with its identifiers has to be within a v2 entity.
OBJECT = AttributeRules(
    steering=("object_type_id", "object_id", "objectId", "cio_object_id", "cio_relationships"),
    json_bytes=MAX_ITEM_BYTES - 1_000,
)

# Beside its attributes, a device has these of its own, and sets the status of the last push itself.
_OF_DEVICES = ("token", "id", "platform", "last_used", "_last_status")
_IN_DEVICE = {
    "token": "would take the place of the device's token; write it beside 'attributes', or give it another name",
    "_last_status": "is set by Customer.io; give it another name",
}
DEVICE = AttributeRules(steering=_OF_DEVICES, texts=True, special=tuple(_IN_DEVICE), name_problem=_IN_DEVICE.get)

# The fields of a form become attributes of the person. Customer.io ignores those with the names in the second entry.
_IN_FORM = {
    **dict.fromkeys(("id", "email"), "names the person of a form: write it beside 'attributes'"),
    **dict.fromkeys(
        ("form_id", "form_name", "form_type", "form_url", "form_url_param"),
        "is ignored in a form; give it another name",
    ),
}


def _field_value_problem(name: str, value: JSON) -> str | None:
    return _unsubscribed_problem(value) if name == "unsubscribed" else None


FORM = AttributeRules(
    steering=(*_IN_FORM, *_PERSON_STEERING),
    texts=True,
    special=(*_IN_FORM, "unsubscribed"),
    name_problem=_IN_FORM.get,
    value_problem=_field_value_problem,
)
