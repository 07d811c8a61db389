"""Functions for what surrounds the current value: the request, the body, variables and tables."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType

from gateway.event import JSON
from gateway.mapping.functions.json_values import key_text
from gateway.mapping.functions.table import CONSTANT, Group, Mistake, Scope, literal, one_of
from gateway.text import arrival_problem

function = Group("around the body", needs_scope=True, stride=CONSTANT)


def _never_arrives(arguments: Sequence[object]) -> Mistake | None:
    problem = arrival_problem(str(arguments[0]))
    return None if problem is None else Mistake(problem=problem, argument=0, code="header-name")


@function(
    literal("name"),
    check=_never_arrives,
    example=("header('X-Name')", None, "Ada"),
    setting="the header X-Name: Ada",
)
def header(scope: Scope, name: str) -> JSON:
    """A header of the request, in upper or lower case; null if it was not sent."""
    return scope.headers.get(name.lower())


@function(literal("name"), example=("query('name')", None, "Ada"), setting="?name=Ada in the request's URL")
def query(scope: Scope, name: str) -> JSON:
    """A query parameter of the request's URL; null if it was not sent."""
    return scope.query.get(name)


@function(example=("root().id", {"id": "42"}, "42"))
def root(scope: Scope) -> JSON:
    """The part that is translated: the body, or one item of it under `split`."""
    return scope.root


@function(example=("body().id", {"id": "42"}, "42"))
def body(scope: Scope) -> JSON:
    """The whole body of the request."""
    return scope.body


@function(literal("name"), example=("var('plan')", None, "Starter"), setting="let: {plan: Starter}")
def var(scope: Scope, name: str) -> JSON:
    """The value of a variable of `let`."""
    if name not in scope.known:
        compute = scope.let.get(name)
        scope.known[name] = None if compute is None else compute(scope.root, scope)
    return scope.known[name]


@function(
    literal("table"),
    one_of("key", str, int, float, bool, NoneType),
    takes_null=True,
    example=("lookup('plans', plan)", {"plan": "price_1"}, "Starter"),
    setting="tables: {plans: {price_1: Starter}}",
)
def lookup(scope: Scope, table: str, key: str | int | float | bool | None) -> JSON:
    """The entry of a table for a key; a null or unknown key takes the entry "*"."""
    entries = scope.tables.get(table, {})
    default = entries.get("*")
    return default if key is None else entries.get(key_text(key), default)


@function(example=("event_type()", None, "user.created"), setting="an event of the type user.created")
def event_type(scope: Scope) -> JSON:
    """The event type of the part."""
    return scope.event_type


@function(example=("received_at()", None, 1767225600), setting="a webhook that arrived on 2026-01-01")
def received_at(scope: Scope) -> JSON:
    """The time at which the webhook arrived, in unix seconds."""
    return scope.received_at


@function(example=("index()", None, 0), setting="the first item")
def index(scope: Scope) -> JSON:
    """The position of the item under `each`, from 0."""
    return scope.index
