"""sources: the sources with their addresses, secrets and last webhooks; and the signature schemes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

import click
import yaml

from gateway import config as configuration
from gateway.cli.open_database import open_database
from gateway.cli.options import environment_of, json_option, mappings_option
from gateway.cli.output import count, json_text, printable
from gateway.config import Config
from gateway.errors import StoreError, did_you_mean
from gateway.operate.queries import EventSummary, Queries
from gateway.receive.refusals import Refusal, RefusalTable
from gateway.receive.sources import Source, load_sources, secrets_in
from gateway.store.notices import Notices
from gateway.store.schema import require_schema
from gateway.verify import scheme_entries, schemes

WIDTH = 100  # columns
#: Seconds after which a refusal is no longer shown, if a webhook was accepted since.
STALE = 86_400.0

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
def sources(names: tuple[str, ...], of_schemes: bool, mappings: Path | None, as_json: bool) -> None:
    """List the sources: address, secret variables, open or closed and why, last event and last refusal.

    With NAMEs, list only those. Mapping files and environment are read as a gateway started here and now would read
    them: a running gateway may have other variables, and keeps the last good version of a file.
    """
    if of_schemes:
        _list_schemes(names, as_json=as_json)
    else:
        _list_sources(names, environment_of(mappings, None), as_json=as_json)


def _chosen(known: Mapping[str, Known], names: Collection[str], noun: str) -> list[Known]:
    """Return the values of these names, or all values without any name."""
    for name in names:
        if name not in known:
            raise click.ClickException(f"there is no {noun} {name}{did_you_mean(name, known)}")
    return [value for name, value in known.items() if name in names or not names]


# Sources


@dataclass(frozen=True, kw_only=True)
class SourceListing:
    """What is listed of a source. A mapping file with errors leaves most of it None or empty.

    Attributes:
        closed: Why the source accepts no webhook, and the fix; None: it is open.
        doubt: Why it will probably refuse every webhook although it is open.
        unused: It is closed because none of its secrets is set.
        address: Where senders post to, with a placeholder for a secret; only a path if GATEWAY_PUBLIC_URL is not set.
        secret_env, verify_token_env: The variables that the mapping names, and whether each is set.
        networks: The only networks from which it accepts webhooks; empty: any.
        repeats: That its last webhooks were all repeats of one event.
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
    last_event: EventSummary | None = None
    refused: Refusal | None = None
    repeats: str | None = None


def _list_sources(names: Collection[str], environ: Mapping[str, str], *, as_json: bool) -> None:
    config = configuration.load(environ)
    known = dict(sorted(load_sources(config.mappings, environ).items()))
    chosen = _chosen(known, names, "source")
    # What is known without the database is shown even if the database cannot be read.
    events: Mapping[str, EventSummary] = {}
    refusals: Mapping[str, Refusal] = {}
    repeats: Mapping[str, str] = {}
    problem, missing_file = None, config.missing_file
    if missing_file is None:
        try:
            with open_database(config) as database:
                require_schema(database)
                events = Queries(database).last_events([source.name for source in chosen])
                refusals = RefusalTable(database).read()
                repeats = Notices(database).open_texts("repeats")
        except StoreError as error:
            problem = error
    listings = [
        replace(
            _listing(source, config, environ),
            last_event=events.get(source.name),
            refused=refusals.get(source.name),
            repeats=repeats.get(source.name),
        )
        for source in chosen
    ]
    if as_json:
        rows = [asdict(listing) for listing in listings]
        for row in rows if problem is not None else ():
            del row["last_event"], row["refused"], row["repeats"]  # null would mean that there never was one
        click.echo(json_text(rows))
    else:
        blocks = _blocks(listings, in_full=bool(names), history_is_known=problem is None)
        no_events = "; no events yet" if problem is None and not events else ""
        if missing_file is not None:
            no_events += f": there is no {missing_file}, which gateway serve will create"
        click.echo("\n\n".join((*blocks, _summary(listings, no_events))))
    if problem is not None:  # at the end, where nobody overlooks it
        raise click.ClickException(f"last events and refusals cannot be read: {problem}")


def _listing(source: Source, config: Config, environ: Mapping[str, str]) -> SourceListing:
    def are_set(variables: Collection[str]) -> dict[str, bool]:
        return {name: bool(secrets_in(environ.get(name, ""))) for name in variables}

    listing = SourceListing(source=source.name, file=source.file, closed=source.closed)
    if source.mapping is None:
        return listing
    verify = source.mapping.verify
    return replace(
        listing,
        doubt=source.doubt,
        unused=source.is_unused,
        address=f"{config.public_url or ''}{source.path}",
        scheme=verify.scheme.name,
        secret_env=are_set(verify.secret_env),
        verify_token_env=are_set([] if verify.token_env is None else [verify.token_env]),
        networks=tuple(map(str, verify.networks)),
    )


def _blocks(listings: Sequence[SourceListing], *, in_full: bool, history_is_known: bool) -> Iterator[str]:
    """Yield a block of lines for each source, and one block with a line for each unused source.

    The package ships dozens of mappings: in full, those that nobody uses would hide the others.
    """
    now, unused = time.time(), []
    for listing in listings:
        if listing.unused and listing.last_event is None and listing.refused is None and not in_full:
            unused.append(listing)
            continue
        state = "open" if listing.closed is None else f"closed: {listing.closed}"
        lines = [click.style(line, bold=True) for line in _wrapped(f"{listing.source}: {state}", indent=4)]
        for label, text in _fields(listing, now, history_is_known=history_is_known):
            lines += _wrapped(f"    {label:10}  {text}", indent=16)
        yield "\n".join(lines)
    if unused:
        lines = [click.style("closed until their secrets are set (gateway sources NAME shows more):", bold=True)]
        width = max(len(listing.source) for listing in unused)
        for listing in unused:
            lines.append(f"    {listing.source:{width}}  {', '.join((*listing.secret_env, *listing.verify_token_env))}")
        yield "\n".join(lines)


def _fields(listing: SourceListing, now: float, *, history_is_known: bool) -> Iterator[tuple[str, str]]:
    """Yield the label and text of each line about a source."""
    if listing.scheme is not None:
        yield "address", listing.address or ""
        yield "verify", _verification(listing)
    if listing.doubt is not None:
        yield "but", listing.doubt
    if listing.repeats is not None:
        yield "but", listing.repeats
    if not history_is_known:
        return
    event, refusal = listing.last_event, listing.refused
    if event is None:
        yield "last event", "never"
    else:
        problem = f": {event.problem}" if event.problem else ""
        yield "last event", f"{event.id}, {event.status}, {_ago(now - event.received_at)}{problem}"
    accepted_at = 0.0 if event is None else event.received_at
    if refusal is not None and (refusal.last_at > accepted_at or now - refusal.last_at < STALE):
        yield "refused", f"{_ago(now - refusal.last_at)}, at least {refusal.times:,} in all: {refusal.problem}"


def _verification(listing: SourceListing) -> str:
    state = {True: "(set)", False: "(not set)"}
    parts = [str(listing.scheme)]
    parts += [f"{name} {state[is_set]}" for name, is_set in listing.secret_env.items()]
    parts += [f"verify token {name} {state[is_set]}" for name, is_set in listing.verify_token_env.items()]
    if listing.networks:
        parts.append(f"only from {', '.join(listing.networks)}")
    elif not listing.secret_env:
        parts.append("anybody who knows the address can post")
    return ", ".join(parts)


def _summary(listings: Sequence[SourceListing], no_events: str) -> str:
    closed = sum(listing.closed is not None for listing in listings)
    text = f"{count(len(listings), 'source')}: {len(listings) - closed:,} open, {closed:,} closed{no_events}"
    lines = _wrapped(text, indent=4)
    if any((listing.address or "").startswith("/") for listing in listings):
        lines.append("The addresses are paths only, as GATEWAY_PUBLIC_URL is not set.")
    return "\n".join(lines)


def _ago(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= 2 * size:  # from 2 on, as "1 hour ago" could mean nearly two
            return f"{count(int(seconds // size), unit)} ago"
    return "just now"


def _wrapped(text: str, *, indent: int) -> list[str]:
    """Break a line that is too long for a terminal between words, never inside an address or a name."""
    subsequent = " " * indent
    return wrap(printable(text), WIDTH, subsequent_indent=subsequent, break_long_words=False, break_on_hyphens=False)


# Schemes


def _list_schemes(names: Collection[str], *, as_json: bool) -> None:
    table = scheme_entries()
    chosen = _chosen({name: name for name in table}, names, "scheme")
    if not names and not as_json:
        width = max(map(len, chosen))
        for name in chosen:
            line = f"{name:{width}}  {schemes()[name].description}"
            click.echo("\n".join(_wrapped(line, indent=width + 2)))
        return
    # An entry that starts from another one (`base`) holds only what differs, so that one is shown too, once.
    shown: dict[str, str] = {}
    while chosen:
        name = chosen.pop(0)
        if name not in shown:
            shown[name] = table[name]
            chosen[:0] = re.findall(r"^  base: (\w+)$", table[name], re.MULTILINE)
    if as_json:
        data = [{"name": name, **yaml.safe_load(text)[name]} for name, text in shown.items()]
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(shown.values()), nl=False)
