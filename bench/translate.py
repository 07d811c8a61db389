"""Microseconds that translating a webhook of some 10 KB takes, beside the bare `jmespath` package.

    python -m bench.translate [--rounds 25] [--repeat 20]

Whatever a translation evaluates, the package evaluates too: the same expressions, compiled once, on the same values,
with the gateway's functions given to it; that both give the same is asserted. The package stops there, while a
translation goes on to calls that are checked, identified and written as JSON: at most 1.5 times its time in all.

The webhooks are the bodies of each mapping's own tests that give calls, filled up with fields that senders add. Times
are of the processor, without garbage collections; both sides take turns, also at going first. Then a fresh process
loads 50 mapping files, copies of the shipped ones, and runs their tests: at most 2 seconds without imports.

    evaluated            expressions evaluated for a webhook
    written              characters of its calls as they are stored
    translate, jmespath  microseconds: the median of the rounds of the mean of a mapping's webhooks
    ratio                the median of the rounds; lowest, highest: of single rounds
    worst                the ratio of the webhook that has the largest
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jmespath
from jmespath import functions as jmespath_functions

from bench import harness
from bench.harness import MAPPINGS, Row
from gateway import payload
from gateway.errors import ExpressionError
from gateway.event import JSON, Event
from gateway.mapping import selftests
from gateway.mapping.expressions import Expression
from gateway.mapping.functions import FUNCTIONS, Function, Parameter, Scope, truthy
from gateway.mapping.model import CallRule, Computed, ListValue, MappingFile, ObjectValue, OrNull, Rule
from gateway.mapping.translate import translate
from gateway.receive.sources import load_source, mapping_files

TARGET = 1.5
LOAD_TARGET = 2.0  # seconds
SIZE = 10_000  # bytes of a body
FILES, LOADS = 50, 3
WARM_UP = 3  # rounds that are not counted


@dataclass(kw_only=True)
class Case:
    """One webhook, what the package evaluates for it, and the microseconds of each round."""

    mapping: MappingFile
    event: Event
    searches: Sequence[Search]
    written: int
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    def measure(self, repeat: int, *, bare_first: bool, keep: bool) -> None:
        """Time both sides one after the other: who goes first brings the body into the processor's caches."""

        def search_all() -> None:
            for search, current, options in self.searches:
                search(current, options)

        sides: list[tuple[list[float], Callable[[], object]]] = [
            (self.ours, lambda: translate(self.mapping, self.event)),
            (self.bare, search_all),
        ]
        for times, run in reversed(sides) if bare_first else sides:
            start = time.process_time_ns()
            for _ in range(repeat):
                run()
            if keep:
                times.append((time.process_time_ns() - start) / repeat / 1000)


def main() -> None:
    """Measure and print; the exit status says whether both targets are met."""
    options = harness.options(__doc__, rounds=25, repeat=20)
    cases = [case for path in mapping_files(MAPPINGS) for case in cases_of(_mapping(path))]
    gc.collect()
    gc.disable()
    for number in range(WARM_UP + options.rounds):
        for case in cases:
            case.measure(options.repeat, bare_first=number % 2 == 1, keep=number >= WARM_UP)
    gc.enable()
    groups = itertools.groupby(cases, lambda case: case.mapping.source)
    rows = [_row(source, list(group)) for source, group in groups]
    all_together = sum(row["translate"] for row in rows) / sum(row["jmespath"] for row in rows)
    loading = measure_loading()
    harness.report(__file__, options, rows, target=TARGET, all_together=round(all_together, 2), loading=loading)
    print(f"all together {all_together:.2f}; {FILES} files: {loading}")
    loading_met = loading["load"] + loading["tests"] <= LOAD_TARGET
    sys.exit(not (loading_met and all(row["met"] for row in rows)))


def _row(source: str, cases: Sequence[Case]) -> Row:
    ours = [statistics.mean(times) for times in zip(*(case.ours for case in cases), strict=True)]
    bare = [statistics.mean(times) for times in zip(*(case.bare for case in cases), strict=True)]
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return {
        "mapping": source,
        "webhooks": len(cases),
        "evaluated": statistics.mean(len(case.searches) for case in cases),
        "written": statistics.mean(case.written for case in cases),
        "translate": statistics.median(ours),
        "jmespath": statistics.median(bare),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "worst": max(statistics.median(map(truediv, case.ours, case.bare)) for case in cases),
        "met": statistics.median(ratios) <= TARGET,
    }


# The webhooks


def cases_of(mapping: MappingFile) -> Iterator[Case]:
    """Make a case of each test of a mapping that gives calls."""
    for test in mapping.tests:
        if not any("call" in call for call in test.expect or ()):
            continue
        body = test.body if test.payload is None else _payload(test.payload)
        event = Event(
            source=mapping.source,
            key=hashlib.sha256(test.name.encode()).hexdigest(),
            # Written and read again, so that no text in it is the very object that the mapping holds.
            payload=payload.decode(json.dumps(filled_up(body)).encode(), ""),
            headers={name.lower(): value for name, value in test.headers.items()},
            query=test.query,
            received_at=test.received_at,
        )
        evaluations: list[Evaluation] = []
        translation = translate(_observing(mapping, evaluations), event)
        assert len(translation.planned) == len(test.expect or ()), f"{mapping.source}, {test.name}: {translation}"
        size = sum(len(planned.text) for planned in translation.planned)
        yield Case(mapping=mapping, event=event, searches=_searches(evaluations), written=size)


def _mapping(path: Path) -> MappingFile:
    mapping = load_source(path, {}).mapping
    assert mapping is not None, f"{path.name} has errors; see gateway check"
    return mapping


def _payload(name: str) -> JSON:
    return payload.decode((MAPPINGS / name).read_bytes(), "")


def filled_up(body: JSON) -> JSON:
    """Return a copy of a body whose objects have further fields, the outer ones first, until it has its full size."""
    copy: JSON = json.loads(json.dumps(body))
    objects: list[dict[str, JSON]] = []
    parts = [copy]
    for part in parts:  # grows while it is read
        if isinstance(part, dict):
            objects.append(part)
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    names = itertools.product((*objects, *[objects[0]] * 50), enumerate(_FURTHER_FIELDS))
    for number, (target, (index, field_)) in enumerate(names):
        if len(json.dumps(copy)) >= SIZE:
            break
        target[f"further_{index}_{number}"] = field_
    return copy


#: Fields as senders add them.
_FURTHER_FIELDS: list[JSON] = [
    "Rings twice. If nobody is at home, please leave the parcel with the neighbours on the second floor — “Müller” —"
    " or in the garage, and send a message to the number below.",
    {"lines": ["Example & Sons", "12 Station Road"], "zip": "04109", "point": {"lat": 51.33962}},
    {name: f"https://api.example.com/v1/accounts/acct_1NvO2KLkdIwHu7ix/{name}" for name in ("self", "history")},
    [
        {
            "row": 1,
            "amounts": {"net": 1990, "gross": "23.68"},
            "picture": "https://cdn.example.com/mug.jpg",
            "note": None,
        }
    ],
    ["new", "wholesale"],
    True,
    None,
    "b5fc85e55755f9e0d030a10ab4429b6b2944855f9a0d60077fe832becbc41d72",
    1767225600,
]


# The yardstick: the bare package, given the gateway's functions


class Evaluation(NamedTuple):
    """One evaluation of an expression: its text, the value and scope it was evaluated on, and the result."""

    text: str
    current: JSON
    scope: Scope
    result: JSON


#: One search of the package: the compiled expression's method, the value, and the options.
Search: TypeAlias = tuple[Callable[[JSON, Any], JSON], JSON, Any]


class _ObservedExpression(Expression):
    """An expression that records each of its evaluations."""

    __slots__ = ("_evaluations",)

    def __init__(self, expression: Expression, evaluations: list[Evaluation]) -> None:
        super().__init__(expression.text, expression.evaluate, expression.origins)
        self._evaluations = evaluations

    def evaluate(self, current: JSON, scope: Scope) -> JSON:
        result = super().evaluate(current, scope)
        self._evaluations.append(Evaluation(self.text, current, scope, result))
        return result


_HOLDERS = (MappingFile, Rule, CallRule, ObjectValue, ListValue, OrNull)


def _observing(part: Any, evaluations: list[Evaluation]) -> Any:
    """Copy a part of a mapping with all of its expressions observed."""
    match part:
        case Computed():
            return replace(part, expression=_ObservedExpression(part.expression, evaluations))
        case Mapping():
            return {name: _observing(value, evaluations) for name, value in part.items()}
        case tuple():
            return tuple(_observing(item, evaluations) for item in part)
    if not isinstance(part, _HOLDERS):
        return part
    copies = {item.name: _observing(getattr(part, item.name), evaluations) for item in fields(part)}
    return replace(part, **copies)


def _searches(evaluations: Sequence[Evaluation]) -> list[Search]:
    options: dict[int, Any] = {}
    searches: list[Search] = []
    for evaluation in evaluations:
        if id(evaluation.scope) not in options:
            functions: Any = _JMESPATH_FUNCTIONS()
            functions.scope = evaluation.scope
            options[id(evaluation.scope)] = jmespath.Options(custom_functions=functions)
        bound, search = options[id(evaluation.scope)], jmespath.compile(evaluation.text).search
        result = search(evaluation.current, bound)
        same = json.dumps(result, sort_keys=True) == json.dumps(evaluation.result, sort_keys=True)
        assert same, f"{evaluation.text}: {result!r} is not {evaluation.result!r}"
        searches.append((search, evaluation.current, bound))
    return searches


def _method(function: Function) -> Callable[..., JSON]:
    """Make a function of ours a method as the package wants it; a null argument still gives null."""
    call = _EAGER.get(function.name, function.call)
    references = [at for at, parameter in enumerate(function.parameters) if parameter.expression]

    def method(self: Any, *values: Any) -> JSON:
        if not function.takes_null and None in values:
            return None
        if references:
            values = tuple(_applied(value) if at in references else value for at, value in enumerate(values))
        try:
            return call(self.scope, *values) if function.needs_scope else call(*values)
        except ExpressionError:  # of an argument that ours never evaluates: the result is compared in any case
            return None

    # Kinds are declared as the package's own functions declare them, so that both sides check them.
    required = [parameter for parameter in function.parameters if not parameter.optional]
    signature: list[dict[str, Any]] = [{"types": _types(parameter)} for parameter in required]
    if function.variadic or len(required) < len(function.parameters):
        signature[-1]["variadic"] = True
    declared: Callable[..., JSON] = jmespath_functions.signature(*signature)(method)
    return declared


def _types(parameter: Parameter) -> list[str]:
    if parameter.expression:
        return ["expref"]
    names = {str(FUNCTIONS["type"].call(kind())) for kind in parameter.kinds}
    return sorted(names | {"null"}) if names else []


def _applied(reference: Any) -> Callable[[JSON], JSON]:
    return lambda value: reference.visit(reference.expression, value)


#: The package evaluates all arguments before it calls a function; ours evaluate only what they choose.
_EAGER: dict[str, Callable[..., JSON]] = {
    "if": lambda condition, then, otherwise: then if truthy(condition) else otherwise,
    "not_null": lambda *values: next((value for value in values if value is not None), None),
}
_JMESPATH_FUNCTIONS: Any = type(
    "_JmespathFunctions",
    (jmespath_functions.Functions,),
    {f"_func_{name}": _method(function) for name, function in FUNCTIONS.items()},
)


# Loading


def measure_loading() -> dict[str, float]:
    """Load and test copies of the shipped mappings in fresh processes; return the seconds of the median one."""
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        for number, path in zip(range(FILES), itertools.cycle(mapping_files(MAPPINGS)), strict=False):
            name = f"{path.stem}-{number}"
            text = re.sub(r"(?m)^source:.*$", f"source: {name}", path.read_text(encoding="utf-8"), count=1)
            (Path(directory) / f"{name}.yaml").write_text(text, encoding="utf-8")
        script = "import sys; from bench.translate import load; load(sys.argv[1])"
        command = [sys.executable, "-c", script, directory]
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(LOADS)]
    median: dict[str, float] = sorted(runs, key=lambda run: run["load"] + run["tests"])[LOADS // 2]
    return median


def load(directory: str) -> None:
    """Load and test the mapping files of a directory, and print the seconds; imports are done by then."""
    start = time.process_time()
    mappings = [_mapping(path) for path in mapping_files(Path(directory))]
    loaded = time.process_time()
    results = [result for mapping in mappings for result in selftests.run_tests(mapping, _payload)]
    tested = time.process_time()
    assert all(result.difference is None for result in results), "a test of a mapping fails"
    print(json.dumps({"load": round(loaded - start, 2), "tests": round(tested - loaded, 2), "run": len(results)}))


if __name__ == "__main__":
    main()
