"""Guess whom an event is about.

Payloads name many: who pays, who sells, who is told, who sent it. What ranks them is what the names on the way
say, how far away from the event's own object they stand, and what their values look like.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.mapping.draft.candidates import Candidate, is_strange, ranked, role_of
from gateway.mapping.draft.emails import emails, phone
from gateway.mapping.draft.fields import Guess, Sample, path
from gateway.mapping.draft.ids import anonymous_id, ids
from gateway.mapping.draft.vocabulary import ADDRESS_WORDS, ANY_ROLE, EMAIL_WORDS


@dataclass(frozen=True, kw_only=True)
class Person:
    """Whom the event is about, as far as can be guessed.

    Attributes:
        others: What else may name the person, the likeliest first.
    """

    id: Candidate | None = None
    email: Candidate | None = None
    anonymous_id: Guess | None = None
    others: tuple[Guess, ...] = ()

    @property
    def identifiers(self) -> dict[str, Guess]:
        """What names the person, by the key that it stands under in a mapping."""
        found = {
            "id": self.id.guess if self.id else None,
            "email": self.email.guess if self.email else None,
            "anonymous_id": self.anonymous_id,
        }
        return {name: guess for name, guess in found.items() if guess is not None}


def person(sample: Sample, kind: str | None, key: Guess | None) -> Person:
    """Guess whom an event is about; *kind* is its type, and *key* what was taken for its own id."""
    found = ranked(ids(sample, kind, key))
    best = found[0] if found else None
    addresses = ranked(each for each in emails(sample, kind) if best is None or _is_same(best, each))
    email = addresses[0] if addresses else None
    if best is None and email is None:
        best = phone(sample)
    if best is not None and email is None:
        email = _empty_email(sample, best)
    others = (*_others(sample, found), *_others(sample, addresses))
    return Person(id=best, email=email, anonymous_id=anonymous_id(sample), others=others)


def _others(sample: Sample, likely: list[Candidate]) -> list[Guess]:
    """Find what is nearly as likely as the best, and says something else."""
    said = [sample.value_of(each.guess.expression) for each in likely]
    close = [
        each.guess
        for at, each in enumerate(likely)
        if said[at] not in said[:at] and each.score > likely[0].score - 15 and _is_alike(likely[0], each)
    ]
    return close[1:3]


def _is_alike(best: Candidate, other: Candidate) -> bool:
    """Tell whether another email is not that of one with another role."""
    return best.role is not None or other.role is None


def _empty_email(sample: Sample, named: Candidate) -> Candidate | None:
    """Find a field for the email of whom an id names, which just has no value in this payload."""
    for each in sample.nulls:
        is_email = not EMAIL_WORDS.isdisjoint(each.words) and each.words[-1] in EMAIL_WORDS | ADDRESS_WORDS
        is_theirs = each.above == (named.holder or ()) or named.role in each.words
        if is_email and is_theirs and not each.listed and not is_strange(each.names):
            guess = Guess(expression=f"lower({path(each.way)})", reads=(each.way,))
            return Candidate(guess=guess, score=0, role=named.role, way=each.way)
    return None


def perhaps(sample: Sample) -> list[str]:
    """List the fields that may name the person in another payload: in this one they are empty."""
    named = (each for each in sample.nulls if not is_strange(each.names) and not each.listed)
    likely = [each for each in named if role_of(each.names[-1].removesuffix("_id")) or "email" in each.words]
    return [path(each.way) for each in likely[:3]]


def _is_same(named: Candidate, email: Candidate) -> bool:
    """Tell whether an email belongs to whom an id names; a wrong one would make two people one."""
    if named.holder is not None and email.way[: len(named.holder)] == named.holder:
        return True
    if email.role is None or email.role in ANY_ROLE:
        return True
    return email.role == named.role
