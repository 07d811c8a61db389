"""Read schemes from data: the entries of schemes.yaml, and the schemes that mappings write. Pure: no file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, get_args

import yaml

from gateway.event import JSON
from gateway.verify.keys import scheme_problem
from gateway.verify.scheme import (
    SIGNING,
    Kind,
    PrescribedResponse,
    Scheme,
    SchemeError,
    Special,
    Timestamp,
)
from gateway.verify.scheme_keys import ALL_KEYS, KEYS, alternatives, one_of, quoted, read_keys, suggestion
from gateway.verify.template import split_template

# Written in C, the loader takes a tenth of the time; every process reads the table as it starts.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_table(text: str) -> Mapping[str, Scheme]:
    """Parse the text of schemes.yaml: schemes by name, in the order of the file.

    The kinds (hmac, token, …) are entries too; some of them lack the header that a mapping has to add.
    """
    table: dict[str, Scheme] = {}
    for name, data in yaml.load(text, Loader=_Loader).items():  # noqa: S506  # both loaders are safe
        start = replace(table[data["base"]], name=name) if "base" in data else Scheme(name=name, kind=data["kind"])
        own_keys = {key: value for key, value in data.items() if key not in ("base", "kind", *TABLE_ONLY)}
        table_only = {key: read(data[key]) for key, read in TABLE_ONLY.items() if key in data}
        # All keys of a scheme, also for the kinds implemented in code: a mapping may not change the header of Twilio.
        table[name] = replace(_with_keys(start, own_keys, ALL_KEYS), **table_only)
    return MappingProxyType(table)


def read_scheme(data: JSON, table: Mapping[str, Scheme]) -> Scheme:
    """Read the scheme of a mapping: a name in *table*, or an object that starts from a `base` or a `kind`.

    Raises:
        SchemeError: The scheme is wrong, or cannot verify anything yet.
    """
    scheme = _named_scheme(data, None, table) if isinstance(data, str) else _own_scheme(data, table)
    if problem := scheme_problem(scheme):
        raise SchemeError("header" if isinstance(data, dict) else None, problem)
    return scheme


#: The keys that only the table may write, and how each is read. Mappings have keys of their own for the like.
TABLE_ONLY: Mapping[str, Callable[[Any], Any]] = {
    "description": str,
    "event_key": str,
    "event_type": str,
    "content_type": str,
    "secret_prefix": str,
    "answer": lambda data: PrescribedResponse(**data),
}


# A scheme of a mapping's own


def _own_scheme(data: JSON, table: Mapping[str, Scheme]) -> Scheme:
    if not isinstance(data, dict):
        raise SchemeError(None, "a scheme is a name of the table, or an object with keys such as `kind`")
    starts = [key for key in ("base", "kind") if key in data]
    if len(starts) != 1:
        raise SchemeError(
            starts[-1] if starts else None,
            "a scheme of your own starts from either a `base`, which is a name of the table, or a `kind`, "
            f"which is {alternatives(get_args(Kind))}",
        )
    if data.get("kind") in get_args(Special):
        raise SchemeError("kind", f"'{data['kind']}' is a scheme of the table; write  base: {data['kind']}")
    # The table holds each kind under its own name, with the keys that are fixed for it.
    name = data["base"] if "base" in data else one_of(Kind)("kind", data["kind"])
    start = _named_scheme(name, starts[0], table)
    scheme = _with_keys(start, {key: value for key, value in data.items() if key not in starts}, KEYS[start.kind])
    # The table has such schemes (Mailgun), with a signed key that makes each proof good only once. A mapping's own
    # scheme has no such guard: whoever saw one proof could send any body.
    if "signed" in data and not scheme.covers_body:
        raise SchemeError("signed", "'signed' leaves the body out, so anybody could change it; add {body}")
    for number, handshake in enumerate(scheme.handshakes if "handshakes" in data else ()):
        # Else a stranger could have any text signed, also the body of a webhook. A captured handshake is one more
        # request, of which the stranger can change what the signature does not cover.
        if handshake.mac_fields and not (handshake.signed and scheme.kind == "hmac"):
            text = "mac() signs what the request says, so the request has to be signed too, by a scheme of kind hmac"
            raise SchemeError(f"handshakes.{number}", f"{text}; add  signed: true")
        if any(field.part != "body" or not scheme.covers_body for field in handshake.mac_fields):
            text = "mac() signs a field of the body only, by a scheme whose signature covers it; write  mac(body.PATH)"
            raise SchemeError(f"handshakes.{number}", text)
    return scheme


def _named_scheme(name: JSON, key: str | None, table: Mapping[str, Scheme]) -> Scheme:
    if not isinstance(name, str) or name not in table:
        raise SchemeError(key, f"unknown scheme {quoted(name)}{suggestion(name, table)}")
    return table[name]


def _with_keys(start: Scheme, data: Mapping[str, JSON], known: Sequence[str]) -> Scheme:
    """Return a scheme with some keys replaced; raise SchemeError if a key is wrong, or two contradict each other."""
    values = read_keys(data, known, "", f"a scheme of kind {start.kind}")
    if "secret" in values:
        values["secret"] = replace(start.secret, **values["secret"])
    # A new place for the timestamp, or for the signature, replaces the place that the start had.
    if "timestamp" in values:
        timestamp = start.timestamp or Timestamp()
        if not values["timestamp"].keys().isdisjoint(("header", "item", "body")):
            timestamp = replace(timestamp, header=(), item=None, body=None)
        values["timestamp"] = replace(timestamp, **values["timestamp"])
    if "at" in values and "header" not in values:
        values["header"] = ()
    elif "header" in values and "at" not in values:
        values["at"] = None
    scheme = replace(start, **values)
    for is_wrong, key, problem in _contradictions(scheme, data):
        if is_wrong:
            raise SchemeError(key, problem)
    return scheme


def _contradictions(scheme: Scheme, data: Mapping[str, JSON]) -> Iterator[tuple[bool, str, str]]:
    """Yield for each mistake whether it was made, the wrong key and the message; *data* are the scheme's own keys."""
    timestamp, is_list = scheme.timestamp, scheme.key is not None or scheme.positional
    for key in ("items", "sep"):
        yield key in data and not is_list, key, f"'{key}' takes a list apart; add the `key` of its signatures"
    yield "sep" in data and scheme.positional, "sep", "the items of a positional list have no names; remove 'sep'"
    is_prefixed_field = scheme.kind == "token" and scheme.at is not None and bool(scheme.prefix)
    yield is_prefixed_field, "prefix", "a token has a `prefix` in a `header` only; remove it"
    yield is_list and bool(scheme.prefix), "prefix", "a header is a list with a `key`, or has a `prefix`; not both"
    is_in_both = bool(scheme.header) and scheme.at is not None
    yield is_in_both, "at", "the signature stands in a `header`, or `at` another place; give one"
    text = "the items of a list have names, of which `key` is one, or are `positional`; not both"
    yield scheme.positional and scheme.key is not None, "positional", text
    yield scheme.positional and not timestamp, "positional", "the first item is the time: add a `timestamp`"
    if timestamp is not None:
        places = (bool(timestamp.header), timestamp.item is not None, timestamp.body is not None, scheme.positional)
        text = "a timestamp stands in a `header`, in an `item` or in the `body`; give one"
        text += ", or none where the list is positional" if scheme.positional else ""
        yield sum(places) != 1, "timestamp", text
        text = "an item is part of a list; add the `key` of its signatures"
        yield timestamp.item is not None and scheme.key is None, "timestamp.item", text
    if scheme.kind not in SIGNING:
        return
    variables = split_template(scheme.signed)[1]
    text = "'signed' has {ts}, but no `timestamp` says where it stands"
    yield "ts" in variables and not timestamp, "signed", text
    # A stranger can replace a timestamp that is not signed: checking its age would only look safe.
    is_unsigned = timestamp is not None and "ts" not in variables and not (timestamp.body and scheme.covers_body)
    yield is_unsigned, "signed", "the timestamp is not signed; add {ts} to 'signed'"
    text = "'signed' has {id}, but no `delivery_id` names its header"
    yield "id" in variables and not scheme.delivery_id, "signed", text
    # Anybody can hash a body. A secret in the bytes of an HMAC or of a public key's signature is a misunderstanding.
    is_digest, has_secret = scheme.kind == "digest", "secret" in variables
    yield is_digest and not has_secret, "signed", "a digest proves nothing without the secret; add {secret}"
    yield has_secret and not is_digest, "signed", "{secret} is for a scheme of kind digest; leave it out"
