"""The generated parts of docs/mappings.md. `python -m tests.support.docs_reference` writes them again."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

from gateway import verify
from gateway.customerio.calls import Kind
from gateway.mapping.functions import FUNCTIONS, Function
from gateway.mapping.model import SPECS, CallSpec
from gateway.verify import Scheme
from gateway.verify.providers import CONTENTFUL_TOLERANCE

DOCUMENT = Path(__file__).parents[2] / "docs" / "mappings.md"


def with_parts(text: str) -> str:
    """The document with its generated parts replaced."""
    parts = {"calls": calls(), "functions": functions(), "schemes": schemes()}
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{parts[match[2]]}{match[3]}",
        text,
        flags=re.DOTALL,
    )


def calls() -> str:
    rows = [("call", "identifiers", "required", "optional"), ("---",) * 4, *map(_call, SPECS.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _call(spec: CallSpec) -> tuple[str, ...]:
    others = {name: key for name, key in spec.keys.items() if key.kind is not Kind.IDENTIFIER}
    identifiers = [f"`{name}`" for name in spec.identifiers]
    required = [f"`{name}: {key.example}`" for name, key in others.items() if key.required]
    optional = [f"`{name}`" for name, key in others.items() if not key.required]
    return f"`{spec.name}`", ", ".join(identifiers), ", ".join(required), ", ".join(optional)


def functions() -> str:
    lines = []
    for kind, entries in groupby(FUNCTIONS.values(), key=lambda function: function.kind):
        rows = ["", f"### {kind}", "", "| function | result | example |", "|---|---|---|"]
        lines += [*rows, *map(_function, entries)]
    return "\n".join(lines[1:]) + "\n"


def _function(function: Function) -> str:
    output = json.dumps(function.example.output, ensure_ascii=False)
    example = f"{_code(function.example.expression)} → {_code(output)}"
    description = " ".join(function.description.split()).replace("|", r"\|")
    return f"| {_code(function.signature)} | {description} | {example} |"


def schemes() -> str:
    rows = ["| scheme | for | includes | captured, it counts | not signed |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_scheme, verify.schemes().values())]) + "\n"


def _scheme(scheme: Scheme) -> str:
    expressions = {"event_type": scheme.event_type, "event_key": scheme.event_key}
    settings = [_code(f"{key}: {expression}") for key, expression in expressions.items() if expression]
    settings += ["the delivery's id"] if scheme.delivery_id else []
    settings += ["the content type"] if scheme.content_type else []
    settings += ["JSON in a form"] if scheme.json_field else []
    settings += ["a handshake"] if scheme.handshakes else []
    cells = (f"`{scheme.name}`", _prose(scheme.description), ", ".join(settings), _captured(scheme), _unsigned(scheme))
    return f"| {' | '.join(cells)} |"


def _captured(scheme: Scheme) -> str:
    """For how long a webhook that somebody has captured is proven when it is sent again."""
    if scheme.kind in verify.SENT_SECRETS:
        return "always: it holds the secret"
    if scheme.name == scheme.kind and scheme.kind in ("hmac", "digest", "ed25519", "ecdsa", "none"):
        return ""  # the mapping says
    seconds = scheme.timestamp.tolerance if scheme.timestamp is not None else None
    if scheme.kind == "contentful":
        seconds = CONTENTFUL_TOLERANCE
    if seconds is None:
        return "always"
    minutes = seconds // 60
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def _unsigned(scheme: Scheme) -> str:
    """What such a webhook may say anew: it is taken from headers that the signature does not cover."""
    if scheme.kind in verify.SENT_SECRETS:
        return "all of it"
    unsigned = ["the event type"] if scheme.event_type and "header" in scheme.event_type else []
    unsigned += ["the delivery's id"] if scheme.delivery_id and "{id}" not in str(scheme.signed) else []
    return ", ".join(unsigned)


def _prose(text: str) -> str:
    """Escape prose in which only `code` is markup."""
    parts = text.replace("|", r"\|").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _code(text: str) -> str:
    """Write code in Markdown, with any backticks and bars in it."""
    fence = "``" if "`" in text else "`"
    blank = " " if "`" in text else ""
    return f"{fence}{blank}{text}{blank}{fence}".replace("|", r"\|")


if __name__ == "__main__":
    DOCUMENT.write_text(with_parts(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
