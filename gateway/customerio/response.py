"""What an answer of Customer.io means: whether it is one at all, what it complains of, and how long to wait."""

from __future__ import annotations

import codecs
import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest
from gateway.errors import printable
from gateway.event import JSON

#: Characters of a reason, at most.
MAX_REASON = 300
#: Bytes of a request's and of an answer's body that `debug` keeps.
MAX_DEBUG_BODY = 10_240


@dataclass(frozen=True, kw_only=True)
class Response:
    """A whole HTTP answer; names of headers are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @cached_property
    def json(self) -> JSON:
        """The body as JSON; None when it is empty or no JSON."""
        try:
            parsed: JSON = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return parsed

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


def attempt_of(request: HttpRequest, response: Response, *, at: float, seconds: float, now: float) -> Attempt:
    """Return the attempt that ended with this answer.

    Args:
        at: When the attempt began, in unix seconds.
        seconds: How long it took.
        now: When it ended, in unix seconds. Dates in Retry-After count from here.
    """
    expects_json = request.response_type == "json"
    refused_items = _refused_items(response) if response.status == 207 else {}
    understood = not expects_json or not response.body or isinstance(response.json, dict)
    if response.status == 207:
        understood = bool(refused_items)
    names_field = any(isinstance(error, dict) and error.get("field") for error in _errors_of(response.json))
    arrived = 200 <= response.status < 300 and response.status != 207 and understood
    return Attempt(
        status=response.status,
        reason=None if arrived else reason_of(response, expects_json=expects_json),
        understood=understood,
        refused_items=refused_items,
        about_call=not arrived and names_field,
        retry_after=_retry_after(response.headers.get("retry-after"), now=now),
        at=at,
        seconds=seconds,
        debug=_exchange_text(request, response) if request.debug else None,
    )


def attempt_without_answer(request: HttpRequest, reason: str, *, at: float, seconds: float) -> Attempt:
    """Return the attempt that no whole answer came to."""
    debug = _exchange_text(request, None) if request.debug else None
    return Attempt(status=None, reason=reason, at=at, seconds=seconds, debug=debug)


def reason_of(response: Response, *, expects_json: bool = True) -> str:
    """Return in one line what an answer complains of."""
    prefix = f"HTTP {response.status}"
    if 300 <= response.status < 400:
        return f"{prefix}: redirected, so the region is probably wrong"
    body = response.json
    # Customer.io has three shapes of errors: meta.error, meta.errors, and errors with a field each.
    meta = body.get("meta") if isinstance(body, dict) else None
    errors = [meta.get("error"), *_errors_of(meta)] if isinstance(meta, dict) else []
    texts = [str(error) for error in errors if error] + [_error_text(error) for error in _errors_of(body) if error]
    reason = printable("; ".join(texts), MAX_REASON)
    if expects_json and not reason and response.body and not isinstance(body, dict):
        reason = "the answer is not Customer.io's JSON: something else answers at this address"
    return f"{prefix}: {reason}"[:MAX_REASON] if reason else prefix


def _errors_of(body: JSON) -> list[JSON]:
    errors = body.get("errors") if isinstance(body, dict) else None
    return errors if isinstance(errors, list) else []


def _error_text(error: JSON) -> str:
    if not isinstance(error, dict):
        return str(error)
    parts = (error.get(name) for name in ("field", "reason", "message", "detail"))
    return ": ".join(dict.fromkeys(str(part) for part in parts if part))


def _refused_items(response: Response) -> dict[int, str]:
    """Return which items of a batch were refused, and why; nothing when the answer does not say it for certain."""
    refused: dict[int, str] = {}
    for error in _errors_of(response.json):
        index: Any = error.get("batch_index") if isinstance(error, dict) else None
        if type(index) is not int or index < 0:
            return {}
        text = printable(_error_text(error), MAX_REASON) or "refused"
        before = f"{refused[index]}; " if index in refused else "HTTP 207: "
        refused[index] = f"{before}{text}"[:MAX_REASON]
    return refused


def _retry_after(header: str | None, *, now: float) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date; None when it is neither."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header.strip()[:9])
    try:
        at = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)  # dates of HTTP are in UTC
    return max(0.0, at.timestamp() - now)


def _exchange_text(request: HttpRequest, response: Response | None) -> str:
    """Return request and answer as text. The request has no credentials yet; an answer may set some."""
    lines = [f"{request.method} {request.path}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += _body_lines(request.body or b"")
    if response is not None:
        lines += ["", f"HTTP {response.status}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items() if name != "set-cookie"]
        lines += _body_lines(response.body)
    return "\n".join(lines)


def _body_lines(body: bytes) -> list[str]:
    if not body:
        return []
    try:
        # A character that the cut divides is left out. Anything else that is not UTF-8 shows the size only.
        text, _ = codecs.utf_8_decode(body[:MAX_DEBUG_BODY], "strict", len(body) <= MAX_DEBUG_BODY)
    except UnicodeDecodeError:
        return ["", f"<{len(body)} bytes>"]
    more = f"\n<{len(body)} bytes in all>" if len(body) > MAX_DEBUG_BODY else ""
    return ["", text + more]
