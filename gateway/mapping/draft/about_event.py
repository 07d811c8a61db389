"""Choose what a `track` keeps of the event."""

from __future__ import annotations

import re

from gateway.mapping.draft.about_person import is_personal
from gateway.mapping.draft.attributes import Attribute, Choice, attributes, is_link, is_worth
from gateway.mapping.draft.candidates import has_word, is_strange
from gateway.mapping.draft.fields import Field, Sample, Way
from gateway.mapping.draft.people import Person
from gateway.mapping.draft.vocabulary import DULL, IDLE, IDS, LINKS, USEFUL, WANTED_IDS, WRAPPERS
from gateway.mapping.draft.words import singular, snake, subject, words


def about_event(sample: Sample, who: Person, kind: str | None, used: frozenset[Way]) -> list[Attribute]:
    """Find the attributes of an event of type *kind*."""
    about = subject(kind) if kind is not None else ()
    likely = [each for each in sample.fields if is_worth(each, used) and not is_personal(each, who)]
    wrapped = any(_is_wrapper(each.holders[0]) for each in sample.fields if each.holders)
    return attributes(sample, (_choice(each, about) for each in likely if each.holders or not wrapped))


def _is_wrapper(name: str) -> bool:
    return snake(name) in WRAPPERS


def _choice(found: Field, about: tuple[str, ...]) -> Choice | None:
    around = [name for name in found.holders if not _is_wrapper(name)]
    if len(around) > 1 or is_strange(found.names) or snake(found.names[-1]) in DULL:
        return None
    # What the event is about is not named again in its own attributes.
    other = next((name for name in around if not _is_subject(name, about)), None)
    if "context" in map(snake, found.holders) or (other is not None and has_word(other, IDLE)):
        return None
    score = _use_of_id(found, other, about) if found.words[-1] in IDS else _use(found, other)
    return Choice(found=found, name=_name(found, other, about), score=score - 2 * len(found.way))


def _is_subject(name: str, about: tuple[str, ...]) -> bool:
    """Tell whether an object has the name of what the event is about: ``comment`` of an issue_comment."""
    told = words(name)
    return bool(told) and about[-len(told) :] == told


def _name(found: Field, other: str | None, about: tuple[str, ...]) -> str:
    told = found.words
    if other is None and len(told) == 1 and told[0] in IDS:
        told = (*map(singular, about), *told)
    prefix = words(other) if other is not None else ()
    if prefix[-1:] == told[:1]:
        prefix = prefix[:-1]
    return "_".join(told if told[: len(prefix)] == prefix else (*prefix, *told))


def _use(found: Field, other: str | None) -> int:
    """Weigh a field by its words; one of another object than the event's own has to be worth more."""
    if is_link(found):
        return _use_of_link(found)
    weight = max((USEFUL.get(word, 0) for word in found.words), default=0)
    nothing = isinstance(found.value, bool) or not found.value
    less = (10 if nothing else 0) + (25 if other is not None else 0)
    return 30 + weight - less - 4 * max(0, len(found.words) - 2)


def _use_of_link(found: Field) -> int:
    is_public = found.words == ("url",) or not LINKS.isdisjoint(found.words)
    return 50 if is_public and re.match("https?://(?!api[.])", str(found.value)) else 0


def _use_of_id(found: Field, other: str | None, about: tuple[str, ...]) -> int:
    """Weigh an id: that of the event's own object, and those that say something in a mail."""
    if len(found.words) == 1:
        own = about[-1] if about and other is None else ""
        return 75 if singular(own) in WANTED_IDS else 0
    return 55 if other is None and singular(found.words[-2]) in WANTED_IDS else 0
