"""All guesses at a captured webhook, made together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.event import JSON
from gateway.mapping.draft.about_event import about_event
from gateway.mapping.draft.about_person import about_person
from gateway.mapping.draft.attributes import Attribute
from gateway.mapping.draft.candidates import role
from gateway.mapping.draft.envelope import event_key, timestamp
from gateway.mapping.draft.event_type import Parts, event_type, parts_of
from gateway.mapping.draft.fields import Guess, Sample, Way
from gateway.mapping.draft.people import Person, person
from gateway.mapping.draft.verification import Verification, trusting, verification
from gateway.mapping.draft.words import is_removal, subject
from gateway.mapping.draft.writing import scalar
from gateway.mapping.expressions import headers_in


class DraftError(GatewayError):
    """No mapping can be drafted from a payload."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All guesses together.

    Attributes:
        kind: The type of the event, and *type* what finds it.
        key: None: the scheme knows a better one.
        of_person, of_event: The attributes of `identify` and of `track`.
    """

    source: str
    body: JSON
    parts: Parts
    sample: Sample
    type: Guess | None
    kind: str | None
    key: Guess | None
    time: Guess | None
    who: Person
    of_person: list[Attribute]
    of_event: list[Attribute]
    verify: Verification

    @property
    def identifies(self) -> bool:
        """Whether there is something to tell about the person, who is not just being deleted."""
        by_id, by_email = self.who.id is not None, self.who.email is not None
        says_something = (by_id and by_email) or bool(self.of_person)
        return (by_id or by_email) and says_something and not self.removes

    @property
    def removes(self) -> bool:
        """Whether the event says that the person is gone."""
        about = subject(self.kind) if self.kind is not None else ()
        return bool(about) and role(about[-1]) is not None and is_removal(self.kind or "")

    @property
    def read(self) -> list[Guess]:
        """What the calls of the file go by."""
        if not self.who.identifiers:
            return [self.type] if self.type else []
        found = [self.type, self.time, *self.who.identifiers.values()]
        attributes = [*(self.of_person if self.identifies else []), *self.of_event]
        return [*(each for each in found if each is not None), *(each.guess for each in attributes)]

    @property
    def guesses(self) -> dict[str, str]:
        """Describe the main guesses for people."""
        kind = {} if self.type is None else {"type": self.type}
        time = {} if self.time is None else {"time": self.time}
        return {
            name: f"={guess.expression} ({scalar(self.sample.value_of(guess.expression))})"
            for name, guess in {**kind, **self.who.identifiers, **time}.items()
        }


def plan_of(source: str, body: JSON, headers: Mapping[str, str]) -> Plan:
    """Make all guesses at a webhook.

    Raises DraftError: its body holds nothing that could be mapped.
    """
    parts = parts_of(body)
    part = body
    for step in parts.way:
        part = _step(part, step)
    if not isinstance(part, dict) or not part:
        raise DraftError("the payload has no fields: it has to be an object, or a list of objects, of a webhook")
    sample = Sample(part=part, headers={name: value for name, value in headers.items() if _is_header(name)})
    type_ = event_type(sample)
    kind = sample.value_of(type_.expression) if type_ is not None else None
    assert kind is None or isinstance(kind, str), "only texts are taken for a type"
    key, verify = event_key(sample, type_), verification(source, sample.headers)
    verify = trusting(verify, [name for each in (type_, key) if each for name in headers_in(each.expression)])
    who, time = person(sample, kind, key), timestamp(sample, kind)
    named = ways_of(type_, key, *who.identifiers.values())
    return Plan(
        source=source,
        body=body,
        parts=parts,
        sample=sample,
        type=type_,
        kind=kind,
        key=None if verify.named else key or EQUAL_BODIES,
        time=time,
        who=who,
        of_person=about_person(sample, who, named),
        of_event=about_event(sample, who, kind, named | ways_of(time)),
        verify=verify,
    )


EQUAL_BODIES = Guess(expression="sha256(to_json(@))")


def _step(value: JSON, step: str | int) -> JSON:
    if isinstance(value, list) and isinstance(step, int):
        return value[step] if step < len(value) else None
    return value.get(str(step)) if isinstance(value, dict) else None


def _is_header(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def ways_of(*guesses: Guess | None) -> frozenset[Way]:
    """Give the ways of all that guesses read."""
    return frozenset(way for guess in guesses if guess is not None for way in guess.reads)
