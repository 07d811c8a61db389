"""Check the values that tell webhooks, events, people and objects apart: none may be the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.mapping.diagnostics import Diagnostics
from gateway.mapping.expressions import Names, Origins
from gateway.mapping.located_expression import location_in, read_expression
from gateway.mapping.model import Computed
from gateway.mapping.yaml_nodes import Node, Scalar


@dataclass(frozen=True, kw_only=True)
class Identifying:
    """What a value tells apart, for messages.

    Attributes:
        if_equal: What happens when webhooks that differ have the same value.
        if_null: What happens when the value is null.
    """

    if_equal: str
    if_null: str


EVENT_KEY = Identifying(
    if_equal="all but the first would be dropped as repeats",
    if_null="null takes the delivery's id, or a hash of the body",
)
EVENT_ID = Identifying(
    if_equal="Customer.io would drop all but the first of a person",
    if_null="for null an id is made of the event itself",
)
PERSON = Identifying(
    if_equal="they would all be about one person",
    if_null="if nobody is known, give the call a 'when'",
)
REFERENCE = Identifying(
    if_equal="they would all be about the same one",
    if_null="if it may be missing, give the call a 'when'",
)


_EXAMPLE = "format('{}-{}', a, b)"


def read_identifying(node: Node, name: str, of: Identifying, names: Names, diagnostics: Diagnostics) -> Computed | None:
    """Compile the expression of a value that tells webhooks apart; None: it is wrong, and reported."""
    if isinstance(node, Scalar) and type(node.value) in (int, float, bool):
        text = f"'{name}' is the same for every webhook: {of.if_equal}; write the field that tells them apart, "
        diagnostics.error(node.location, "same-for-all", f"{text}as in  {name}: =user.id")
        return None
    computed = read_expression(node, name, names, diagnostics)
    if computed is not None and isinstance(node, Scalar):
        refuse_equal(node, name, of, computed.expression.origins, diagnostics)
    return computed


def refuse_equal(node: Scalar, name: str, of: Identifying, origins: Origins, diagnostics: Diagnostics) -> None:
    """Report an expression that certainly gives the same value for webhooks that differ."""
    refuse_lossy(node, name, of, origins, diagnostics)
    if not origins.file:
        return
    if origins.webhook:
        text = f"'{name}' is the same for all webhooks that lack the field: {of.if_equal}; leave out the text that"
        text += f" stands in for it: {of.if_null}"
    else:
        text = f"'{name}' is the same for every webhook: {of.if_equal}; write a field that tells them apart"
    diagnostics.error(node.location, "same-for-all", text)


def refuse_lossy(node: Scalar, name: str, of: Identifying, origins: Origins, diagnostics: Diagnostics) -> None:
    """Report the calls that give a text although a part of it is missing."""
    for lossy in origins.lossy[:1]:
        does = "leaves out what is missing" if lossy.function == "join" else "writes null for what is missing"
        place = "" if lossy.variable is None else f" in let.{lossy.variable}"
        text = f"{lossy.function}(){place} {does}, so webhooks that differ get the same '{name}': {of.if_equal};"
        text += f" write{place}  ={lossy.instead or _EXAMPLE}  which is null then"
        diagnostics.error(location_in(node, lossy.offset, diagnostics), "lossy-text", text)
