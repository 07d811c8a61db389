"""From a call to the exact HTTP request of Customer.io's Track API: singly, or as an item of a batch.

A single request is in its v1 form where v1 has one, else it is a v2 entity. Paths and bodies are those of
Customer.io's OpenAPI documents for the Track API; what a call has to keep to is in `limits`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from gateway.customerio.calls import (
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
    Occurrence,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    ToObject,
    ToPerson,
    Track,
    Unsuppress,
    address,
    person_named,
)
from gateway.event import JSON
from gateway.text import number_text

#: The regions, and the host of each.
HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
REGION_PATH = "/api/v1/accounts/region"
ENTITY_PATH = "/api/v2/entity"
BATCH_PATH = "/api/v2/batch"

# Customer.io says "smaller than" 500 kb and 32 kb, and not whether its kb has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 499_999
MAX_ITEM_BYTES = 31_999


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request below a region's host, without credentials.

    Attributes:
        path: With the query, as it stands in the request line.
        headers: What describes the body, and what a raw request asks for.
        response_type: What the answer has to be: ``json``, ``text`` or ``binary``.
        timeout: Seconds that the attempt may take; None leaves it to the client.
        debug: Keep what is sent and answered for whoever looks into it.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    response_type: str = "json"
    timeout: float | None = None
    debug: bool = False


def request(call: Call) -> HttpRequest:
    """Write a call as its single request. The call has an address and keeps the limits."""
    match call:
        case RawRequest():
            return _raw(call)
        case Merge():
            body = {"primary": _identifiers(call.into), "secondary": _identifiers(call.from_)}
            return _json("POST", "/api/v1/merge_customers", body)
        case IdentifyObject() | DeleteObject():
            return _json("POST", ENTITY_PATH, _object_operation(call))
        case AddRelationships() | DeleteRelationships():
            return _json("POST", ENTITY_PATH, _relationships_operation(call, _whom(call)))
        case _:
            return _to_person(call, _whom(call))


def item(call: Call) -> bytes | None:
    """Write a call as an item of a batch; None: it has no v2 form that says the same, or one that is too large."""
    found = operation(call)
    if found is None:
        return None
    written = dump(found)
    return written if len(written) <= MAX_ITEM_BYTES else None


def batch(items: Iterable[bytes]) -> HttpRequest:
    """Write several items as one request. Their sizes keep to `batch_size`."""
    body = b'{"batch":[' + b",".join(items) + b"]}"
    return HttpRequest(method="POST", path=BATCH_PATH, body=body, headers=dict(_JSON))


def batch_size(sizes: Sequence[int]) -> int:
    """Tell how many bytes the body of a batch of items of these sizes has."""
    return len('{"batch":[]}') + sum(sizes) + max(len(sizes) - 1, 0)


def operation(call: Call) -> dict[str, JSON] | None:
    """Write a call in its v2 form; None: it has none, or none of which is known that it says the same."""
    match call:
        case RawRequest() | SubmitForm():
            return None
        case Merge():
            primary, secondary = _identifiers(call.into), _identifiers(call.from_)
            return {"type": "person", "action": "merge", "primary": primary, "secondary": secondary}
        case IdentifyObject() | DeleteObject():
            return _object_operation(call)
        case AddRelationships() | DeleteRelationships():
            return _relationships_operation(call, _whom(call))
        case _:
            return _person_operation(call, _whom(call))


def _whom(call: Call) -> Address:
    whom = address(call)
    assert whom is not None, "a call without an address never leaves translation"
    return whom


def _identifiers(named: Mapping[str, Any]) -> JSON:
    whom = person_named(named)
    assert whom is not None, "what names nobody never leaves translation"
    return {whom.kind: whom.value}


# v1


def _to_person(call: ToPerson, whom: Address) -> HttpRequest:
    match call:
        case Identify():
            return _json("PUT", _person(whom), _profile(call, whom))
        case Track() | Page() | Screen():
            return _event(call, whom)
        case Destroy():
            return HttpRequest(method="DELETE", path=_person(whom))
        case Suppress() | Unsuppress():
            return _json("POST", f"{_person(whom)}/{call.name_of_call}", {})
        case AddDevice():
            device = {"id": call.token, **_device(call)}
            return _json("PUT", f"{_person(whom)}/devices", {"device": device})
        case DeleteDevice():
            return HttpRequest(method="DELETE", path=f"{_person(whom)}/devices/{_segment(call.token)}")
        case SubmitForm():
            return _form(call, whom)
    raise AssertionError(f"{call.name_of_call} has no v1 form")


def _segment(text: str) -> str:
    return quote(text, safe="")


def _person(whom: Address) -> str:
    return f"/api/v1/customers/{_segment(f'cio_{whom.value}' if whom.kind == 'cio_id' else whom.value)}"


def _profile(call: Identify, whom: Address) -> dict[str, JSON]:
    body: dict[str, JSON] = {}
    if call.email and call.email != whom.value:
        body["email"] = call.email
    body.update(call.attributes)
    if call.timestamp is not None:
        body["_timestamp"] = call.timestamp
    return body


def _event(call: Occurrence, whom: Address) -> HttpRequest:
    body = {"name": _name(call), "type": _kind(call), **_moment(call), "data": dict(call.attributes)}
    if whom.kind == "anonymous_id":
        return _json("POST", "/api/v1/events", {**body, "anonymous_id": whom.value})
    return _json("POST", f"{_person(whom)}/events", body)


def _name(call: Occurrence) -> str:
    return call.url if isinstance(call, Page) else call.name


def _kind(call: Occurrence) -> str:
    return "event" if isinstance(call, Track) else call.name_of_call


def _moment(call: Occurrence) -> dict[str, JSON]:
    told: dict[str, JSON] = {}
    if call.event_id is not None:
        told["id"] = call.event_id
    if call.timestamp is not None:
        told["timestamp"] = call.timestamp
    return told


def _device(call: AddDevice) -> dict[str, JSON]:
    told: dict[str, JSON] = {"platform": call.platform}
    if call.last_used is not None:
        told["last_used"] = call.last_used
    if call.attributes:
        told["attributes"] = dict(call.attributes)
    return told


def _form(call: SubmitForm, whom: Address) -> HttpRequest:
    # Here the key tells the kind of an identifier, so no "cio_" in it means anything.
    named: dict[str, JSON] = {"email": whom.value} if whom.kind == "email" else {"id": call.id or call.email}
    return _json("POST", f"/api/v1/forms/{_segment(call.form_id)}/submit", {"data": {**call.attributes, **named}})


# v2

# Of these, what they do in v2's attributes is not documented, or differs from v1's.
_V1_ONLY = frozenset({"id", "cio_id", "anonymous_id", "cio_relationships"})


def _person_operation(call: ToPerson, whom: Address) -> dict[str, JSON] | None:
    head: dict[str, JSON] = {"type": "person", "identifiers": {whom.kind: whom.value}}
    match call:
        case Identify():
            if not _V1_ONLY.isdisjoint(call.attributes):
                return None
            profile = _profile(call, whom)
            moment = profile.pop("_timestamp", None)
            dated: dict[str, JSON] = {} if moment is None else {"timestamp": moment}
            return {**head, "action": "identify", "attributes": profile, **dated}
        case Track() | Page() | Screen():
            told = {"name": _name(call), **_moment(call), "attributes": dict(call.attributes)}
            return {**head, "action": _kind(call), **told}
        case Destroy():
            return {**head, "action": "delete"}
        case AddDevice():
            return {**head, "action": "add_device", "device": {"token": call.token, **_device(call)}}
        case DeleteDevice():
            return {**head, "action": "delete_device", "device": {"token": call.token}}
        case _:
            return {**head, "action": call.name_of_call}


def _relationships_operation(call: AddRelationships | DeleteRelationships, whom: Address) -> dict[str, JSON]:
    related = [_relationship(_object(each), each) for each in call.objects]
    head: dict[str, JSON] = {"type": "person", "identifiers": {whom.kind: whom.value}}
    return {**head, "action": call.name_of_call, "cio_relationships": related}


def _object_operation(call: ToObject) -> dict[str, JSON]:
    head: dict[str, JSON] = {"type": "object", "identifiers": _object(vars(call))}
    if isinstance(call, DeleteObject):
        return {**head, "action": "delete"}
    told: dict[str, JSON] = {"action": "identify", "attributes": dict(call.attributes)}
    if call.people:
        told["cio_relationships"] = [_relationship(_identifiers(each), each) for each in call.people]
    return {**head, **told}


def _object(named: Mapping[str, Any]) -> JSON:
    return {"object_type_id": named["object_type_id"], "object_id": named["object_id"]}


def _relationship(identifiers: JSON, told: Mapping[str, JSON]) -> JSON:
    attributes = told.get("attributes")
    return {"identifiers": identifiers, **({"relationship_attributes": attributes} if attributes else {})}


# Raw requests


def _raw(call: RawRequest) -> HttpRequest:
    body, described = _raw_body(call)
    own = {name.lower() for name in call.headers}
    described = {name: value for name, value in described.items() if name.lower() not in own}
    query = urlencode(list(_pairs(call.query)), quote_via=quote)
    return HttpRequest(
        method=call.method or ("GET" if body is None else "POST"),
        path="/api" + quote(call.path, safe=_PATH_SAFE) + (f"?{query}" if query else ""),
        body=body,
        headers={**described, **call.headers},
        response_type=call.response_type,
        timeout=call.timeout,
        debug=call.debug,
    )


# What may stand in a path as it is; of the percent sign the limits make sure that it begins an escape.
_PATH_SAFE = "/%:@!$&'()*+,;=~"


def _raw_body(call: RawRequest) -> tuple[bytes | None, dict[str, str]]:
    if call.form or call.files:
        return _multipart(call)
    if isinstance(call.data, str):
        return call.data.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    return (None, {}) if call.data is None else (dump(call.data), dict(_JSON))


def _pairs(named: Mapping[str, JSON]) -> Iterator[tuple[str, str]]:
    """Go through names and values, once for each item of a list."""
    for name, value in named.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            yield name, plain_text(each)


def plain_text(value: JSON) -> str:
    """Write out a text, number, boolean or null for a query or a form."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if value is None or isinstance(value, bool) else number_text(value)  # type: ignore[arg-type]  # the limits refuse lists and objects


def _multipart(call: RawRequest) -> tuple[bytes, dict[str, str]]:
    parts = [_part(f'name="{_quoted(name)}"', value.encode()) for name, value in _pairs(call.form)]
    for name, contents in call.files.items():
        file_name = call.file_names.get(name, name)
        content = contents.encode() if isinstance(contents, str) else contents
        disposition = f'name="{_quoted(name)}"; filename="{_quoted(file_name)}"'
        parts.append(_part(disposition, content, "Content-Type: application/octet-stream\r\n"))
    # Made of what it stands between, so that the same request has the same bytes: nothing can hold a hash of itself.
    boundary = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32].encode()
    body = b"".join(b"--" + boundary + b"\r\n" + part for part in parts) + b"--" + boundary + b"--\r\n"
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary.decode()}"}


def _part(disposition: str, content: bytes, described: str = "") -> bytes:
    return f"Content-Disposition: form-data; {disposition}\r\n{described}\r\n".encode() + content + b"\r\n"


def _quoted(name: str) -> str:
    """Escape a name the way browsers do (HTML, "multipart/form-data encoding algorithm")."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


_JSON = {"Content-Type": "application/json"}


def _json(method: str, path: str, body: JSON) -> HttpRequest:
    return HttpRequest(method=method, path=path, body=dump(body), headers=dict(_JSON))


def dump(body: JSON) -> bytes:
    """Write JSON as it is sent."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
