"""Guess which fields hold the email, or the phone number, of the person."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.event import JSON
from gateway.mapping.draft.candidates import (
    LEAST,
    Candidate,
    has_word,
    is_strange,
    role,
    role_around,
    role_of,
)
from gateway.mapping.draft.fields import Field, Guess, Sample, Way, direct, lists, path, within
from gateway.mapping.draft.vocabulary import (
    ADDRESS_WORDS,
    EMAIL_WORDS,
    FROM,
    INBOUND,
    NEAR,
    NOT_EMAIL,
    ORGANISATIONS,
    OUTBOUND,
    PHONE_WORDS,
    ROLES,
    TAGS,
    THINGS,
    TO,
    WRAPPERS,
)
from gateway.mapping.draft.words import snake, subject, words

_EMAIL = re.compile(r"[^@\s<>,;:\"()]+@[^@\s<>,;:\"()]+")
_NAMED = re.compile(r"[^<>@]*<[^@\s<>,;:\"()]+@[^@\s<>,;:\"()]+>")
_WITH_DOMAIN = re.compile(r".*@[^@\s]+\.[a-zA-Z]{2,}>?")
MAX_EMAIL = 250


def emails(sample: Sample, kind: str | None) -> Iterator[Candidate]:
    """Find what may be the person's email; *kind* is the event's type."""
    inbound = _is(sample, INBOUND) or _has_a_text(sample)
    for found in sample.fields:
        guess = _reading(found.value, direct(found))
        if guess is None or (not _around(found) and _is_of_many(kind)):
            continue
        if (score := _score(found, inbound)) > 0:
            whose = _whose(found)
            yield Candidate(
                guess=guess,
                score=score + ROLES.get(whose or "", 0) // 10,
                role=whose,
                way=found.way,
                holder=found.above if role_around(found.holders) is not None else None,
            )
    yield from _tagged(sample)


def _reading(value: JSON, guess: Guess) -> Guess | None:
    """Turn the guess at a text into one at the email in it; None: there is none."""
    if not isinstance(value, str) or len(value) > MAX_EMAIL or not value.isprintable():
        return None
    bare = value.strip()
    if _NAMED.fullmatch(bare):
        inner = f"first(split(last(split({guess.expression}, '<')), '>'))"
        return Guess(expression=f"lower({inner})", reads=guess.reads)
    if _EMAIL.fullmatch(bare):
        return within("lower", guess if bare == value else within("trim", guess))
    return None


def _around(found: Field) -> list[str]:
    """Give the names of the objects around a field, but of those that only wrap what the event is about."""
    return [name for name in found.holders if snake(name) not in WRAPPERS]


def _is_of_many(kind: str | None) -> bool:
    """Tell whether an event is about an organisation, so that the email in it is no person's."""
    about = subject(kind) if kind is not None else ()
    return bool(about) and has_word(about[-1], ORGANISATIONS)


def _score(found: Field, inbound: bool) -> int:
    """Say how likely an email is the person's; nothing over 0 is left of those of others."""
    near = [name for name in found.names if snake(name) not in WRAPPERS][-2:]
    direction = {word for name in near for word in words(name)}
    unlike = not NOT_EMAIL.isdisjoint(found.words)
    theirs, ours = (FROM, TO) if inbound else (TO, FROM)
    if unlike or is_strange(found.names) or (direction & ours and not direction & theirs):
        return 0
    if any(has_word(name, THINGS) for name in near):
        return 0
    return _named_so(found, direction, theirs) - _far(found)


def _named_so(found: Field, direction: set[str], theirs: frozenset[str]) -> int:
    if direction & EMAIL_WORDS:
        return 60
    if direction & theirs:
        return 58
    if not _WITH_DOMAIN.fullmatch(str(found.value).strip()):
        return 0
    return 52 if ADDRESS_WORDS & set(found.words) else 40


def _far(found: Field) -> int:
    less = 0
    for name in _around(found):
        less += 3 if role_of(name) is not None or has_word(name, NEAR | EMAIL_WORDS | TO | FROM) else 12
    return less + 6 * found.listed


def _whose(found: Field) -> str | None:
    """Find the role that is named nearest to a field."""
    names = [name for name in found.names if snake(name) not in WRAPPERS]
    told = [word for name in reversed(names) for word in reversed(words(name))]
    return next((whose for word in told if (whose := role(word)) is not None), None)


# Lists of named values, as the answers of a form are


_SIMPLE = re.compile(r"[\w][\w .?-]{0,60}")
MAX_TAGGED = 200  # items of a list that are looked at


def _tagged(sample: Sample) -> Iterator[Candidate]:
    for way, items in lists(sample.part):
        if is_strange(step for step in way if isinstance(step, str)):
            continue
        for at, item in enumerate(items[:MAX_TAGGED]):
            guess = _tagged_item(way, at, item)
            if guess is not None and sample.value_of(guess.expression) is not None:
                yield Candidate(guess=guess, score=61, role=None, way=guess.reads[-1])
                break


def _tagged_item(way: Way, at: int, item: JSON) -> Guess | None:
    if not isinstance(item, dict):
        return None
    tag = next((name for name in item if snake(name) in TAGS and _says_email(item[name])), None)
    if tag is None:
        return None
    for name, value in item.items():
        selected = f"first({path(way)}[?{path((tag,))}=='{item[tag]}'].{path((name,))})"
        reads = ((*way, at, tag), (*way, at, name))
        if name and name != tag and (guess := _reading(value, Guess(expression=selected, reads=reads))):
            return guess
    return None


def _says_email(value: JSON) -> bool:
    return isinstance(value, str) and bool(_SIMPLE.fullmatch(value)) and not EMAIL_WORDS.isdisjoint(words(value))


# Phone numbers, where messages name nobody otherwise


_PHONE = re.compile(r"(?:[a-z]+:)?\+?[0-9][0-9 ()-]{6,18}")


def phone(sample: Sample) -> Candidate | None:
    """Find the number of the one who is not us: who sent what came in, or got what went out."""
    outbound = _is(sample, OUTBOUND) and not _is(sample, INBOUND)
    for known in (TO, FROM, PHONE_WORDS) if outbound else (FROM, PHONE_WORDS, TO):
        for found in sample.fields:
            is_theirs = len(found.words) == 1 and found.words[0] in known and not found.listed
            if is_theirs and isinstance(found.value, str) and _PHONE.fullmatch(found.value):
                return Candidate(guess=direct(found), score=LEAST, role=None, way=found.way)
    return None


def _is(sample: Sample, known: frozenset[str]) -> bool:
    """Tell whether a short text at the top, as a status or direction is, has one of some words."""
    short = [each.value for each in sample.fields if len(each.names) == 1 and isinstance(each.value, str)]
    return any(not known.isdisjoint(words(text)) for text in short if len(text) <= 40)


_TEXT_OF = frozenset({"text", "html", "raw", "stripped"})


def _has_a_text(sample: Sample) -> bool:
    """Tell whether the payload holds a mail as it came in."""
    told = (set(each.words) for each in sample.fields if len(each.names) == 1)
    return any("body" in each and each & _TEXT_OF for each in told)
