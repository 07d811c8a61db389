"""What an answer of Customer.io means: whether it is one at all, what it says went wrong, and how long to wait."""

from __future__ import annotations

import codecs
import email.utils
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest
from gateway.errors import printable
from gateway.event import JSON

MAX_REASON = 300
#: Bytes of a request's and of an answer's body that are kept where a raw request asks for it.
MAX_SHOWN = 10_240


@dataclass(frozen=True, kw_only=True)
class Response:
    """A whole HTTP answer; names of headers are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> JSON:
        """The body as JSON; None when it is empty or no JSON."""
        return _json(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


def attempt_of(request: HttpRequest, answer: Response, *, at: float, seconds: float, now: float) -> Attempt:
    """Say what an attempt came to.

    Args:
        at: When it began, in unix seconds; *now* is when it ended, *seconds* how long it took.
    """
    understood = _is_understood(request, answer)
    good = 200 <= answer.status < 300 and answer.status != 207 and understood
    return Attempt(
        status=answer.status,
        reason=None if good else reason_of(answer, expects_json=request.response_type == "json"),
        understood=understood,
        refused_items=_refused_items(answer) if answer.status == 207 else {},
        about_call=_names_field(answer),
        retry_after=_retry_after(answer.headers.get("retry-after"), now=now),
        at=at,
        seconds=seconds,
        debug=_shown(request, answer) if request.debug else None,
    )


def reason_of(answer: Response, *, expects_json: bool = True) -> str:
    """Say in one line what an answer complains of."""
    if 300 <= answer.status < 400:
        return f"HTTP {answer.status}: redirected, so the region is probably wrong"
    said = printable("; ".join(_errors_in(answer.json)), MAX_REASON)
    if expects_json and not said and answer.body and not isinstance(answer.json, dict):
        said = "the answer is not Customer.io's JSON: something else answers at this address"
    return f"HTTP {answer.status}: {said}"[:MAX_REASON] if said else f"HTTP {answer.status}"


def _is_understood(request: HttpRequest, answer: Response) -> bool:
    if answer.status == 207:
        return bool(_refused_items(answer))
    if request.response_type != "json":
        return True
    return not answer.body or isinstance(answer.json, dict)


def _json(body: bytes) -> JSON:
    try:
        parsed: JSON = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed


def _errors_in(body: JSON) -> Iterator[str]:
    """Read the shapes in which Customer.io reports errors: meta.error, meta.errors, errors of fields."""
    if not isinstance(body, dict):
        return
    meta = body.get("meta")
    if isinstance(meta, dict):
        yield from (str(each) for each in (meta.get("error"), *_as_list(meta.get("errors"))) if each)
    yield from (_error(each) for each in _as_list(body.get("errors")) if each)


def _error(said: JSON) -> str:
    if not isinstance(said, dict):
        return str(said)
    told = (said.get(name) for name in ("field", "reason", "message", "detail"))
    return ": ".join(dict.fromkeys(str(part) for part in told if part))


def _names_field(answer: Response) -> bool:
    """Tell whether an answer complains of a field of the call. Only v2's errors name one."""
    body = answer.json
    errors = _as_list(body.get("errors")) if isinstance(body, dict) else []
    return any(isinstance(error, dict) and bool(error.get("field")) for error in errors)


def _as_list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _refused_items(answer: Response) -> dict[int, str]:
    """Read which items of a batch were refused, and why; nothing when that cannot be told."""
    body = answer.json
    refused: dict[int, str] = {}
    for each in _as_list(body.get("errors")) if isinstance(body, dict) else ():
        index: Any = each.get("batch_index") if isinstance(each, dict) else None
        if type(index) is not int or index < 0:
            return {}
        said = printable(_error(each), MAX_REASON) or "refused"
        before = refused.get(index, "HTTP 207: ")
        refused[index] = (f"{before}; {said}" if index in refused else f"{before}{said}")[:MAX_REASON]
    return refused


def _retry_after(header: str | None, *, now: float) -> float | None:
    """Read Retry-After, which is a number of seconds or a date."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        at = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)  # as HTTP has it
    return max(0.0, at.timestamp() - now)


def _shown(request: HttpRequest, answer: Response | None) -> str:
    lines = [f"{request.method} {request.path}", *_headers(request.headers), *_body(request.body or b"")]
    if answer is not None:
        lines += ["", f"HTTP {answer.status}", *_headers(answer.headers), *_body(answer.body)]
    return "\n".join(lines)


def shown_without_answer(request: HttpRequest) -> str | None:
    """Show a request that no whole answer came to, where it asks for that."""
    return _shown(request, None) if request.debug else None


def _headers(headers: Mapping[str, str]) -> list[str]:
    # The requests that are shown carry no credentials yet; an answer may set some.
    return [f"{name}: {value}" for name, value in headers.items() if name.lower() != "set-cookie"]


def _body(body: bytes) -> list[str]:
    if not body:
        return []
    try:
        # A character that is cut through is left out; anything else that is no text makes no text of it all.
        text, _ = codecs.utf_8_decode(body[:MAX_SHOWN], "strict", len(body) <= MAX_SHOWN)
    except UnicodeDecodeError:
        return ["", f"<{len(body)} bytes>"]
    more = f"\n<{len(body)} bytes in all>" if len(body) > MAX_SHOWN else ""
    return ["", text + more]
