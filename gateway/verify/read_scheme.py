"""Read schemes from data: the entries of schemes.yaml, and the schemes that mappings write. Pure: no file is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

from gateway.errors import did_you_mean
from gateway.event import JSON
from gateway.text import HEADER_NAME
from gateway.verify.keys import incomplete
from gateway.verify.places import Place, place
from gateway.verify.scheme import (
    MAX_TOLERANCE,
    SIGNING,
    Algorithm,
    Answer,
    Encoding,
    Handshake,
    Kind,
    Scheme,
    SchemeError,
    SecretEncoding,
    Shown,
    Special,
    Timestamp,
    Unit,
)
from gateway.verify.template import VARIABLES, place_in, template

# Written in C, the loader takes a tenth of the time; every process reads the table as it starts.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_table(text: str) -> Mapping[str, Scheme]:
    """Parse the text of schemes.yaml: schemes by name, in the order of the file.

    The kinds (hmac, token, …) are entries too; some of them lack the header that a mapping has to add.
    """
    table: dict[str, Scheme] = {}
    for name, data in yaml.load(text, Loader=_Loader).items():  # noqa: S506  # both loaders are safe
        table[name] = _from_table(name, data, table)
    return MappingProxyType(table)


def read_scheme(data: JSON, table: Mapping[str, Scheme]) -> Scheme:
    """Read the scheme of a mapping: a name in *table*, or an object that starts from a `base` or a `kind`.

    Raises:
        SchemeError: The scheme is wrong, or cannot verify anything yet.
    """
    scheme = _named(data, None, table) if isinstance(data, str) else _inline(data, table)
    if problem := incomplete(scheme):
        raise SchemeError("header" if isinstance(data, dict) else None, problem)
    return scheme


# The table


def _from_table(name: str, data: dict[str, Any], table: Mapping[str, Scheme]) -> Scheme:
    """Read an entry of the table, which may say more than a mapping's scheme, and start from one above it."""
    if "base" in data:
        start = replace(table[data["base"]], name=name)
    else:
        start = Scheme(name=name, kind=_SPECIAL("kind", data["kind"]))
    about = {key: read(data[key]) for key, read in _ABOUT.items() if key in data}
    written = {key: data[key] for key in data if key not in ("base", "kind", *_ABOUT)}
    return replace(_changed(start, written, _SIGNED_KEYS), **about)


def _handshakes(data: list[dict[str, Any]]) -> tuple[Handshake, ...]:
    return tuple(_handshake(each) for each in data)


def _handshake(data: dict[str, Any]) -> Handshake:
    json = data.get("json")
    return Handshake(
        method=data["method"],
        when={_place("when", where): value for where, value in data.get("when", {}).items()},
        signed=data.get("signed", False),
        token=_place("token", data["token"]) if "token" in data else None,
        tell=_place("tell", data["tell"]) if "tell" in data else None,
        text=_shown_in(data["text"]) if "text" in data else None,
        json=None if json is None else {name: _shown_in(what) for name, what in json.items()},
        headers={name: _shown_in(what) for name, what in data.get("headers", {}).items()},
    )


_MAC = re.compile(r"mac\((.+)\)")


def _shown_in(what: str | int) -> Any:
    if isinstance(what, int):
        return what
    mac = _MAC.fullmatch(what)
    return Shown(place=_place("answer", mac[1] if mac else what), mac=mac is not None)


def _place(key: str, text: str) -> Place:
    if (found := place(text)) is None:
        raise SchemeError(key, f"'{key}' names no place: {text}")
    return found


#: What only the table says of a scheme: a mapping has keys of its own for the like.
_ABOUT: Mapping[str, Callable[[Any], Any]] = {
    "description": str,
    "event_key": str,
    "event_type": str,
    "content_type": str,
    "secret_prefix": str,
    "handshakes": _handshakes,
    "answer": lambda data: Answer(**data),
}


# A scheme of a mapping's own


def _inline(data: JSON, table: Mapping[str, Scheme]) -> Scheme:
    if not isinstance(data, dict):
        raise SchemeError(None, "a scheme is a name of the table, or an object with keys such as `kind`")
    given = [key for key in ("base", "kind") if key in data]
    if len(given) != 1:
        raise SchemeError(
            given[-1] if given else None,
            "a scheme of your own starts from either a `base`, which is a name of the table, or a `kind`, "
            f"which is {_either(get_args(Kind))}",
        )
    if data.get("kind") in get_args(Special):
        raise SchemeError("kind", f"'{data['kind']}' is a scheme of the table; write  base: {data['kind']}")
    # The table holds each kind under its own name, with the headers that are fixed for it.
    name = data["base"] if "base" in data else _KIND("kind", data["kind"])
    start = _named(name, given[0], table)
    scheme = _changed(start, {key: data[key] for key in data if key not in given}, KEYS[start.kind])
    # The table has senders that do so; nobody should do it again.
    if "signed" in data and not scheme.covers_body:
        raise SchemeError("signed", "'signed' leaves the body out, so anybody could change it; add {body}")
    return scheme


def _named(name: JSON, key: str | None, table: Mapping[str, Scheme]) -> Scheme:
    if not isinstance(name, str) or name not in table:
        raise SchemeError(key, f"unknown scheme {_shown(name)}{_suggestion(name, table)}")
    return table[name]


def _changed(start: Scheme, data: dict[str, JSON], known: Sequence[str]) -> Scheme:
    read = _read(data, known, "", f"a scheme of kind {start.kind}")
    if "secret" in read:
        read["secret"] = replace(start.secret, **read["secret"])
    if "timestamp" in read:
        read["timestamp"] = _moved(start.timestamp or Timestamp(), read["timestamp"])
    # What stands in another place now no longer stands where it did.
    moved: dict[str, Any] = {}
    if "at" in read and "header" not in read:
        moved["header"] = ()
    if "header" in read and "at" not in read:
        moved["at"] = None
    scheme = replace(start, **moved, **read)
    for key, wrong, problem in _contradictions(scheme, data):
        if wrong:
            raise SchemeError(key, problem)
    return scheme


def _moved(start: Timestamp, read: Mapping[str, Any]) -> Timestamp:
    if any(key in read for key in ("header", "item", "body")):
        start = replace(start, header=(), item=None, body=None)
    return replace(start, **read)


def _read(data: Mapping[str, JSON], known: Sequence[str], path: str, what: str) -> dict[str, Any]:
    for key in data:
        if key not in known:
            raise SchemeError(path + key, f"unknown key '{key}' in {what}{_suggestion(key, known)}")
    return {key: _READERS[path + key](path + key, value) for key, value in data.items()}


def _contradictions(scheme: Scheme, data: Mapping[str, JSON]) -> Iterator[tuple[str, bool, str]]:
    """Give each contradiction there could be: the key to blame, whether it is there, and what to say."""
    listed = scheme.key is not None or scheme.positional
    for key in ("items", "sep"):
        yield key, key in data and not listed, f"'{key}' takes a list apart; add the `key` of its signatures"
    yield (
        "sep",
        "sep" in data and scheme.positional,
        "the items of a positional list have no names; remove 'sep'",
    )
    is_bare = scheme.kind == "token" and scheme.at is not None and bool(scheme.prefix)
    yield "prefix", is_bare, "a token has a `prefix` in a `header` only; remove it"
    yield (
        "prefix",
        listed and bool(scheme.prefix),
        "a header is a list with a `key`, or has a `prefix`; not both",
    )
    twice = bool(scheme.header) and scheme.at is not None
    yield "at", twice, "the signature stands in a `header`, or `at` another place; give one"
    both = scheme.positional and scheme.key is not None
    yield (
        "positional",
        both,
        "the items of a list have names, of which `key` is one, or are `positional`; not both",
    )
    yield (
        "positional",
        scheme.positional and not scheme.timestamp,
        "the first item is the time: add a `timestamp`",
    )
    if scheme.timestamp:
        yield from _contradictions_of_time(scheme, scheme.timestamp)
    if scheme.kind in SIGNING:
        yield from _contradictions_of_signed(scheme)


def _contradictions_of_time(scheme: Scheme, time: Timestamp) -> Iterator[tuple[str, bool, str]]:
    places = [bool(time.header), time.item is not None, time.body is not None, scheme.positional]
    one = "a timestamp stands in a `header`, in an `item` or in the `body`; give one"
    yield (
        "timestamp",
        sum(places) != 1,
        f"{one}, or none where the list is positional" if scheme.positional else one,
    )
    unlisted = time.item is not None and scheme.key is None
    yield "timestamp.item", unlisted, "an item is part of a list; add the `key` of its signatures"


def _contradictions_of_signed(scheme: Scheme) -> Iterator[tuple[str, bool, str]]:
    used, time = template(scheme.signed)[1], scheme.timestamp
    yield "signed", "ts" in used and not time, "'signed' has {ts}, but no `timestamp` says where it stands"
    # A time that is not signed can be moved at will: checking its age would only look safe.
    in_body = time is not None and time.body is not None
    covered = "ts" in used or (in_body and scheme.covers_body)
    yield "signed", bool(time) and not covered, "the timestamp is not signed; add {ts} to 'signed'"
    unnamed = "id" in used and not scheme.delivery_id
    yield "signed", unnamed, "'signed' has {id}, but no `delivery_id` names its header"
    is_digest = scheme.kind == "digest"
    yield (
        "signed",
        is_digest and "secret" not in used,
        "a digest proves nothing without the secret; add {secret}",
    )
    yield (
        "signed",
        not is_digest and "secret" in used,
        "{secret} is for a scheme of kind digest; leave it out",
    )


def _delivery_id(key: str, value: JSON) -> tuple[tuple[str, ...], ...]:
    alternatives = value if isinstance(value, list) else [value]
    return tuple(_header_names(key, each) for each in alternatives)


def _header_names(key: str, value: JSON) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise SchemeError(key, f"'{key}' is an empty list; name a header")
    return tuple(_header_name(key, name) for name in names)


def _header_name(key: str, name: JSON) -> str:
    if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
        raise SchemeError(key, f"'{key}' must be the name of a header, such as X-Signature")
    return name


_SPELLED = (*VARIABLES, "header.NAME", "query.NAME", "body.PATH")


def _signed_template(key: str, value: JSON) -> str:
    texts, variables = template(_text(key, value))
    if any(brace in text for text in texts for brace in (b"{", b"}")):
        raise SchemeError(key, f"a brace in '{key}' has no partner; variables are written {{body}}")
    for variable in variables:
        if where := place_in(variable):
            if where.part == "header":
                _header_name(key, where.name)
        elif variable not in VARIABLES:
            raise SchemeError(key, f"unknown variable {{{variable}}}{_suggestion(variable, _SPELLED)}")
    return _text(key, value)


def _elsewhere(key: str, value: JSON) -> Place:
    found = place(_text(key, value))
    if found is None or found.part == "header":
        raise SchemeError(
            key, f"'{key}' must be path, query.NAME or body.PATH, such as query.token; a header is `header`"
        )
    return found


def _flag(key: str, value: JSON) -> bool:
    if not isinstance(value, bool):
        raise SchemeError(key, f"'{key}' must be true or false")
    return value


def _tolerance(key: str, value: JSON) -> int | None:
    if value == "none":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOLERANCE:
        return value
    raise SchemeError(key, f"'{key}' is seconds from 1 to {MAX_TOLERANCE}, or the word none for any time")


def _secret(key: str, value: JSON) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemeError(
            key,
            "'secret' says how the secret is read, with the keys strip and encoding; the secret itself is "
            "in the environment, under the name that `secret_env` gives",
        )
    return _read(value, ("strip", "encoding"), "secret.", "'secret'")


def _timestamp_keys(key: str, value: JSON) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemeError(key, "'timestamp' is an object with the keys header, item or body, unit and tolerance")
    return _read(value, ("header", "item", "body", "unit", "tolerance"), "timestamp.", "'timestamp'")


def _filled(key: str, value: JSON) -> str:
    if not _text(key, value):
        raise SchemeError(key, f"'{key}' must not be empty")
    return _text(key, value)


def _text(key: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise SchemeError(key, f"'{key}' must be text; quote it")
    return value


def _one_of(choices: Any) -> Callable[[str, JSON], Any]:
    known: tuple[str, ...] = get_args(choices)

    def read(key: str, value: JSON) -> Any:
        if value in known:
            return value
        raise SchemeError(key, f"'{key}' must be {_either(known)}, not {_shown(value)}{_suggestion(value, known)}")

    return read


def _either(known: Sequence[str]) -> str:
    return f"{', '.join(known[:-1])} or {known[-1]}"


def _shown(value: JSON) -> str:
    return f"'{value}'" if isinstance(value, str) else "something that is not text"


def _suggestion(given: JSON, known: Iterable[str]) -> str:
    return did_you_mean(given, known) if isinstance(given, str) else ""


_KIND = _one_of(Kind)
_SPECIAL = _one_of(Literal[Kind, Special])

_READERS: Mapping[str, Callable[[str, JSON], Any]] = {
    "header": _header_names,
    "at": _elsewhere,
    "prefix": _text,
    "key": _filled,
    "positional": _flag,
    "items": _filled,
    "sep": _filled,
    "algorithm": _one_of(Algorithm),
    "encoding": _one_of(Encoding),
    "secret": _secret,
    "secret.strip": _text,
    "secret.encoding": _one_of(SecretEncoding),
    "signed": _signed_template,
    "timestamp": _timestamp_keys,
    "timestamp.header": _header_names,
    "timestamp.item": _filled,
    "timestamp.body": _filled,
    "timestamp.unit": _one_of(Unit),
    "timestamp.tolerance": _tolerance,
    "delivery_id": _delivery_id,
    "trust": _header_names,
}

_SIGNED_KEYS = tuple(key for key in _READERS if "." not in key)

#: The keys that a mapping's scheme of each kind may have; what is not there of a kind that is code is no choice.
KEYS: Mapping[Kind | Special, tuple[str, ...]] = {
    "hmac": _SIGNED_KEYS,
    "digest": _SIGNED_KEYS,
    # Each has its one algorithm.
    "ed25519": tuple(key for key in _SIGNED_KEYS if key != "algorithm"),
    "ecdsa": tuple(key for key in _SIGNED_KEYS if key != "algorithm"),
    "token": ("header", "at", "prefix", "delivery_id"),
    "basic": ("header", "prefix", "delivery_id"),
    "none": ("delivery_id",),
    "adyen": ("secret", "delivery_id", "trust"),
    "braintree": ("delivery_id", "trust"),
    "contentful": ("delivery_id", "trust"),
    "twilio": ("delivery_id", "trust"),
}
