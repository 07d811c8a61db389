"""Choose what an `identify` keeps of the person."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.mapping.draft.attributes import Attribute, Choice, attributes, is_link, is_worth
from gateway.mapping.draft.fields import Field, Sample, Way
from gateway.mapping.draft.people import Person
from gateway.mapping.draft.vocabulary import (
    ABOUT_A_PERSON,
    ANY_ROLE,
    BESIDE_AN_EMAIL,
    IDS,
    PERSONAL,
    SPELLINGS,
    TRAITS,
    WRAPPERS,
)
from gateway.mapping.draft.words import snake, words


def about_person(sample: Sample, who: Person, used: frozenset[Way]) -> list[Attribute]:
    """Find the attributes of the person."""
    return attributes(sample, (_choice(each, who) for each in sample.fields if is_worth(each, used)))


def is_personal(found: Field, who: Person) -> bool:
    """Tell whether a field is about the person, be it worth keeping or not."""
    return _name(found, who) is not None or any(_is_below(found, holder) for holder in _holders(who))


def _choice(found: Field, who: Person) -> Choice | None:
    name = _name(found, who)
    if name is None or not IDS.isdisjoint(found.words) or is_link(found):
        return None
    name = SPELLINGS.get(name, name)
    return Choice(found=found, name=name, score=PERSONAL.get(name, 60) - 5 * len(found.holders))


def _name(found: Field, who: Person) -> str | None:
    """Name a field as an attribute of the person; None: it is about something else."""
    named = snake(found.names[-1])
    if _describes(found, who) or _is_beside(found, who, SPELLINGS.get(named, named)):
        return named
    called = _role(who)
    if called is None:
        return None
    if len(found.words) > 1 and found.words[0] == called:
        return "_".join(found.words[1:])  # customer_name
    around = [name for name in found.holders if snake(name) not in WRAPPERS]
    return named if len(around) == 1 and words(around[0])[:1] == (called,) else None  # customer_details.name


def _describes(found: Field, who: Person) -> bool:
    """Tell whether a field stands in an object about the person, at once or in one such as `address`."""
    for holder in _holders(who):
        if _is_below(found, holder):
            return _is_about(found.holders[len(_names(holder)) :])
    at = next((at for at, name in enumerate(found.holders) if snake(name) in TRAITS), None)
    return at is not None and _is_about(found.holders[at + 1 :])


def _is_about(inner: tuple[str, ...]) -> bool:
    return all(snake(name) in ABOUT_A_PERSON for name in inner)


def _is_below(found: Field, holder: Way) -> bool:
    return found.way[: len(holder)] == holder


def _names(way: Way) -> list[str]:
    return [step for step in way if isinstance(step, str)]


def _holders(who: Person) -> Iterator[Way]:
    return (each.holder for each in (who.id, who.email) if each is not None and each.holder is not None)


def _role(who: Person) -> str | None:
    named = who.id or who.email
    return named.role if named is not None and named.role not in ANY_ROLE else None


def _is_beside(found: Field, who: Person, name: str) -> bool:
    """Tell whether a field is a person's only because it stands beside their email."""
    if who.email is None or who.email.role is not None or who.email.way[:-1] != found.above:
        return False
    is_number = name == "name" and re.search("[0-9#]", str(found.value)) is not None
    return name in BESIDE_AN_EMAIL and not is_number
