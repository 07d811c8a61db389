"""Functions for hashes and encodings."""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from urllib.parse import quote

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import limit_text
from gateway.mapping.functions.table import SLOWLY, Group, text
from gateway.payload import utf8

function = Group("hash, encode")


@function(
    text("s"),
    example=(
        "sha256(email)",
        {"email": "ada@example.com"},
        "b5fc85e55755f9e0d030a10ab4429b6b2944855f9a0d60077fe832becbc41d72",
    ),
)
def sha256(s: str) -> JSON:
    """The SHA-256 of a text (as UTF-8) in hexadecimal digits."""
    return hashlib.sha256(utf8(s)).hexdigest()


@function(text("s"), example=("md5(id)", {"id": "42"}, "a1d0c6e83f027327d8461063f4ac58a6"))
def md5(s: str) -> JSON:
    """The MD5 of a text (as UTF-8) in hexadecimal digits."""
    return hashlib.md5(utf8(s), usedforsecurity=False).hexdigest()


@function(text("s"), example=("base64(name)", {"name": "Ada"}, "QWRh"))
def base64(s: str) -> JSON:
    """A text (as UTF-8) encoded in base64."""
    limit_text("base64", len(s))
    return b64encode(utf8(s)).decode("ascii")


@function(text("s"), example=("base64_decode(name)", {"name": "QWRh"}, "Ada"))
def base64_decode(s: str) -> JSON:
    """A text decoded from base64, in the standard or the URL alphabet, with or without padding."""
    bare = s.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode("utf-8")
    except UnicodeDecodeError:
        raise ExpressionError("base64_decode() found bytes that are not text in UTF-8") from None
    except (binascii.Error, ValueError):
        raise ExpressionError("base64_decode() cannot read this text as base64") from None


@function(text("s"), stride=SLOWLY, example=("url_encode(name)", {"name": "Ada & co"}, "Ada%20%26%20co"))
def url_encode(s: str) -> JSON:
    """A text encoded for a URL: all characters but letters, digits and -._~ are escaped."""
    limit_text("url_encode", len(s))
    return quote(utf8(s), safe="")


@function(text("s"), stride=SLOWLY, example=("url_decode(name)", {"name": "Ada%20%26%20co"}, "Ada & co"))
def url_decode(s: str) -> JSON:
    """A text decoded from a URL; "+" stays as it is."""
    try:
        return _ESCAPES.sub(lambda match: bytes.fromhex(match[0].replace(b"%", b"").decode()), utf8(s)).decode()
    except UnicodeDecodeError:
        raise ExpressionError("url_decode() found bytes that are not text in UTF-8") from None


_ESCAPES = re.compile(rb"(?:%[0-9A-Fa-f]{2})+")
