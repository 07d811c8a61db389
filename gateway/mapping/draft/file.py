"""Put guesses together to a mapping file that compiles without a warning and passes its own test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.customerio.calls import as_json
from gateway.customerio.limits import MAX_EVENT_NAME_BYTES
from gateway.errors import MappingError
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.draft.attributes import Attribute
from gateway.mapping.draft.fields import pruned
from gateway.mapping.draft.people import perhaps
from gateway.mapping.draft.plan import EQUAL_BODIES, DraftError, Plan, plan_of, ways_of
from gateway.mapping.draft.verification import variable
from gateway.mapping.draft.words import capitalised, title, words
from gateway.mapping.draft.writing import comments, entry, expression, indented, listed, scalar
from gateway.mapping.translate import translate


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A drafted mapping file.

    Attributes:
        guesses: What was guessed, by what it is: the expressions with what they give in the payload.
        nobody: No field was found that names a person, so that the file calls nothing yet.
        variable: The environment variable that has to hold the secret.
    """

    text: str
    guesses: Mapping[str, str]
    nobody: bool
    variable: str


def draft(source: str, body: JSON, headers: Mapping[str, str]) -> Draft:
    """Draft the mapping file of a source from one webhook that it sent.

    Raises DraftError: the body holds nothing that could be mapped.
    """
    plan = plan_of(source, body, headers)
    text = _written(plan, _calls_of(_written(plan, []), plan))
    _calls_of(text, plan)
    return Draft(text=text, guesses=plan.guesses, nobody=not plan.who.identifiers, variable=variable(source))


def _calls_of(text: str, plan: Plan) -> list[JSON]:
    """Give the calls that a file makes of its own test, as the test expects them.

    Raises DraftError: the file does not compile without a warning, or fails on the payload.
    """
    try:
        mapping, problems = parse(text, f"{plan.source}.yaml")
    except MappingError as error:
        raise DraftError(f"what was drafted has errors; write the mapping by hand\n{error}") from error
    (test,) = mapping.tests
    event = Event(
        source=plan.source,
        key="test",
        payload=test.body,
        headers={name.lower(): value for name, value in test.headers.items()},
        query=test.query,
        received_at=test.received_at,
    )
    translation = translate(mapping, event)
    if translation.problem is not None or problems:
        said = "\n".join(map(str, [translation.problem or "", *problems])).strip()
        raise DraftError(f"what was drafted fails on the payload; write the mapping by hand\n{said}")
    return [as_json(each.call) for each in translation.planned]


# The file


def _written(plan: Plan, expect: list[JSON]) -> str:
    sections = [
        [*_head(plan), *_frame(plan)],
        _verify(plan),
        _routing(plan),
        _defaults(plan),
        ["events:", *indented(_events(plan))],
        ["tests:", *indented(listed(_test(plan, expect)))],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _head(plan: Plan) -> list[str]:
    return comments(
        [
            f"Where: let the sender post to https://<your gateway>/hooks/{plan.source}",
            f"The secret: {plan.verify.origin}",
            f"The environment variable that holds it here: {variable(plan.source)}",
            "",
            "Drafted from one captured webhook. What is guessed says so: look at it, change what is wrong, and run",
            "  gateway check",
        ]
    )


def _frame(plan: Plan) -> list[str]:
    name = capitalised(words(plan.source)) or plan.source
    about = f"{name} webhooks, drafted from a captured {plan.kind or 'payload'}"
    return ["version: 1", *entry("source", plan.source), *entry("description", about)]


def _verify(plan: Plan) -> list[str]:
    written = {"scheme": plan.verify.scheme, "secret_env": variable(plan.source)}
    if plan.verify.has_token:
        written["verify_token_env"] = variable(plan.source, "VERIFY_TOKEN")
    return [*comments(plan.verify.notes), *entry("verify", written)]


def _routing(plan: Plan) -> list[str]:
    lines: list[str] = []
    if plan.parts.split is not None:
        lines += comments(["One webhook carries a list of events: each is looked at on its own."])
        lines += expression("split", plan.parts.split)
    if plan.type is not None:
        lines += comments([f"The type of the event, here {scalar(plan.kind)}."])
        lines += expression("event_type", plan.type.expression)
    else:
        lines += comments(['No field was found that tells the types of events apart, so all have one entry, "*".'])
    if plan.key is not None:
        lines += comments([_KEY if plan.key is not EQUAL_BODIES else _NO_KEY])
        lines += expression("event_key", plan.key.expression)
    return lines


_KEY = "Guessed: what makes a repeated webhook the same, so that it counts once."
_NO_KEY = "No id of the event itself was found, so webhooks count once when all of their fields are equal."


def _defaults(plan: Plan) -> list[str]:
    named = plan.who.identifiers
    if not named:
        return []
    lines = ["Guessed: the person that the events are about, and when they happened."]
    if plan.who.others:
        others = ", ".join(f"={each.expression}" for each in plan.who.others)
        lines += [f"Also found: {others}", "The id has to be the one that the person has in Customer.io."]
    values = {**named, **({"timestamp": plan.time} if plan.time else {})}
    written = [line for name, guess in values.items() for line in expression(name, guess.expression)]
    return [*comments(lines), "defaults:", *indented(written)]


def _events(plan: Plan) -> list[str]:
    lines = _nobody(plan) if not plan.who.identifiers else list(_calls(plan))
    return [f"{scalar(plan.kind) if plan.kind is not None else _ANY}:", *indented(lines)]


_ANY = '"*"'


def _calls(plan: Plan) -> Iterator[str]:
    if plan.removes:
        yield from comments(
            ["This says that somebody is gone. To delete them in Customer.io too, add:", "- call: destroy"]
        )
    if plan.identifies:
        bare = [] if plan.of_person else comments(["It keeps the email of whom the id names."])
        yield from [*bare, *listed(["call: identify", *_attributes(plan.of_person)])]
    yield from listed(_track(plan))


def _track(plan: Plan) -> list[str]:
    return ["call: track", *entry("name", _name(plan)), *_attributes(plan.of_event)]


def _name(plan: Plan) -> str:
    name = title(plan.kind or "webhook", plan.source)
    while len(name.encode()) > MAX_EVENT_NAME_BYTES:
        name = name[:-1]
    return name.strip()


def _attributes(attributes: list[Attribute]) -> list[str]:
    lines = [line for each in attributes for line in expression(each.name, each.guess.expression, each.note)]
    return ["attributes:", *indented(lines)] if lines else []


def _nobody(plan: Plan) -> list[str]:
    time = expression("timestamp", plan.time.expression) if plan.time is not None else []
    example = listed(["call: track", "id: =…", *time, *_track(plan)[1:]])
    empty = perhaps(plan.sample)
    told = comments(
        [
            "NOBODY was found in the payload whom this event is about, so it calls nothing yet. Once you know",
            "which field names the person, replace the call below by this one:",
            *example,
            *([f"Empty here, but named so that it may be it: {', '.join(empty)}"] if empty else []),
        ]
    )
    return [*told, *listed(["call: ignore", *entry("reason", "no field names a person yet")])]


def _test(plan: Plan, expect: list[JSON]) -> list[str]:
    headers = {name: plan.sample.headers[name] for guess in plan.read for name in guess.headers}
    ways = [(*plan.parts.way, *way) for way in ways_of(*plan.read)]
    return [
        *entry("name", f"a captured {plan.kind or 'webhook'}"),
        *(entry("headers", dict(headers)) if headers else []),
        *entry("body", pruned(plan.body, ways)),
        *entry("expect", expect),
    ]
