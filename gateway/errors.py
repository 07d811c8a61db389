"""All errors of the gateway, as one tree.

GatewayError
├── ConfigError          the environment is wrong; the text names the variable and the fix
├── MappingError         a mapping file is wrong; holds every problem with its place
├── RequestError         a webhook cannot be accepted; holds the HTTP status to answer
│   └── VerificationError    its signature, token or password is not right (401)
├── SchemeError          a signature scheme written in a mapping is wrong (in verify)
├── BadExpression        an expression written in a mapping is wrong (in mapping.expressions)
├── ExpressionError      an expression met a value it cannot work on (without a place: the caller adds it)
├── TranslationError     a mapping failed on a payload; holds file, line, column and field
├── CallError            a call cannot be sent as it is; names the fields
├── SendError            Customer.io did not accept a call that was sent at once; holds the status
└── StoreError           the database cannot be used at present

Messages are read by strangers and land in logs: they never hold a secret, nor a value out of a payload.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum


class GatewayError(Exception):
    """Base of all errors of the gateway."""


class ConfigError(GatewayError):
    """The environment is wrong."""


@dataclass(frozen=True, kw_only=True, order=True)
class Location:
    """A place in a mapping file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Severity(Enum):
    """How severe a problem in a mapping file is: an error closes the source, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem in a mapping file; *text* also says how to fix it."""

    location: Location
    code: str
    text: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        return f"{self.location}: {self.severity.value} {self.code}: {self.text}"


class MappingError(GatewayError):
    """A mapping file is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class RequestError(GatewayError):
    """A webhook cannot be accepted.

    Attributes:
        status: The HTTP status to answer.
        hint: What the operator can do; it is not told to the sender.
    """

    def __init__(self, status: int, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.status = status
        self.hint = hint


class VerificationError(RequestError):
    """The signature, token or password of a webhook is missing or wrong."""

    def __init__(self, problem: str) -> None:
        super().__init__(401, problem)


class ExpressionError(GatewayError):
    """An expression met a value that it cannot work on."""


class TranslationError(GatewayError):
    """A mapping failed on a payload."""

    def __init__(self, location: Location, field: str, problem: str) -> None:
        super().__init__(f"{location}: {field}: {problem}")
        self.location = location
        self.field = field
        self.problem = problem


class CallError(GatewayError):
    """A call cannot be sent as it is: Customer.io would refuse, replace or drop something in it."""


class SendError(GatewayError):
    """Customer.io did not accept a call; *status* is that of the last response, None if none was complete."""

    def __init__(self, problem: str, status: int | None) -> None:
        super().__init__(problem)
        self.status = status


class StoreError(GatewayError):
    """The database cannot be used at present; trying again later may work."""


def defect(error: Exception) -> str:
    """Describe an unexpected error by its class and place in the code; its text may contain a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    return f"unexpected {type(error).__name__} at {place}"


SHOWN = 40  # characters that a message quotes from a mapping file


def shortened(text: str, most: int = SHOWN) -> str:
    """Cut a text to *most* characters; an ellipsis shows that there is more."""
    return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str, most: int) -> str:
    """Cut a stranger's text and replace control characters, for logs, terminals and databases that refuse NUL."""
    cut = text[:most]
    return cut if cut.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in cut)


def did_you_mean(name: str, known: Iterable[str], pattern: str = "'{}'") -> str:
    """Return the end of a message that suggests the most similar known name; "" if none is similar."""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f"; did you mean {pattern.format(near[0])}?" if near else ""
