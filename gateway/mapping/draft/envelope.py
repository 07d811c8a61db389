"""Guess which field is the id of the event itself, and which one its time."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.customerio.limits import is_moment
from gateway.mapping.draft.fields import Field, Guess, Sample, direct, header, within
from gateway.mapping.draft.vocabulary import EMAIL_WORDS, FROM, KEY_FIELDS, NO_TIME, TIME_FIELDS, TO, WRAPPERS
from gateway.mapping.draft.words import snake, subject, words

# The key


_KEY_HEADER = re.compile(r"-(?:delivery|delivery-id|event-id|message-id|notification-id|idempotency-key)$")


def event_key(sample: Sample, kind: Guess | None) -> Guess | None:
    """Guess what is the id of the event itself, and of nothing that many events may be about."""
    for name, value in sample.headers.items():
        if _KEY_HEADER.search(f"-{name.lower()}") and value.strip():
            return header(name)
    scored = {each: _key_score(each, sample, kind) for each in sample.fields if _is_key(each)}
    best = max(scored, key=scored.__getitem__, default=None)
    return direct(best) if best is not None and scored[best] > 0 else None


def _is_key(found: Field) -> bool:
    if found.listed or isinstance(found.value, bool | float):
        return False
    return not isinstance(found.value, str) or 0 < len(found.value.strip()) <= 200


_OF_AN_EVENT = re.compile(r"(?:evt|event|ev|ntf|notif|notification|msg|wh|whk)[_-]\w+")


def _key_score(found: Field, sample: Sample, kind: Guess | None) -> int:
    name, told = snake(found.names[-1]), found.words
    if not WRAPPERS.issuperset(map(snake, found.holders)):
        return 0
    score = KEY_FIELDS.get(name, 0) or (90 if told[-2:] == ("event", "id") else 0)
    if name in ("id", "uuid") and (_is_envelope(found, kind) or _OF_AN_EVENT.fullmatch(str(found.value))):
        score = 85
    if name == "message_id" and not found.holders and not _is_about_a_message(sample):
        score = 70
    return score - 20 * len(found.holders) if score else 0


def _is_envelope(found: Field, kind: Guess | None) -> bool:
    """Tell whether what an id stands in has the event's type beside it, and what it is about below it."""
    if kind is None or all(way[:-1] != found.above for way in kind.reads):
        return False
    is_event = bool(found.holders) and snake(found.holders[-1]) in ("event", "event_data")
    return is_event or any(isinstance(item, dict) and len(item) > 1 for item in found.owner.values())


def _is_about_a_message(sample: Sample) -> bool:
    """Tell whether an id of a message is that of a mail, of which there are many events."""
    told = {word for each in sample.fields if not each.holders for word in each.words}
    return not told.isdisjoint(EMAIL_WORDS | FROM | TO | {"subject", "sms", "status"})


# The time


def timestamp(sample: Sample, kind: str | None) -> Guess | None:
    """Guess when the event happened: the likeliest field that holds a time Customer.io takes."""
    scored = {each: _time_score(each, kind) for each in sample.fields}
    for found in sorted((each for each, score in scored.items() if score > 0), key=lambda each: -scored[each]):
        for guess in _moments(found):
            if is_moment(sample.value_of(guess.expression)):
                return guess
    return None


def _moments(found: Field) -> Iterator[Guess]:
    if not isinstance(found.value, bool):
        yield direct(found)
        yield within("unix", direct(found))


def _time_score(found: Field, kind: str | None) -> int:
    score = TIME_FIELDS.get(snake(found.names[-1]), 0)
    if not score or found.listed:
        return 0
    if kind is not None and "creat" in kind.lower() and "created" in found.words:
        score += 6  # more than what it was updated at
    holders = [word for name in found.holders for word in (snake(name), *words(name))]
    if not NO_TIME.isdisjoint(holders):
        return 0
    return score - sum(_distance(name, kind) for name in found.holders)


def _distance(holder: str, kind: str | None) -> int:
    """An object that only wraps the event's is nearer to it than one of another name."""
    if snake(holder) in WRAPPERS:
        return 12
    if kind is None or snake(holder) not in snake(kind):
        return 200
    return 10 if words(holder) == subject(kind) else 20
