"""The functions that an expression may call: JMESPath's own and the gateway's, as one table.

An entry is a function below with the decorator `_function`; its docstring is its description. A null
argument gives null before the function is asked, unless the entry says that it takes nulls.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import filterfalse
from types import MappingProxyType, NoneType
from typing import TypeAlias
from urllib.parse import quote, unquote

from gateway.errors import ExpressionError, RequestError
from gateway.events import JSON
from gateway.payloads import MAX_NESTING, STRICT_JSON, is_too_deep, whole_characters

MAX_TEXT = 1024 * 1024  # characters that one function may give
MAX_ITEMS = 100_000  # list items that one function may give


# Nobody changes one, but a frozen one takes more than twice as long to make, and each webhook makes several.
@dataclass(kw_only=True, slots=True)
class Scope:
    """What an expression sees besides the current value.

    Attributes:
        root: The part: what names at the start of an expression refer to.
        body: The whole decoded body; the same as the root unless the mapping splits it.
        headers: By names in lower case.
        received_at: Unix seconds.
        index: The number of the item under `each`, from 0.
        let: What computes the variables, by name; called with the root.
        known: The variables that have been asked for: each is computed once for a part.
    """

    root: JSON
    body: JSON
    headers: Mapping[str, str]
    query: Mapping[str, str]
    received_at: int
    event_type: str | None = None
    index: int | None = None
    let: Mapping[str, Evaluate] = field(default_factory=dict)
    known: dict[str, JSON] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)


Evaluate: TypeAlias = Callable[[JSON, Scope], JSON]  # a compiled expression: current value, scope
Apply: TypeAlias = Callable[[JSON], JSON]  # an argument like &field, bound to its scope


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        kinds: The Python types that its values may have; empty: any.
        literal: It has to be a text written in the mapping file, so that it can be checked at load.
        expression: It is written with & in front and applied to each item.
    """

    name: str
    kinds: frozenset[type] = frozenset()
    optional: bool = False
    literal: bool = False
    expression: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """An expression that shows a function, what it is applied to, and what it gives."""

    expression: str
    input: JSON
    output: JSON


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function, and how expressions have to call it.

    Attributes:
        call: Takes the arguments; a *lazy* one takes (unevaluated arguments, current value, scope) instead.
        variadic: The last parameter may be repeated.
        takes_null: Null arguments are handed over; otherwise any of them makes the result null.
        needs_scope: The scope is handed over first.
        check: Finds what is wrong with arguments that are known at load; ... stands for those that are not.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    example: Example
    call: Callable[..., JSON]
    variadic: bool = False
    takes_null: bool = False
    lazy: bool = False
    needs_scope: bool = False
    check: Callable[[Sequence[object]], str | None] | None = None

    @property
    def signature(self) -> str:
        """How the function is written, as in `substring(s, start, length?)`."""
        names = [parameter.name + ("?" if parameter.optional else "") for parameter in self.parameters]
        return f"{self.name}({', '.join([*names, '…'] if self.variadic else names)})"

    def parameter(self, position: int) -> Parameter:
        """Find the parameter that an argument belongs to."""
        return self.parameters[min(position, len(self.parameters) - 1)]

    def arity_problem(self, count: int) -> str | None:
        """Say what is wrong with a number of arguments; None: nothing."""
        most = len(self.parameters)
        least = sum(not parameter.optional for parameter in self.parameters)
        if least <= count and (count <= most or self.variadic):
            return None
        if self.variadic:
            takes = f"at least {least}"
        else:
            takes = "no" if most == 0 else str(most) if least == most else f"{least} or {most}"
        counted = least if self.variadic else most
        return f"{self.name}() takes {takes} argument{'' if counted == 1 else 's'}, got {count}"

    def kind_problem(self, position: int, value: object) -> str | None:
        """Say what is wrong with the kind of an argument, without showing its value; None: nothing."""
        parameter = self.parameter(position)
        if not parameter.kinds or type(value) in parameter.kinds:
            return None
        others = [other.kinds for other in self.parameters if not other.expression]
        several = len(others) > 1 or self.variadic
        if several and all(kinds == parameter.kinds for kinds in others):
            return f"{self.name}() needs {_describe(parameter.kinds, _PLURALS)}, got {kind(value)}"
        purpose = f" for '{parameter.name}'" if several else ""
        return f"{self.name}() needs {_describe(parameter.kinds, _KINDS)}{purpose}, got {kind(value)}"


_KINDS: dict[type, str] = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
_PLURALS = _KINDS | {int: "numbers", float: "numbers", list: "lists", dict: "objects", bool: "booleans"}


def kind(value: object) -> str:
    """Name the kind of a value, for an error text."""
    return _KINDS.get(type(value), "something that is not JSON")


def _describe(kinds: frozenset[type], names: Mapping[type, str]) -> str:
    described = [*dict.fromkeys(name for each, name in names.items() if each in kinds - {NoneType})]
    return " or ".join(filter(None, (", ".join(described[:-1]), described[-1])))


def equal(left: JSON, right: JSON) -> bool:
    """Compare as JSON does: 10 equals 10.0, but true is not 1, at any depth."""
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return False
        return all(equal(value, right[key]) for key, value in left.items())
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def truthy(value: JSON) -> bool:
    """Tell whether JMESPath takes a value for true: null, false, "", [] and {} are not, 0 is."""
    return bool(value) or type(value) is int or type(value) is float


def number_text(number: int | float) -> str:
    """Write a number out: 42 and 42.0 both give `42`, large integers exactly, no exponents.

    Raises ExpressionError: the number has more than a thousand digits.
    """
    if isinstance(number, float):
        return str(int(number)) if number.is_integer() else format(Decimal(repr(number)), "f")
    if number.bit_length() > _MAX_BITS_WRITTEN:
        raise ExpressionError("a number this large cannot be written as text")
    return str(number)


_MAX_BITS_WRITTEN = 4096  # far more than any id, and below what Python refuses to write
_TABLE: dict[str, Function] = {}


def _function(
    *parameters: Parameter,
    example: tuple[str, JSON, JSON],
    variadic: bool = False,
    takes_null: bool = False,
    lazy: bool = False,
    needs_scope: bool = False,
    check: Callable[[Sequence[object]], str | None] | None = None,
) -> Callable[[Callable[..., JSON]], Callable[..., JSON]]:
    """Enter a function into the table under its name without the underscore."""

    def enter(call: Callable[..., JSON]) -> Callable[..., JSON]:
        name = call.__name__.removeprefix("_")
        expression, given, output = example
        _TABLE[name] = Function(
            name=name,
            description=call.__doc__ or "",
            parameters=parameters,
            example=Example(expression=expression, input=given, output=output),
            call=call,
            variadic=variadic,
            takes_null=takes_null,
            lazy=lazy,
            needs_scope=needs_scope,
            check=check,
        )
        return call

    return enter


def _any(name: str) -> Parameter:
    return Parameter(name=name)


def _text(name: str) -> Parameter:
    return Parameter(name=name, kinds=frozenset({str}))


def _literal(name: str) -> Parameter:
    return Parameter(name=name, kinds=frozenset({str}), literal=True)


def _number(name: str) -> Parameter:
    return Parameter(name=name, kinds=frozenset({int, float}))


def _list(name: str) -> Parameter:
    return Parameter(name=name, kinds=frozenset({list}))


def _object(name: str) -> Parameter:
    return Parameter(name=name, kinds=frozenset({dict}))


def _one_of(name: str, *kinds: type) -> Parameter:
    return Parameter(name=name, kinds=frozenset(kinds))


def _optional(parameter: Parameter) -> Parameter:
    return Parameter(name=parameter.name, kinds=parameter.kinds, optional=True)


def _each(name: str) -> Parameter:
    return Parameter(name=name, expression=True)


# Around the body


@_function(_literal("name"), needs_scope=True, example=("header('X-Name')", None, "Ada"))
def _header(scope: Scope, name: str) -> JSON:
    """A header of the request, in any case; null when it was not sent."""
    return scope.headers.get(name.lower())


@_function(_literal("name"), needs_scope=True, example=("query('name')", None, "Ada"))
def _query(scope: Scope, name: str) -> JSON:
    """A parameter of the request's URL; null when it was not sent."""
    return scope.query.get(name)


@_function(needs_scope=True, example=("root().id", {"id": "42"}, "42"))
def _root(scope: Scope) -> JSON:
    """The part that is being translated: the body, or one item of it under `split`."""
    return scope.root


@_function(needs_scope=True, example=("body().id", {"id": "42"}, "42"))
def _body(scope: Scope) -> JSON:
    """The whole body of the request."""
    return scope.body


@_function(_literal("name"), needs_scope=True, example=("var('plan')", None, "Starter"))
def _var(scope: Scope, name: str) -> JSON:
    """A value computed under `let`."""
    if name not in scope.known:
        scope.known[name] = scope.let[name](scope.root, scope)
    return scope.known[name]


@_function(
    _literal("table"),
    _one_of("key", str, int, float, bool, NoneType),
    needs_scope=True,
    takes_null=True,
    example=("lookup('plans', plan)", {"plan": "price_1"}, "Starter"),
)
def _lookup(scope: Scope, table: str, key: str | int | float | bool | None) -> JSON:
    """An entry of a table; a null key, or one that is not there, takes the entry "*"."""
    entries = scope.tables.get(table, {})
    default = entries.get("*")
    return default if key is None else entries.get(_key_text(key), default)


def _key_text(key: str | int | float | bool) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return key if isinstance(key, str) else number_text(key)


@_function(needs_scope=True, example=("event_type()", None, "user.created"))
def _event_type(scope: Scope) -> JSON:
    """What the mapping's `event_type` gave for this part."""
    return scope.event_type


@_function(needs_scope=True, example=("received_at()", None, 1767225600))
def _received_at(scope: Scope) -> JSON:
    """When the webhook arrived, in unix seconds."""
    return scope.received_at


@_function(needs_scope=True, example=("index()", None, 0))
def _index(scope: Scope) -> JSON:
    """The number of the item under `each`, from 0."""
    return scope.index


# Text


@_function(_text("s"), example=("lower(email)", {"email": "Ada@Example.com"}, "ada@example.com"))
def _lower(s: str) -> JSON:
    """The text in lower case."""
    return s.lower()


@_function(_text("s"), example=("upper(country)", {"country": "de"}, "DE"))
def _upper(s: str) -> JSON:
    """The text in upper case."""
    return s.upper()


@_function(_text("s"), example=("trim(name)", {"name": "  Ada "}, "Ada"))
def _trim(s: str) -> JSON:
    """The text without blanks and line breaks around it."""
    return s.strip()


def _check_separator(arguments: Sequence[object]) -> str | None:
    return "split() needs a separator that is not empty" if arguments[1] == "" else None


@_function(
    _text("s"),
    _text("sep"),
    check=_check_separator,
    example=("split(tags, ',')", {"tags": "new,vip"}, ["new", "vip"]),
)
def _split(s: str, sep: str) -> JSON:
    """The parts of a text between the separators."""
    if not sep:
        raise ExpressionError("split() needs a separator that is not empty")
    _limit_items("split", s.count(sep) + 1)
    return [*s.split(sep)]


def _check_search(arguments: Sequence[object]) -> str | None:
    return "replace() needs a text to look for that is not empty" if arguments[1] == "" else None


@_function(
    _text("s"),
    _text("from"),
    _text("to"),
    check=_check_search,
    example=("replace(phone, ' ', '')", {"phone": "+49 30 1234"}, "+49301234"),
)
def _replace(s: str, search: str, to: str) -> JSON:
    """The text with every occurrence of one text replaced by another."""
    if not search:
        raise ExpressionError("replace() needs a text to look for that is not empty")
    _limit_text("replace", len(s) + s.count(search) * (len(to) - len(search)))
    return s.replace(search, to)


@_function(
    _text("sep"),
    _list("list"),
    example=("join(', ', [city, state, country])", {"city": "Paris", "country": "FR"}, "Paris, FR"),
)
def _join(sep: str, items: list[JSON]) -> JSON:
    """The texts and numbers of a list in one text; nulls are skipped, and null when nothing is left."""
    texts = [_written("join", item, "a list of text or numbers") for item in items if item is not None]
    _limit_text("join", sum(map(len, texts)) + len(sep) * len(texts))
    return sep.join(texts) if texts else None


def _written(name: str, value: JSON, needs: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    raise ExpressionError(f"{name}() needs {needs}, got {kind(value)} in it; to_string(…) turns it into text")


_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{\}|[{}]")


def _check_format(arguments: Sequence[object]) -> str | None:
    template, *values = arguments
    return _format_problem(template, len(values)) if isinstance(template, str) else None


def _format_problem(template: str, values: int) -> str | None:
    marks = _PLACEHOLDER.findall(template)
    if "{" in marks or "}" in marks:
        return "format() takes {} as its placeholder; a brace itself is written {{ or }}"
    places = marks.count("{}")
    if places == values:
        return None
    return f"format() has {places} {{}} for {values} value{'' if values == 1 else 's'}"


@_function(
    _text("template"),
    _optional(_one_of("x", str, int, float)),
    variadic=True,
    check=_check_format,
    example=("format('Order {} of {}', number, name)", {"number": 42.0, "name": "Ada"}, "Order 42 of Ada"),
)
def _format(template: str, *values: JSON) -> JSON:
    """The text with each {} replaced by the next value; a brace is written {{ or }}."""
    if problem := _format_problem(template, len(values)):
        raise ExpressionError(problem)
    texts = [_written("format", value, "text or numbers") for value in values]
    _limit_text("format", len(template) + sum(map(len, texts)))
    remaining = iter(texts)
    return _PLACEHOLDER.sub(lambda mark: next(remaining) if mark[0] == "{}" else mark[0][0], template)


@_function(
    _text("s"),
    _number("start"),
    _optional(_number("length")),
    example=("substring(phone, `0`, `3`)", {"phone": "+49301234"}, "+49"),
)
def _substring(s: str, start: int | float, length: int | float | None = None) -> JSON:
    """A piece of a text: from a position (0 is the first, -1 the last character), to the end or so long."""
    first = _whole("substring", "start", start)
    first = max(first + len(s), 0) if first < 0 else first
    if length is None:
        return s[first:]
    count = _whole("substring", "length", length)
    if count < 0:
        raise ExpressionError("substring() needs a length of 0 or more")
    return s[first : first + count]


def _whole(name: str, parameter: str, number: int | float) -> int:
    if isinstance(number, float) and not number.is_integer():
        raise ExpressionError(f"{name}() needs a whole number for {parameter}")
    return int(number)


@_function(_text("s"), example=("slug(title)", {"title": "Crème brûlée, twice!"}, "creme-brulee-twice"))
def _slug(s: str) -> JSON:
    """The text as it would stand in an address: lower case, no accents, words joined by "-"."""
    plain = unicodedata.normalize("NFKD", s)
    _limit_text("slug", len(plain))
    bare = "".join(filterfalse(unicodedata.combining, plain))
    return "-".join(re.findall(r"[^\W_]+", bare.casefold()))


@_function(_text("s"), _text("suffix"), example=("ends_with(email, '.edu')", {"email": "ada@mit.edu"}, True))
def _ends_with(s: str, suffix: str) -> JSON:
    """Whether a text ends with another."""
    return s.endswith(suffix)


@_function(_text("s"), _text("prefix"), example=("starts_with(id, 'cus_')", {"id": "cus_42"}, True))
def _starts_with(s: str, prefix: str) -> JSON:
    """Whether a text starts with another."""
    return s.startswith(prefix)


# Kinds


@_function(_one_of("x", str, int, float), example=("to_number(price)", {"price": "19.99"}, 19.99))
def _to_number(x: str | int | float) -> JSON:
    """The number that a text holds, written as in JSON."""
    if not isinstance(x, str):
        return x
    found = _JSON_NUMBER.fullmatch(x)
    if found is None:
        raise ExpressionError("to_number() cannot read this text as a number")
    value = float(x)
    if math.isinf(value):
        raise ExpressionError("to_number() cannot read this text: the number is too large")
    return value if found["fraction"] or found["exponent"] else int(x)


_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")


@_function(_any("x"), example=("to_string(number)", {"number": 42.0}, "42"))
def _to_string(x: JSON) -> JSON:
    """A value as text: text as it is, numbers written out, anything else as JSON."""
    if isinstance(x, str):
        return x
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return number_text(x)
    return _json_text("to_string", x)


@_function(_one_of("x", bool, str, int, float), example=("to_bool(subscribed)", {"subscribed": "yes"}, True))
def _to_bool(x: bool | str | int | float) -> JSON:
    """true or false out of true/false, yes/no or 1/0, in any case."""
    found = _BOOLEANS.get(_key_text(x).lower())
    if found is None:
        raise ExpressionError("to_bool() needs true or false, yes or no, 1 or 0, and this is none of them")
    return found


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@_function(_any("x"), takes_null=True, example=("to_array(tags)", {"tags": "new"}, ["new"]))
def _to_array(x: JSON) -> JSON:
    """A list as it is, anything else as a list of one."""
    return x if isinstance(x, list) else [x]


@_function(_text("s"), example=("parse_json(meta).plan", {"meta": '{"plan": "pro"}'}, "pro"))
def _parse_json(s: str) -> JSON:
    """The value that a text holds as JSON."""
    try:
        return read_json(s)
    except ExpressionError as error:
        raise ExpressionError(f"parse_json() cannot read this text: {error}") from None


def read_json(text: str) -> JSON:
    """Read JSON as strictly as a body: no NaN, no number out of range, lists and objects at most 64 deep.

    Raises ExpressionError: it is not that.
    """
    if is_too_deep(text.encode(errors="surrogatepass")):
        raise ExpressionError(f"it is nested more than {MAX_NESTING} deep")
    try:
        value: JSON = STRICT_JSON.decode(text)
    except (ValueError, RequestError):
        raise ExpressionError("it is not JSON") from None
    return value


@_function(_any("x"), example=("to_json(address)", {"address": {"city": "Paris"}}, '{"city":"Paris"}'))
def _to_json(x: JSON) -> JSON:
    """A value as JSON text."""
    return _json_text("to_json", x)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _json_text(name: str, value: JSON) -> str:
    parts, size = [], 0
    try:
        for part in _ENCODER.iterencode(value):
            parts.append(part)
            size += len(part)
            _limit_text(name, size)
    except ValueError:
        raise ExpressionError(f"{name}() met a number that cannot be written as JSON") from None
    return "".join(parts)


@_function(_any("x"), takes_null=True, example=("type(total)", {"total": 4900}, "number"))
def _type(x: JSON) -> JSON:
    """The kind of a value: string, number, boolean, array, object or null."""
    return _TYPES[type(x)]


_TYPES: dict[type, str] = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    NoneType: "null",
}


# Time


@_function(
    _one_of("x", str, int, float),
    example=("unix(created_at)", {"created_at": "2026-01-01T01:00:00.250+01:00"}, 1767225600),
)
def _unix(x: str | int | float) -> JSON:
    """Unix seconds out of ISO 8601 (UTC unless it says otherwise), RFC 2822, seconds or milliseconds."""
    if not isinstance(x, str):
        return _seconds(Decimal(x))
    if found := _ISO.fullmatch(x):
        return _moment(found, int(found["month"]))
    if found := _RFC.fullmatch(x):
        return _moment(found, _MONTHS.index(found["month"].lower()) + 1)
    if _DIGITS.fullmatch(x):
        return _seconds(Decimal(x))
    raise ExpressionError("unix() cannot read this text as a time")


_ISO = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]{1,9})?)?"
    r" ?(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_RFC = re.compile(
    rf"(?:(?:mon|tue|wed|thu|fri|sat|sun),? *)?(?P<day>[0-9]{{1,2}}) +(?P<month>{'|'.join(_MONTHS)})"
    r" +(?P<year>[0-9]{4}) +(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?"
    r" +(?P<zone>[+-][0-9]{4}|gmt|utc|ut|z|est|edt|cst|cdt|mst|mdt|pst|pdt)(?: +\([a-z ]*\))?",
    re.ASCII | re.IGNORECASE,
)
_AMERICAN_HOURS = {"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}
# Four, six and eight digits are left out: they are more likely a date (20260102) than seconds of 1970.
_DIGITS = re.compile(r"-?(?!(?:[0-9]{4}|[0-9]{6}|[0-9]{8})(?![0-9]))[0-9]{1,13}(?:\.[0-9]{1,9})?")
_FIRST_MILLISECONDS, _PAST_MILLISECONDS = (
    10**11,
    10**13,
)  # seconds until the year 5138, milliseconds until 2286
_EPOCH = date(1970, 1, 1).toordinal()


def _seconds(number: Decimal) -> int:
    if abs(number) >= _PAST_MILLISECONDS:
        raise ExpressionError("unix() needs seconds or milliseconds, and this number is too large for either")
    return math.floor(number if abs(number) < _FIRST_MILLISECONDS else number / 1000)


def _moment(found: re.Match[str], month: int) -> int:
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    try:
        days = date(int(found["year"]), month, int(found["day"])).toordinal() - _EPOCH
    except ValueError:
        raise ExpressionError("unix() cannot read this text as a time: there is no such day") from None
    if hour > 23 or minute > 59 or second > 60:  # 60 is a leap second
        raise ExpressionError("unix() cannot read this text as a time: there is no such hour")
    return ((days * 24 + hour) * 60 + minute) * 60 + second - _zone_seconds((found["zone"] or "z").lower())


def _zone_seconds(zone: str) -> int:
    if zone[0] not in "+-":
        return _AMERICAN_HOURS.get(zone, 0) * 3600
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ExpressionError("unix() cannot read this text as a time: there is no such zone")
    return (hours * 60 + minutes) * 60 * (-1 if zone[0] == "-" else 1)


# Hashes and encodings


@_function(
    _text("s"),
    example=(
        "sha256(email)",
        {"email": "ada@example.com"},
        "b5fc85e55755f9e0d030a10ab4429b6b2944855f9a0d60077fe832becbc41d72",
    ),
)
def _sha256(s: str) -> JSON:
    """The SHA-256 of a text in UTF-8, as hexadecimal digits."""
    return hashlib.sha256(_utf8(s)).hexdigest()


@_function(_text("s"), example=("md5(id)", {"id": "42"}, "a1d0c6e83f027327d8461063f4ac58a6"))
def _md5(s: str) -> JSON:
    """The MD5 of a text in UTF-8, as hexadecimal digits."""
    return hashlib.md5(_utf8(s), usedforsecurity=False).hexdigest()


@_function(_text("s"), example=("base64(name)", {"name": "Ada"}, "QWRh"))
def _base64(s: str) -> JSON:
    """A text in UTF-8 as base64."""
    _limit_text("base64", len(s))
    return base64.b64encode(_utf8(s)).decode("ascii")


@_function(_text("s"), example=("base64_decode(name)", {"name": "QWRh"}, "Ada"))
def _base64_decode(s: str) -> JSON:
    """The text in UTF-8 that base64 holds, in either alphabet, with or without padding."""
    bare = s.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode("utf-8")
    except UnicodeDecodeError:
        raise ExpressionError("base64_decode() found bytes that are not text in UTF-8") from None
    except (binascii.Error, ValueError):
        raise ExpressionError("base64_decode() cannot read this text as base64") from None


@_function(_text("s"), example=("url_encode(name)", {"name": "Ada & co"}, "Ada%20%26%20co"))
def _url_encode(s: str) -> JSON:
    """A text as it stands in an address, with everything but letters, digits and -._~ escaped."""
    _limit_text("url_encode", len(s))
    return quote(_utf8(s), safe="")


@_function(_text("s"), example=("url_decode(name)", {"name": "Ada%20%26%20co"}, "Ada & co"))
def _url_decode(s: str) -> JSON:
    """The text that an address holds; "+" stays as it is."""
    try:
        return unquote(s, errors="strict")
    except UnicodeDecodeError:
        raise ExpressionError("url_decode() found bytes that are not text in UTF-8") from None


def _utf8(text: str) -> bytes:
    return whole_characters(text).encode()


# Objects and lists


@_function(
    _object("obj"),
    _list("names"),
    example=(
        "pick(@, ['plan', 'seats'])",
        {"plan": "pro", "seats": 3, "card": "…"},
        {"plan": "pro", "seats": 3},
    ),
)
def _pick(obj: dict[str, JSON], names: list[JSON]) -> JSON:
    """The object with these keys only; those that it lacks are left out."""
    return {name: obj[name] for name in _texts("pick", names) if name in obj}


@_function(
    _object("obj"),
    _list("names"),
    example=("omit(@, ['card'])", {"plan": "pro", "card": "…"}, {"plan": "pro"}),
)
def _omit(obj: dict[str, JSON], names: list[JSON]) -> JSON:
    """The object without these keys."""
    dropped = set(_texts("omit", names))
    return {name: value for name, value in obj.items() if name not in dropped}


def _texts(name: str, items: Iterable[JSON]) -> list[str]:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(list(items)):
        return texts
    raise ExpressionError(f"{name}() needs a list of text")


@_function(
    _object("obj"),
    _object("names"),
    example=("rename(@, {plan: 'tier'})", {"tier": "pro", "seats": 3}, {"plan": "pro", "seats": 3}),
)
def _rename(obj: dict[str, JSON], names: dict[str, JSON]) -> JSON:
    """The object with keys renamed, written {new: 'old'}; old keys that it lacks are left out."""
    moved: dict[str, list[str]] = {}
    for new, old in names.items():
        if not isinstance(old, str):
            raise ExpressionError(f"rename() needs names written as {{new: 'old'}}, got {kind(old)}")
        if old in obj:
            moved.setdefault(old, []).append(new)
    taken = {new for news in moved.values() for new in news}
    renamed: dict[str, JSON] = {}
    for name, value in obj.items():
        for new in moved.get(name, () if name in taken else (name,)):
            renamed[new] = value
    return renamed


@_function(
    _object("obj"),
    _text("sep"),
    example=("flatten(@, '_')", {"plan": {"id": 1, "name": "pro"}}, {"plan_id": 1, "plan_name": "pro"}),
)
def _flatten(obj: dict[str, JSON], sep: str) -> JSON:
    """The object with the objects in it made flat, keys joined by a separator; lists stay as they are."""
    flat: dict[str, JSON] = {}
    size = 0
    waiting = list(reversed(obj.items()))
    while waiting:
        name, value = waiting.pop()
        size += len(name)
        _limit_text("flatten", size)  # a long name above many values would be repeated for each
        if isinstance(value, dict) and value:
            waiting.extend((name + sep + key, below) for key, below in reversed(value.items()))
        else:
            flat[name] = value
    return flat


@_function(
    _object("obj"),
    _text("prefix"),
    example=("prefix_keys(utm, 'utm_')", {"utm": {"source": "ad"}}, {"utm_source": "ad"}),
)
def _prefix_keys(obj: dict[str, JSON], prefix: str) -> JSON:
    """The object with a text in front of each key."""
    _limit_text("prefix_keys", len(prefix) * len(obj))
    return {prefix + name: value for name, value in obj.items()}


@_function(
    _one_of("obj", dict, NoneType),
    variadic=True,
    takes_null=True,
    example=("merge(a, b, c)", {"a": {"x": 1, "y": 1}, "b": {"y": 2}}, {"x": 1, "y": 2}),
)
def _merge(*objects: dict[str, JSON] | None) -> JSON:
    """The objects in one, later ones winning; nulls are skipped."""
    return {name: value for each in objects if each is not None for name, value in each.items()}


@_function(_object("obj"), example=("keys(@)", {"a": 1, "b": 2}, ["a", "b"]))
def _keys(obj: dict[str, JSON]) -> JSON:
    """The keys of an object."""
    return [*obj]


@_function(_object("obj"), example=("values(@)", {"a": 1, "b": 2}, [1, 2]))
def _values(obj: dict[str, JSON]) -> JSON:
    """The values of an object."""
    return [*obj.values()]


@_function(_object("obj"), example=("items(@)", {"a": 1, "b": 2}, [["a", 1], ["b", 2]]))
def _items(obj: dict[str, JSON]) -> JSON:
    """The entries of an object as a list of [key, value]."""
    return [[name, value] for name, value in obj.items()]


@_function(
    _list("entries"),
    example=("from_items(fields[].[name, value])", {"fields": [{"name": "a", "value": 1}]}, {"a": 1}),
)
def _from_items(entries: list[JSON]) -> JSON:
    """The object that a list of [key, value] describes."""
    made: dict[str, JSON] = {}
    for entry in entries:
        match entry:
            case [str() as name, value]:
                made[name] = value
            case _:
                raise ExpressionError("from_items() needs a list of [key, value] whose keys are text")
    return made


@_function(
    _list("a"),
    _list("b"),
    variadic=True,
    example=("zip(names, prices)", {"names": ["a", "b"], "prices": [1, 2]}, [["a", 1], ["b", 2]]),
)
def _zip(*lists: list[JSON]) -> JSON:
    """The items of lists side by side, as many as the shortest has."""
    return [[*row] for row in zip(*lists, strict=False)]


@_function(_list("list"), example=("unique(tags)", {"tags": ["new", "vip", "new"]}, ["new", "vip"]))
def _unique(items: list[JSON]) -> JSON:
    """The list without repetitions, the first of each staying."""
    first: dict[object, JSON] = {}
    for item in items:
        first.setdefault(_identity(item), item)
    return [*first.values()]


def _identity(value: JSON) -> object:
    """Give equal values, and no others, the same key.

    Numbers go by their text, because Python's hashes of numbers can be made to collide by whoever sends them.
    """
    if isinstance(value, list):
        return ("list", *map(_identity, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _identity(below)) for name, below in value.items()))
    if value is None or isinstance(value, bool):
        return value
    return ("text", value) if isinstance(value, str) else ("number", number_text(value))


@_function(_list("list"), example=("first(items[?paid]).sku", {"items": [{"sku": "a", "paid": True}]}, "a"))
def _first(items: list[JSON]) -> JSON:
    """The first item of a list; null when there is none."""
    return items[0] if items else None


@_function(_list("list"), example=("last(items).sku", {"items": [{"sku": "a"}, {"sku": "b"}]}, "b"))
def _last(items: list[JSON]) -> JSON:
    """The last item of a list; null when there is none."""
    return items[-1] if items else None


@_function(
    _one_of("list", list, str), _any("x"), example=("contains(tags, 'vip')", {"tags": ["new", "vip"]}, True)
)
def _contains(where: list[JSON] | str, x: JSON) -> JSON:
    """Whether a list has an item, or a text has a text in it."""
    if isinstance(where, list):
        return any(equal(item, x) for item in where)
    if not isinstance(x, str):
        raise ExpressionError(f"contains() needs text to look for in text, got {kind(x)}")
    return x in where


@_function(_one_of("x", str, list, dict), example=("length(items)", {"items": [1, 2, 3]}, 3))
def _length(x: str | list[JSON] | dict[str, JSON]) -> JSON:
    """How many characters, items or keys there are."""
    return len(x)


@_function(_one_of("x", list, str), example=("reverse(items)", {"items": [1, 2, 3]}, [3, 2, 1]))
def _reverse(x: list[JSON] | str) -> JSON:
    """A list or text from its end to its start."""
    return x[::-1]


@_function(
    _each("expression"),
    _list("list"),
    example=("map(&upper(@), tags)", {"tags": ["new", "vip"]}, ["NEW", "VIP"]),
)
def _map(apply: Apply, items: list[JSON]) -> JSON:
    """What an expression gives for each item, nulls included."""
    return [apply(item) for item in items]


@_function(_list("list"), example=("sort(prices)", {"prices": [3, 1, 2]}, [1, 2, 3]))
def _sort(items: list[JSON]) -> JSON:
    """A list of text or of numbers in order."""
    return [items[position] for position in _ordered("sort", items, _ITEMS)]


@_function(
    _list("list"),
    _each("expression"),
    example=(
        "sort_by(items, &price)[].sku",
        {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]},
        ["b", "a"],
    ),
)
def _sort_by(items: list[JSON], apply: Apply) -> JSON:
    """A list in the order of what an expression gives for each item: text, or numbers."""
    return [items[position] for position in _ordered("sort_by", [apply(item) for item in items], _KEYS)]


@_function(_list("list"), example=("max(prices)", {"prices": [3, 1, 2]}, 3))
def _max(items: list[JSON]) -> JSON:
    """The largest of a list of numbers or text; null when it is empty."""
    return items[_largest("max", items, _ITEMS)] if items else None


@_function(
    _list("list"),
    _each("expression"),
    example=(
        "max_by(items, &price).sku",
        {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]},
        "a",
    ),
)
def _max_by(items: list[JSON], apply: Apply) -> JSON:
    """The item for which an expression gives the largest number or text; null when there is none."""
    return items[_largest("max_by", [apply(item) for item in items], _KEYS)] if items else None


@_function(_list("list"), example=("min(prices)", {"prices": [3, 1, 2]}, 1))
def _min(items: list[JSON]) -> JSON:
    """The smallest of a list of numbers or text; null when it is empty."""
    return items[_ordered("min", items, _ITEMS)[0]] if items else None


@_function(
    _list("list"),
    _each("expression"),
    example=(
        "min_by(items, &price).sku",
        {"items": [{"sku": "a", "price": 2}, {"sku": "b", "price": 1}]},
        "b",
    ),
)
def _min_by(items: list[JSON], apply: Apply) -> JSON:
    """The item for which an expression gives the smallest number or text; null when there is none."""
    return items[_ordered("min_by", [apply(item) for item in items], _KEYS)[0]] if items else None


_ITEMS = "a list of numbers or of text"
_KEYS = "numbers or text for all items from its expression"


def _ordered(name: str, keys: list[JSON], needs: str) -> list[int]:
    """Give the positions of keys in order, equal ones as they stand."""
    if all(isinstance(key, str) for key in keys):
        return sorted(range(len(keys)), key=lambda position: str(keys[position]))
    numbers = _numbers(name, keys, needs)
    return sorted(range(len(keys)), key=numbers.__getitem__)


def _largest(name: str, keys: list[JSON], needs: str) -> int:
    order = _ordered(name, keys, needs)
    return next(position for position in order if keys[position] == keys[order[-1]])


# Numbers and choice


@_function(_number("a"), _number("b"), example=("add(price, shipping)", {"price": 0.1, "shipping": 0.2}, 0.3))
def _add(a: int | float, b: int | float) -> JSON:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("add", a + b)
    return _result("add", _EXACT.add(_decimal(a), _decimal(b)))


@_function(_number("a"), _number("b"), example=("subtract(total, tax)", {"total": 19.99, "tax": 3.19}, 16.8))
def _subtract(a: int | float, b: int | float) -> JSON:
    """a - b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("subtract", a - b)
    return _result("subtract", _EXACT.subtract(_decimal(a), _decimal(b)))


@_function(
    _number("a"), _number("b"), example=("multiply(price, quantity)", {"price": 1.1, "quantity": 3}, 3.3)
)
def _multiply(a: int | float, b: int | float) -> JSON:
    """a times b."""
    if isinstance(a, int) and isinstance(b, int):
        return _within("multiply", a * b)
    return _result("multiply", _EXACT.multiply(_decimal(a), _decimal(b)))


@_function(_number("a"), _number("b"), example=("divide(total, `100`)", {"total": 1999}, 19.99))
def _divide(a: int | float, b: int | float) -> JSON:
    """a divided by b; a whole result has no fraction."""
    if b == 0:
        raise ExpressionError("divide() cannot divide by zero")
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return _within("divide", a // b)
    return _result("divide", _EXACT.divide(_decimal(a), _decimal(b)))


@_function(_number("x"), _optional(_number("digits")), example=("round(price, `2`)", {"price": 2.675}, 2.68))
def _round(x: int | float, digits: int | float = 0) -> JSON:
    """The number with so many digits after the point (none if not said), halves away from zero."""
    places = _whole("round", "digits", digits)
    if abs(places) > _MAX_PLACES:
        raise ExpressionError(f"round() needs digits between -{_MAX_PLACES} and {_MAX_PLACES}")
    if isinstance(x, int) and places >= 0:
        return x
    if isinstance(x, int):
        unit: int = 10**-places
        return (abs(x) + unit // 2) // unit * unit * (-1 if x < 0 else 1)
    exact = _decimal(x)
    if x.is_integer() and places >= 0:
        return _result("round", exact)
    return _result("round", exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _WIDE))


@_function(_number("x"), example=("abs(balance)", {"balance": -5}, 5))
def _abs(x: int | float) -> JSON:
    """The number without its sign."""
    return abs(x)


@_function(_number("x"), example=("ceil(price)", {"price": 1.2}, 2))
def _ceil(x: int | float) -> JSON:
    """The next whole number above."""
    return math.ceil(x)


@_function(_number("x"), example=("floor(price)", {"price": 1.8}, 1))
def _floor(x: int | float) -> JSON:
    """The next whole number below."""
    return math.floor(x)


@_function(_list("list"), example=("sum(items[].price)", {"items": [{"price": 0.1}, {"price": 0.2}]}, 0.3))
def _sum(items: list[JSON]) -> JSON:
    """The sum of a list of numbers."""
    return _total("sum", _numbers("sum", items, "a list of numbers"))


@_function(_list("list"), example=("avg(ratings)", {"ratings": [4, 5]}, 4.5))
def _avg(items: list[JSON]) -> JSON:
    """The average of a list of numbers; null when it is empty."""
    numbers = _numbers("avg", items, "a list of numbers")
    return _divide(_total("avg", numbers), len(numbers)) if numbers else None


def _numbers(name: str, items: list[JSON], needs: str) -> list[int | float]:
    numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if len(numbers) == len(items):
        return numbers
    kinds = dict.fromkeys(kind(item) for item in items)
    raise ExpressionError(f"{name}() needs {needs}, got {' and '.join(kinds)} among them")


def _total(name: str, numbers: list[int | float]) -> int | float:
    whole = [number for number in numbers if isinstance(number, int)]
    total = _within(name, sum(whole))
    if len(whole) == len(numbers):
        return total
    exact = _decimal(total)
    for number in numbers:
        if isinstance(number, float):
            exact = _EXACT.add(exact, _decimal(number))
    return _result(name, exact)


# Traps are off: what goes wrong shows in the result, which is checked.
_EXACT = Context(prec=40, traps=[])
_WIDE = Context(prec=400, traps=[])  # room for every digit of the largest number
_MAX_PLACES = 20
_MAX_BITS = 1024  # whole numbers beyond this have no counterpart among the other numbers
_EXACT_WHOLE = 2**53


def _decimal(number: int | float) -> Decimal:
    """Take a number as it is written, so that 0.1 is a tenth."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))


def _result(name: str, exact: Decimal) -> int | float:
    value = float(exact)
    if not math.isfinite(value):
        raise ExpressionError(f"{name}() gives a number that is too large")
    return int(value) if value.is_integer() and abs(value) <= _EXACT_WHOLE else value


def _within(name: str, whole: int) -> int:
    if whole.bit_length() > _MAX_BITS:
        raise ExpressionError(f"{name}() gives a number that is too large")
    return whole


@_function(
    _any("condition"),
    _any("then"),
    _any("otherwise"),
    lazy=True,
    takes_null=True,
    example=("if(total > `100`, 'large', 'small')", {"total": 120}, "large"),
)
def _if(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """One value or the other; null, false, "", [] and {} count as false, 0 does not."""
    condition, then, otherwise = arguments
    return then(current, scope) if truthy(condition(current, scope)) else otherwise(current, scope)


@_function(
    _any("a"),
    variadic=True,
    lazy=True,
    takes_null=True,
    example=("not_null(phone, mobile)", {"phone": None, "mobile": "1234"}, "1234"),
)
def _not_null(arguments: Sequence[Evaluate], current: JSON, scope: Scope) -> JSON:
    """The first value that is not null."""
    for argument in arguments:
        value = argument(current, scope)
        if value is not None:
            return value
    return None


def _limit_text(name: str, size: int) -> None:
    if size > MAX_TEXT:
        raise ExpressionError(f"{name}() would give more than {MAX_TEXT:,} characters")


def _limit_items(name: str, count: int) -> None:
    if count > MAX_ITEMS:
        raise ExpressionError(f"{name}() would give more than {MAX_ITEMS:,} items")


def limited(name: str, result: JSON) -> JSON:
    """Hand on what a function gave, unless it is too long.

    Raises ExpressionError: a text is over MAX_TEXT, or a list over MAX_ITEMS.
    """
    if type(result) is str:
        _limit_text(name, len(result))
    elif type(result) is list:
        _limit_items(name, len(result))
    return result


FUNCTIONS: Mapping[str, Function] = MappingProxyType(_TABLE)
