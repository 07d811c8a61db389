"""Names taken apart into words: fields, event types, sources."""

from __future__ import annotations

import re

_HUMP = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")


def words(name: str) -> tuple[str, ...]:
    """Take a name apart at its separators and humps: `sg_event_id`, `userId` and `Message-ID` alike."""
    return tuple(_WORD.findall(_HUMP.sub(" ", name).lower()))


def snake(name: str) -> str:
    """Write a name in snake case."""
    return "_".join(words(name))


_SEGMENT = re.compile(r"[./:]")


def segments(event_type: str) -> list[str]:
    """Take an event type apart where a sender does: ``customer.subscription.created`` has three segments."""
    return [each for each in _SEGMENT.split(event_type) if words(each)]


def subject(event_type: str) -> tuple[str, ...]:
    """Give the words of what an event type says something happened to; the verb comes last."""
    parts = segments(event_type)
    if len(parts) > 1:
        return words(parts[-2])
    return words(event_type)[:-1]


def singular(word: str) -> str:
    """Leave the s of a plural out."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


# What a type starts with to be the only one of its name in the world: com.example.order.placed
_ROOTS = ("com", "org", "net", "io", "dev", "app")


def title(event_type: str, source: str) -> str:
    """Make a name for people out of an event type: ``invoice.paid`` becomes Invoice Paid."""
    if " " in event_type:
        return event_type
    last = event_type.rpartition(":")[2]
    parts = segments(last if len(segments(last)) > 1 else event_type)
    if len(parts) > 3 and parts[0] in _ROOTS:
        parts = parts[2:]
    told = [word for part in parts for word in words(part)]
    if "/" in event_type and told:
        told[0] = singular(told[0])  # as in orders/paid
    if len(told) < 2:
        told = [*words(source), *told]
    return capitalised(told) or "Webhook"


def capitalised(told: list[str] | tuple[str, ...]) -> str:
    """Write words with capitals."""
    return " ".join(word[:1].upper() + word[1:] for word in told)


_REMOVAL = re.compile(r"delet|destroy|remov|eras|redact|suppress")


def is_removal(event_type: str) -> bool:
    """Tell whether an event type says that something is gone."""
    return _REMOVAL.search(event_type.lower()) is not None
