"""The address of a call: the one person it goes to. The lane of a call: the order that it keeps.

The key that was written is the kind of an identifier. Only a path of v1 has no kind: there Customer.io decides by the
shape of the text and by the identifiers of the workspace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.customerio.limits import MAX_ID_BYTES, MAX_TEXT_BYTES, Violation, check_dots, check_size
from gateway.event import JSON
from gateway.text import ZERO_WIDTH, trimmed

AddressKind: TypeAlias = Literal["cio_id", "id", "email", "phone", "anonymous_id"]
#: The keys that may name a person. The first that is set counts.
IDENTIFIERS: tuple[AddressKind, ...] = ("cio_id", "id", "email", "phone", "anonymous_id")
#: The identifiers by which a workspace knows people: what looks like an email in a path is an id, or an email.
WorkspaceIdentifiers: TypeAlias = Literal["id", "id,email"]


# Not frozen, although nobody changes one: a frozen one takes three times as long to create.
@dataclass(kw_only=True, slots=True)
class Address:
    """The person that a call goes to, as the author named it."""

    kind: AddressKind
    value: str

    @property
    def identifiers(self) -> dict[str, JSON]:
        """The person in a body, where the kind is named."""
        return {self.kind: self.value}

    @property
    def in_path(self) -> str:
        """The person in a path of v1, which takes no phone and no anonymous id."""
        return f"cio_{self.value}" if self.kind == "cio_id" else self.value

    @property
    def lane_key(self) -> str:
        """What calls to the same person share, whichever way they are written: how v1 may read a path."""
        if self.kind in ("phone", "anonymous_id"):
            return f"{self.kind}:{self.value}"
        text = self.in_path
        if text.startswith("cio_") and text != "cio_":
            return f"cio_id:{text.removeprefix('cio_')}"
        # Customer.io compares emails without case.
        return f"email:{text.lower()}" if "@" in text and _LIKE_EMAIL.fullmatch(text) else f"id:{text}"

    def as_path_of(self, workspace: WorkspaceIdentifiers | None) -> Address | None:
        """Return whom a workspace reads in a path of v1 that names this person; None: that is not known for certain.

        Args:
            workspace: The identifiers of the workspace; None: they are not known.
        """
        if self.kind in ("cio_id", "phone", "anonymous_id"):
            return self
        if self.value.startswith("cio_"):
            return None
        if "@" not in self.value:
            return Address(kind="id", value=self.value)
        if workspace is None:
            # A workspace that does not know emails refuses it: no other person is reached.
            return self if self.kind == "email" else None
        if workspace == "id":
            return Address(kind="id", value=self.value)
        return Address(kind="email", value=self.value) if _LIKE_EMAIL.fullmatch(self.value) else None


_LIKE_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def resolve_person(identifiers: Mapping[str, Any]) -> Address | None:
    """Return the address that identifiers give: the first of IDENTIFIERS that is set; else None."""
    for kind in IDENTIFIERS:
        if value := identifiers.get(kind):
            return Address(kind=kind, value=value.removeprefix("cio_") if kind == "cio_id" else value)
    return None


# Identifiers as they are written


def trimmed_identifier(value: Any) -> Any:
    """Return an email address or a phone number without the blanks around it: its meaning is certain.

    What consists of nothing else stays, and is refused as blank.
    """
    return trimmed(value) or value if isinstance(value, str) else value


def trimmed_person(person: Any) -> Any:
    """Return one of several people with a `trimmed_identifier` as its email."""
    has_email = isinstance(person, Mapping) and person.get("email")
    return {**person, "email": trimmed_identifier(person["email"])} if has_email else person


def check_identifiers(place: str, identifiers: Mapping[str, Any]) -> Iterator[Violation]:
    """Check the identifier that counts; beside it, an email and a phone number likewise, other ids for their size.

    Args:
        place: What stands before the keys in the path of a field, as ``people[0].``; empty for those of a call.
    """
    counts = True
    for kind in IDENTIFIERS:
        if value := identifiers.get(kind):
            if counts or kind in ("email", "phone"):
                yield from check_identifier(f"{place}{kind}", kind, value)
            else:
                yield from check_size(f"{place}{kind}", value, MAX_TEXT_BYTES)
            counts = False


def check_identifier(field: str, kind: AddressKind, value: str) -> Iterator[Violation]:
    """Check one identifier; *field* is the key that gave it."""
    if not value.removeprefix("cio_" if kind == "cio_id" else "").strip():
        yield Violation(field=field, problem="is blank; Customer.io needs an identifier")
        return
    if kind == "id":
        yield from check_dots(field, value)
    problem = _email_problem(value) if kind == "email" else _phone_problem(value) if kind == "phone" else None
    if problem is not None:
        yield Violation(field=field, problem=problem)
    yield from check_size(field, value, MAX_ID_BYTES if kind == "id" else MAX_TEXT_BYTES)


def _email_problem(text: str) -> str | None:
    """Return what is wrong with one email address, and the fix; None: nothing."""
    if text.startswith("cio_"):
        return "begins with cio_, which Customer.io reads as an id of its own; write  cio_id: =…"
    if _EMAIL.fullmatch(text):
        return None
    if "@" not in text:
        return "is no email address; if it is an id, write  id: =…"
    if "<" not in text and (text.count("@") > 1 or "," in text or ";" in text):
        return "is not one email address; take one of several, as  =first(split(…, ','))"
    fix = "take the address alone:  =regex_extract(…, '[^<>(),: ]+@[^<>(),: ]+')"
    return f"is an email address with more around or in it; {fix}"


# Neither side holds a character that separates addresses, quotes a name or does not show.
_SIDE = rf'[^@\s<>(),;:"\\\x00-\x1f\x7f{ZERO_WIDTH}]+'
_EMAIL = re.compile(f"{_SIDE}@{_SIDE}")


def _phone_problem(text: str) -> str | None:
    if _PHONE.fullmatch(text):
        return None
    fix = "write =format('+{}', regex_replace(…, '[^0-9]', ''))"
    return f"is no phone number in E.164: + and up to 15 digits, country code first; {fix}"


_PHONE = re.compile(r"\+[1-9][0-9]{1,14}", re.ASCII)


def lane_number(connection: str, key: str) -> int:
    """Return the lane of a person or object of a connection: 64 bits, signed, as databases store them."""
    digest = hashlib.sha256(f"{connection}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
