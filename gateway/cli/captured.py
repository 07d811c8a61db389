"""Read captured webhooks from files, for the commands of mapping authors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway import payload as payloads
from gateway.errors import ConfigError, RequestError
from gateway.event import JSON, Event
from gateway.mapping.model import MappingFile
from gateway.receive.regular_file import read_regular_file
from gateway.text import arrival_problem


def payload_loader(file: Path) -> Callable[[str], bytes]:
    """Return a function that reads the payloads of a mapping file's tests, which are in the file's directory.

    It raises ConfigError.
    """
    return lambda name: read_regular_file(file.parent / name, file.parent)


def read_payload(path: Path, headers: Mapping[str, str] | None = None, json_field: str | None = None) -> JSON:
    """Read a body and decode it as it is when it is received; the path - is standard input. Raises ConfigError.

    A form may also be captured as JSON: tools that capture webhooks show the decoded form.

    Args:
        headers: Those that came with it, by their names in lower case.
        json_field: The field of a form that holds JSON.
    """
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return payloads.decode_sent(body, headers or {}, json_field)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_sent(path: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Read the headers and the query that were sent with a body; without a file, none. Raises ConfigError.

    A file holds either the headers, or an object with `headers` and `query`. Headers that never arrive at a gateway are
    left out.
    """
    content = read_payload(path) if path is not None else {}
    request: dict[str, JSON] = content if isinstance(content, dict) and "headers" in content else {"headers": content}
    headers, query = request["headers"], request.get("query", {})
    if not isinstance(headers, dict) or not isinstance(query, dict):
        raise ConfigError(f'{path} must hold an object of headers: {{"X-Topic": "…"}}')
    arriving = {name: str(value) for name, value in headers.items() if arrival_problem(name) is None}
    return arriving, {name: str(value) for name, value in query.items()}


def captured_event(mapping: MappingFile, payload: Path, headers: Path | None, query: tuple[str, ...]) -> Event:
    """Read a webhook: its body, its headers, and *query*, parameters as k=v. Raises ConfigError."""
    sent, parameters = read_sent(headers)
    names = mapping.verify.scheme.as_received({name.lower(): value for name, value in sent.items()})
    parameters.update(parameter.partition("=")[::2] for parameter in query)
    return Event(
        source=mapping.source,
        key="translate",
        payload=read_payload(payload, names, mapping.verify.scheme.json_field),
        headers=names,
        query=parameters,
        received_at=int(time.time()),
    )
