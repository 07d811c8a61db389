"""Guess which fields hold the id of the person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.customerio.limits import MAX_ID_BYTES
from gateway.event import JSON
from gateway.mapping.draft.candidates import Candidate, has_word, is_strange, role, role_around, role_of
from gateway.mapping.draft.fields import Field, Guess, Sample, Way, direct
from gateway.mapping.draft.vocabulary import (
    ALONE,
    ANONYMOUS_ID,
    BARE_IDS,
    EMAIL_WORDS,
    IDS,
    KINDS,
    OF_PEOPLE,
    ROLES,
    SAYS_NOTHING,
    STRANGERS,
    THINGS,
    WRAPPERS,
)
from gateway.mapping.draft.words import snake, subject, words

_NO_ID = re.compile(r"[\s<>]|https?://|.+@.+|\.{1,2}\Z|(?:0+|-+|null|none|undefined|unknown)\Z", re.IGNORECASE)


def is_id(value: object) -> bool:
    """Tell whether a value may be the id of somebody: guests and the unknown have zero, or a word for none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return 0 < value < 10**30
    if not isinstance(value, str) or not value.isprintable():
        return False
    return 0 < len(value.encode()) <= MAX_ID_BYTES and not _NO_ID.match(value) and " " not in value


def anonymous_id(sample: Sample) -> Guess | None:
    """Find the id of somebody who has not said who they are."""
    found = (each for each in sample.fields if each.words == ANONYMOUS_ID and not each.listed)
    return next((direct(each) for each in found if is_id(each.value)), None)


def ids(sample: Sample, kind: str | None, key: Guess | None) -> Iterator[Candidate]:
    """Find what may be the person's id; *kind* is the event's type, *key* what was taken for its own id."""
    keys = () if key is None else key.reads
    own = _own_ids(sample)
    for found in sample.fields:
        if is_id(found.value) and found.way not in keys:
            candidate = _of_role(found) or _in_role(found) or _is_role(found)
            if candidate is None and found in own:
                candidate = _of_content(found, kind)
            if candidate is not None:
                yield replace(candidate, score=candidate.score - _far(found, candidate))


def _own_ids(sample: Sample) -> list[Field]:
    """Find the ids of the innermost object that the payload only wraps."""
    bare = [each for each in sample.fields if _is_bare(each) and not each.listed]
    wrapped = [each for each in bare if WRAPPERS.issuperset(map(snake, each.holders))]
    deepest = max((len(each.way) for each in wrapped), default=0)
    return [each for each in wrapped if len(each.way) == deepest]


def _is_bare(found: Field) -> bool:
    return found.words[-1] in IDS and found.words[:-1] in BARE_IDS


def _of_role(found: Field) -> Candidate | None:
    """A field such as ``customer_id``, or ``userid``."""
    told = _apart(found.words)
    if len(told) < 2 or told[-1] not in IDS or (whose := role(told[-2])) is None:
        return None
    inside = role_around(found.holders) is not None
    return _candidate(found, ROLES[whose] - (2 if inside else 0), whose, found.above if inside else None)


def _apart(told: Sequence[str]) -> Sequence[str]:
    last = told[-1]
    if last.endswith("id") and role(last[:-2]) is not None:
        return (*told[:-1], last[:-2], "id")
    return told


def _in_role(found: Field) -> Candidate | None:
    """The id in an object such as ``customer``."""
    if not _is_bare(found) or (whose := role_around(found.holders)) is None:
        return None
    says = _declared(found.owner, None)
    if says is not None and ROLES[whose] < ROLES["contact"] and has_word(says, THINGS | STRANGERS):
        return None  # a sender may be an organisation, or a bot
    return _candidate(found, ROLES[whose] - BARE_IDS[found.words[:-1]], whose, found.above)


def _is_role(found: Field) -> Candidate | None:
    """A field such as ``customer`` that holds an id itself."""
    whose = role(found.words[-1])
    if whose is None or whose not in ALONE or len(found.words) > 1 or not isinstance(found.value, str):
        return None
    looks = 5 if re.search("[0-9]", found.value) else 40  # else it may be a name
    return _candidate(found, ROLES[whose] - looks, whose)


def _of_content(found: Field, kind: str | None) -> Candidate | None:
    """The id of the event's own object, where that is a person by its own word or by its fields."""
    says = _declared(found.owner, kind)
    whose = role_of(says) if says is not None else None
    if whose is None and _has_email(found) and not OF_PEOPLE.isdisjoint(map(snake, found.owner)):
        whose = "person"
    if whose is not None:
        return _candidate(found, ROLES[whose] + 3 - BARE_IDS[found.words[:-1]], whose, found.above)
    return _by_event(found, kind) if says is None and kind is not None else None


def _by_event(found: Field, kind: str) -> Candidate | None:
    """The same, where it is only by the event's type that it is a person."""
    about = subject(kind)
    whose = role(about[-1]) if about else None
    if whose is None or (found.holders and snake(found.holders[-1]) in ("event", "event_data")):
        return None
    holder = found.above if _has_email(found) else None
    return _candidate(found, ROLES[whose] - 2 - BARE_IDS[found.words[:-1]], whose, holder)


def _has_email(found: Field) -> bool:
    return any(not EMAIL_WORDS.isdisjoint(words(name)) for name in found.owner)


def _declared(owner: Mapping[str, JSON], kind: str | None) -> str | None:
    """Find what an object says that it is."""
    for name, value in owner.items():
        is_kind = snake(name) in KINDS and value != kind
        if is_kind and isinstance(value, str) and not SAYS_NOTHING.issuperset(words(value)):
            return value
    return None


def _candidate(found: Field, score: int, whose: str, holder: Way | None = None) -> Candidate:
    return Candidate(guess=direct(found), score=score, role=whose, way=found.way, holder=holder)


def _far(found: Field, candidate: Candidate) -> int:
    """Say how much what stands around a field takes away from it."""
    around = [name for name in found.holders if snake(name) not in WRAPPERS]
    if around and role_of(around[-1]) is not None:
        around.pop()
    things = sum(has_word(name, THINGS) for name in around)
    less = 15 * len(around) + 10 * things + 20 * found.listed
    return less + (100 if is_strange(found.names) else 0) + (60 if _is_staff(found, candidate) else 0)


def _is_staff(found: Field, candidate: Candidate) -> bool:
    """Where there is a customer, be it an unknown one, the user is one of the seller's."""
    is_user = candidate.role == "user" and candidate.holder is None
    return is_user and any(words(name)[:1] == ("customer",) for name in found.owner)
