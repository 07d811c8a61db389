"""What a function is, how it enters the table, and what it sees when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import kind, kinds_text

MAX_STEPS = 5_000_000  # of all expressions on one webhook: a second or two of one processor


class Budget:
    """The steps that are left to the expressions on one webhook.

    A step is what takes about as long as handing on one item of a list. They are counted, so that no
    payload, however it suits the mapping, keeps a process busy for minutes.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Take steps away.

        Raises ExpressionError: there are not so many left.
        """
        self.left -= steps
        if self.left < 0:
            raise ExpressionError(
                f"with this payload the expressions take more than {MAX_STEPS:,} steps; look for one that "
                "goes through a whole list for each item of another"
            )


# A frozen one takes more than twice as long to make, and each webhook makes several.
@dataclass(kw_only=True, slots=True)
class Scope:
    """What an expression sees besides the current value.

    Attributes:
        root: The part: what names at the start of an expression refer to.
        body: The whole decoded body; the same as the root unless the mapping splits it.
        headers: By names in lower case.
        received_at: Unix seconds.
        index: The number of the item under `each`, from 0.
        let: What computes the variables, by name; called with the root.
        known: The variables that have been asked for: each is computed once for a part.
        budget: What all evaluations together may cost.
    """

    root: JSON
    body: JSON
    headers: Mapping[str, str]
    query: Mapping[str, str]
    received_at: int
    event_type: str | None = None
    index: int | None = None
    let: Mapping[str, Evaluate] = field(default_factory=dict)
    known: dict[str, JSON] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    # dataclasses.replace looks at each field anew, which takes four times as long.
    def inside_each(self, index: int) -> Scope:
        """Give what an expression sees of one item under `each`."""
        return Scope(
            root=self.root,
            body=self.body,
            headers=self.headers,
            query=self.query,
            received_at=self.received_at,
            event_type=self.event_type,
            index=index,
            let=self.let,
            known=self.known,
            tables=self.tables,
            budget=self.budget,
        )


Evaluate: TypeAlias = Callable[[JSON, Scope], JSON]  # a compiled expression: current value, scope
Apply: TypeAlias = Callable[[JSON], JSON]  # an argument like &field, bound to its scope


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        kinds: The Python types that its values may have; empty: any.
        literal: It has to be written in the mapping file as it is, so that it can be checked at load.
        expression: It is written with & in front and applied to each item.
    """

    name: str
    kinds: frozenset[type] = frozenset()
    optional: bool = False
    literal: bool = False
    expression: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """An expression that shows a function, what it is applied to, and what it gives.

    Attributes:
        setting: What else there is than the input, in words.
    """

    expression: str
    input: JSON
    output: JSON
    setting: str = ""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What is wrong with arguments that are known at load.

    Attributes:
        argument: Which one it is; None: all together.
    """

    problem: str
    argument: int | None = None
    code: str = "argument"


Check: TypeAlias = Callable[[Sequence[object]], "Mistake | None"]


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function, and how expressions have to call it.

    Attributes:
        kind: The heading that it stands under.
        call: Takes the arguments; a *lazy* one takes (unevaluated arguments, current value, scope) instead.
        variadic: The last parameter may be repeated.
        takes_null: Null arguments are handed over; otherwise any of them makes the result null.
        needs_scope: The scope is handed over first.
        stride: How many characters of a text it gets through in one step; 0: the size of arguments does
            not matter.
        check: Finds what is wrong with arguments that are known at load; ... stands for those that are not.
    """

    name: str
    kind: str
    description: str
    parameters: tuple[Parameter, ...]
    example: Example
    call: Callable[..., JSON]
    variadic: bool = False
    takes_null: bool = False
    lazy: bool = False
    needs_scope: bool = False
    stride: int
    check: Check | None = None

    @property
    def signature(self) -> str:
        """How the function is written, as in `substring(s, start, length?)`."""
        names = [parameter.name + ("?" if parameter.optional else "") for parameter in self.parameters]
        return f"{self.name}({', '.join([*names, '…'] if self.variadic else names)})"

    def parameter(self, position: int) -> Parameter:
        """Find the parameter that an argument belongs to."""
        return self.parameters[min(position, len(self.parameters) - 1)]

    def arity_problem(self, count: int) -> str | None:
        """Say what is wrong with a number of arguments; None: nothing."""
        most = len(self.parameters)
        least = sum(not parameter.optional for parameter in self.parameters)
        if least <= count and (count <= most or self.variadic):
            return None
        if self.variadic:
            takes = f"at least {least}"
        else:
            takes = "no" if most == 0 else str(most) if least == most else f"{least} or {most}"
        counted = least if self.variadic else most
        return f"{self.name}() takes {takes} argument{'' if counted == 1 else 's'}, got {count}"

    def kind_problem(self, position: int, value: object) -> str | None:
        """Say what is wrong with the kind of an argument, without showing its value; None: nothing."""
        parameter = self.parameter(position)
        if not parameter.kinds or type(value) in parameter.kinds:
            return None
        others = [other.kinds for other in self.parameters if not other.expression]
        several = len(others) > 1 or self.variadic
        if several and all(kinds == parameter.kinds for kinds in others):
            return f"{self.name}() needs {kinds_text(parameter.kinds, plural=True)}, got {kind(value)}"
        purpose = f" for '{parameter.name}'" if several else ""
        return f"{self.name}() needs {kinds_text(parameter.kinds)}{purpose}, got {kind(value)}"


CHARACTERS = 16  # of a text that most functions get through in a step
SLOWLY = 4  # where each character is looked at by itself
CONSTANT = 0


class Group:
    """The functions under one heading, in the order in which they are written; a decorator that enters one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: list[Function] = []

    def __iter__(self) -> Iterator[Function]:
        return iter(self._entries)

    def __call__(
        self,
        *parameters: Parameter,
        example: tuple[str, JSON, JSON],
        setting: str = "",
        variadic: bool = False,
        takes_null: bool = False,
        lazy: bool = False,
        needs_scope: bool = False,
        stride: int = CHARACTERS,
        check: Check | None = None,
    ) -> Callable[[Callable[..., JSON]], Callable[..., JSON]]:
        """Enter a function under its name without the underscore; its docstring is its description."""

        def enter(call: Callable[..., JSON]) -> Callable[..., JSON]:
            expression, given, output = example
            entry = Function(
                name=call.__name__.removeprefix("_"),
                kind=self.kind,
                description=call.__doc__ or "",
                parameters=parameters,
                example=Example(expression=expression, input=given, output=output, setting=setting),
                call=call,
                variadic=variadic,
                takes_null=takes_null,
                lazy=lazy,
                needs_scope=needs_scope,
                stride=stride,
                check=check,
            )
            self._entries.append(entry)
            return call

        return enter


def anything(name: str) -> Parameter:
    """A parameter for a value of any kind."""
    return Parameter(name=name)


def text(name: str) -> Parameter:
    """A parameter for text."""
    return Parameter(name=name, kinds=frozenset({str}))


def literal(name: str, *kinds: type) -> Parameter:
    """A parameter for what is written in the mapping file: text, unless it says otherwise."""
    return Parameter(name=name, kinds=frozenset(kinds or {str}), literal=True)


def number(name: str) -> Parameter:
    """A parameter for a number."""
    return Parameter(name=name, kinds=frozenset({int, float}))


def array(name: str) -> Parameter:
    """A parameter for a list."""
    return Parameter(name=name, kinds=frozenset({list}))


def mapping(name: str) -> Parameter:
    """A parameter for an object."""
    return Parameter(name=name, kinds=frozenset({dict}))


def one_of(name: str, *kinds: type) -> Parameter:
    """A parameter for values of several kinds."""
    return Parameter(name=name, kinds=frozenset(kinds))


def optional(parameter: Parameter) -> Parameter:
    """The parameter, which may be left out."""
    return replace(parameter, optional=True)


def reference(name: str) -> Parameter:
    """A parameter for an expression such as &field."""
    return Parameter(name=name, expression=True)
