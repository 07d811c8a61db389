"""Record historic payloads by the path of received webhooks, without standing in the way of those."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field

from gateway.errors import RequestError, StoreError
from gateway.event import Webhook
from gateway.mapping.model import MappingFile
from gateway.operate.body_files import Body
from gateway.receive.record import take
from gateway.store import NewEvent, Recorded, Store

#: Events of one transaction: webhooks that are received meanwhile wait for its end.
GROUP = 100
#: Seconds of pause after each second of recording: half of the time belongs to others.
PAUSE = 1.0
#: Problems that are kept to be shown.
MOST_PROBLEMS = 10


@dataclass(kw_only=True)
class Summary:
    """What has come of the bodies so far.

    Attributes:
        statuses: Events that are new, by their status: accepted, ignored, failed.
        calls: What they ask for, by the kind of call.
        unreadable: Bodies that could not be taken, and so are not recorded.
        problems: The first few, each with its place.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether everything was read and translated."""
        return not self.unreadable and not self.statuses["failed"]

    def add(self, where: str, new: NewEvent, *, duplicate: bool) -> None:
        """Count an event."""
        if duplicate:
            self.duplicates += 1
            return
        self.statuses[new.status] += 1
        self.calls.update(json.loads(delivery.call)["call"] for delivery in new.deliveries)
        if new.status == "failed":
            self._note(f"{where}: failed: {new.problem}")

    def refuse(self, where: str, problem: str) -> None:
        """Count a body that cannot be taken."""
        self.unreadable += 1
        self._note(f"{where}: {problem}")

    def _note(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


class Ingest:
    """Records bodies as events of one source.

    Args:
        store: None translates and counts only.
        most: Bytes of a body.
        undisturbed: What is done within is done whole, as far as interrupts go: what was recorded was counted.
    """

    def __init__(
        self,
        rules: MappingFile,
        store: Store | None,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        most: int,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._rules = rules
        self._store = store
        self._headers = headers
        self._query = query
        self._most = most
        self._clock = clock
        self._sleep = sleep
        self._undisturbed = undisturbed
        self.summary = Summary()

    def run(self, bodies: Iterable[Body]) -> Iterator[None]:
        """Record bodies group by group, and come up for air after each.

        Raises:
            StoreError: The database takes no more for now; what went before is recorded.
        """
        with closing(_Ordinals()) as ordinals:
            rest = iter(bodies)
            while group := list(itertools.islice(rest, GROUP)):
                taken = [each for body in group if (each := self._taken(body, ordinals)) is not None]
                began = time.monotonic()
                with self._undisturbed():
                    self._record(taken)
                if self._store is not None:
                    self._sleep(PAUSE * (time.monotonic() - began))
                yield

    def _taken(self, body: Body, ordinals: _Ordinals) -> tuple[str, NewEvent] | None:
        try:
            return body.where, self._event(body, ordinals)
        except RequestError as error:
            self.summary.refuse(body.where, str(error))
            return None

    def _event(self, body: Body, ordinals: _Ordinals) -> NewEvent:
        if body.problem is not None:
            raise RequestError(400, body.problem)
        if len(body.data) > self._most:
            raise RequestError(413, f"the body is larger than {self._most} bytes (GATEWAY_MAX_BODY)")
        webhook = Webhook(method="POST", url="", headers=self._headers, query=self._query, body=body.data)
        key = None if self._rules.deduplicate else ordinals.key(body.data)
        return take(self._rules, webhook, self._clock(), key=key)

    def _record(self, taken: Sequence[tuple[str, NewEvent]]) -> None:
        if self._store is None:
            self._count(taken, [Recorded(id=0, duplicate=False)] * len(taken))
            return
        try:
            recorded = self._store.record([new for _, new in taken]) if taken else []
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # one event that the database refuses, and its neighbours go on
            self._record_singly(taken, error)
        else:
            self._count(taken, recorded)

    def _record_singly(self, taken: Sequence[tuple[str, NewEvent]], error: Exception) -> None:
        if len(taken) > 1:
            for each in taken:
                self._record([each])
            return
        # The error's text may hold what the body holds, so only its kind is told.
        self.summary.refuse(taken[0][0], f"the database refused it ({type(error).__name__})")

    def _count(self, taken: Sequence[tuple[str, NewEvent]], recorded: Sequence[Recorded]) -> None:
        for (where, new), each in zip(taken, recorded, strict=True):
            self.summary.add(where, new, duplicate=each.duplicate)


class _Ordinals:
    """Counts equal bodies, on disk when they are many: the third of its kind is the third in the next run too."""

    def __init__(self) -> None:
        self._seen = sqlite3.connect("", isolation_level=None)  # a temporary file that goes when it is closed
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY, times INTEGER) WITHOUT ROWID")

    def key(self, body: bytes) -> str:
        hashed = hashlib.sha256(body)
        (times,) = self._seen.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times",
            (hashed.digest(),),
        ).fetchone()
        return f"{hashed.hexdigest()}#{times}"

    def close(self) -> None:
        self._seen.close()
