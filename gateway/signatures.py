"""Tell whether a webhook comes from whom it says it does, by schemes that are data.

A scheme is an entry of schemes.yaml, or written in a mapping; only what data cannot say is code here.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import yaml

from gateway.errors import GatewayError, VerificationError, did_you_mean
from gateway.events import JSON, Webhook

Kind: TypeAlias = Literal["hmac", "token", "basic", "none"]
Algorithm: TypeAlias = Literal["sha1", "sha256", "sha512"]
Encoding: TypeAlias = Literal["hex", "base64"]
SecretEncoding: TypeAlias = Literal["utf8", "base64", "hex"]
Unit: TypeAlias = Literal["s", "ms", "iso"]

MAX_HEADER = 4096
MAX_CANDIDATES = 16
MAX_TOLERANCE = 7 * 86_400

#: Headers that hold a secret whatever the scheme is.
ALWAYS_SECRET = frozenset({"authorization", "proxy-authorization", "cookie"})


class SchemeError(GatewayError):
    """A scheme written in a mapping is wrong; *key* is the path of the culprit, as in ``timestamp.unit``."""

    def __init__(self, key: str | None, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class SecretForm:
    """How a secret, as the sender shows it, becomes a key: without the prefix *strip*, then decoded."""

    strip: str = ""
    encoding: SecretEncoding = "utf8"


@dataclass(frozen=True, kw_only=True)
class Timestamp:
    """Where the time of sending stands, and how old it may be.

    Attributes:
        header: The headers that may hold it; the first one sent counts.
        item: Or its name among the items of the signature header.
        tolerance: Seconds, into the past and into the future alike; None: any time will do.
    """

    header: tuple[str, ...] = ()
    item: str | None = None
    unit: Unit = "s"
    tolerance: int | None = 300


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a sender proves that a webhook is its own.

    Attributes:
        name: The entry of the table, also for a scheme of a mapping that started from it.
        header: The headers that may hold the signature or token; the first one sent counts.
        prefix: What stands in front of the signature or token, in any case of letters.
        key: The header is a list; its items called so are signatures, any one of which may match.
        items: What separates the items of the list.
        sep: What separates an item's name from its value.
        signed: What the signature covers; knows {body}, {ts}, {id}, {method}, {url} and {header.NAME}.
        delivery_id: The headers that tell a repeated webhook, several of an entry taken together; the first
            entry of which all were sent counts.
    """

    name: str
    kind: Kind
    description: str = ""
    header: tuple[str, ...] = ()
    prefix: str = ""
    key: str | None = None
    items: str = ","
    sep: str = "="
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    secret: SecretForm = SecretForm()
    signed: str = "{body}"
    timestamp: Timestamp | None = None
    delivery_id: tuple[tuple[str, ...], ...] = ()


@cache
def schemes() -> Mapping[str, Scheme]:
    """Give the table of schemes; hmac and token stand in it without the header that a mapping has to add."""
    text = resources.files("gateway").joinpath("schemes.yaml").read_text(encoding="utf-8")
    return MappingProxyType({name: _from_table(name, data) for name, data in yaml.safe_load(text).items()})


def scheme_from(data: JSON) -> Scheme:
    """Read what a mapping says: a name of the table, or an object that starts from a `base` or a `kind`.

    Raises SchemeError, for a scheme that cannot verify anything too.
    """
    scheme = _named(data, None) if isinstance(data, str) else _inline(data)
    if problem := _incomplete(scheme):
        raise SchemeError("header" if isinstance(data, dict) else None, problem)
    return scheme


def verify(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> None:
    """Raise VerificationError unless the webhook was made by somebody who knows one of the secrets.

    *now* is in unix seconds. An empty or unusable secret fails every webhook: it is never skipped.
    """
    if scheme.kind == "none":
        return
    if not secrets:
        raise VerificationError("this source has no secret to check webhooks with")
    for secret in secrets:
        if problem := secret_problem(scheme, secret):
            raise VerificationError(f"this source cannot check webhooks: {problem}")
    _VERIFIERS[scheme.kind](scheme, secrets, webhook, now)


def secret_problem(scheme: Scheme, secret: str) -> str | None:
    """Say what is wrong with a secret before any webhook comes, without showing it; None: nothing."""
    if problem := _incomplete(scheme):
        return problem
    if scheme.kind == "none":
        return "this scheme takes no secret; remove it, or choose a scheme that checks webhooks"
    if not secret:
        return "the secret is empty; set it to the one that the sender shows or was given"
    if secret != secret.strip():
        return "the secret begins or ends with white space; a line break was probably copied along"
    if scheme.kind == "basic" and ":" not in secret:
        return "the secret must be written user:password"
    try:
        return None if _key(scheme, secret) else "the secret has nothing after its prefix"
    except ValueError:
        return _undecodable(scheme)


def delivery_id(scheme: Scheme, webhook: Webhook) -> str | None:
    """Give what the sender says makes a repeated webhook the same, if it says so in headers."""
    for names in scheme.delivery_id:
        values = [webhook.headers.get(name.lower(), "") for name in names]
        if all(values):
            return " ".join(values)
    return None


def secret_headers(scheme: Scheme) -> frozenset[str]:
    """Name the headers, in lower case, that must not be kept with an event."""
    if scheme.kind not in ("token", "basic"):
        return ALWAYS_SECRET
    return ALWAYS_SECRET | {name.lower() for name in scheme.header}


# Verifying


def _verify_hmac(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float) -> None:
    name, header = _header(scheme.header, webhook)
    candidates = _candidates(scheme, name, header)
    timestamp = _checked_timestamp(scheme, name, header, webhook, now)
    signed = _signed(scheme, webhook, timestamp)
    for secret in secrets:
        expected = hmac.digest(_key(scheme, secret), signed, scheme.algorithm)
        if any(hmac.compare_digest(expected, candidate) for candidate in candidates):
            return
    raise VerificationError(
        f"no signature in the header {name} matches; the secret is not the sender's, or the body was changed"
    )


def _verify_token(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, _now: float) -> None:
    name, header = _header(scheme.header, webhook)
    # Not every white space: in a token beyond ASCII, its bytes can look like some.
    token = _without_prefix(scheme.prefix, name, header).strip(" \t")
    # A web server hands each byte of a header over as one character; a token may be those bytes, or the text.
    sent = (_as_sent(token), token.encode("utf-8", "surrogatepass"))
    if not _one_matches(secrets, sent):
        raise VerificationError(f"the token in the header {name} is not the one of this source")


def _verify_basic(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, _now: float) -> None:
    name, header = _header(scheme.header, webhook)
    credentials = _decoded("base64", _without_prefix(scheme.prefix, name, header).strip())
    if not credentials:
        raise VerificationError(f"the header {name} does not hold a user and password in base64")
    if not _one_matches(secrets, (credentials,)):
        raise VerificationError(f"the user or password in the header {name} is not the one of this source")


_VERIFIERS: Mapping[str, Callable[[Scheme, Sequence[str], Webhook, float], None]] = {
    "hmac": _verify_hmac,
    "token": _verify_token,
    "basic": _verify_basic,
}


def _one_matches(secrets: Sequence[str], sent: Iterable[bytes]) -> bool:
    keys = [secret.encode() for secret in secrets]
    return any(hmac.compare_digest(key, each) for each in sent for key in keys)


def _header(names: Sequence[str], webhook: Webhook) -> tuple[str, str]:
    for name in names:
        if value := webhook.headers.get(name.lower()):
            if len(value) > MAX_HEADER:
                raise VerificationError(f"the header {name} is longer than {MAX_HEADER} characters")
            return name, value
    raise VerificationError(f"the header {' or '.join(names)} is missing; is the secret set at the sender?")


def _without_prefix(prefix: str, name: str, value: str) -> str:
    if value[: len(prefix)].lower() != prefix.lower():
        raise VerificationError(f"the header {name} does not begin with '{prefix}'")
    return value[len(prefix) :]


def _candidates(scheme: Scheme, name: str, header: str) -> list[bytes]:
    key = scheme.key
    texts = [_without_prefix(scheme.prefix, name, header)] if key is None else _items(scheme, header, key)
    if len(texts) > MAX_CANDIDATES:
        raise VerificationError(f"the header {name} holds more than {MAX_CANDIDATES} signatures")
    candidates = [candidate for text in texts if (candidate := _decoded(scheme.encoding, text))]
    if not candidates:
        called = f" called {scheme.key}" if scheme.key else ""
        raise VerificationError(f"the header {name} holds no signature{called} in {scheme.encoding}")
    return candidates


def _items(scheme: Scheme, header: str, key: str) -> list[str]:
    items = (item.strip().partition(scheme.sep) for item in header.split(scheme.items))
    return [value.strip() for name, _, value in items if name.strip() == key]


def _decoded(encoding: Encoding, text: str) -> bytes | None:
    try:
        if encoding == "hex":
            return binascii.unhexlify(text)
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _checked_timestamp(scheme: Scheme, name: str, header: str, webhook: Webhook, now: float) -> str:
    if scheme.timestamp is None:
        return ""
    where, text = _timestamp(scheme, scheme.timestamp, name, header, webhook)
    sent_at = _seconds(text, scheme.timestamp.unit)
    if sent_at is None:
        raise VerificationError(f"the {where} is not a time in the unit that this scheme expects")
    tolerance = scheme.timestamp.tolerance
    # Asked this way round, a clock that gives NaN fails too.
    if tolerance is not None and not abs(now - sent_at) <= tolerance:
        direction = "in the future" if sent_at > now else "old"
        raise VerificationError(
            f"the {where} is {abs(now - sent_at):.0f} seconds {direction}, at most {tolerance} are allowed; "
            "is the clock of this machine right?"
        )
    return text


def _timestamp(
    scheme: Scheme, timestamp: Timestamp, name: str, header: str, webhook: Webhook
) -> tuple[str, str]:
    if timestamp.item is None:
        name, text = _header(timestamp.header, webhook)
        return f"timestamp in the header {name}", text
    found = _items(scheme, header, timestamp.item)
    if len(found) != 1:
        raise VerificationError(f"the header {name} must hold one timestamp called {timestamp.item}")
    return f"timestamp in the header {name}", found[0]


def _seconds(text: str, unit: Unit) -> float | None:
    if unit == "iso":
        return _iso_seconds(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        return None
    return int(text) / 1000 if unit == "ms" else float(text)


def _iso_seconds(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo else None


def _signed(scheme: Scheme, webhook: Webhook, timestamp: str) -> bytes:
    texts, variables = _template(scheme.signed)
    values = [_value(variable, scheme, webhook, timestamp) for variable in variables]
    return b"".join(part for pair in zip(texts, [*values, b""], strict=True) for part in pair)


def _value(variable: str, scheme: Scheme, webhook: Webhook, timestamp: str) -> bytes:
    if variable == "body":
        return webhook.body
    if name := _header_of(variable):
        return _as_sent(_header((name,), webhook)[1])
    value = {
        "ts": timestamp,
        "id": delivery_id(scheme, webhook) or "",
        "method": webhook.method,
        "url": webhook.url,
    }[variable]
    if not value:
        raise VerificationError(_MISSING[variable].format(id=_spelled(scheme.delivery_id)))
    return _as_sent(value)


_MISSING = {
    "ts": "the timestamp is missing",
    "id": "the header {id} is missing",
    "method": "the method, which this scheme signs, is not known",
    "url": "the public address, which this scheme signs, is not known; set GATEWAY_PUBLIC_URL",
}


def _spelled(alternatives: Iterable[Iterable[str]]) -> str:
    return " or ".join(" with ".join(names) for names in alternatives)


def _as_sent(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def _template(signed: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Split a template into texts and the variables between them: always one text more than variables."""
    parts = re.split(r"\{([^{}]*)\}", signed)
    return tuple(text.encode() for text in parts[::2]), tuple(parts[1::2])


def _header_of(variable: str) -> str | None:
    return variable.removeprefix("header.") if variable.startswith("header.") else None


def _key(scheme: Scheme, secret: str) -> bytes:
    """Turn a secret into the bytes that sign; raises ValueError for one that cannot be decoded."""
    text = secret.removeprefix(scheme.secret.strip)
    if scheme.secret.encoding == "base64":
        return base64.b64decode(text, validate=True)
    return binascii.unhexlify(text) if scheme.secret.encoding == "hex" else text.encode()


def _undecodable(scheme: Scheme) -> str:
    if scheme.secret.encoding == "utf8":
        return "the secret is not UTF-8 text"
    after = f" after {scheme.secret.strip}" if scheme.secret.strip else ""
    return f"the secret must be {scheme.secret.encoding}{after}; copy the whole of what the sender shows"


# Reading schemes


def _from_table(name: str, data: dict[str, JSON]) -> Scheme:
    kind = _KIND("kind", data["kind"])
    blank = Scheme(name=name, kind=kind, description=_text("description", data["description"]))
    return _changed(blank, {key: data[key] for key in data if key not in ("kind", "description")})


def _inline(data: JSON) -> Scheme:
    if not isinstance(data, dict):
        raise SchemeError(None, "a scheme is a name of the table, or an object with keys such as `kind`")
    given = [key for key in ("base", "kind") if key in data]
    if len(given) != 1:
        raise SchemeError(
            given[-1] if given else None,
            "a scheme of your own starts from either a `base`, which is a name of the table, or a `kind`, "
            f"which is {_either(get_args(Kind))}",
        )
    # The table holds each kind under its own name, with the headers that are fixed for it.
    name = data["base"] if "base" in data else _KIND("kind", data["kind"])
    return _changed(_named(name, given[0]), {key: data[key] for key in data if key not in given})


def _named(name: JSON, key: str | None) -> Scheme:
    if not isinstance(name, str) or name not in schemes():
        raise SchemeError(key, f"unknown scheme {_shown(name)}{_suggestion(name, schemes())}")
    return schemes()[name]


def _changed(start: Scheme, data: dict[str, JSON]) -> Scheme:
    read = _read(data, _KEYS[start.kind], "", f"a scheme of kind {start.kind}")
    if "secret" in read:
        read["secret"] = replace(start.secret, **read["secret"])
    if "timestamp" in read:
        read["timestamp"] = replace(start.timestamp or Timestamp(), **read["timestamp"])
    scheme = replace(start, **read)
    for key, wrong, problem in _contradictions(scheme, data):
        if wrong:
            raise SchemeError(key, problem)
    return scheme


def _read(data: Mapping[str, JSON], known: Sequence[str], path: str, what: str) -> dict[str, Any]:
    for key in data:
        if key not in known:
            raise SchemeError(path + key, f"unknown key '{key}' in {what}{_suggestion(key, known)}")
    return {key: _READERS[path + key](path + key, value) for key, value in data.items()}


def _contradictions(scheme: Scheme, data: Mapping[str, JSON]) -> Iterable[tuple[str, bool, str]]:
    listed = scheme.key is not None
    for key in ("items", "sep"):
        yield key, key in data and not listed, f"'{key}' takes a list apart; add the `key` of its signatures"
    yield (
        "prefix",
        listed and bool(scheme.prefix),
        "a header is a list with a `key`, or has a `prefix`; not both",
    )
    if time := scheme.timestamp:
        both_or_none = bool(time.header) == (time.item is not None)
        yield "timestamp", both_or_none, "a timestamp stands either in a `header` or in an `item`; give one"
        unlisted = time.item is not None and not listed
        yield "timestamp.item", unlisted, "an item is part of a list; add the `key` of its signatures"
    used = _template(scheme.signed)[1]
    yield "signed", "body" not in used, "'signed' leaves the body out, so anybody could change it; add {body}"
    yield "signed", "ts" in used and not time, "'signed' has {ts}, but no `timestamp` says where it stands"
    # A time that is not signed can be moved at will: checking its age would only look safe.
    yield "signed", bool(time) and "ts" not in used, "the timestamp is not signed; add {ts} to 'signed'"
    unnamed = "id" in used and not scheme.delivery_id
    yield "signed", unnamed, "'signed' has {id}, but no `delivery_id` names its header"


def _incomplete(scheme: Scheme) -> str | None:
    if scheme.kind == "none" or scheme.header:
        return None
    return (
        f"the scheme '{scheme.name}' does not know where to look; write it as an object and add `header`, "
        "the name of the header that the sender uses"
    )


def _delivery_id(key: str, value: JSON) -> tuple[tuple[str, ...], ...]:
    alternatives = value if isinstance(value, list) else [value]
    return tuple(_header_names(key, each) for each in alternatives)


def _header_names(key: str, value: JSON) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise SchemeError(key, f"'{key}' is an empty list; name a header")
    return tuple(_header_name(key, name) for name in names)


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _header_name(key: str, name: JSON) -> str:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise SchemeError(key, f"'{key}' must be the name of a header, such as X-Signature")
    return name


_VARIABLES = ("body", "ts", "id", "method", "url", "header.NAME")


def _signed_template(key: str, value: JSON) -> str:
    texts, variables = _template(_text(key, value))
    if any(brace in text for text in texts for brace in (b"{", b"}")):
        raise SchemeError(key, f"a brace in '{key}' has no partner; variables are written {{body}}")
    for variable in variables:
        if name := _header_of(variable):
            _header_name(key, name)
        elif variable not in _VARIABLES:
            raise SchemeError(key, f"unknown variable {{{variable}}}{_suggestion(variable, _VARIABLES)}")
    return _text(key, value)


def _tolerance(key: str, value: JSON) -> int | None:
    if value == "none":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOLERANCE:
        return value
    raise SchemeError(key, f"'{key}' is seconds from 1 to {MAX_TOLERANCE}, or the word none for any time")


def _secret(key: str, value: JSON) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemeError(
            key,
            "'secret' says how the secret is read, with the keys strip and encoding; the secret itself is "
            "in the environment, under the name that `secret_env` gives",
        )
    return _read(value, ("strip", "encoding"), "secret.", "'secret'")


def _timestamp_keys(key: str, value: JSON) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemeError(key, "'timestamp' is an object with the keys header or item, unit and tolerance")
    return _read(value, ("header", "item", "unit", "tolerance"), "timestamp.", "'timestamp'")


def _filled(key: str, value: JSON) -> str:
    if not _text(key, value):
        raise SchemeError(key, f"'{key}' must not be empty")
    return _text(key, value)


def _text(key: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise SchemeError(key, f"'{key}' must be text; quote it")
    return value


def _one_of(choices: Any) -> Callable[[str, JSON], Any]:
    known: tuple[str, ...] = get_args(choices)

    def read(key: str, value: JSON) -> Any:
        if value in known:
            return value
        raise SchemeError(
            key, f"'{key}' must be {_either(known)}, not {_shown(value)}{_suggestion(value, known)}"
        )

    return read


def _either(known: Sequence[str]) -> str:
    return f"{', '.join(known[:-1])} or {known[-1]}"


def _shown(value: JSON) -> str:
    return f"'{value}'" if isinstance(value, str) else "something that is not text"


def _suggestion(given: JSON, known: Iterable[str]) -> str:
    return did_you_mean(given, known) if isinstance(given, str) else ""


_KIND = _one_of(Kind)

_READERS: Mapping[str, Callable[[str, JSON], Any]] = {
    "header": _header_names,
    "prefix": _text,
    "key": _filled,
    "items": _filled,
    "sep": _filled,
    "algorithm": _one_of(Algorithm),
    "encoding": _one_of(Encoding),
    "secret": _secret,
    "secret.strip": _text,
    "secret.encoding": _one_of(SecretEncoding),
    "signed": _signed_template,
    "timestamp": _timestamp_keys,
    "timestamp.header": _header_names,
    "timestamp.item": _filled,
    "timestamp.unit": _one_of(Unit),
    "timestamp.tolerance": _tolerance,
    "delivery_id": _delivery_id,
}

_KEYS: Mapping[Kind, tuple[str, ...]] = {
    "hmac": tuple(key for key in _READERS if "." not in key),
    "token": ("header", "prefix", "delivery_id"),
    "basic": ("header", "prefix", "delivery_id"),
    "none": ("delivery_id",),
}
