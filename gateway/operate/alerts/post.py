"""Log notices, and post them to GATEWAY_ALERT_URL in the form that Slack takes."""

from __future__ import annotations

import logging
import threading

import requests

from gateway.customerio.deadline import NETWORK_ERRORS, DeadlineError, DeadlineSession
from gateway.store.database import Database
from gateway.store.notices import Notice, Notices

log = logging.getLogger(__name__)

#: Seconds that one post may take in all.
POST_DEADLINE = 5.0
#: Seconds until a failed post is repeated: as long as the notice has waited so far, within these bounds.
SHORTEST_DELAY, LONGEST_DELAY = 60.0, 3_600.0
#: Seconds after which a notice is given up.
GIVE_UP_AFTER = 86_400.0


class AlertPoster:
    """Logs and posts the notices of one database.

    Args:
        url: Where to post; None: notices are only logged.
        deadline: Seconds that one post may take in all.
    """

    def __init__(self, database: Database, url: str | None, *, deadline: float = POST_DEADLINE) -> None:
        self._notices = Notices(database)
        self._url = url
        self._deadline = deadline
        self._session = DeadlineSession()

    def post_due(self, stopping: threading.Event) -> None:
        """Log and post the notices that are due. When *stopping*, leave the rest to the next worker.

        Raises:
            StoreError: The database cannot be used.
        """
        for notice in self._notices.claim():
            if notice.is_first and notice.kind != "paused":  # the worker has logged the pause itself
                log.log(logging.WARNING if notice.over else logging.ERROR, "%s", message(notice))
            if stopping.is_set():
                continue
            problem = self._post(f"customerio-gateway: {message(notice)}") if self._url is not None else None
            if problem is None:
                self._notices.mark_sent(notice)
            elif notice.waiting >= GIVE_UP_AFTER:
                log.error("notice %d is given up: %s (GATEWAY_ALERT_URL)", notice.id, problem)
                self._notices.mark_sent(notice)
            else:
                delay = min(max(notice.waiting, SHORTEST_DELAY), LONGEST_DELAY)
                self._notices.postpone(notice, delay)
                log.warning("posting an alert failed: %s (GATEWAY_ALERT_URL); next try in %.0f s", problem, delay)

    def close(self) -> None:
        """Close the connections; nothing can be posted afterwards."""
        self._session.close()

    def _post(self, text: str) -> str | None:
        """Post a text; return what went wrong, without the URL: it is a secret."""
        assert self._url is not None
        try:
            with self._session.deadline(self._deadline):
                response = self._session.post(
                    self._url,
                    json={"text": escape_for_slack(text)},
                    timeout=self._deadline,
                    allow_redirects=False,
                    stream=True,  # only the status matters
                )
                response.close()
        except (DeadlineError, requests.Timeout):
            return f"no whole answer within {self._deadline:g} s"
        except NETWORK_ERRORS as error:
            return f"the connection failed ({type(error).__name__})"
        return None if 200 <= response.status_code < 300 else f"HTTP {response.status_code}"


def message(notice: Notice) -> str:
    """Return the text of a notice for the log and for other services: never Customer.io's words about a call."""
    text = notice.text
    if notice.kind == "failed":
        text = (
            f"deliveries of source {notice.subject} fail;"
            f" see: gateway deliveries list --status failed --source {notice.subject}"
        )
    return f"over after {_duration(notice.seconds)}: {text}" if notice.over else text


def escape_for_slack(text: str) -> str:
    """Escape what Slack reads as links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
