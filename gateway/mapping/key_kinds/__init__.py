"""The kinds of keys that a call takes, one class each: how a key is compiled, evaluated and shown to editors.

A new kind is a member of `Kind`, a class in one of these modules, and its line in `KEY_KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.customerio.calls import IDENTIFIERS, Key, Kind
from gateway.mapping.key_kinds.expression_keys import (
    IdentifierKey,
    ObjectKey,
    ObjectOfTextsKey,
    OptionalIdKey,
    ReferenceKey,
    TimestampKey,
)
from gateway.mapping.key_kinds.key_kind import KeyKind
from gateway.mapping.key_kinds.literal_keys import FlagKey, NoteKey, RetryKey, SecondsKey, TextKey
from gateway.mapping.key_kinds.object_keys import (
    AttributesKey,
    DataKey,
    FilesKey,
    HeadersKey,
    MembersKey,
    ParametersKey,
    PersonKey,
    TextAttributesKey,
)
from gateway.mapping.model import SPECS

KEY_KINDS: dict[Kind, type[KeyKind]] = {
    Kind.IDENTIFIER: IdentifierKey,
    Kind.PERSON: PersonKey,
    Kind.REFERENCE: ReferenceKey,
    Kind.TEXT: TextKey,
    Kind.EVENT_ID: OptionalIdKey,
    Kind.TIMESTAMP: TimestampKey,
    Kind.ATTRIBUTES: AttributesKey,
    Kind.TEXTS: TextAttributesKey,
    Kind.OBJECT: ObjectKey,
    Kind.OBJECT_OF_TEXTS: ObjectOfTextsKey,
    Kind.MEMBERS: MembersKey,
    Kind.HEADERS: HeadersKey,
    Kind.PARAMETERS: ParametersKey,
    Kind.FILES: FilesKey,
    Kind.DATA: DataKey,
    Kind.NOTE: NoteKey,
    Kind.SECONDS: SecondsKey,
    Kind.FLAG: FlagKey,
    Kind.RETRY: RetryKey,
}


def build_keys(keys: Mapping[str, Key]) -> dict[str, KeyKind]:
    """Return the keys of a call, or of its members, each as its kind handles it."""
    return {name: KEY_KINDS[key.kind](name, key, build_keys(key.keys)) for name, key in keys.items()}


#: The keys of each call, by its name.
CALL_KEYS: dict[str, dict[str, KeyKind]] = {spec.name: build_keys(spec.keys) for spec in SPECS.values()}
#: What a file's `defaults` may hold.
DEFAULT_KEYS: dict[str, KeyKind] = build_keys(
    {name: key for name, key in SPECS["track"].keys.items() if name in (*IDENTIFIERS, "timestamp")}
)
