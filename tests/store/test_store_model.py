"""The store compared with a simple model of it, through random sequences of everything that can happen.

The model knows the state of each delivery, the order of each lane, and when its person was deleted. Workers claim,
settle, crash and settle too late; the operator retries, cancels and replays.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from gateway.customerio.retry import Decision, Delivered, Failed, Postponed, Retry
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.replay import Replay
from gateway.operate.requeue import Requeue
from gateway.receive.record import build_event
from gateway.store import Claimed, Store
from gateway.store.database import Database
from gateway.store.lanes import AFTERMATH
from gateway.store.tables import connections, deliveries, metadata
from tests.support.rows import Hand, call, event

MAPPING = """\
version: 1
source: shop
verify: none
event_key: =key
events:
  "*":
    - call: track
      each: ={calls}
      id: =person
      name: =name
event_type: =type
"""


def mapping(calls: str) -> MappingFile:
    """Return a mapping that makes a track call of each of these."""
    return parse(MAPPING.format(calls=calls), "shop.yaml")[0]


YESTERDAY, TODAY = mapping("calls[?old]"), mapping("calls[?new]")

PEOPLE = ("ann", "bob", "cem")
LANES = (101, 102, 103)
MOMENTS = tuple(1_767_225_600 + minutes * AFTERMATH for minutes in range(4))
DECISIONS: list[Decision] = [
    Delivered(),
    Failed(reason="HTTP 400"),
    Retry(after=0.0, reason="HTTP 503"),
    Postponed(reason="HTTP 429"),
]


@dataclass
class Modelled:
    """A delivery in the model; *place* is its place among all deliveries."""

    lanes: frozenset[int]
    place: int
    event: int | None = None
    name: str = ""
    state: str = "waiting"
    lease: int | None = None
    happened_at: int | None = None
    deleted_at: int | None = None


@dataclass
class Model:
    deliveries: dict[int, Modelled] = field(default_factory=dict)
    places: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def is_first(self, id_: int) -> bool:
        own = self.deliveries[id_]
        return not any(
            other.state == "waiting" and other.place < own.place and other.lanes & own.lanes
            for other in self.deliveries.values()
        )

    def status(self, id_: int) -> str:
        own = self.deliveries[id_]
        if own.state != "waiting":
            return own.state
        return "pending" if self.is_first(id_) else "parked"

    def claimable(self) -> set[int]:
        return {id_ for id_ in self.pending() if self.deliveries[id_].lease is None}

    def pending(self) -> set[int]:
        return {id_ for id_ in self.deliveries if self.status(id_) == "pending"}

    def of_event(self, event_id: int) -> dict[int, Modelled]:
        return {id_: delivery for id_, delivery in self.deliveries.items() if delivery.event == event_id}

    def would_undo_a_deletion(self, own: Modelled) -> bool:
        """Whether a deletion that has not failed concerns the person, and is not older by a minute."""
        return own.happened_at is not None and any(
            other.deleted_at is not None
            and other.lanes & own.lanes
            and other.state in ("waiting", "delivered")
            and own.happened_at <= other.deleted_at + AFTERMATH
            for other in self.deliveries.values()
        )

    def go_last(self, id_: int) -> None:
        own = self.deliveries[id_]
        own.state, own.lease, own.place = "waiting", None, next(self.places)


class Gateway(RuleBasedStateMachine):
    """One database, its users, and the model."""

    database: Database
    store: Store
    requeue: Requeue
    replayer: Replay

    def __init__(self) -> None:
        super().__init__()
        with self.database.transaction() as connection:
            for table in metadata.sorted_tables:
                if table is not connections:  # a store remembers which connections have rows
                    connection.execute(table.delete())
        self.model = Model()
        self.keys = itertools.count(1)
        self.leases = itertools.count(1)
        self.held: list[Claimed] = []
        self.replayable: dict[int, list[dict[str, Any]]] = {}

    # The receiver

    @rule(lanes=st.lists(st.sets(st.sampled_from(LANES), max_size=2), min_size=1, max_size=4))
    def record(self, lanes: list[set[int]]) -> None:
        """Calls of one lane, of two (a merge), or of none; and a repeat of the webhook."""
        key = str(next(self.keys))
        calls = [call(f"{key}-{number}", *sorted(own)) for number, own in enumerate(lanes)]
        first, again = self.store.record([event(key, *calls), event(key, call("never", 101))])
        assert (first.duplicate, again.duplicate) == (False, True)
        self.add_new_deliveries(first.id)
        assert [delivery.lanes for delivery in self.model.of_event(first.id).values()] == lanes

    @rule(
        lanes=st.sets(st.sampled_from(LANES), min_size=1, max_size=2),
        deletes=st.booleans(),
        moment=st.sampled_from(MOMENTS),
    )
    def record_a_dated_call(self, lanes: set[int], deletes: bool, moment: int) -> None:
        """A deletion, or a call that makes the person; it is cancelled if they were deleted later."""
        key = f"dated {next(self.keys)}"
        own = Modelled(lanes=frozenset(lanes if deletes else [*lanes][:1]), place=0)
        own.happened_at, own.deleted_at = (None, moment) if deletes else (moment, None)
        text = json.dumps({"call": "identify", "id": key, "timestamp": moment})
        new = call(key, *sorted(own.lanes), text=text, happened_at=own.happened_at, deleted_at=own.deleted_at)
        undoes = self.model.would_undo_a_deletion(own)
        (recorded,) = self.store.record([event(key, new)])
        assert bool(recorded.unsent) == undoes
        self.add_new_deliveries(recorded.id)
        (added,) = self.model.of_event(recorded.id).values()
        added.happened_at, added.deleted_at = own.happened_at, own.deleted_at
        added.state = "cancelled" if undoes else "waiting"

    @rule(lane=st.sampled_from(LANES))
    def record_a_known_call(self, lane: int) -> None:
        """A call that another event has made already (they share an `event_id`) is not made twice."""
        key = str(next(self.keys))
        known, new = call(f"{key}-0", lane), call(f"{key}-1", lane)
        first, second = self.store.record([event(key, known), event(f"{key}'", known, new)])
        assert [self.add_new_deliveries(recorded.id) for recorded in (first, second)] == [1, 1]
        assert all(delivery.lanes == {lane} for delivery in self.model.of_event(second.id).values())

    @rule(
        calls=st.lists(
            st.fixed_dictionaries({"person": st.sampled_from(PEOPLE), "old": st.booleans(), "new": st.booleans()}),
            min_size=1,
            max_size=4,
        )
    )
    def receive(self, calls: list[dict[str, Any]]) -> None:
        """A webhook whose mapping will be another tomorrow."""
        key = f"w{next(self.keys)}"
        calls = [{**values, "name": f"{key}-{number}"} for number, values in enumerate(calls)]
        body = json.dumps({"key": key, "type": "x", "calls": calls}).encode()
        webhook = Webhook(method="POST", url="", headers={"content-type": "application/json"}, query={}, body=body)
        (recorded,) = self.store.record([build_event(YESTERDAY, webhook, 1_767_225_600.0)])
        self.replayable[recorded.id] = calls
        self.add_new_deliveries(recorded.id)

    def add_new_deliveries(self, event_id: int, name: str | None = None) -> int:
        """Add to the model the deliveries of an event, or those of one name, that it does not know; count them."""
        added = 0
        with self.database.engine.connect() as connection:
            query = select(deliveries).where(deliveries.c.event_id == event_id).order_by(deliveries.c.id)
            for row in connection.execute(query):
                own_name = json.loads(row.call)["name"] if event_id in self.replayable else ""
                if row.id not in self.model.deliveries and name in (None, own_name):
                    added += 1
                    self.model.deliveries[row.id] = Modelled(
                        lanes=frozenset({row.lane, row.other_lane} - {None}),
                        place=next(self.model.places),
                        event=event_id,
                        name=own_name,
                    )
        return added

    # The workers

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        claimed = self.claim_as_a_new_worker(limit)
        claimable = self.model.claimable()
        assert {delivery.id for delivery in claimed} <= claimable
        assert len(claimed) == min(limit, len(claimable))
        for delivery in claimed:
            self.model.deliveries[delivery.id].lease = delivery.lease
        self.held += claimed

    def claim_as_a_new_worker(self, limit: int) -> list[Claimed]:
        return Hand(self.store, lease=next(self.leases)).claim(limit, seconds=1_000)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """An outcome counts if the delivery is leased to its worker, also after the lease has ended, and else not."""
        held = data.draw(st.sampled_from(self.held))
        decision = data.draw(st.sampled_from(DECISIONS))
        if data.draw(st.booleans()):
            self.held.remove(held)
        Hand(self.store, lease=next(self.leases)).settle(held, decision)
        own = self.model.deliveries[held.id]
        if own.lease != held.lease:
            return
        own.lease = None
        if isinstance(decision, Delivered | Failed):
            own.state = "delivered" if isinstance(decision, Delivered) else "failed"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.store.release([held])
        own = self.model.deliveries[held.id]
        own.lease = None if own.lease == held.lease else own.lease

    @rule()
    def crash(self) -> None:
        """All workers die, and their leases end; the outcome of what they were sending may still come."""
        with self.database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.status == "pending").values(due_at=0.0))
        claimed = self.claim_as_a_new_worker(1_000)
        assert {delivery.id for delivery in claimed} == self.model.pending()
        self.store.release(claimed)
        for delivery in claimed:
            self.model.deliveries[delivery.id].lease = None

    # The operator

    @precondition(lambda self: self.model.deliveries)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.deliveries)), min_size=1, max_size=4, unique=True))
        planned = self.requeue.refusals(ids)
        done = self.requeue.retry(ids)
        assert planned == done.refused
        retried = []
        for id_ in ids:
            own = self.model.deliveries[id_]
            if own.state == "failed" and not self.model.would_undo_a_deletion(own):
                retried.append(id_)
                self.model.go_last(id_)
        assert (done.ids, set(done.refused)) == (retried, set(ids) - set(retried))

    @precondition(lambda self: self.model.deliveries)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.model.deliveries)))
        done = self.requeue.cancel([id_])
        own = self.model.deliveries[id_]
        possible = own.state == "failed" or (own.state == "waiting" and own.lease is None)
        assert done.ids == ([id_] if possible else [])
        if possible:
            own.state = "cancelled"

    @precondition(lambda self: self.replayable)
    @rule(data=st.data(), today=st.booleans(), again=st.booleans())
    def replay(self, data: st.DataObject, today: bool, again: bool) -> None:
        """What has arrived stays unless it is to be sent again; what is no longer wanted is not sent."""
        event_id = data.draw(st.sampled_from(sorted(self.replayable)))
        mapping_, which = (TODAY, "new") if today else (YESTERDAY, "old")
        wanted = [values["name"] for values in self.replayable[event_id] if values[which]]
        plan = self.replayer.preview(event_id, mapping_, again=again)
        done = self.replayer.replay(event_id, mapping_, again=again)
        assert done == plan
        own = self.model.of_event(event_id)
        for delivery in own.values():
            unsent = delivery.lease is None and delivery.state in ("waiting", "failed")
            if unsent and delivery.name not in wanted:
                delivery.state = "cancelled"
        for name in wanted:
            named = {id_: delivery.state for id_, delivery in own.items() if delivery.name == name}
            states = set(named.values())
            if "waiting" in states or ("delivered" in states and not again):
                continue
            left = [id_ for id_, state in named.items() if state in ("failed", "cancelled")]
            if left and "delivered" not in states:
                self.model.go_last(left[-1])
            else:
                self.add_new_deliveries(event_id, name)
        with self.database.engine.connect() as connection:
            ids = connection.scalars(select(deliveries.c.id).where(deliveries.c.event_id == event_id)).all()
        assert set(ids) == set(self.model.of_event(event_id))

    # What always holds

    @invariant()
    def every_delivery_has_the_status_of_the_model(self) -> None:
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(deliveries.c.id, deliveries.c.status)).all()
        assert {row.id: row.status for row in rows} == {id_: self.model.status(id_) for id_ in self.model.deliveries}


def test_whatever_happens_the_store_agrees_with_the_model(database: Database, store: Store) -> None:
    attributes = {"database": database, "store": store, "requeue": Requeue(database), "replayer": Replay(database)}
    run_state_machine_as_test(
        type("OnThisDatabase", (Gateway,), attributes),
        settings=settings(
            # Each is many transactions: 20 of them, or 200 in the thorough profile.
            max_examples=settings().max_examples // 5,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
