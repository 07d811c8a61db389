"""The calls: each kind is one class with its keys, their kinds, its limits, its requests and its text for editors.

A new kind of call is one more class, named in CALLS. A new option is one more field of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from gateway.customerio.calls.addresses import IDENTIFIERS, Address, AddressKind, WorkspaceIdentifiers, resolve_person
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.devices import AddDevice, DeleteDevice
from gateway.customerio.calls.forms import SubmitForm
from gateway.customerio.calls.kinds import Key, Kind, declared_keys, field_of
from gateway.customerio.calls.objects import (
    AddRelationships,
    DeleteObject,
    DeleteRelationships,
    IdentifyAnonymous,
    IdentifyObject,
)
from gateway.customerio.calls.occurrences import Occurrence, Page, Screen, Track
from gateway.customerio.calls.people import Destroy, Identify, Merge, Suppress, Unsuppress
from gateway.customerio.calls.raw_request import RawRequest
from gateway.event import JSON

__all__ = ["CALLS", "Call", "Key", "Kind", "Occurrence", "as_json", "declared_keys", "field_of"]
__all__ += ["IDENTIFIERS", "Address", "AddressKind", "WorkspaceIdentifiers", "from_json", "resolve_person"]
__all__ += ["AddDevice", "AddRelationships", "DeleteDevice", "DeleteObject", "DeleteRelationships", "Destroy"]
__all__ += ["Identify", "IdentifyAnonymous", "IdentifyObject", "Merge", "Page", "RawRequest", "Screen", "SubmitForm"]
__all__ += ["Suppress", "Track", "Unsuppress"]

CALLS: dict[str, type[Call]] = {
    call_type.name_of_call: call_type
    for call_type in (
        *(Identify, Track, Page, Screen, Destroy, Suppress, Unsuppress, Merge, AddDevice, DeleteDevice),
        *(IdentifyObject, IdentifyAnonymous, DeleteObject, AddRelationships, DeleteRelationships),
        *(SubmitForm, RawRequest),
    )
}

#: By class and field: the key, and the default, which is left out of stored texts.
_KEYS_AND_DEFAULTS: dict[type[Call], dict[str, tuple[str, Any]]] = {
    call_type: {
        of.name: (name, of.default if of.default_factory is MISSING else of.default_factory())
        for name, of in zip(declared_keys(call_type), fields(call_type), strict=True)
    }
    for call_type in CALLS.values()
}


def as_json(call: Call) -> dict[str, JSON]:
    """Return a call as a mapping's tests and the database hold it, without what equals its default."""
    document: dict[str, Any] = {"call": call.name_of_call}
    keys_and_defaults = _KEYS_AND_DEFAULTS[type(call)]
    for field, value in vars(call).items():
        if value is None:
            continue
        if type(value) not in _SCALARS:
            value = dict(value) if isinstance(value, Mapping) else list(value)
        key, default = keys_and_defaults[field]
        if value != default:
            document[key] = value
    return document


_SCALARS = (str, int, float, bool)


def from_json(document: Mapping[str, JSON]) -> Call:
    """Return the call that `as_json` wrote."""
    values: dict[str, Any] = {field_of(name): value for name, value in document.items()}
    return CALLS[values.pop("call")](**values)
