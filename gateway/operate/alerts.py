"""Tell the operator of notices: a line in the log, and a message to GATEWAY_ALERT_URL in a form that Slack takes."""

from __future__ import annotations

import logging
import threading

import requests

from gateway.customerio.deadline import NETWORK_ERRORS, DeadlineError, DeadlineSession
from gateway.store.database import Database
from gateway.store.notices import Notice, Notices

log = logging.getLogger(__name__)

#: Seconds that posting one alert may take in all.
DEADLINE = 5.0
#: Seconds until an alert that was not taken is posted again: as long again as it has waited, within these.
SHORTEST_DELAY, LONGEST_DELAY = 60.0, 3_600.0
#: Seconds after which an alert that nobody takes is given up.
GIVEN_UP_AFTER = 86_400.0


class Alerts:
    """Tells the notices of one database.

    Args:
        url: Where to post them; None leaves it at the log.
    """

    def __init__(self, database: Database, url: str | None, *, deadline: float = DEADLINE) -> None:
        self._notices = Notices(database)
        self._url = url
        self._deadline = deadline
        self._late = f"no whole answer within {deadline:g} s"
        self._session = DeadlineSession()

    def tell(self, stopping: threading.Event) -> None:
        """Tell what is to be told by now. What is left when we stop is told by whoever comes next.

        Raises:
            StoreError: The database cannot be used.
        """
        for notice in self._notices.claim():
            if notice.is_first and notice.kind != "paused":  # of pauses the worker has written to the log
                _write_line(notice)
            if not stopping.is_set():
                self._tell(notice)

    def close(self) -> None:
        """Close what is open; nothing can be told afterwards."""
        self._session.close()

    def _tell(self, notice: Notice) -> None:
        problem = self._post(f"customerio-gateway: {message(notice)}") if self._url is not None else None
        if problem is None:
            self._notices.mark_sent(notice)
        elif notice.waiting >= GIVEN_UP_AFTER:
            log.error("the alert about notice %d is given up: %s (GATEWAY_ALERT_URL)", notice.id, problem)
            self._notices.mark_sent(notice)
        else:
            delay = min(max(notice.waiting, SHORTEST_DELAY), LONGEST_DELAY)
            self._notices.postpone(notice, delay)
            log.warning("an alert was not taken: %s (GATEWAY_ALERT_URL); posting it again in %.0f s", problem, delay)

    def _post(self, text: str) -> str | None:
        """Post a message, and tell what went wrong; the address is a secret, and stays out of that."""
        assert self._url is not None
        try:
            with self._session.deadline(self._deadline):
                answer = self._session.post(
                    self._url,
                    json={"text": escaped(text)},
                    timeout=self._deadline,
                    allow_redirects=False,
                    stream=True,  # what the answer says beyond its status is not read
                )
                answer.close()
        except (DeadlineError, requests.Timeout):
            return self._late
        except NETWORK_ERRORS as error:
            return f"the connection failed ({type(error).__name__})"
        return None if 200 <= answer.status_code < 300 else f"HTTP {answer.status_code}"


def message(notice: Notice) -> str:
    """Say what a notice is about, in words that may leave the house: never those of Customer.io about a call."""
    about = notice.text
    if notice.kind == "failed":
        about = (
            f"deliveries of source {notice.subject} fail;"
            f" see: gateway deliveries list --status failed --source {notice.subject}"
        )
    return f"over after {_duration(notice.seconds)}: {about}" if notice.over else about


def escaped(text: str) -> str:
    """Escape what Slack takes for links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _write_line(notice: Notice) -> None:
    log.log(logging.WARNING if notice.over else logging.ERROR, "%s", message(notice))


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
