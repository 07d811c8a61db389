"""Guess how a sender proves itself: from the headers that were captured, else from the name of the source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from gateway.event import JSON
from gateway.verify import Kind, SchemeError, scheme_from, schemes


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The `verify` of a drafted file.

    Attributes:
        scheme: A name of the table, or a scheme of its own.
        origin: Where the secret comes from, for people.
        notes: What was guessed, and what to look at.
        named: The sender gives each delivery an id of its own, which the scheme knows.
        has_token: The sender shows a token of ours in its handshake.
    """

    scheme: JSON
    origin: str
    notes: tuple[str, ...]
    named: bool = False
    has_token: bool = False


_SHOWN = "the sender shows it where its webhooks are set up."
_CHOSEN = "a long random text of your own, known to the sender and to the gateway."
_LOGIN = "user:password, as the sender was told."
_ORIGINS = {"token": _CHOSEN, "basic": _LOGIN}


def verification(source: str, headers: Mapping[str, str]) -> Verification:
    """Guess the scheme of a source."""
    sent = {name.lower(): value for name, value in headers.items()}
    known = _known(source, sent)
    if known is not None:
        return known
    for name, value in headers.items():
        if _SIGNATURE.search(name.lower()) and (inline := _inline(name, value)) is not None:
            return inline
    return _token(headers) or _bearer(sent)


def trusting(verify: Verification, headers: Sequence[str]) -> Verification:
    """Have a scheme believe the headers by which events are told apart, where it signs none of them."""
    scheme = scheme_from(verify.scheme)
    unsigned: list[JSON] = [name for name in dict.fromkeys(headers) if not scheme.believes(name)]
    if not unsigned:
        return verify
    own: JSON = verify.scheme if isinstance(verify.scheme, dict) else {"base": verify.scheme}
    assert isinstance(own, dict), "made just now"
    note = "Nothing seems to sign the headers under 'trust': if the body says the same, take it from there."
    return replace(verify, scheme={**own, "trust": unsigned}, notes=(*verify.notes, note))


def variable(source: str, what: str = "WEBHOOK_SECRET") -> str:
    """Name the environment variable that holds the secret of a source, or what else it has to know."""
    name = source.upper().replace("-", "_")
    return f"{name}_{what}" if name[:1].isalpha() else f"SOURCE_{name}_{what}"


def _known(source: str, sent: Mapping[str, str]) -> Verification | None:
    """Guess a scheme of the table: that of the source's name, unless the headers speak of another sender."""
    by_header = [name for name in schemes() if _is_signed_so(name, sent)]
    by_name = next((name for name in schemes() if _is_named_so(name, source)), None)
    if by_name is not None and (by_name in by_header or not by_header):
        return _of_table(by_name, "Guessed from the name of the source.")
    if not by_header:
        return None
    # Of senders that sign alike, the one whose own header names the delivery.
    best = next((name for name in by_header if _names_delivery(name, sent)), by_header[0])
    header = next(each for each in schemes()[best].header if each.lower() in sent)
    return _of_table(best, f"Guessed from the header {header}.")


#: Schemes that belong to no sender, and headers that belong to many.
_OF_ANYBODY = frozenset((*get_args(Kind), "bearer", "authorization", "path", "query"))
_HEADERS_OF_ANYBODY = frozenset(("x-signature", "authorization"))


def _is_named_so(name: str, source: str) -> bool:
    return name not in _OF_ANYBODY and f"-{name.replace('_', '-')}-" in f"-{source}-"


def _is_signed_so(name: str, sent: Mapping[str, str]) -> bool:
    scheme = schemes()[name]
    if name in _OF_ANYBODY:
        return False
    values = [sent[each.lower()] for each in scheme.header if each.lower() in sent.keys() - _HEADERS_OF_ANYBODY]
    return any(value.lower().startswith(scheme.prefix) for value in values)


def _names_delivery(name: str, sent: Mapping[str, str]) -> bool:
    return any(all(each.lower() in sent for each in names) for names in schemes()[name].delivery_id)


def _of_table(name: str, note: str) -> Verification:
    scheme = schemes()[name]
    notes = (note, *([_ADDRESS] if scheme.signs_address else []))
    return Verification(
        scheme=name,
        origin=_ORIGINS.get(scheme.kind, _SHOWN),
        notes=notes,
        named=scheme.names_deliveries,
        has_token=scheme.asks_token,
    )


_ADDRESS = "The sender signs the address that it posts to: set GATEWAY_PUBLIC_URL to how that begins."


_SIGNATURE = re.compile(r"signature(?!-(?:timestamp|input))|hmac|-sha(?:1|256|512)$")
_LOOK = (
    "Check in the sender's documentation what is signed, with which algorithm, how it is written, and where",
    "the secret is shown; a signature that is read wrongly refuses every webhook with 401.",
)


def _inline(name: str, value: str) -> Verification | None:
    for scheme in _schemes_of(name, value.strip()):
        try:
            scheme_from(scheme)
        except SchemeError:
            continue
        notes = (f"Guessed from the header {name}, which looks like a signature.", *_LOOK)
        return Verification(scheme=scheme, origin=_SHOWN, notes=notes)
    return None


def _schemes_of(name: str, value: str) -> Iterator[dict[str, JSON]]:
    """Give schemes that could read a signature, the most exact one first."""
    scheme: dict[str, JSON] = {"kind": "hmac", "header": name}
    if (listed := _list(value)) is not None:
        yield {**scheme, **listed}
    prefix, algorithm = _PREFIX.match(value), None
    if prefix is not None:
        scheme["prefix"], value = prefix[0], value[prefix.end() :]
        algorithm = prefix[1].lower()
    yield {**scheme, **_digest(value, algorithm)}


_PREFIX = re.compile(r"(sha1|sha256|sha512)=", re.IGNORECASE)
_ITEM = re.compile(r"\s*(\w+)=(.+)")


def _list(value: str) -> dict[str, JSON] | None:
    """Read a list such as ``t=1700000000,v1=…``, which holds a time and a signature of both."""
    mark = ";" if ";" in value else ","
    items = {found[1]: found[2] for part in value.split(mark) if (found := _ITEM.fullmatch(part))}
    time = next((key for key in ("t", "ts", "timestamp") if items.get(key, "").isdigit()), None)
    key = next((key for key in items if key != time), None)
    if time is None or key is None:
        return None
    more: dict[str, JSON] = {} if mark == "," else {"items": mark}
    signed = "{ts}.{body}" if mark == "," else "{ts}:{body}"
    return {**more, "key": key, **_digest(items[key], None), "signed": signed, "timestamp": {"item": time}}


_SIZES = {40: "sha1", 64: "sha256", 128: "sha512"}
_SIZES_OF_BASE64 = {28: "sha1", 44: "sha256", 88: "sha512"}


def _digest(value: str, algorithm: str | None) -> dict[str, JSON]:
    """Tell algorithm and encoding by the length of a signature; both are as they mostly are unless it says so."""
    if re.fullmatch("[0-9a-fA-F]+", value):
        return {"algorithm": algorithm or _SIZES.get(len(value), "sha256"), "encoding": "hex"}
    is_base64 = re.fullmatch("[A-Za-z0-9+/]+={0,2}", value) is not None and len(value) in _SIZES_OF_BASE64
    by_size = _SIZES_OF_BASE64.get(len(value), "sha256")
    return {"algorithm": algorithm or by_size, "encoding": "base64" if is_base64 else "hex"}


_TOKEN = re.compile(r"^x-.*(?:token|secret|api-key)$")


def _token(headers: Mapping[str, str]) -> Verification | None:
    for name in headers:
        if _TOKEN.search(name.lower()) and "csrf" not in name.lower():
            note = f"Guessed from the header {name}: it has to hold the secret as it is."
            return Verification(scheme={"kind": "token", "header": name}, origin=_CHOSEN, notes=(note,))
    return None


def _bearer(sent: Mapping[str, str]) -> Verification:
    authorization = sent.get("authorization", "").lower()
    if authorization.startswith("basic "):
        note = "Guessed from the header Authorization; the secret is written user:password."
        return Verification(scheme="basic", origin=_LOGIN, notes=(note,))
    if authorization.startswith("bearer "):
        note = "Guessed from the header Authorization."
        return Verification(scheme="bearer", origin=_CHOSEN, notes=(note,))
    notes = (
        'Nothing captured says how the sender proves itself. This expects "Authorization: Bearer <secret>"; a',
        "sender that signs its webhooks has a scheme of its own, such as stripe, github, standard or hmac.",
    )
    return Verification(scheme="bearer", origin=_CHOSEN, notes=notes)
