"""Store and rework beside a simple model of what they promise, driven through anything in any order.

The model knows of each delivery where it stands and what became of it, and of each lane who is before whom.
Workers claim, settle, crash and settle too late; the operator retries, cancels and replays.
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

from gateway.customerio.retry import Attempt, Decision, Delivered, Failed, Postponed, Retry
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.replay import Rework
from gateway.receive.record import take
from gateway.store import Claimed, ClaimRequest, Outcome, Store
from gateway.store.database import Database
from gateway.store.tables import connections, deliveries, metadata
from tests.store.test_record_and_claim import call, event

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
    """Give the mapping that makes a track of each of these."""
    return parse(MAPPING.format(calls=calls), "shop.yaml")[0]


YESTERDAY, TODAY = mapping("calls[?old]"), mapping("calls[?new]")

PEOPLE = ("ann", "bob", "cem")
LANES = (101, 102, 103)
DECISIONS: list[Decision] = [
    Delivered(),
    Failed(reason="HTTP 400"),
    Retry(after=0.0, reason="HTTP 503"),
    Postponed(reason="HTTP 429"),
]


@dataclass
class Modelled:
    """A delivery as the model knows it; *turn* is its place among all."""

    lanes: frozenset[int]
    turn: int
    event: int | None = None
    name: str = ""
    state: str = "waiting"
    lease: int | None = None


@dataclass
class Model:
    deliveries: dict[int, Modelled] = field(default_factory=dict)
    turns: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def is_first(self, id_: int) -> bool:
        own = self.deliveries[id_]
        return not any(
            other.state == "waiting" and other.turn < own.turn and other.lanes & own.lanes
            for other in self.deliveries.values()
        )

    def status(self, id_: int) -> str:
        own = self.deliveries[id_]
        if own.state != "waiting":
            return own.state
        return "pending" if self.is_first(id_) else "parked"

    def claimable(self) -> set[int]:
        return {id_ for id_, each in self.deliveries.items() if self.status(id_) == "pending" and each.lease is None}

    def in_state(self, *states: str) -> list[int]:
        return sorted(id_ for id_, each in self.deliveries.items() if each.state in states)

    def go_last(self, id_: int) -> None:
        own = self.deliveries[id_]
        own.state, own.lease, own.turn = "waiting", None, next(self.turns)


class Gateway(RuleBasedStateMachine):
    """One database, its users, and the model."""

    database: Database
    store: Store
    rework: Rework

    def __init__(self) -> None:
        super().__init__()
        with self.database.transaction() as connection:
            for table in metadata.sorted_tables:
                if table is not connections:  # a store remembers which of them it has met
                    connection.execute(table.delete())
        self.model = Model()
        self.keys = itertools.count(1)
        self.leases = itertools.count(1)
        self.held: list[Claimed] = []
        self.replayable: dict[int, list[dict[str, Any]]] = {}

    # The receiver

    @rule(wanted=st.lists(st.sets(st.sampled_from(LANES), max_size=2), min_size=1, max_size=4))
    def record(self, wanted: list[set[int]]) -> None:
        """Calls of one lane, of two (a merge), or of none."""
        key = str(next(self.keys))
        made = [call(f"{key}-{number}", *sorted(lanes)) for number, lanes in enumerate(wanted)]
        first, again = self.store.record([event(key, *made), event(key, call("never", 101))])
        assert (first.duplicate, again.duplicate) == (False, True)
        for id_, lanes in zip(self._ids_of(first.id), wanted, strict=True):
            self.model.deliveries[id_] = Modelled(lanes=frozenset(lanes), turn=next(self.model.turns))

    @rule(lane=st.sampled_from(LANES))
    def record_what_is_known(self, lane: int) -> None:
        """A call that another event has asked for already (they share an `event_id`) is not made twice."""
        key = str(next(self.keys))
        first, again = self.store.record(
            [
                event(key, call(f"{key}-0", lane)),
                event(f"{key}'", call(f"{key}-0", lane), call(f"{key}-1", lane)),
            ]
        )
        for id_ in (*self._ids_of(first.id), *self._ids_of(again.id)):
            self.model.deliveries[id_] = Modelled(lanes=frozenset({lane}), turn=next(self.model.turns))

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
        calls = [{**each, "name": f"{key}-{number}"} for number, each in enumerate(calls)]
        body = json.dumps({"key": key, "type": "x", "calls": calls}).encode()
        webhook = Webhook(method="POST", url="", headers={"content-type": "application/json"}, query={}, body=body)
        (recorded,) = self.store.record([take(YESTERDAY, webhook, 1_767_225_600.0)])
        self.replayable[recorded.id] = calls
        self._meet(recorded.id)

    def _meet(self, event_id: int) -> None:
        """Let the model know of deliveries that an event has been given."""
        with self.database.engine.connect() as connection:
            found = select(deliveries).where(deliveries.c.event_id == event_id).order_by(deliveries.c.id)
            for row in connection.execute(found):
                if row.id not in self.model.deliveries:
                    self.model.deliveries[row.id] = Modelled(
                        lanes=frozenset({row.lane}),
                        turn=next(self.model.turns),
                        event=event_id,
                        name=json.loads(row.call)["name"],
                    )

    # The workers

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        token = next(self.leases)
        claimed = self.store.settle_and_claim([], ClaimRequest(limit=limit, lease=token, lease_seconds=1_000)).claimed
        possible = self.model.claimable()
        assert {each.id for each in claimed} <= possible
        assert len(claimed) == min(limit, len(possible))
        for each in claimed:
            self.model.deliveries[each.id].lease = token
        self.held += claimed

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """What a worker sends in counts if the delivery is leased to it, also too late, and else not at all."""
        held = data.draw(st.sampled_from(self.held))
        decision = data.draw(st.sampled_from(DECISIONS))
        if data.draw(st.booleans()):
            self.held.remove(held)
        outcome = Outcome(delivery=held, attempt=Attempt(status=200), decision=decision)
        self.store.settle_and_claim([outcome], ClaimRequest(limit=0, lease=next(self.leases), lease_seconds=1_000))
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
        """All workers die, and so much time passes that their leases end; what they were sending may still come."""
        with self.database.transaction() as connection:
            connection.execute(update(deliveries).where(deliveries.c.status == "pending").values(due_at=0.0))
        taken = self.store.settle_and_claim(
            [], ClaimRequest(limit=1_000, lease=next(self.leases), lease_seconds=1_000)
        ).claimed
        assert {each.id for each in taken} == {
            id_ for id_ in self.model.in_state("waiting") if self.model.status(id_) == "pending"
        }
        for each in taken:
            self.model.deliveries[each.id].lease = each.lease
        self.store.release(taken)
        for each in taken:
            self.model.deliveries[each.id].lease = None

    # The operator

    @precondition(lambda self: self.model.deliveries)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.deliveries)), min_size=1, max_size=4, unique=True))
        done = self.rework.retry(ids)
        failed = [id_ for id_ in ids if self.model.deliveries[id_].state == "failed"]
        assert (done.ids, set(done.refused)) == (failed, set(ids) - set(failed))
        for id_ in failed:
            self.model.go_last(id_)

    @precondition(lambda self: self.model.deliveries)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.model.deliveries)))
        done = self.rework.cancel([id_])
        own = self.model.deliveries[id_]
        possible = own.state == "failed" or (own.state == "waiting" and own.lease is None)
        assert done.ids == ([id_] if possible else [])
        if possible:
            own.state = "cancelled"

    @precondition(lambda self: self.replayable)
    @rule(data=st.data(), today=st.booleans(), again=st.booleans())
    def replay(self, data: st.DataObject, today: bool, again: bool) -> None:
        """What arrived stays unless it is to go out again; what is not wanted any more is not sent."""
        event_id = data.draw(st.sampled_from(sorted(self.replayable)))
        mapping_, which = (TODAY, "new") if today else (YESTERDAY, "old")
        wanted = [each["name"] for each in self.replayable[event_id] if each[which]]
        plan = self.rework.plan(event_id, mapping_, again=again)
        done = self.rework.replay(event_id, mapping_, again=again)
        assert done == plan
        own = {id_: each for id_, each in self.model.deliveries.items() if each.event == event_id}
        for each in own.values():
            if each.name not in wanted and each.lease is None and each.state in ("waiting", "failed"):
                each.state = "cancelled"
        for name in wanted:
            its = [id_ for id_, each in own.items() if each.name == name]
            states = {self.model.deliveries[id_].state for id_ in its}
            if "waiting" in states or ("delivered" in states and not again):
                continue
            left = [id_ for id_ in its if self.model.deliveries[id_].state in ("failed", "cancelled")]
            if left and "delivered" not in states:
                self.model.go_last(left[-1])
            else:
                self._meet_one(event_id, name)
        with self.database.engine.connect() as connection:
            number = connection.scalars(select(deliveries.c.id).where(deliveries.c.event_id == event_id)).all()
        assert set(number) == {id_ for id_, each in self.model.deliveries.items() if each.event == event_id}

    def _meet_one(self, event_id: int, name: str) -> None:
        with self.database.engine.connect() as connection:
            found = select(deliveries).where(deliveries.c.event_id == event_id).order_by(deliveries.c.id)
            for row in connection.execute(found):
                if row.id not in self.model.deliveries and json.loads(row.call)["name"] == name:
                    self.model.deliveries[row.id] = Modelled(
                        lanes=frozenset({row.lane}), turn=next(self.model.turns), event=event_id, name=name
                    )

    # What always holds

    @invariant()
    def every_delivery_is_what_the_model_says(self) -> None:
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(deliveries.c.id, deliveries.c.status)).all()
        assert {row.id: row.status for row in rows} == {id_: self.model.status(id_) for id_ in self.model.deliveries}

    def _ids_of(self, event_id: int) -> list[int]:
        with self.database.engine.connect() as connection:
            found = select(deliveries.c.id).where(deliveries.c.event_id == event_id).order_by(deliveries.c.id)
            return list(connection.scalars(found))


def test_whatever_happens_the_store_keeps_what_the_model_promises(database: Database, store: Store) -> None:
    its = {"database": database, "store": store, "rework": Rework(database)}
    run_state_machine_as_test(
        type("OnThisDatabase", (Gateway,), its),
        settings=settings(
            # Each is many transactions: 20 of them, or 200 in the thorough profile.
            max_examples=settings().max_examples // 5,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
