"""Read YAML into nodes that know their places, and in which scalars mean what they mean in JSON.

Plain `true`, `false`, `null` and JSON numbers are typed. Everything else (`no`, `12:30`, `010`, `2026-01-02`,
anything quoted) is text. The nodes are built here out of the parser's events, because PyYAML's own constructors
keep no places, let later keys replace earlier ones, and expand aliases without a limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import NoReturn, Protocol, TypeAlias

import yaml

from gateway.errors import Location, MappingError, Problem
from gateway.event import JSON

MAX_DEPTH = 64
MAX_EXPANDED = 10_000  # nodes that all aliases of a file may expand to, together
_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value that is not a list or an object.

    Attributes:
        quoted: It is in quotes or a block, so it is text whatever it looks like.
        empty: Nothing or `~` was written: the value is None. The word null is not empty.
    """

    location: Location
    value: bool | int | float | str | None
    quoted: bool
    empty: bool


@dataclass(frozen=True, kw_only=True)
class ListNode:
    """A list."""

    location: Location
    items: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class ObjectNode:
    """An object. No key occurs twice. A key is always text: the key `010` is "010", and the key `true` is "true"."""

    location: Location
    entries: tuple[tuple[Scalar, Node], ...]

    def get(self, name: str) -> Node | None:
        """Return the value of a key, or None."""
        return next((value for key, value in self.entries if key.value == name), None)


Node: TypeAlias = Scalar | ListNode | ObjectNode


def read(text: str, file: str) -> Node:
    """Return the root node of the one YAML document in *text*; *file* is the file's name in places.

    Raises MappingError with all problems up to the first syntax error, so with every duplicate key before it.
    """
    text = text.removeprefix("\ufeff")
    unprintable = _UNPRINTABLE.search(text)
    if unprintable is not None:  # the parser would report it without a place
        before = _LINE_BREAK.split(text[: unprintable.start()])
        location = Location(file=file, line=len(before), column=len(before[-1]) + 1)
        problem = f"character U+{ord(unprintable.group()):04X} is not allowed in a file; remove it"
        raise MappingError([Problem(location=location, code="yaml", text=problem)])
    builder = _NodeBuilder(text, file)
    try:
        node = builder.root()
    except yaml.YAMLError as error:
        raise MappingError([*builder.problems, _syntax_problem(error, text, file)]) from None
    if builder.problems:
        raise MappingError(sorted(builder.problems, key=lambda problem: problem.location))
    return node


def plain(node: Node) -> JSON:
    """Return the plain data of a node."""
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


#: The parser in C where PyYAML has it: several times as fast.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _ParserPosition(Protocol):
    """A position of PyYAML's parser, the one in C or the one in Python; counts from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class _NodeBuilder:
    """Builds nodes out of the parser's events, with limits on depth and on what aliases expand to.

    Attributes:
        problems: Those after which reading can go on, so that all are reported at once.
    """

    def __init__(self, text: str, file: str) -> None:
        self.problems: list[Problem] = []
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_Loader))
        self._file = file
        self._anchors: dict[str, Node | None] = {}  # None: its node is not complete yet
        # By the id of a node: its values, its levels, and the node itself, so that no other node gets its id.
        self._sizes: dict[int, tuple[int, int, Node]] = {}
        self._expanded = 0

    def root(self) -> Node:
        """Return the root node of the document. Raises MappingError or yaml.YAMLError."""
        next(self._events)  # the start of the stream
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            self._stop(start, "empty", "the file is empty; it starts with  version: 1")
        node = self._node(next(self._events), depth=1)
        next(self._events)  # the end of the document
        after = next(self._events)
        if isinstance(after, yaml.DocumentStartEvent):
            self._stop(after, "yaml", "a second document starts here; a mapping file holds one")
        if isinstance(node, Scalar) and node.empty:
            self._stop(start, "empty", "the file is empty; it starts with  version: 1")
        return node

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if depth > MAX_DEPTH:
            self._stop(event, "too-deep", _TOO_DEEP)
        self._refuse_tag(event)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            node = ListNode(location=self._location(event), items=tuple(items))
        else:
            node = self._object(event, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _object(self, start: yaml.Event, depth: int) -> ObjectNode:
        entries: list[tuple[Scalar, Node]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            entries.append((self._key(event, entries), self._node(next(self._events), depth + 1)))
        if getattr(start, "flow_style", False):
            self._find_split_expression(entries)
        entries = self._merge(self._unique(entries))
        return ObjectNode(location=self._location(start), entries=tuple(entries))

    def _key(self, event: yaml.Event, before: list[tuple[Scalar, Node]]) -> Scalar:
        if isinstance(event, yaml.AliasEvent):
            self._stop(event, "yaml", f'"*" starts a YAML alias; quote the key: "*{event.anchor}"')
        if not isinstance(event, yaml.ScalarEvent):
            if before and _is_cut_value(before[-1][1]):
                self._stop(event, "unquoted-expression", _COMMA)
            self._stop(event, "yaml", "a key must be text; quote a value that contains { } or [ ]")
        self._refuse_tag(event)
        if not event.value and not event.style:
            self._stop(event, "yaml", 'a key is missing before ":"')
        key = Scalar(location=self._content_start(event), value=event.value, quoted=bool(event.style), empty=False)
        if not key.quoted and (blank := _ODD_BLANK.match(event.value)):
            text = f"this line starts with U+{ord(blank.group()):04X}, which only looks like a space"
            self._stop(event, "yaml", f"{text}; type the spaces again")
        if not key.quoted and _is_cut_expression(key.value):  # as in  - =items[].{sku: sku}
            self.problems.append(Problem(location=key.location, code="yaml", text=_COLON))
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        quoted = bool(event.style)
        location = self._content_start(event)
        if quoted:
            return Scalar(location=location, value=event.value, quoted=True, empty=False)
        if event.value in ("", "~"):
            return Scalar(location=location, value=None, quoted=False, empty=True)
        value = _typed(event.value)
        if isinstance(value, float) and math.isinf(value):
            text = "this number is too large; if text is meant, quote it"
            self.problems.append(Problem(location=location, code="number", text=text))
        return Scalar(location=location, value=value, quoted=False, empty=False)

    def _unique(self, entries: list[tuple[Scalar, Node]]) -> list[tuple[Scalar, Node]]:
        """Return the first entry of each key, and report the others."""
        first: dict[str, tuple[Scalar, Node]] = {}
        for key, value in entries:
            name = str(key.value)
            if name in first:
                text = f"duplicate key {name!r} (first on line {first[name][0].location.line})"
                self.problems.append(Problem(location=key.location, code="duplicate-key", text=text))
            else:
                first[name] = (key, value)
        return list(first.values())

    def _merge(self, entries: list[tuple[Scalar, Node]]) -> list[tuple[Scalar, Node]]:
        """Replace each merge key, `<<: *base`, by the entries of its objects. The object's own keys win."""
        seen = {key.value for key, _ in entries if not _is_merge_key(key)}
        merged: list[tuple[Scalar, Node]] = []
        for key, value in entries:
            if not _is_merge_key(key):
                merged.append((key, value))
                continue
            sources = value.items if isinstance(value, ListNode) else (value,)
            objects = [source for source in sources if isinstance(source, ObjectNode)]
            if len(objects) != len(sources):
                text = "<< takes an object, or a list of objects"
                self.problems.append(Problem(location=key.location, code="merge-key", text=text))
            for entry in (entry for source in objects for entry in source.entries):
                if entry[0].value not in seen:
                    seen.add(entry[0].value)
                    merged.append(entry)
        return merged

    def _find_split_expression(self, entries: list[tuple[Scalar, Node]]) -> None:
        """Report a key in { } that is really the rest of an unquoted expression, after a comma in it."""
        after_expression = False
        for key, value in entries:
            has_no_value = isinstance(value, Scalar) and value.empty
            if has_no_value and not key.quoted and (after_expression or _is_unbalanced(str(key.value))):
                text = f"'{key.value}' is not a key: {_COMMA}"
                self.problems.append(Problem(location=key.location, code="unquoted-expression", text=text))
                return
            after_expression = _is_cut_value(value)

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        """Return the node of an anchor. It is shared, but counts as if it were written here once more."""
        if event.anchor not in self._anchors:
            text = f'"*" starts a YAML alias, and there is no anchor &{event.anchor}; if text is meant, quote it'
            self._stop(event, "yaml", text)
        node = self._anchors[event.anchor]
        if node is None:
            self._stop(event, "recursive-alias", f"*{event.anchor} stands inside what it stands for")
        size, height, _ = self._size_of(node)
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            self._stop(event, "too-large", f"the aliases of this file stand for more than {MAX_EXPANDED:,} values")
        if depth + height - 1 > MAX_DEPTH:
            self._stop(event, "too-deep", _TOO_DEEP)
        return node

    def _size_of(self, node: Node) -> tuple[int, int, Node]:
        """Return the values and the levels of a node; shared nodes count each time, and are measured once."""
        if id(node) not in self._sizes:
            children: list[Node] = []
            if isinstance(node, ListNode):
                children = [*node.items]
            elif isinstance(node, ObjectNode):
                children = [value for _, value in node.entries]
            below = [self._size_of(child) for child in children]
            size = 1 + sum(size for size, _, _ in below)
            self._sizes[id(node)] = (size, 1 + max((height for _, height, _ in below), default=0), node)
        return self._sizes[id(node)]

    def _refuse_tag(self, event: yaml.Event) -> None:
        if getattr(event, "tag", None) is not None:
            self._stop(event, "yaml-tag", _TAG)

    def _content_start(self, event: yaml.ScalarEvent) -> Location:
        """Return where the text of a scalar starts, after its anchor: offsets into an expression count from there."""
        start = self._location(event)
        end = _place(event.end_mark, self._file)
        if event.anchor is None or event.style or start.line != end.line:
            return start
        return replace(end, column=end.column - len(event.value))

    def _location(self, event: yaml.Event) -> Location:
        return _place(event.start_mark, self._file)

    def _stop(self, event: yaml.Event, code: str, text: str) -> NoReturn:
        problem = Problem(location=self._location(event), code=code, text=text)
        raise MappingError(sorted([*self.problems, problem], key=lambda problem: problem.location))


_TAG = '"!" starts a YAML tag; write =!(…)'
_COMMA = "an expression with a comma inside { } must be quoted"
_COLON = 'an expression that contains ": " must be quoted, or written {sku:sku}'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def _typed(text: str) -> bool | int | float | str | None:
    """Return the value of a plain scalar as JSON has it."""
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    value = float(text)
    # An integer beyond the range of a float becomes infinite here, so that it is refused like 1e999.
    return value if number.group(1) or number.group(2) or math.isinf(value) else int(text)


def _is_merge_key(key: Scalar) -> bool:
    return key.value == "<<" and not key.quoted


def _is_cut_expression(value: object) -> bool:
    """Tell whether a text is the beginning of an expression that YAML cut at a comma or a colon."""
    return isinstance(value, str) and value.startswith("=") and _is_unbalanced(value)


def _is_cut_value(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.quoted and _is_cut_expression(node.value)


def _is_unbalanced(text: str) -> bool:
    return any(text.count(opening) != text.count(closing) for opening, closing in ("()", "[]", "{}"))


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Explain a syntax error by what the parser reports and by the line where it stopped."""
    location = _place(getattr(error, "problem_mark", None), file)
    report = ": ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    lines = _LINE_BREAK.split(text)
    line = lines[location.line - 1] if location.line <= len(lines) else ""
    before, at = line[: location.column - 1], line[location.column - 1 : location.column]
    for explanation in _EXPLANATIONS:
        if explanation.fits(report, before, at):
            opening = getattr(error, "context_mark", None)
            if explanation.opening and opening is not None:
                location = _place(opening, file)
            return Problem(location=location, code=explanation.code, text=explanation.text)
    return Problem(location=location, code="yaml", text=f"this is not YAML: {report}")


def _place(position: _ParserPosition | None, file: str) -> Location:
    line, column = (position.line, position.column) if position is not None else (0, 0)
    return Location(file=file, line=line + 1, column=column + 1)


@dataclass(frozen=True)
class _Explanation:
    """The explanation of a syntax error, and how to recognise the error: by three patterns.

    Attributes:
        report: A pattern of the parser's report. The parsers in C and in Python word it differently.
        before: A pattern of the line up to where the parser stopped.
        at: A pattern of the character at which it stopped; "^$" is the end of the line.
        opening: Show the place where the construct began, not the one where the parser stopped.
    """

    report: str
    text: str
    _: KW_ONLY
    before: str = ""
    at: str = ""
    opening: bool = False
    code: str = "yaml"

    def fits(self, report: str, before: str, at: str) -> bool:
        """Tell whether all three patterns match."""
        pairs = ((self.report, report), (self.before, before), (self.at, at))
        return all(re.search(pattern, subject) for pattern, subject in pairs)


# The first that fits is used, so the special ones come before the general ones.
_EXPLANATIONS = (
    # The parser in C has a limit of its own, which it may meet while it reads ahead.
    _Explanation("maximum nesting depth", _TOO_DEEP, code="too-deep"),
    _Explanation("(?:scanning|parsing) a tag|undefined tag", _TAG, opening=True, code="yaml-tag"),
    _Explanation(
        "scanning an alias", '"*" starts a YAML alias; if text is meant, quote it, as in  "*.created":', opening=True
    ),
    _Explanation("scanning an anchor", '"&" starts a YAML anchor; if text is meant, quote it', opening=True),
    _Explanation(
        "mapping values are not allowed",
        "bad expression: a choice is written if(condition, then, otherwise)",
        before=r"(?:^|[:-]) *=[^'\"`]* \? ",
        code="expression",
    ),
    _Explanation("mapping values are not allowed", _COLON, before="(?:^|[:-]) *="),
    _Explanation(
        "mapping values are not allowed",
        'this ":" cannot stand here: check the indentation; a text that contains ": " must be quoted',
    ),
    _Explanation(
        "entries are not allowed", 'a list starts on a line of its own; a text that starts with "- " must be quoted'
    ),
    _Explanation("cannot start any token|tab character", "a tab is used for indentation; use spaces", at="\t"),
    _Explanation("cannot start any token", 'a text cannot start with "@"; an expression is written =@', at="@"),
    _Explanation("cannot start any token", "a text cannot start with this character; quote it"),
    _Explanation(
        "quoted scalar: found (?:unknown escape|invalid)",
        "in double quotes a backslash starts an escape; use single quotes or a block (key: >-)",
    ),
    _Explanation("quoted scalar", "a quote is opened here and never closed", opening=True),
    _Explanation(
        "flow (?:mapping|sequence)",
        "an expression with , [ ] { or } inside { } or [ ] must be quoted",
        before="=",
        at=".",
    ),
    _Explanation("flow (?:mapping|sequence)", "a bracket is opened here and never closed", at="^$", opening=True),
    _Explanation("flow mapping", "inside { } entries are written  key: value  with commas between them"),
    _Explanation("flow sequence", "inside [ ] items are written with commas between them"),
    _Explanation("could not find expected ':'", 'this line has no "key: "; check its indentation', opening=True),
    _Explanation("block scalar", "after | or > the text starts on the next line", opening=True),
    _Explanation(
        "block (?:mapping|collection)", "this does not continue the lines above; check the indentation and the quotes"
    ),
)
