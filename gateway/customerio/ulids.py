"""ULIDs, the ids by which Customer.io drops a repeated event: 48 bits of time and 80 more, in base 32."""

from __future__ import annotations

import hashlib
import re

_YEAR_2020 = 1_577_836_800_000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_LENGTH = 26
_ULID = re.compile(f"[0-7][{_ALPHABET}]{{25}}", re.IGNORECASE | re.ASCII)


def is_ulid(text: str) -> bool:
    """Return whether a text is a ULID, in upper or lower case."""
    return len(text) == _LENGTH and _ULID.fullmatch(text) is not None


def ulid(milliseconds: int, digest: bytes) -> str:
    """Encode a time and the first 80 bits of a hash as a ULID, in Crockford's base 32."""
    # Three numbers that fit into machine words: one number of 128 bits takes twice as long.
    time, first, second = milliseconds, int.from_bytes(digest[:5], "big"), int.from_bytes(digest[5:10], "big")
    pairs = _PAIRS
    return (
        f"{pairs[time >> 40 & 1023]}{pairs[time >> 30 & 1023]}{pairs[time >> 20 & 1023]}"
        f"{pairs[time >> 10 & 1023]}{pairs[time & 1023]}"
        f"{pairs[first >> 30]}{pairs[first >> 20 & 1023]}{pairs[first >> 10 & 1023]}{pairs[first & 1023]}"
        f"{pairs[second >> 30]}{pairs[second >> 20 & 1023]}{pairs[second >> 10 & 1023]}{pairs[second & 1023]}"
    )


def ulid_of_text(text: str) -> str:
    """Hash a text into a ULID. Raises UnicodeEncodeError for text that is no valid Unicode.

    Two webhooks with the same text may differ in everything else, also in their times, so the time of the ULID
    comes from the hash too. It lies between 2020 and May 2024, a plausible date for people who sort or read ULIDs.
    """
    digest = hashlib.sha256(text.encode()).digest()
    return ulid(_YEAR_2020 + int.from_bytes(digest[10:15], "big") % 2**37, digest)
