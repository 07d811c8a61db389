"""What may name a person, and how likely it is the one that the event is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.mapping.draft.fields import Guess, Way
from gateway.mapping.draft.vocabulary import ROLES, SAME_AS_ABOVE, STRANGERS
from gateway.mapping.draft.words import singular, snake, words

LEAST = 40  # what scores less is no guess but a lot


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One expression that may name the person.

    Attributes:
        role: What the payload calls the person; None: nothing.
        way: The way to what it reads.
        holder: The way to an object that is about this person and nothing else; None: there is none.
    """

    guess: Guess
    score: int
    role: str | None
    way: Way
    holder: Way | None = None


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort the likely ones, the likeliest first; of equal ones the first in the payload."""
    return sorted((each for each in candidates if each.score >= LEAST), key=lambda each: -each.score)


def role(word: str) -> str | None:
    """Give the role of a person that a word names, in the singular."""
    return next((each for each in (word, singular(word)) if each in ROLES), None)


def role_of(name: str) -> str | None:
    """Give the role in which a name ends, as ``billing_customer`` does."""
    told = words(name)
    return role(told[-1]) if told else None


def role_around(holders: Sequence[str]) -> str | None:
    """Give the role that the innermost object has by its name."""
    named = next((name for name in reversed(holders) if snake(name) not in SAME_AS_ABOVE), None)
    return role_of(named) if named is not None else None


def has_word(name: str, known: frozenset[str]) -> bool:
    """Tell whether a word of a name is known."""
    return any(word in known or singular(word) in known for word in words(name))


def is_strange(names: Iterable[str]) -> bool:
    """Tell whether names on a way lead to somebody else."""
    return any(has_word(name, STRANGERS) for name in names)
