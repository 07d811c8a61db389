"""Write YAML for people to read: in blocks, quoted where it has to be and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from gateway.event import JSON

_PLAIN = re.compile(r"[^\W\d](?:[\w ./@+(),&%*-]|:(?=\S))*(?<! )")
#: Words that one reader of YAML or another takes for something else than text.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


def scalar(value: JSON) -> str:
    """Write one value, or an empty list or object, so that it is read back as what it is."""
    if not isinstance(value, str):
        return json.dumps(value)
    if value.isprintable() and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _quoted(value)


def _quoted(text: str) -> str:
    return "".join(each if each.isprintable() else _escape(each) for each in json.dumps(text, ensure_ascii=False))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def entry(key: str, value: JSON) -> list[str]:
    """Write a key and its value, lists and objects below it."""
    if isinstance(value, dict | list) and value:
        return [f"{scalar(key)}:", *indented(_block(value))]
    return [f"{scalar(key)}: {scalar(value)}"]


def _block(value: JSON) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in entry(key, item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in listed(_block(item))]
    return [scalar(value)]


def expression(key: str, text: str, note: str = "") -> list[str]:
    """Write a key whose value is an expression, and a note that goes with it."""
    comment = [f"# {note}"] if note else []
    if re.search(r": |:$| #", text):
        return [*comment, f"{scalar(key)}: >-", f"  ={text}"]
    return [f"{scalar(key)}: ={text}{'  ' if note else ''}{''.join(comment)}"]


def indented(lines: Iterable[str], by: str = "  ") -> list[str]:
    """Move lines to the right."""
    return [f"{by}{line}" if line else line for line in lines]


def listed(lines: list[str]) -> list[str]:
    """Make lines one item of a list."""
    return [f"- {lines[0]}", *indented(lines[1:])]


def comments(lines: Iterable[str]) -> list[str]:
    """Make lines comments."""
    return [f"# {line}".rstrip() for line in lines]
