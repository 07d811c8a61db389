"""The attributes of a call: which values are worth being one, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gateway.customerio.limits import EARLIEST, LATEST
from gateway.mapping.draft.candidates import has_word
from gateway.mapping.draft.fields import Field, Guess, Sample, Way, direct, within
from gateway.mapping.draft.vocabulary import COUNTED, IDLE, KINDS, MOMENTS, MONEY, SECRET
from gateway.mapping.draft.words import singular, snake, words
from gateway.mapping.model import is_steering

MOST = 12  # attributes of one call
LONGEST = 200  # characters of a text that is worth being an attribute
LEAST = 10  # what scores less is left out even where there is room


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute of a call; *note* says what to look at, "" nothing."""

    name: str
    guess: Guess
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A field that may become an attribute."""

    found: Field
    name: str
    score: int


def attributes(sample: Sample, choices: Iterable[Choice | None]) -> list[Attribute]:
    """Take the best choices, in the order of the payload."""
    best: dict[str, Choice] = {}
    for each in choices:
        if each is not None and _is_name(each.name) and each.score >= LEAST:
            best[each.name] = max(best.get(each.name, each), each, key=lambda choice: choice.score)
    kept = sorted(best.values(), key=lambda each: -each.score)[:MOST]
    order = {each: at for at, each in enumerate(sample.fields)}
    kept.sort(key=lambda each: order[each.found])
    return list(_noted_once(_attribute(sample, each) for each in kept))


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 60 and not is_steering(name) and name not in ("email", "anonymous_id")


def _noted_once(found: Iterable[Attribute]) -> Iterator[Attribute]:
    """Leave out what a note above says already."""
    said = set()
    for each in found:
        kind = each.note.partition("=")[0]
        yield replace(each, note="") if kind in said else each
        said.add(kind)


def _attribute(sample: Sample, choice: Choice) -> Attribute:
    guess = direct(choice.found)
    moment = within("unix", guess)
    if _is_moment(choice.found) and isinstance(sample.value_of(moment.expression), int):
        return Attribute(name=choice.name, guess=moment)
    return Attribute(name=choice.name, guess=guess, note=_note(choice.found))


def _is_moment(found: Field) -> bool:
    """Tell whether a field seems to hold a moment that Customer.io could not compare as it is."""
    if found.words[-1] not in MOMENTS or isinstance(found.value, bool):
        return False
    return isinstance(found.value, str) or not EARLIEST <= (found.value or 0) <= LATEST


_WHOLE = re.compile(r"[1-9][0-9]{2,}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def _note(found: Field) -> str:
    """Say what to look at where a field seems to hold money, which is kept as it is."""
    if MONEY.isdisjoint(found.words) or has_word(found.names[-1], COUNTED) or isinstance(found.value, bool):
        return ""
    way = direct(found).expression
    if isinstance(found.value, int) and _WHOLE.fullmatch(str(found.value)):
        return f"if in cents: =divide({way}, `100`)"
    if isinstance(found.value, str) and _NUMBER.fullmatch(found.value):
        return f"as a number: =to_number({way})"
    return ""


def is_worth(found: Field, used: frozenset[Way]) -> bool:
    """Tell whether a field is worth being an attribute at all."""
    if found.way in used or found.listed or snake(found.names[-1]) in KINDS:
        return False
    told = {word for name in found.names[-2:] for word in words(name)}
    if not SECRET.isdisjoint(told | set(map(singular, told))) or has_word(found.names[-1], IDLE):
        return False
    return not isinstance(found.value, str) or _is_short(found.value)


#: Ids, emails of others, markup, and JSON within JSON.
_OPAQUE = re.compile(
    r"(?=\D*\d)(?:[A-Za-z0-9+/=_-]{18,}|[a-z]+_[A-Za-z0-9]{8,})|[A-Za-z0-9+/=]{48,}|.*@.+|\s*[<{\[].*",
    re.DOTALL,
)


def _is_short(value: str) -> bool:
    return 0 < len(value) <= LONGEST and value.isprintable() and not _OPAQUE.fullmatch(value)


def is_link(found: Field) -> bool:
    """Tell whether a field holds an address on the web, or a path of one."""
    return isinstance(found.value, str) and found.value.startswith(("http://", "https://", "/"))
