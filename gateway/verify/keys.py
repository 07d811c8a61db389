"""Secrets, as a sender shows them, made into keys."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.verify.scheme import Encoding, Scheme

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def secret_problem(scheme: Scheme, secret: str) -> str | None:
    """Say what is wrong with a secret before any webhook comes, without showing it; None: nothing."""
    if problem := incomplete(scheme):
        return problem
    if scheme.kind == "none":
        return "this scheme takes no secret; remove it, or choose a scheme that checks webhooks"
    if not secret:
        return "the secret is empty; set it to the one that the sender shows or was given"
    if secret != secret.strip():
        return "the secret begins or ends with white space; a line break was probably copied along"
    if scheme.kind in _PAIRS and ":" not in secret:
        return f"the secret must be written {_PAIRS[scheme.kind]}"
    try:
        if not key_of(scheme, secret):
            return "the secret has nothing after its prefix"
        _load(scheme, secret)
    except ValueError:
        return _unusable(scheme)
    return None


def secret_doubt(scheme: Scheme, secrets: Iterable[str]) -> str | None:
    """Say why none of these secrets is of the sender's kind, without showing any; None: nothing speaks against it."""
    prefix = scheme.secret_prefix
    if not prefix or any(secret.startswith(prefix) for secret in secrets):
        return None
    return f"the secret does not begin with {prefix}, as those of {scheme.name} do"


_PAIRS = {"basic": "user:password", "braintree": "public_key:private_key"}


def incomplete(scheme: Scheme) -> str | None:
    """Say why a scheme cannot verify anything yet."""
    if scheme.kind == "none" or scheme.header or scheme.at or scheme.kind in ("adyen", "braintree"):
        return None
    return (
        f"the scheme '{scheme.name}' does not know where to look; write it as an object and add `header`, "
        "the name of the header that the sender uses"
    )


def key_of(scheme: Scheme, secret: str) -> bytes:
    """Turn a secret into the bytes that sign; raises ValueError for one that cannot be decoded."""
    text = secret.removeprefix(scheme.secret.strip)
    if scheme.secret.encoding == "base64":
        return base64.b64decode(text, validate=True)
    return binascii.unhexlify(text) if scheme.secret.encoding == "hex" else text.encode()


# What signs with a private key needs a library that takes time to load; most senders share a secret.


@lru_cache(maxsize=64)
def ed25519_key(key: bytes) -> Ed25519PublicKey:
    """Load a public key of 32 bytes; raises ValueError for anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(key)


@lru_cache(maxsize=64)
def ecdsa_key(key: bytes) -> EllipticCurvePublicKey:
    """Load a public key on the curve P-256, as DER; raises ValueError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        loaded = load_der_public_key(key)
    except UnsupportedAlgorithm as error:
        raise ValueError("a key of another kind") from error
    if not isinstance(loaded, EllipticCurvePublicKey) or not isinstance(loaded.curve, SECP256R1):
        raise ValueError("a key of another kind")  # noqa: TRY004  # to callers it is a wrong value, as any other
    return loaded


def decoded(encoding: Encoding, text: str) -> bytes | None:
    """Read a signature as it is written; None for one that is not."""
    try:
        if encoding == "hex":
            return binascii.unhexlify(text)
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _load(scheme: Scheme, secret: str) -> None:
    if scheme.kind == "ed25519":
        ed25519_key(key_of(scheme, secret))
    elif scheme.kind == "ecdsa":
        ecdsa_key(key_of(scheme, secret))


def _unusable(scheme: Scheme) -> str:
    if scheme.kind in ("ed25519", "ecdsa"):
        names = {"ed25519": "an Ed25519 key", "ecdsa": "an ECDSA key on the curve P-256"}
        form = {"base64": "base64", "hex": "hexadecimal", "utf8": "text"}[scheme.secret.encoding]
        return f"the secret must be the sender's public key in {form}, {names[scheme.kind]}"
    if scheme.secret.encoding == "utf8":
        return "the secret is not UTF-8 text"
    after = f" after {scheme.secret.strip}" if scheme.secret.strip else ""
    return f"the secret must be {scheme.secret.encoding}{after}; copy the whole of what the sender shows"
