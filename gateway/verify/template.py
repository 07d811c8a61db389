"""Templates of what is signed, such as ``{ts}.{body}``."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from gateway import payload
from gateway.errors import RequestError, VerificationError
from gateway.event import Webhook
from gateway.verify.places import Place, Request, place
from gateway.verify.scheme import Scheme

#: The variables of a template. Those of a place are written {header.NAME}, {query.NAME} and {body.PATH}.
VARIABLES = ("body", "ts", "id", "method", "url", "decoded_url", "form", "secret")


def filled(scheme: Scheme, request: Request, timestamp: str, key: bytes = b"") -> bytes:
    """Give the bytes that a signature covers.

    Args:
        timestamp: As it was sent.
        key: The secret, where the scheme signs by putting it in.

    Raises:
        VerificationError: What the template asks for was not sent, or is not known.
    """
    texts, variables = template(scheme.signed)
    values = [_value(variable, scheme, request, timestamp, key) for variable in variables]
    return b"".join(part for pair in zip(texts, [*values, b""], strict=True) for part in pair)


@lru_cache(maxsize=256)
def template(signed: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Split a template into texts and the variables between them: always one text more than variables."""
    parts = re.split(r"\{([^{}]*)\}", signed)
    return tuple(text.encode() for text in parts[::2]), tuple(parts[1::2])


def place_in(variable: str) -> Place | None:
    """Give the place that a variable stands for, if it is one: a header, a parameter or a field of the body."""
    found = place(variable)
    return None if found is None or found.part == "path" else found


def delivery_id(scheme: Scheme, webhook: Webhook) -> str | None:
    """Give what the sender says makes a repeated webhook the same, if it says so in headers."""
    for names in scheme.delivery_id:
        values = [webhook.headers.get(name.lower(), "") for name in names]
        if all(values):
            return " ".join(values)
    return None


def _value(variable: str, scheme: Scheme, request: Request, timestamp: str, key: bytes) -> bytes:
    webhook, value = request.webhook, None
    match variable:
        case "body":
            return webhook.body
        case "form":
            return form_of(request)
        case "secret":
            return key
        case "ts":
            value = timestamp
        case "id":
            value = delivery_id(scheme, webhook)
        case "method":
            value = webhook.method
        case "url":
            value = webhook.url
        case "decoded_url":
            value = _ESCAPES.sub(lambda found: unquote(found[0]), webhook.url)
        case _:
            return _at(place_in(variable), request)
    if not value:
        named = " or ".join(" with ".join(names) for names in scheme.delivery_id)
        raise VerificationError(_MISSING[variable].format(id=named))
    return as_sent(value)


_MISSING = {
    "ts": "the timestamp is missing",
    "id": "the header {id} is missing",
    "method": "the method, which this scheme signs, is not known",
    "url": "the public address, which this scheme signs, is not known; set GATEWAY_PUBLIC_URL",
}
_MISSING["decoded_url"] = _MISSING["url"]

#: What HubSpot takes for itself again before it signs an address.
_ESCAPES = re.compile("%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


def _at(where: Place | None, request: Request) -> bytes:
    assert where is not None, "a template was read before"
    text = request.need(where)
    return as_sent(text) if where.part == "header" else text.encode("utf-8", "surrogatepass")


def form_of(request: Request) -> bytes:
    """Write the fields of a form one after the other, in the order of the alphabet, equal ones once.

    Raises:
        VerificationError: The body is none.
    """
    if not request.is_form:
        raise VerificationError("the body is not a form, and this scheme signs the fields of one")
    try:
        fields = payload.form_fields(request.webhook.body)
    except RequestError as error:
        raise VerificationError(f"{error}; this scheme signs the fields of a form") from None
    return "".join(name + value for name, value in sorted(set(fields))).encode()


def as_sent(text: str) -> bytes:
    """Give the bytes of a header or address, each of which the web server hands over as one character."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
