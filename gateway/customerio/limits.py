"""What Customer.io would refuse, silently replace or silently drop in a call, found before it is sent.

The limits are those of Customer.io's OpenAPI documents for the Track API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard
from urllib.parse import unquote

from gateway.customerio import wire
from gateway.customerio.calls import (
    IDENTIFIERS,
    AddDevice,
    AddRelationships,
    Address,
    Call,
    DeleteDevice,
    DeleteObject,
    DeleteRelationships,
    Destroy,
    Identify,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    Track,
    Unsuppress,
    address,
    person_named,
)
from gateway.event import JSON
from gateway.text import HEADER_NAME

MAX_ID_BYTES = 150
MAX_ATTRIBUTES = 300
MAX_ATTRIBUTE_NAME_BYTES = 150
MAX_ATTRIBUTE_VALUE_BYTES = 1_000
MAX_EVENT_NAME_BYTES = 100
MAX_EVENT_DATA_BYTES = 100_000
# Unix seconds: Customer.io takes anything else, milliseconds above all, for "now" and says nothing.
EARLIEST, LATEST = 1_000_000_000, 99_999_999_999
# Customer.io documents no limit for the address of a page, an email, a token; an attribute's is the nearest.
MAX_TEXT_BYTES = 1_000
#: Seconds that an attempt of a raw request may be given: a delivery's lease is made for no more.
MAX_TIMEOUT = 20.0

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
PLATFORMS = ("ios", "android")
RESPONSE_TYPES = ("json", "text", "binary")
#: By the name of a setting: what it has to be, and its bounds.
RETRY_SETTINGS: dict[str, tuple[type, int, int]] = {
    "max": (int, 0, 100),
    "delay_ms": (int, 1, 600_000),
    "exponential": (bool, 0, 1),
    "all_errors": (bool, 0, 1),
}
FORM_RESERVED = ("form_id", "form_name", "form_type", "form_url", "form_url_param")


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What Customer.io would refuse, replace or drop in a call; *field* is named as in a mapping."""

    field: str
    problem: str


def violations(call: Call, *, whom: Address | None = None, text: str | None = None) -> list[Violation]:
    """Find everything in a call that Customer.io would refuse, silently replace or silently drop.

    A caller that has them at hand gives the call's address and *text*, any JSON in ASCII that holds the call:
    what that shows to be right is not looked at again.
    """
    if (text is None or _SURROGATE_ESCAPE in text) and (unwritable := list(_unwritable(call))):
        return unwritable
    whom = whom or address(call)
    found: list[Violation] = []
    if whom is not None and not _is_plain(whom.value):
        found += _of_address(_field_of_address(call), whom)
    found += _JUDGES[type(call)](call, text)
    if not found and isinstance(call, _V2_ONLY):
        found += _of_item(call, text)
    return found


#: How the escape of a surrogate begins, be it half of a character or one of the pair that makes a whole one.
_SURROGATE_ESCAPE = "\\ud"
_V2_ONLY = (IdentifyObject, DeleteObject, AddRelationships, DeleteRelationships)


def _is_plain(identifier: str) -> bool:
    """Tell at a glance, as of nearly every identifier, that nothing can be wrong with it."""
    return identifier[:1].isalnum() and _size(identifier) <= MAX_ID_BYTES


def _of_identify(call: Identify) -> Iterator[Violation]:
    yield from _of_moment("timestamp", call.timestamp)
    yield from _of_attributes(call.attributes)
    yield from _of_instructions(call.attributes)


def _of_event(call: Track | Screen, text: str | None) -> tuple[Violation, ...]:
    named = _of_text("name", call.name, MAX_EVENT_NAME_BYTES)
    return _of_moment("timestamp", call.timestamp) + named + _of_data(call.attributes, text)


def _of_page(call: Page, text: str | None) -> tuple[Violation, ...]:
    problem = url_problem(call.url)
    shown = (Violation(field="url", problem=problem),) if problem else ()
    return _of_moment("timestamp", call.timestamp) + shown + _of_data(call.attributes, text)


def _unwritable(call: Call) -> Iterator[Violation]:
    """Text that no JSON document can hold (half of a surrogate pair) would otherwise fail while sending."""
    if _why_unwritable(vars(call)) is None:
        return  # as nearly always: one look at the whole is enough
    for field, value in vars(call).items():
        if problem := _why_unwritable(value):
            yield Violation(field=field.rstrip("_"), problem=problem)


def _why_unwritable(value: object) -> str | None:
    try:
        json.dumps(value, ensure_ascii=False, default=_readable, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "holds text that is not valid Unicode"
    except ValueError:
        return "holds a number that JSON cannot write"
    return None


def _readable(value: Any) -> Any:
    # A file's contents need not be text; all else that JSON does not know is some mapping of what it knows.
    return "" if isinstance(value, bytes) else dict(value)


# Whom and what a call is about


def _of_address(field: str, whom: Address) -> Iterator[Violation]:
    if not whom.value.strip():
        yield Violation(field=field, problem="is blank; Customer.io needs to know whom the call is about")
    if whom.kind == "id":
        yield from _of_dots(field, whom.value)
    limit = MAX_ID_BYTES if whom.kind == "id" else MAX_TEXT_BYTES
    if (size := _size(whom.value)) > limit:
        yield Violation(field=field, problem=f"is {size} bytes long; Customer.io takes {limit}")


def _of_dots(field: str, value: str) -> Iterator[Violation]:
    if value in (".", ".."):
        # Every HTTP library folds these into the path, encoded or not: the request would go elsewhere.
        problem = '"." and ".." cannot be sent: they change where the request goes'
        yield Violation(field=field, problem=problem)


def _field_of_address(call: Call) -> str:
    return next(name for name in IDENTIFIERS if getattr(call, name, None))


def _of_merge(call: Merge) -> Iterator[Violation]:
    named = {"into": person_named(call.into), "from": person_named(call.from_)}
    for (field, whom), named_by in zip(named.items(), (call.into, call.from_), strict=True):
        if whom is None:
            yield Violation(field=field, problem=f"names nobody; write  {field}: {{id: =…}}")
        elif whom.kind == "anonymous_id" or len(named_by) > 1:
            yield Violation(field=field, problem="has to be one of id, email, cio_id")
        else:
            yield from _of_address(field, whom)
    keys = {None if whom is None else whom.lane_key for whom in named.values()}
    if len(keys) == 1 and None not in keys:
        yield Violation(field="from", problem="is the same person as 'into'; nobody is merged into themselves")


def _of_object(named: Mapping[str, Any], place: str) -> Iterator[Violation]:
    for name in ("object_type_id", "object_id"):
        value = named.get(name)
        if not isinstance(value, str):
            yield Violation(field=f"{place}{name}", problem="is missing")
        else:
            yield from _of_text(f"{place}{name}", value, MAX_ID_BYTES)


def _of_objects(objects: Sequence[Mapping[str, JSON]]) -> Iterator[Violation]:
    if not objects:
        yield Violation(field="objects", problem="is empty; name one object at least")
    for number, each in enumerate(objects):
        yield from _of_object(each, f"objects[{number}].")
        yield from _of_relationship(each, f"objects[{number}].")


def _of_people(people: Sequence[Mapping[str, JSON]]) -> Iterator[Violation]:
    for number, each in enumerate(people):
        whom = person_named(each)
        if whom is None or whom.kind == "anonymous_id":
            problem = "names nobody; it needs an id, email or cio_id"
            yield Violation(field=f"people[{number}]", problem=problem)
        else:
            yield from _of_address(f"people[{number}]", whom)
        yield from _of_relationship(each, f"people[{number}].")


def _of_relationship(told: Mapping[str, JSON], place: str) -> Iterator[Violation]:
    attributes = told.get("attributes")
    if isinstance(attributes, dict):
        yield from _of_attributes(attributes, place)


# What a call says


def _of_attributes(attributes: Mapping[str, JSON], place: str = "") -> Iterable[Violation]:
    return () if _are_short(attributes) else _of_long_attributes(attributes, place)


def _are_short(attributes: Mapping[str, JSON]) -> bool:
    """Tell at a glance, as of nearly all attributes, that they are within every limit."""
    for name, value in attributes.items():
        if len(name) > _SHORT_NAME or not name.strip() or (isinstance(value, str) and len(value) > _SHORT_TEXT):
            return False
    return len(attributes) <= MAX_ATTRIBUTES


#: So many characters are within the bytes of a limit in any case: in UTF-8, one has four at most.
_SHORT_NAME, _SHORT_TEXT = MAX_ATTRIBUTE_NAME_BYTES // 4, MAX_ATTRIBUTE_VALUE_BYTES // 4


def _of_long_attributes(attributes: Mapping[str, JSON], place: str) -> Iterator[Violation]:
    if len(attributes) > MAX_ATTRIBUTES:
        yield Violation(
            field=f"{place}attributes",
            problem=f"has {len(attributes)} attributes; Customer.io takes {MAX_ATTRIBUTES}: choose with pick(…)",
        )
    for number, (name, value) in enumerate(attributes.items(), start=1):
        if not name.strip() or _size(name) > MAX_ATTRIBUTE_NAME_BYTES:
            yield Violation(
                field=f"{place}attributes",
                problem=f"the name of attribute {number} is {_size(name)} bytes long;"
                f" Customer.io takes 1 to {MAX_ATTRIBUTE_NAME_BYTES}",
            )
        elif isinstance(value, str) and _size(value) > MAX_ATTRIBUTE_VALUE_BYTES:
            yield Violation(
                field=f"{place}attributes.{name}",
                problem=f"is {_size(value)} bytes long; Customer.io takes {MAX_ATTRIBUTE_VALUE_BYTES}:"
                " shorten it with substring(…)",
            )


def _of_instructions(attributes: Mapping[str, JSON]) -> Iterator[Violation]:
    yield from _of_moment("attributes._timestamp", attributes.get("_timestamp"))
    if not isinstance(attributes.get("_update", True), bool):
        yield Violation(field="attributes._update", problem="is neither true nor false")


def is_moment(value: object) -> TypeGuard[int]:
    """Tell whether a value is a moment as Customer.io takes it: whole unix seconds of these decades."""
    return type(value) is int and EARLIEST <= value <= LATEST


# What nearly every call is asked gives a tuple: it takes a third of the time of a generator that yields nothing.
def _of_moment(field: str, value: JSON) -> tuple[Violation, ...]:
    if value is None or is_moment(value):
        return ()
    return (Violation(field=field, problem="is not whole unix seconds; write unix(…)"),)


def _of_text(field: str, text: str, limit: int) -> tuple[Violation, ...]:
    if not text.strip():
        needed = field.rpartition(".")[2]
        return (Violation(field=field, problem=f"is blank; Customer.io needs the {needed}"),)
    if (size := _size(text)) > limit:
        return (Violation(field=field, problem=f"is {size} bytes long; Customer.io takes {limit}"),)
    return ()


def _of_segment(field: str, text: str, limit: int) -> Iterator[Violation]:
    """Judge a text that becomes a segment of a path."""
    yield from _of_text(field, text, limit)
    yield from _of_dots(field, text)


def url_problem(url: str) -> str | None:
    """Say what is wrong with the address of a page."""
    if url != "*" and not url.lower().startswith(("http://", "https://")):
        return 'is neither a full address (https://…) nor "*" for any page'
    if (size := _size(url)) > MAX_TEXT_BYTES:
        return f"is {size} bytes long; at most {MAX_TEXT_BYTES} are sent"
    return None


def _of_data(attributes: Mapping[str, JSON], text: str | None) -> tuple[Violation, ...]:
    # No JSON is longer in UTF-8 than it is in ASCII.
    if text is not None and len(text) <= MAX_EVENT_DATA_BYTES:
        return ()
    if (size := len(wire.dump(dict(attributes)))) <= MAX_EVENT_DATA_BYTES:
        return ()
    problem = f"is {size} bytes of JSON; Customer.io takes {MAX_EVENT_DATA_BYTES}: choose with pick(…)"
    return (Violation(field="attributes", problem=problem),)


def _of_identified_object(call: IdentifyObject) -> Iterator[Violation]:
    yield from _of_object(vars(call), "")
    yield from _of_attributes(call.attributes)
    yield from _of_people(call.people)


def _of_device(call: AddDevice) -> Iterator[Violation]:
    yield from _of_segment("token", call.token, MAX_TEXT_BYTES)
    if call.platform not in PLATFORMS:
        yield Violation(field="platform", problem=f"is neither {' nor '.join(PLATFORMS)}")
    yield from _of_moment("last_used", call.last_used)
    yield from _of_attributes(call.attributes)
    yield from _of_texts(call.attributes)


def _of_form(call: SubmitForm) -> Iterator[Violation]:
    yield from _of_segment("form_id", call.form_id, MAX_TEXT_BYTES)
    yield from _of_attributes(call.attributes)
    yield from _of_texts(call.attributes)
    for name in ("id", "email", *FORM_RESERVED):
        if name in call.attributes:
            kept = "names the person: write it beside 'attributes'" if name in ("id", "email") else "is ignored"
            yield Violation(field=f"attributes.{name}", problem=f"in a form, '{name}' {kept}")


def _of_texts(attributes: Mapping[str, JSON]) -> Iterator[Violation]:
    for name, value in attributes.items():
        if not isinstance(value, str):
            yield Violation(field=f"attributes.{name}", problem="has to be text; write =to_string(…)")


def _of_item(call: Call, text: str | None) -> Iterator[Violation]:
    """Judge the size of what there is no v1 form of: a v2 entity takes less."""
    if text is not None and 4 * len(text) <= wire.MAX_ITEM_BYTES:  # its own marks make it longer than the call
        return
    if (size := len(wire.request(call).body or b"")) > wire.MAX_ITEM_BYTES:
        problem = f"is {size} bytes of JSON; Customer.io takes {wire.MAX_ITEM_BYTES}"
        field = "attributes" if isinstance(call, IdentifyObject | DeleteObject) else "objects"
        yield Violation(field=field, problem=problem)


# Raw requests


def _of_raw(call: RawRequest) -> Iterator[Violation]:
    if call.method is not None and call.method not in METHODS:
        yield Violation(field="method", problem=f"is not one of {', '.join(METHODS)}")
    if problem := path_problem(call.path):
        yield Violation(field="path", problem=problem)
    yield from _of_values("query", call.query)
    for name, value in call.headers.items():
        if problem := header_problem(name, value):
            yield Violation(field=f"headers.{name}", problem=problem)
    yield from _of_raw_body(call)
    yield from _of_handling(call)


def path_problem(path: str) -> str | None:
    """Say what is wrong with the path of a raw request: it is only ever one below ``/api`` of Customer.io's host."""
    if not path.startswith("/") or path.startswith("//"):
        return "has to be a path below /api that starts with one slash, as /v1/accounts/region"
    if path == "/api" or path.startswith("/api/"):
        return "is taken below /api already: write /v1/… instead of /api/v1/…"
    if "?" in path or "#" in path:
        return "must not hold ? or #; parameters stand under 'query'"
    if "\\" in path or not path.isprintable():
        return "must not hold a backslash or a control character"
    if _BAD_ESCAPE.search(path):
        return "holds a % that begins no escape; write =url_encode(…) around what comes from a payload"
    # Every HTTP library folds these, some of them also when they are escaped.
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        return 'must not have a segment "." or "..": they change where the request goes'
    return None


_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%(?:0[0-9A-Fa-f]|1[0-9A-Fa-f]|7[Ff]|5[Cc])")


def header_problem(name: str, value: object) -> str | None:
    """Say what is wrong with a header of a raw request."""
    if name.lower() in _OUR_HEADERS:
        return "is set by the gateway"
    if not HEADER_NAME.fullmatch(name):
        return "is not the name of a header"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return "has to be text of printable ASCII characters"
    if value != value.strip():
        return "must not begin or end with a space; write =trim(…)"
    return None


# What proves who we are, where the request goes and where it ends.
_OUR_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "host", "user-agent", "connection", "upgrade"),
        *("content-length", "transfer-encoding", "te", "trailer", "expect", "keep-alive"),
    }
)


def _of_values(field: str, values: Mapping[str, JSON]) -> Iterator[Violation]:
    for name, value in values.items():
        if problem := value_problem(value):
            yield Violation(field=f"{field}.{name}", problem=problem)


def value_problem(value: object) -> str | None:
    """Say what is wrong with a parameter of a raw request's query, or with a field of its form."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(each, list | tuple | dict) or each is None for each in items):
        return "has to be text, a number or a boolean, or a list of them"
    return None


def _of_raw_body(call: RawRequest) -> Iterator[Violation]:
    if call.data is not None and (call.form or call.files):
        problem = "cannot be sent together with 'form' or 'files': a request has one body"
        yield Violation(field="data", problem=problem)
    yield from _of_values("form", call.form)
    for name, contents in call.files.items():
        if not isinstance(contents, str | bytes):
            yield Violation(field=f"files.{name}", problem="has to be the file's contents as text")
    for name in call.file_names:
        if name not in call.files:
            yield Violation(field=f"file_names.{name}", problem=f"there is no file '{name}' under 'files'")


def _of_handling(call: RawRequest) -> Iterator[Violation]:
    if call.response_type not in RESPONSE_TYPES:
        yield Violation(field="response_type", problem=f"is not one of {', '.join(RESPONSE_TYPES)}")
    if call.timeout is not None and not 0 < call.timeout <= MAX_TIMEOUT:
        yield Violation(field="timeout", problem=f"has to be over 0 and at most {MAX_TIMEOUT:g} seconds")
    for name, value in call.retry.items():
        if problem := retry_problem(name, value):
            yield Violation(field=f"retry.{name}", problem=problem)


def retry_problem(name: str, value: JSON) -> str | None:
    """Say what is wrong with one setting of a raw request's `retry`."""
    if name not in RETRY_SETTINGS:
        return f"is not one of {', '.join(RETRY_SETTINGS)}"
    kind, least, most = RETRY_SETTINGS[name]
    if kind is bool:
        return None if isinstance(value, bool) else "is neither true nor false"
    if type(value) is not int or not least <= value <= most:
        return f"has to be a whole number from {least} to {most}"
    return None


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


_Judge: TypeAlias = Callable[[Any, str | None], Iterable[Violation]]
#: By the class of a call: what is wrong with it besides its address; found faster than by a `match`.
_JUDGES: dict[type[Call], _Judge] = {
    Identify: lambda call, _text: _of_identify(call),
    Track: _of_event,
    Screen: _of_event,
    Page: _of_page,
    Destroy: lambda _call, _text: (),
    Suppress: lambda _call, _text: (),
    Unsuppress: lambda _call, _text: (),
    Merge: lambda call, _text: _of_merge(call),
    AddDevice: lambda call, _text: _of_device(call),
    DeleteDevice: lambda call, _text: _of_segment("token", call.token, MAX_TEXT_BYTES),
    IdentifyObject: lambda call, _text: _of_identified_object(call),
    DeleteObject: lambda call, _text: _of_object(vars(call), ""),
    AddRelationships: lambda call, _text: _of_objects(call.objects),
    DeleteRelationships: lambda call, _text: _of_objects(call.objects),
    SubmitForm: lambda call, _text: _of_form(call),
    RawRequest: lambda call, _text: _of_raw(call),
}
