"""Functions for objects."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType

from gateway.errors import ExpressionError
from gateway.event import JSON
from gateway.mapping.functions.json_values import kind, limit_text
from gateway.mapping.functions.table import Group, Scope, array, mapping, one_of, text

function = Group("objects, lists")


@function(
    mapping("obj"),
    array("names"),
    example=("pick(@, ['plan', 'seats'])", {"plan": "pro", "seats": 3, "card": "…"}, {"plan": "pro", "seats": 3}),
)
def pick(obj: dict[str, JSON], names: list[JSON]) -> JSON:
    """The object with these keys only; missing keys are left out."""
    return {name: obj[name] for name in _texts("pick", names) if name in obj}


@function(mapping("obj"), array("names"), example=("omit(@, ['card'])", {"plan": "pro", "card": "…"}, {"plan": "pro"}))
def omit(obj: dict[str, JSON], names: list[JSON]) -> JSON:
    """The object without these keys."""
    dropped = set(_texts("omit", names))
    return {name: value for name, value in obj.items() if name not in dropped}


def _texts(name: str, items: Iterable[JSON]) -> list[str]:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(list(items)):
        return texts
    raise ExpressionError(f"{name}() needs a list of text")


@function(
    mapping("obj"),
    mapping("names"),
    example=("rename(@, {plan: 'tier'})", {"tier": "pro", "seats": 3}, {"plan": "pro", "seats": 3}),
)
def rename(obj: dict[str, JSON], names: dict[str, JSON]) -> JSON:
    """The object with keys renamed, written {new: 'old'}; missing keys are left out."""
    new_names: dict[str, list[str]] = {}
    for new, old in names.items():
        if not isinstance(old, str):
            raise ExpressionError(f"rename() needs names written as {{new: 'old'}}, got {kind(old)}")
        if old in obj:
            new_names.setdefault(old, []).append(new)
    replaced = {new for news in new_names.values() for new in news}
    renamed: dict[str, JSON] = {}
    for name, value in obj.items():
        for new in new_names.get(name, () if name in replaced else (name,)):
            renamed[new] = value
    return renamed


@function(
    mapping("obj"),
    text("sep"),
    needs_scope=True,
    example=("flatten(@, '_')", {"plan": {"id": 1, "name": "pro"}}, {"plan_id": 1, "plan_name": "pro"}),
)
def flatten(scope: Scope, obj: dict[str, JSON], sep: str) -> JSON:
    """The object without nested objects: their keys are joined by a separator; lists stay as they are."""
    flat: dict[str, JSON] = {}
    size = 0
    waiting = list(reversed(obj.items()))
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and value:
            size += len(value) * (len(name) + len(sep))
            limit_text("flatten", size)  # a long name above many values would be repeated for each
            scope.budget.spend(len(value))
            waiting.extend((name + sep + key, below) for key, below in reversed(value.items()))
        else:
            flat[name] = value
    return flat


@function(
    mapping("obj"),
    text("prefix"),
    example=("prefix_keys(utm, 'utm_')", {"utm": {"source": "ad"}}, {"utm_source": "ad"}),
)
def prefix_keys(obj: dict[str, JSON], prefix: str) -> JSON:
    """The object with a prefix before each key."""
    limit_text("prefix_keys", len(prefix) * len(obj))
    return {prefix + name: value for name, value in obj.items()}


@function(
    one_of("obj", dict, NoneType),
    variadic=True,
    takes_null=True,
    example=("merge(a, b, c)", {"a": {"x": 1, "y": 1}, "b": {"y": 2}}, {"x": 1, "y": 2}),
)
def merge(*objects: dict[str, JSON] | None) -> JSON:
    """All objects in one; later ones replace keys of earlier ones; nulls are skipped."""
    return {name: value for obj in objects if obj is not None for name, value in obj.items()}


@function(mapping("obj"), example=("items(@)", {"a": 1, "b": 2}, [["a", 1], ["b", 2]]))
def items(obj: dict[str, JSON]) -> JSON:
    """The entries of an object as a list of [key, value]."""
    return [[name, value] for name, value in obj.items()]


@function(
    array("entries"), example=("from_items(fields[].[name, value])", {"fields": [{"name": "a", "value": 1}]}, {"a": 1})
)
def from_items(entries: list[JSON]) -> JSON:
    """The object made of a list of [key, value]."""
    obj: dict[str, JSON] = {}
    for entry in entries:
        match entry:
            case [str() as name, value]:
                obj[name] = value
            case _:
                raise ExpressionError("from_items() needs a list of [key, value] whose keys are text")
    return obj


@function(mapping("obj"), example=("keys(@)", {"a": 1, "b": 2}, ["a", "b"]))
def keys(obj: dict[str, JSON]) -> JSON:
    """The keys of an object."""
    return [*obj]


@function(mapping("obj"), example=("values(@)", {"a": 1, "b": 2}, [1, 2]))
def values(obj: dict[str, JSON]) -> JSON:
    """The values of an object."""
    return [*obj.values()]
