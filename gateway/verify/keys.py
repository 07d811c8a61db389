"""Secrets made into keys, and what is wrong with a secret. No message shows a secret."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.verify.scheme import Encoding, Scheme

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def scheme_problem(scheme: Scheme) -> str | None:
    """Return why a scheme cannot verify anything yet, or None."""
    if scheme.kind in ("none", "adyen", "braintree") or scheme.header or scheme.at:
        return None
    return (
        f"the scheme '{scheme.name}' does not know where to look; write it as an object and add `header`, "
        "the name of the header that the sender uses"
    )


def secret_problem(scheme: Scheme, secret: str) -> str | None:
    """Return why a secret cannot verify any webhook of the scheme, or None."""
    if problem := scheme_problem(scheme):
        return problem
    if scheme.kind == "none":
        return "this scheme takes no secret; remove it, or choose a scheme that checks webhooks"
    if not secret:
        return "the secret is empty; set it to the one that the sender shows or was given"
    if secret != secret.strip():
        return "the secret begins or ends with white space, which was probably copied along; remove it"
    if scheme.kind in _PAIRS and ":" not in secret:
        return f"the secret must be written {_PAIRS[scheme.kind]}"
    try:
        key = secret_key(scheme, secret)
        if not key:
            return "the secret has nothing after its prefix"
        if scheme.kind in _PUBLIC_KEYS:
            _public_key(scheme.kind, key)
    except ValueError:
        return _wrong_format(scheme)
    return None


_PAIRS = {"basic": "user:password", "braintree": "public_key:private_key"}
_PUBLIC_KEYS = {"ed25519": "an Ed25519 key", "ecdsa": "an ECDSA key on the curve P-256"}


def _wrong_format(scheme: Scheme) -> str:
    encoding = scheme.secret.encoding
    if scheme.kind in _PUBLIC_KEYS:
        form = {"base64": "base64", "hex": "hexadecimal", "utf8": "text"}[encoding]
        return f"the secret must be the sender's public key in {form}, {_PUBLIC_KEYS[scheme.kind]}"
    if encoding == "utf8":
        return "the secret is not UTF-8 text"
    after = f" after {scheme.secret.strip}" if scheme.secret.strip else ""
    return f"the secret must be {encoding}{after}; copy the whole of what the sender shows"


_QUOTES = "\"'\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"


def secret_doubt(scheme: Scheme, secrets: Sequence[str]) -> str | None:
    """Return why one of these secrets, or all, are probably not the sender's, or None."""
    # The reader of the environment has removed marks around a whole secret.
    if any(secret[0] in _QUOTES or secret[-1] in _QUOTES for secret in secrets if secret):
        return "the secret begins or ends with a quotation mark; remove it, unless the sender shows it"
    prefix = scheme.secret_prefix
    if not prefix or any(_without_version(secret).startswith(prefix) for secret in secrets):
        return None
    return f"the secret does not begin with {prefix}, as those of {scheme.name} do"


def secret_key(scheme: Scheme, secret: str) -> bytes:
    """Return the key in a secret.

    Raises:
        ValueError: The secret cannot be decoded.
    """
    text = secret.removeprefix(scheme.secret.strip)
    match scheme.secret.encoding:
        case "base64":
            return base64.b64decode(_without_version(secret).removeprefix(scheme.secret.strip), validate=True)
        case "hex":
            return binascii.unhexlify(text)
        case "utf8":
            return text.encode()


def _without_version(secret: str) -> str:
    """Return a secret without the version of the signature, which some senders write before it: v1,whsec_…"""
    return secret.removeprefix("v1,").removeprefix("v1a,")


def decode_signature(encoding: Encoding, text: str) -> bytes | None:
    """Return the bytes of a signature; None if the text is not in this encoding."""
    try:
        # Strict: text that Python would skip must not give one signature many spellings.
        return binascii.unhexlify(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except ValueError:
        return None


# Public keys. The library takes long to import and most senders share a secret, so it is imported on first use.


def public_key_accepts(scheme: Scheme, key: bytes, signature: bytes, signed: bytes) -> bool:
    """Return whether a signature of *signed* was made with the private key that belongs to *key*."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    public_key = _public_key(scheme.kind, key)
    try:
        if isinstance(public_key, EllipticCurvePublicKey):
            public_key.verify(signature, signed, ECDSA(SHA256()))
        else:
            public_key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=64)
def _public_key(kind: str, key: bytes) -> Ed25519PublicKey | EllipticCurvePublicKey:
    """Load an Ed25519 key of 32 bytes, or for `ecdsa` a key on the curve P-256 in DER.

    Raises:
        ValueError: It is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    if kind == "ed25519":
        return Ed25519PublicKey.from_public_bytes(key)
    try:
        loaded = load_der_public_key(key)
    except UnsupportedAlgorithm as error:
        raise ValueError("a key of another kind") from error
    if not isinstance(loaded, EllipticCurvePublicKey) or not isinstance(loaded.curve, SECP256R1):
        raise ValueError("a key of another kind")  # noqa: TRY004  # to callers it is a wrong value like any other
    return loaded
