"""Where something stands in a request: `header.X-Id`, `query.token`, `body.event.id`, or `path`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args
from urllib.parse import SplitResult, urlsplit

from gateway import payload as payloads
from gateway.errors import RequestError, VerificationError
from gateway.event import JSON, Webhook

Part: TypeAlias = Literal["header", "query", "body", "path"]


@dataclass(frozen=True)
class Place:
    """A place in a request.

    Attributes:
        name: Of a header or a parameter of the query; in the body the path of a field, in which ``items[].id``
            is the id of each of the items; of the path (what follows the source's name) nothing.
    """

    part: Part
    name: str = ""

    def __str__(self) -> str:
        match self.part:
            case "path":
                return "secret at the end of the address"
            case "query":
                return f"parameter {self.name} of the address"
            case "header":
                return f"header {self.name}"
        return f"field {self.name} of the body"


def place(text: str) -> Place | None:
    """Read a place as it is written; None: it is none."""
    part, dot, name = text.partition(".")
    if part not in get_args(Part) or (part == "path") == bool(dot) or bool(dot) != bool(name):
        return None
    return Place(part, name)  # type: ignore[arg-type]  # it was looked up among them


class Request:
    """A request that is not trusted yet, to find values in.

    Args:
        content_type: What its body is, whatever it says itself.
        most: Bytes of a body that is decoded.
    """

    def __init__(self, webhook: Webhook, content_type: str | None = None, *, most: int | None = None) -> None:
        self.webhook = webhook
        self._content_type = content_type
        self._most = most

    @cached_property
    def payload(self) -> JSON:
        """The decoded body; None for one that cannot be read, for nothing is to be found in it.

        Raises:
            VerificationError: It is too large.
        """
        if self._most is not None and len(self.webhook.body) > self._most:
            raise VerificationError(
                f"the body is larger than {self._most:,} bytes, and its proof stands in it: so much is not read"
            )
        kind = self._content_type or self.webhook.headers.get("content-type", "")
        try:
            return payloads.decode(self.webhook.body, kind)
        except RequestError:
            return None

    @property
    def is_form(self) -> bool:
        """Whether the body is read as a form."""
        kind = self._content_type or self.webhook.headers.get("content-type", "")
        return kind.partition(";")[0].strip().lower() == payloads.FORM

    @property
    def address(self) -> SplitResult:
        """The parts of the address it was sent to.

        Raises:
            VerificationError: It is none; it is a stranger's, but for its beginning.
        """
        try:
            return urlsplit(self.webhook.url)
        except ValueError:
            raise VerificationError("the address that it was sent to cannot be read") from None

    def bears(self, headers: Iterable[str]) -> bool:
        """Tell whether one of these headers was sent."""
        return any(name.lower() in self.webhook.headers for name in headers)

    def text(self, where: Place) -> str:
        """Give the one text or whole number at a place; "" when there is none."""
        return _only_text(self.all(where))

    def all(self, where: Place) -> list[JSON]:
        """Give all that stands at a place; None in the stead of what is missing in one of several items."""
        match where.part:
            case "header":
                return _present(self.webhook.headers.get(where.name.lower()))
            case "query":
                return _present(self.webhook.query.get(where.name))
            case "path":
                return _present(self.webhook.rest or None)
        return _found(self.payload, where.name)

    def need(self, where: Place, hint: str = "") -> str:
        """Give the text at a place.

        Raises:
            VerificationError: There is none.
        """
        if text := self.text(where):
            return text
        raise VerificationError(f"the {where} is missing{hint}")


def text_at(payload: JSON, path: str) -> str:
    """Give the one text or whole number at a path; "" when there is none."""
    return _only_text(_found(payload, path))


def _only_text(found: list[JSON]) -> str:
    return _text(found[0]) if len(found) == 1 else ""


def _present(text: str | None) -> list[JSON]:
    return [] if text is None else [text]


def _found(payload: JSON, path: str) -> list[JSON]:
    found: list[JSON] = [payload]
    for step in path.split("."):
        name = step.removesuffix("[]")
        found = [each.get(name) if isinstance(each, dict) else None for each in found]
        if step.endswith("[]"):
            found = [item for each in found for item in (each if isinstance(each, list) else [None])]
    return [] if found == [None] else found


def _text(value: JSON) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write out integers of thousands of digits.
        return str(value) if abs(value) < 10**40 else ""
    return value if isinstance(value, str) else ""
