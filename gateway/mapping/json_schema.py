"""The mapping language as a JSON Schema (draft-07), with which editors complete, explain and check a file.

It holds structure, required keys, enumerations and simple kinds. What takes more to judge is left to `gateway check`,
whose messages are better: a schema must never refuse a file that the checker accepts, but may accept more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from gateway import verify
from gateway.customerio.calls import CALLS
from gateway.customerio.connection import HOSTS
from gateway.mapping.compiler.answer_section import CONTENT_TYPE, STATUSES
from gateway.mapping.compiler.verify_section import VERIFY_EXAMPLE
from gateway.mapping.key_kinds import CALL_KEYS, DEFAULT_KEYS
from gateway.mapping.key_kinds.key_kind import (
    ANY_VALUE,
    EXPRESSION,
    LITERAL_MARKER,
    LITERAL_TEXT,
    KeyKind,
    Keys,
    Schema,
    described,
    object_schema,
)
from gateway.mapping.model import SPECS
from gateway.text import ARRIVING_HEADER, NAME


def language() -> Schema:
    """Return the schema of a mapping file.

    It uses two words that editors know beside those of the draft: `errorMessage`, shown instead of the editor's own,
    and `enumDescriptions`.
    """
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "How the webhooks of one source become Customer.io calls.",
        "type": "object",
        "properties": _top(),
        "patternProperties": {"^x-": {"description": "For anchors; otherwise ignored."}},
        "required": ["version", "source", "verify", "events"],
        "additionalProperties": False,
        "definitions": {
            "call": _CALL,
            **{f"call.{name}": _call_of(name, keys) for name, keys in CALL_KEYS.items()},
            **{f"key.{name}": schema for name, schema in _COMMON_KEYS.items()},
            **{f"key.{key.name}": key_schema(key) for keys in CALL_KEYS.values() for key in with_members(keys)},
            "value": _VALUE,
            "constant": _CONSTANT,
        },
    }


def with_members(keys: Keys) -> Iterator[KeyKind]:
    """Yield keys, each followed by those of its members."""
    for key in keys.values():
        yield key
        yield from with_members(key.keys)


def key_schema(key: KeyKind) -> Schema:
    """Return the schema of a key's values, with its description. A name means the same in every call."""
    return described(key.key.about, key.schema(), *key.key.examples)


def _one_of(names: Iterable[str]) -> Schema:
    return {"enum": [*names]}


def _object(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    return {"type": "object", "properties": {**properties}, "required": [*required], "additionalProperties": False}


def _one_or_several(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


_TEXT: Schema = {"type": "string", "minLength": 1}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_CONSTANT_OF_TABLE: Schema = {"$ref": "#/definitions/constant"}
_DESTINATION = {
    "connection": described(
        "Which Customer.io workspace the calls go to.", {"type": "string", "pattern": f"^{NAME.pattern}$"}, "default"
    ),
    "region": described("Overrides the connection's region.", _one_of(HOSTS)),
}


def _top() -> dict[str, Schema]:
    values = {"type": "object", "additionalProperties": ANY_VALUE}
    constants = {"type": "object", "additionalProperties": _CONSTANT_OF_TABLE}
    return {
        "version": described("The version of this language.", {"const": 1}),
        "source": described(
            "Webhooks arrive at POST /hooks/<source>.",
            {
                "type": ["string", "integer"],  # a name may consist of digits
                "pattern": f"^{NAME.pattern}$",
                "errorMessage": "The name of a source has lower-case letters, digits and hyphens",
            },
            "shop",
        ),
        "description": described("What this source is, for people.", LITERAL_TEXT),
        "verify": described(f'How the sender proves itself, as  {VERIFY_EXAMPLE}; or "none".', _verify()),
        "answer": described("The response to accepted webhooks, for senders that read or check it.", _answer()),
        "when": described("Events for which it is not true are recorded as ignored.", EXPRESSION, "=livemode"),
        "event_type": described(
            'The routing key; most schemes have one. Without any, only "*" matches.', EXPRESSION, "=type"
        ),
        "event_key": described(
            'What makes a repeated webhook the same; null takes the default, "none" switches it off.',
            {**EXPRESSION, "pattern": "^=|^none$"},
            "=id",
            "none",
        ),
        "split": described(
            "One request body gives many parts, each routed on its own.", EXPRESSION, "=events", "=to_array(@)"
        ),
        **_DESTINATION,
        "let": described("Values computed once per part, in order; read with var('name').", values),
        "tables": described(
            "Read with lookup('table', key); the entry \"*\" is for keys that are not there.",
            {"type": "object", "additionalProperties": constants},
        ),
        "defaults": described(
            "Identifiers and timestamp for calls that have none of their own.", object_schema(DEFAULT_KEYS)
        ),
        "events": described(
            'Event types, literal or with * for any characters ("*.created"), joined by |, and the calls of each;'
            " the first match in file order wins. [] is accepted, recorded, ignored.",
            {
                "type": "object",
                "additionalProperties": {
                    "type": "array",
                    "items": {"$ref": "#/definitions/call"},
                    "errorMessage": "The calls of an event type are a list: each starts with  - call: …",
                },
            },
        ),
        "tests": described(
            "What this file makes of captured webhooks; gateway check runs them.", {"type": "array", "items": _test()}
        ),
    }


def _answer() -> Schema:
    return _object(
        {
            "status": described(
                "Says that the webhook was accepted.",
                {"type": "integer", "minimum": STATUSES[0], "maximum": STATUSES[-1]},
                200,
            ),
            "body": described("Its text; without it, the gateway's own JSON.", {"type": "string"}, "OK"),
            "content_type": described(
                "That of `body`.", {"type": "string", "pattern": f"^{CONTENT_TYPE.pattern}$"}, "text/xml; charset=utf-8"
            ),
        }
    )


# Calls

#: Any call: its kind decides which keys it takes.
_CALL: Schema = {
    "type": "object",
    "properties": {
        "call": described(
            "The kind of call.", {"enum": [*CALL_KEYS], "enumDescriptions": [SPECS[name].about for name in CALL_KEYS]}
        )
    },
    "required": ["call"],
    "errorMessage": "A call is written flat:  - call: …  and its keys below, at the same indentation",
    "allOf": [
        {
            "if": {"required": ["call"], "properties": {"call": {"const": name}}},
            "then": {"$ref": f"#/definitions/call.{name}"},
        }
        for name in CALL_KEYS
    ],
}
_COMMON_KEYS = {
    "when": described('The condition: null, false, "", [] and {} skip the call.', EXPRESSION, "=!test"),
    "each": described(
        "A list: one call per item, in which @ is the item, index() its number, root() the part.", EXPRESSION, "=items"
    ),
    **_DESTINATION,
}


def _call_of(name: str, keys: Keys) -> Schema:
    schema = object_schema(keys)
    common = {key: {"$ref": f"#/definitions/key.{key}"} for key in _COMMON_KEYS}
    schema["properties"] = {"call": {"const": name}, **schema["properties"], **common}
    schema["required"] = ["call", *schema["required"]]
    return described(SPECS[name].about, schema)


#: Any value: data in which a string that starts with = is an expression.
_VALUE: Schema = {
    "description": "Literal, or an expression, which starts with =; null leaves it out.",
    "properties": {
        "or_null": described("An expression whose null is sent, and clears.", EXPRESSION, "=user.phone"),
        "literal": LITERAL_MARKER,
    },
    "items": ANY_VALUE,
    "if": {"type": "object", "anyOf": [{"required": ["or_null"]}, {"required": ["literal"]}]},
    "then": {"maxProperties": 1},
    "else": {"additionalProperties": ANY_VALUE},
}
#: A value without expressions, as in a table.
_CONSTANT: Schema = {
    "if": {"type": "object", "required": ["literal"]},
    "then": {"maxProperties": 1},
    "else": {
        "pattern": "^(?!=)",
        "errorMessage": 'A table has no expressions; text that starts with = is written {literal: "=…"}',
        "items": _CONSTANT_OF_TABLE,
        "additionalProperties": _CONSTANT_OF_TABLE,
    },
}


# How a sender proves itself

_VARIABLE: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
    "errorMessage": "This names an environment variable; a secret never stands in a mapping file",
}
_NETWORK: Schema = {
    "type": "string",
    "pattern": "^[0-9A-Fa-f:.]+(?:/[0-9.]+)?$",
    "errorMessage": "This must be an IP address or a network, such as 3.18.12.63 or 10.0.0.0/8",
}


def _verify() -> Schema:
    table = verify.schemes()
    by_name = {**_one_of(table), "enumDescriptions": [scheme.description for scheme in table.values()]}
    own = {
        "base": described("The scheme of the table to start from.", by_name),
        "kind": described("Or what kind of scheme this is.", _one_of(get_args(verify.Kind))),
        **_scheme_keys(),
    }
    proof = {
        "scheme": described(
            "A scheme by its name, or one of your own, which starts from a base or a kind.",
            {"anyOf": [by_name, _object(own)]},
        ),
        "secret_env": described(
            "The environment variable that holds the secret, or several; any one of them proves a webhook.",
            _one_or_several(_VARIABLE),
            "WEBHOOK_SECRET",
            ["NEW_SECRET", "OLD_SECRET"],
        ),
        "verify_token_env": described(
            "The environment variable of the token that the sender shows when the webhook is set up there.",
            _VARIABLE,
            "VERIFY_TOKEN",
        ),
        "networks": described(
            "The IP addresses or networks that webhooks may come from; without it any.",
            _one_or_several(_NETWORK),
            "10.0.0.0/8",
            ["3.18.12.63", "2001:db8::/32"],
        ),
    }
    none = {**_one_of(["none"]), "errorMessage": f"This must be none, or an object, as  {VERIFY_EXAMPLE}"}
    return {"anyOf": [none, _object(proof, required=["scheme"])]}


def _scheme_keys() -> dict[str, Schema]:
    """Return the keys of schemes of any kind; which kind takes which, the checker knows."""
    header = {"type": "string", "pattern": f"^{ARRIVING_HEADER.pattern}$"}
    headers = _one_or_several(header)
    secret = {
        "strip": described("A prefix that is no part of the key.", {"type": "string"}, "whsec_"),
        "encoding": described("How the rest is decoded.", _one_of(get_args(verify.SecretEncoding))),
    }
    tolerance = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": verify.MAX_TOLERANCE}, _one_of(["none"])]}
    timestamp = {
        "header": described("The header that holds it, or several; the first one sent counts.", headers),
        "item": described("Or its name among the items of the signature header.", _TEXT, "t"),
        "body": described("Or its path in the JSON of the body.", _TEXT, "sent_at"),
        "unit": described("Seconds, milliseconds or ISO 8601.", _one_of(get_args(verify.Unit))),
        "tolerance": described("Seconds that it may be off, or none: any time will do.", tolerance, 300, "none"),
    }
    return {
        "header": described("The header of the signature or token, or several that may hold it.", headers),
        "at": described("Or its place elsewhere.", _TEXT, "path", "query.token", "body.signature"),
        "prefix": described("What stands in front of the signature or token.", {"type": "string"}, "sha256="),
        "key": described("The header is a list; its items called so are signatures.", _TEXT, "v1"),
        "positional": described(
            "The header is a list: first the time of sending, then signatures.", {"type": "boolean"}
        ),
        "items": described("What separates the items of the list.", _TEXT, ","),
        "sep": described("What separates an item's name from its value.", _TEXT, "="),
        "algorithm": described("The hash.", _one_of(get_args(verify.Algorithm))),
        "encoding": described("How the signature is written.", _one_of(get_args(verify.Encoding))),
        "secret": described("How the secret, as the sender shows it, becomes a key.", _object(secret)),
        "signed": described("What the signature covers.", _TEXT, "{body}", "{ts}.{body}", "{secret}{body}"),
        "timestamp": described("Where the time of sending stands, and how old it may be.", _object(timestamp)),
        "delivery_id": described(
            "The headers that tell a repeated webhook, several of an entry taken together; the first entry of"
            " which all were sent counts.",
            {"anyOf": [header, {"type": "array", "items": headers}]},
        ),
        "trust": described("Headers that are believed although nothing signs them.", headers),
        "handshakes": described(
            "The requests by which the sender checks the address, and the replies that it expects.",
            {"type": "array", "items": _handshake(), "minItems": 1},
            [{"method": "GET", "when": {"query.challenge": "any"}, "text": "query.challenge"}],
        ),
        "json_field": described("The field of a form that holds the webhook as JSON.", _TEXT, "payload"),
    }


def _handshake() -> Schema:
    value = {"type": "string", "pattern": r"^(mac\()?(path|(header|query|body)\.[\s\S]+)\)?$"}
    values = {"type": "object", "additionalProperties": value}
    keys = {
        "method": described("The method of the request.", _one_of(get_args(verify.Method))),
        "when": described(
            "The fields that tell it from a webhook, each with its value, any or absent.",
            {"type": "object", "additionalProperties": {"not": {"type": "null"}}},
            {"body.type": "ping", "body.event": "absent"},
        ),
        "signed": described("It is verified like a webhook.", {"type": "boolean"}),
        "token": described("The field that holds the verify token.", value, "query.hub.verify_token"),
        "log": described("The field to log while the source has no secret.", value, "body.verification_token"),
        "text": described("The field with which it is answered, as text.", value, "body.challenge"),
        "json": described(
            "Or the names and fields of the JSON with which it is answered.",
            {**values, "additionalProperties": {"anyOf": [value, {"type": ["integer", "boolean"]}]}},
            {"challenge": "body.challenge"},
        ),
        "headers": described("Further headers of the answer.", values, {"X-Hook-Secret": "header.X-Hook-Secret"}),
    }
    return _object(keys, required=["method"])


# Tests, in which everything is data


def _test() -> Schema:
    texts = {"type": "object", "additionalProperties": _SCALAR}
    error = described("The part fails, with a message that contains this text.", _SCALAR)
    call = {"type": "object", "properties": {"call": _one_of(CALLS), "error": error}}
    # The types are listed so that an editor writes a colon after the key.
    anything: Schema = {"type": ["object", "array", "string", "number", "boolean", "null"]}
    arriving = {"propertyNames": {"pattern": "^[^_]*$"}}
    keys = {
        "name": described("What the test shows.", _SCALAR),
        "body": described("The decoded body.", anything),
        "payload": described("The file that holds the body, relative to this one.", _SCALAR, "paid.json"),
        "headers": described("The headers that came with it.", {**texts, **arriving}),
        "query": described("The parameters of the URL's query.", texts),
        "received_at": described("When it came, in unix seconds.", {"type": "integer"}, 1767225600),
        "expect": described(
            "The calls, exactly and in order; [] for none.",
            {"anyOf": [{"type": "array", "items": call}, _object({"error": error}, required=["error"])]},
        ),
    }
    return _object(keys, required=["name", "expect"])
