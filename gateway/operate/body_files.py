"""Read bodies of webhooks out of files: JSON lines, a JSON array of bodies, or one body; packed with gzip or not."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from gateway import payload
from gateway.errors import RequestError

#: Bytes of a file that has to be read as a whole, and of a line.
MOST = 256 * 1_048_576
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class Body:
    """One body and where it stands: file:line, file[number] in an array, or the file.

    Attributes:
        problem: Why there is none to be had; *data* is empty then.
    """

    where: str
    data: bytes = b""
    problem: str | None = None


class Files:
    """The bodies of some files, one after the other; JSON lines are never in memory as a whole.

    Args:
        whole: Each file is one body, also when it is an array or has several lines.
    """

    def __init__(self, paths: Sequence[Path], *, whole: bool = False) -> None:
        self._paths = paths
        self._whole = whole
        self._passed = 0
        self._raw: io.BufferedReader | None = None

    @property
    def size(self) -> int | None:
        """How many bytes there are to read; None when nobody can tell, as of standard input."""
        if any(not path.is_file() for path in self._paths):
            return None
        return sum(path.stat().st_size for path in self._paths)

    @property
    def position(self) -> int:
        """How many bytes of the files have been read."""
        return self._passed + (self._raw.tell() if self._raw is not None and self._raw.seekable() else 0)

    def __iter__(self) -> Iterator[Body]:
        for path in self._paths:
            number = 0
            try:
                with _opened(path) as raw:
                    self._raw = raw
                    try:
                        for body in _bodies(_unpacked(raw), str(path), whole=self._whole):
                            number += 1
                            yield body
                    finally:
                        self._passed, self._raw = self.position, None
            except (OSError, EOFError, zlib.error) as error:
                reason = getattr(error, "strerror", None) or "it is cut off or damaged"
                yield Body(where=str(path), problem=f"cannot be read any further, after body {number}: {reason}")


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    if str(path) == STANDARD_INPUT:
        given = sys.stdin.buffer
        yield (given if isinstance(given, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", given)))
        return
    with path.open("rb") as file:
        yield file


def _unpacked(raw: io.BufferedReader) -> BinaryIO:
    # Looked at and not taken: standard input cannot be wound back.
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if raw.peek(2)[:2] == b"\x1f\x8b" else raw


def _bodies(stream: BinaryIO, name: str, *, whole: bool) -> Iterator[Body]:
    if whole:
        yield from _document(stream.read(MOST + 1), name, whole=True)
        return
    lines = _lines(stream)
    start = list(itertools.islice(lines, 2))
    if len(start) == 2 and _are_values(name, start[0][1], start[1][1]):
        for number, line in itertools.chain(start, lines):
            yield _checked(Body(where=f"{name}:{number}", data=line.strip()))
    elif start:
        head = b"\n" * (start[0][0] - 1) + b"".join(line for _, line in start)
        yield from _document(head + stream.read(max(MOST + 1 - len(head), 0)), name, whole=False)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not blank, with their numbers; of one that is too long the beginning."""
    for number in itertools.count(1):
        line = stream.readline(MOST + 1)
        if not line:
            return
        rest = line
        while len(rest) > MOST and not rest.endswith(b"\n"):
            rest = stream.readline(MOST + 1)
        if line.strip():
            yield number, line


def _are_values(name: str, first: bytes, second: bytes) -> bool:
    """Tell JSON lines from a document of several lines, also when their first line is broken."""
    if name.removesuffix(".gz").endswith((".jsonl", ".ndjson")) or _is_json(first):
        return True
    # The first line of a document is open: it begins a list, or ends in the middle of something.
    is_open = first.lstrip().startswith(b"[") or first.rstrip().endswith((b"{", b"[", b",", b":"))
    return not is_open and _is_json(second)


def _is_json(line: bytes) -> bool:
    try:
        payload.decode(line, "")
    except RequestError:
        return False
    return True


def _document(data: bytes, name: str, *, whole: bool) -> Iterator[Body]:
    is_list = data.lstrip().removeprefix(_BOM).lstrip().startswith(b"[")
    if whole or not is_list or len(data) > MOST:
        yield _checked(Body(where=name, data=data.strip()))
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


_BOM = b"\xef\xbb\xbf"


def _items(text: str) -> Iterator[str]:
    """Take a list apart into its items as they are written."""
    decoder = json.JSONDecoder()
    at = _after_blanks(text, text.index("[") + 1)
    while not text.startswith("]", at):
        _, end = decoder.raw_decode(text, at)
        yield text[at:end]
        at = _after_blanks(text, end)
        if text.startswith(",", at):
            at = _after_blanks(text, at + 1)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("no comma", text, at)
    rest = _after_blanks(text, at + 1)
    if rest < len(text):
        raise json.JSONDecodeError("more after the end", text, rest)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _checked(body: Body) -> Body:
    if len(body.data) > MOST:
        return Body(where=body.where, problem=f"it is larger than {MOST // 1_048_576} MiB; split it up")
    return body
