"""What a function is, how it is registered, and what it sees when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TypeAlias

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import kind, kinds_text

MAX_STEPS = 5_000_000  # for all expressions on one webhook: one or two seconds of a processor
MAX_SECONDS = 0.5  # of a processor, where there is a clock
STEPS_BETWEEN_LOOKS = 10_000  # at the clock: some milliseconds


class Budget:
    """The steps and the seconds that the expressions on one webhook may still take.

    A step takes about as long as copying one item of a list. Steps are counted so that no payload can keep a
    process busy for minutes, whatever the mapping does with it; and in the same way on every machine.

    Args:
        clock: Returns processor seconds of this thread: a busy machine fails no webhook. Without one, only steps count.
    """

    __slots__ = ("_clock", "_ends", "_look_at", "left")

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.left = MAX_STEPS
        self._clock = clock
        self._ends = 0.0 if clock is None else clock() + MAX_SECONDS
        self._look_at = 0 if clock is None else MAX_STEPS - STEPS_BETWEEN_LOOKS

    def spend(self, steps: int) -> None:
        """Subtract steps. Raises ExpressionError: too few are left, or the time is over."""
        self.left -= steps
        if self.left < self._look_at:
            self._look()

    def _look(self) -> None:
        if self.left < 0:
            limit, cause = f"{MAX_STEPS:,} steps", "goes through a whole list for each item of another"
        elif self._clock is not None and self._clock() > self._ends:
            limit, cause = f"{MAX_SECONDS:g} s", "searches a long text again and again"
        else:
            self._look_at = max(self.left - STEPS_BETWEEN_LOOKS, 0)
            return
        raise ExpressionError(f"with this payload the expressions take more than {limit}; look for one that {cause}")


# Not frozen: a frozen one takes more than twice as long to make, and each webhook makes several.
@dataclass(kw_only=True, slots=True)
class Scope:
    """What an expression sees besides the current value.

    Attributes:
        root: The part: names at the start of an expression are fields of it.
        body: The whole decoded body: the same as the root, unless the mapping splits it.
        headers: By name in lower case.
        received_at: Unix seconds.
        index: The position of the item under `each`, from 0.
        let: The functions that compute the variables, by name; called with the root.
        known: The variables that were computed already: each is computed once for a part.
        budget: The steps that all evaluations together may still take.
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

    # Written out, because dataclasses.replace takes four times as long.
    def inside_each(self, index: int) -> Scope:
        """Return the scope of the expressions on one item under `each`."""
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


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        kinds: The Python types of its values; empty: any.
        literal: Its value must be a literal in the mapping file, so that it can be checked at load.
        expression: It takes an expression such as &field, which the function applies to each item.
    """

    name: str
    _: KW_ONLY
    kinds: frozenset[type] = frozenset()
    optional: bool = False
    literal: bool = False
    expression: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """An expression that shows a function, with its input and its output.

    Attributes:
        setting: What the example needs besides its input, in words.
    """

    expression: str
    input: JSON
    output: JSON
    setting: str = ""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake in arguments that are known at load.

    Attributes:
        argument: The position of the argument; None: all together.
    """

    problem: str
    argument: int | None = None
    code: str = "argument"


Check: TypeAlias = Callable[[Sequence[object]], "Mistake | None"]


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function, and how expressions call it.

    Attributes:
        kind: The heading under which it is listed.
        call: The Python function. It takes the arguments, or if *lazy* (unevaluated arguments, current value, scope).
        variadic: The last parameter may be repeated.
        takes_null: It is called with null arguments too; otherwise one of them makes the result null.
        needs_scope: The scope is its first argument.
        stride: The characters of a text that it processes in one step; 0: its time does not depend on the size of
            its arguments.
        check: Finds mistakes in arguments that are known at load; ... stands for those that are not.
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
        """The function with its parameters, as in `substring(s, start, length?)`."""
        names = [parameter.name + ("?" if parameter.optional else "") for parameter in self.parameters]
        return f"{self.name}({', '.join([*names, '…'] if self.variadic else names)})"

    def parameter(self, position: int) -> Parameter:
        """Return the parameter of the argument at a position."""
        return self.parameters[min(position, len(self.parameters) - 1)]

    def arity_problem(self, count: int) -> str | None:
        """Return what is wrong with a number of arguments, or None."""
        most = len(self.parameters)
        least = sum(not parameter.optional for parameter in self.parameters)
        if least <= count and (count <= most or self.variadic):
            return None
        if self.variadic:
            takes = f"at least {least}"
        else:
            takes = "no" if most == 0 else str(most) if least == most else f"{least} or {most}"
        plural = "" if (least if self.variadic else most) == 1 else "s"
        return f"{self.name}() takes {takes} argument{plural}, got {count}"

    def kind_problem(self, position: int, value: object) -> str | None:
        """Return what is wrong with the kind of an argument, or None. The value is not shown: it may be personal."""
        parameter = self.parameter(position)
        if not parameter.kinds or type(value) in parameter.kinds:
            return None
        others = [other.kinds for other in self.parameters if not other.expression]
        several = len(others) > 1 or self.variadic
        if several and all(kinds == parameter.kinds for kinds in others):
            return f"{self.name}() needs {kinds_text(parameter.kinds, plural=True)}, got {kind(value)}"
        purpose = f" for '{parameter.name}'" if several else ""
        return f"{self.name}() needs {kinds_text(parameter.kinds)}{purpose}, got {kind(value)}"


# Strides: the characters of a text that a function processes in one step.
CHARACTERS = 16  # most functions
SLOWLY = 4  # functions that look at each character
CONSTANT = 0  # functions whose time does not depend on the size of their arguments


class Group:
    """The functions under one heading, in the order of the source; also the decorator that registers them.

    Args:
        stride, flags: Those of all its functions that say nothing else.
    """

    def __init__(self, kind: str, *, stride: int = CHARACTERS, **flags: bool) -> None:
        self.kind = kind
        self.stride = stride
        self.flags = flags
        self._entries: list[Function] = []

    def __iter__(self) -> Iterator[Function]:
        return iter(self._entries)

    def __call__(
        self,
        *parameters: Parameter,
        example: tuple[str, JSON, JSON],
        setting: str = "",
        stride: int | None = None,
        check: Check | None = None,
        **flags: bool,
    ) -> Callable[[Callable[..., JSON]], Callable[..., JSON]]:
        """Register a function by its name. Its docstring is the description for users.

        An underscore at the end of the name, as in `sum_`, keeps it apart from one of Python's own.

        Args:
            flags: variadic, takes_null, lazy and needs_scope, as in Function.
        """

        def register(call: Callable[..., JSON]) -> Callable[..., JSON]:
            expression, data, output = example
            entry = Function(
                name=call.__name__.removesuffix("_"),
                kind=self.kind,
                description=call.__doc__ or "",
                parameters=parameters,
                example=Example(expression=expression, input=data, output=output, setting=setting),
                call=call,
                stride=self.stride if stride is None else stride,
                check=check,
                **(self.flags | flags),
            )
            self._entries.append(entry)
            return call

        return register


# Parameters, by what their values may be; each takes the name of the parameter.
anything = Parameter
text = partial(Parameter, kinds=frozenset({str}))
number = partial(Parameter, kinds=frozenset({int, float}))
array = partial(Parameter, kinds=frozenset({list}))
mapping = partial(Parameter, kinds=frozenset({dict}))
#: An expression such as &field.
reference = partial(Parameter, expression=True)


def literal(name: str, *kinds: type) -> Parameter:
    """Return a parameter for a literal in the mapping file: text, unless *kinds* are given."""
    return Parameter(name, kinds=frozenset(kinds or {str}), literal=True)


def one_of(name: str, *kinds: type) -> Parameter:
    """Return a parameter for values of several kinds."""
    return Parameter(name, kinds=frozenset(kinds))


def optional(parameter: Parameter) -> Parameter:
    """Return the same parameter, which may be left out."""
    return replace(parameter, optional=True)
