"""The call that sends any request to Customer.io's API, and the checks of its options."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlencode

from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Check, Kind, call_class, key
from gateway.customerio.limits import MAX_TIMEOUT, Violation
from gateway.customerio.wire import HttpRequest, dump, plain_text
from gateway.event import JSON
from gateway.text import HEADER_NAME

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
RESPONSE_TYPES = ("json", "text", "binary")


@dataclass(frozen=True, kw_only=True)
class RetrySetting:
    """One setting of a raw request's `retry`: a boolean, or a whole number from *least* to *most*."""

    about: str
    type: type[int]
    least: int = 0
    most: int = 1


RETRY_SETTINGS = {
    "max": RetrySetting(about="How many times, at most, it is tried again.", type=int, least=0, most=100),
    "delay_ms": RetrySetting(about="Milliseconds before the first retry.", type=int, least=1, most=600_000),
    "exponential": RetrySetting(about="Each delay is longer than the one before.", type=bool),
    "all_errors": RetrySetting(about="Retry after any error.", type=bool),
}


def path_problem(path: str) -> str | None:
    """Return what is wrong with the path of a raw request, or None: it only reaches below ``/api`` of its host."""
    if not path.startswith("/") or path.startswith("//"):
        return "has to be a path below /api that starts with one slash, as /v1/accounts/region"
    if path == "/api" or path.startswith("/api/"):
        return "is taken below /api already: write /v1/… instead of /api/v1/…"
    if not path.startswith(("/v1/", "/v2/")):
        return "has to begin with the version of the API, as /v1/accounts/region or /v2/batch"
    if "?" in path or "#" in path:
        return "must not hold ? or #; parameters stand under 'query'"
    if "\\" in path or not path.isprintable():
        return "must not hold a backslash or a control character"
    if _BAD_ESCAPE.search(path):
        return "holds a % that begins no escape; write =url_encode(…) around what comes from a payload"
    # Every HTTP library folds these, some of them also when they are escaped.
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        return 'must not have a segment "." or "..": they change where the request goes'
    return None


# A percent sign without two digits, or the escape of a control character or a backslash.
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%(?:0[0-9A-Fa-f]|1[0-9A-Fa-f]|7[Ff]|5[Cc])")
# Characters of a path that need no escape. A percent sign begins one: `path_problem` makes sure of it.
_PATH_SAFE = "/%:@!$&'()*+,;=~"


def header_problem(name: str, value: object) -> str | None:
    """Return what is wrong with a header of a raw request, or None."""
    if name.lower() in _OUR_HEADERS:
        return "is set by the gateway"
    if not HEADER_NAME.fullmatch(name):
        return "is not the name of a header"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return "has to be text of printable ASCII characters"
    if value != value.strip():
        return "must not begin or end with a space; write =trim(…)"
    return None


# Headers that prove who we are, or decide where the request goes and where it ends.
_OUR_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "host", "user-agent", "connection", "upgrade"),
        *("content-length", "transfer-encoding", "te", "trailer", "expect", "keep-alive"),
    }
)


def value_problem(value: object) -> str | None:
    """Return what is wrong with a parameter of a raw request's query or a field of its form, or None."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, list | tuple | dict) or item is None for item in items):
        return "has to be text, a number or a boolean, or a list of them"
    return None


def retry_problem(name: str, value: JSON) -> str | None:
    """Return what is wrong with one setting of a raw request's `retry`, or None."""
    setting = RETRY_SETTINGS.get(name)
    if setting is None:
        return f"is not one of {', '.join(RETRY_SETTINGS)}"
    if setting.type is bool:
        return None if isinstance(value, bool) else "is neither true nor false"
    if type(value) is not int or not setting.least <= value <= setting.most:
        return f"has to be a whole number from {setting.least} to {setting.most}"
    return None


def _file_problem(_name: str, contents: object) -> str | None:
    return None if isinstance(contents, str | bytes) else "has to be the file's contents as text"


def _file_name_problem(_name: str, file_name: object) -> str | None:
    return None if isinstance(file_name, str) else "has to be text"


def _check_each(problem: Callable[[str, Any], str | None]) -> Check:
    """Make a check of all values of an object out of a function that says what is wrong with one, by name and value."""

    def check(field: str, values: Mapping[str, Any]) -> Iterator[Violation]:
        for name, value in values.items():
            if found := problem(name, value):
                yield Violation(field=f"{field}.{name}", problem=found)

    return check


def timeout_problem(seconds: float) -> str | None:
    """Return what is wrong with the seconds that an attempt may take, or None."""
    return None if 0 < seconds <= MAX_TIMEOUT else f"has to be over 0 and at most {MAX_TIMEOUT:g} seconds"


_check_values = _check_each(lambda _name, value: value_problem(value))


@call_class
class RawRequest(Call):
    """Any request to the API of a region's host, with the connection's credentials.

    Attributes:
        method: None means GET, or POST where there is a body.
        path: Below ``/api``, as ``/v1/accounts/region``.
        query: Texts, numbers and booleans, or lists of them for a parameter that is repeated.
        data: The body: a text as it is, anything else as JSON.
        form: Fields of a multipart body, as *query*; *files* are its files' contents by field, and *file_names*
            their names, which are those of the fields by default.
        response_type: What the answer has to be.
        timeout: Seconds that one attempt may take, connecting included; None leaves it to the client.
        debug: Keep request and answer, without credentials, on the attempt.
        retry: Some of RETRY_SETTINGS; each replaces the connection's own.
    """

    name_of_call: ClassVar = "request"
    about: ClassVar = "Sends any other request."
    method: str | None = key(Kind.TEXT, about="The method of the request.", choices=METHODS, default=None)
    path: str = key(
        Kind.TEXT,
        about="The path below /api.",
        example="/v1/accounts/region",
        examples=("/v1/accounts/region",),
        problem=path_problem,
    )
    query: Mapping[str, JSON] = key(
        Kind.PARAMETERS, about="Parameters of the URL's query.", check=_check_values, default_factory=dict
    )
    headers: Mapping[str, str] = key(
        Kind.HEADERS, about="Headers of the request.", check=_check_each(header_problem), default_factory=dict
    )
    data: JSON = key(Kind.DATA, about="The body: a text as it is, anything else as JSON.", default=None)
    form: Mapping[str, JSON] = key(
        Kind.PARAMETERS, about="The body, sent as a form.", check=_check_values, default_factory=dict
    )
    files: Mapping[str, str | bytes] = key(
        Kind.FILES,
        about="Contents of files in the form, by field.",
        check=_check_each(_file_problem),
        default_factory=dict,
    )
    file_names: Mapping[str, str] = key(
        Kind.FILES,
        about="Names of the files, by the same fields.",
        check=_check_each(_file_name_problem),
        default_factory=dict,
    )
    response_type: str = key(Kind.NOTE, about="What the answer has to be.", choices=RESPONSE_TYPES, default="json")
    timeout: float | None = key(
        Kind.SECONDS, about="Seconds that one attempt may take.", examples=(5,), problem=timeout_problem, default=None
    )
    debug: bool = key(Kind.FLAG, about="Keeps request and answer, without credentials, on the attempt.", default=False)
    retry: Mapping[str, JSON] = key(
        Kind.RETRY,
        about="How often and when it is tried again; each setting replaces the connection's.",
        check=_check_each(retry_problem),
        default_factory=dict,
    )

    def other_violations(self) -> Iterator[Violation]:
        """Check that there is one body, and that each file name has a file."""
        if self.data is not None and (self.form or self.files):
            problem = "cannot be sent together with 'form' or 'files': a request has one body"
            yield Violation(field="data", problem=problem)
        for name in self.file_names:
            if name not in self.files:
                yield Violation(field=f"file_names.{name}", problem=f"there is no file '{name}' under 'files'")

    def request(self) -> HttpRequest:
        """Return the request with its body encoded."""
        body, content_type = self._body()
        described = "content-type" in (name.lower() for name in self.headers)
        query = urlencode(list(_pairs(self.query)), quote_via=quote)
        return HttpRequest(
            method=self.method or ("GET" if body is None else "POST"),
            path="/api" + quote(self.path, safe=_PATH_SAFE) + (f"?{query}" if query else ""),
            body=body,
            headers={**({"Content-Type": content_type} if content_type and not described else {}), **self.headers},
            response_type=self.response_type,
            timeout=self.timeout,
            debug=self.debug,
        )

    def _body(self) -> tuple[bytes | None, str | None]:
        """Return the body and its content type."""
        if self.form or self.files:
            return self._multipart()
        if isinstance(self.data, str):
            return self.data.encode(), "text/plain; charset=utf-8"
        return (None, None) if self.data is None else (dump(self.data), "application/json")

    def _multipart(self) -> tuple[bytes, str]:
        # Here, because urllib3 loads sockets and TLS, which checking a mapping does without.
        from urllib3.filepost import encode_multipart_formdata

        parts: list[tuple[str, str | tuple[str, str | bytes, str]]] = [*_pairs(self.form)]
        for name, contents in self.files.items():
            parts.append((name, (self.file_names.get(name, name), contents, "application/octet-stream")))
        # A hash of the parts, so that the same request has the same bytes. Nothing can contain a hash of itself.
        joined, _ = encode_multipart_formdata(parts, boundary="")
        return encode_multipart_formdata(parts, boundary=hashlib.sha256(joined).hexdigest()[:32])


def _pairs(values: Mapping[str, JSON]) -> Iterator[tuple[str, str]]:
    """Yield names and values as texts, once for each item of a list."""
    for name, value in values.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            yield name, plain_text(item)
