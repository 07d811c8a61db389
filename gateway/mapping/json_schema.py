"""The language of mapping files as a JSON Schema, by which editors complete, explain and check while one types.

All that can be is read off the language's own tables. The checker sees more, and says it better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, get_args

from gateway import verify
from gateway.customerio.calls import CALLS
from gateway.customerio.calls.devices import PLATFORMS
from gateway.customerio.calls.raw_request import METHODS, RESPONSE_TYPES, RETRY_SETTINGS, RetrySetting
from gateway.customerio.connection import HOSTS
from gateway.customerio.limits import MAX_TIMEOUT
from gateway.mapping.compiler.key_values import NAME
from gateway.mapping.model import ANYBODY, SPECS, CallSpec, Key, Kind
from gateway.verify.scheme import COVERING
from gateway.verify.template import VARIABLES

Schema: TypeAlias = dict[str, Any]


def language() -> Schema:
    """Give the schema of a mapping file, in draft-07: what editors know best.

    Beside the words of the draft it has two that editors know and others pass over: `errorMessage`, which they
    show in the place of their own, and `enumDescriptions`.
    """
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "How the webhooks of one source become Customer.io calls.",
        "type": "object",
        "properties": _top(),
        "patternProperties": {"^x-": _about("For anchors; otherwise ignored.")},
        "required": ["version", "source", "verify", "events"],
        "additionalProperties": False,
        "allOf": _naming_somebody(),
        "definitions": {
            "call": _call(),
            **{f"call.{spec.name}": _call_of(spec) for spec in SPECS.values()},
            **{f"key.{name}": key for name, key in _keys().items()},
            **{f"scheme.{name}": key for name, key in _scheme_keys().items()},
            "value": _value(),
            "constant": _constant(),
        },
    }


def _about(text: str, *examples: object) -> Schema:
    """Say what an editor shows of a key; it offers the examples to be chosen."""
    return {"description": text, **({"examples": list(examples)} if examples else {})}


def _told(schema: Schema, text: str, *examples: object) -> Schema:
    return {**_about(text, *examples), **schema}


def _refer(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _unless(condition: Schema, otherwise: Schema) -> Schema:
    """Ask something of all values but some: editors say more of a branch that was taken than of several that failed."""
    return {"if": condition, "else": otherwise}


def _one_of(known: Iterable[str]) -> Schema:
    return {"enum": list(known)}


def _says_one_of(known: Iterable[str]) -> Schema:
    """The same as a condition: what stands in an enum there, editors would offer."""
    return {"pattern": f"^(?:{'|'.join(known)})$"}


def _one_or_several(one: Schema) -> Schema:
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


_IS_EXPRESSION: Schema = {"type": "string", "pattern": "^="}
_IS_OBJECT: Schema = {"type": "object"}
_EXPRESSION: Schema = {
    **_IS_EXPRESSION,
    "errorMessage": "This has to be an expression: it starts with =, as in  =user.id",
}
# What is fixed when the file is read.
_NOTE: Schema = {
    "type": "string",
    "pattern": "^(?!=)",
    "errorMessage": "This has to be literal text; quote what is meant as text",
}
_FILLED: Schema = {"type": "string", "minLength": 1}
_SCALAR_TYPES = ["string", "number", "boolean"]
_SCALAR: Schema = {"type": _SCALAR_TYPES}
# Said so that an editor writes a colon after the key.
_ANYTHING: Schema = {"type": ["object", "array", "string", "number", "boolean", "null"]}


# The top of a file


def _top() -> Schema:
    return {
        "version": _told({"const": 1}, "The version of this language."),
        "source": _told(_source(), "Webhooks arrive at POST /hooks/<source>.", "shop"),
        "description": _told(_NOTE, "What this source is, for people."),
        "verify": _told(_verify(), f'How the sender proves itself, as  {_PROOF}; or "none", which has to be said.'),
        **_routing(),
        **_destination(),
        **_shared(),
        "events": _told(
            _events(),
            'Event types, literal or with * for any characters ("*.created"), joined by |, and the calls of each;'
            " the first match in file order wins. [] is accepted, recorded, ignored.",
        ),
        "tests": _told(
            {"type": "array", "items": _test()},
            "What this file is to make of captured webhooks; gateway check tries it.",
        ),
    }


_PROOF = "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}"


def _routing() -> Schema:
    key = 'The routing key; most schemes bring one along, and without any only "*" matches.'
    same = 'What makes a repeated webhook the same; null takes the default, "none" switches it off.'
    parts = "One request body gives many parts, each routed on its own."
    return {
        "when": _told(_EXPRESSION, "Events for which it is not true are recorded as ignored.", "=livemode"),
        "event_type": _told(_EXPRESSION, key, "=type"),
        "event_key": _told({**_EXPRESSION, "pattern": "^=|^none$"}, same, "=id", "none"),
        "split": _told(_EXPRESSION, parts, "=events", "=to_array(@)"),
    }


def _shared() -> Schema:
    values = {**_IS_OBJECT, "additionalProperties": _refer("value")}
    table = {**_IS_OBJECT, "additionalProperties": _refer("constant")}
    defaults = _object_of({**ANYBODY, "timestamp": SPECS["track"].keys["timestamp"]})
    return {
        "let": _told(values, "Values computed once per part, in order; read with var('name')."),
        "tables": _told(
            {**_IS_OBJECT, "additionalProperties": table},
            "Read with lookup('table', key); the entry \"*\" is for keys that are not there.",
        ),
        "defaults": _told(defaults, "Identifiers and timestamp for calls that give none of their own."),
    }


def _source() -> Schema:
    # A name of digits only is no less a name.
    return {
        "type": ["string", "integer"],
        "pattern": f"^{NAME.pattern}$",
        "errorMessage": "The name of a source has lower-case letters, digits and hyphens",
    }


def _destination() -> Schema:
    return {
        "connection": _told(
            {"type": "string", "pattern": f"^{NAME.pattern}$"},
            "Which Customer.io workspace the calls go to.",
            "default",
        ),
        "region": _told(_one_of(HOSTS), "Overrides the connection's region."),
    }


def _events() -> Schema:
    return {
        **_IS_OBJECT,
        "propertyNames": {
            "pattern": r"^(?!\s*(?:\||$))(?![\s\S]*\|\s*(?:\||$))",
            "errorMessage": "An event type is missing beside |",
        },
        "additionalProperties": {
            "type": "array",
            "items": _refer("call"),
            "errorMessage": "The calls of an event type are a list: each starts with  - call: …",
        },
    }


def _naming_somebody() -> list[Schema]:
    """Each call has to say whom it is about, unless a default does."""
    calls: dict[tuple[str, ...], list[str]] = {}
    for spec in SPECS.values():
        if spec.identifiers:
            calls.setdefault(spec.identifiers, []).append(spec.name)
    return [
        {"if": _no_default(identifiers), "then": _each_naming(identifiers, names)}
        for identifiers, names in calls.items()
    ]


def _no_default(identifiers: Iterable[str]) -> Schema:
    return {"properties": {"defaults": {"properties": dict.fromkeys(identifiers, False)}}}


def _each_naming(identifiers: Sequence[str], calls: Iterable[str]) -> Schema:
    problem = f"This call names nobody: give it one of {', '.join(identifiers)}, here or under defaults"
    call = {
        "if": {"required": ["call"], "properties": {"call": _says_one_of(calls)}},
        "then": {"anyOf": [{"required": [name], "errorMessage": problem} for name in identifiers]},
    }
    return {"properties": {"events": {"additionalProperties": {"items": call}}}}


# Calls


def _call() -> Schema:
    return {
        **_IS_OBJECT,
        "properties": {
            "call": _told(
                {**_one_of(SPECS), "enumDescriptions": [spec.about for spec in SPECS.values()]}, "The kind of call."
            )
        },
        "required": ["call"],
        "errorMessage": "A call is written flat:  - call: …  and its keys below, at the same indentation",
        "allOf": [
            {
                "if": {"required": ["call"], "properties": {"call": {"const": name}}},
                "then": _refer(f"call.{name}"),
            }
            for name in SPECS
        ],
    }


def _call_of(spec: CallSpec) -> Schema:
    own = _object_of(spec.keys)
    everywhere = {name: _refer(f"key.{name}") for name in _every_call()}
    # A raw request has one body.
    one_body = {"dependencies": {"data": {"properties": {"form": False, "files": False}}}}
    return {
        **own,
        "description": spec.about,
        "properties": {"call": {"const": spec.name}, **own["properties"], **everywhere},
        "required": ["call", *own["required"]],
        **(one_body if "data" in spec.keys else {}),
    }


def _object_of(keys: Mapping[str, Key]) -> Schema:
    return {
        **_IS_OBJECT,
        "properties": {name: _refer(f"key.{name}") for name in keys},
        "required": [name for name, key in keys.items() if key.required],
        "additionalProperties": False,
    }


def _keys() -> dict[str, Schema]:
    """Give the keys of all calls: one name takes the same wherever it stands."""
    keys = {name: key for spec in SPECS.values() for name, key in _with_those_below(spec.keys)}
    return {**_every_call(), **{name: key_of(name, key) for name, key in keys.items()}}


def _with_those_below(keys: Mapping[str, Key]) -> Iterator[tuple[str, Key]]:
    for name, key in keys.items():
        yield name, key
        yield from _with_those_below(key.keys)


def _every_call() -> dict[str, Schema]:
    return {
        "when": _told(_EXPRESSION, 'The condition: null, false, "", [] and {} skip the call.', "=!test"),
        "each": _told(
            _EXPRESSION,
            "A list: one call per item, in which @ is the item, index() its number, root() the part.",
            "=items",
        ),
        **_destination(),
    }


def key_of(name: str, key: Key) -> Schema:
    """Give what a key takes, by its kind and in a few cases by its name."""
    return {**_about(key.about, *key.examples), **OF_KIND[key.kind](name, key)}


# What a key takes


def _expression(_name: str, _key: Key) -> Schema:
    return _EXPRESSION


def _person(_name: str, key: Key) -> Schema:
    problem = f"This has to be an object with exactly one of {', '.join(key.keys)}"
    return {**_object_of(key.keys), "minProperties": 1, "maxProperties": 1, "errorMessage": problem}


def _text(name: str, _key: Key) -> Schema:
    literal = LITERALS.get(name, {"type": ["string", "number"], "minLength": 1})
    wrapped = {
        **_IS_OBJECT,
        "properties": {"literal": _told(literal, _LITERAL)},
        "required": ["literal"],
        "additionalProperties": False,
    }
    return {"anyOf": [literal, _EXPRESSION, wrapped]}


def _attributes(_name: str, _key: Key) -> Schema:
    return {
        **_IS_OBJECT,
        "propertyNames": {"minLength": 1},
        "additionalProperties": _refer("value"),
        "errorMessage": "Attributes are listed one by one; a whole object is taken by  attributes_from: =…",
    }


def _members(_name: str, key: Key) -> Schema:
    return {
        "type": ["array", "string"],
        "items": {**_object_of(key.keys), **_of_somebody(key.keys)},
        "minItems": int(key.required),
        "pattern": "^=",
        "errorMessage": f"This has to be a list, each item with {', '.join(key.keys)}; or an expression that gives one",
    }


def _of_somebody(keys: Mapping[str, Key]) -> Schema:
    identifiers = [name for name, key in keys.items() if key.kind is Kind.IDENTIFIER]
    return {"anyOf": [{"required": [name]} for name in identifiers]} if identifiers else {}


def _values(name: str, _key: Key) -> Schema:
    if name == "headers":
        return {**_IS_OBJECT, "propertyNames": _HEADER_NAME, "additionalProperties": _header_value()}
    if name in ("query", "form"):
        one = _written(_SCALAR_TYPES)
        several = {"items": one, **_written([*_SCALAR_TYPES, "array"])}
        return {**_IS_OBJECT, "additionalProperties": {"allOf": [_refer("value")], **several}}
    return {**_IS_OBJECT, "additionalProperties": _refer("value")}


def _written(types: list[str]) -> Schema:
    """A value of certain types, by itself or with a marker."""
    literal = {"type": types, "items": {"type": _SCALAR_TYPES}}
    marked = {
        "properties": {"literal": literal},
        "anyOf": [{"required": ["literal"]}, {"required": ["or_null"]}],
    }
    return {"type": [*types, "object"], "if": _IS_OBJECT, "then": marked}


def _data(_name: str, _key: Key) -> Schema:
    return {**_ANYTHING, "allOf": [_refer("value")]}


def _note(name: str, _key: Key) -> Schema:
    return LITERALS.get(name, _NOTE)


def _seconds(_name: str, _key: Key) -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT}


def _flag(_name: str, _key: Key) -> Schema:
    return {"type": "boolean"}


def _retry(_name: str, _key: Key) -> Schema:
    settings = {name: {**_about(setting.about), **_setting(setting)} for name, setting in RETRY_SETTINGS.items()}
    return {**_IS_OBJECT, "properties": settings, "additionalProperties": False}


def _setting(of: RetrySetting) -> Schema:
    return {"type": "boolean"} if of.type is bool else {"type": "integer", "minimum": of.least, "maximum": of.most}


OF_KIND: dict[Kind, Callable[[str, Key], Schema]] = {
    Kind.IDENTIFIER: _expression,
    Kind.PERSON: _person,
    Kind.REFERENCE: _expression,
    Kind.TEXT: _text,
    Kind.EVENT_ID: _expression,
    Kind.TIMESTAMP: _expression,
    Kind.ATTRIBUTES: _attributes,
    Kind.TEXTS: _attributes,
    Kind.OBJECT: _expression,
    Kind.MEMBERS: _members,
    Kind.VALUES: _values,
    Kind.DATA: _data,
    Kind.NOTE: _note,
    Kind.SECONDS: _seconds,
    Kind.FLAG: _flag,
    Kind.RETRY: _retry,
}

#: By the name of a key: the literal texts that it takes, where those can be told before any webhook comes.
LITERALS: dict[str, Schema] = {
    "path": {
        "type": "string",
        "pattern": r"^/(?!/|api(?:/|$))[^?#\\]*$",
        "errorMessage": "A path is below /api and starts with one slash, as /v1/accounts/region;"
        " parameters stand under query",
    },
    "url": {
        "type": ["string"],
        "pattern": r"^(?:\*$|[hH][tT][tT][pP][sS]?://)",
        "errorMessage": 'A page is a full address (https://…), or "*" for any',
    },
    "method": _one_of(METHODS),
    "platform": _one_of(PLATFORMS),
    "response_type": _one_of(RESPONSE_TYPES),
}

_NAME_OF_HEADER = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_NAME: Schema = {
    "type": "string",
    "pattern": f"^{_NAME_OF_HEADER}$",
    "errorMessage": "This is not the name of a header",
}


def _header_value() -> Schema:
    literal: Schema = {
        "type": "string",
        "pattern": "^(?:[!-~](?:[ -~]*[!-~])?)?$",
        "errorMessage": "A header is text of printable ASCII characters, without spaces around it",
    }
    marked = {
        "allOf": [_refer("value")],
        "properties": {"literal": literal},
        "anyOf": [{"required": ["literal"]}, {"required": ["or_null"]}],
    }
    return _unless(_IS_EXPRESSION, {"if": _IS_OBJECT, "then": marked, "else": literal})


_LITERAL = "The value as it is written, also text that starts with =."


def _value() -> Schema:
    markers = {
        "or_null": _told(_EXPRESSION, "An expression whose null is sent, and clears.", "=user.phone"),
        "literal": _about(_LITERAL),
    }
    return {
        **_about("Literal, or an expression, which starts with =; null leaves it out."),
        "properties": markers,
        "items": _refer("value"),
        "if": {**_IS_OBJECT, "anyOf": [{"required": [name]} for name in markers]},
        "then": {"maxProperties": 1},
        "else": {"additionalProperties": _refer("value")},
    }


def _constant() -> Schema:
    """What holds no expression, unless it is marked as literal."""
    return {
        "if": {**_IS_OBJECT, "required": ["literal"]},
        "then": {"maxProperties": 1},
        "else": {
            "pattern": "^(?!=)",
            "errorMessage": 'A table has no expressions; text that starts with = is written {literal: "=…"}',
            "items": _refer("constant"),
            "additionalProperties": _refer("constant"),
        },
    }


# How a sender proves itself


def _verify() -> Schema:
    table = verify.schemes()
    proofless = [name for name, scheme in table.items() if scheme.kind == "none"]
    asking = [name for name, scheme in table.items() if scheme.asks_token]
    proof = {
        **_IS_OBJECT,
        "properties": {"scheme": _scheme(), **_variables(), "networks": _networks()},
        "required": ["scheme"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": _with_scheme(proofless),
                "then": {"properties": {"secret_env": False}},
                "else": {"required": ["secret_env"]},
            },
            _unless(_with_scheme(asking), {"properties": {"verify_token_env": False}}),
        ],
    }
    nothing = {**_one_of(["none"]), "errorMessage": f"The sender's proof is none, or an object, as  {_PROOF}"}
    return {"anyOf": [nothing, proof]}


def _variables() -> dict[str, Schema]:
    return {
        "secret_env": _told(
            _one_or_several(_VARIABLE),
            "The environment variable that holds the secret, or several; any one of them proves a webhook.",
            "WEBHOOK_SECRET",
            ["NEW_SECRET", "OLD_SECRET"],
        ),
        "verify_token_env": _told(
            _VARIABLE,
            "The environment variable of the token that the sender shows when the webhook is set up there.",
            "VERIFY_TOKEN",
        ),
    }


_VARIABLE: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
    "errorMessage": "This names an environment variable; a secret never stands in a mapping file",
}


def _networks() -> Schema:
    # What looks like an address and is none, only the checker sees.
    one = {
        "type": "string",
        "pattern": "^[0-9A-Fa-f:.]+(?:%[^%/]+)?(?:/[0-9.]+)?$",
        "errorMessage": "This has to be an IP address or a network, such as 3.18.12.63 or 10.0.0.0/8",
    }
    about = "The IP addresses or networks that webhooks may come from; without it any."
    return _told(_one_or_several(one), about, "10.0.0.0/8", ["3.18.12.63", "2001:db8::/32"])


def _with_scheme(names: Iterable[str]) -> Schema:
    """The condition that a scheme is one of these, or starts from one."""
    scheme = {"if": _IS_OBJECT, "then": _starts_from(names), "else": _says_one_of(names)}
    return {"required": ["scheme"], "properties": {"scheme": scheme}}


def _starts_from(names: Iterable[str]) -> Schema:
    """An inline scheme starts from a scheme of the table, in which each kind has its own name."""
    known = _says_one_of(names)
    return {"anyOf": [{"required": [key], "properties": {key: known}} for key in ("base", "kind")]}


def _scheme() -> Schema:
    about = "A scheme by its name, or one of your own, which starts from a base or a kind."
    named = [name for name in verify.schemes() if _is_complete(name)]
    incomplete = [name for name in verify.schemes() if name not in named]
    return {**_about(about), "anyOf": [_named_schemes(named), _inline_scheme(incomplete)]}


def _is_complete(name: str) -> bool:
    try:
        verify.scheme_from(name)
    except verify.SchemeError:
        return False
    return True


def _named_schemes(names: Iterable[str]) -> Schema:
    return {**_one_of(names), "enumDescriptions": [verify.schemes()[name].description for name in names]}


def _inline_scheme(incomplete: Iterable[str]) -> Schema:
    start = {
        "base": _told(_named_schemes(verify.schemes()), "The scheme of the table to start from."),
        "kind": _told(_one_of(get_args(verify.Kind)), "Or what kind of scheme this is."),
    }
    problem = "This does not say where to look: add the `header` that the sender uses, or `at` another place"
    somewhere = {"anyOf": [{"required": [name], "errorMessage": problem} for name in ("header", "at")]}
    return {
        **_IS_OBJECT,
        "properties": start,
        "if": {"required": ["base"]},
        "then": {"properties": {"kind": False}},
        "else": {"required": ["kind"]},
        "dependencies": {"at": {"properties": {"header": False}}},
        "allOf": [
            *(_scheme_of(kind, start) for kind in verify.KEYS),
            {"if": _starts_from(incomplete), "then": somewhere},
        ],
    }


def _scheme_of(kind: verify.Kind | verify.Special, start: Iterable[str]) -> Schema:
    names = [name for name, scheme in verify.schemes().items() if scheme.kind == kind]
    keys = {name: _refer(f"scheme.{name}") for name in verify.KEYS[kind]}
    known = keys | ({"signed": _signed(kind)} if "signed" in keys else {})
    then = {"properties": {**dict.fromkeys(start, True), **known}, "additionalProperties": False}
    return {"if": _starts_from(names), "then": then}


def _scheme_keys() -> dict[str, Schema]:
    """Give the keys that say the same in every kind of scheme."""
    headers = _one_or_several(_HEADER_NAME)
    return {
        "header": _told(headers, "The header of the signature or token, or several that may hold it."),
        "at": _told(_at(), "Or its place elsewhere.", "path", "query.token", "body.signature"),
        "prefix": _told({"type": "string"}, "What stands in front of the signature or token.", "sha256="),
        "key": _told(_FILLED, "The header is a list; its items called so are signatures.", "v1"),
        "positional": _told({"type": "boolean"}, "The header is a list: first the time of sending, then signatures."),
        "items": _told(_FILLED, "What separates the items of the list.", ","),
        "sep": _told(_FILLED, "What separates an item's name from its value.", "="),
        "algorithm": _told(_one_of(get_args(verify.Algorithm)), "The hash."),
        "encoding": _told(_one_of(get_args(verify.Encoding)), "How the signature is written."),
        "secret": _told(_secret(), "How the secret, as the sender shows it, becomes a key."),
        "timestamp": _told(_timestamp(), "Where the time of sending stands, and how old it may be."),
        "delivery_id": _told(
            _delivery_id(),
            "The headers that tell a repeated webhook, several of an entry taken together; the first entry of"
            " which all were sent counts.",
        ),
        "trust": _told(headers, "Headers that are believed although nothing signs them."),
    }


def _at() -> Schema:
    return {
        "type": "string",
        "pattern": r"^(?:path$|(?:query|body)\.[\s\S])",
        "errorMessage": "This is path, query.NAME or body.PATH; a header is named by `header`",
    }


def _secret() -> Schema:
    known = {
        "strip": _told({"type": "string"}, "A prefix that is no part of the key.", "whsec_"),
        "encoding": _told(_one_of(get_args(verify.SecretEncoding)), "How the rest is decoded."),
    }
    return {**_IS_OBJECT, "properties": known, "additionalProperties": False}


def _timestamp() -> Schema:
    known = {
        "header": _told(
            _one_or_several(_HEADER_NAME), "The header that holds it, or several; the first one sent counts."
        ),
        "item": _told(_FILLED, "Or its name among the items of the signature header.", "t"),
        "body": _told(_FILLED, "Or its path in the JSON of the body.", "sent_at"),
        "unit": _told(_one_of(get_args(verify.Unit)), "Seconds, milliseconds or ISO 8601."),
        "tolerance": _told(_tolerance(), "Seconds that it may be off, or none: any time will do.", 300, "none"),
    }
    return {**_IS_OBJECT, "properties": known, "additionalProperties": False}


def _tolerance() -> Schema:
    seconds = {"type": "integer", "minimum": 1, "maximum": verify.MAX_TOLERANCE}
    return {"anyOf": [seconds, _one_of(["none"])]}


def _delivery_id() -> Schema:
    return {"anyOf": [_HEADER_NAME, {"type": "array", "items": _one_or_several(_HEADER_NAME)}]}


def _signed(kind: str) -> Schema:
    """A template that covers the body; a digest puts the secret in, which no other kind does."""
    is_digest = kind == "digest"
    covering = rf"(?=[\s\S]*\{{(?:{'|'.join(COVERING)})\}})"
    demanded = rf"{covering}(?=[\s\S]*\{{secret\}})" if is_digest else covering
    known = [name for name in VARIABLES if is_digest or name != "secret"]
    variable = rf"\{{(?:{'|'.join(known)}|header\.{_NAME_OF_HEADER}|(?:query|body)\.[^{{}}]+)\}}"
    needed = "{secret} and {body} or {form}" if is_digest else "{body} or {form}"
    others = ", ".join(f"{{{name}}}" for name in known if name not in (*COVERING, "secret"))
    places = "{header.NAME}, {query.NAME} and {body.PATH}"
    examples = ["{secret}{body}"] if is_digest else ["{body}", "{ts}.{body}"]
    return {
        **_about("What the signature covers.", *examples),
        "type": "string",
        "pattern": rf"^{demanded}(?:[^{{}}]|{variable})*$",
        "errorMessage": f"A template with {needed}, and with any of {others}, {places}",
    }


# Tests, in which everything is data


def _test() -> Schema:
    return {
        **_IS_OBJECT,
        "properties": {
            "name": _told(_SCALAR, "What the test shows."),
            "body": _told(_ANYTHING, "The decoded body."),
            "payload": _told(_SCALAR, "The file that holds the body, relative to this one.", "paid.json"),
            "headers": _told(_texts(), "The headers that came with it."),
            "query": _told(_texts(), "The parameters of the URL's query."),
            "received_at": _told({"type": "integer"}, "When it came, in unix seconds.", 1767225600),
            "expect": _told(_expectation(), "The calls, exactly and in order; [] for none."),
        },
        "required": ["name", "expect"],
        "additionalProperties": False,
        "if": {"required": ["payload"]},
        "then": {"properties": {"body": False}},
        "else": {"required": ["body"]},
    }


def _texts() -> Schema:
    return {**_IS_OBJECT, "additionalProperties": _SCALAR}


def _expectation() -> Schema:
    error = _about("The part fails, with a message that contains this text.")
    failure = {
        "properties": {"error": {**error, **_SCALAR}},
        "required": ["error"],
        "additionalProperties": False,
    }
    calls = {"items": _expected({**error, **_SCALAR})}
    return {"type": ["array", "object"], "if": _IS_OBJECT, "then": failure, "else": calls}


def _expected(error: Schema) -> Schema:
    """A call as it is written after defaults; or where a part is to fail, its error."""
    return {
        **_IS_OBJECT,
        "if": {"required": ["error"], "properties": {"call": False}},
        "then": {"properties": {"error": error}, "additionalProperties": False},
        "else": {"required": ["call"], "properties": {"call": _one_of(CALLS)}},
    }
