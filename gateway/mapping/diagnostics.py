"""Collect the problems of one mapping file, and check what every section of it checks."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import Location, Problem, Severity, did_you_mean
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar


class Diagnostics:
    """The problems found so far in one file, and the file's lines, in which columns of expressions are counted."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        # A dict, not a list: a node behind an anchor is compiled once for each alias, and reported once.
        self.problems: dict[Problem, None] = {}

    def error(self, location: Location, code: str, text: str) -> None:
        """Add an error; *text* says what is wrong and how to fix it."""
        self.problems[Problem(location=location, code=code, text=text)] = None

    def warn(self, location: Location, code: str, text: str) -> None:
        """Add a warning, which leaves the source open."""
        self.problems[Problem(location=location, code=code, text=text, severity=Severity.WARNING)] = None

    def line(self, number: int) -> str:
        """Return a line of the file, counted from 1; "" behind the last."""
        return self._lines[number - 1] if number <= len(self._lines) else ""

    def refuse_unless_absent(self, node: Node | None, text: str, code: str = "wrong-kind") -> None:
        """Report a value of the wrong kind, unless it is missing (which is fine) or empty (reported as such)."""
        if node is not None and not is_empty(node):
            self.error(node.location, code, text)

    def entries_of(self, node: Node | None, text: str) -> tuple[tuple[Scalar, Node], ...]:
        """Return the entries of an optional object; report anything else with *text*."""
        if isinstance(node, ObjectNode):
            return node.entries
        self.refuse_unless_absent(node, text)
        return ()

    def refuse_empty(self, node: Node, label: str) -> None:
        """Report every empty value in a node, at any depth."""
        match node:
            case Scalar(empty=True):
                text = f"{label} has no value; write null if a null is meant, or remove it"
                self.error(node.location, "empty-value", text)
            case ListNode():
                for item in node.items:
                    self.refuse_empty(item, "this item")
            case ObjectNode():
                for key, value in node.entries:
                    self.refuse_empty(value, f"'{key.value}'")

    def refuse_unknown_keys(self, node: ObjectNode, known: Iterable[str], place: str, hint: str = "") -> None:
        """Report keys that are not known, with the nearest known one; with *hint* where none is near."""
        for key, _ in node.entries:
            name = str(key.value)
            if name not in known:
                text = f"unknown key {name!r} {place}{did_you_mean(name, known) or hint}"
                self.error(key.location, "unknown-key", text)


def is_empty(node: Node) -> bool:
    """Return whether the value is missing; `refuse_empty` reports that, so nobody else has to."""
    return isinstance(node, Scalar) and node.empty


def is_null(node: Node | None) -> bool:
    """Return whether the word null is written."""
    return isinstance(node, Scalar) and node.value is None and not node.empty


def name_of(node: Node) -> str:
    """Return a name as it is written; "" if the node is no name. A name may consist of digits."""
    return str(node.value) if isinstance(node, Scalar) and type(node.value) in (str, int) else ""


def location_of(node: ObjectNode, name: str) -> Location:
    """Return the place of a key's value, or of the object if it has no such key."""
    value = node.get(name)
    return node.location if value is None else value.location


def listed(names: Iterable[str]) -> str:
    """Join names for a message."""
    return ", ".join(names) or "no keys of its own"
