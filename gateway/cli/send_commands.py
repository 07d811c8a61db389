"""identify, track, page, destroy and request: send one call now and print the answer."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gateway import config as configuration
from gateway import payload
from gateway.cli.output import json_text, printable, printable_lines
from gateway.customerio.calls import Call, Destroy, Identify, Page, RawRequest, Track
from gateway.customerio.calls.raw_request import METHODS, RESPONSE_TYPES, RETRY_SETTINGS
from gateway.customerio.client import DEADLINE, Client
from gateway.customerio.connection import DEFAULT, HOSTS
from gateway.customerio.response import Response
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
        "--connection",
        metavar="NAME",
        default=DEFAULT,
        show_default=True,
        help="The connection to send over.",
    ),
    click.option(
        "--region", type=click.Choice(list(HOSTS)), help="The region to send to, instead of the connection's."
    ),
)
_person_options = _options(
    click.option("--id", metavar="ID", help="The person's id."),
    click.option("--email", metavar="EMAIL", help="The person's email address."),
    click.option("--cio-id", metavar="ID", help="The id that Customer.io gave the person."),
)
_anybody_options = _options(
    _person_options,
    click.option("--anonymous-id", metavar="ID", help="The id of somebody not known yet."),
)
_attribute_options = _options(
    click.argument("attributes", metavar="[ATTRIBUTE]...", nargs=-1),
    click.option(
        "--data",
        metavar="JSON|@FILE|-",
        help="An object of further attributes: as text, in a file, or - on standard input."
        " One on the command line wins.",
    ),
    click.option(
        "--timestamp",
        type=int,
        metavar="N",
        help="When it happened, in unix seconds.",
    ),
)
_event_id_option = click.option(
    "--event-id",
    metavar="TEXT",
    help="What a repeat has in common with the first, so that it does not count again.",
)


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@_person_options
@_attribute_options
@_connection_options
def identify(
    attributes: tuple[str, ...],
    data: str | None,
    timestamp: int | None,
    connection: str,
    region: str | None,
    **person: str | None,
) -> None:
    """Create or update a person now, and print the answer."""
    values = _attributes(attributes, data)
    _require_person(person)
    _print_response(_send(Identify(attributes=values, timestamp=timestamp, **person), connection, region))


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@click.argument("name")
@_anybody_options
@_attribute_options
@_event_id_option
@_connection_options
def track(
    name: str,
    attributes: tuple[str, ...],
    data: str | None,
    timestamp: int | None,
    event_id: str | None,
    connection: str,
    region: str | None,
    **person: str | None,
) -> None:
    """Record an event of a person now, and print the answer."""
    values = _attributes(attributes, data)
    _require_person(person)
    event = Track(name=name, attributes=values, timestamp=timestamp, event_id=event_id, **person)
    _print_response(_send(event, connection, region))


@click.command(cls=_SendCommand, epilog=_ATTRIBUTES)
@click.argument("url")
@_anybody_options
@_attribute_options
@_event_id_option
@_connection_options
def page(
    url: str,
    attributes: tuple[str, ...],
    data: str | None,
    timestamp: int | None,
    event_id: str | None,
    connection: str,
    region: str | None,
    **person: str | None,
) -> None:
    """Record that a person viewed a page now, and print the answer.

    URL is a full address (https://…), or * for any page.
    """
    values = _attributes(attributes, data)
    _require_person(person)
    view = Page(url=url, attributes=values, timestamp=timestamp, event_id=event_id, **person)
    _print_response(_send(view, connection, region))


@click.command(cls=_SendCommand)
@click.argument("words", nargs=-1, metavar="")
@_person_options
@_connection_options
def destroy(words: tuple[str, ...], connection: str, region: str | None, **person: str | None) -> None:
    """Delete a person now, and print the answer. A later call creates them anew."""
    if words:
        raise click.UsageError(f"'{printable(words[0])}' has no place here; {_how_to_name(words[0])}")
    _require_person(person)
    _print_response(_send(Destroy(**person), connection, region))


_body_options = _options(
    click.option(
        "--data",
        metavar="TEXT|@FILE|-",
        help="The body: as text, in a file, or - on standard input. It is sent as it is,"
        " as JSON if it is JSON and else as text.",
    ),
    click.option("--json", "json_data", metavar="JSON|@FILE|-", help="As --data, and an error if it is not JSON."),
    click.option("--text", "as_text", is_flag=True, help="Send --data as text, also if it is JSON."),
    click.option("--form", metavar="NAME=TEXT", multiple=True, help="A field of a multipart body; repeatable."),
    click.option(
        "--file",
        "files",
        metavar="NAME=PATH",
        multiple=True,
        help="A local file as a field of a multipart body; repeatable.",
    ),
    click.option(
        "--file-name",
        "file_names",
        metavar="NAME=TEXT",
        multiple=True,
        help="What the file of this field is called there, instead of its name here.",
    ),
)
_retry_options = _options(
    click.option(
        "--timeout",
        type=float,
        metavar="SECONDS",
        default=DEADLINE,
        show_default=True,
        callback=_check_timeout,
        help="How long one attempt may take in all.",
    ),
    click.option(
        "--retries",
        "max",
        type=click.IntRange(RETRY_SETTINGS["max"].least, RETRY_SETTINGS["max"].most),
        metavar="N",
        help="Try again so many times if it does not arrive or its answer does not. Only what may happen"
        " twice should be tried again.  [default: 0]",
    ),
    click.option(
        "--retry-delay",
        "delay_ms",
        type=click.IntRange(RETRY_SETTINGS["delay_ms"].least, RETRY_SETTINGS["delay_ms"].most),
        metavar="MS",
        help="Milliseconds before the first retry, instead of the connection's.",
    ),
    click.option(
        "--exponential/--no-exponential",
        default=None,
        help="Double the delay from one retry to the next, or do not, instead of what the connection says.",
    ),
    click.option(
        "--retry-all-errors",
        "all_errors",
        is_flag=True,
        default=None,
        help="Try again also what Customer.io refuses for good.",
    ),
)


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
@_body_options
@click.option(
    "--response-type",
    type=click.Choice(RESPONSE_TYPES),
    default="json",
    show_default=True,
    help="What the answer has to be; text and binary are printed as they are.",
)
@_retry_options
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
    paths = _single("--file", files)
    call = RawRequest(
        method=method,
        path=path,
        query=_repeatable("--query", query),
        headers=_with_content_type(_headers(headers), content_type),
        data=body,
        form=_repeatable("--form", form),
        files={name: _contents(file) for name, file in paths.items()},
        file_names={name: Path(file).name for name, file in paths.items()} | _single("--file-name", file_names),
        response_type=response_type,
        debug=debug,
        retry=_retry(retry),
    )
    _print_response(_send(call, connection, region, timeout=timeout), as_json=response_type == "json")


# Attributes


def _attributes(words: Sequence[str], data: str | None) -> dict[str, JSON]:
    from_data = {} if data is None else _object(data)
    from_words: dict[str, JSON] = {}
    for word in words:
        key, value = _attribute(word)
        if key in from_words:
            raise click.UsageError(f"'{printable(key)}' is given twice")
        from_words[key] = value
    return from_data | from_words


def _attribute(word: str) -> tuple[str, JSON]:
    name, equals, value = word.partition("=")
    key = name.removesuffix(":")
    if not equals:
        raise click.UsageError(f"'{printable(word)}' is neither key=text nor key:=json; {_how_to_name(word)}")
    if not key.strip():
        raise click.UsageError("an attribute has no key; write key=text or key:=json")
    return key, _json_of(key, value) if name.endswith(":") else value


def _json_of(key: str, text: str) -> JSON:
    try:
        return payload.decode(_bytes_of(text), "")
    except RequestError:
        name = printable(key)
        raise click.UsageError(
            f"what follows '{name}:=' is not JSON; write {name}=… for a text,"
            f" and quote JSON for the shell: {name}:='{{\"a\": [1]}}'"
        ) from None


def _object(value: str) -> dict[str, JSON]:
    try:
        content = payload.decode(_read(value, "--data"), "")
    except RequestError as error:
        raise click.UsageError(f"--data: {error}") from None
    if not isinstance(content, dict):
        raise click.UsageError('--data is not an object of attributes; write {"key": value}')
    return content


def _how_to_name(word: str) -> str:
    """Say which option names a person, to somebody who wrote the name alone."""
    return f"a person is named by {'--email' if '@' in word else '--id'} {printable(shlex.quote(word))}"


def _require_person(person: Mapping[str, str | None]) -> None:
    if not any(person.values()):
        *others, last = (f"--{name.replace('_', '-')}" for name in person)
        raise click.UsageError(f"nobody is named; give {', '.join(others)} or {last}")


# Requests


def _body_of(data: str | None, json_data: str | None, *, as_text: bool) -> tuple[str | None, str | None]:
    """Return the body, and its content type unless it is that of text."""
    if json_data is not None and (data is not None or as_text):
        raise click.UsageError("--json is given instead of --data and --text, not with them")
    if json_data is not None:
        content = _read(json_data, "--json")
        if problem := _json_problem(content):
            raise click.UsageError(f"--json: {problem}")
        return _text(content, "--json"), "application/json"
    if data is None:
        return None, None
    content = _read(data, "--data")
    is_json = not as_text and _json_problem(content) is None
    return _text(content, "--data"), "application/json" if is_json else None


def _json_problem(content: bytes) -> str | None:
    # The text is sent unchanged, so that the digits of a number stay and null is a body: it is parsed as a check only.
    try:
        payload.decode(content, "")
    except RequestError as error:
        return str(error)
    return None


def _with_content_type(headers: dict[str, str], content_type: str | None) -> dict[str, str]:
    if content_type is None or "content-type" in map(str.lower, headers):
        return headers
    return {"Content-Type": content_type} | headers


def _repeatable(option: str, texts: Iterable[str]) -> dict[str, JSON]:
    values: dict[str, list[JSON]] = {}
    for name, value in _split_pairs(option, texts, "="):
        values.setdefault(name, []).append(value)
    return dict(values)


def _single(option: str, texts: Iterable[str]) -> dict[str, str]:
    pairs = _split_pairs(option, texts, "=")
    _require_different(option, [name for name, _ in pairs])
    return dict(pairs)


def _headers(texts: Iterable[str]) -> dict[str, str]:
    pairs = [(name.strip(), value.strip()) for name, value in _split_pairs("--header", texts, ":")]
    _require_different("--header", [name.lower() for name, _ in pairs])
    return dict(pairs)


def _split_pairs(option: str, texts: Iterable[str], separator: str) -> list[tuple[str, str]]:
    pairs = []
    for number, text in enumerate(texts, start=1):
        name, separated, value = text.partition(separator)
        if not separated or not name.strip():
            raise click.UsageError(f"number {number} of {option} is not a name, {separator} and a value")
        pairs.append((name, value))
    return pairs


def _require_different(option: str, names: Sequence[str]) -> None:
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise click.UsageError(f"{option} gives '{printable(twice[0])}' twice")


def _retry(options: Mapping[str, int | None]) -> dict[str, JSON]:
    """Return the retry settings. Without --retries nothing is sent again: it may have happened."""
    settings: dict[str, JSON] = {name: value for name, value in options.items() if value is not None}
    if settings and "max" not in settings:
        raise click.UsageError("nothing is tried again without --retries N")
    return {"max": 0} | settings


# What is read


def _read(value: str, option: str) -> bytes:
    """Return the value of an option: the text itself, of a file (@) or of standard input (-)."""
    if value == "-":
        return sys.stdin.buffer.read()
    return _contents(value[1:], option) if value.startswith("@") else _bytes_of(value)


def _contents(path: str, option: str = "--file") -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise click.ClickException(f"{option}: {printable(path)} cannot be read ({why})") from error


def _bytes_of(text: str) -> bytes:
    # Bytes that are not UTF-8 are surrogates in sys.argv; they become invalid UTF-8 again.
    return text.encode(errors="surrogatepass")


def _text(content: bytes, option: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} is not UTF-8 text; --file NAME=PATH sends any file") from None


# Sending


class _Progress:
    """Prints retries on standard error, and with --debug each request and answer."""

    def __init__(self) -> None:
        self._reason: str | None = None

    def note(self, attempt: Attempt) -> None:
        """Remember why an attempt failed: it is printed if another attempt follows, else the command fails with it."""
        self._reason = attempt.reason
        if attempt.debug is not None:
            click.echo(f"{printable_lines(attempt.debug)}\n", err=True)

    def sleep(self, seconds: float) -> None:
        """Wait for the next attempt."""
        if self._reason is not None:
            click.echo(f"{self._reason}; next try in {seconds:.1f} s", err=True)
            self._reason = None
        time.sleep(seconds)


def _send(call: Call, connection: str, region: str | None, *, timeout: float = DEADLINE) -> Response:
    connections = configuration.load(os.environ).connections
    progress = _Progress()
    with Client(connections, deadline=timeout, sleep=progress.sleep) as client:
        try:
            return client.call(call, connection=connection, region=region, on_attempt=progress.note)
        except (CallError, SendError) as error:
            # The text may quote fields and connections of the command line.
            raise click.ClickException(printable(error)) from error


def _print_response(answer: Response, *, as_json: bool = True) -> None:
    if not as_json:
        click.echo(answer.body, nl=False)
    elif answer.body:
        click.echo(json_text(answer.json))
