"""The problems of one mapping file, and what is asked of its nodes everywhere."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import Location, Problem, Severity, did_you_mean
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar


class Diagnostics:
    """The problems of one file so far, and its lines, in which the columns of expressions are counted."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        # Keyed, because what stands behind an anchor is read once for each of its uses.
        self.problems: dict[Problem, None] = {}

    def error(self, where: Location, code: str, text: str) -> None:
        self.problems[Problem(where=where, code=code, text=text)] = None

    def warn(self, where: Location, code: str, text: str) -> None:
        self.problems[Problem(where=where, code=code, text=text, severity=Severity.WARNING)] = None

    def line(self, number: int) -> str:
        return self._lines[number - 1] if number <= len(self._lines) else ""


def is_empty(node: Node) -> bool:
    """Tell whether nothing was written, which `refuse_empty` answers wherever it occurs."""
    return isinstance(node, Scalar) and node.empty


def name_of(node: Node) -> str:
    """Read a name as it was written: one of digits only is no less a name."""
    return str(node.value) if isinstance(node, Scalar) and type(node.value) in (str, int) else ""


def place_of(node: ObjectNode, name: str) -> Location:
    value = node.get(name)
    return node.where if value is None else value.where


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no keys of its own"


def refuse_unless_absent(node: Node | None, text: str, notes: Diagnostics) -> None:
    """Refuse what is not of the kind it has to be; an empty value has been refused as such."""
    if node is not None and not is_empty(node):
        notes.error(node.where, "wrong-kind", text)


def entries_of(node: Node | None, text: str, notes: Diagnostics) -> tuple[tuple[Scalar, Node], ...]:
    """Give the entries of what has to be an object, if it is there; refuse anything else."""
    if isinstance(node, ObjectNode):
        return node.entries
    refuse_unless_absent(node, text, notes)
    return ()


def refuse_empty(node: Node, label: str, notes: Diagnostics) -> None:
    match node:
        case Scalar():
            if node.empty:
                text = f"{label} has no value; write null if a null is meant, or remove it"
                notes.error(node.where, "empty-value", text)
        case ListNode():
            for item in node.items:
                refuse_empty(item, "this item", notes)
        case ObjectNode():
            for key, value in node.entries:
                refuse_empty(value, f"'{key.value}'", notes)


def refuse_unknown_keys(node: ObjectNode, known: Iterable[str], place: str, notes: Diagnostics, hint: str = "") -> None:
    for key, _ in node.entries:
        name = str(key.value)
        if name not in known:
            text = f"unknown key {name!r} {place}{did_you_mean(name, known) or hint}"
            notes.error(key.where, "unknown-key", text)
