"""identify, track, page, destroy and request: send one call now and print the answer."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gateway import config as configuration
from gateway import payload
from gateway.cli.output import json_text, printable, printable_lines
from gateway.customerio.calls import IDENTIFIERS, Call, Destroy, Identify, Page, RawRequest, Track
from gateway.customerio.calls.raw_request import METHODS, RESPONSE_TYPES, RETRY_SETTINGS
from gateway.customerio.client import DEADLINE, Client
from gateway.customerio.connection import DEFAULT, HOSTS
from gateway.customerio.retry import Attempt
from gateway.errors import CallError, RequestError, SendError
from gateway.event import JSON

#: The largest --timeout, in seconds. No lease limits it here, but a person waits.
MAX_TIMEOUT = 3_600.0

_ATTRIBUTES = """\b
An ATTRIBUTE is key=text or key:=JSON; a key may hold dots:
  plan=pro logins:=3 vip:=true left_at:=null address:='{"city": "Oslo"}'
"""


class _SendCommand(click.Command):
    """A command that exits with status 1 on every failure, also on a wrong command line (click's own is 2)."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _exit_status_one():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _exit_status_one():
            return super().invoke(ctx)


@contextmanager
def _exit_status_one() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        error.exit_code = 1  # type: ignore[misc]  # declared for the class, read from the instance
        raise


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combine several options into one decorator; help lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _check_timeout(_: click.Context, __: click.Parameter, seconds: float | None) -> float | None:
    # A range of click's would accept "nan".
    if seconds is not None and not 0 < seconds <= MAX_TIMEOUT:
        raise click.BadParameter(f"not over 0 and at most {MAX_TIMEOUT:g} seconds")
    return seconds


_connection_options = _options(
    click.option(
        "--connection", metavar="NAME", default=DEFAULT, show_default=True, help="The connection to send over."
    ),
    click.option(
        "--region", type=click.Choice(list(HOSTS)), help="The region to send to, instead of the connection's."
    ),
)
_person_options = _options(
    click.option("--id", metavar="ID", help="The person's id."),
    click.option("--email", metavar="EMAIL", help="The person's email address."),
    click.option("--cio-id", metavar="ID", help="The id that Customer.io gave the person."),
    click.option("--phone", metavar="NUMBER", help="The person's phone number, as +14155552671."),
)
_attribute_options = _options(
    click.argument("attributes", metavar="[ATTRIBUTE]...", nargs=-1),
    click.option(
        "--data",
        metavar="JSON|@FILE|-",
        help="An object of further attributes: as text, in a file, or - on standard input."
        " One on the command line wins.",
    ),
    click.option("--timestamp", type=int, metavar="N", help="When it happened, in unix seconds."),
)
_event_options = _options(
    _person_options,
    click.option("--anonymous-id", metavar="ID", help="The id of somebody not known yet."),
    click.option("--anonymous", is_flag=True, help="Name nobody: mail goes to the attribute 'recipient'."),
    _attribute_options,
    click.option(
        "--event-id",
        metavar="TEXT",
        help="What a repeat has in common with the first, so that it does not count again.",
    ),
    _connection_options,
)


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@_person_options
@_attribute_options
@click.option("--update-only", is_flag=True, help="Update the person if there is one, and never create one.")
@_connection_options
def identify(**options: Any) -> None:
    """Create or update a person now, and print the answer."""
    _send_call(Identify, **options)


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@click.argument("name")
@_event_options
def track(**options: Any) -> None:
    """Record an event of a person now, and print the answer."""
    _send_call(Track, **options)


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@click.argument("url")
@_event_options
def page(**options: Any) -> None:
    """Record that a person viewed a page now, and print the answer.

    URL is the address, path or name of the page, or * for any page.
    """
    _send_call(Page, **options)


@click.command(cls=_SendCommand)
@click.argument("words", nargs=-1, metavar="")
@_person_options
@_connection_options
def destroy(words: tuple[str, ...], **options: Any) -> None:
    """Delete a person now, and print the answer. A later call creates them anew."""
    if words:
        raise click.UsageError(f"'{printable(words[0])}' has no place here; {_how_to_name(words[0])}")
    _send_call(Destroy, **options)


def _send_call(kind: type[Call], *, connection: str, region: str | None, **fields: Any) -> None:
    """Send a call about a person; the options have the names of its fields."""
    if "attributes" in fields:
        fields["attributes"] = _attributes(fields["attributes"], fields.pop("data"))
    identifiers = [name for name in fields if name in IDENTIFIERS]
    if not fields.get("anonymous") and not any(fields[name] for name in identifiers):
        *others, last = (f"--{name.replace('_', '-')}" for name in identifiers)
        raise click.UsageError(f"nobody is named; give {', '.join(others)} or {last}")
    _send(kind(**fields), connection, region)


@click.command(cls=_SendCommand)
@click.argument("path")
@click.option(
    "--method",
    metavar="METHOD",
    type=click.Choice(METHODS, case_sensitive=False),
    help="GET unless given, or POST where there is a body.",
)
@click.option("--query", metavar="NAME=TEXT", multiple=True, help="A parameter of the query; repeatable.")
@click.option(
    "--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header of the request; repeatable."
)
@click.option(
    "--data",
    metavar="TEXT|@FILE|-",
    help="The body: as text, in a file, or - on standard input. It is sent as it is,"
    " as JSON if it is JSON and else as text.",
)
@click.option("--json", "json_data", metavar="JSON|@FILE|-", help="As --data, and an error if it is not JSON.")
@click.option("--text", "as_text", is_flag=True, help="Send --data as text, also if it is JSON.")
@click.option("--form", metavar="NAME=TEXT", multiple=True, help="A field of a multipart body; repeatable.")
@click.option(
    "--file",
    "files",
    metavar="NAME=PATH",
    multiple=True,
    help="A local file as a field of a multipart body; repeatable.",
)
@click.option(
    "--file-name",
    "file_names",
    metavar="NAME=TEXT",
    multiple=True,
    help="What the file of this field is called there, instead of its name here.",
)
@click.option(
    "--response-type",
    type=click.Choice(RESPONSE_TYPES),
    default="json",
    show_default=True,
    help="What the answer has to be; text and binary are printed as they are.",
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    default=DEADLINE,
    show_default=True,
    callback=_check_timeout,
    help="How long one attempt may take in all.",
)
@click.option(
    "--retries",
    "max",
    type=click.IntRange(RETRY_SETTINGS["max"].least, RETRY_SETTINGS["max"].most),
    metavar="N",
    help="Try again so many times if it does not arrive or its answer does not. Only what may happen"
    " twice should be tried again.  [default: 0]",
)
@click.option(
    "--retry-delay",
    "delay_ms",
    type=click.IntRange(RETRY_SETTINGS["delay_ms"].least, RETRY_SETTINGS["delay_ms"].most),
    metavar="MS",
    help="Milliseconds before the first retry, instead of the connection's.",
)
@click.option(
    "--exponential/--no-exponential",
    default=None,
    help="Double the delay from one retry to the next, or do not, instead of what the connection says.",
)
@click.option(
    "--retry-all-errors",
    "all_errors",
    is_flag=True,
    default=None,
    help="Try again also what Customer.io refuses for good.",
)
@click.option("--debug", is_flag=True, help="Print request and answer on standard error, without credentials.")
@_connection_options
def request(
    path: str,
    method: str | None,
    query: tuple[str, ...],
    headers: tuple[str, ...],
    data: str | None,
    json_data: str | None,
    as_text: bool,
    form: tuple[str, ...],
    files: tuple[str, ...],
    file_names: tuple[str, ...],
    response_type: str,
    timeout: float,
    debug: bool,
    connection: str,
    region: str | None,
    **retry: int | None,
) -> None:
    """Send any request to Customer.io's API now, with the connection's credentials, and print the answer.

    PATH is below /api, as /v1/accounts/region.
    """
    body, content_type = _body_of(data, json_data, as_text=as_text)
    sent_headers = dict(_pairs("--header", headers))
    if content_type is not None and "content-type" not in map(str.lower, sent_headers):
        sent_headers = {"Content-Type": content_type, **sent_headers}
    paths = dict(_pairs("--file", files))
    settings = {name: value for name, value in retry.items() if value is not None}
    if settings and "max" not in settings:
        raise click.UsageError("nothing is tried again without --retries N")
    call = RawRequest(
        method=method,
        path=path,
        query=_lists(_pairs("--query", query, repeatable=True)),
        headers=sent_headers,
        data=body,
        form=_lists(_pairs("--form", form, repeatable=True)),
        files={name: _contents(file) for name, file in paths.items()},
        file_names={name: Path(file).name for name, file in paths.items()} | dict(_pairs("--file-name", file_names)),
        response_type=response_type,
        debug=debug,
        retry={"max": 0, **settings},  # unasked, nothing is sent again: it may have happened
    )
    _send(call, connection, region, timeout=timeout, as_json=response_type == "json")


def _send(call: Call, connection: str, region: str | None, *, timeout: float = DEADLINE, as_json: bool = True) -> None:
    """Send a call and print the answer; print retries on standard error, and each exchange that is debugged."""
    reason: str | None = None

    def note(attempt: Attempt) -> None:
        nonlocal reason
        reason = attempt.reason  # printed if another attempt follows, else the command fails with it
        if attempt.debug is not None:
            click.echo(f"{printable_lines(attempt.debug)}\n", err=True)

    def sleep(seconds: float) -> None:
        nonlocal reason
        if reason is not None:
            click.echo(f"{reason}; next try in {seconds:.1f} s", err=True)
            reason = None
        time.sleep(seconds)

    with Client(configuration.load(os.environ).connections, deadline=timeout, sleep=sleep) as client:
        try:
            answer = client.call(call, connection=connection, region=region, on_attempt=note)
        except (CallError, SendError) as error:
            # The text may quote fields and connections of the command line.
            raise click.ClickException(printable(error)) from error
    if not as_json:
        click.echo(answer.body, nl=False)
    elif answer.body:
        click.echo(json_text(answer.json))


# Attributes


def _attributes(words: Sequence[str], data: str | None) -> dict[str, JSON]:
    from_data: JSON = {}
    if data is not None:
        try:
            from_data = payload.decode(_read(data, "--data"), "")
        except RequestError as error:
            raise click.UsageError(f"--data: {error}") from None
    if not isinstance(from_data, dict):
        raise click.UsageError('--data is not an object of attributes; write {"key": value}')
    from_words: dict[str, JSON] = {}
    for word in words:
        name, equals, text = word.partition("=")
        key = name.removesuffix(":")
        if not equals:
            raise click.UsageError(f"'{printable(word)}' is neither key=text nor key:=json; {_how_to_name(word)}")
        if not key.strip():
            raise click.UsageError("an attribute has no key; write key=text or key:=json")
        if key in from_words:
            raise click.UsageError(f"'{printable(key)}' is given twice")
        from_words[key] = _json_of(key, text) if name.endswith(":") else text
    return from_data | from_words


def _json_of(key: str, text: str) -> JSON:
    try:
        return payload.decode(text.encode(errors="surrogatepass"), "")
    except RequestError:
        name = printable(key)
        raise click.UsageError(
            f"what follows '{name}:=' is not JSON; write {name}=… for a text,"
            f" and quote JSON for the shell: {name}:='{{\"a\": [1]}}'"
        ) from None


def _how_to_name(word: str) -> str:
    """Say which option names a person, to somebody who wrote the name alone."""
    return f"a person is named by {'--email' if '@' in word else '--id'} {printable(shlex.quote(word))}"


# Requests


def _body_of(data: str | None, json_data: str | None, *, as_text: bool) -> tuple[str | None, str | None]:
    """Return the body, and its content type unless it is that of text."""
    if json_data is not None and (data is not None or as_text):
        raise click.UsageError("--json is given instead of --data and --text, not with them")
    option, value = ("--data", data) if json_data is None else ("--json", json_data)
    if value is None:
        return None, None
    content = _read(value, option)
    is_json = not as_text
    # The text is sent unchanged, so that the digits of a number stay and null is a body: it is parsed as a check only.
    try:
        payload.decode(content, "")
    except RequestError as error:
        if json_data is not None:
            raise click.UsageError(f"--json: {error}") from None
        is_json = False
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} is not UTF-8 text; --file NAME=PATH sends any file") from None
    return text, "application/json" if is_json else None


def _pairs(option: str, texts: Iterable[str], *, repeatable: bool = False) -> list[tuple[str, str]]:
    """Split the texts of an option into names and values; unless it is repeatable, a name may stand once."""
    is_header = option == "--header"  # case and spaces around it do not matter
    separator = ":" if is_header else "="
    pairs: list[tuple[str, str]] = []
    names: set[str] = set()
    for number, text in enumerate(texts, start=1):
        name, separated, value = text.partition(separator)
        if not separated or not name.strip():
            raise click.UsageError(f"number {number} of {option} is not a name, {separator} and a value")
        pairs.append((name.strip(), value.strip()) if is_header else (name, value))
        same_name = name.strip().lower() if is_header else name
        if same_name in names and not repeatable:
            raise click.UsageError(f"{option} gives '{printable(same_name)}' twice")
        names.add(same_name)
    return pairs


def _lists(pairs: Iterable[tuple[str, str]]) -> dict[str, JSON]:
    values: dict[str, list[JSON]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return dict(values)


def _read(value: str, option: str) -> bytes:
    """Return the value of an option: the text itself, of a file (@) or of standard input (-)."""
    if value == "-":
        return sys.stdin.buffer.read()
    # Bytes that are not UTF-8 are surrogates in sys.argv; they become invalid UTF-8 again.
    return _contents(value[1:], option) if value.startswith("@") else value.encode(errors="surrogatepass")


def _contents(path: str, option: str = "--file") -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise click.ClickException(f"{option}: {printable(path)} cannot be read ({why})") from error
