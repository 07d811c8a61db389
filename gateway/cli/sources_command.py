"""sources: where webhooks are taken and what came last, and the schemes by which senders prove themselves."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import click
import yaml

from gateway import config as configuration
from gateway.cli.open_database import opened
from gateway.cli.options import count, environment_of, json_option, mappings_option, plain_errors
from gateway.cli.tables_and_filters import document, plain
from gateway.config import Config, Source
from gateway.errors import StoreError, did_you_mean
from gateway.operate.queries import EventEntry, Queries
from gateway.receive.refusals import Kept, Refusal
from gateway.store.database import require_schema
from gateway.verify import entries, schemes

WIDTH = 100  # columns

Known = TypeVar("Known")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option(
    "--schemes",
    "of_schemes",
    is_flag=True,
    help="List the signature schemes instead of sources; with NAMEs, show their entries in the table of schemes.",
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

    events: Mapping[str, EventEntry]
    refusals: Mapping[str, Refusal]
    missing: Path | None = None


def _list_sources(names: Collection[str], environ: Mapping[str, str], *, as_json: bool) -> None:
    config = configuration.load(environ)
    known = dict(sorted(configuration.load_sources(config.mappings, environ).items()))
    entries = [_entry(each, config, environ) for each in _chosen(known, names, "source")]
    seen, problem = None, None
    try:
        seen = _look(config, [each.source for each in entries])
    except StoreError as error:
        problem = error
    click.echo(document(_as_json(entries, seen)) if as_json else _as_text(entries, seen, in_full=bool(names)))
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
        doubt=configuration.doubt_of(source),
        unused=source.is_unused,
        address=f"{config.public_url or ''}{source.path}",
        scheme=verify.scheme.name,
        secret_env={name: _is_set(name, environ) for name in verify.secret_env},
        verify_token_env={name: _is_set(name, environ) for name in tokens},
        networks=tuple(map(str, verify.networks)),
    )


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return bool(configuration.secrets_in(environ.get(name, "")))


def _look(config: Config, names: Sequence[str]) -> _Seen:
    """Ask the database; a file that is not there yet is not made for that."""
    if config.embedded:
        file = Path(config.database_url.removeprefix("sqlite:///"))
        if not file.exists():
            return _Seen(events={}, refusals={}, missing=file)
    with opened(config) as database:
        require_schema(database)
        return _Seen(events=Queries(database).last_events(names), refusals=Kept(database).read())


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


def _told(event: EventEntry, now: float) -> str:
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
        plain(text),
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# Schemes


def _list_schemes(names: Collection[str], *, as_json: bool) -> None:
    table = entries()
    chosen = _chosen({name: name for name in table}, names, "scheme")
    if not names and not as_json:
        width = max(map(len, chosen))
        for name in chosen:
            line = f"{name:{width}}  {schemes()[name].description}"
            click.echo("\n".join(_wrapped(line, indent=width + 2)))
        return
    # An entry that starts from another one says only what differs, so that one is shown too.
    shown = [name for chosen_name in chosen for name in _with_bases(chosen_name, table)]
    texts = [table[name] for name in dict.fromkeys(shown)]
    if as_json:
        data = [{"name": name, **keys} for text in texts for name, keys in yaml.safe_load(text).items()]
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(texts), nl=False)


def _with_bases(name: str, table: Mapping[str, str]) -> Iterator[str]:
    """Yield the name of a scheme, of the scheme it starts from, and so on."""
    yield name
    base = re.search(r"^  base: (\w+)$", table[name], re.MULTILINE)
    if base is not None:
        yield from _with_bases(base[1], table)
