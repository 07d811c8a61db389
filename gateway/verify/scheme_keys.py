"""What each key of a scheme may hold, and which keys each kind of scheme has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.text import HEADER_NAME, arrival_problem
from gateway.verify.request_fields import RequestField, parse_field
from gateway.verify.scheme import (
    MAX_TOLERANCE,
    Algorithm,
    Encoding,
    Handshake,
    Kind,
    Method,
    ReplyValue,
    SchemeError,
    SecretEncoding,
    Special,
    Unit,
)
from gateway.verify.template import VARIABLES, split_template, variable_field


def read_keys(data: Mapping[str, JSON], known: Sequence[str], path: str, owner: str) -> dict[str, Any]:
    """Read the values of some keys.

    Args:
        known: The keys that may be there.
        path: The path of the object they stand in, as in ``timestamp.`` or, for an item of a list, ``handshakes.0.``;
            "" for the scheme itself.
        owner: What has these keys, for the error about an unknown one.

    Raises:
        SchemeError: A key is unknown, or its value is wrong.
    """
    for key in data:
        if key not in known:
            raise SchemeError(path + key, f"unknown key '{key}' in {owner}{suggestion(key, known)}")
    kind = re.sub(r"\d+\.", "", path)  # the keys of all items are alike
    return {key: _READERS[kind + key](path + key, value) for key, value in data.items()}


# Readers. Each takes the path of its key, for the error, and the value, and returns what the scheme holds.


def _text(key: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise SchemeError(key, f"'{key}' must be text; quote it")
    return value


def _nonempty_text(key: str, value: JSON) -> str:
    if text := _text(key, value):
        return text
    raise SchemeError(key, f"'{key}' must not be empty")


def _flag(key: str, value: JSON) -> bool:
    if not isinstance(value, bool):
        raise SchemeError(key, f"'{key}' must be true or false")
    return value


def one_of(choices: Any) -> Callable[[str, JSON], Any]:
    """Return a reader that accepts the values of a Literal type."""
    known: tuple[str, ...] = get_args(choices)

    def read(key: str, value: JSON) -> Any:
        if value in known:
            return value
        text = f"'{key}' must be {alternatives(known)}, not {quoted(value)}{suggestion(value, known)}"
        raise SchemeError(key, text)

    return read


def _header_name(key: str, value: JSON) -> str:
    if not isinstance(value, str) or not HEADER_NAME.fullmatch(value):
        raise SchemeError(key, f"'{key}' must be the name of a header, such as X-Signature")
    if problem := arrival_problem(value):
        raise SchemeError(key, problem)
    return value


def _header_names(key: str, value: JSON) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise SchemeError(key, f"'{key}' is an empty list; name a header")
    return tuple(_header_name(key, name) for name in names)


def _field_without_header(key: str, value: JSON) -> RequestField:
    field = parse_field(_text(key, value))
    if field is None or field.part == "header":
        text = f"'{key}' must be path, query.NAME or body.PATH, such as query.token; a header is `header`"
        raise SchemeError(key, text)
    return field


#: The variables of `signed`, as people read about them.
TEMPLATE_VARIABLES = (*VARIABLES, "header.NAME", "query.NAME", "body.PATH")


def _signed_template(key: str, value: JSON) -> str:
    template = _text(key, value)
    texts, variables = split_template(template)
    if any(brace in text for text in texts for brace in (b"{", b"}")):
        raise SchemeError(key, f"a brace in '{key}' has no partner; variables are written {{body}}")
    for variable in variables:
        if field := variable_field(variable):
            if field.part == "header":
                _header_name(key, field.name)
        elif variable not in VARIABLES:
            raise SchemeError(key, f"unknown variable {{{variable}}}{suggestion(variable, TEMPLATE_VARIABLES)}")
    return template


def _object(keys: Sequence[str], problem: str) -> Callable[[str, JSON], Any]:
    """Return a reader of an object with these keys; *problem* is the message about any other value."""

    def read(key: str, value: JSON) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise SchemeError(key, problem)
        return read_keys(value, keys, f"{key}.", f"'{key}'")

    return read


def _tolerance(key: str, value: JSON) -> int | None:
    if value == "none":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOLERANCE:
        return value
    raise SchemeError(key, f"'{key}' is seconds from 1 to {MAX_TOLERANCE}, or the word none for any time")


# Handshakes: a list of objects, each with keys of its own


def _handshakes(key: str, value: JSON) -> tuple[Handshake, ...]:
    if not isinstance(value, list) or not value:
        raise SchemeError(key, f"'{key}' is a list of requests and replies: each starts with  - method: GET")
    return tuple(_handshake(f"{key}.{number}", item) for number, item in enumerate(value))


def _handshake(path: str, data: JSON) -> Handshake:
    if not isinstance(data, dict) or "method" not in data:
        raise SchemeError(path, "a handshake is an object of keys, and starts with  method: GET")
    handshake = Handshake(**read_keys(data, HANDSHAKE_KEYS, f"{path}.", "a handshake"))
    if handshake.method == "POST" and not handshake.when:
        text = "a POST is a handshake only under a condition, else no webhook is one:  when: {body.challenge: any}"
        raise SchemeError(path, text)
    if handshake.text is not None and handshake.json is not None:
        raise SchemeError(f"{path}.json", "a reply has a `text` or a `json`; remove one")
    return handshake


def _field(key: str, value: JSON) -> RequestField:
    field = parse_field(value) if isinstance(value, str) else None
    if field is None:
        text = f"{quoted(value)} is no place in a request; write body.PATH, query.NAME, header.NAME or path"
        raise SchemeError(key, text)
    if field.part == "header":
        _header_name(key, field.name)
    return field


def _conditions(key: str, value: JSON) -> dict[RequestField, JSON]:
    if not isinstance(value, dict) or None in value.values():
        text = "'when' is an object of places in the request, each with its value, any or absent: {body.type: ping}"
        raise SchemeError(key, text)
    return {_field(key, place): expected for place, expected in value.items()}


def _reply_value(key: str, value: JSON) -> ReplyValue:
    mac = re.fullmatch(r"mac\((.+)\)", value) if isinstance(value, str) else None
    return ReplyValue(field=_field(key, mac[1] if mac else value), mac=mac is not None)


def _reply_json(key: str, value: JSON) -> dict[str, ReplyValue | int]:
    if not isinstance(value, dict):
        raise SchemeError(key, "'json' is an object of names and places in the request: {challenge: body.challenge}")
    return {name: item if isinstance(item, int) else _reply_value(key, item) for name, item in value.items()}


def _reply_headers(key: str, value: JSON) -> dict[str, ReplyValue]:
    if not isinstance(value, dict) or not all(map(HEADER_NAME.fullmatch, value)):
        raise SchemeError(key, "'headers' is an object of names and places in the request: {X-Hook: header.X-Hook}")
    return {name: _reply_value(key, item) for name, item in value.items()}


def alternatives(known: Sequence[str]) -> str:
    """Return "a, b or c"."""
    return f"{', '.join(known[:-1])} or {known[-1]}"


def quoted(value: JSON) -> str:
    """Return a text of a mapping as an error shows it."""
    return f"'{value}'" if isinstance(value, str) else "something that is not text"


def suggestion(value: JSON, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for a text that is close to a known one, or ""."""
    return did_you_mean(value, known) if isinstance(value, str) else ""


_READERS: Mapping[str, Callable[[str, JSON], Any]] = {
    "header": _header_names,
    "at": _field_without_header,
    "prefix": _text,
    "key": _nonempty_text,
    "positional": _flag,
    "items": _nonempty_text,
    "sep": _nonempty_text,
    "algorithm": one_of(Algorithm),
    "encoding": one_of(Encoding),
    "secret": _object(
        ("strip", "encoding"),
        "'secret' says how the secret is read, with the keys strip and encoding; the secret itself is "
        "in the environment, under the name that `secret_env` gives",
    ),
    "secret.strip": _text,
    "secret.encoding": one_of(SecretEncoding),
    "signed": _signed_template,
    "timestamp": _object(
        ("header", "item", "body", "unit", "tolerance"),
        "'timestamp' is an object with the keys header, item or body, unit and tolerance",
    ),
    "timestamp.header": _header_names,
    "timestamp.item": _nonempty_text,
    "timestamp.body": _nonempty_text,
    "timestamp.unit": one_of(Unit),
    "timestamp.tolerance": _tolerance,
    "delivery_id": lambda key, value: tuple(
        _header_names(key, names) for names in (value if isinstance(value, list) else [value])
    ),
    "trust": _header_names,
    "handshakes": _handshakes,
    "handshakes.method": one_of(Method),
    "handshakes.when": _conditions,
    "handshakes.signed": _flag,
    "handshakes.token": _field,
    "handshakes.log": _field,
    "handshakes.text": _reply_value,
    "handshakes.json": _reply_json,
    "handshakes.headers": _reply_headers,
    "json_field": _nonempty_text,
}

#: The keys of a scheme that a mapping may write, of any kind.
ALL_KEYS = tuple(key for key in _READERS if "." not in key)
#: The keys of a handshake.
HANDSHAKE_KEYS = tuple(key.removeprefix("handshakes.") for key in _READERS if key.startswith("handshakes."))
# A public key goes with one algorithm.
_PUBLIC_KEY_KEYS = tuple(key for key in ALL_KEYS if key != "algorithm")

#: The keys that a mapping's scheme of each kind may have. The kinds that are code leave little to choose.
KEYS: Mapping[Kind | Special, tuple[str, ...]] = {
    "hmac": ALL_KEYS,
    "digest": ALL_KEYS,
    "ed25519": _PUBLIC_KEY_KEYS,
    "ecdsa": _PUBLIC_KEY_KEYS,
    "token": ("header", "at", "prefix", "delivery_id", "json_field", "handshakes"),
    "basic": ("header", "prefix", "delivery_id", "json_field", "handshakes"),
    "none": ("delivery_id", "json_field", "handshakes"),
    "adyen": ("secret", "delivery_id", "trust", "handshakes"),
    "braintree": ("delivery_id", "trust", "handshakes"),
    "contentful": ("delivery_id", "trust", "handshakes"),
    "twilio": ("delivery_id", "trust", "handshakes"),
}
