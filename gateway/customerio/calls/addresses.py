"""The address of a call: the one person it goes to. The lane of a call: the order that it keeps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.customerio.limits import MAX_ID_BYTES, MAX_TEXT_BYTES, Violation, check_dots, check_size

AddressKind: TypeAlias = Literal["cio_id", "id", "email", "anonymous_id"]
#: The keys that may name a person. The first that is set counts.
IDENTIFIERS = ("cio_id", "id", "email", "anonymous_id")


# Not frozen, although nobody changes one: a frozen one takes three times as long to create.
@dataclass(kw_only=True, slots=True)
class Address:
    """The person that a call goes to, resolved once and used for the request and for the lane alike."""

    kind: AddressKind
    value: str

    @property
    def lane_key(self) -> str:
        """What calls to the same person share: Customer.io compares emails without case."""
        value = self.value.lower() if self.kind == "email" else self.value
        return f"{self.kind}:{value}"


def resolve_person(identifiers: Mapping[str, Any]) -> Address | None:
    """Return the address that identifiers give: the first of cio_id, id, email, anonymous_id that is set; else None.

    The kind of an id or email follows the rules by which Customer.io reads the path of a v1 request,
    so that every way of sending a call reaches the same person.
    """
    if cio_id := identifiers.get("cio_id"):
        return Address(kind="cio_id", value=cio_id.removeprefix("cio_"))
    if identifier := identifiers.get("id") or identifiers.get("email"):
        if identifier.startswith("cio_") and len(identifier) > len("cio_"):
            return Address(kind="cio_id", value=identifier.removeprefix("cio_"))
        is_email = "@" in identifier and _EMAIL.fullmatch(identifier)
        return Address(kind="email" if is_email else "id", value=identifier)
    anonymous_id = identifiers.get("anonymous_id")
    return Address(kind="anonymous_id", value=anonymous_id) if anonymous_id else None


_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def check_address(field: str, address: Address) -> list[Violation]:
    """Check an identifier; *field* is the key that gave it."""
    problems: list[Violation] = []
    if not address.value.strip():
        problems.append(Violation(field=field, problem="is blank; Customer.io needs an identifier"))
    if address.kind == "id":
        problems.extend(check_dots(field, address.value))
    problems.extend(check_size(field, address.value, MAX_ID_BYTES if address.kind == "id" else MAX_TEXT_BYTES))
    return problems


def lane_number(connection: str, key: str) -> int:
    """Return the lane of a person or object of a connection: 64 bits, signed, as databases store them."""
    digest = hashlib.sha256(f"{connection}\0{key}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
