"""A strict stand-in for Customer.io's Track API, v1 and v2: a real server on loopback that refuses what the real
one refuses or silently drops, and remembers, per person and in order, what it applied (see `workspace`)."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote_to_bytes

from gateway.event import JSON
from tests.support.workspace import (
    MAX_OPERATION,
    Change,
    Operation,
    Refusal,
    RefusedError,
    RefuseItem,
    Workspace,
    add_device,
    anonymous_event,
    bare,
    delete_device,
    event,
    form,
    identify,
    known,
    merge,
    object_key,
    person_in_path,
    person_key,
    read_operation,
    segment,
    size_of,
)

__all__ = [
    "Answer",
    "Delay",
    "Fault",
    "Hang",
    "Operation",
    "ParsedRequest",
    "Refusal",
    "RefuseItem",
    "Reply",
    "Reset",
    "Slow",
    "TrackAPI",
    "Trickle",
    "person_key",
]


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """One HTTP request: *target* is what stood in the request line, names of headers are in lower case."""

    number: int
    method: str
    target: bytes
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer; as a fault it is given instead of applying the request."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Reset the connection, before the request is applied or after."""

    applied: bool


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Apply the request, and answer it *seconds* later."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Apply the request only *seconds* later, and answer it at once then."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Hang:
    """Apply the request and never answer."""


@dataclass(frozen=True, kw_only=True)
class Trickle:
    """Apply the request, and take *seconds* to answer it, byte by byte."""

    seconds: float


Fault: TypeAlias = Reply | Reset | Delay | Slow | Hang | Trickle
Answer: TypeAlias = Callable[[ParsedRequest], Fault | None]


class TrackAPI:
    """The server, running while its context is entered.

    Attributes:
        answer: Called with each request before it is looked at; what it returns happens to that request.
            It may be replaced while the server runs.
        refuse_item: Called with each operation, be it a request of its own or an item of a batch, that could be
            applied. If it returns a message, the operation is refused with it, in the way of that request: 400,
            or 207 for the batch. `Workspace` says what it is given. It may be replaced while the server runs.
    """

    def __init__(
        self,
        *,
        site_id: str = "site",
        api_key: str = "key",
        region: str = "us",
        answer: Answer = lambda _: None,
        refuse_item: RefuseItem = lambda _: None,
    ) -> None:
        self.answer = answer
        self.refuse_item = refuse_item
        self._workspace = Workspace(
            site_id=site_id, api_key=api_key, region=region, refuse_item=lambda operation: self.refuse_item(operation)
        )
        self._listener = _Listener(self)
        self._thread = self._new_thread()

    def __enter__(self) -> TrackAPI:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown()
        self._listener.drop_connections()
        self._listener.server_close()
        self._thread.join()
        if self._listener.crashes:
            raise self._listener.crashes[0]

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Break all connections and refuse new ones for a while."""
        self._listener.shutdown()
        self._thread.join()
        self._listener.stop_listening()
        try:
            yield
        finally:
            self._listener.listen_again()
            self._thread = self._new_thread()
            self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    @property
    def requests(self) -> int:
        """How many requests arrived whole, whatever became of them."""
        return self._listener.requests

    @property
    def repeats(self) -> int:
        """How many events were answered 200 and not applied, because their id had been seen."""
        return self._workspace.repeats

    @property
    def refused(self) -> list[Refusal]:
        with self._workspace.lock:
            return list(self._workspace.refused)

    @property
    def conflicts(self) -> list[Operation]:
        """Events that came under the id of a different event: the real API loses them without a word."""
        with self._workspace.lock:
            return list(self._workspace.conflicts)

    @property
    def people(self) -> dict[str, dict[str, JSON]]:
        """The attributes of everybody identified, under keys like ``id:42`` and ``email:a@example.com``."""
        with self._workspace.lock:
            return {person: dict(held) for person, held in self._workspace.model.people.items()}

    @property
    def state(self) -> dict[str, Any]:
        """All that was applied has left behind, to be compared: the same operations leave the same.

        It has *people*, *devices*, *objects*, *relationships* (by person and object), *segments*, *suppressed*,
        and in *log* the kinds and bodies of the operations of each person, anonymous id and object, in their
        order, events and submitted forms among them.
        """
        return self._workspace.state()

    @property
    def batches(self) -> list[int]:
        """How many operations each batch had that was taken, whether or not all of them were."""
        with self._workspace.lock:
            return list(self._workspace.batches)

    @property
    def singles(self) -> int:
        """How many requests came for one operation, applied or refused: all but batches and region probes."""
        return self._workspace.singles

    def applied(self, identifier: str) -> list[Operation]:
        """List what was applied to a person, oldest first; *identifier* is read the way a path is."""
        return self._applied(person_key(identifier))

    def applied_anonymously(self, anonymous_id: str) -> list[Operation]:
        """List the events of an anonymous id, oldest first."""
        return self._applied(f"anonymous_id:{anonymous_id}")

    def applied_to_object(self, object_type_id: str, object_id: str) -> list[Operation]:
        """List what was applied to an object, oldest first."""
        return self._applied(object_key(object_type_id, object_id))

    def count_applied(self) -> int:
        """Count the operations that were applied, to everybody together and in batches too."""
        return self._workspace.applied

    def wait_until(self, predicate: Callable[[], bool], timeout: float) -> None:
        """Return as soon as *predicate* holds; raise TimeoutError after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not within {timeout} s: {self.requests} requests arrived, {self.count_applied()} were"
                    f" applied, {self.repeats} repeated, refused: {self.refused[:3]}"
                )
            time.sleep(0.02)

    def respond(self, request: ParsedRequest) -> Reply:
        """Apply a request, or refuse it, as if no fault had been asked for."""
        try:
            return _route(self._workspace, request)
        except RefusedError as refused:
            return self._refuse(request.method, request.target, refused)

    def refuse_unread(self, refused: RefusedError) -> Reply:
        """Answer bytes that are not a request."""
        return self._refuse("", b"", refused)

    def _refuse(self, method: str, target: bytes, refused: RefusedError) -> Reply:
        self._workspace.note_refusal(method, target, refused)
        return _error_reply(target, refused)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._listener.serve_forever, args=(0.01,), name="trackapi")

    def _applied(self, subject: str) -> list[Operation]:
        with self._workspace.lock:
            return list(self._workspace.log.get(subject, ()))


# The API: what is asked for, and how it is answered.

_MAX_BATCH = 500_000
_SEGMENT = re.compile(rb"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")
_QUERIED = re.compile(rb"(/api/v1/segments/[^/?]*/(?:add|remove)_customers)\?(.*)")
_ID_TYPE = re.compile(rb"id_type=(id|email|cio_id)")

_Handler: TypeAlias = Callable[[Workspace, ParsedRequest, list[str]], Reply]
_Reader: TypeAlias = Callable[[ParsedRequest, list[str]], Change]


def _route(workspace: Workspace, request: ParsedRequest) -> Reply:
    segments = _segments(request.target)
    handlers = {method: handler for method, path, handler in _ROUTES if _matches(path, segments)}
    if not handlers:
        raise RefusedError("no such path", status=404)
    if request.method not in handlers:
        raise RefusedError(f"this path takes {', '.join(handlers)}", status=405)
    if request.headers.get("authorization") != workspace.authorization:
        raise RefusedError("Unauthorized", status=401)
    return handlers[request.method](workspace, request, segments)


def _segments(target: bytes) -> list[str]:
    """Split a raw target; only bytes that a careful client leaves unescaped may stand in it."""
    if queried := _QUERIED.fullmatch(target):
        target = queried[1]
    if not target.startswith(b"/"):
        raise RefusedError("the request target must be a path")
    raw = target[1:].split(b"/")
    if not all(_SEGMENT.fullmatch(segment) for segment in raw):
        raise RefusedError("the path holds a byte that has to be percent-encoded")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw]
    except UnicodeDecodeError:
        raise RefusedError("the path is not UTF-8") from None
    if any(segment in ("", ".", "..") for segment in segments):
        raise RefusedError("the path has an empty segment or a dot segment")
    return segments


def _matches(path: str, segments: list[str]) -> bool:
    expected = path.split("/")
    return len(expected) == len(segments) and all(
        wanted in ("{}", segment) for wanted, segment in zip(expected, segments, strict=True)
    )


def _region(workspace: Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    _refuse_body(request)
    host = "track-eu" if workspace.region == "eu" else "track"
    url = f"https://{host}.customer.io"
    return _json_reply({"url": url, "region": workspace.region, "environment_id": 1})


def _single(read: _Reader) -> _Handler:
    """Make a handler of what reads the one operation of a request."""

    def handle(workspace: Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
        workspace.count_single()
        change = read(request, segments)
        workspace.apply(change)
        return Reply(status=204) if change.kind == "form" else _json_reply({})

    return handle


def _read_identify(request: ParsedRequest, segments: list[str]) -> Change:
    return identify(person_in_path(segments[3]), _object(request))


def _read_delete(request: ParsedRequest, segments: list[str]) -> Change:
    _refuse_body(request)
    return bare("delete", person_in_path(segments[3]))


def _read_suppression(request: ParsedRequest, segments: list[str]) -> Change:
    if request.body and _object(request):
        raise RefusedError("the body must be empty")
    return bare(segments[4], person_in_path(segments[3]))


def _read_event(request: ParsedRequest, segments: list[str]) -> Change:
    return event(person_in_path(segments[3]), _object(request))


def _read_anonymous_event(request: ParsedRequest, segments: list[str]) -> Change:
    return anonymous_event(_object(request))


def _read_add_device(request: ParsedRequest, segments: list[str]) -> Change:
    return add_device(person_in_path(segments[3]), _object(request))


def _read_delete_device(request: ParsedRequest, segments: list[str]) -> Change:
    _refuse_body(request)
    return delete_device(person_in_path(segments[3]), segments[5])


def _read_merge(request: ParsedRequest, segments: list[str]) -> Change:
    return merge(_object(request))


def _read_form(request: ParsedRequest, segments: list[str]) -> Change:
    return form(segments[3], _object(request))


def _read_segment(request: ParsedRequest, segments: list[str]) -> Change:
    kind = "add_to_segment" if segments[4] == "add_customers" else "remove_from_segment"
    return segment(kind, segments[3], _id_type(request.target), _object(request))


def _id_type(target: bytes) -> str:
    queried = _QUERIED.fullmatch(target)
    if queried is None:
        return "id"
    if not (told := _ID_TYPE.fullmatch(queried[2])):
        raise RefusedError("the query must be id_type=, and id, email or cio_id")
    return told[1].decode()


def _read_entity(request: ParsedRequest, segments: list[str]) -> Change:
    if len(request.body) > MAX_OPERATION:
        raise RefusedError(f"an entity cannot be longer than {MAX_OPERATION} bytes")
    return read_operation(known(_object(request)))


def _batch(workspace: Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    """Apply what can be applied, once it is known that the request is a batch of operations, be they good or bad."""
    operations = _operations(request)
    workspace.count_batch(len(operations))
    errors: list[JSON] = []
    for index, operation in enumerate(operations):
        try:
            workspace.apply(read_operation(operation))
        except RefusedError as refused:
            refused.status = 207
            workspace.note_refusal(request.method, request.target, refused)
            errors.append({"batch_index": index, **refused.as_json()})
    return _json_reply({"errors": errors}, status=207) if errors else _json_reply({})


def _operations(request: ParsedRequest) -> list[dict[str, JSON]]:
    if len(request.body) > _MAX_BATCH:
        raise RefusedError(f"a batch cannot be longer than {_MAX_BATCH} bytes", field="batch")
    told = _object(request)
    operations = told.get("batch")
    if told.keys() != {"batch"} or not isinstance(operations, list) or not operations:
        raise RefusedError("batch must be a list of operations, and all there is", field="batch")
    return [known(operation, f"batch[{index}].") for index, operation in enumerate(operations)]


_SINGLES: tuple[tuple[str, str, _Reader], ...] = (
    ("PUT", "api/v1/customers/{}", _read_identify),
    ("DELETE", "api/v1/customers/{}", _read_delete),
    ("PUT", "api/v1/customers/{}/devices", _read_add_device),
    ("DELETE", "api/v1/customers/{}/devices/{}", _read_delete_device),
    ("POST", "api/v1/customers/{}/suppress", _read_suppression),
    ("POST", "api/v1/customers/{}/unsuppress", _read_suppression),
    ("POST", "api/v1/customers/{}/events", _read_event),
    ("POST", "api/v1/events", _read_anonymous_event),
    ("POST", "api/v1/merge_customers", _read_merge),
    ("POST", "api/v1/forms/{}/submit", _read_form),
    ("POST", "api/v1/segments/{}/add_customers", _read_segment),
    ("POST", "api/v1/segments/{}/remove_customers", _read_segment),
    ("POST", "api/v2/entity", _read_entity),
)
_ROUTES: tuple[tuple[str, str, _Handler], ...] = (
    ("GET", "api/v1/accounts/region", _region),
    ("POST", "api/v2/batch", _batch),
    *((method, path, _single(read)) for method, path, read in _SINGLES),
)


def _object(request: ParsedRequest) -> dict[str, JSON]:
    content_type = request.headers.get("content-type", "")
    if not re.fullmatch(r"application/json(; ?charset=utf-8)?", content_type, re.IGNORECASE):
        raise RefusedError("the content type must be application/json")
    value = _strict_json(request.body)
    if not isinstance(value, dict):
        raise RefusedError("the body must be a JSON object")
    return value


def _strict_json(body: bytes) -> JSON:
    try:
        value: JSON = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_names)
        size_of(value)  # a lone surrogate has no bytes
    except (UnicodeError, ValueError, RecursionError):
        raise RefusedError("the body is not JSON in UTF-8") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise RefusedError("a name stands twice in one object")
    return named


def _refuse_body(request: ParsedRequest) -> None:
    if request.body:
        raise RefusedError(f"{request.method} takes no body")


def _error_reply(target: bytes, refused: RefusedError) -> Reply:
    """Say no in the shape that the real API has for it at this path."""
    error: JSON = {"meta": {"errors": [refused.message]}}
    if refused.status == 401 or target == b"/api/v1/merge_customers":
        error = {"meta": {"error": refused.message}}
    elif target.startswith(b"/api/v2/"):
        error = {"errors": [refused.as_json()]}
    return _json_reply(error, status=refused.status)


def _json_reply(value: JSON, *, status: int = 200) -> Reply:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status=status, headers=headers, body=json.dumps(value).encode() + b"\n")


# HTTP/1.1: read strictly, so that a malformed request is seen and not mended.

_MAX_LINE = 8_192
_MAX_HEADERS = 100
_MAX_BODY = 1_048_576
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*?)[ \t]*")


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, api: TrackAPI) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.api = api
        self.closing = threading.Event()
        self.crashes: list[BaseException] = []
        self.requests = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def next_number(self) -> int:
        with self._lock:
            self.requests += 1
            return self.requests

    def drop_connections(self) -> None:
        """Wake every thread that waits for a client, so that the server can be closed."""
        self.closing.set()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client may have gone first
                    connection.shutdown(socket.SHUT_RDWR)

    def stop_listening(self) -> None:
        self.socket.close()
        self.drop_connections()
        self.closing = threading.Event()

    def listen_again(self) -> None:
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.forget(request)
        super().shutdown_request(request)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def handle_error(self, *_: object) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):  # clients here are killed on purpose
            self.crashes.append(error)


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        try:
            while request := _read_request(self.rfile, self.server.next_number):
                if not self._serve(request) or request.headers.get("connection", "").lower() == "close":
                    return
        except RefusedError as refused:
            self._send(self.server.api.refuse_unread(refused))

    def _serve(self, request: ParsedRequest) -> bool:
        """Answer one request; False: the connection is of no more use."""
        api = self.server.api
        match api.answer(request):
            case None:
                self._send(api.respond(request))
            case Reply() as instead:
                self._send(instead)
            case Delay(seconds=seconds):
                reply = api.respond(request)
                self.server.closing.wait(seconds)
                self._send(reply)
            case Slow(seconds=seconds):
                self.server.closing.wait(seconds)
                self._send(api.respond(request))
            case Trickle(seconds=seconds):
                self._trickle(_written(api.respond(request)), seconds)
            case Hang():
                api.respond(request)
                self.rfile.read(1)  # until the client has had enough
                return False
            case Reset(applied=applied):
                if applied:
                    api.respond(request)
                self._reset()
                return False
        return True

    def _send(self, reply: Reply) -> None:
        self.connection.sendall(_written(reply))

    def _trickle(self, written: bytes, seconds: float) -> None:
        for byte in written:
            self.connection.sendall(bytes([byte]))
            self.server.closing.wait(seconds / len(written))

    def _reset(self) -> None:
        """Close at once with an RST, as a crashed host or a load balancer does."""
        self.server.forget(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()


def _written(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if reply.status != 204:  # which never has a body, and must not say so
        lines.append(f"Content-Length: {len(reply.body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body


def _read_request(stream: io.BufferedIOBase, next_number: Callable[[], int]) -> ParsedRequest | None:
    """Read one request; None: the client closed the connection between two."""
    if not (line := stream.readline(_MAX_LINE)):
        return None
    parts = _whole(line).split(b" ")
    if len(parts) != 3 or parts[2] != b"HTTP/1.1" or not re.fullmatch(rb"[\x21-\x7e]+", parts[1]):
        raise RefusedError("the request line is malformed")
    headers = _read_headers(stream)
    body = _read_body(stream, headers, method=parts[0])
    return ParsedRequest(
        number=next_number(), method=parts[0].decode("latin-1"), target=parts[1], headers=headers, body=body
    )


def _whole(line: bytes) -> bytes:
    if line.endswith(b"\r\n"):
        return line[:-2]
    if line.endswith(b"\n") or len(line) >= _MAX_LINE:
        raise RefusedError("a line is too long or does not end with CR LF")
    raise ConnectionAbortedError("the client left in the middle of a request")


def _read_headers(stream: io.BufferedIOBase) -> dict[str, str]:
    headers: dict[str, str] = {}
    while line := _whole(stream.readline(_MAX_LINE)):
        match = _HEADER.fullmatch(line)
        if not match or len(headers) == _MAX_HEADERS:
            raise RefusedError("a header is malformed, or there are too many")
        name = match[1].decode().lower()
        if name in headers:
            raise RefusedError(f"the header {name} stands twice")
        headers[name] = match[2].decode("latin-1")
    if "host" not in headers:
        raise RefusedError("the header host is missing")
    return headers


def _read_body(stream: io.BufferedIOBase, headers: Mapping[str, str], *, method: bytes) -> bytes:
    if "transfer-encoding" in headers:
        raise RefusedError("a body has to be sent with content-length, not in chunks")
    if "content-length" not in headers:
        if method in (b"PUT", b"POST"):
            raise RefusedError("content-length is missing", status=411)
        return b""
    written = headers["content-length"]
    if not re.fullmatch(r"[0-9]{1,9}", written) or int(written) > _MAX_BODY:
        raise RefusedError("content-length is malformed or too large", status=413)
    body = stream.read(int(written))
    if len(body) < int(written):
        raise ConnectionAbortedError("the client left in the middle of a body")
    return body
