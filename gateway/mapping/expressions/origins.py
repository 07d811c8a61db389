"""Find where the result of an expression comes from: out of the webhook, or out of the mapping file.

What tells webhooks and people apart may not come out of the file, where it is the same for all of them, nor be a
text from which a missing part was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gateway.mapping.expressions.source_text import SourceText, Tree, after_bracket, items_between, operands_of


@dataclass(frozen=True, kw_only=True)
class Lossy:
    """A call that gives a text although a part of it is missing.

    Attributes:
        function: `join` leaves the part out; `to_json` and `to_string` of a list or object write null.
        offset: Where the call stands in the text of the expression.
        instead: The expression with `format` in place of the call, which is null then; None: no rule gives one.
        variable: The variable whose expression it is; the place is then where the variable is read.
    """

    function: str
    offset: int
    instead: str | None
    variable: str | None = None


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where a result may come from; from nowhere, if it is null.

    Attributes:
        webhook: It may be a value of the webhook.
        file: It may be a value of the file: the same for every webhook, or for all that lack a field.
        lossy: The calls through which it may have come that give a text although a part is missing.
        entries: Those of the values of an object, or of each object of a list, as far as their names are known.
    """

    webhook: bool = False
    file: bool = False
    lossy: tuple[Lossy, ...] = ()
    entries: Mapping[str, Origins] = field(default_factory=dict)


WEBHOOK = Origins(webhook=True)
FILE = Origins(file=True)
_NOWHERE = Origins()


def any_of(choices: Iterable[Origins]) -> Origins:
    """Return the origins of a value that is one of several."""
    choices = list(choices)
    names = {name: None for choice in choices for name in choice.entries}
    return Origins(
        webhook=any(choice.webhook for choice in choices),
        file=any(choice.file for choice in choices),
        lossy=tuple(lossy for choice in choices for lossy in choice.lossy),
        entries={name: any_of(choice.entries[name] for choice in choices if name in choice.entries) for name in names},
    )


def made_of(parts: Iterable[Origins]) -> Origins:
    """Return the origins of a value that is made of several, and is the same for all webhooks if each of them is."""
    parts = list(parts)
    return Origins(
        webhook=any(part.webhook for part in parts),
        file=all(part.file for part in parts),
        lossy=tuple(lossy for part in parts for lossy in part.lossy),
    )


# Functions whose results are few, whatever the webhook holds.
_FEW_RESULTS = frozenset(
    {"type", "event_type", "index", "contains", "starts_with", "ends_with", "regex_match", "to_bool"}
)
_OF_REQUEST = frozenset({"header", "query", "root", "body", "received_at"})
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})
_CHAINS = frozenset({"pipe", "index_expression", "subexpression"})


def origins_of(
    tree: Tree, source: SourceText, variables: Mapping[str, Origins], with_default: frozenset[str]
) -> Origins:
    """Return the origins of an expression's result.

    Args:
        variables: The origins of the variables of `let`.
        with_default: The tables that have an entry for unknown keys.
    """
    return _Reader(tree, source, variables, with_default).read(tree, WEBHOOK)


class _Reader:
    def __init__(
        self, tree: Tree, source: SourceText, variables: Mapping[str, Origins], with_default: frozenset[str]
    ) -> None:
        self.source = source
        self.variables = variables
        self.with_default = with_default
        # The tree has no positions, but it holds its calls in the order of the tokens.
        self.positions = dict(zip(map(id, calls_in(tree)), source.call_positions(), strict=True))

    def read(self, node: Tree, current: Origins) -> Origins:
        """Return the origins of a node's value; *current* are those of `@`."""
        kind, children = node["type"], node["children"]
        if kind in _CHAINS:
            for operand in operands_of(node):
                current = self.read(operand, current)
            return current
        if kind in _PROJECTIONS:
            return self.read(children[1], self.read(children[0], current))
        read = _READERS.get(kind)
        return current if read is None else read(self, node, current)  # @, an index or a slice

    def read_literal(self, node: Tree, _current: Origins) -> Origins:
        # Of what is empty, every item and every field is null.
        return _NOWHERE if node["value"] in (None, [], {}) else FILE

    def read_field(self, node: Tree, current: Origins) -> Origins:
        return current.entries.get(node["value"], replace(current, entries={}))

    def read_condition(self, _node: Tree, _current: Origins) -> Origins:
        return FILE  # true or false

    def read_or(self, node: Tree, current: Origins) -> Origins:
        return self.read_choice(operands_of(node), current)

    def read_and(self, node: Tree, current: Origins) -> Origins:
        return self.read(operands_of(node)[-1], current)  # any other operand is given only if it counts as nothing

    def read_list(self, node: Tree, current: Origins) -> Origins:
        items = [self.read(child, current) for child in node["children"]]
        return replace(made_of(items), entries=any_of(items).entries)

    def read_object(self, node: Tree, current: Origins) -> Origins:
        entries = {child["value"]: self.read(child["children"][0], current) for child in node["children"]}
        return replace(made_of(entries.values()), entries=entries)

    def read_flatten(self, node: Tree, current: Origins) -> Origins:
        return self.read(node["children"][0], current)

    def read_choice(self, choices: Iterable[Tree], current: Origins) -> Origins:
        # An empty text counts as nothing wherever origins matter.
        return any_of(self.read(node, current) for node in choices if node.get("value") != "")

    def read_call(self, node: Tree, current: Origins) -> Origins:
        name, arguments = node["value"], node["children"]
        if name in _OF_REQUEST:
            return WEBHOOK
        if name in _FEW_RESULTS:
            return FILE
        if name == "var":
            return self.read_variable(arguments[0]["value"], node)
        if name == "lookup":
            key = self.read(arguments[1], current)
            return Origins(webhook=key.webhook, file=key.file or arguments[0]["value"] in self.with_default)
        if name in ("if", "not_null"):
            return self.read_choice(arguments[name == "if" :], current)
        if name == "map":
            return self.read(arguments[0]["children"][0], self.read(arguments[1], current))
        parts = [self.read(argument, current) for argument in arguments if argument["type"] != "expref"]
        if _NOWHERE in parts:  # null
            return _NOWHERE
        origins = made_of(parts)
        made_here = arguments and arguments[-1]["type"] in ("multi_select_list", "multi_select_dict")
        if name == "join" or (name in ("to_json", "to_string") and made_here):
            origins = replace(origins, lossy=(self.lossy(node), *origins.lossy))
        return origins

    def read_variable(self, name: str, node: Tree) -> Origins:
        return _read_at(self.source.offset(self.positions[id(node)]), name, self.variables.get(name, WEBHOOK))

    def lossy(self, node: Tree) -> Lossy:
        position = self.positions[id(node)]
        call = self.as_format(node, position)
        text, start = self.source.text, self.source.offset(position)
        end = self.source.offset(after_bracket(self.source, position + 1) - 1) + 1
        instead = None if call is None else f"{text[:start]}{call}{text[end:]}"
        if instead is not None and "\n" in instead:
            instead = " ".join(instead.split())
        return Lossy(function=node["value"], offset=start, instead=instead)

    def as_format(self, node: Tree, position: int) -> str | None:
        """Return a call of `join` or `to_json` as one of `format`, if it lists its parts."""
        arguments = node["children"]
        spans = items_between(self.source, position + 2, after_bracket(self.source, position + 1) - 1)
        separator = arguments[0].get("value") if node["value"] == "join" else "-"
        first, end = spans[-1]
        if not isinstance(separator, str) or arguments[-1]["type"] != "multi_select_list":
            return None
        if self.source.kind(first) != "lbracket" or after_bracket(self.source, first) != end:
            return None
        texts, values = [], []
        spans = items_between(self.source, first + 1, end - 1)
        for item, (start, stop) in zip(arguments[-1]["children"], spans, strict=True):
            if item["type"] != "literal":
                texts.append("{}")
                values.append(self.source.between(start, stop))
            elif item["value"] is not None:
                texts.append(_escaped(str(item["value"])))
        return f"format('{_escaped(separator).join(texts)}', {', '.join(values)})" if values else None


_READERS: Mapping[str, Callable[[_Reader, Tree, Origins], Origins]] = {
    "literal": _Reader.read_literal,
    "field": _Reader.read_field,
    "function_expression": _Reader.read_call,
    "or_expression": _Reader.read_or,
    "and_expression": _Reader.read_and,
    "not_expression": _Reader.read_condition,
    "comparator": _Reader.read_condition,
    "multi_select_list": _Reader.read_list,
    "multi_select_dict": _Reader.read_object,
    "flatten": _Reader.read_flatten,
}


def _read_at(offset: int, variable: str, origins: Origins) -> Origins:
    """Return the origins of a variable for the place where it is read."""
    lossy = tuple(replace(call, offset=offset, variable=call.variable or variable) for call in origins.lossy)
    entries = {name: _read_at(offset, variable, entry) for name, entry in origins.entries.items()}
    return replace(origins, lossy=lossy, entries=entries)


def _escaped(text: str) -> str:
    return text.translate({ord("{"): "{{", ord("}"): "}}", ord("'"): r"\'"})


def calls_in(tree: Tree) -> Iterator[Tree]:
    """Yield the calls of functions in the order of the text."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node["type"] == "function_expression":
            yield node
        waiting.extend(reversed(operands_of(node)))
