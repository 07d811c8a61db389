"""Record historic payloads in the same way as received webhooks, without delaying those.

Their calls wait behind those of live webhooks. In a lane the order is that of receipt: a live call waits for the
historic ones to its person that were recorded before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace

from gateway.errors import RequestError, StoreError
from gateway.event import Webhook
from gateway.mapping.model import MappingFile
from gateway.operate.body_files import Body
from gateway.receive.record import build_event
from gateway.store import NewEvent, Recorded, Store
from gateway.store.tables import BULK

#: Events of one transaction: webhooks that are received meanwhile wait for its end.
GROUP = 100
#: Seconds of pause after each second of recording: half of the time belongs to webhooks.
PAUSE = 1.0
#: Problems kept for the summary.
MAX_PROBLEMS = 10


@dataclass(kw_only=True)
class Summary:
    """What became of the bodies so far.

    Attributes:
        statuses: New events by status: accepted, ignored, failed.
        calls: Their calls, by the kind of call.
        unsent: Calls that are recorded but not sent, each for a reason that its delivery has.
        unreadable: Bodies that could not be read, and so are not recorded.
        problems: The first few, each with its place.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    unsent: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every body was read and translated."""
        return not self.unreadable and not self.statuses["failed"]

    def add(self, place: str, event: NewEvent, recorded: Recorded) -> None:
        """Count an event."""
        if recorded.duplicate:
            self.duplicates += 1
            return
        self.unsent += len(recorded.unsent)
        self.statuses[event.status] += 1
        self.calls.update(json.loads(delivery.text)["call"] for delivery in event.deliveries)
        if event.status == "failed":
            self._add_problem(f"{place}: failed: {event.problem}")

    def add_unreadable(self, place: str, problem: str) -> None:
        """Count a body that cannot be read."""
        self.unreadable += 1
        self._add_problem(f"{place}: {problem}")

    def _add_problem(self, problem: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


@dataclass
class Ingest:
    """Records bodies as events of one source.

    Attributes:
        store: None: translate and count only.
        max_body: Bytes.
        uninterrupted: A context in which no interrupt ends the work: what was recorded has to be counted.
    """

    mapping: MappingFile
    store: Store | None
    _: KW_ONLY
    headers: Mapping[str, str]
    query: Mapping[str, str]
    max_body: int
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    uninterrupted: Callable[[], AbstractContextManager[None]] = nullcontext
    summary: Summary = field(default_factory=Summary, init=False)

    def run(self, bodies: Iterable[Body]) -> Iterator[None]:
        """Record bodies group by group; yield after each group.

        Raises:
            StoreError: The database cannot be used for now; the groups before are recorded.
        """
        with closing(_Ordinals()) as ordinals:
            remaining = iter(bodies)
            while group := list(itertools.islice(remaining, GROUP)):
                events: list[tuple[str, NewEvent]] = []
                for body in group:
                    try:
                        events.append((body.where, self._event(body, ordinals)))
                    except RequestError as error:
                        self.summary.add_unreadable(body.where, str(error))
                start = time.monotonic()
                with self.uninterrupted():
                    self._record(events)
                if self.store is not None:
                    self.sleep(PAUSE * (time.monotonic() - start))
                yield

    def _event(self, body: Body, ordinals: _Ordinals) -> NewEvent:
        if body.problem is not None:
            raise RequestError(400, body.problem)
        if len(body.data) > self.max_body:
            raise RequestError(413, f"the body is larger than {self.max_body} bytes (GATEWAY_MAX_BODY)")
        webhook = Webhook(method="POST", url="", headers=self.headers, query=self.query, body=body.data)
        key = None if self.mapping.deduplicate else ordinals.key(body.data)
        event = build_event(self.mapping, webhook, self.clock(), key=key)
        return replace(event, deliveries=tuple(replace(delivery, queue=BULK) for delivery in event.deliveries))

    def _record(self, events: Sequence[tuple[str, NewEvent]]) -> None:
        if self.store is None or not events:
            self._count(events, [Recorded(id=0, duplicate=False)] * len(events))
            return
        try:
            recorded = self.store.record([event for _, event in events])
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # the database refuses one event: its neighbours are recorded singly
            if len(events) > 1:
                for event in events:
                    self._record([event])
            else:
                # The error's text may quote the body: only its class is shown.
                self.summary.add_unreadable(events[0][0], f"the database refused it ({type(error).__name__})")
        else:
            self._count(events, recorded)

    def _count(self, events: Sequence[tuple[str, NewEvent]], recorded: Sequence[Recorded]) -> None:
        for (place, event), outcome in zip(events, recorded, strict=True):
            self.summary.add(place, event, outcome)


class _Ordinals:
    """Numbers equal bodies, so that the third of a kind is the third in the next run too.

    They are counted in a temporary SQLite file, because there can be millions.
    """

    def __init__(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None)  # a temporary file, deleted when it is closed
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY, times INTEGER) WITHOUT ROWID")

    def key(self, body: bytes) -> str:
        digest = hashlib.sha256(body)
        (times,) = self._seen.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times",
            (digest.digest(),),
        ).fetchone()
        return f"{digest.hexdigest()}#{times}"

    def close(self) -> None:
        self._seen.close()
