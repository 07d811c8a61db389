"""The bytes that a signature covers, built from a template such as ``{ts}.{body}``."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from gateway.errors import VerificationError
from gateway.event import Webhook
from gateway.verify.request_fields import RequestField, WebhookReader, parse_field
from gateway.verify.scheme import Scheme

#: The variables of a template, besides the fields of a request: {header.NAME}, {query.NAME} and {body.PATH}.
VARIABLES = ("body", "ts", "id", "method", "url", "decoded_url", "form", "secret")


def signed_bytes(scheme: Scheme, reader: WebhookReader, timestamp: str, key: bytes = b"") -> bytes:
    """Return the bytes that a signature of this webhook covers.

    Args:
        timestamp: As the sender wrote it.
        key: The secret, for a scheme that hashes it together with the body.

    Raises:
        VerificationError: A variable has no value. An empty text in its place would let a stranger move bytes from
            one variable to the next.
    """
    texts, variables = split_template(scheme.signed)
    pieces = [texts[0]]
    for variable, text in zip(variables, texts[1:], strict=True):
        pieces += (_variable_bytes(variable, scheme, reader, timestamp, key), text)
    return b"".join(pieces)


@lru_cache(maxsize=256)
def split_template(signed: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Split a template into its texts and the variables between them: always one text more than variables."""
    parts = re.split(r"\{([^{}]*)\}", signed)
    return tuple(text.encode() for text in parts[::2]), tuple(parts[1::2])


def variable_field(variable: str) -> RequestField | None:
    """Return the header, query parameter or body field that a variable names; None for any other variable."""
    field = parse_field(variable)
    return None if field is None or field.part == "path" else field


def delivery_id(scheme: Scheme, webhook: Webhook) -> str | None:
    """Return the sender's id of this delivery; None if no header of the scheme holds one."""
    for names in scheme.delivery_id:
        values = [webhook.headers.get(name.lower(), "") for name in names]
        if all(values):
            return " ".join(values)
    return None


def _variable_bytes(variable: str, scheme: Scheme, reader: WebhookReader, timestamp: str, key: bytes) -> bytes:
    webhook, text = reader.webhook, None
    match variable:
        case "body":
            return webhook.body
        case "form":
            return reader.form_text
        case "secret":
            return key
        case "ts":
            text = timestamp
        case "id":
            text = delivery_id(scheme, webhook)
        case "method":
            text = webhook.method
        case "url":
            text = webhook.url
        case "decoded_url":
            text = _HUBSPOT_ESCAPES.sub(lambda escape: unquote(escape[0]), webhook.url)
        case _:
            field = variable_field(variable)
            assert field is not None, "variables are checked when the scheme is read"
            text = reader.required_text(field)
            return header_bytes(text) if field.part == "header" else text.encode("utf-8", "surrogatepass")
    if not text:
        headers = " or ".join(" with ".join(names) for names in scheme.delivery_id)
        raise VerificationError(_MISSING[variable].format(id=headers))
    return header_bytes(text)


_NO_URL = "the public address, which this scheme signs, is not known; set GATEWAY_PUBLIC_URL"
_MISSING = {
    "ts": "the timestamp is missing",
    "id": "the header {id} is missing",
    "method": "the method, which this scheme signs, is not known",
    "url": _NO_URL,
    "decoded_url": _NO_URL,
}

#: HubSpot decodes these escapes, and no others, before it signs the URL.
_HUBSPOT_ESCAPES = re.compile("%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


def header_bytes(text: str) -> bytes:
    """Return the bytes of a header or URL as they were sent: WSGI servers decode them as Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
