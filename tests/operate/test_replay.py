"""Retrying, cancelling and replaying on both databases, and that the order of the lanes outlives all of it."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, insert, select

from gateway.customerio.retry import Attempt, Delivered, Failed, Retry
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.queries import DeliveryFilter, Queries
from gateway.operate.replay import Replay, Replayed
from gateway.operate.requeue import BY_THE_OPERATOR, Requeue, in_portions
from gateway.receive.record import build_event
from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.tables import IS_OPEN, PLACE, deliveries, events, notices
from tests.support.rows import Hand, call, event, names, statuses


@pytest.fixture
def requeue(database: Database) -> Requeue:
    return Requeue(database)


@pytest.fixture
def replay(database: Database) -> Replay:
    return Replay(database)


def fail(store: Store, *wanted: str, reason: str = "HTTP 400") -> None:
    """Fail these deliveries, which have to be due one after the other; what else is claimed is given back."""
    hand = Hand(store)
    for name in wanted:
        claimed = hand.claim()
        (one,) = [each for each in claimed if each.call == name]
        store.release([each for each in claimed if each is not one])
        hand.settle(one, Failed(reason=reason), Attempt(status=400, reason=reason, at=1.0))


def deliver_all(store: Store) -> list[str]:
    """Deliver all that can be, in order."""
    hand, sent = Hand(store), []
    while claimed := hand.claim():
        sent += names(claimed)
        for each in claimed:
            hand.settle(each, Delivered())
    return sent


def broken_lanes(connection: Connection) -> list[str]:
    """Name what is against the invariants: pending is exactly what is first in all of its lanes."""
    order = select(deliveries.c.call, deliveries.c.status, deliveries.c.lane, deliveries.c.other_lane).where(
        deliveries.c.status.in_(("parked", "pending"))
    )
    broken: list[str] = []
    occupied: set[int] = set()
    for row in connection.execute(order.order_by(PLACE)):
        lanes = {lane for lane in (row.lane, row.other_lane) if lane is not None}
        if (row.status == "pending") != occupied.isdisjoint(lanes):
            broken.append(f"{row.call} is {row.status}")
        occupied |= lanes
    return broken


def assert_lanes_are_whole(database: Database) -> None:
    with database.engine.connect() as connection:
        assert broken_lanes(connection) == []


def open_notices(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(notices.c.subject).where(IS_OPEN)))


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
    store.record([event("a", *(call(f"1{letter}", 1) for letter in "abcd"))])
    fail(store, "1a", "1b")
    assert requeue.retry([1, 2]).ids == [1, 2]
    assert statuses(database) == {"1a": "parked", "1b": "parked", "1c": "pending", "1d": "parked"}
    store.record([event("b", call("1e", 1))])
    assert deliver_all(store) == ["1c", "1d", "1a", "1b", "1e"]


def test_the_first_that_is_retried_is_the_head_of_a_free_lane(
    store: Store, requeue: Requeue, database: Database
) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1), call("free"))])
    fail(store, "1a", "1b", "free")
    requeue.retry([1, 2, 3])
    assert statuses(database) == {"1a": "pending", "1b": "parked", "free": "pending"}


def test_what_fails_twice_keeps_the_place_of_its_retry(store: Store, requeue: Requeue, database: Database) -> None:
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


def test_only_failed_ones_are_retried_and_the_others_are_told_apart(store: Store, requeue: Requeue) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1), call("2a", 2), call("3a", 3))])
    hand = Hand(store)
    one = hand.claim(limit=1)[0]
    hand.settle(one, Delivered())
    requeue.cancel([3])
    done = requeue.retry([1, 2, 3, 99])
    assert done.ids == []
    assert done.refused == {
        1: "delivery 1 is delivered; only failed ones are retried"
        " (to send it once more: gateway events replay 1 --again)",
        2: "delivery 2 is pending; only failed ones are retried",
        3: "delivery 3 is cancelled; only failed ones are retried (to send it after all: gateway events replay 1)",
        99: "there is no delivery 99",
    }
    assert requeue.refusals([1, 2, 3, 99]) == done.refused


def test_a_notice_ends_with_the_last_failed_delivery_of_its_source(
    store: Store, requeue: Requeue, database: Database
) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2)), event("b", call("3a", 3), source="other")])
    fail(store, "1a", "2a", "3a")
    assert sorted(open_notices(database)) == ["other", "shop"]
    requeue.retry([1])
    assert sorted(open_notices(database)) == ["other", "shop"]
    requeue.cancel([2])
    assert open_notices(database) == ["other"]


# Cancelling


def test_a_delivery_behind_a_cancelled_one_is_promoted(store: Store, requeue: Requeue, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("merge", 1, 2), call("1b", 1), call("2a", 2))])
    assert requeue.cancel([1, 2]).ids == [1, 2]
    assert statuses(database) == {"1a": "cancelled", "merge": "cancelled", "1b": "pending", "2a": "pending"}
    with database.engine.connect() as connection:
        row = connection.execute(select(deliveries).where(deliveries.c.id == 1)).one()
    assert (row.reason, row.settled_at is not None) == (BY_THE_OPERATOR, True)
    assert deliver_all(store) == ["1b", "2a"]


def test_what_is_being_sent_is_not_cancelled_until_its_lease_has_ended(store: Store, requeue: Requeue) -> None:
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


def mapped(text: str = MAPPING) -> MappingFile:
    return parse(text, "shop.yaml")[0]


def without_identify() -> MappingFile:
    return mapped("\n".join(line for line in MAPPING.splitlines() if "identify" not in line))


def receive(store: Store, mapping: MappingFile, id_: int = 1, user: str = "42") -> int:
    body = f'{{"id": {id_}, "type": "paid", "user": "{user}", "total": 9}}'.encode()
    webhook = Webhook(method="POST", url="", headers={"content-type": "application/json"}, query={}, body=body)
    return store.record([build_event(mapping, webhook, time.time())])[0].id


def kinds(database: Database) -> list[str]:
    """Name the deliveries in the order of their places."""
    with database.engine.connect() as connection:
        rows = connection.execute(select(deliveries.c.call, deliveries.c.status).order_by(PLACE))
        return [f"{row.call.split(chr(34))[3]} {row.status}" for row in rows]


def test_a_replay_with_the_same_mapping_changes_nothing(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    deliver_all(store)
    before = kinds(database)
    expected = Replayed(status="accepted", delivered=2)
    assert replay.preview(1, mapped()) == expected
    assert replay.replay(1, mapped()) == expected
    assert kinds(database) == before


def test_a_replay_of_a_failed_event_makes_its_calls(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped(MAPPING.replace("name: Paid", "name: =missing")))
    assert kinds(database) == []
    expected = Replayed(status="accepted", new=2)
    assert replay.preview(1, mapped()) == expected
    assert kinds(database) == []
    assert replay.replay(1, mapped()) == expected
    entry = Queries(database).event(1)
    assert entry is not None
    assert (entry.summary.status, entry.summary.problem, entry.summary.event_type) == ("accepted", None, "paid")
    assert len(deliver_all(store)) == 2


def test_what_a_replay_adds_stands_behind_what_waits(store: Store, replay: Replay, database: Database) -> None:
    receive(store, without_identify(), 1)
    deliver_all(store)
    receive(store, without_identify(), 2)
    replay.replay(1, mapped())
    assert kinds(database) == ["track delivered", "track pending", "identify parked"]
    assert_lanes_are_whole(database)


def test_a_replay_cancels_what_is_not_wanted_any_more_and_retries_what_is(
    store: Store, replay: Replay, database: Database
) -> None:
    receive(store, mapped())
    hand = Hand(store)
    hand.settle(hand.claim()[0], Failed(reason="no"))
    expected = Replayed(status="accepted", retried=1, cancelled=1)
    assert replay.preview(1, without_identify()) == expected
    assert replay.replay(1, without_identify()) == expected
    assert kinds(database) == ["identify cancelled", "track pending"]
    assert open_notices(database) == []
    assert replay.replay(1, mapped()) == Replayed(status="accepted", retried=1, waiting=1)
    assert kinds(database) == ["track pending", "identify parked"]


def test_a_call_that_is_being_sent_is_left_to_arrive(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    Hand(store).claim()
    nothing = mapped(MAPPING.replace("paid:", "other:"))
    replayed = replay.replay(1, nothing)
    assert replayed is not None
    assert (replayed.status, replayed.waiting, replayed.cancelled) == ("ignored", 1, 1)
    assert kinds(database) == ["track pending", "identify cancelled"]


def test_again_sends_what_was_delivered_under_another_identity(
    store: Store, replay: Replay, database: Database
) -> None:
    receive(store, mapped())
    deliver_all(store)
    expected = Replayed(status="accepted", again=2)
    assert replay.preview(1, mapped(), again=True) == expected
    assert replay.replay(1, mapped(), again=True) == expected
    with database.engine.connect() as connection:
        tracks = list(connection.scalars(select(deliveries.c.call).where(deliveries.c.call.contains("track"))))
    assert len(set(tracks)) == 2  # their ULIDs differ, or Customer.io would drop the second
    assert replay.replay(1, mapped(), again=True) == Replayed(status="accepted", waiting=2)
    assert replay.replay(1, mapped()) == Replayed(status="accepted", waiting=2)
    assert len(deliver_all(store)) == 2
    assert replay.replay(1, mapped()) == Replayed(status="accepted", delivered=2)


def test_again_sends_nothing_twice_that_has_not_arrived(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    hand = Hand(store)
    hand.settle(hand.claim()[0], Failed(reason="no"))
    assert replay.replay(1, mapped(), again=True) == Replayed(status="accepted", retried=1, waiting=1)
    assert len(deliver_all(store)) == 2


def test_a_call_that_another_event_has_asked_for_is_not_sent_by_a_replay(
    store: Store, replay: Replay, database: Database
) -> None:
    same = mapped(MAPPING.replace("name: Paid,", "name: Paid, event_id: =user,"))
    receive(store, same, 1)
    receive(store, without_identify(), 2)
    deliver_all(store)
    replayed = replay.replay(2, same)
    assert replayed is not None
    assert (replayed.new, replayed.delivered) == (1, 2)


def test_an_event_that_fails_today_keeps_what_it_has(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped())
    broken = mapped(MAPPING.replace("name: Paid", "name: =missing"))
    before = kinds(database)
    for action in (replay.preview, replay.replay):
        replayed = action(1, broken)
        assert replayed is not None
        assert replayed.status == "failed"
        assert "shop.yaml:8:" in str(replayed.problem)
    record = Queries(database).event(1)
    assert record is not None
    assert record.summary.status == "accepted"
    assert kinds(database) == before
    assert replay.replay(2, broken) is None


def test_a_failed_event_is_told_the_problem_of_today(store: Store, replay: Replay, database: Database) -> None:
    receive(store, mapped(MAPPING.replace("name: Paid", "name: =missing")))
    replay.replay(1, mapped(MAPPING.replace("total: =total", "total: =unix('x')")))
    record = Queries(database).event(1)
    assert record is not None
    assert "total" in str(record.summary.problem)


# Much of it


@pytest.mark.parametrize("number", [3_000, pytest.param(20_000, marks=pytest.mark.faults)])
def test_thousands_are_retried_in_portions_while_webhooks_are_recorded(
    store: Store, requeue: Requeue, database: Database, number: int
) -> None:
    with database.transaction() as connection:
        connection.execute(
            insert(deliveries),
            [
                {
                    "event_id": 1,
                    "identity": hashlib.sha256(b"%d" % each).digest(),
                    "connection": "default",
                    "region": "",
                    "lane": each % 700,
                    "call": "x",
                    "status": "failed",
                    "due_at": 0.0,
                    "reason": "no",
                }
                for each in range(number)
            ],
        )
    recorded: list[float] = []
    over = threading.Event()
    recorder = threading.Thread(target=record_until, args=(over, database, recorded))
    recorder.start()
    ids = Queries(database).delivery_ids(DeliveryFilter(statuses=("failed",)))
    done = [len(each.ids) for each in in_portions(requeue.retry, ids)]
    over.set()
    recorder.join(30)
    assert (sum(done), max(done)) == (number, 500)
    assert len(recorded) > len(done)
    assert max(recorded) < 1.5
    assert_lanes_are_whole(database)


def record_until(over: threading.Event, database: Database, seconds: list[float]) -> None:
    """Record webhooks as another process would, and note how long each took."""
    own = connect(database.engine.url.render_as_string(hide_password=False))
    store, number = Store(own), 0
    while not over.is_set():
        began = time.monotonic()
        store.record([event(f"while {number}", call(f"while {number}", number % 700))])
        seconds.append(time.monotonic() - began)
        number += 1
    own.engine.dispose()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(2, 10))])
def test_the_lanes_are_whole_after_anything_in_any_order(store: Store, database: Database, seed: int) -> None:
    """Random records, outcomes, retries, cancellations and replays, on four lanes with merges across them."""
    acts = Acts(store, database, random.Random(seed))
    for number in range(60):
        acts.one(number)
        assert_lanes_are_whole(database)
    # A clock that was set back meanwhile makes what is due now due a little later.
    ends = time.monotonic() + 10
    while {"parked", "pending"} & set(statuses(database).values()) and time.monotonic() < ends:
        deliver_all(store)
        time.sleep(0.05)
    assert not {"parked", "pending"} & set(statuses(database).values())


class Acts:
    """All that can happen to deliveries, at random."""

    def __init__(self, store: Store, database: Database, chance: random.Random) -> None:
        self._store, self._database, self._chance = store, database, chance
        self._requeue, self._replayer = Requeue(database), Replay(database)
        self._hand = Hand(store)
        self._mappings = (mapped(), without_identify())

    def one(self, number: int) -> None:
        match self._chance.choice(("record", "receive", "work", "work", "retry", "cancel", "replay")):
            case "record":
                self._record(number)
            case "receive":
                receive(self._store, self._mappings[0], number, user=str(number % 2))
            case "work":
                self._work()
            case "retry":
                self._requeue.retry(self._some("failed"))
            case "cancel":
                self._requeue.cancel(self._some(self._chance.choice(("parked", "pending", "failed"))))
            case "replay":
                self._replay()

    def _record(self, number: int) -> None:
        lanes = (self._chance.sample(range(4), self._chance.choice((0, 1, 1, 2))) for _ in range(3))
        made = (call(f"{number}-{each}", *its) for each, its in enumerate(lanes))
        self._store.record([event(f"r{number}", *made)])

    def _work(self) -> None:
        for claimed in self._hand.claim(limit=4):
            decisions = (Delivered(), Failed(reason="x"), Retry(after=0.0, reason="x"))
            self._hand.settle(claimed, self._chance.choice(decisions))

    def _some(self, status: str) -> list[int]:
        with self._database.engine.connect() as connection:
            ids = list(connection.scalars(select(deliveries.c.id).where(deliveries.c.status == status)))
        return self._chance.sample(ids, min(len(ids), 3))

    def _replay(self) -> None:
        with self._database.engine.connect() as connection:
            known = list(connection.scalars(select(events.c.id).where(events.c.body != b"{}")))
        for id_ in self._chance.sample(known, min(len(known), 1)):
            again = self._chance.random() < 0.3
            self._replayer.replay(id_, self._chance.choice(self._mappings), again=again)


def test_retries_race_with_recording_and_settling(database: Database) -> None:
    """Each with connections of its own, on six lanes: no lane is broken, and everything arrives in the end."""
    race = Race(database.engine.url.render_as_string(hide_password=False))
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

    def __init__(self, url: str) -> None:
        self.recorded = threading.Event()
        self.over = threading.Event()
        self._url = url

    def record(self) -> None:
        with self._own() as own:
            store = Store(own)
            for number in range(30):
                made = [call(f"{number}-{lane}", lane) for lane in range(6)]
                merge = call(f"{number}-merge", number % 6, (number + 1) % 6)
                store.record([event(f"{number}", *made, merge)])
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
            store, archive, requeue = Store(own), Queries(own), Requeue(own)
            while not self.over.is_set():
                requeue.retry(archive.delivery_ids(DeliveryFilter(statuses=("failed",))))
                done = store.counts()["deliveries"].keys() == {"delivered"}
                if self.recorded.is_set() and done:
                    self.over.set()

    @contextmanager
    def _own(self) -> Iterator[Database]:
        """Connections of our own; whatever ends badly ends the others too."""
        own = connect(self._url)
        try:
            yield own
        except BaseException:
            self.recorded.set()
            self.over.set()
            raise
        finally:
            own.engine.dispose()
