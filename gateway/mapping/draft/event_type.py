"""Guess how a body is taken apart into events, and what tells the type of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.event import JSON
from gateway.mapping.draft.fields import Field, Guess, Sample, Way, direct, header, path
from gateway.mapping.draft.vocabulary import BATCHES, SAYS_NOTHING, TYPE_FIELDS, TYPE_HOLDERS, TYPE_PAIRS
from gateway.mapping.draft.words import segments, snake, words

# Parts


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How a body is taken apart.

    Attributes:
        split: The expression that does it; None: the body is one part.
        way: The way to the first part that says anything.
    """

    split: str | None = None
    way: Way = ()


def parts_of(body: JSON) -> Parts:
    """Find out whether a body holds several events."""
    if isinstance(body, list):
        return Parts(split="@", way=(_first(body),))
    if isinstance(body, dict):
        for name in BATCHES:
            items = body.get(name)
            if isinstance(items, list) and _holds_events(body, items):
                return Parts(split=path((name,)), way=(name, _first(items)))
    return Parts()


def _first(items: list[JSON]) -> int:
    return next((at for at, item in enumerate(items) if isinstance(item, dict) and item), 0)


def _holds_events(body: JSON, items: list[JSON]) -> bool:
    objects = bool(items) and all(isinstance(item, dict) for item in items)
    return objects and not _types(Sample(part=body, headers={})) and bool(_types(Sample(part=items[0], headers={})))


# The type


#: A word or some, as people or programs write them; what has a meaning in `events` of a mapping is left out.
_TYPE = re.compile(r"[^\W_](?:[^|*\n]{0,78}[^|*\s])?")
_UNLIKE = re.compile(r"https?://|[^@\s]+@[^@\s]+|.*[0-9]{5}|[0-9.:/ -]*\Z", re.IGNORECASE)


def _is_type(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable():
        return False
    return _TYPE.fullmatch(value) is not None and _UNLIKE.match(value) is None


def event_type(sample: Sample) -> Guess | None:
    """Guess what tells the type of an event: a header, a field, or two that belong together."""
    return _type_in_headers(sample) or _type_in_body(sample)


_TYPE_HEADER = re.compile(r"(?:^|-)(topic|event|event-(?:type|name|key|kind)|ce-type)$")


def _type_in_headers(sample: Sample) -> Guess | None:
    named = [name for name, value in sample.headers.items() if _TYPE_HEADER.search(name.lower()) and _is_type(value)]
    if not named:
        return None
    # One that says what happened to what is worth more than one that only says what happened.
    name = max(named, key=lambda name: (len(segments(sample.headers[name])) > 1, name.lower().endswith("topic")))
    told = header(name)
    if len(segments(sample.headers[name])) > 1:
        return told
    action = next((each for each in sample.fields if each.way == ("action",) and _is_type(each.value)), None)
    return told if action is None else _joined(told, direct(action))


def _joined(first: Guess, second: Guess) -> Guess:
    return Guess(
        expression=f"join('.', [{first.expression}, {second.expression}])",
        reads=(*first.reads, *second.reads),
        headers=first.headers,
    )


def _type_in_body(sample: Sample) -> Guess | None:
    found = _types(sample)
    if not found:
        return None
    best = max(found, key=found.__getitem__)
    beside = {snake(each.names[-1]): each for each in sample.fields if each.above == best.above}
    pair = _pair(beside) if len(words(str(best.value))) == 1 else None
    return pair or _or_type(direct(best), best, beside)


def _pair(beside: Mapping[str, Field]) -> Guess | None:
    """Find two fields that say together what neither says alone: ``type: issue`` and ``action: created``."""
    for verb, nouns in TYPE_PAIRS.items():
        for noun in nouns:
            one, two = beside.get(noun), beside.get(verb)
            if one is not None and two is not None and _are_two_words(one.value, two.value):
                return _joined(direct(one), direct(two))
    return None


def _are_two_words(noun: JSON, verb: JSON) -> bool:
    said = [each for each in (noun, verb) if isinstance(each, str) and _is_type(each)]
    return len(set(said)) == 2 and all(len(words(each)) == 1 and not _says_nothing(each) for each in said)


def _or_type(guess: Guess, best: Field, beside: Mapping[str, Field]) -> Guess:
    """Events with names of their own have a type too, which the ones without names have alone."""
    other = beside.get("type")
    if snake(best.names[-1]) != "event" or other is None or not _is_type(other.value):
        return guess
    return Guess(expression=f"{guess.expression} || {path(other.way)}", reads=(*guess.reads, other.way))


def _types(sample: Sample) -> dict[Field, int]:
    scored = {each: _type_score(each) for each in sample.fields if not each.listed and _is_type(each.value)}
    return {each: score for each, score in scored.items() if score > 0}


def _type_score(found: Field) -> int:
    score = TYPE_FIELDS.get(snake(found.names[-1]), 0)
    holders = [snake(name) for name in found.holders]
    if not score or len(holders) > 1 or not TYPE_HOLDERS.issuperset(holders):
        return 0
    text = str(found.value)
    score += 8 if len(words(text)) > 1 else 0
    return score - (60 if _says_nothing(text) else 0) - 30 * len(holders)


def _says_nothing(text: str) -> bool:
    return SAYS_NOTHING.issuperset(words(text))
