"""From a call to the exact HTTP request of Customer.io's Track API, and the limits that a request must keep.

Paths, bodies and limits are those of Customer.io's OpenAPI document for the Track API, v1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from gateway.calls import Address, Call, Destroy, Identify, Page, Track, address
from gateway.events import JSON

#: The regions, and the host of each.
HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
REGION_PATH = "/api/v1/accounts/region"

MAX_ID_BYTES = 150
MAX_ATTRIBUTES = 300
MAX_ATTRIBUTE_NAME_BYTES = 150
MAX_ATTRIBUTE_VALUE_BYTES = 1_000
MAX_EVENT_NAME_BYTES = 100
MAX_EVENT_DATA_BYTES = 100_000
# Unix seconds: Customer.io takes anything else, milliseconds above all, for "now" and says nothing.
EARLIEST, LATEST = 1_000_000_000, 99_999_999_999
# Customer.io documents no limit for the address of a page or for an email; an attribute's is the nearest.
MAX_TEXT_BYTES = 1_000


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request below a region's host, without credentials."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that describe the body."""
        return {} if self.body is None else {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What Customer.io would refuse, replace or drop in a call; *field* is named as in a mapping."""

    field: str
    problem: str


def request(call: Call) -> HttpRequest:
    """Write a call as its v1 request. The call has an address and keeps the limits (see `violations`)."""
    whom = address(call)
    assert whom is not None, "a call without an address never leaves translation"
    match call:
        case Identify():
            return HttpRequest(method="PUT", path=_person(whom), body=_dump(_attributes(call, whom)))
        case Track():
            return _event(call, whom, kind="event", name=call.name)
        case Page():
            return _event(call, whom, kind="page", name=call.url)
        case Destroy():
            return HttpRequest(method="DELETE", path=_person(whom))


def violations(call: Call, *, whom: Address | None = None, text: str | None = None) -> list[Violation]:
    """Find everything in a call that Customer.io would refuse, silently replace or silently drop.

    A caller that has them at hand gives the call's address and *text*, any JSON in ASCII that holds the call:
    what that shows to be right is not looked at again.
    """
    if (text is None or _SURROGATE_ESCAPE in text) and (unwritable := list(_unwritable(call))):
        return unwritable
    found = _address_violations(call, whom or address(call))
    match call:
        case Identify():
            found += _attribute_violations(call.attributes)
        case Track():
            found += _name_violations(call.name)
            found += _data_violations(call.attributes, text)
        case Page():
            found += _url_violations(call.url)
            found += _data_violations(call.attributes, text)
        case Destroy():
            pass
    return found


def _person(whom: Address) -> str:
    named = f"cio_{whom.value}" if whom.kind == "cio_id" else whom.value
    return f"/api/v1/customers/{quote(named, safe='')}"


def _attributes(call: Identify, whom: Address) -> dict[str, JSON]:
    body: dict[str, JSON] = {}
    if call.email and call.email != whom.value:
        body["email"] = call.email
    body.update(call.attributes)
    if call.timestamp is not None:
        body["_timestamp"] = call.timestamp
    return body


def _event(call: Track | Page, whom: Address, *, kind: str, name: str) -> HttpRequest:
    body: dict[str, JSON] = {"name": name, "type": kind}
    if call.event_id is not None:
        body["id"] = call.event_id
    if call.timestamp is not None:
        body["timestamp"] = call.timestamp
    body["data"] = dict(call.attributes)
    if whom.kind == "anonymous_id":
        body["anonymous_id"] = whom.value
        return HttpRequest(method="POST", path="/api/v1/events", body=_dump(body))
    return HttpRequest(method="POST", path=f"{_person(whom)}/events", body=_dump(body))


def _dump(body: Mapping[str, JSON]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


#: How the escape of a surrogate begins, be it half of a character or one of the pair that makes a whole one.
_SURROGATE_ESCAPE = "\\ud"


def _unwritable(call: Call) -> Iterator[Violation]:
    """Text that no JSON document can hold (half of a surrogate pair) would otherwise fail while sending."""
    if _why_unwritable(vars(call)) is None:
        return  # as nearly always: one look at the whole is enough
    for field, value in vars(call).items():
        if problem := _why_unwritable(value):
            yield Violation(field=field, problem=problem)


def _why_unwritable(value: object) -> str | None:
    try:
        json.dumps(value, ensure_ascii=False, default=dict, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "holds text that is not valid Unicode"
    except ValueError:
        return "holds a number that JSON cannot write"
    return None


def _address_violations(call: Call, whom: Address | None) -> list[Violation]:
    if whom is None:
        return []
    problems = []
    if not whom.value.strip():
        problems.append("is blank; Customer.io needs to know whom the call is about")
    if whom.kind == "id" and whom.value in (".", ".."):
        # Every HTTP library folds these into the path, encoded or not: the request would go elsewhere.
        problems.append('"." and ".." cannot be sent: they change where the request goes')
    limit = MAX_ID_BYTES if whom.kind == "id" else MAX_TEXT_BYTES
    if (size := _size(whom.value)) > limit:
        problems.append(f"is {size} bytes long; Customer.io takes {limit}")
    return [Violation(field=_field_of_address(call), problem=problem) for problem in problems]


def _field_of_address(call: Call) -> str:
    return next(name for name in ("cio_id", "id", "email", "anonymous_id") if getattr(call, name, None))


def _attribute_violations(attributes: Mapping[str, JSON]) -> Iterator[Violation]:
    timestamp = attributes.get("_timestamp", LATEST)
    if type(timestamp) is not int or not EARLIEST <= timestamp <= LATEST:
        yield Violation(field="attributes._timestamp", problem="is not whole unix seconds; write unix(…)")
    if not isinstance(attributes.get("_update", True), bool):
        yield Violation(field="attributes._update", problem="is neither true nor false")
    if len(attributes) > MAX_ATTRIBUTES:
        yield Violation(
            field="attributes",
            problem=f"has {len(attributes)} attributes; Customer.io takes {MAX_ATTRIBUTES}: choose with pick(…)",
        )
    for number, (name, value) in enumerate(attributes.items(), start=1):
        if not name.strip() or _size(name) > MAX_ATTRIBUTE_NAME_BYTES:
            yield Violation(
                field="attributes",
                problem=f"the name of attribute {number} is {_size(name)} bytes long;"
                f" Customer.io takes 1 to {MAX_ATTRIBUTE_NAME_BYTES}",
            )
        elif isinstance(value, str) and _size(value) > MAX_ATTRIBUTE_VALUE_BYTES:
            yield Violation(
                field=f"attributes.{name}",
                problem=f"is {_size(value)} bytes long; Customer.io takes {MAX_ATTRIBUTE_VALUE_BYTES}:"
                " shorten it with substring(…)",
            )


def _name_violations(name: str) -> list[Violation]:
    if not name.strip():
        return [Violation(field="name", problem="is blank; Customer.io needs a name")]
    if (size := _size(name)) > MAX_EVENT_NAME_BYTES:
        problem = f"is {size} bytes long; Customer.io takes {MAX_EVENT_NAME_BYTES}"
        return [Violation(field="name", problem=problem)]
    return []


def _url_violations(url: str) -> list[Violation]:
    if url != "*" and not url.lower().startswith(("http://", "https://")):
        problem = 'is neither a full address (https://…) nor "*" for any page'
        return [Violation(field="url", problem=problem)]
    if (size := _size(url)) > MAX_TEXT_BYTES:
        return [Violation(field="url", problem=f"is {size} bytes long; at most {MAX_TEXT_BYTES} are sent")]
    return []


def _data_violations(attributes: Mapping[str, JSON], text: str | None) -> list[Violation]:
    # No JSON is longer in UTF-8 than it is in ASCII.
    if text is not None and len(text) <= MAX_EVENT_DATA_BYTES:
        return []
    if (size := len(_dump(attributes))) <= MAX_EVENT_DATA_BYTES:
        return []
    problem = f"is {size} bytes of JSON; Customer.io takes {MAX_EVENT_DATA_BYTES}: choose with pick(…)"
    return [Violation(field="attributes", problem=problem)]


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
