"""Read bodies of webhooks from files: JSON lines, a JSON array of bodies, or one body; gzip or not."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from gateway import payload
from gateway.errors import RequestError

#: Bytes of a line, and of a file that has to be in memory as a whole.
MAX_BYTES = 256 * 1_048_576
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class Body:
    """One body and its place: file:line, file[number] in an array, or the file.

    Attributes:
        problem: Why it cannot be read; then *data* is empty.
    """

    where: str
    data: bytes = b""
    problem: str | None = None


class BodyFiles:
    """The bodies of some files, one after the other. Of JSON lines only one line is in memory.

    Args:
        whole: Each file is one body, even if it is an array or has several lines.
    """

    def __init__(self, paths: Sequence[Path], *, whole: bool = False) -> None:
        self._paths = paths
        self._whole = whole
        self._bytes_of_closed_files = 0
        self._file: io.BufferedReader | None = None

    @property
    def size(self) -> int | None:
        """The bytes of all files; None if that is unknown, as for standard input."""
        if any(not path.is_file() for path in self._paths):
            return None
        return sum(path.stat().st_size for path in self._paths)

    @property
    def position(self) -> int:
        """The bytes read so far."""
        bytes_of_file = self._file.tell() if self._file is not None and self._file.seekable() else 0
        return self._bytes_of_closed_files + bytes_of_file

    def __iter__(self) -> Iterator[Body]:
        for path in self._paths:
            number = 0
            try:
                with _open(path) as file:
                    self._file = file
                    try:
                        # Peeked, not read: standard input cannot be rewound.
                        is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
                        stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_gzip else file
                        for body in _bodies(stream, str(path), whole=self._whole):
                            number += 1
                            yield body
                    finally:
                        self._bytes_of_closed_files, self._file = self.position, None
            except (OSError, EOFError, zlib.error) as error:
                reason = getattr(error, "strerror", None) or "it is cut off or damaged"
                yield Body(where=str(path), problem=f"cannot be read any further, after body {number}: {reason}")


def _open(path: Path) -> AbstractContextManager[io.BufferedReader]:
    if str(path) != STANDARD_INPUT:
        return path.open("rb")
    stream = sys.stdin.buffer
    return nullcontext(
        stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", stream))
    )


def _bodies(stream: BinaryIO, name: str, *, whole: bool) -> Iterator[Body]:
    if whole:
        yield _body(name, stream.read(MAX_BYTES + 1))
        return
    lines = _lines(stream)
    first_lines = list(itertools.islice(lines, 2))
    if len(first_lines) == 2 and _are_json_lines(name, first_lines[0][1], first_lines[1][1]):
        for number, line in itertools.chain(first_lines, lines):
            yield _body(f"{name}:{number}", line)
    elif first_lines:
        # Blank lines at the start count, so that places in error texts are right.
        head = b"\n" * (first_lines[0][0] - 1) + b"".join(line for _, line in first_lines)
        yield from _bodies_of_document(head + stream.read(max(MAX_BYTES + 1 - len(head), 0)), name)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Return the lines that are not blank, with their numbers; of a line that is too long, its start."""
    for number in itertools.count(1):
        line = stream.readline(MAX_BYTES + 1)
        if not line:
            return
        rest = line
        while len(rest) > MAX_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_BYTES + 1)
        if line.strip():
            yield number, line


def _are_json_lines(name: str, first: bytes, second: bytes) -> bool:
    """Tell JSON lines from one document of several lines, even if the first JSON line is broken."""
    if name.removesuffix(".gz").endswith((".jsonl", ".ndjson")) or _is_json(first):
        return True
    # The first line of a document leaves something open: it begins a list, or ends in the middle of something.
    leaves_open = first.lstrip().startswith(b"[") or first.rstrip().endswith((b"{", b"[", b",", b":"))
    return not leaves_open and _is_json(second)


def _is_json(line: bytes) -> bool:
    try:
        payload.decode(line, "")
    except RequestError:
        return False
    return True


def _bodies_of_document(data: bytes, name: str) -> Iterator[Body]:
    is_list = data.lstrip().removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if not is_list or len(data) > MAX_BYTES:
        yield _body(name, data)
        return
    number = 0
    try:
        for number, text in enumerate(_items(data.decode("utf-8-sig")), start=1):
            yield Body(where=f"{name}[{number}]", data=text.encode())
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        yield Body(where=name, problem=f"the array is not valid JSON at {place}, after item {number}")
    except UnicodeDecodeError as error:
        yield Body(where=name, problem=f"the file is not UTF-8 text at byte {error.start + 1}")
    except RecursionError:
        yield Body(where=name, problem=f"the array is nested too deeply, after item {number}")


def _body(where: str, data: bytes) -> Body:
    stripped = data.strip()
    if len(stripped) > MAX_BYTES:
        return Body(where=where, problem=f"it is larger than {MAX_BYTES // 1_048_576} MiB; split it up")
    return Body(where=where, data=stripped)


def _items(text: str) -> Iterator[str]:
    """Split a JSON list into the texts of its items."""
    decoder = json.JSONDecoder()
    at = _skip_blanks(text, text.index("[") + 1)
    while not text.startswith("]", at):
        _, end = decoder.raw_decode(text, at)
        yield text[at:end]
        at = _skip_blanks(text, end)
        if text.startswith(",", at):
            at = _skip_blanks(text, at + 1)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("no comma", text, at)
    rest = _skip_blanks(text, at + 1)
    if rest < len(text):
        raise json.JSONDecodeError("more after the end", text, rest)


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
