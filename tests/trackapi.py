"""A strict stand-in for Customer.io's Track API: a real server on loopback that refuses what the real one
refuses or silently drops, and remembers, per person and in order, what it applied."""

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote_to_bytes

from gateway.events import JSON


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


Fault: TypeAlias = Reply | Reset | Delay | Slow | Hang
Answer: TypeAlias = Callable[[ParsedRequest], Fault | None]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One request that was applied.

    Attributes:
        kind: identify, delete, event, page or screen.
        at: The monotonic clock when it was applied, in seconds.
    """

    kind: str
    body: Mapping[str, JSON]
    at: float


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One request that the stand-in itself would not take, and why."""

    status: int
    method: str
    target: bytes
    errors: tuple[str, ...]


class TrackAPI:
    """The server, running while its context is entered.

    Attributes:
        answer: Called with each request before it is looked at; what it returns happens to that request.
            It may be replaced while the server runs.
    """

    def __init__(
        self,
        *,
        site_id: str = "site",
        api_key: str = "key",
        region: str = "us",
        answer: Answer = lambda _: None,
    ) -> None:
        self.answer = answer
        self._workspace = _Workspace(site_id=site_id, api_key=api_key, region=region)
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
            return {person: dict(attributes) for person, attributes in self._workspace.people.items()}

    def applied(self, identifier: str) -> list[Operation]:
        """List what was applied to a person, oldest first; *identifier* is read the way a path is."""
        return self._applied(person_key(identifier))

    def applied_anonymously(self, anonymous_id: str) -> list[Operation]:
        """List the events of an anonymous id, oldest first."""
        return self._applied(f"anonymous_id:{anonymous_id}")

    def count_applied(self) -> int:
        """Count what was applied, to all people together."""
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
        except _RefusedError as refused:
            return self._workspace.refuse(request.method, request.target, refused)

    def refuse_unread(self, refused: _RefusedError) -> Reply:
        """Answer bytes that are not a request."""
        return self._workspace.refuse("", b"", refused)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._listener.serve_forever, args=(0.01,), name="trackapi")

    def _applied(self, person: str) -> list[Operation]:
        with self._workspace.lock:
            return list(self._workspace.log.get(person, ()))


def person_key(identifier: str) -> str:
    """Say whom v1 takes an identifier in a path for."""
    if identifier.startswith("cio_") and identifier != "cio_":
        return f"cio_id:{identifier.removeprefix('cio_')}"
    if re.fullmatch(r"[^@\s]+@[^@\s]+", identifier):
        return f"email:{identifier.lower()}"
    return f"id:{identifier}"


class _RefusedError(Exception):
    def __init__(self, *errors: str, status: int = 400) -> None:
        super().__init__(*errors)
        self.status = status
        self.errors = errors


class _Workspace:
    """What the API has taken, behind one lock."""

    def __init__(self, *, site_id: str, api_key: str, region: str) -> None:
        self.authorization = "Basic " + base64.b64encode(f"{site_id}:{api_key}".encode()).decode()
        self.region = region
        self.lock = threading.Lock()
        self.people: dict[str, dict[str, JSON]] = {}
        self.log: dict[str, list[Operation]] = {}
        self.applied = 0
        self.repeats = 0
        self.refused: list[Refusal] = []
        self.conflicts: list[Operation] = []
        self._events: dict[str, tuple[str, Mapping[str, JSON]]] = {}

    def identify(self, person: str, body: dict[str, JSON]) -> None:
        with self.lock:
            if body.get("_update") is True and person not in self.people:
                return  # the real API logs a failed change and does nothing
            attributes = {name: value for name, value in body.items() if name not in _INSTRUCTIONS}
            self.people.setdefault(person, {}).update(attributes)
            self._note(person, Operation(kind="identify", body=body, at=time.monotonic()))

    def delete(self, person: str) -> None:
        with self.lock:
            self.people.pop(person, None)
            self._note(person, Operation(kind="delete", body={}, at=time.monotonic()))

    def record(self, person: str, body: dict[str, JSON]) -> None:
        operation = Operation(kind=str(body.get("type", "event")), body=body, at=time.monotonic())
        with self.lock:
            if isinstance(ulid := body.get("id"), str):
                first = self._events.setdefault(ulid.upper(), (person, body))
                if first[1] is not body:
                    return self._note_repeat(first, (person, body), operation)
            return self._note(person, operation)

    def refuse(self, method: str, target: bytes, refused: _RefusedError) -> Reply:
        with self.lock:
            self.refused.append(
                Refusal(status=refused.status, method=method, target=target, errors=refused.errors)
            )
        if refused.status == 401:
            return _json_reply({"meta": {"error": "Unauthorized"}}, status=401)
        return _json_reply({"meta": {"errors": list(refused.errors)}}, status=refused.status)

    def _note(self, person: str, operation: Operation) -> None:
        self.applied += 1
        self.log.setdefault(person, []).append(operation)

    def _note_repeat(self, first: object, again: object, operation: Operation) -> None:
        self.repeats += 1
        if first != again:
            self.conflicts.append(operation)


# The API: what is taken, and what is refused.

_INSTRUCTIONS = frozenset({"_update", "_timestamp", "cio_relationships", "cio_subscription_preferences"})
_EVENT_KEYS = frozenset({"name", "type", "id", "timestamp", "data"})
_LIMITS = {"id": 150, "event": 100, "screen": 100}  # bytes; where none is documented, an attribute's holds
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)
_SEGMENT = re.compile(rb"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")

_Handler: TypeAlias = Callable[[_Workspace, ParsedRequest, list[str]], Reply]


def _route(workspace: _Workspace, request: ParsedRequest) -> Reply:
    segments = _segments(request.target)
    handlers = {method: handler for method, path, handler in _ROUTES if _matches(path, segments)}
    if not handlers:
        raise _RefusedError("no such path", status=404)
    if request.method not in handlers:
        raise _RefusedError(f"this path takes {', '.join(handlers)}", status=405)
    if request.headers.get("authorization") != workspace.authorization:
        raise _RefusedError("Unauthorized", status=401)
    return handlers[request.method](workspace, request, segments)


def _segments(target: bytes) -> list[str]:
    """Split a raw target; only bytes that a careful client leaves unescaped may stand in it."""
    if not target.startswith(b"/"):
        raise _RefusedError("the request target must be a path")
    raw = target[1:].split(b"/")
    if not all(_SEGMENT.fullmatch(segment) for segment in raw):
        raise _RefusedError("the path holds a byte that has to be percent-encoded")
    try:
        segments = [unquote_to_bytes(segment).decode() for segment in raw]
    except UnicodeDecodeError:
        raise _RefusedError("the path is not UTF-8") from None
    if any(segment in ("", ".", "..") for segment in segments):
        raise _RefusedError("the path has an empty segment or a dot segment")
    return segments


def _matches(path: str, segments: list[str]) -> bool:
    expected = path.split("/")
    return len(expected) == len(segments) and all(
        wanted in ("{}", segment) for wanted, segment in zip(expected, segments, strict=True)
    )


def _region(workspace: _Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    _refuse_body(request)
    host = "track-eu" if workspace.region == "eu" else "track"
    url = f"https://{host}.customer.io"
    return _json_reply({"url": url, "region": workspace.region, "environment_id": 1})


def _identify(workspace: _Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    person, body = _person(segments[3]), _object(request)
    _check_attributes(body)
    _check_identifiers(person, body)
    workspace.identify(person, body)
    return _json_reply({})


def _delete(workspace: _Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    _refuse_body(request)
    workspace.delete(_person(segments[3]))
    return _json_reply({})


def _track(workspace: _Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    person, body = _person(segments[3]), _object(request)
    workspace.record(person, _event(body, keys=_EVENT_KEYS))
    return _json_reply({})


def _track_anonymous(workspace: _Workspace, request: ParsedRequest, segments: list[str]) -> Reply:
    event = _event(_object(request), keys=_EVENT_KEYS | {"anonymous_id"})
    data = event.get("data")
    if "anonymous_id" not in event:
        if not (isinstance(data, dict) and data.get("recipient")):
            raise _RefusedError("an event without anonymous_id needs data.recipient")
        workspace.record("invite", event)
    else:
        anonymous_id = _text(event["anonymous_id"], "anonymous_id", limit=1000)
        workspace.record(f"anonymous_id:{anonymous_id}", event)
    return _json_reply({})


_ROUTES: tuple[tuple[str, str, _Handler], ...] = (
    ("GET", "api/v1/accounts/region", _region),
    ("PUT", "api/v1/customers/{}", _identify),
    ("DELETE", "api/v1/customers/{}", _delete),
    ("POST", "api/v1/customers/{}/events", _track),
    ("POST", "api/v1/events", _track_anonymous),
)


def _person(segment: str) -> str:
    person = person_key(segment)
    kind, _, value = person.partition(":")
    _text(value, "the identifier in the path", limit=_LIMITS.get(kind, 1000))
    return person


def _object(request: ParsedRequest) -> dict[str, JSON]:
    content_type = request.headers.get("content-type", "")
    if not re.fullmatch(r"application/json(; ?charset=utf-8)?", content_type, re.IGNORECASE):
        raise _RefusedError("the content type must be application/json")
    value = _strict_json(request.body)
    if not isinstance(value, dict):
        raise _RefusedError("the body must be a JSON object")
    return value


def _strict_json(body: bytes) -> JSON:
    try:
        value: JSON = json.loads(
            body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_names
        )
        _size(value)  # a lone surrogate has no bytes
    except (UnicodeError, ValueError, RecursionError):
        raise _RefusedError("the body is not JSON in UTF-8") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        raise _RefusedError("a name stands twice in one object")
    return named


def _refuse_body(request: ParsedRequest) -> None:
    if request.body:
        raise _RefusedError(f"{request.method} takes no body")


def _check_attributes(body: dict[str, JSON]) -> None:
    if len(body) > 300:
        raise _RefusedError("cannot identify more than 300 attributes in one request")
    for name, value in body.items():
        _text(name, "attribute name", limit=150)
        # Whether the limit holds for lists and objects too is documented nowhere.
        if isinstance(value, str) and _size(value) > 1000:
            raise _RefusedError("value for an attribute cannot be longer than 1000 bytes")
    for name in ("_timestamp", "created_at"):
        if body.get(name) is not None:
            _check_timestamp(body[name], name)
    if not isinstance(body.get("_update", False), bool):
        raise _RefusedError("_update must be true or false")


def _check_identifiers(person: str, body: dict[str, JSON]) -> None:
    kind, _, addressed = person.partition(":")
    for name in ("id", "email", "anonymous_id"):
        if name not in body or (body[name] is None and name != "id"):
            continue
        named = _text(body[name], name, limit=_LIMITS.get(name, 1000))
        # The real API answers 200 here and then records an "Attribute Update Failure".
        if kind == name and addressed != (named.lower() if kind == "email" else named):
            raise _RefusedError(f"{name} in the body is not the {name} in the path")


def _event(body: dict[str, JSON], *, keys: frozenset[str]) -> dict[str, JSON]:
    """Check an event, and give it as it is kept: spaces around its name are dropped."""
    if unknown := body.keys() - keys:
        raise _RefusedError(f"unknown keys in an event: {sorted(unknown)}")
    kind = body.get("type", "event")
    if kind not in ("event", "page", "screen"):
        raise _RefusedError("type must be event, page or screen")
    if "id" in body and not (isinstance(body["id"], str) and _ULID.fullmatch(body["id"])):
        raise _RefusedError("id must be a ULID")
    if "timestamp" in body:
        _check_timestamp(body["timestamp"], "timestamp")
    _check_data(body.get("data", {}))
    name = _text(body.get("name"), "event name", limit=_LIMITS.get(str(kind), 1000))
    return {**body, "name": name.strip()}


def _check_data(data: JSON) -> None:
    if not isinstance(data, dict):
        raise _RefusedError("event data must be a hash")
    if _size(data) > 100_000:
        raise _RefusedError("event data cannot be longer than 100000 bytes")


def _check_timestamp(value: JSON, name: str) -> None:
    # The real API takes another time for "now" without a word; refusing it is how a test hears of it.
    if type(value) is not int or not 10**9 <= value < 10**11:
        raise _RefusedError(f"{name} must be whole unix seconds")


def _text(value: JSON, name: str, *, limit: int) -> str:
    if not isinstance(value, str):
        raise _RefusedError(f"{name} must be a string value")
    if not value.strip():
        raise _RefusedError(f"{name} must not be blank")
    if len(value.encode()) > limit:
        raise _RefusedError(f"{name} cannot be longer than {limit} bytes")
    return value


def _size(value: JSON) -> int:
    written = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    return len(written.encode())


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
        except _RefusedError as refused:
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
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        lines += [f"Content-Length: {len(reply.body)}", "", ""]
        self.connection.sendall("\r\n".join(lines).encode("latin-1") + reply.body)

    def _reset(self) -> None:
        """Close at once with an RST, as a crashed host or a load balancer does."""
        self.server.forget(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()


def _read_request(stream: io.BufferedIOBase, next_number: Callable[[], int]) -> ParsedRequest | None:
    """Read one request; None: the client closed the connection between two."""
    if not (line := stream.readline(_MAX_LINE)):
        return None
    parts = _whole(line).split(b" ")
    if len(parts) != 3 or parts[2] != b"HTTP/1.1" or not re.fullmatch(rb"[\x21-\x7e]+", parts[1]):
        raise _RefusedError("the request line is malformed")
    headers = _read_headers(stream)
    body = _read_body(stream, headers, method=parts[0])
    return ParsedRequest(
        number=next_number(), method=parts[0].decode("latin-1"), target=parts[1], headers=headers, body=body
    )


def _whole(line: bytes) -> bytes:
    if line.endswith(b"\r\n"):
        return line[:-2]
    if line.endswith(b"\n") or len(line) >= _MAX_LINE:
        raise _RefusedError("a line is too long or does not end with CR LF")
    raise ConnectionAbortedError("the client left in the middle of a request")


def _read_headers(stream: io.BufferedIOBase) -> dict[str, str]:
    headers: dict[str, str] = {}
    while line := _whole(stream.readline(_MAX_LINE)):
        match = _HEADER.fullmatch(line)
        if not match or len(headers) == _MAX_HEADERS:
            raise _RefusedError("a header is malformed, or there are too many")
        name = match[1].decode().lower()
        if name in headers:
            raise _RefusedError(f"the header {name} stands twice")
        headers[name] = match[2].decode("latin-1")
    if "host" not in headers:
        raise _RefusedError("the header host is missing")
    return headers


def _read_body(stream: io.BufferedIOBase, headers: Mapping[str, str], *, method: bytes) -> bytes:
    if "transfer-encoding" in headers:
        raise _RefusedError("a body has to be sent with content-length, not in chunks")
    if "content-length" not in headers:
        if method in (b"PUT", b"POST"):
            raise _RefusedError("content-length is missing", status=411)
        return b""
    written = headers["content-length"]
    if not re.fullmatch(r"[0-9]{1,9}", written) or int(written) > _MAX_BODY:
        raise _RefusedError("content-length is malformed or too large", status=413)
    body = stream.read(int(written))
    if len(body) < int(written):
        raise ConnectionAbortedError("the client left in the middle of a body")
    return body
