"""Draft a mapping file from one captured webhook: guess, write the file, and let it state its own test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import yaml

from gateway.customerio.calls import as_json
from gateway.customerio.limits import MAX_EVENT_NAME_BYTES
from gateway.errors import MappingError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.draft_guesses import (
    DraftError,
    Guess,
    Guesses,
    Path,
    empty_fields,
    segments,
    singular,
    words,
)
from gateway.mapping.expressions import headers_in
from gateway.mapping.translate import translate
from gateway.text import truncated
from gateway.verify import Kind, Scheme, scheme_from, schemes

__all__ = ["Draft", "DraftError", "draft", "yaml_block"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A drafted mapping file.

    Attributes:
        guesses: The main guesses by what they are: each expression with its value in the payload.
        nobody: No field names a person, so the file makes no call yet.
        variable: The environment variable that has to hold the secret.
    """

    text: str
    guesses: Mapping[str, str]
    nobody: bool
    variable: str


def draft(source: str, body: JSON, headers: Mapping[str, str]) -> Draft:
    """Draft the mapping file of a source from one webhook that it sent.

    Raises DraftError: the body holds nothing that can be mapped, or the drafted file fails on it.
    """
    guesses = Guesses(body, headers)
    scheme, notes = _guess_scheme(source, guesses.sample.headers)
    sections = [
        *_verification(source, scheme, notes, guesses),
        *_routing(scheme_from(scheme), guesses),
        _events(source, guesses),
    ]
    test = _test(guesses)
    expect = _calls_of("\n".join([*sections, yaml_block({"tests": [test]})]), source)
    main = {"type": guesses.type, **guesses.person, "time": guesses.time}
    return Draft(
        text="\n".join([*sections, yaml_block({"tests": [{**test, "expect": expect}]})]),
        guesses={
            name: f"={guess.expression} ({_scalar(guesses.sample.value_of(guess))})"
            for name, guess in main.items()
            if guess is not None
        },
        nobody=not guesses.person,
        variable=_variable(source),
    )


def _calls_of(text: str, source: str) -> list[JSON]:
    """Return the calls that a file makes of the webhook in its test."""
    try:
        mapping, problems = parse(text, f"{source}.yaml")
    except MappingError as error:
        raise DraftError(f"the drafted file has errors; write the mapping by hand\n{error}") from error
    (test,) = mapping.tests
    headers = {name.lower(): value for name, value in test.headers.items()}
    at = test.received_at
    event = Event(source=source, key="test", payload=test.body, headers=headers, query={}, received_at=at)
    translation = translate(mapping, event)
    if translation.problem is not None or problems:
        reasons = "\n".join(str(problem) for problem in (translation.problem, *problems) if problem)
        raise DraftError(f"the drafted file fails on the payload; write the mapping by hand\n{reasons}")
    return [as_json(planned.call) for planned in translation.planned]


# The file


class _Dumper(yaml.SafeDumper):
    """Writes lists and objects as indented blocks, and quotes texts only where they need it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  # PyYAML's own
        super().increase_indent(flow, indentless=False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
# A mapping file takes 1e5 for a number as JSON does, YAML 1.1 does not: a text like that has to be quoted.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"-?[0-9.]+([eE][+-]?[0-9]+)?$"), [*"-0123456789"])


def yaml_block(value: JSON, *comments: str) -> str:
    """Write a value as YAML that a mapping file reads back as it is, below some comments."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return "".join(f"# {comment}".rstrip() + "\n" for comment in comments) + text


def _scalar(value: JSON) -> str:
    return yaml_block(value).removesuffix("...\n").rstrip()


def _expressions(guesses: Mapping[str, Guess | None]) -> dict[str, JSON]:
    return {name: f"={guess.expression}" for name, guess in guesses.items() if guess is not None}


def _verification(source: str, scheme: JSON, notes: list[str], guesses: Guesses) -> Iterator[str]:
    """Write the head of the file, and how the sender proves itself."""
    signed, variable = scheme_from(scheme), _variable(source)
    about = f"{_title(words(source)) or source} webhooks, drafted from a captured {guesses.event_type or 'payload'}"
    yield yaml_block(
        {"version": 1, "source": source, "description": about},
        f"Where: let the sender post to https://<your gateway>/hooks/{source}",
        f"The secret: {_ORIGINS.get(signed.kind, 'the sender shows it where its webhooks are set up.')}",
        f"The environment variable that holds it here: {variable}",
        "",
        "Drafted from one captured webhook. Comments say what was guessed: check it, change what is wrong, and run",
        "  gateway check",
    )
    section: dict[str, JSON] = {"scheme": scheme, "secret_env": variable}
    unsigned: list[JSON] = [name for name in _headers(guesses.type, guesses.key) if not signed.trusts_header(name)]
    if unsigned:
        section["scheme"] = {**(scheme if isinstance(scheme, dict) else {"base": scheme}), "trust": unsigned}
        notes.append("No signature covers the headers under 'trust': if the body says the same, take it from there.")
    if signed.signs_address:
        notes.append("The sender signs the address that it posts to: set GATEWAY_PUBLIC_URL to how that begins.")
    if signed.asks_token:
        section["verify_token_env"] = _variable(source, "VERIFY_TOKEN")
    yield yaml_block({"verify": section}, *notes)


def _headers(*guesses: Guess | None) -> list[str]:
    return list(dict.fromkeys(name for guess in guesses if guess for name in headers_in(guess.expression)))


def _routing(scheme: Scheme, guesses: Guesses) -> Iterator[str]:
    """Write what tells events apart, and whose they are."""
    if guesses.split is not None:
        note = "One webhook carries a list of events: each is mapped on its own."
        yield yaml_block({"split": f"={guesses.split or '@'}"}, note)
    if guesses.type:
        note = f"Guessed: the type of the event, here {_scalar(guesses.event_type)}."
        yield yaml_block({"event_type": f"={guesses.type.expression}"}, note)
    if not scheme.names_deliveries:
        key, note = (
            "sha256(to_json(@))",
            "No id of the event itself was found, so webhooks with equal bodies count as one.",
        )
        if guesses.key:
            key, note = guesses.key.expression, "Guessed: the id of the event, by which a repeated webhook counts once."
        yield yaml_block({"event_key": f"={key}"}, note)
    if guesses.person:
        notes = ["Guessed: the person that the events are about, and when they happened."]
        if "id" in guesses.person:
            notes.append("Check that `id` is the id that the person has in Customer.io.")
        yield yaml_block({"defaults": _expressions({**guesses.person, "timestamp": guesses.time})}, *notes)


def _events(source: str, guesses: Guesses) -> str:
    event_type = guesses.event_type or "*"
    identify = _nonempty(call="identify", attributes=_expressions(guesses.of_person))
    track = _nonempty(name=_event_name(source, guesses.event_type), attributes=_expressions(guesses.of_event))
    calls: list[JSON] = [*([identify] if guesses.identifies else []), {"call": "track", **track}]
    notes = []
    if guesses.removes:
        notes = [
            "The event says that the person is gone. To delete the person in Customer.io too, add:",
            "- call: destroy",
        ]
    if not guesses.person:
        calls = [{"call": "ignore", "reason": "no field names a person yet"}]
        example: JSON = {"call": "track", "id": "=…", **_expressions({"timestamp": guesses.time}), **track}
        notes = [
            "NOBODY was found: no field of the payload names the person, so no call is made yet. Once you know which",
            "field it is, write it below as `id` or `email`, and put these lines in the place of the next ones:",
            *(f"  {line}" for line in _with_notes(yaml_block({event_type: [example]}), guesses).splitlines()),
        ]
        if empty := [field.guess.expression for field in empty_fields(guesses.sample)]:
            notes.append(f"Empty here, but it may name the person in other payloads: {', '.join(empty[:3])}")
    return _with_notes(yaml_block({"events": {event_type: calls}}, *notes), guesses)


def _nonempty(**keys: JSON) -> dict[str, JSON]:
    return {key: value for key, value in keys.items() if value}


def _with_notes(text: str, guesses: Guesses) -> str:
    """Append the notes on attributes to their lines."""
    attributes = {**guesses.of_person, **guesses.of_event}
    notes = {f"{name}: ={guess.expression}": f"  # {guess.note}" for name, guess in attributes.items() if guess.note}
    return "".join(f"{line}{notes.get(line.strip(), '')}\n" for line in text.splitlines())


def _event_name(source: str, event_type: str | None) -> str:
    """Make a name for people of an event type: ``invoice.paid`` becomes Invoice Paid."""
    name = event_type or "webhook"
    if " " not in name:
        parts = segments(name)
        own = [word for part in (parts[-2:] if len(parts) > 3 else parts) for word in words(part)]
        if "/" in name:
            own[:1] = [singular(own[0])]  # orders/paid
        name = _title(own if len(own) > 1 else [*words(source), *own])
    return truncated(name, MAX_EVENT_NAME_BYTES).strip()


def _title(names: Iterable[str]) -> str:
    return " ".join(word[:1].upper() + word[1:] for word in names)


def _test(guesses: Guesses) -> dict[str, JSON]:
    """Write a test with what the mapping reads of the webhook, and nothing else of it."""
    calls = (guesses.time, *guesses.person.values(), *guesses.of_person.values(), *guesses.of_event.values())
    read = [guess for guess in (guesses.type, *(calls if guesses.person else ())) if guess]
    body = _pruned(guesses.sample.event, [path for guess in read for path in guess.reads])
    if guesses.split is not None:
        body = {guesses.split: [body]} if guesses.split else [body]
    return {
        "name": f"a captured {guesses.event_type or 'webhook'}",
        **_nonempty(headers={name: guesses.sample.headers[name] for name in _headers(guesses.type)}),
        "body": body,
        "expect": [],
    }


def _pruned(value: JSON, paths: list[Path]) -> JSON:
    """Keep of a value what lies at the end of some paths, and what leads there."""
    if () in paths or not isinstance(value, dict | list):
        return value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    below = [(step, item, [path[1:] for path in paths if path[0] == step]) for step, item in items]
    kept = {step: _pruned(item, rest) for step, item, rest in below if rest}
    return {str(step): item for step, item in kept.items()} if isinstance(value, dict) else list(kept.values())


def _variable(source: str, what: str = "WEBHOOK_SECRET") -> str:
    """Name the environment variable of a source's secret."""
    name = source.upper().replace("-", "_")
    return f"{name}_{what}" if name[:1].isalpha() else f"SOURCE_{name}_{what}"


# How the sender proves itself

#: Where the secret comes from, by the kind of the scheme; signing senders show it.
_ORIGINS = {
    "token": "a long random text of your own, known to the sender and to the gateway.",
    "basic": "user:password, as the sender was told.",
}
#: Schemes of the table that belong to no sender, and headers that many senders use.
_OF_NO_SENDER = frozenset((*get_args(Kind), "bearer", "authorization", "path", "query"))
_COMMON_HEADERS = frozenset(("x-signature", "authorization"))
_SIGNATURE = re.compile(r"signature(?!-(?:timestamp|input))|hmac|-sha(?:1|256|512)$")
_TOKEN = re.compile(r"^x-(?!.*csrf).*(?:token|secret|api-key)$")


def json_field_of(source: str, headers: Mapping[str, str]) -> str | None:
    """Return the field of a form that holds JSON, by the scheme that is guessed for a captured webhook."""
    return scheme_from(_guess_scheme(source, headers)[0]).json_field


def _guess_scheme(source: str, headers: Mapping[str, str]) -> tuple[JSON, list[str]]:
    """Guess the scheme, a name of the table or an inline scheme, and say what to check."""
    sent = {name.lower(): value for name, value in headers.items()}
    known = {name: scheme for name, scheme in schemes().items() if name not in _OF_NO_SENDER}
    named = next((name for name in known if f"-{name.replace('_', '-')}-" in f"-{source}-"), None)
    signed = {
        name: header
        for name, scheme in known.items()
        for header in scheme.header
        if header.lower() in sent.keys() - _COMMON_HEADERS and sent[header.lower()].lower().startswith(scheme.prefix)
    }
    if named is not None and (named in signed or not signed):
        return named, ["Guessed from the name of the source."]
    if signed:
        # Of senders that sign alike, it is the one whose own header names the delivery.
        ids = {name: [{header.lower() for header in id_} for id_ in known[name].delivery_id] for name in signed}
        best = next((name for name in signed if any(sent.keys() >= id_ for id_ in ids[name])), next(iter(signed)))
        return best, [f"Guessed from the header {signed[best]}."]
    for name in headers:
        if _SIGNATURE.search(name.lower()):
            return _inline_scheme(name, headers[name].strip()), [
                f"Guessed from the header {name}, which looks like a signature. Check in the sender's documentation",
                "what is signed, with which algorithm, how it is written, and where the secret is shown: a signature",
                "that is read wrongly refuses every webhook with 401.",
            ]
    for name in headers:
        if _TOKEN.search(name.lower()):
            note = f"Guessed from the header {name}: it has to hold the secret as it is."
            return {"kind": "token", "header": name}, [note]
    authorization = sent.get("authorization", "").lower()
    for scheme_name in ("basic", "bearer"):
        if authorization.startswith(f"{scheme_name} "):
            return scheme_name, ["Guessed from the header Authorization."]
    return "bearer", [
        'No header says how the sender proves itself. This expects "Authorization: Bearer <secret>"; a sender that',
        "signs its webhooks has a scheme of its own, such as stripe, github, standard or hmac.",
    ]


def _inline_scheme(name: str, value: str) -> dict[str, JSON]:
    """Return a scheme that could read a signature."""
    scheme: dict[str, JSON] = {"kind": "hmac", "header": name}
    mark = ";" if ";" in value else ","
    items = dict(re.findall(rf"(\w+)=([^{mark}]+)", value))
    time = next((key for key in ("t", "ts", "timestamp") if items.get(key, "").isdigit()), None)
    key = next((key for key in items if key != time), None)
    prefix = re.match(r"(sha1|sha256|sha512)=", value, re.IGNORECASE)
    if time is not None and key is not None:  # t=1700000000,v1=…: a time, and a signature of both
        scheme |= {"signed": "{ts}.{body}"} if mark == "," else {"items": mark, "signed": "{ts}:{body}"}
        scheme |= {"key": key, **_digest(items[key]), "timestamp": {"item": time}}
    elif prefix is not None:
        scheme |= {"prefix": prefix[0], **_digest(value[prefix.end() :]), "algorithm": prefix[1].lower()}
    else:
        scheme |= _digest(value)
    return scheme


def _digest(value: str) -> dict[str, JSON]:
    """Tell the algorithm and the encoding of a signature by its length."""
    by_size = {28: "sha1", 44: "sha256", 88: "sha512"}
    if re.fullmatch("[A-Za-z0-9+/]+=*", value) and len(value) in by_size:
        return {"algorithm": by_size[len(value)], "encoding": "base64"}
    return {"algorithm": {40: "sha1", 128: "sha512"}.get(len(value), "sha256"), "encoding": "hex"}
