"""The keys of a call: what kind of value each takes, and what an editor and an error message say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum
from keyword import iskeyword
from typing import Any, TypeAlias, TypeVar, dataclass_transform

from gateway.customerio.calls.attributes import AttributeRules
from gateway.customerio.limits import Violation

#: Returns the violations of a value that is not None; *field* is the path of its key.
Check: TypeAlias = Callable[[str, Any], Iterable[Violation]]


class Kind(Enum):
    """What a key of a call takes."""

    IDENTIFIER = "identifier"  # names a person: an expression
    PERSON = "person"  # an object with one identifier
    REFERENCE = "reference"  # the id of an object or a device: an expression that gives text
    TEXT = "text"  # literal text or an expression
    EVENT_ID = "event id"
    TIMESTAMP = "timestamp"
    ATTRIBUTES = "attributes"
    TEXTS = "texts"  # attributes that have to be texts
    OBJECT = "object"  # an expression that gives one
    OBJECT_OF_TEXTS = "object of texts"  # an expression that gives one; numbers and booleans are written out
    MEMBERS = "members"  # a list of objects with keys of their own, or an expression that gives one
    HEADERS = "headers"  # an object of texts
    PARAMETERS = "parameters"  # an object of texts, numbers, booleans, and lists of them
    FILES = "files"  # an object of texts
    DATA = "data"  # any value
    NOTE = "note"  # literal text
    SECONDS = "seconds"  # a literal number
    FLAG = "flag"  # true or false
    RETRY = "retry"  # an object of literal settings


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a call, or of a member of a call's list.

    Attributes:
        about: The sentence that an editor shows.
        required: The key has no default.
        example: A value as a mapping writes it, for the message that a required key is missing.
        examples: Values that an editor offers.
        choices: The only texts that are valid; empty: any.
        problem: Returns what is wrong with a value, or None.
        check: Checks a value that is more than a text with choices or a problem.
        attributes: What Customer.io takes, for the kinds that are attributes.
        keys: The keys of each member, for the kinds that have members.
        clean: Brings a value whose meaning is certain into the form that is sent, when a call is made.
        unless: The key that may stand in the place of a required one.
        identifying: Texts that lack a part may not stand for the whole: the key names one thing among others.
    """

    kind: Kind
    about: str
    required: bool = False
    example: str = ""
    examples: tuple[object, ...] = ()
    choices: tuple[str, ...] = ()
    problem: Callable[[Any], str | None] | None = None
    check: Check | None = None
    attributes: AttributeRules | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)
    clean: Callable[[Any], Any] | None = None
    unless: str = ""
    identifying: bool = False

    @property
    def always_required(self) -> bool:
        """Whether no other key may stand in its place."""
        return self.required and not self.unless

    @property
    def checker(self) -> Check | None:
        """The check of a value: *check*, or one that the choices and the problem make."""
        return self.check or (self._check_text if self.choices or self.problem else None)

    def _check_text(self, field: str, value: Any) -> Iterable[Violation]:
        problem = None if self.problem is None else self.problem(value)
        if self.choices and value not in self.choices:
            problem = f"is not one of {', '.join(self.choices)}"
        return () if problem is None else (Violation(field=field, problem=problem),)


def key(kind: Kind, *, about: str, default: Any = MISSING, default_factory: Any = MISSING, **facts: Any) -> Any:
    """Declare a field of a call and the key that it is in a mapping; *facts* are further attributes of `Key`."""
    return shared(Key(kind=kind, about=about, **facts), default=default, default_factory=default_factory)


def shared(of: Key, *, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Declare a field whose key several calls have; without a default it is required."""
    required = bool(of.unless) or (default is MISSING and default_factory is MISSING)
    metadata = {"key": replace(of, required=required)}
    return field(default=default, default_factory=default_factory, metadata=metadata)


_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key, shared))
def call_class(cls: type[_Class]) -> type[_Class]:
    """Make a class with keys a frozen dataclass. Type checkers know `key` and `shared` as its fields."""
    made: Any = dataclass(frozen=True, kw_only=True)(cls)
    keys = zip(fields(made), declared_keys(made).items(), strict=True)
    made.checks = tuple((of.name, name, key.checker) for of, (name, key) in keys if key.checker)
    made.cleans = tuple((of.name, of.metadata["key"].clean) for of in fields(made) if of.metadata["key"].clean)
    return cls


def declared_keys(cls: type[Any]) -> dict[str, Key]:
    """Return the keys of a call's class, by name and in the order of the class."""
    return {of.name.rstrip("_"): of.metadata["key"] for of in fields(cls)}


def field_of(name: str) -> str:
    """Return the field of a call's class for a key: one that Python reserves has an underscore after it."""
    return f"{name}_" if iskeyword(name) else name
