"""gunicorn's log without secrets: an address may hold one, after the source's name or in its query."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from gunicorn.glogging import Logger

from gateway.errors import printable

_SECRET = "[redacted]"  # noqa: S105  # what is shown in the place of one
_HOOK = re.compile("/+hooks/+[^/?]*")
#: Of an address that is none of ours: whoever mistyped one of ours may have a secret at its end.
_BEGINNING = re.compile("/*[^/?]*")
_MOST = 500


class AccessLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """Logs requests as any format asks for, be it the platform's own, but never the end of a webhook's address."""

    def atoms(self, resp: Any, req: Any, environ: dict[str, Any], request_time: Any) -> Any:
        """Give what a format can show of a request."""
        path, _, query = environ.get("RAW_URI", "").partition("?")
        is_open = not str(resp.status).startswith("404") and _HOOK.search(unquote(path)) is None
        shown, asked = (path, query) if is_open else (_shown(path), _SECRET if query else "")
        address = {
            "RAW_URI": f"{shown}?{asked}" if asked else shown,
            "REQUEST_URI": f"{shown}?{asked}" if asked else shown,
            "PATH_INFO": shown,
            "QUERY_STRING": asked,
        }
        return super().atoms(resp, req, environ | address, request_time)

    def exception(self, msg: str, *args: Any, **options: Any) -> None:
        """Log an error, whose arguments may be an address."""
        shown = (_shown(str(each).partition("?")[0]) if "/" in str(each) else each for each in args)
        super().exception(msg, *shown, **options)

    def warning(self, msg: str, *args: Any, **options: Any) -> None:
        """Log a warning; of a request that is malformed only what is wrong with it, and nothing it says."""
        malformed = _MALFORMED.match(msg)
        super().warning(malformed[0] if malformed else msg, *args, **options)


_MALFORMED = re.compile(r"Invalid request from ip=[^ ]*: [\w ]+")


def _shown(path: str) -> str:
    """Give the beginning of an address, which holds no secret."""
    decoded = unquote(path)
    found = _HOOK.search(decoded) or _BEGINNING.match(decoded)
    assert found is not None, "the last pattern fits anything"
    return printable(found[0], _MOST) + (f"/{_SECRET}" if decoded[found.end() :].strip("/") else "")
