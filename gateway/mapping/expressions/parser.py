"""Parse the text of an expression into a tree, or explain a syntax error so that the message holds the fix.

The package reports syntax errors as "Unexpected token"; the functions below recognise what the author wanted.
"""

from __future__ import annotations

import re

from jmespath.exceptions import IncompleteExpressionError, JMESPathError, LexerError, ParseError
from jmespath.lexer import Lexer
from jmespath.parser import Parser

from gateway.errors import ExpressionError, shortened
from gateway.mapping.expressions.source_text import (
    MAX_DEPTH,
    BadExpression,
    SourceText,
    Token,
    Tree,
    depth_change,
    operands_of,
    start_of_path,
    too_deep,
)
from gateway.mapping.functions import read_json

_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<literal>(?:\\.|[^`\\])*)`|['"`]""", re.DOTALL)


def check_literals(text: str) -> None:
    """Raise BadExpression for a literal that is not JSON: the package would take `foo` for text, and warn."""
    for quoted in _QUOTED.finditer(text):
        if quoted.group() in "'\"`":
            # YAML takes " #" for the start of a comment, which cuts the expression.
            hint = '; if the text contains " #", write the expression as a block (key: >-)'
            problem = f"bad expression: {quoted.group()} is opened here and never closed"
            problem += hint if quoted.group() == "'" else ""
            raise BadExpression("expression", problem, quoted.start())
        literal = quoted["literal"]
        if literal is None:
            continue
        try:
            read_json(literal.replace("\\`", "`"))
        except ExpressionError:
            shown = shortened(literal)
            problem = f"`{shown}` is not JSON; text is written '{shown}'"
            raise BadExpression("not-json", problem, quoted.start()) from None


def tokenize(text: str) -> list[Token]:
    """Return the tokens of an expression. Raises BadExpression."""
    try:
        return list(Lexer().tokenize(text))
    except LexerError as error:
        offset = error.lexer_position
        character = text[offset : offset + 1]
        if bad_name := _name_without_quotes(text, offset):
            raise bad_name from None
        if character in _OPERATORS:
            problem = f'there is no "{character}" in expressions; write {_OPERATORS[character]}'
        else:
            problem = _CHARACTERS.get(character, f"{character!r} stands only inside quotes")
        raise BadExpression("expression", f"bad expression: {problem}", offset) from None
    except JMESPathError as error:
        raise BadExpression("expression", f"bad expression: {error}", 0) from None


_OPERATORS = {"+": "add(a, b), or for text format('{} {}', a, b)", "-": "subtract(a, b)", "/": "divide(a, b)"}
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


_NAME_WITH_PATH = re.compile(r"(?P<path>(?:[A-Za-z_]\w*\.)*)(?P<name>[\w$][\w$-]*)")


def _name_without_quotes(text: str, offset: int) -> BadExpression | None:
    """Explain a character that a field name without quotes cannot have."""
    for match in _NAME_WITH_PATH.finditer(text):
        if match.start("name") <= offset < match.end() and match["name"] != "$":
            quoted = shortened(f'{match["path"]}"{match["name"]}"')
            problem = f"bad expression: a field name with {text[offset]!r} needs double quotes: {quoted}"
            return BadExpression("unquoted-name", problem, offset)
    return None


def check_nesting(source: SourceText) -> None:
    """Raise BadExpression for brackets and prefixes that are nested too deep for the parser, which recurses."""
    depth = prefixes = 0
    for position, token in enumerate(source.tokens):
        depth += depth_change(source, position)
        prefixes = prefixes + 1 if token["type"] in ("not", "expref") else 0
        if depth + prefixes > MAX_DEPTH:
            raise too_deep(source.offset(position))


def parse(source: SourceText) -> Tree:
    """Return the tree of an expression. Raises BadExpression."""
    try:
        tree: Tree = Parser().parse(source.text).parsed
    except RecursionError:
        raise too_deep(0) from None
    except IncompleteExpressionError:
        raise _incomplete(source) from None
    except ParseError as error:
        raise _unexpected(source, error) from None
    # A chain like a || b || c is one level, because it is compiled into one loop.
    waiting = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise too_deep(0)
        waiting.extend((child, depth + 1) for child in operands_of(node))
    return tree


def _incomplete(source: SourceText) -> BadExpression:
    """Explain an expression that ends too early."""
    opened: list[int] = []
    for position in range(len(source.tokens)):
        change = depth_change(source, position)
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


def _unexpected(source: SourceText, error: ParseError) -> BadExpression:
    """Explain a token that does not fit where it stands."""
    position = next(at for at, token in enumerate(source.tokens) if token["start"] >= error.lex_position)
    kind, offset = source.kind(position), source.offset(position)
    if kind == "eof":
        return _incomplete(source)
    if number_problem := _bare_number(source, position):
        return number_problem
    before = source.tokens[position - 1]["value"] if position else None
    problem = _foreign_syntax(source.tokens[position]["value"], before) or _misplaced(source, position)
    if problem:
        return BadExpression("expression", f"bad expression: {problem}", offset)
    if "function name" in error.msg:
        return BadExpression("expression", "bad expression: only a name without quotes can be called", offset)
    shown = source.text[offset] if kind == "literal" else source.tokens[position]["value"]
    return BadExpression("expression", f"bad expression: {shown} does not fit here", offset)


def _bare_number(source: SourceText, position: int) -> BadExpression | None:
    """Explain a number without backticks, which JMESPath takes only as an index."""
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
    if re.match(r"\w-", text[max(offset - 1, 0) :]) and (bad_name := _name_without_quotes(text, offset)):
        return bad_name
    number = re.match(r"-?[0-9]+(?:\.[0-9]+)?", text[offset:])
    assert number is not None  # the token is one
    problem = f"numbers in expressions are written in backticks: `{shortened(number.group())}`"
    return BadExpression("bare-number", problem, offset)


def _number_in_path(source: SourceText, position: int) -> BadExpression:
    """Explain `items.0.sku` and `user.2fa`."""
    start = start_of_path(source, position - 1)
    path, offset = source.between(start, position - 1), source.offset(position)
    name = re.match(r"\w+", source.text[offset:])
    if name is None or name.group().isdigit():
        index = shortened(name.group()) if name else "0"
        problem = f"an index is written in brackets: {shortened(path)}[{index}]"
        return BadExpression("expression", f"bad expression: {problem}", offset)
    quoted = shortened(f'{path}."{name.group()}"')
    problem = f"bad expression: a field name that starts with a digit needs double quotes: {quoted}"
    return BadExpression("unquoted-name", problem, offset)


def _misplaced(source: SourceText, position: int) -> str | None:
    """Explain a token by the kind of the token before it."""
    kinds = source.kind(position - 1) if position else "", source.kind(position)
    text = shortened(source.between(start_of_path(source, position - 1), position + 1)) if position else ""
    if kinds == ("", "dot"):
        return "names start at the body by themselves, without a dot"
    if kinds == ("unquoted_identifier", "unquoted_identifier"):
        path, _, name = text.rpartition(".")
        return f'a field name with a blank needs double quotes: {path}{"." if path else ""}"{name}"'
    if kinds == ("dot", "literal"):
        name = source.tokens[position]["value"]
        path = source.between(start_of_path(source, position - 1), position - 1)
        return f'a field name is written in double quotes: {shortened(path)}."{shortened(str(name))}"'
    return "write && instead of &" if kinds[1] == "expref" and position else None


def _foreign_syntax(value: object, before: object) -> str | None:
    """Explain the syntax of other languages."""
    if value in ("and", "or"):
        return f"write {'&&' if value == 'and' else '||'} instead of {value}"
    if before == "not":
        return "write !(…) instead of not"
    if value == "{" and before == "{":
        return "a value is written =a.b, without {{ }}"
    if value == "in":
        return "write contains(list, x) instead of x in list"
    return "two values are compared with ==" if value == "is" else None
