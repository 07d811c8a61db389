"""sources: where webhooks are taken and what came last, and the schemes by which senders prove themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar, get_args

import click
import yaml

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import environment_of, json_option, mappings_option, plain_errors
from gateway.cli.output import count, json_text, printable
from gateway.config import Config
from gateway.errors import StoreError, did_you_mean
from gateway.event import JSON
from gateway.operate.queries import EventSummary, Queries
from gateway.receive.refusals import Refusal, RefusalTable
from gateway.receive.sources import Source, load_sources, secrets_in
from gateway.store.schema import require_schema
from gateway.verify import KEYS, Handshake, Kind, Place, Scheme, schemes
from gateway.verify.scheme import Answer, Shown

WIDTH = 100  # columns

Known = TypeVar("Known")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option(
    "--schemes",
    "of_schemes",
    is_flag=True,
    help="List the schemes by which senders prove themselves instead; with NAMEs, all that those say.",
)
@mappings_option
@json_option
@plain_errors
def sources(names: tuple[str, ...], of_schemes: bool, mappings: Path | None, as_json: bool) -> None:
    """List the sources: the address to post to, the secret, open or closed, and what came last.

    With NAMEs, only those. Files and variables are read as by a gateway that is started here and now: one that
    runs may have other variables, and keeps the last good version of a file.
    """
    if of_schemes:
        _list_schemes(names, as_json=as_json)
    else:
        _list_sources(names, environment_of(mappings, None), as_json=as_json)


def _chosen(known: Mapping[str, Known], names: Collection[str], noun: str) -> list[Known]:
    """Give those of these names, or all."""
    for name in names:
        if name not in known:
            raise click.ClickException(f"there is no {noun} {name}{did_you_mean(name, known)}")
    return [each for name, each in known.items() if name in names or not names]


# Sources


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A source as its file and the environment make it; what only a file without errors says is None otherwise.

    Attributes:
        closed: Why no webhook is taken, and what to do; None: it is open.
        doubt: Why it may refuse all that comes, though it is open.
        unused: It is closed because none of its secrets is set.
        address: What senders post to, with a placeholder for a secret; a path where GATEWAY_PUBLIC_URL is not set.
        secret_env, verify_token_env: The variables that the mapping names, and whether each is set.
        networks: The only ones that webhooks are taken from; empty: any.
    """

    source: str
    file: str
    closed: str | None
    doubt: str | None = None
    unused: bool = False
    address: str | None = None
    scheme: str | None = None
    secret_env: Mapping[str, bool] = field(default_factory=dict)
    verify_token_env: Mapping[str, bool] = field(default_factory=dict)
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the database knows of sources: the last event and the last refusal of those that have one.

    Attributes:
        missing: The SQLite file that is still to be made; None: there is a database.
    """

    events: Mapping[str, EventSummary]
    refusals: Mapping[str, Refusal]
    missing: Path | None = None


def _list_sources(names: Collection[str], environ: Mapping[str, str], *, as_json: bool) -> None:
    config = configuration.load(environ)
    known = dict(sorted(load_sources(config.mappings, environ).items()))
    entries = [_entry(each, config, environ) for each in _chosen(known, names, "source")]
    seen, problem = None, None
    try:
        seen = _look(config, [each.source for each in entries])
    except StoreError as error:
        problem = error
    click.echo(json_text(_as_json(entries, seen)) if as_json else _as_text(entries, seen, in_full=bool(names)))
    if problem is not None:  # said at the end, where nobody overlooks it
        raise click.ClickException(f"what came last is not known: {problem}")


def _entry(source: Source, config: Config, environ: Mapping[str, str]) -> _Entry:
    if source.mapping is None:
        return _Entry(source=source.name, file=source.file, closed=source.closed)
    verify = source.mapping.verify
    tokens = [verify.token_env] if verify.token_env is not None else []
    return _Entry(
        source=source.name,
        file=source.file,
        closed=source.closed,
        doubt=source.doubt,
        unused=source.is_unused,
        address=f"{config.public_url or ''}{source.path}",
        scheme=verify.scheme.name,
        secret_env={name: _is_set(name, environ) for name in verify.secret_env},
        verify_token_env={name: _is_set(name, environ) for name in tokens},
        networks=tuple(map(str, verify.networks)),
    )


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return bool(secrets_in(environ.get(name, "")))


def _look(config: Config, names: Sequence[str]) -> _Seen:
    """Ask the database; a file that is not there yet is not made for that."""
    if config.embedded:
        file = Path(config.database_url.removeprefix("sqlite:///"))
        if not file.exists():
            return _Seen(events={}, refusals={}, missing=file)
    with open_database(config) as database:
        require_schema(database)
        return _Seen(events=Queries(database).last_events(names), refusals=RefusalTable(database).read())


def _as_json(entries: Sequence[_Entry], seen: _Seen | None) -> list[dict[str, Any]]:
    return [{**asdict(each), **_seen_as_json(each.source, seen)} for each in entries]


def _seen_as_json(source: str, seen: _Seen | None) -> dict[str, Any]:
    """Give null for what never came, and nothing at all where nobody knows."""
    if seen is None:
        return {}
    event, refusal = seen.events.get(source), seen.refusals.get(source)
    return {
        "last_event": None if event is None else asdict(event),
        "refused": None if refusal is None else asdict(refusal),
    }


def _as_text(entries: Sequence[_Entry], seen: _Seen | None, *, in_full: bool) -> str:
    """Write a block for each source, and a line for those that nobody uses yet unless they were asked for."""
    now = time.time()
    unused = [each for each in entries if each.unused and not _has_come(each, seen) and not in_full]
    blocks = [_block(each, seen, now) for each in entries if each not in unused]
    if unused:
        blocks.append("\n".join(_lines_of_unused(unused)))
    return "\n\n".join((*blocks, _summary(entries, seen)))


def _has_come(entry: _Entry, seen: _Seen | None) -> bool:
    return seen is not None and (entry.source in seen.events or entry.source in seen.refusals)


def _lines_of_unused(entries: Sequence[_Entry]) -> Iterator[str]:
    yield click.style("closed, and waiting for a secret (gateway sources NAME shows more):", bold=True)
    widest = max(len(each.source) for each in entries)
    for each in entries:
        yield f"    {each.source:{widest}}  {', '.join((*each.secret_env, *each.verify_token_env))}"


def _summary(entries: Sequence[_Entry], seen: _Seen | None) -> str:
    closed = sum(each.closed is not None for each in entries)
    text = f"{count(len(entries), 'source')}: {len(entries) - closed:,} open, {closed:,} closed"
    if seen is not None and not seen.events:
        text += "; no events yet"
        if seen.missing is not None:
            text += f": there is no {seen.missing}, which gateway serve will make"
    lines = _wrapped(text, indent=4)
    if any(each.address is not None and each.address.startswith("/") for each in entries):
        lines.append("The addresses are paths only, as GATEWAY_PUBLIC_URL is not set.")
    return "\n".join(lines)


def _block(entry: _Entry, seen: _Seen | None, now: float) -> str:
    state = "open" if entry.closed is None else f"closed: {entry.closed}"
    lines = [click.style(line, bold=True) for line in _wrapped(f"{entry.source}: {state}", indent=4)]
    for name, text in _fields(entry, seen, now):
        lines += _wrapped(f"    {name:{_WIDEST_NAME}}  {text}", indent=_WIDEST_NAME + 6)
    return "\n".join(lines)


_WIDEST_NAME = len("last event")
#: Seconds after which a refusal is forgotten when webhooks were taken since.
_STALE = 86_400.0


def _fields(entry: _Entry, seen: _Seen | None, now: float) -> Iterator[tuple[str, str]]:
    if entry.scheme is not None:
        yield "address", entry.address or ""
        yield "verify", _proof(entry)
    if entry.doubt is not None:
        yield "but", entry.doubt
    if seen is None:
        return
    event, refusal = seen.events.get(entry.source), seen.refusals.get(entry.source)
    yield "last event", "never" if event is None else _told(event, now)
    taken_at = 0.0 if event is None else event.received_at
    if refusal is not None and (refusal.last_at > taken_at or now - refusal.last_at < _STALE):
        yield (
            "refused",
            f"{_ago(now - refusal.last_at)}, at least {refusal.times:,} in all: {refusal.problem}",
        )


def _proof(entry: _Entry) -> str:
    said = [str(entry.scheme)]
    said += [f"{name} {_SET[is_set]}" for name, is_set in entry.secret_env.items()]
    said += [f"verify token {name} {_SET[is_set]}" for name, is_set in entry.verify_token_env.items()]
    if entry.networks:
        said.append(f"only from {', '.join(entry.networks)}")
    elif not entry.secret_env:
        said.append("anybody who knows the address can post")
    return ", ".join(said)


_SET = {True: "(set)", False: "(not set)"}


def _told(event: EventSummary, now: float) -> str:
    told = f"{event.id}, {event.status}, {_ago(now - event.received_at)}"
    return f"{told}: {event.problem}" if event.problem else told


def _ago(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= 2 * size:  # below, "1 hour ago" could mean nearly two
            return f"{count(int(seconds // size), unit)} ago"
    return "just now"


def _wrapped(text: str, *, indent: int) -> list[str]:
    """Break a line that is too long for a terminal between words, never within an address or a name."""
    return wrap(
        printable(text),
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# Schemes


def _list_schemes(names: Collection[str], *, as_json: bool) -> None:
    chosen = _chosen(schemes(), names, "scheme")
    if as_json:
        click.echo(json.dumps([*map(_described, chosen)], indent=2, ensure_ascii=False))
    elif names:
        click.echo("\n\n".join(map(_in_full, chosen)))
    else:
        widest = max(len(each.name) for each in chosen)
        for each in chosen:
            line = f"{each.name:{widest}}  {each.description}"
            click.echo("\n".join(_wrapped(line, indent=widest + 2)))


def _described(scheme: Scheme) -> dict[str, JSON]:
    about: dict[str, JSON] = {"name": scheme.name, "description": scheme.description, "kind": scheme.kind}
    return {**about, **_written(scheme), **_table_only(scheme)}


def _in_full(scheme: Scheme) -> str:
    """Write a scheme as YAML that a mapping can have in the place of its name, what it cannot have as comments."""
    start = "kind" if scheme.kind in get_args(Kind) else "base"
    lines = [f"# {line}" for line in _wrapped(f"{scheme.name}: {scheme.description}", indent=0)]
    lines += _yaml({start: scheme.kind, **_written(scheme)})
    if further := _table_only(scheme):
        lines.append(f"# and what you have with  scheme: {scheme.name}  or  base: {scheme.name}  only:")
        lines += [f"#   {line}" for line in _yaml(further)]
    return "\n".join(lines)


def _yaml(data: Mapping[str, JSON]) -> list[str]:
    """Write each key as people do: lists and objects of plain values in one line."""
    lines: list[str] = []
    for key, value in data.items():
        flow = None if isinstance(value, list | dict) else False
        dumped = yaml.safe_dump(
            {key: value}, default_flow_style=flow, width=WIDTH - 4, allow_unicode=True, sort_keys=False
        )
        lines += dumped.splitlines()
    return lines


def _written(scheme: Scheme) -> dict[str, JSON]:
    """Write the keys that a mapping's scheme may have, in its notation; those that do not matter are left out."""
    is_list = scheme.key is not None or scheme.positional
    written: dict[str, JSON] = {
        "header": _one_or_more(scheme.header),
        "at": _place(scheme.at),
        "prefix": scheme.prefix,
        "key": scheme.key,
        "positional": scheme.positional,
        "items": scheme.items if is_list else None,
        "sep": scheme.sep if scheme.key is not None else None,
        "algorithm": scheme.algorithm,
        "encoding": scheme.encoding,
        "secret": _filled(asdict(scheme.secret)),
        "signed": scheme.signed,
        "timestamp": _timestamp(scheme),
        "delivery_id": _one_or_more([_one_or_more(names) for names in scheme.delivery_id]),
        "trust": _one_or_more(scheme.trust),
    }
    return _filled({key: written[key] for key in KEYS[scheme.kind]})


def _timestamp(scheme: Scheme) -> JSON:
    stamp = scheme.timestamp
    if stamp is None:
        return None
    written = {**asdict(stamp), "header": _one_or_more(stamp.header)}
    return {**_filled(written), "tolerance": "none" if stamp.tolerance is None else stamp.tolerance}


def _table_only(scheme: Scheme) -> dict[str, JSON]:
    """Write what only the table says of a scheme."""
    answer = scheme.answer
    return _filled(
        {
            # A kind that is code may have one that is fixed.
            "header": None if "header" in KEYS[scheme.kind] else _one_or_more(scheme.header),
            "event_key": scheme.event_key,
            "event_type": scheme.event_type,
            "content_type": scheme.content_type,
            "secret_prefix": scheme.secret_prefix,
            "handshakes": [*map(_handshake, scheme.handshakes)],
            "answer": None if answer is None else _answer(answer),
        }
    )


def _answer(answer: Answer) -> JSON:
    """An empty text says something: that nothing is said."""
    return {key: value for key, value in asdict(answer).items() if value is not None}


def _handshake(handshake: Handshake) -> dict[str, JSON]:
    when = handshake.when.items()
    return _filled(
        {
            "method": handshake.method,
            "when": {str(_place(where)): value for where, value in when},
            "signed": handshake.signed,
            "token": _place(handshake.token),
            "tell": _place(handshake.tell),
            "text": _shown(handshake.text),
            "json": {name: _shown(what) for name, what in (handshake.json or {}).items()},
            "headers": {name: _shown(what) for name, what in handshake.headers.items()},
        }
    )


def _shown(what: Shown | int | None) -> JSON:
    if not isinstance(what, Shown):
        return what
    return f"mac({_place(what.place)})" if what.mac else _place(what.place)


def _place(where: Place | None) -> str | None:
    if where is None:
        return None
    return f"{where.part}.{where.name}" if where.name else where.part


def _one_or_more(items: Sequence[JSON]) -> JSON:
    # The one item of a list that is a list itself is several names taken together.
    return items[0] if len(items) == 1 and isinstance(items[0], str) else list(items)


def _filled(data: Mapping[str, JSON]) -> dict[str, JSON]:
    """Leave out what says nothing."""
    return {key: value for key, value in data.items() if value}
