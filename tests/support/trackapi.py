"""A strict stand-in for Customer.io's Track API, v1 and v2: a real server on loopback that refuses what the real
one refuses or silently drops, and remembers, per person and in order, what it applied (see `workspace`)."""

from __future__ import annotations

import base64
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias
from urllib.parse import unquote_to_bytes

from gateway.event import JSON
from tests.support import workspace as rules
from tests.support.workspace import (
    MAX_OPERATION,
    Object,
    Operation,
    RefusedError,
    RefuseItem,
    Workspace,
)

#: Bytes of a batch.
MAX_BATCH = 500_000


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """One HTTP request: *target* is as in the request line, the names of headers are in lower case."""

    number: int
    method: str
    target: bytes
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer; as a fault it is sent instead of applying the request."""

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
class Hang:
    """Apply the request and never answer."""


Fault: TypeAlias = Reply | Reset | Delay | Hang
Answer: TypeAlias = Callable[[ParsedRequest], Fault | None]


class TrackAPI(Workspace):
    """The server and the workspace behind it, running while its context is entered.

    Attributes:
        answer: Called with each request before it is read; the fault that it returns happens to that request.
            It may be replaced while the server runs, as `refuse_item` of the workspace may.
        requests: The number of requests that arrived whole, whatever became of them.
    """

    def __init__(
        self,
        *,
        site_id: str = "site",
        api_key: str = "key",
        region: str = "us",
        answer: Answer = lambda _: None,
        refuse_item: RefuseItem = lambda _: None,
        identifiers: Sequence[str] = ("id", "email", "phone"),
    ) -> None:
        super().__init__(refuse_item, identifiers)
        self.answer = answer
        self.region = region
        self.requests = 0
        self._authorization = "Basic " + base64.b64encode(f"{site_id}:{api_key}".encode()).decode()
        self._listener = _Listener(self)
        self._thread = self._new_thread()

    def __enter__(self) -> TrackAPI:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.drop_connections()
        self._listener.server_close()
        self._thread.join()
        if self._listener.crashes:
            raise self._listener.crashes[0]

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Break all connections and refuse new ones until the block ends."""
        self._listener.shutdown()
        self._thread.join()
        self._listener.socket.close()
        self._listener.drop_connections()
        try:
            yield
        finally:
            self._listener.listen_again()
            self._thread = self._new_thread()
            self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

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

    def next_number(self) -> int:
        """Count a request that has arrived."""
        with self._lock:
            self.requests += 1
            return self.requests

    def respond(self, request: ParsedRequest) -> Reply:
        """Apply a request, or refuse it."""
        try:
            path, segments = self._route(request)
            if path == "api/v1/accounts/region":
                _refuse_body(request)
                host = "track-eu" if self.region == "eu" else "track"
                return _json_reply({"url": f"https://{host}.customer.io", "region": self.region, "environment_id": 1})
            if path == "api/v2/batch":
                return self._apply_batch(request)
            self.count_request()
            if segments[2] == "customers":
                segments[3] = self.person_in_path(segments[3])
            operation = _SINGLES[request.method, path](request, segments)
            self.apply(operation)
        except RefusedError as refused:
            return self.refuse(request.method, request.target, refused)
        return Reply(status=204) if operation.kind == "form" else _json_reply({})

    def refuse(self, method: str, target: bytes, refused: RefusedError) -> Reply:
        """Record a refusal, and answer it in the shape that the real API has at this path."""
        self.note_refusal(method, target, refused, status=refused.status)
        error: JSON = {"meta": {"errors": [refused.message]}}
        if refused.status == 401 or target == b"/api/v1/merge_customers":
            error = {"meta": {"error": refused.message}}
        elif target.startswith(b"/api/v2/"):
            error = {"errors": [refused.as_json]}
        return _json_reply(error, status=refused.status)

    def _route(self, request: ParsedRequest) -> tuple[str, list[str]]:
        segments = _path_segments(request.target)
        methods: dict[str, str] = {}
        for method, path in _ROUTES:
            parts = path.split("/")
            if len(parts) == len(segments) and all(map(lambda part, own: part in ("{}", own), parts, segments)):
                methods[method] = path
        if not methods:
            raise RefusedError("no such path", status=404)
        if request.method not in methods:
            raise RefusedError(f"this path takes {', '.join(methods)}", status=405)
        if request.headers.get("authorization") != self._authorization:
            raise RefusedError("Unauthorized", status=401)
        return methods[request.method], segments

    def _apply_batch(self, request: ParsedRequest) -> Reply:
        """Apply the valid operations of a batch, once it is known that all of them have a known type and action."""
        if len(request.body) > MAX_BATCH:
            raise RefusedError(f"a batch cannot be longer than {MAX_BATCH} bytes", field="batch")
        body = _object(request)
        items = body.get("batch")
        if body.keys() != {"batch"} or not isinstance(items, list) or not items:
            raise RefusedError("batch must be a list of operations, and all there is", field="batch")
        operations = [rules.known(item, f"batch[{index}].") for index, item in enumerate(items)]
        self.count_request(batch=len(operations))
        errors: list[JSON] = []
        for index, operation in enumerate(operations):
            try:
                self.apply(rules.read_operation(operation))
            except RefusedError as refused:
                self.note_refusal(request.method, request.target, refused, status=207)
                errors.append({"batch_index": index, **refused.as_json})
        return _json_reply({"errors": errors}, status=207) if errors else _json_reply({})

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._listener.serve_forever, args=(0.01,), name="trackapi")


# Requests for one operation

_SEGMENT = re.compile(rb"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(rb"(?<=_customers)\?id_type=(id|email|cio_id)\Z")  # of a segment; no other path has a query


def _path_segments(target: bytes) -> list[str]:
    """Split a raw target, which may hold only the bytes that a careful client leaves unescaped."""
    raw = _QUERY.sub(b"", target).split(b"/")
    if raw[0] or not all(_SEGMENT.fullmatch(segment) for segment in raw):
        raise RefusedError("the target is no path, or holds a byte that has to be percent-encoded")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw[1:]]
    except UnicodeDecodeError:
        raise RefusedError("the path is not UTF-8") from None
    if any(segment in ("", ".", "..") for segment in segments):
        raise RefusedError("the path has an empty segment or a dot segment")
    return segments


def _read_delete(request: ParsedRequest, segments: list[str]) -> Operation:
    _refuse_body(request)
    return rules.bare("delete", segments[3])


def _read_suppression(request: ParsedRequest, segments: list[str]) -> Operation:
    if request.body and _object(request):
        raise RefusedError("the body must be empty")
    return rules.bare(segments[4], segments[3])


def _read_delete_device(request: ParsedRequest, segments: list[str]) -> Operation:
    _refuse_body(request)
    return rules.delete_device(segments[3], segments[5])


def _read_entity(request: ParsedRequest, _: list[str]) -> Operation:
    if len(request.body) > MAX_OPERATION:
        raise RefusedError(f"an entity cannot be longer than {MAX_OPERATION} bytes")
    return rules.read_operation(rules.known(_object(request)))


def _read_segment(request: ParsedRequest, segments: list[str]) -> Operation:
    query = _QUERY.search(request.target)
    id_type = query[1].decode() if query else "id"
    kind = {"add_customers": "add_to_segment", "remove_customers": "remove_from_segment"}[segments[4]]
    return rules.segment(kind, segments[3], id_type, _object(request))


def _of_person(read: Callable[[str, Object], Operation]) -> _Reader:
    return lambda request, segments: read(segments[3], _object(request))


_Reader: TypeAlias = Callable[[ParsedRequest, list[str]], Operation]
_SINGLES: dict[tuple[str, str], _Reader] = {
    ("PUT", "api/v1/customers/{}"): _of_person(rules.identify),
    ("DELETE", "api/v1/customers/{}"): _read_delete,
    ("PUT", "api/v1/customers/{}/devices"): _of_person(rules.add_device),
    ("DELETE", "api/v1/customers/{}/devices/{}"): _read_delete_device,
    ("POST", "api/v1/customers/{}/suppress"): _read_suppression,
    ("POST", "api/v1/customers/{}/unsuppress"): _read_suppression,
    ("POST", "api/v1/customers/{}/events"): _of_person(rules.event),
    ("POST", "api/v1/events"): lambda request, _: rules.anonymous_event(_object(request)),
    ("POST", "api/v1/merge_customers"): lambda request, _: rules.merge(_object(request)),
    ("POST", "api/v1/forms/{}/submit"): lambda request, segments: rules.form(segments[3], _object(request)),
    ("POST", "api/v1/segments/{}/add_customers"): _read_segment,
    ("POST", "api/v1/segments/{}/remove_customers"): _read_segment,
    ("POST", "api/v2/entity"): _read_entity,
}
_ROUTES = [*_SINGLES, ("GET", "api/v1/accounts/region"), ("POST", "api/v2/batch")]


def _refuse_body(request: ParsedRequest) -> None:
    if request.body:
        raise RefusedError(f"{request.method} takes no body")


def _object(request: ParsedRequest) -> Object:
    """Return the body, a strict JSON object."""
    content_type = request.headers.get("content-type", "")
    if not re.fullmatch(r"application/json(; ?charset=utf-8)?", content_type, re.IGNORECASE):
        raise RefusedError("the content type must be application/json")
    try:
        value = json.loads(request.body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_names)
        rules.size_of(value)  # a lone surrogate has no bytes
    except (UnicodeError, ValueError, RecursionError):
        raise RefusedError("the body is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise RefusedError("the body must be a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RefusedError("a name stands twice in one object")
    return members


def _json_reply(value: JSON, *, status: int = 200) -> Reply:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status=status, headers=headers, body=json.dumps(value).encode() + b"\n")


# HTTP/1.1, read strictly: a malformed request is refused and not repaired

_MAX_LINE = 8_192
_MAX_HEADERS = 100
_MAX_BODY = 1_048_576
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([\x21-\x7e]+) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*?)[ \t]*")


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, api: TrackAPI) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.api = api
        self.closing = threading.Event()
        self.crashes: list[BaseException] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def drop_connections(self) -> None:
        """Wake every thread that waits for a client, so that the server can be closed."""
        self.closing.set()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client may have gone first
                    connection.shutdown(socket.SHUT_RDWR)

    def listen_again(self) -> None:
        self.closing = threading.Event()
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
        api = self.server.api
        try:
            while head := _read_head(self.rfile):
                request = ParsedRequest(
                    method=head.method,
                    target=head.target,
                    headers=head.headers,
                    body=_read_body(self.rfile, head),
                    number=api.next_number(),
                )
                if not self._serve(request) or request.headers.get("connection", "").lower() == "close":
                    return
        except RefusedError as refused:
            self._send(api.refuse("", b"", refused))

    def _serve(self, request: ParsedRequest) -> bool:
        """Answer one request; return False where the connection cannot be used again."""
        api = self.server.api
        match api.answer(request):
            case None:
                self._send(api.respond(request))
            case Reply() as reply:
                self._send(reply)
            case Delay(seconds=seconds):
                reply = api.respond(request)
                self.server.closing.wait(seconds)
                self._send(reply)
            case Hang():
                api.respond(request)
                self.rfile.read(1)  # until the client closes the connection
                return False
            case Reset(applied=applied):
                if applied:
                    api.respond(request)
                self._reset()
                return False
        return True

    def _send(self, reply: Reply) -> None:
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        if reply.status != 204:  # which never has a body, and must not say so
            lines.append(f"Content-Length: {len(reply.body)}")
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body)

    def _reset(self) -> None:
        """Close at once with an RST, as a crashed host or a load balancer does."""
        self.server.forget(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()


class _Head(NamedTuple):
    method: str
    target: bytes
    headers: dict[str, str]


def _read_head(stream: io.BufferedIOBase) -> _Head | None:
    """Read a request up to its body; return None where the client closed the connection between two."""
    lines: list[bytes] = []
    while (line := stream.readline(_MAX_LINE)) != b"\r\n":
        if not line and not lines:
            return None
        if not line.endswith(b"\n") and len(line) < _MAX_LINE:
            raise ConnectionAbortedError("the client left in the middle of a request")
        if not line.endswith(b"\r\n") or len(lines) > _MAX_HEADERS:
            raise RefusedError("a line is too long or does not end with CR LF, or there are too many")
        lines.append(line[:-2])
    first = _REQUEST_LINE.fullmatch(lines[0]) if lines else None
    fields = [_HEADER.fullmatch(line) for line in lines[1:]]
    headers = {match[1].decode().lower(): match[2].decode("latin-1") for match in fields if match}
    if first is None or len(headers) != len(fields) or "host" not in headers:
        raise RefusedError("the request line or a header is malformed, a header stands twice, or Host is missing")
    return _Head(first[1].decode(), first[2], headers)


def _read_body(stream: io.BufferedIOBase, head: _Head) -> bytes:
    if "transfer-encoding" in head.headers:
        raise RefusedError("a body has to be sent with content-length, not in chunks")
    if "content-length" not in head.headers and head.method in ("PUT", "POST"):
        raise RefusedError("content-length is missing", status=411)
    length = head.headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > _MAX_BODY:
        raise RefusedError("content-length is malformed or too large", status=413)
    body = stream.read(int(length))
    if len(body) < int(length):
        raise ConnectionAbortedError("the client left in the middle of a body")
    return body
