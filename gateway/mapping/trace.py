"""Record the steps of a translation, for `gateway translate --explain`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Location
from gateway.event import JSON
from gateway.mapping.model import Computed


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a translation: a decision, or the evaluation of one expression.

    Attributes:
        depth: Its indentation: 0 the event, 1 a part of it, 2 a call, 3 a value of the call.
        label: The decision, or the name of the key that was evaluated.
        location: The place in the mapping file.
        expression: The expression that was evaluated; None: the step is a decision.
        value: What the expression gave.
        problem: Why the expression gave no value.
    """

    depth: int
    label: str
    location: Location | None = None
    expression: str | None = None
    value: JSON = None
    problem: str | None = None


class Trace:
    """The steps of a translation so far. Evaluations are indented below the decision before them."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._depth = 0

    def step(self, depth: int, label: str, location: Location | None = None) -> None:
        """Record a decision."""
        self.steps.append(Step(depth=depth, label=label, location=location))
        self._depth = depth + 1

    def note(self, text: str, location: Location) -> None:
        """Record what was done with the value of the evaluation before it."""
        self.steps.append(Step(depth=self._depth, label=text, location=location))

    def evaluated(self, name: str, computed: Computed, value: JSON, problem: str | None = None) -> None:
        """Record the value of an expression, or the problem that it met."""
        self.steps.append(
            Step(
                depth=self._depth,
                label=name,
                location=computed.location,
                expression=computed.expression.text,
                value=value,
                problem=problem,
            )
        )
