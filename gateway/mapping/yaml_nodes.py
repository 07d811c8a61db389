"""Read YAML so that every value keeps its place and scalars mean what JSON means.

Plain `true`, `false`, `null` and JSON numbers are typed; everything else (`no`, `12:30`, `010`,
`2026-01-02`, anything quoted) is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol, TypeAlias

import yaml

from gateway.errors import Location, MappingError, Problem
from gateway.event import JSON

MAX_DEPTH = 64
MAX_EXPANDED = 10_000  # nodes that all aliases of a file may stand for together
_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value that is not a list or an object.

    Attributes:
        quoted: It was written in quotes or as a block, so it is text whatever it looks like.
        empty: Nothing or `~` was written (the value is then None); the word null is not empty.
    """

    where: Location
    value: bool | int | float | str | None
    quoted: bool
    empty: bool


@dataclass(frozen=True, kw_only=True)
class ListNode:
    """A list."""

    where: Location
    items: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class ObjectNode:
    """An object: no key occurs twice, and the value of a key is the key's text as it was written."""

    where: Location
    entries: tuple[tuple[Scalar, Node], ...]

    def get(self, name: str) -> Node | None:
        """Find the value of a key."""
        return next((value for key, value in self.entries if key.value == name), None)


Node: TypeAlias = Scalar | ListNode | ObjectNode


def read(text: str, file: str) -> Node:
    """Read the one YAML document of *text*; *file* is its name in places.

    Raises MappingError: holds all problems up to the first that is not YAML at all, so every duplicate key.
    """
    text = text.removeprefix("\ufeff")
    _refuse_control_characters(text, file)
    builder = _Builder(text, file)
    try:
        node = builder.document()
    except yaml.YAMLError as error:
        raise MappingError([*builder.problems, _syntax_problem(error, text, file)]) from None
    if builder.problems:
        raise MappingError(sorted(builder.problems, key=lambda problem: problem.where))
    return node


def plain(node: Node) -> JSON:
    """Turn a node into plain data."""
    match node:
        case Scalar():
            return node.value
        case ListNode():
            return [plain(item) for item in node.items]
        case ObjectNode():
            return {str(key.value): plain(value) for key, value in node.entries}


_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_ODD_BLANK = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff]")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def _refuse_control_characters(text: str, file: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found is None:
        return
    before = _LINE_BREAK.split(text[: found.start()])
    where = Location(file=file, line=len(before), column=len(before[-1]) + 1)
    problem = f"character U+{ord(found.group()):04X} is not allowed in a file; remove it"
    raise MappingError([Problem(where=where, code="yaml", text=problem)])


_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Mark(Protocol):
    """A position of either parser, the one in C or the one in Python; counts from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class _Builder:
    """Builds nodes out of the parser's events, so that depth and aliases are bounded first."""

    def __init__(self, text: str, file: str) -> None:
        self.problems: list[Problem] = []
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_Loader))
        self._file = file
        self._anchors: dict[str, Node | None] = {}  # None: still being built
        self._sizes: dict[int, tuple[int, int, Node]] = {}  # the node too, so that its id stays its own
        self._expanded = 0

    def document(self) -> Node:
        self._next()  # the start of the stream
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            self._stop(start, "empty", "the file is empty; it starts with  version: 1")
        node = self._node(self._next(), depth=1)
        self._next()  # the end of the document
        after = self._next()
        if isinstance(after, yaml.DocumentStartEvent):
            self._stop(after, "yaml", "a second document starts here; a mapping file holds one")
        if isinstance(node, Scalar) and node.empty:
            self._stop(start, "empty", "the file is empty; it starts with  version: 1")
        return node

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if depth > MAX_DEPTH:
            self._stop(event, "too-deep", _TOO_DEEP)
        self._refuse_tag(event)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._untagged(event, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _untagged(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(event, depth)
        return self._object(event, depth)

    def _list(self, start: yaml.Event, depth: int) -> ListNode:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return ListNode(where=self._where(start), items=tuple(items))

    def _object(self, start: yaml.Event, depth: int) -> ObjectNode:
        entries: list[tuple[Scalar, Node]] = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            entries.append((self._key(event, entries), self._node(self._next(), depth + 1)))
        if getattr(start, "flow_style", False):
            self._find_split_expression(entries)
        entries = self._merged(self._unique(entries))
        return ObjectNode(where=self._where(start), entries=tuple(entries))

    def _key(self, event: yaml.Event, before: list[tuple[Scalar, Node]]) -> Scalar:
        if isinstance(event, yaml.AliasEvent):
            self._stop(event, "yaml", f'"*" starts a YAML alias; quote the key: "*{event.anchor}"')
        if not isinstance(event, yaml.ScalarEvent):
            if before and _is_cut_expression(before[-1][1]):
                self._stop(event, "unquoted-expression", _COMMA)
            self._stop(event, "yaml", "a key must be text; quote a value that contains { } or [ ]")
        self._refuse_tag(event)
        if not event.value and not event.style:
            self._stop(event, "yaml", 'a key is missing before ":"')
        key = Scalar(where=self._content_start(event), value=event.value, quoted=bool(event.style), empty=False)
        if not key.quoted and (odd := _ODD_BLANK.match(event.value)):
            text = f"this line starts with U+{ord(odd.group()):04X}, which only looks like a space"
            self._stop(event, "yaml", f"{text}; type the spaces again")
        if not key.quoted and _is_cut(key.value):  # as in  - =items[].{sku: sku}
            self.problems.append(Problem(where=key.where, code="yaml", text=_COLON))
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        quoted = bool(event.style)
        where = self._content_start(event)
        if quoted:
            return Scalar(where=where, value=event.value, quoted=True, empty=False)
        if event.value in ("", "~"):
            return Scalar(where=where, value=None, quoted=False, empty=True)
        value = _typed(event.value)
        if isinstance(value, float) and math.isinf(value):
            text = "this number is too large; if text is meant, quote it"
            self.problems.append(Problem(where=where, code="number", text=text))
        return Scalar(where=where, value=value, quoted=False, empty=False)

    def _unique(self, entries: list[tuple[Scalar, Node]]) -> list[tuple[Scalar, Node]]:
        first: dict[str, tuple[Scalar, Node]] = {}
        for key, value in entries:
            name = str(key.value)
            if name in first:
                text = f"duplicate key {name!r} (first on line {first[name][0].where.line})"
                self.problems.append(Problem(where=key.where, code="duplicate-key", text=text))
            else:
                first[name] = (key, value)
        return list(first.values())

    def _merged(self, entries: list[tuple[Scalar, Node]]) -> list[tuple[Scalar, Node]]:
        seen = {key.value for key, _ in entries if not _is_merge(key)}
        merged: list[tuple[Scalar, Node]] = []
        for key, value in entries:
            if not _is_merge(key):
                merged.append((key, value))
                continue
            for entry in self._sources(key, value):
                if entry[0].value not in seen:
                    seen.add(entry[0].value)
                    merged.append(entry)
        return merged

    def _sources(self, key: Scalar, value: Node) -> list[tuple[Scalar, Node]]:
        sources = value.items if isinstance(value, ListNode) else (value,)
        objects = [source for source in sources if isinstance(source, ObjectNode)]
        if len(objects) != len(sources):
            text = "<< takes an object, or a list of objects"
            self.problems.append(Problem(where=key.where, code="merge-key", text=text))
        return [entry for source in objects for entry in source.entries]

    def _find_split_expression(self, entries: list[tuple[Scalar, Node]]) -> None:
        """Tell a stray key in { } that is really what follows a comma inside an unquoted expression."""
        after_expression = False
        for key, value in entries:
            nothing = isinstance(value, Scalar) and value.empty
            if nothing and not key.quoted and (after_expression or _is_unbalanced(str(key.value))):
                text = f"'{key.value}' is not a key: {_COMMA}"
                self.problems.append(Problem(where=key.where, code="unquoted-expression", text=text))
                return
            after_expression = _is_cut_expression(value)

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        if event.anchor not in self._anchors:
            text = f'"*" starts a YAML alias, and there is no anchor &{event.anchor}; if text is meant, quote it'
            self._stop(event, "yaml", text)
        node = self._anchors[event.anchor]
        if node is None:
            self._stop(event, "recursive-alias", f"*{event.anchor} stands inside what it stands for")
        size, height, _ = self._measured(node)
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            self._stop(event, "too-large", f"the aliases of this file stand for more than {MAX_EXPANDED:,} values")
        if depth + height - 1 > MAX_DEPTH:
            self._stop(event, "too-deep", _TOO_DEEP)
        return node

    def _measured(self, node: Node) -> tuple[int, int, Node]:
        """Count the values that a node stands for and its levels, however often parts of it are shared."""
        if id(node) not in self._sizes:
            below = [self._measured(child) for child in _children(node)]
            size = 1 + sum(size for size, _, _ in below)
            self._sizes[id(node)] = (size, 1 + max((height for _, height, _ in below), default=0), node)
        return self._sizes[id(node)]

    def _refuse_tag(self, event: yaml.Event) -> None:
        if getattr(event, "tag", None) is not None:
            self._stop(event, "yaml-tag", _TAG)

    def _content_start(self, event: yaml.ScalarEvent) -> Location:
        """Skip an anchor: offsets into a plain text are counted from its first character."""
        start = self._where(event)
        end = _place(event.end_mark, self._file)
        if event.anchor is None or event.style or start.line != end.line:
            return start
        return replace(end, column=end.column - len(event.value))

    def _where(self, event: yaml.Event) -> Location:
        return _place(event.start_mark, self._file)

    def _stop(self, event: yaml.Event, code: str, text: str) -> NoReturn:
        problem = Problem(where=self._where(event), code=code, text=text)
        raise MappingError(sorted([*self.problems, problem], key=lambda problem: problem.where))


_TAG = '"!" starts a YAML tag; write =!(…)'
_COMMA = "an expression with a comma inside { } must be quoted"
_COLON = 'an expression that contains ": " must be quoted, or written {sku:sku}'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def _typed(text: str) -> bool | int | float | str | None:
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    value = float(text)
    # An integer beyond the range of a float stays infinite here, and is refused like 1e999.
    return value if number.group(1) or number.group(2) or math.isinf(value) else int(text)


def _is_merge(key: Scalar) -> bool:
    return key.value == "<<" and not key.quoted


def _children(node: Node) -> list[Node]:
    if isinstance(node, ListNode):
        return list(node.items)
    return [value for _, value in node.entries] if isinstance(node, ObjectNode) else []


def _is_cut(value: object) -> bool:
    return isinstance(value, str) and value.startswith("=") and _is_unbalanced(value)


def _is_cut_expression(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.quoted and _is_cut(node.value)


def _is_unbalanced(text: str) -> bool:
    return any(text.count(opening) != text.count(closing) for opening, closing in ("()", "[]", "{}"))


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    where = _place(getattr(error, "problem_mark", None), file)
    said = ": ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    before, at = _split_line(text, where)
    found = next((each for each in _EXPLANATIONS if each.fits(said, before, at)), None)
    if found is None:
        return Problem(where=where, code="yaml", text=f"this is not YAML: {said}")
    opening = getattr(error, "context_mark", None)
    if found.opening and opening is not None:
        where = _place(opening, file)
    return Problem(where=where, code=found.code, text=found.text)


def _place(mark: _Mark | None, file: str) -> Location:
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    return Location(file=file, line=line + 1, column=column + 1)


def _split_line(text: str, where: Location) -> tuple[str, str]:
    lines = _LINE_BREAK.split(text)
    line = lines[where.line - 1] if where.line <= len(lines) else ""
    return line[: where.column - 1], line[where.column - 1 : where.column]


@dataclass(frozen=True, kw_only=True)
class _Explanation:
    """What a syntax error means in plain words.

    Attributes:
        said: A pattern of what the parser says; the one in C and the one in Python word it differently.
        before: A pattern of the line up to where the parser stopped.
        at: A pattern of the character that it stopped at; "^$" is the end of the line.
        opening: The place to show is where the thing began rather than where the parser stopped.
    """

    said: str
    before: str = ""
    at: str = ""
    opening: bool = False
    code: str = "yaml"
    text: str

    def fits(self, said: str, before: str, at: str) -> bool:
        return all(
            re.search(pattern, seen) for pattern, seen in ((self.said, said), (self.before, before), (self.at, at))
        )


_EXPLANATIONS = (
    # Where the parser in C reads ahead it meets a bound of its own before ours.
    _Explanation(said="maximum nesting depth", code="too-deep", text=_TOO_DEEP),
    _Explanation(said="(?:scanning|parsing) a tag|undefined tag", opening=True, code="yaml-tag", text=_TAG),
    _Explanation(
        said="scanning an alias",
        opening=True,
        text='"*" starts a YAML alias; if text is meant, quote it, as in  "*.created":',
    ),
    _Explanation(said="scanning an anchor", opening=True, text='"&" starts a YAML anchor; if text is meant, quote it'),
    _Explanation(
        said="mapping values are not allowed",
        before=r"(?:^|[:-]) *=[^'\"`]* \? ",
        code="expression",
        text="bad expression: a choice is written if(condition, then, otherwise)",
    ),
    _Explanation(said="mapping values are not allowed", before="(?:^|[:-]) *=", text=_COLON),
    _Explanation(
        said="mapping values are not allowed",
        text='this ":" cannot stand here: check the indentation; a text that contains ": " must be quoted',
    ),
    _Explanation(
        said="entries are not allowed",
        text='a list starts on a line of its own; a text that starts with "- " must be quoted',
    ),
    _Explanation(
        said="cannot start any token|tab character",
        at="\t",
        text="a tab is used for indentation; use spaces",
    ),
    _Explanation(
        said="cannot start any token",
        at="@",
        text='a text cannot start with "@"; an expression is written =@',
    ),
    _Explanation(said="cannot start any token", text="a text cannot start with this character; quote it"),
    _Explanation(
        said="quoted scalar: found (?:unknown escape|invalid)",
        text="in double quotes a backslash starts an escape; use single quotes or a block (key: >-)",
    ),
    _Explanation(said="quoted scalar", opening=True, text="a quote is opened here and never closed"),
    _Explanation(
        said="flow (?:mapping|sequence)",
        before="=",
        at=".",
        text="an expression with , [ ] { or } inside { } or [ ] must be quoted",
    ),
    _Explanation(
        said="flow (?:mapping|sequence)",
        at="^$",
        opening=True,
        text="a bracket is opened here and never closed",
    ),
    _Explanation(said="flow mapping", text="inside { } entries are written  key: value  with commas between them"),
    _Explanation(said="flow sequence", text="inside [ ] items are written with commas between them"),
    _Explanation(
        said="could not find expected ':'",
        opening=True,
        text='this line has no "key: "; check its indentation',
    ),
    _Explanation(said="block scalar", opening=True, text="after | or > the text starts on the next line"),
    _Explanation(
        said="block (?:mapping|collection)",
        text="this does not continue the lines above; check the indentation and the quotes",
    ),
)
