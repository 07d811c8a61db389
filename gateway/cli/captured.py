"""Read webhooks that were captured into files, for the commands of whoever writes mappings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway import payload as payloads
from gateway.errors import ConfigError, RequestError
from gateway.event import JSON, Event
from gateway.mapping.model import MappingFile


def payload_loader(file: Path) -> Callable[[str], JSON]:
    """Make what reads the payloads that a mapping file's tests name, relative to the file."""

    def load(name: str) -> JSON:
        return read_payload(file.parent / name)

    return load


def read_payload(path: Path, content_type: str = "") -> JSON:
    """Read and decode a body; the path - is standard input. Raises ConfigError.

    A form may also be written as the JSON that it is decoded to, as tools that capture webhooks show it.
    """
    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        is_shown = content_type.startswith(payloads.FORM) and body.lstrip().startswith((b"{", b"["))
        return payloads.decode(body, "" if is_shown else content_type)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except RequestError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_sent(path: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Read what was sent with a body, headers and query; no file is nothing. Raises ConfigError."""
    read = read_payload(path) if path is not None else {}
    given: dict[str, JSON] = read if isinstance(read, dict) else {"headers": None}
    # A file may hold the headers themselves, or headers and query as a captured request has them.
    headers, query = given.get("headers", given), given.get("query", {})
    if not isinstance(headers, dict) or not isinstance(query, dict):
        raise ConfigError(f'{path} must hold an object of headers: {{"X-Topic": "…"}}')
    return _texts(headers), _texts(query) if "headers" in given else {}


def _texts(values: dict[str, JSON]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def captured_event(mapping: MappingFile, payload: Path, headers: Path | None, query: tuple[str, ...]) -> Event:
    """Read a webhook: its body, its headers, and parameters of its query as k=v. Raises ConfigError."""
    sent, parameters = read_sent(headers)
    names = {name.lower(): value for name, value in sent.items()}
    if mapping.verify.scheme.content_type is not None:
        names["content-type"] = mapping.verify.scheme.content_type
    parameters.update(each.partition("=")[::2] for each in query)
    return Event(
        source=mapping.source,
        key="translate",
        payload=read_payload(payload, names.get("content-type", "")),
        headers=names,
        query=parameters,
        received_at=int(time.time()),
    )
