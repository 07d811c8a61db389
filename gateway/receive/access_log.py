"""gunicorn's log without secrets: an address may contain one, after the source's name or in its query.

Anybody can cause its warnings, so they are throttled.
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import unquote

from gunicorn.glogging import Logger

from gateway.errors import printable
from gateway.logs import LogThrottle

_REDACTED = "[redacted]"
#: Up to the end of the name: what follows a mistyped separator (`&token=…`) may be a secret too.
_HOOK = re.compile(r"/+hooks/+[\w.-]*", re.IGNORECASE)
#: The first part of any other address: one that is mistyped may still end with a secret.
_FIRST_PART = re.compile("/*[^/?]*")
_MAX_PATH = 500


class AccessLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """Logs requests in any format, also a platform's own, but never the end of a webhook's address."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._throttle = LogThrottle()
        self._left_out = 0

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> Any:
        """Return the values that a log format can use."""
        path, _, query = environ.get("RAW_URI", "").partition("?")
        query = _REDACTED if query else ""  # no address here needs one, so what it holds may be a secret
        if str(resp.status).startswith("404") or _HOOK.search(unquote(path)) is not None:
            path = _without_secret(path)
        address = {
            "RAW_URI": f"{path}?{query}" if query else path,
            "REQUEST_URI": f"{path}?{query}" if query else path,
            "PATH_INFO": path,
            "QUERY_STRING": query,
        }
        return super().atoms(resp, req, environ | address, request_time)

    def exception(self, msg: str, *args: Any, **options: Any) -> None:
        """Log an error; its arguments may be addresses."""
        safe = (_without_secret(str(arg).partition("?")[0]) if "/" in str(arg) else arg for arg in args)
        super().exception(msg, *safe, **options)

    def warning(self, msg: str, *args: Any, **options: Any) -> None:
        """Log a warning; of a malformed request only the kind of error, because the rest quotes the request."""
        malformed = re.match(r"Invalid request from ip=[^ ]*: [\w ]+", msg, re.ASCII)
        if malformed is None:
            super().warning(msg, *args, **options)
        elif self._throttle.allows("", time.monotonic()):
            before = f" ({self._left_out} more such lines were left out before)" if self._left_out else ""
            super().warning(f"{malformed[0].rstrip()}{before}")
            self._left_out = 0
        else:
            self._left_out += 1


def _without_secret(path: str) -> str:
    """Return the beginning of an address, which contains no secret."""
    decoded = unquote(path)
    beginning = _HOOK.search(decoded) or _FIRST_PART.match(decoded)
    assert beginning is not None, "the second pattern matches anything"
    return printable(beginning[0], _MAX_PATH) + (f"/{_REDACTED}" if decoded[beginning.end() :].strip("/") else "")
