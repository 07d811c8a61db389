"""Read values from a request that is not verified yet: `header.X-Id`, `query.token`, `body.event.id` or `path`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args
from urllib.parse import SplitResult, urlsplit

from gateway import payload as payloads
from gateway.errors import RequestError, VerificationError
from gateway.event import JSON, Webhook

RequestPart: TypeAlias = Literal["header", "query", "body", "path"]


@dataclass(frozen=True)
class RequestField:
    """Names one value of a request.

    Attributes:
        name: The name of a header or query parameter, or the path of a field in the body, where ``items[].id`` is the
            id of each item. Empty for `path`: what follows the source's name in the URL.
    """

    part: RequestPart
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


def parse_field(text: str) -> RequestField | None:
    """Parse ``header.NAME``, ``query.NAME``, ``body.PATH`` or ``path``; return None for anything else."""
    part, dot, name = text.partition(".")
    if part not in get_args(RequestPart) or (part == "path") == bool(dot) or bool(dot) != bool(name):
        return None
    return RequestField(part, name)  # type: ignore[arg-type]  # checked against the names of the parts above


# Limits on the decoding of a body that has to be decoded before it is verified, because its proof is inside. They keep
# what a stranger can ask for below 50 ms.
#: Bytes of JSON, of a form that is made into an object, and of XML, which takes five times as long. A form that is only
#: split into its fields, or has files, may be as large as any body: it is read ten times as fast.
MAX_UNPROVEN, MAX_UNPROVEN_XML = 131_072, 32_768
#: Fields of a form; the senders of the table send up to a hundred.
MAX_UNPROVEN_FIELDS = 300
#: Bytes to which any body may be unpacked, and how many times its size that may be if this is more: a few kilobytes of
#: gzip must not cost what a megabyte costs. None of the senders whose proof is inside the body packs it.
MAX_UNPACKED, MAX_EXPANSION = 4_096, 16


@dataclass(frozen=True, kw_only=True)
class DecodingLimits:
    """How much of a body is decoded before it is verified.

    Attributes:
        sent_bytes: The length of the body before it was unpacked.
    """

    sent_bytes: int

    def require(self, body: bytes, most: int | None) -> None:
        """Require that a body has at most *most* bytes, and was not packed too tightly.

        Raises:
            RequestError: 413.
        """
        unpacked = max(MAX_UNPACKED, MAX_EXPANSION * self.sent_bytes)
        if len(body) > (most := unpacked if most is None else min(most, unpacked)):
            packed = " once it is unpacked" if self.sent_bytes < len(body) else ""
            raise RequestError(
                413,
                f"the body is larger than {most:,} bytes{packed}; this scheme would have to decode it before it is"
                " verified",
            )


class WebhookReader:
    """Reads values from a webhook that is not trusted yet.

    Args:
        content_type: The type of the body by its scheme; None: the (unsigned) header Content-Type says it.
        json_field: The field of a form that holds JSON, by its scheme.
        limits: What is decoded; None: everything.
    """

    def __init__(
        self,
        webhook: Webhook,
        content_type: str | None = None,
        json_field: str | None = None,
        *,
        limits: DecodingLimits | None = None,
    ) -> None:
        self.webhook = webhook
        self.content_type = content_type or webhook.headers.get("content-type", "")
        self._json_field = json_field
        self._limits = limits

    @cached_property
    def payload(self) -> JSON:
        """The decoded body.

        Raises:
            RequestError: 400, it cannot be decoded; 413, it is larger than the limit. Neither says that a secret is
                wrong.
        """
        body, fields = self.webhook.body, payloads.MAX_FORM_FIELDS
        if self._limits is not None:
            has_files = payloads.media_type_of(self.content_type) == payloads.MULTIPART
            most = MAX_UNPROVEN_XML if payloads.is_xml(self.content_type) else MAX_UNPROVEN
            self._limits.require(body, None if has_files and self._json_field is None else most)
            fields = MAX_UNPROVEN_FIELDS
        try:
            return payloads.decode(body, self.content_type, self._json_field, most_fields=fields)
        except RequestError as error:
            raise RequestError(400, f"the body cannot be read, and what proves it is inside: {error}") from error

    @cached_property
    def form_text(self) -> bytes:
        """The fields of a form, names and values one after the other, sorted, equal fields once.

        Raises:
            VerificationError: The body is not a form.
            RequestError: 400 or 413, it has too many fields, or was packed too tightly.
        """
        body, fields = self.webhook.body, payloads.MAX_FORM_FIELDS
        if self._limits is not None:
            self._limits.require(body, None)
            fields = MAX_UNPROVEN_FIELDS
        if not self.is_form:
            raise VerificationError("the body is not a form, and this scheme signs the fields of a form")
        pairs = set(payloads.form_fields(body, self.content_type, most=fields))
        return "".join(name + value for name, value in sorted(pairs)).encode()

    @property
    def is_form(self) -> bool:
        """Whether the body is an urlencoded form."""
        return payloads.is_form(self.webhook.body, self.content_type)

    @property
    def is_readable(self) -> bool:
        """Whether the body can be decoded."""
        try:
            _ = self.payload
        except RequestError:
            return False
        return True

    @property
    def address(self) -> SplitResult:
        """The parts of the URL that the webhook was sent to.

        Raises:
            VerificationError: It is no URL; path and query are the sender's text.
        """
        try:
            return urlsplit(self.webhook.url)
        except ValueError:
            raise VerificationError("the address that the webhook was sent to cannot be parsed") from None

    def has_header(self, names: Iterable[str]) -> bool:
        """Return whether at least one of these headers was sent."""
        return any(name.lower() in self.webhook.headers for name in names)

    def values(self, field: RequestField) -> list[JSON]:
        """Return all values of a field; under ``items[].id`` an item without the id gives None.

        Raises:
            RequestError: It is a field of a body that cannot be read.
        """
        match field.part:
            case "header":
                text = self.webhook.headers.get(field.name.lower())
            case "query":
                text = self.webhook.query.get(field.name)
            case "path":
                text = self.webhook.rest or None
            case "body":
                return _values_at(self.payload, field.name)
        return [] if text is None else [text]

    def text(self, field: RequestField) -> str:
        """Return the text or whole number of a field; "" if there is none, or more than one value."""
        return _single_text(self.values(field))

    def required_text(self, field: RequestField, hint: str = "") -> str:
        """Return the text of a field.

        Raises:
            VerificationError: It is missing or empty; *hint* is added to the message.
            RequestError: It is a field of a body that cannot be read.
        """
        if text := self.text(field):
            return text
        raise VerificationError(f"the {field} is missing{hint}")


def text_at(payload: JSON, path: str) -> str:
    """Return the text or whole number at a path of a decoded body; "" if there is none, or more than one value."""
    return _single_text(_values_at(payload, path))


def _values_at(payload: JSON, path: str) -> list[JSON]:
    values: list[JSON] = [payload]
    for step in path.split("."):
        name = step.removesuffix("[]")
        values = [value.get(name) if isinstance(value, dict) else None for value in values]
        if step.endswith("[]"):
            values = [item for value in values for item in (value if isinstance(value, list) else [None])]
    return [] if values == [None] else values


def _single_text(values: list[JSON]) -> str:
    value = values[0] if len(values) == 1 else None
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write integers of more than 4,300 digits.
        return str(value) if abs(value) < 10**40 else ""
    return value if isinstance(value, str) else ""
