"""JMESPath, compiled once when a mapping is loaded.

The `jmespath` package parses; its tree becomes Python closures, so that evaluating is fast, and nulls,
kinds and errors are the mapping language's own.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from jmespath.exceptions import IncompleteExpressionError, JMESPathError, LexerError, ParseError
from jmespath.lexer import Lexer
from jmespath.parser import Parser

from gateway.errors import ExpressionError, GatewayError, did_you_mean
from gateway.events import JSON
from gateway.functions import (
    FUNCTIONS,
    MAX_ITEMS,
    Evaluate,
    Function,
    Scope,
    equal,
    kind,
    limited,
    read_json,
    truthy,
)

__all__ = ["BadExpression", "Expression", "Names", "Scope", "compile_expression"]

MAX_LENGTH = 4096
MAX_DEPTH = 64

_Tree: TypeAlias = dict[str, Any]  # a node of the parser's tree
_Token: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An expression as written: the parser's tree keeps no positions, the tokens do."""

    text: str
    tokens: Sequence[_Token]

    def kind(self, position: int) -> str:
        """The type of a token; the last is "eof"."""
        return str(self.tokens[position]["type"])

    def offset(self, position: int) -> int:
        return int(self.tokens[position]["start"])

    def between(self, first: int, end: int) -> str:
        """The text of some tokens, the one at *end* not included."""
        return self.text[self.offset(first) : self.offset(end)].rstrip()


@dataclass(frozen=True, kw_only=True)
class Names:
    """What an expression may name at its place in a mapping."""

    variables: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    inside_each: bool = False


class BadExpression(GatewayError):  # noqa: N818 - says what it is about; an Error is what evaluating raises
    """An expression is wrong as it is written; *offset* counts characters of its text from 0."""

    def __init__(self, code: str, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.offset = offset


class Expression:
    """A compiled expression."""

    __slots__ = ("_run", "text")

    def __init__(self, text: str, run: Evaluate) -> None:
        self.text = text
        self._run = run

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def evaluate(self, current: JSON, scope: Scope) -> JSON:
        """Evaluate on a value. The result may share parts with what went in: neither may be changed.

        Raises ExpressionError: a value is of the wrong kind, cannot be converted or is too large.
        """
        try:
            result = self._run(current, scope)
        except RecursionError:
            raise ExpressionError("a value is nested too deep") from None
        except (ArithmeticError, ValueError):  # NaN and infinity: no payload has them, but a caller may
            raise ExpressionError("a number is beyond what can be worked on") from None
        if type(result) is float and not math.isfinite(result):
            raise ExpressionError("a number is beyond what can be worked on")
        return result


_ANYWHERE = Names()


def compile_expression(text: str, names: Names = _ANYWHERE) -> Expression:
    """Compile an expression, written without the leading "=".

    Raises BadExpression: the first thing that is wrong with it.
    """
    if not text.strip():
        raise BadExpression("expression", "an expression is missing after =", 0)
    if len(text) > MAX_LENGTH:
        problem = f"an expression has at most {MAX_LENGTH:,} characters, this one {len(text):,}"
        raise BadExpression("too-long", problem, 0)
    _check_literals(text)
    source = _Source(text=text, tokens=_tokenize(text))
    _check_nesting(source)
    tree = _parse(source)
    _check_slips(source)
    _check_tree(tree, source, names)
    return Expression(text, _compile(tree))


# Reading: the text, its tokens, its tree


_QUOTED = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<literal>(?:\\.|[^`\\])*)`|['"`]""", re.DOTALL
)


def _check_literals(text: str) -> None:
    """Refuse literals that are not JSON: the parser would take `foo` for text, and warn."""
    for found in _QUOTED.finditer(text):
        if found.group() in "'\"`":
            raise BadExpression("expression", f"bad expression: {_unclosed(found.group())}", found.start())
        literal = found["literal"]
        if literal is not None and not _is_json(literal.replace("\\`", "`")):
            shown = _shortened(literal)
            problem = f"`{shown}` is not JSON; text is written '{shown}'"
            raise BadExpression("not-json", problem, found.start())


def _unclosed(opening: str) -> str:
    hint = '; if the text contains " #", write the expression as a block (key: >-)' if opening == "'" else ""
    return f"{opening} is opened here and never closed{hint}"


def _is_json(literal: str) -> bool:
    try:
        read_json(literal)
    except ExpressionError:
        return False
    return True


_SHOWN = 40  # characters of an expression that an error text repeats


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _tokenize(text: str) -> list[_Token]:
    try:
        return list(Lexer().tokenize(text))
    except LexerError as error:
        raise _unknown_character(text, error.lexer_position) from None
    except JMESPathError as error:
        raise BadExpression("expression", f"bad expression: {error}", 0) from None


_OPERATORS = {"+": "add(a, b), or for text join(' ', [a, b])", "-": "subtract(a, b)", "/": "divide(a, b)"}
_CHARACTERS = {
    "=": "two values are compared with ==",
    "$": "names start at the body by themselves, without $",
    "?": "a choice is written if(condition, then, otherwise)",
    "#": 'text is written in single quotes, and " #" starts a comment in YAML',
    "%": "there is no % in expressions",
    "~": "there is no ~ in expressions",
    ";": "an expression ends without ;",
    '"': 'what stands in " " is not a name that JSON could write',
    **dict.fromkeys("‘’‚“”„´", "text is written in straight quotes: 'paid'"),
}


def _unknown_character(text: str, offset: int) -> BadExpression:
    character = text[offset : offset + 1]
    if in_name := _odd_name(text, offset):
        return in_name
    if character in _OPERATORS:
        problem = f'bad expression: there is no "{character}" in expressions; write {_OPERATORS[character]}'
    elif character in _CHARACTERS:
        problem = f"bad expression: {_CHARACTERS[character]}"
    else:
        problem = f"bad expression: {character!r} stands only inside quotes"
    return BadExpression("expression", problem, offset)


_NAME_WITH_PATH = re.compile(r"(?P<path>(?:[A-Za-z_]\w*\.)*)(?P<name>[\w$][\w$-]*)")


def _odd_name(text: str, offset: int) -> BadExpression | None:
    """Explain a character in a field name that names without quotes cannot have."""
    for found in _NAME_WITH_PATH.finditer(text):
        if found.start("name") <= offset < found.end() and found["name"] != "$":
            quoted = _shortened(f'{found["path"]}"{found["name"]}"')
            problem = f"bad expression: a field name with {text[offset]!r} needs double quotes: {quoted}"
            return BadExpression("unquoted-name", problem, offset)
    return None


_OPENING = {"lparen": "rparen", "lbracket": "rbracket", "filter": "rbracket", "lbrace": "rbrace"}
_CLOSING = frozenset(_OPENING.values())


def _check_nesting(source: _Source) -> None:
    """Bound what the parser, which recurses, is given."""
    depth = prefixes = 0
    for position, token in enumerate(source.tokens):
        depth += _bracket(source, position)
        prefixes = prefixes + 1 if token["type"] in ("not", "expref") else 0
        if depth + prefixes > MAX_DEPTH:
            raise _too_deep(source.offset(position))


def _bracket(source: _Source, position: int) -> int:
    """Give 1 for an opening bracket, -1 for a closing one, else 0."""
    kind = source.kind(position)
    return (kind in _OPENING) - (kind in _CLOSING)


def _too_deep(offset: int) -> BadExpression:
    return BadExpression("too-deep", f"an expression is nested at most {MAX_DEPTH} deep", offset)


def _parse(source: _Source) -> _Tree:
    try:
        tree: _Tree = Parser().parse(source.text).parsed
    except RecursionError:
        raise _too_deep(0) from None
    except IncompleteExpressionError:
        raise _incomplete(source) from None
    except ParseError as error:
        raise _unexpected(source, error) from None
    if _depth(tree) > MAX_DEPTH:
        raise _too_deep(0)
    return tree


def _depth(tree: _Tree) -> int:
    """Count the levels of a tree; a chain like a || b || c is one level, as it is compiled."""
    deepest = 0
    waiting = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting.extend((child, depth + 1) for child in _operands(node))
    return deepest


_CHAINS = frozenset({"or_expression", "and_expression", "pipe", "index_expression", "subexpression"})


def _operands(node: _Tree) -> list[_Tree]:
    """List the children in the order of their text, those of a chain of one operator together."""
    if node["type"] == "slice":
        return []
    if node["type"] == "filter_projection":
        left, right, condition = node["children"]
        return [left, condition, right]
    operands: list[_Tree] = list(node["children"])
    while node["type"] in _CHAINS and operands[0]["type"] == node["type"]:
        operands[:1] = operands[0]["children"]
    return operands


def _incomplete(source: _Source) -> BadExpression:
    opened: list[int] = []
    for position in range(len(source.tokens)):
        change = _bracket(source, position)
        if change > 0:
            opened.append(position)
        elif change < 0 and opened:
            opened.pop()
    if not opened:
        return BadExpression("expression", "bad expression: it ends too early", len(source.text))
    bracket = source.tokens[opened[-1]]["value"]
    problem = (
        f"bad expression: {bracket} is opened here and never closed; "
        "inside { } or [ ] of YAML an expression with a comma must be quoted"
    )
    return BadExpression("expression", problem, source.offset(opened[-1]))


def _unexpected(source: _Source, error: ParseError) -> BadExpression:
    position = next(at for at, token in enumerate(source.tokens) if token["start"] >= error.lex_position)
    kind, offset = source.kind(position), source.offset(position)
    if kind == "eof":
        return _incomplete(source)
    if numeric := _bare_number(source, position):
        return numeric
    before = source.tokens[position - 1]["value"] if position else None
    problem = _foreign(source.tokens[position]["value"], before) or _misplaced(source, position)
    if problem:
        return BadExpression("expression", f"bad expression: {problem}", offset)
    if "function name" in error.msg:
        return BadExpression("expression", "bad expression: only a name without quotes can be called", offset)
    shown = source.text[offset] if kind == "literal" else source.tokens[position]["value"]
    return BadExpression("expression", f"bad expression: {shown} does not fit here", offset)


def _bare_number(source: _Source, position: int) -> BadExpression | None:
    kinds = [source.kind(at) if at >= 0 else "" for at in range(position - 2, position + 1)]
    if kinds[1:] == ["number", "comma"]:
        position -= 1  # the parser took [1, 2] for an index
    elif kinds[2] != "number":
        return None
    text, offset = source.text, source.offset(position)
    if kinds == ["dot", "lbracket", "number"]:
        return BadExpression("expression", "bad expression: an index has no dot before it: a[0]", offset)
    if kinds[1:] == ["dot", "number"]:
        return _number_in_path(source, position)
    if re.match(r"\w-", text[max(offset - 1, 0) :]) and (in_name := _odd_name(text, offset)):
        return in_name
    number = re.match(r"-?[0-9]+(?:\.[0-9]+)?", text[offset:])
    assert number is not None  # the token is one
    problem = f"numbers in expressions are written in backticks: `{_shortened(number.group())}`"
    return BadExpression("bare-number", problem, offset)


def _number_in_path(source: _Source, position: int) -> BadExpression:
    """Explain `items.0.sku` and `user.2fa`."""
    start = _start_of_path(source, position - 1)
    path, offset = source.between(start, position - 1), source.offset(position)
    name = re.match(r"\w+", source.text[offset:])
    if name is None or name.group().isdigit():
        index = _shortened(name.group()) if name else "0"
        problem = f"an index is written in brackets: {_shortened(path)}[{index}]"
        return BadExpression("expression", f"bad expression: {problem}", offset)
    quoted = _shortened(f'{path}."{name.group()}"')
    problem = f"bad expression: a field name that starts with a digit needs double quotes: {quoted}"
    return BadExpression("unquoted-name", problem, offset)


def _misplaced(source: _Source, position: int) -> str | None:
    """Explain what stands where it cannot stand."""
    kinds = source.kind(position - 1) if position else "", source.kind(position)
    text = _shortened(source.between(_start_of_path(source, position - 1), position + 1)) if position else ""
    if kinds == ("", "dot"):
        return "names start at the body by themselves, without a dot"
    if kinds == ("unquoted_identifier", "unquoted_identifier"):
        path, _, name = text.rpartition(".")
        return f'a field name with a blank needs double quotes: {path}{"." if path else ""}"{name}"'
    if kinds == ("dot", "literal"):
        name = source.tokens[position]["value"]
        path = source.between(_start_of_path(source, position - 1), position - 1)
        return f'a field name is written in double quotes: {_shortened(path)}."{_shortened(str(name))}"'
    return "write && instead of &" if kinds[1] == "expref" and position else None


def _foreign(value: object, before: object) -> str | None:
    """Recognise what other languages write."""
    if value in ("and", "or"):
        return f"write {'&&' if value == 'and' else '||'} instead of {value}"
    if before == "not":
        return "write !(…) instead of not"
    if value == "{" and before == "{":
        return "a value is written =a.b, without {{ }}"
    if value == "in":
        return "write contains(list, x) instead of x in list"
    return "two values are compared with ==" if value == "is" else None


# Slips: expressions that are valid JMESPath and cannot mean what their author meant


def _check_slips(source: _Source) -> None:
    for position in range(len(source.tokens)):
        check = _SLIPS.get(source.kind(position))
        problem = check(source, position) if check else None
        if problem:
            raise problem


def _quoted_comparison(source: _Source, position: int) -> BadExpression | None:
    if source.kind(position + 1) != "quoted_identifier" or source.kind(position + 2) in _FOLLOWS_FIELD:
        return None
    name = _shortened(source.tokens[position + 1]["value"])
    sign, _ = _COMPARISONS[source.kind(position)]
    problem = f"\"{name}\" after {sign} is a field name; text is written '{name}'"
    return BadExpression("quoted-field", problem, source.offset(position + 1))


def _bare_word(source: _Source, position: int) -> BadExpression | None:
    word = source.tokens[position]["value"]
    before = source.kind(position - 1) if position else ""
    meant = _WORDS.get(word) or (_PYTHON.get(word) if before in _COMPARISONS else None)
    if meant is None or before == "dot":
        return None
    if source.kind(position + 1) in ("colon", "lparen", *_FOLLOWS_FIELD):
        return None
    return BadExpression("bare-word", f"'{word}' is a field name; write `{meant}`", source.offset(position))


_WORDS = {"true": "true", "false": "false", "null": "null"}
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # in a comparison; a field may be called so


_FOLLOWS_FIELD = ("dot", "lbracket", "filter", "flatten")


def _negated_path(source: _Source, position: int) -> BadExpression | None:
    first = position + 1
    end = _end_of_operand(source, first)
    if source.kind(end) not in ("dot", "filter", "flatten"):
        return None
    operand, path = source.between(first, end), source.between(first, _end_of_path(source, end))
    if len(path) > _SHOWN:
        operand, path = "a", "a.b" if source.kind(end) == "dot" else "a[?x]"
    rest = path[len(operand) :]
    problem = f"!{path} means (!{operand}){rest} in JMESPath and is always null; write !({path})"
    return BadExpression("negated-path", problem, source.offset(position))


def _end_of_operand(source: _Source, position: int) -> int:
    """Find the token after what "!" takes: a name, a call or a bracket, with its [indexes]."""
    while source.kind(position) == "not":
        position += 1
    position = _after_bracket(source, position) if source.kind(position) in _OPENING else position + 1
    while source.kind(position) in ("lparen", "lbracket"):
        position = _after_bracket(source, position)
    return position


def _end_of_path(source: _Source, position: int) -> int:
    while source.kind(position) in (*_FOLLOWS_FIELD, *_NAMES, "star", "lparen", "lbrace"):
        opening = source.kind(position) in _OPENING
        position = _after_bracket(source, position) if opening else position + 1
    return position


def _after_bracket(source: _Source, position: int) -> int:
    """Find the token after the bracket that closes the one at a position."""
    depth = _bracket(source, position)
    while depth:
        position += 1
        depth += _bracket(source, position)
    return position + 1


def _index_after_filter(source: _Source, position: int) -> BadExpression | None:
    end = _after_bracket(source, position)
    if [token["type"] for token in source.tokens[end : end + 3]] != ["lbracket", "number", "rbracket"]:
        return None
    index = source.tokens[end + 1]["value"]
    filtered = source.between(_start_of_path(source, position), end)
    filtered = filtered if len(filtered) <= _SHOWN else "a[?x]"
    instead = {0: f"first({filtered})", -1: f"last({filtered})"}.get(index, f"({filtered})[{index}]")
    problem = f"[{index}] after a filter applies to each item; write {instead}"
    return BadExpression("index-after-filter", problem, source.offset(end))


def _start_of_path(source: _Source, position: int) -> int:
    """Find the first token of the names and dots that end before a position."""
    while position and source.kind(position - 1) in ("dot", "current", *_NAMES):
        position -= 1
    return position


_NAMES = ("unquoted_identifier", "quoted_identifier")


def _loose_pipe(source: _Source, position: int) -> BadExpression | None:
    """Find `a || b[?x] | [0]`, which takes the first of the whole choice."""
    if source.kind(position + 1) != "lbracket" or source.kind(position + 2) != "number":
        return None
    depth = 0
    for before in reversed(range(position)):
        depth -= _bracket(source, before)
        if depth < 0 or (depth == 0 and source.kind(before) in ("comma", "colon", "pipe", "expref")):
            return None
        if depth == 0 and source.kind(before) in ("or", "and", "not", *_COMPARISONS):
            problem = "'|' applies to everything on its left; write first(a[?x]) or parentheses"
            return BadExpression("loose-pipe", problem, source.offset(position))
    return None


def _zero_step(source: _Source, position: int) -> BadExpression | None:
    inside = source.tokens[position + 1 : _after_bracket(source, position) - 1]
    written = [":" if token["type"] == "colon" else token["value"] for token in inside]
    if any(token["type"] not in ("colon", "number") for token in inside) or written.count(":") != 2:
        return None
    if written[-1] != 0:
        return None
    return BadExpression("slice-step", "the step of a slice cannot be 0", inside[-1]["start"])


_COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
    "lt": ("<", operator.lt),
    "lte": ("<=", operator.le),
    "gt": (">", operator.gt),
    "gte": (">=", operator.ge),
}

_SLIPS: Mapping[str, Callable[[_Source, int], BadExpression | None]] = {
    **dict.fromkeys(_COMPARISONS, _quoted_comparison),
    "unquoted_identifier": _bare_word,
    "not": _negated_path,
    "filter": _index_after_filter,
    "pipe": _loose_pipe,
    "lbracket": _zero_step,
}


# Checks of the tree: functions exist and are called as they have to be


def _check_tree(tree: _Tree, source: _Source, names: Names) -> None:
    """Check all calls; the tree has no positions, but holds its calls in the order of the tokens."""
    positions = range(len(source.tokens))
    calls = iter([at for at in positions if _is_call(source, at)])
    references = iter([source.offset(at) for at in positions if source.kind(at) == "expref"])
    taken: set[int] = set()
    for node in _walk(tree):
        if node["type"] == "function_expression":
            taken.update(_check_call(node, source, next(calls, None), names))
        elif node["type"] == "expref":
            offset = next(references)
            if id(node) not in taken:
                problem = "& stands only where a function takes it, as in sort_by(list, &field)"
                raise BadExpression("argument", problem, offset)


def _is_call(source: _Source, position: int) -> bool:
    return source.kind(position) == "unquoted_identifier" and source.kind(position + 1) == "lparen"


def _walk(tree: _Tree) -> Iterator[_Tree]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(_operands(node)))


def _check_call(node: _Tree, source: _Source, position: int | None, names: Names) -> list[int]:
    """Check one call; gives which of its arguments may be references."""
    name, arguments = node["value"], node["children"]
    if position is None:
        raise BadExpression(
            "expression", f"bad expression: write {name}(…) without brackets around {name}", 0
        )
    function, offset = FUNCTIONS.get(name), source.offset(position)
    if function is None:
        problem = f"unknown function {_shortened(name)}(){did_you_mean(name, FUNCTIONS, '{}()')}"
        raise BadExpression("unknown-function", problem, offset)
    if miscounted := function.arity_problem(len(arguments)):
        raise BadExpression("arity", miscounted, offset)
    _check_arguments(function, arguments, source, position)
    if name == "index" and not names.inside_each:
        raise BadExpression("index-outside-each", "index() is known only in a call that has each", offset)
    _check_names(name, arguments, names, source.offset(position + 2))
    return [id(argument) for index, argument in enumerate(arguments) if function.parameter(index).expression]


def _check_arguments(function: Function, arguments: list[_Tree], source: _Source, position: int) -> None:
    offsets = _argument_offsets(source, position)
    if len(offsets) != len(arguments):
        missing = f"bad expression: the arguments of {function.name}() are separated by one comma each"
        raise BadExpression("expression", missing, source.offset(position))
    for index, argument in enumerate(arguments):
        if problem := _argument_problem(function, index, argument):
            raise BadExpression("argument", problem, offsets[index])
    known = [argument["value"] if argument["type"] == "literal" else ... for argument in arguments]
    if function.check and (mistake := function.check(known)):
        at = source.offset(position) if mistake.argument is None else offsets[mistake.argument]
        raise BadExpression(mistake.code, mistake.problem, at)


def _argument_offsets(source: _Source, position: int) -> list[int]:
    """Find where the arguments of the call at a position start."""
    first, end = position + 2, _after_bracket(source, position + 1) - 1
    starts = [] if first == end else [first]
    depth = 0
    for at in range(first, end):
        depth += _bracket(source, at)
        if depth == 0 and source.kind(at) == "comma":
            starts.append(at + 1)
    return [source.offset(start) for start in starts]


def _argument_problem(function: Function, index: int, argument: _Tree) -> str | None:
    parameter = function.parameter(index)
    if parameter.expression and argument["type"] != "expref":
        return f"{function.name}() needs & before its {parameter.name}, as in {function.example.expression}"
    literal = argument["type"] == "literal"
    if parameter.literal and not (literal and type(argument["value"]) in parameter.kinds):
        quoted = "in single quotes" if parameter.kinds == {str} else f"as `1` or '{parameter.name}'"
        return f"{function.name}() needs its {parameter.name} written here {quoted}"
    if literal and argument["value"] is not None:
        return function.kind_problem(index, argument["value"])
    return None


def _check_names(name: str, arguments: Sequence[_Tree], names: Names, offset: int) -> None:
    if name == "var":
        _check_name("variable", "let", arguments[0]["value"], names.variables, offset)
    elif name == "lookup":
        _check_name("table", "tables", arguments[0]["value"], names.tables, offset)


def _check_name(what: str, section: str, name: str, known: Iterable[str], offset: int) -> None:
    if name not in known:
        problem = f"there is no {what} '{_shortened(name)}' under {section}{did_you_mean(name, known)}"
        raise BadExpression(f"unknown-{what}", problem, offset)


# Compiling


def _compile(node: _Tree) -> Evaluate:
    return _COMPILERS[node["type"]](node)


def _current(_node: _Tree) -> Evaluate:
    return lambda current, _scope: current


def _literal(node: _Tree) -> Evaluate:
    value: JSON = node["value"]
    return lambda _current, _scope: value


def _field(node: _Tree) -> Evaluate:
    name: str = node["value"]
    return lambda current, _scope: current.get(name) if type(current) is dict else None


def _subexpression(node: _Tree) -> Evaluate:
    operands = _operands(node)
    if all(operand["type"] == "field" for operand in operands):
        return _path([operand["value"] for operand in operands])
    return _steps(operands)


def _path(names: Sequence[str]) -> Evaluate:
    """Compile a.b.c, by far the most frequent expression: into one loop, or where it is short into none."""
    match names:
        case [first, second]:
            return _path_of_two(first, second)
        case [first, second, third]:
            return _path_of_three(first, second, third)

    def evaluate(current: JSON, _scope: Scope) -> JSON:
        for name in names:
            if type(current) is not dict:
                return None
            current = current.get(name)
        return current

    return evaluate


def _path_of_two(first: str, second: str) -> Evaluate:
    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if type(current) is dict and type(below := current.get(first)) is dict:
            return below.get(second)
        return None

    return evaluate


def _path_of_three(first: str, second: str, third: str) -> Evaluate:
    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if (
            type(current) is dict
            and type(below := current.get(first)) is dict
            and type(below := below.get(second)) is dict
        ):
            return below.get(third)
        return None

    return evaluate


def _chain(node: _Tree) -> Evaluate:
    return _steps(_operands(node))


def _steps(operands: Sequence[_Tree]) -> Evaluate:
    steps = [_compile(operand) for operand in operands if operand["type"] not in ("identity", "current")]

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for step in steps:
            current = step(current, scope)
        return current

    return evaluate


def _index(node: _Tree) -> Evaluate:
    index: int = node["value"]

    def evaluate(current: JSON, _scope: Scope) -> JSON:
        if isinstance(current, list) and -len(current) <= index < len(current):
            return current[index]
        return None

    return evaluate


def _slice(node: _Tree) -> Evaluate:
    bounds = slice(*node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if not isinstance(current, list):
            return None
        taken = current[bounds]
        scope.budget.spend(len(taken))
        return taken

    return evaluate


def _projection(node: _Tree) -> Evaluate:
    base, each = map(_compile, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items, each, scope) if isinstance(items, list) else None

    return evaluate


def _value_projection(node: _Tree) -> Evaluate:
    base, each = map(_compile, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        return _project(items.values(), each, scope) if isinstance(items, dict) else None

    return evaluate


def _filter_projection(node: _Tree) -> Evaluate:
    base, each, condition = map(_compile, node["children"])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        scope.budget.spend(2 * len(items))
        return _project([item for item in items if truthy(condition(item, scope))], each, scope)

    return evaluate


def _project(items: Collection[JSON], each: Evaluate, scope: Scope) -> JSON:
    scope.budget.spend(len(items))
    return [value for item in items if (value := each(item, scope)) is not None]


def _flatten(node: _Tree) -> Evaluate:
    base = _compile(node["children"][0])

    def evaluate(current: JSON, scope: Scope) -> JSON:
        items = base(current, scope)
        if not isinstance(items, list):
            return None
        flat = _flattened(items)
        scope.budget.spend(len(items) + len(flat))
        return flat

    return evaluate


def _flattened(items: list[JSON]) -> list[JSON]:
    flat: list[JSON] = []
    for item in items:
        if isinstance(item, list):
            flat.extend(item)
        else:
            flat.append(item)
        if len(flat) > MAX_ITEMS:
            raise ExpressionError(f"[] would give more than {MAX_ITEMS:,} items")
    return flat


def _multi_select_list(node: _Tree) -> Evaluate:
    items = [_compile(child) for child in node["children"]]
    steps = 1 + len(items)

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if current is None:
            return None
        scope.budget.spend(steps)
        return [item(current, scope) for item in items]

    return evaluate


def _multi_select_dict(node: _Tree) -> Evaluate:
    entries = [(child["value"], _compile(child["children"][0])) for child in node["children"]]
    steps = 2 + len(entries)

    def evaluate(current: JSON, scope: Scope) -> JSON:
        if current is None:
            return None
        scope.budget.spend(steps)
        return {name: value(current, scope) for name, value in entries}

    return evaluate


def _or(node: _Tree) -> Evaluate:
    *firsts, last = map(_compile, _operands(node))

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for operand in firsts:
            value = operand(current, scope)
            if truthy(value):
                return value
        return last(current, scope)

    return evaluate


def _and(node: _Tree) -> Evaluate:
    *firsts, last = map(_compile, _operands(node))

    def evaluate(current: JSON, scope: Scope) -> JSON:
        for operand in firsts:
            value = operand(current, scope)
            if not truthy(value):
                return value
        return last(current, scope)

    return evaluate


def _not(node: _Tree) -> Evaluate:
    operand = _compile(node["children"][0])
    return lambda current, scope: not truthy(operand(current, scope))


def _comparator(node: _Tree) -> Evaluate:
    left, right = map(_compile, node["children"])
    sign, compare = _COMPARISONS[node["value"]]
    if node["value"] == "eq":
        return lambda current, scope: equal(left(current, scope), right(current, scope), scope.budget.spend)
    if node["value"] == "ne":
        return lambda current, scope: (
            not equal(left(current, scope), right(current, scope), scope.budget.spend)
        )

    def evaluate(current: JSON, scope: Scope) -> JSON:
        return _ordering(sign, compare, left(current, scope), right(current, scope))

    return evaluate


def _ordering(sign: str, compare: Callable[[Any, Any], bool], left: JSON, right: JSON) -> JSON:
    text = isinstance(left, str), isinstance(right, str)
    number = type(left) in (int, float), type(right) in (int, float)
    if all(text) or all(number):
        return compare(left, right)
    if any(text) and any(number):
        problem = (
            f"cannot compare {kind(left)} with {kind(right)} by {sign}; to_number(…) reads a text as a number"
        )
        raise ExpressionError(problem)
    return None


def _function_expression(node: _Tree) -> Evaluate:
    function = FUNCTIONS[node["value"]]
    if function.lazy:
        lazily = [_compile(child) for child in node["children"]]
        return lambda current, scope: function.call(lazily, current, scope)
    arguments = [
        (_reference(child) if child["type"] == "expref" else _compile(child)) for child in node["children"]
    ]
    return _call(function, arguments)


def _reference(node: _Tree) -> Callable[[JSON, Scope], Any]:
    """Compile &field into what gives a function of one value, bound to the scope."""
    expression = _compile(node["children"][0])
    return lambda _current, scope: lambda value: expression(value, scope)


_Argument: TypeAlias = Callable[[JSON, Scope], Any]


def _call(function: Function, arguments: Sequence[_Argument]) -> Evaluate:
    """Compile a call; one with up to two arguments, as nearly all are, needs no lists and no loops."""
    call = function.call
    match arguments:
        case [] if function.needs_scope and not function.stride:
            return lambda _current, scope: call(scope)
        case [only]:
            return _call_of_one(function, only)
        case [first, second]:
            return _call_of_two(function, first, second)
        case _:
            return _call_of_any(function, arguments)


def _call_of_one(function: Function, argument: _Argument) -> Evaluate:
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds, finish = function.parameter(0).kinds, _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        value = argument(current, scope)
        if value is None and not takes_null:
            return None
        if kinds and type(value) not in kinds:
            raise ExpressionError(function.kind_problem(0, value))
        result = call(scope, value) if needs_scope else call(value)
        return finish((value, result), scope) if finish else result

    return evaluate


def _call_of_two(function: Function, first: _Argument, second: _Argument) -> Evaluate:
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds, second_kinds = function.parameter(0).kinds, function.parameter(1).kinds
    finish = _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        one, other = first(current, scope), second(current, scope)
        if (one is None or other is None) and not takes_null:
            return None
        if kinds and type(one) not in kinds:
            raise ExpressionError(function.kind_problem(0, one))
        if second_kinds and type(other) not in second_kinds:
            raise ExpressionError(function.kind_problem(1, other))
        result = call(scope, one, other) if needs_scope else call(one, other)
        return finish((one, other, result), scope) if finish else result

    return evaluate


def _call_of_any(function: Function, arguments: Sequence[_Argument]) -> Evaluate:
    call, takes_null, needs_scope = function.call, function.takes_null, function.needs_scope
    kinds = [(index, kinds) for index in range(len(arguments)) if (kinds := function.parameter(index).kinds)]
    finish = _finish(function) if function.stride else None

    def evaluate(current: JSON, scope: Scope) -> JSON:
        values = [argument(current, scope) for argument in arguments]
        if not takes_null and None in values:
            return None
        for index, allowed in kinds:
            if type(values[index]) not in allowed:
                raise ExpressionError(function.kind_problem(index, values[index]))
        result = call(scope, *values) if needs_scope else call(*values)
        return finish((*values, result), scope) if finish else result

    return evaluate


_CALL = 10  # steps that a call takes, however small its arguments
_FEW = 1_000  # steps: no text and no list that was counted among them is near its limit


def _finish(function: Function) -> Callable[[Sequence[JSON], Scope], JSON]:
    """Make what counts the work of a function and bounds its result, which stands behind its arguments."""
    name, stride = function.name, function.stride

    def finish(values: Sequence[JSON], scope: Scope) -> JSON:
        steps = _CALL
        for value in values:
            if type(value) is str:
                steps += len(value) // stride
            elif type(value) is list or type(value) is dict:
                steps += len(value)
        scope.budget.spend(steps)
        return values[-1] if steps < _FEW else limited(name, values[-1])

    return finish


_COMPILERS: Mapping[str, Callable[[_Tree], Evaluate]] = {
    "and_expression": _and,
    "comparator": _comparator,
    "current": _current,
    "field": _field,
    "filter_projection": _filter_projection,
    "flatten": _flatten,
    "function_expression": _function_expression,
    "identity": _current,
    "index": _index,
    "index_expression": _chain,
    "literal": _literal,
    "multi_select_dict": _multi_select_dict,
    "multi_select_list": _multi_select_list,
    "not_expression": _not,
    "or_expression": _or,
    "pipe": _chain,
    "projection": _projection,
    "slice": _slice,
    "subexpression": _subexpression,
    "value_projection": _value_projection,
}
