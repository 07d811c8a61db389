"""Microseconds that translating a webhook of some 10 KB takes, beside the bare `jmespath` package.

    python -m bench.translate [--rounds 25] [--repeat 20] [--payload SOURCE=FILE ...]

Whatever a translation evaluates, the package evaluates too: the same expressions, compiled once, on the same values,
with the gateway's functions given to it; that both come to the same is asserted. It stops there, while a translation
goes on to calls that are checked, identified and written as JSON: at most 1.5 times the package's time in all.

The webhooks are the bodies of each mapping's own tests that give calls, filled up with what senders add. --payload,
which can be repeated, measures a captured body too, with its headers out of the file beside it: order.headers.json
for order.json. Times are of the processor, without collections of garbage; the two sides take turns, also at going
first.

Then a fresh process loads 50 mapping files, copies of the shipped ones, and runs their own tests: at most 2 seconds,
imports not counted.

The status is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jmespath
from jmespath import functions as bare_functions

from bench import serving
from gateway import payload
from gateway.event import JSON, Event
from gateway.mapping import selftests
from gateway.mapping.expressions import Expression
from gateway.mapping.functions import FUNCTIONS, Function, Parameter, Scope, truthy
from gateway.mapping.model import (
    CallRule,
    Computed,
    ListValue,
    MappingFile,
    MappingTest,
    ObjectValue,
    OrNull,
    Rule,
)
from gateway.mapping.translate import Translation, translate
from gateway.receive import sources

MAPPINGS = Path(__file__).parents[1] / "mappings"
TARGET = 1.5
LOAD_TARGET = 2.0  # seconds
SIZE = 10_000  # bytes of a body
FILES = 50
LOADS = 3
WARM_UP = 3  # rounds that are not counted


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the webhooks of one mapping took: means of them, and medians of the rounds; times in microseconds.

    Attributes:
        size: Bytes of a body.
        expressions: How often an expression was evaluated for a webhook.
        sent: Characters of its calls, as they are stored.
        decode: What reading the body takes, which is no part of either side.
        lowest, highest: The ratio in the round where it was that.
        worst: The ratio of the webhook that has the largest, which is that of the test *worst_test*.
    """

    name: str
    webhooks: int
    size: int
    expressions: float
    sent: int
    translate: float
    jmespath: float
    decode: float
    ratio: float
    lowest: float
    highest: float
    worst: float
    worst_test: str
    met: bool


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What a fresh process took for mapping files, in seconds; the median of several.

    Attributes:
        load: Reading and compiling them.
        tests: Running their own tests.
    """

    files: int
    tests_run: int
    load: float
    tests: float
    total: float
    met: bool


def main() -> None:
    """Measure and print."""
    options = _options()
    shipped = [case for path in sources.mapping_files(MAPPINGS) for case in _cases_of_tests(_mapping(path))]
    captured = [case for given in options.payload for case in _captured(given)]
    _measure([*shipped, *captured], options.rounds, options.repeat)
    figures, captured_figures = _all_figures(shipped), _all_figures(captured)
    _print([*figures, *captured_figures])
    loading = _loading()
    _print_loading(loading)
    setting = {"rounds": options.rounds, "repeat": options.repeat, "size": SIZE}
    targets = {"ratio": TARGET, "seconds": LOAD_TARGET}
    kept = {"options": setting, "targets": targets, "mappings": list(map(asdict, figures))}
    serving.keep(__file__, kept | {"loading": asdict(loading)})  # captured bodies are not everybody's
    met = loading.met and all(each.met for each in [*figures, *captured_figures])
    sys.exit(0 if met else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=20, help="how often a round does the same")
    parser.add_argument("--payload", action="append", default=[], metavar="SOURCE=FILE")
    return parser.parse_args()


def _mapping(path: Path) -> MappingFile:
    found = sources.load_source(path, {}).mapping
    assert found is not None, f"{path.name} has errors; see gateway check"
    return found


# The webhooks


@dataclass(kw_only=True)
class _Case:
    """One webhook, both ways of dealing with it, and what they took in each round."""

    group: str
    name: str
    mapping: MappingFile
    event: Event
    body: bytes
    searches: Sequence[_Search]
    sent: int
    ours: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def measure(self, repeat: int, *, turned: bool, keep: bool) -> None:
        """Have both sides do it so many times, one after the other: who goes first brings the body into the caches."""
        runs: list[tuple[list[float], Callable[[], object], int]] = [
            (self.ours, partial(translate, self.mapping, self.event), repeat),
            (self.bare, partial(_search_all, self.searches), repeat),
            (self.decode, partial(payload.decode, self.body, ""), max(repeat // 4, 1)),
        ]
        if turned:
            runs[:2] = reversed(runs[:2])
        for times, run, often in runs:
            taken = _microseconds(run, often)
            if keep:
                times.append(taken)


def _cases_of_tests(mapping: MappingFile) -> Iterator[_Case]:
    for test in mapping.tests:
        calls = sum("call" in each for each in test.expect or ())
        if calls:
            body = test.body if test.payload is None else _payload(test.payload)
            event = _event(mapping, _filled(body), test)
            case, translation = _case(mapping.source, test.name, mapping, event)
            told = f"{mapping.source}, {test.name}: filled up it comes to {translation}"
            assert len(translation.planned) == calls, told
            yield case


def _event(mapping: MappingFile, body: JSON, test: MappingTest) -> Event:
    return Event(
        source=mapping.source,
        key=hashlib.sha256(test.name.encode()).hexdigest(),
        payload=body,
        headers={name.lower(): value for name, value in test.headers.items()},
        query=test.query,
        received_at=test.received_at,
    )


def _captured(given: str) -> Iterator[_Case]:
    """Read a captured body; one that gives no calls is said to, and not measured."""
    source, _, file = given.partition("=")
    mapping = _mapping(MAPPINGS / f"{source}.yaml")
    path = Path(file)
    event = Event(
        source=source,
        key=hashlib.sha256(path.name.encode()).hexdigest(),
        payload=payload.decode(path.read_bytes(), ""),
        headers=_headers(path.with_suffix(".headers.json")),
        query={},
        received_at=int(time.time()),
    )
    name = f"{source}: {path.name}"
    case, translation = _case(name, name, mapping, event)
    if translation.planned:
        yield case
    else:
        print(f"{name}: {translation.status}, {translation.problem or translation.reason}")


def _headers(path: Path) -> dict[str, str]:
    read = json.loads(path.read_text()) if path.exists() else {}
    sent = read.get("headers", read)
    return {name.lower(): str(value) for name, value in sent.items()}


def _case(group: str, name: str, mapping: MappingFile, event: Event) -> tuple[_Case, Translation]:
    """Write the body and read it again, so that no text in it is the very one that the mapping holds."""
    body = json.dumps(event.payload).encode()
    event = replace(event, payload=payload.decode(body, ""))
    searches, translation = _observed(mapping, event)
    case = _Case(
        group=group,
        name=name,
        mapping=mapping,
        event=event,
        body=body,
        searches=searches,
        sent=sum(len(planned.text) for planned in translation.planned),
    )
    return case, translation


def _payload(name: str) -> JSON:
    return payload.decode((MAPPINGS / name).read_bytes(), "")


# Filling up


def _filled(body: JSON) -> JSON:
    """Add fields to a copy of a body until it has its full size."""
    copy: JSON = json.loads(json.dumps(body))
    for each, name, value in _additions([*_objects(copy)]):
        if len(json.dumps(copy)) >= SIZE:
            break
        each.setdefault(name, value)
    return copy


def _additions(objects: Sequence[dict[str, JSON]]) -> Iterator[tuple[dict[str, JSON], str, JSON]]:
    """Give each object one of each further field, and then the outermost more of them, without end."""
    for each in objects:
        for name, value in _FURTHER.items():
            yield each, name, value
    for number in itertools.count(2):
        for name, value in _FURTHER.items():
            yield objects[0], f"{name}_{number}", value


def _objects(value: JSON) -> Iterator[dict[str, JSON]]:
    """Go through the objects of a body, the outer ones first."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(below)


def _further_row(number: int) -> dict[str, JSON]:
    return {
        "row": number,
        "article": f"ART-{number:04}",
        "label": "Mug of stoneware, 350 ml, dishwasher-safe",
        "picture": f"https://cdn.example.com/shop/1/0262/9117/products/mug-{number}.jpg?v=1767225600",
        "amounts": {"net": 1990, "gross": "23.68", "rate": 0.19},
        "gift": False,
        "note": None,
    }


#: Fields as senders add them, by names that no shipped mapping asks for.
_FURTHER: dict[str, JSON] = {
    "remark": "Rings twice. If nobody is at home, please leave the parcel with the neighbours on the second floor,"
    " whose name is on the door — “Müller” — or in the garage, and send a message to the number below.",
    "billing_place": {
        "lines": ["Example & Sons", "12 Station Road"],
        "town": "Springfield",
        "zip": "04109",
        "point": {"lat": 51.33962, "lon": 12.37129},
        "verified": True,
    },
    "links": {
        name: f"https://api.example.com/v1/accounts/acct_1NvO2KLkdIwHu7ix/objects/83a1c7f2b5d94e60/{name}"
        for name in ("self", "history", "attachments", "receipt")
    },
    "rows": [_further_row(number) for number in (1, 2)],
    "agent": {
        "text": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0",
        "screen": {"width": 1920, "height": 1080},
        "zone": "Europe/Berlin",
    },
    "api_revision": "2026-01-01",
    "marks": ["new", "wholesale", "newsletter"],
    "is_live": True,
    "reviewed_by": None,
    "digest": "b5fc85e55755f9e0d030a10ab4429b6b2944855f9a0d60077fe832becbc41d72",
    "seen": 1767225600,
}


# The yardstick


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """One expression, what it was evaluated on, and what it gave."""

    text: str
    current: JSON
    scope: Scope
    value: JSON


#: One search of the package's: the compiled expression's method, the value, and the options.
_Search: TypeAlias = tuple[Callable[[JSON, Any], JSON], JSON, Any]


def _search_all(searches: Sequence[_Search]) -> None:
    for search, current, options in searches:
        search(current, options)


class _Observed(Expression):
    """An expression that writes down each of its evaluations."""

    __slots__ = ("_evaluations",)

    def __init__(self, expression: Expression, evaluations: list[_Evaluation]) -> None:
        super().__init__(expression.text, expression.evaluate)
        self._evaluations = evaluations

    def evaluate(self, current: JSON, scope: Scope) -> JSON:
        value = super().evaluate(current, scope)
        self._evaluations.append(_Evaluation(text=self.text, current=current, scope=scope, value=value))
        return value


def _observed(mapping: MappingFile, event: Event) -> tuple[list[_Search], Translation]:
    """Translate an event once, and have the package ready to search for whatever that evaluates."""
    evaluations: list[_Evaluation] = []
    translation = translate(_observing(mapping, evaluations), event)
    return _searches(evaluations), translation


_HOLDERS = (MappingFile, Rule, CallRule, ObjectValue, ListValue, OrNull)


def _observing(part: Any, evaluations: list[_Evaluation]) -> Any:
    """Copy a part of a mapping, with all of its expressions observed."""
    match part:
        case Computed():
            return replace(part, expression=_Observed(part.expression, evaluations))
        case Mapping():
            return {name: _observing(value, evaluations) for name, value in part.items()}
        case tuple():
            return tuple(_observing(each, evaluations) for each in part)
    if not isinstance(part, _HOLDERS):
        return part
    copied = {each.name: _observing(getattr(part, each.name), evaluations) for each in fields(part)}
    return replace(part, **copied)


def _searches(evaluations: Sequence[_Evaluation]) -> list[_Search]:
    options: dict[int, Any] = {}
    searches: list[_Search] = []
    for each in evaluations:
        bound = options.setdefault(id(each.scope), _bare_options(each.scope))
        search = jmespath.compile(each.text).search
        found = search(each.current, bound)
        assert _canonical(found) == _canonical(each.value), f"{each.text}: {found!r} is not {each.value!r}"
        searches.append((search, each.current, bound))
    return searches


def _canonical(value: JSON) -> str:
    return json.dumps(value, sort_keys=True)


def _bare_options(scope: Scope) -> Any:
    functions: Any = _BARE_FUNCTIONS()
    functions.scope = scope
    return jmespath.Options(custom_functions=functions)


def _bare_method(function: Function) -> Callable[..., JSON]:
    """Make one of our functions a method as the package wants it: the same code, and a null still gives null."""
    call = _EAGER.get(function.name, function.call)
    takes_null, needs_scope = function.takes_null, function.needs_scope
    references = [at for at, each in enumerate(function.parameters) if each.expression]

    def method(self: Any, *values: Any) -> JSON:
        if not takes_null and None in values:
            return None
        if references:
            values = tuple(_applied(value) if at in references else value for at, value in enumerate(values))
        return call(self.scope, *values) if needs_scope else call(*values)

    declared: Callable[..., JSON] = bare_functions.signature(*_signature(function))(method)
    return declared


def _signature(function: Function) -> list[dict[str, Any]]:
    """Declare kinds as the package's own functions do, so that both sides check them."""
    required = [each for each in function.parameters if not each.optional]
    declared: list[dict[str, Any]] = [{"types": _types(each)} for each in required]
    if function.variadic or len(required) < len(function.parameters):
        declared[-1]["variadic"] = True
    return declared


def _types(parameter: Parameter) -> list[str]:
    if parameter.expression:
        return ["expref"]
    names = {str(FUNCTIONS["type"].call(kind())) for kind in parameter.kinds}
    return sorted(names | {"null"}) if names else []


def _applied(reference: Any) -> Callable[[JSON], JSON]:
    return lambda value: reference.visit(reference.expression, value)


def _if(condition: JSON, then: JSON, otherwise: JSON) -> JSON:
    return then if truthy(condition) else otherwise


def _not_null(*values: JSON) -> JSON:
    return next((value for value in values if value is not None), None)


#: The package has evaluated all arguments before it calls, where ours take one after the other.
_EAGER: dict[str, Callable[..., JSON]] = {"if": _if, "not_null": _not_null}
_BARE_FUNCTIONS: Any = type(
    "_BareFunctions",
    (bare_functions.Functions,),
    {f"_func_{name}": _bare_method(function) for name, function in FUNCTIONS.items()},
)


# Measuring


def _measure(cases: Sequence[_Case], rounds: int, repeat: int) -> None:
    """Let all cases take turns, round after round: a machine that is slow for a while is slow for all of them."""
    gc.collect()
    gc.disable()
    for number in range(WARM_UP + rounds):
        for case in cases:
            case.measure(repeat, turned=number % 2 == 1, keep=number >= WARM_UP)
    gc.enable()


def _microseconds(run: Callable[[], object], repeat: int) -> float:
    began = time.process_time_ns()
    for _ in range(repeat):
        run()
    return (time.process_time_ns() - began) / repeat / 1000


def _all_figures(cases: Sequence[_Case]) -> list[Figures]:
    return [_figures(name, list(group)) for name, group in itertools.groupby(cases, lambda case: case.group)]


def _figures(name: str, cases: Sequence[_Case]) -> Figures:
    ours, bare = (_mean_rounds([getattr(case, side) for case in cases]) for side in ("ours", "bare"))
    ratios = _ratios(ours, bare)
    worst = max(cases, key=_ratio)
    return Figures(
        name=name,
        webhooks=len(cases),
        size=round(statistics.mean(len(case.body) for case in cases)),
        expressions=round(statistics.mean(len(case.searches) for case in cases), 1),
        sent=round(statistics.mean(case.sent for case in cases)),
        translate=round(statistics.median(ours), 1),
        jmespath=round(statistics.median(bare), 1),
        decode=round(statistics.median(_mean_rounds([case.decode for case in cases])), 1),
        ratio=round(statistics.median(ratios), 2),
        lowest=round(min(ratios), 2),
        highest=round(max(ratios), 2),
        worst=round(_ratio(worst), 2),
        worst_test=worst.name,
        met=statistics.median(ratios) <= TARGET,
    )


def _mean_rounds(times: Sequence[Sequence[float]]) -> list[float]:
    """Give the mean of all webhooks in each round."""
    return [statistics.mean(round_) for round_ in zip(*times, strict=True)]


def _ratios(ours: Sequence[float], bare: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, bare, strict=True)]


def _ratio(case: _Case) -> float:
    return statistics.median(_ratios(case.ours, case.bare))


def _print(figures: Sequence[Figures]) -> None:
    wide = max(len(each.name) for each in figures) + 1
    print(
        f"{'microseconds':{wide}}{'webhooks':>9}{'bytes':>7}{'expr':>6}{'sent':>7}{'translate':>11}{'jmespath':>10}"
        f"{'ratio':>7}{'from':>6}{'to':>6}{'worst':>7}{'decode':>8}"
    )
    for each in figures:
        print(
            f"{each.name:{wide}}{each.webhooks:9}{each.size:7}{each.expressions:6.1f}{each.sent:7}"
            f"{each.translate:11.1f}{each.jmespath:10.1f}{each.ratio:7.2f}{each.lowest:6.2f}{each.highest:6.2f}"
            f"{each.worst:7.2f}{each.decode:8.1f}"
        )
    ours, bare = (sum(getattr(each, side) for each in figures) for side in ("translate", "jmespath"))
    most = max(figures, key=lambda each: each.ratio)
    worst = f"worst ratio {most.ratio:.2f} ({most.name}), at most {TARGET:g}: {_verdict(most.met)}"
    print(f"all together {ours / bare:.2f}; {worst}")


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"


# Loading


def _loading() -> Loading:
    with serving.scratch_directory() as directory:
        _write_copies(directory)
        runs = [_loaded_afresh(directory) for _ in range(LOADS)]
    run = sorted(runs, key=lambda each: each["load"] + each["tests"])[len(runs) // 2]
    total = run["load"] + run["tests"]
    return Loading(
        files=FILES,
        tests_run=round(run["tests_run"]),
        load=round(run["load"], 2),
        tests=round(run["tests"], 2),
        total=round(total, 2),
        met=total <= LOAD_TARGET,
    )


def _write_copies(directory: Path) -> None:
    """Write the shipped mappings in turns, each under the name of a source of its own."""
    for number, path in zip(range(FILES), itertools.cycle(sources.mapping_files(MAPPINGS)), strict=False):
        name = f"{path.stem}-{number}"
        text = re.sub(r"(?m)^source:.*$", f"source: {name}", path.read_text(encoding="utf-8"), count=1)
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")


def _loaded_afresh(directory: Path) -> dict[str, float]:
    script = "import sys; from bench.translate import load; load(sys.argv[1])"
    ran = subprocess.run([sys.executable, "-c", script, str(directory)], check=True, stdout=subprocess.PIPE)
    told: dict[str, float] = json.loads(ran.stdout)
    return told


def load(directory: str) -> None:
    """Load and test the mapping files of a directory, and print what it took; imports are done by then."""
    began = time.process_time()
    mappings = [_mapping(path) for path in sources.mapping_files(Path(directory))]
    loaded = time.process_time()
    results = [result for mapping in mappings for result in selftests.run_tests(mapping, _payload)]
    tested = time.process_time()
    assert all(result.difference is None for result in results), "a test of a mapping fails"
    told = {"load": loaded - began, "tests": tested - loaded, "tests_run": len(results)}
    print(json.dumps(told))


def _print_loading(loading: Loading) -> None:
    print(
        f"{loading.files} mapping files: {loading.load:.2f} s to load, {loading.tests:.2f} s for their"
        f" {loading.tests_run} tests; {loading.total:.2f} s, at most {LOAD_TARGET:g}: {_verdict(loading.met)}"
    )


if __name__ == "__main__":
    main()
