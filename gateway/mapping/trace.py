"""How a translation went, step by step, for people who ask why."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Location
from gateway.event import JSON
from gateway.mapping.model import Computed


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that was found out on the way to the calls.

    Attributes:
        depth: How far in it belongs: 0 the event, 1 a part of it, 2 a call, 3 one of the call's values.
        label: What was found out, or the name of what was evaluated.
        where: The place in the mapping file.
        expression: What was evaluated, and to which *value*; None: nothing was.
        problem: Why it has no value.
    """

    depth: int
    label: str
    where: Location | None = None
    expression: str | None = None
    value: JSON = None
    problem: str | None = None


class Trace:
    """The steps so far; what is evaluated belongs below what was told last."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._depth = 0

    def tell(self, depth: int, label: str, where: Location | None = None) -> None:
        """Say what happens next."""
        self.steps.append(Step(depth=depth, label=label, where=where))
        self._depth = depth + 1

    def evaluated(self, name: str, computed: Computed, value: JSON, problem: str | None = None) -> None:
        """Say what an expression gave."""
        self.steps.append(
            Step(
                depth=self._depth,
                label=name,
                where=computed.where,
                expression=computed.expression.text,
                value=value,
                problem=problem,
            )
        )
