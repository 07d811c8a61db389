"""Retry, cancel and replay on both databases; the order of the lanes survives all of it."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Column, ColumnElement, Connection, insert, select

from gateway.customerio.retry import Attempt, Delivered, Failed, Retry
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.queries import DeliveryFilter, EventSummary, Queries
from gateway.operate.replay import Replay, Replayed
from gateway.operate.requeue import BY_THE_OPERATOR, Requeue, in_portions
from gateway.receive.record import build_event
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.tables import PLACE, deliveries, events
from tests.support.databases import opened_again
from tests.support.rows import Hand, call, event, names, open_notices, statuses


@pytest.fixture
def requeue(database: Database) -> Requeue:
    return Requeue(database)


@pytest.fixture
def replay(database: Database) -> Replay:
    return Replay(database)


def fail(store: Store, *calls: str, reason: str = "HTTP 400") -> None:
    """Fail these deliveries, which have to be due one after the other; release the others that are claimed."""
    hand = Hand(store)
    for name in calls:
        claimed = hand.claim()
        (failing,) = [delivery for delivery in claimed if delivery.call == name]
        store.release([delivery for delivery in claimed if delivery is not failing])
        hand.settle(failing, Failed(reason=reason), Attempt(status=400, reason=reason, at=1.0))


def fail_next(store: Store) -> None:
    """Fail the delivery that is due first."""
    hand = Hand(store)
    hand.settle(hand.claim()[0], Failed(reason="no"))


def deliver_all(store: Store) -> list[str]:
    """Deliver all that can be delivered; return their calls in order."""
    hand, calls = Hand(store), []
    while claimed := hand.claim():
        calls += names(claimed)
        for delivery in claimed:
            hand.settle(delivery, Delivered())
    return calls


def broken_lanes(connection: Connection) -> list[str]:
    """Return the violations of the invariant: exactly the deliveries that are first in all their lanes are pending."""
    columns = (deliveries.c.call, deliveries.c.status, deliveries.c.lane, deliveries.c.other_lane)
    waiting = select(*columns).where(deliveries.c.status.in_(("parked", "pending"))).order_by(PLACE)
    broken: list[str] = []
    occupied: set[int] = set()
    for row in connection.execute(waiting):
        lanes = {lane for lane in (row.lane, row.other_lane) if lane is not None}
        if (row.status == "pending") != occupied.isdisjoint(lanes):
            broken.append(f"{row.call} is {row.status}")
        occupied |= lanes
    return broken


def assert_lanes_are_whole(database: Database) -> None:
    with database.engine.connect() as connection:
        assert broken_lanes(connection) == []


def failing_sources(database: Database) -> list[str]:
    """Return the sources with an open notice of failed deliveries."""
    return [source for _, source in open_notices(database)]


# Retrying


def test_a_retried_delivery_is_sent_as_if_it_were_new(store: Store, requeue: Requeue, database: Database) -> None:
    store.record([event("a", call("1a", 1))])
    fail(store, "1a")
    assert requeue.retry([1]).ids == [1]
    with database.engine.connect() as connection:
        row = connection.execute(select(deliveries)).one()
    assert (row.status, row.tries, row.first_failed_at, row.settled_at) == ("pending", 0, None, None)
    assert (row.reason, row.lease, row.paused_before) == (None, None, None)
    assert deliver_all(store) == ["1a"]


def test_retried_deliveries_go_to_the_end_of_their_lane_in_their_order(
    store: Store, requeue: Requeue, database: Database
) -> None:
    store.record(
        [event("a", *(call(f"1{letter}", 1) for letter in "abcd"), call("2a", 2), call("2b", 2), call("free"))]
    )
    fail(store, "1a", "1b", "2a", "2b", "free")
    assert requeue.retry([1, 2, 5, 6, 7]).ids == [1, 2, 5, 6, 7]
    in_lane = {"1a": "parked", "1b": "parked", "1c": "pending", "1d": "parked"}
    # In a lane that is free the first one is the head.
    assert statuses(database) == in_lane | {"2a": "pending", "2b": "parked", "free": "pending"}
    store.record([event("b", call("1e", 1))])
    assert [name for name in deliver_all(store) if name.startswith("1")] == ["1c", "1d", "1a", "1b", "1e"]


def test_a_delivery_that_fails_twice_keeps_the_place_of_its_retry(
    store: Store, requeue: Requeue, database: Database
) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1))])
    fail(store, "1a")
    requeue.retry([1])
    fail(store, "1b", "1a")
    assert Queries(database).delivery_ids(DeliveryFilter(statuses=("failed",))) == [2, 1]


def test_a_retried_merge_waits_in_both_its_lanes(store: Store, requeue: Requeue, database: Database) -> None:
    store.record([event("a", call("merge", 1, 2))])
    fail(store, "merge")
    store.record([event("b", call("2a", 2))])
    requeue.retry([1])
    store.record([event("c", call("1a", 1))])
    assert statuses(database) == {"merge": "parked", "2a": "pending", "1a": "parked"}
    assert deliver_all(store) == ["2a", "merge", "1a"]


def test_only_failed_deliveries_are_retried_and_others_are_refused_with_the_reason(
    store: Store, requeue: Requeue
) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1), call("2a", 2), call("3a", 3))])
    hand = Hand(store)
    hand.settle(hand.claim(limit=1)[0], Delivered())
    requeue.cancel([3])
    result = requeue.retry([1, 2, 3, 99])
    assert result.ids == []
    assert result.refused == {
        1: "delivery 1 is delivered; only failed ones are retried"
        " (to send it once more: gateway events replay 1 --again)",
        2: "delivery 2 is pending; only failed ones are retried",
        3: "delivery 3 is cancelled; only failed ones are retried (gateway events replay 1 sends it, or says why not)",
        99: "there is no delivery 99",
    }
    assert requeue.refusals([1, 2, 3, 99]) == result.refused


def test_a_notice_ends_with_the_last_failed_delivery_of_its_source(
    store: Store, requeue: Requeue, database: Database
) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2)), event("b", call("3a", 3), source="other")])
    fail(store, "1a", "2a", "3a")
    assert failing_sources(database) == ["other", "shop"]
    requeue.retry([1])
    assert failing_sources(database) == ["other", "shop"]
    requeue.cancel([2])
    assert failing_sources(database) == ["other"]


# Cancelling


def test_a_delivery_behind_a_cancelled_one_is_promoted(store: Store, requeue: Requeue, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("merge", 1, 2), call("1b", 1), call("2a", 2))])
    assert requeue.cancel([1, 2]).ids == [1, 2]
    assert statuses(database) == {"1a": "cancelled", "merge": "cancelled", "1b": "pending", "2a": "pending"}
    with database.engine.connect() as connection:
        row = connection.execute(select(deliveries).where(deliveries.c.id == 1)).one()
    assert (row.reason, row.settled_at is not None) == (BY_THE_OPERATOR, True)
    assert deliver_all(store) == ["1b", "2a"]


def test_a_delivery_that_is_being_sent_is_not_cancelled_before_its_lease_ends(store: Store, requeue: Requeue) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2))])
    (held,) = Hand(store, lease=1).claim(limit=1)
    assert requeue.cancel([1, 2]).refused == {1: "delivery 1 is being sent now"}
    store.release([held])
    (lost,) = Hand(store, lease=1).claim(seconds=-1)
    assert requeue.cancel([1]).ids == [1]
    Hand(store, lease=1).settle(lost, Delivered())
    assert requeue.cancel([1]).refused == {1: "delivery 1 is cancelled already"}


# Replaying

MAPPING = """\
version: 1
source: shop
verify: {scheme: bearer, secret_env: SHOP_TOKEN}
event_type: =type
event_key: =id
events:
  paid:
    - {call: track, id: =user, name: Paid, attributes: {total: =total}}
    - {call: identify, id: =user, attributes: {paying: true}}
"""


def mapped(before: str = "", after: str = "") -> MappingFile:
    """Return the mapping, with one text replaced by another."""
    return parse(MAPPING.replace(before, after) if before else MAPPING, "shop.yaml")[0]


def without_identify() -> MappingFile:
    return mapped("    - {call: identify, id: =user, attributes: {paying: true}}\n")


def broken() -> MappingFile:
    return mapped("name: Paid", "name: =missing")


def summary(database: Database) -> EventSummary:
    """Return the summary of event 1."""
    entry = Queries(database).event(1)
    assert entry is not None
    return entry.summary


def receive(store: Store, mapping: MappingFile, id_: int = 1, user: str = "42") -> int:
    body = f'{{"id": {id_}, "type": "paid", "user": "{user}", "total": 9}}'.encode()
    webhook = Webhook(method="POST", url="", headers={"content-type": "application/json"}, query={}, body=body)
    return store.record([build_event(mapping, webhook, time.time())])[0].id


def kinds(database: Database) -> list[str]:
    """Name the deliveries in the order of their places."""
    with database.engine.connect() as connection:
        rows = connection.execute(select(deliveries.c.call, deliveries.c.status).order_by(PLACE))
        return [f"{row.call.split(chr(34))[3]} {row.status}" for row in rows]


def replay_with_preview(
    replay: Replay, mapping: MappingFile, expected: Replayed, database: Database, **options: bool
) -> None:
    """Replay event 1, and require the same of its preview, which changes nothing."""
    before = kinds(database)
    assert replay.preview(1, mapping, **options) == expected
    assert kinds(database) == before
    assert replay.replay(1, mapping, **options) == expected


def test_a_replay_with_the_same_mapping_changes_nothing(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    deliver_all(store)
    before = kinds(database)
    replay_with_preview(replay, mapped(), Replayed(status="accepted", delivered=2), database)
    assert kinds(database) == before


def test_a_replay_of_a_failed_event_records_its_calls(store: Store, replay: Replay, database: Database) -> None:
    receive(store, broken())
    assert kinds(database) == []
    replay_with_preview(replay, mapped(), Replayed(status="accepted", new=2), database)
    event_ = summary(database)
    assert (event_.status, event_.problem, event_.event_type) == ("accepted", None, "paid")
    assert len(deliver_all(store)) == 2


def test_new_calls_of_a_replay_wait_behind_others_of_their_lane(
    store: Store, replay: Replay, database: Database
) -> None:
    receive(store, without_identify(), 1)
    deliver_all(store)
    receive(store, without_identify(), 2)
    replay.replay(1, mapped())
    assert kinds(database) == ["track delivered", "track pending", "identify parked"]
    assert_lanes_are_whole(database)


def test_a_replay_cancels_calls_that_the_mapping_no_longer_makes_and_retries_the_others(
    store: Store, replay: Replay, database: Database
) -> None:
    receive(store, mapped())
    fail_next(store)
    replay_with_preview(replay, without_identify(), Replayed(status="accepted", retried=1, cancelled=1), database)
    assert kinds(database) == ["identify cancelled", "track pending"]
    assert failing_sources(database) == []
    assert replay.replay(1, mapped()) == Replayed(status="accepted", retried=1, waiting=1)
    assert kinds(database) == ["track pending", "identify parked"]


def test_a_replay_does_not_cancel_a_call_that_is_being_sent(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    Hand(store).claim()
    nothing = mapped("paid:", "other:")
    replayed = replay.replay(1, nothing)
    assert replayed is not None
    assert (replayed.status, replayed.waiting, replayed.cancelled) == ("ignored", 1, 1)
    assert kinds(database) == ["track pending", "identify cancelled"]


def test_again_sends_delivered_calls_under_another_identity(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    deliver_all(store)
    replay_with_preview(replay, mapped(), Replayed(status="accepted", again=2), database, again=True)
    with database.engine.connect() as connection:
        tracks = list(connection.scalars(select(deliveries.c.call).where(deliveries.c.call.contains("track"))))
    assert len(set(tracks)) == 2  # their ULIDs differ, or Customer.io would drop the second
    assert replay.replay(1, mapped(), again=True) == Replayed(status="accepted", waiting=2)
    assert replay.replay(1, mapped()) == Replayed(status="accepted", waiting=2)
    assert len(deliver_all(store)) == 2
    assert replay.replay(1, mapped()) == Replayed(status="accepted", delivered=2)


def test_again_sends_no_call_twice_that_has_not_arrived(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    fail_next(store)
    assert replay.replay(1, mapped(), again=True) == Replayed(status="accepted", retried=1, waiting=1)
    assert len(deliver_all(store)) == 2


def test_a_replay_does_not_send_a_call_that_another_event_has_recorded(
    store: Store, replay: Replay, database: Database
) -> None:
    same = mapped("name: Paid,", "name: Paid, event_id: =user,")
    receive(store, same, 1)
    receive(store, without_identify(), 2)
    deliver_all(store)
    replayed = replay.replay(2, same)
    assert replayed is not None
    assert (replayed.new, replayed.delivered) == (1, 2)


def test_a_replay_with_a_broken_mapping_keeps_the_deliveries(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    before = kinds(database)
    for action in (replay.preview, replay.replay):
        replayed = action(1, broken())
        assert replayed is not None
        assert replayed.status == "failed"
        assert "shop.yaml:8:" in str(replayed.problem)
    assert summary(database).status == "accepted"
    assert kinds(database) == before
    assert replay.replay(2, broken()) is None


def test_a_replay_of_a_failed_event_updates_its_problem(store: Store, replay: Replay, database: Database) -> None:
    receive(store, broken())
    replay.replay(1, mapped("total: =total", "total: =unix('x')"))
    assert "total" in str(summary(database).problem)


# Many deliveries, any order, and races


@pytest.mark.parametrize("number", [3_000, pytest.param(20_000, marks=pytest.mark.faults)])
def test_thousands_are_retried_in_portions_while_webhooks_are_recorded(
    store: Store, requeue: Requeue, database: Database, number: int
) -> None:
    same = {"event_id": 1, "connection": "default", "region": "", "call": "x", "status": "failed", "due_at": 0.0}
    rows = [
        {**same, "identity": hashlib.sha256(b"%d" % index).digest(), "lane": index % 700, "reason": "no"}
        for index in range(number)
    ]
    with database.transaction() as connection:
        connection.execute(insert(deliveries), rows)
    seconds: list[float] = []
    over = threading.Event()
    recorder = threading.Thread(target=record_until, args=(over, database, seconds))
    recorder.start()
    ids = Queries(database).delivery_ids(DeliveryFilter(statuses=("failed",)))
    portions = [len(portion.ids) for portion in in_portions(requeue.retry, ids)]
    over.set()
    recorder.join(30)
    assert (sum(portions), max(portions)) == (number, 500)
    assert len(seconds) > len(portions)
    assert max(seconds) < 1.5
    assert_lanes_are_whole(database)


def record_until(over: threading.Event, database: Database, seconds: list[float]) -> None:
    """Record webhooks as another process would, and note how long each took."""
    with opened_again(database) as own:
        store, number = Store(own), 0
        while not over.is_set():
            began = time.monotonic()
            store.record([event(f"while {number}", call(f"while {number}", number % 700))])
            seconds.append(time.monotonic() - began)
            number += 1


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(2, 10))])
def test_the_lanes_are_whole_after_random_acts(store: Store, database: Database, seed: int) -> None:
    """Random records, outcomes, retries, cancellations and replays, on four lanes with merges across them."""
    act = RandomActs(store, database, random.Random(seed))
    for number in range(60):
        act(number)
        assert_lanes_are_whole(database)
    # A clock that was set back meanwhile makes what is due now due a little later.
    ends = time.monotonic() + 10
    while {"parked", "pending"} & set(statuses(database).values()) and time.monotonic() < ends:
        deliver_all(store)
        time.sleep(0.05)
    assert not {"parked", "pending"} & set(statuses(database).values())


class RandomActs:
    """One random act on deliveries at a time."""

    def __init__(self, store: Store, database: Database, chance: random.Random) -> None:
        self._store, self._database, self._chance = store, database, chance
        self._requeue, self._replay, self._hand = Requeue(database), Replay(database), Hand(store)
        self._mappings = (mapped(), without_identify())

    def __call__(self, number: int) -> None:
        chance = self._chance
        match chance.choice(("record", "receive", "work", "work", "retry", "cancel", "replay")):
            case "record":
                lanes = (chance.sample(range(4), chance.choice((0, 1, 1, 2))) for _ in range(3))
                calls = (call(f"{number}-{index}", *own) for index, own in enumerate(lanes))
                self._store.record([event(f"r{number}", *calls)])
            case "receive":
                receive(self._store, self._mappings[0], number, user=str(number % 2))
            case "work":
                for claimed in self._hand.claim(limit=4):
                    decisions = (Delivered(), Failed(reason="x"), Retry(after=0.0, reason="x"))
                    self._hand.settle(claimed, chance.choice(decisions))
            case "retry":
                self._requeue.retry(self._some(deliveries.c.id, deliveries.c.status == "failed", 3))
            case "cancel":
                status = chance.choice(("parked", "pending", "failed"))
                self._requeue.cancel(self._some(deliveries.c.id, deliveries.c.status == status, 3))
            case "replay":
                for id_ in self._some(events.c.id, events.c.body != b"{}", 1):
                    self._replay.replay(id_, chance.choice(self._mappings), again=chance.random() < 0.3)

    def _some(self, column: Column[int], condition: ColumnElement[bool], count: int) -> list[int]:
        """Return up to so many random ids."""
        with self._database.engine.connect() as connection:
            ids = list(connection.scalars(select(column).where(condition)))
        return self._chance.sample(ids, min(len(ids), count))


def test_retries_race_with_recording_and_settling(database: Database) -> None:
    """All have connections of their own, on six lanes: no lane is broken, and everything is delivered in the end."""
    race = Race(database)
    with ThreadPoolExecutor() as pool:
        acting = [pool.submit(act) for act in (race.record, race.retry, race.retry)]
        acting += [pool.submit(race.work, lease) for lease in (1, 2)]
        with database.engine.connect() as connection:
            while not race.over.wait(0.01):  # the others race for the interpreter too
                assert broken_lanes(connection) == []
                connection.rollback()
        for future in acting:
            future.result(60)
    assert set(statuses(database).values()) == {"delivered"}


class Race:
    """A recorder, workers that fail much, and operators that retry it."""

    def __init__(self, database: Database) -> None:
        self.recorded = threading.Event()
        self.over = threading.Event()
        self._database = database

    def record(self) -> None:
        with self._own() as own:
            store = Store(own)
            for number in range(30):
                calls = [call(f"{number}-{lane}", lane) for lane in range(6)]
                merge = call(f"{number}-merge", number % 6, (number + 1) % 6)
                store.record([event(f"{number}", *calls, merge)])
                time.sleep(0.03)  # until some of it has failed: the workers are slower
        self.recorded.set()

    def work(self, lease: int) -> None:
        chance = random.Random(lease)
        with self._own() as own:
            hand = Hand(Store(own), lease=lease)
            while not self.over.is_set():
                for claimed in hand.claim(limit=4):
                    hand.settle(claimed, Failed(reason="x") if chance.random() < 0.3 else Delivered())

    def retry(self) -> None:
        with self._own() as own:
            store, queries, requeue = Store(own), Queries(own), Requeue(own)
            while not self.over.is_set():
                requeue.retry(queries.delivery_ids(DeliveryFilter(statuses=("failed",))))
                all_delivered = store.counts()["deliveries"].keys() == {"delivered"}
                if self.recorded.is_set() and all_delivered:
                    self.over.set()

    @contextmanager
    def _own(self) -> Iterator[Database]:
        """Open the database once more; an error of one thread ends the others too."""
        with opened_again(self._database) as own:
            try:
                yield own
            except BaseException:
                self.recorded.set()
                self.over.set()
                raise
