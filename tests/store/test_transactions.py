"""The store on both databases: what is recorded, who may send what when, and in which order."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from gateway.customerio.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.errors import StoreError
from gateway.event import NewDelivery
from gateway.store import Claimed, Recorded, Store
from gateway.store.chosen_ulids import ulid_locks
from gateway.store.database import Database, connect
from gateway.store.tables import attempts, deletions, deliveries, events
from tests.support.databases import opened_again
from tests.support.rows import Hand, call, event, names, statuses

DOWN = Attempt(status=503, reason="HTTP 503", at=1.0, seconds=0.1)

# Recording


def test_an_event_is_stored_as_it_was_received(store: Store, database: Database) -> None:
    store.record([event("a", body=b"\x00\xff", headers=b'{"x": "y"}', status="failed", problem="shop.yaml:3:1: …")])
    with database.engine.connect() as connection:
        row = connection.execute(select(events)).one()
    assert (row.source, row.body, row.headers) == ("shop", b"\x00\xff", b'{"x": "y"}')
    assert (row.status, row.problem, row.event_type) == ("failed", "shop.yaml:3:1: …", "x")


def test_a_repeated_event_key_returns_the_first_event_and_records_nothing(store: Store) -> None:
    """Within one group, in a later one, and only for the same source."""
    first, again, other = store.record([event("a", call("one", 1)), event("a", call("two", 1)), event("b")])
    later, other_source = store.record([event("a", call("three", 1)), event("a", source="other")])
    assert [recorded.duplicate for recorded in (first, other, other_source)] == [False] * 3
    assert again == later == Recorded(id=first.id, duplicate=True)
    assert len({first.id, other.id, other_source.id}) == 3
    assert store.counts()["deliveries"] == {"pending": 1}


def test_a_group_may_hold_more_deliveries_than_a_statement_holds_values(store: Store) -> None:
    """PostgreSQL takes 65,535 values in a statement, and each lane is used three times."""
    store.record([event(f"{n}", *(call(f"{n}-{lane}", n * 1000 + lane) for lane in range(1000))) for n in range(24)])
    assert store.counts()["deliveries"] == {"pending": 24_000}


def test_a_delivery_with_a_known_identity_is_not_recorded_again(store: Store, database: Database) -> None:
    store.record([event("a", call("one", 1))])
    store.record([event("b", call("one", 1), call("two", 1)), event("c", call("two", 1))])
    assert statuses(database) == {"one": "pending", "two": "parked"}


# Claiming and settling


def test_only_the_head_of_a_lane_can_be_claimed_and_calls_without_a_lane_always(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2), call("1b", 1)), event("b", call("1c", 1))])
    store.record([event("c", call("x"), call("y"))])
    assert names(Hand(store).claim()) == ["1a", "2a", "x", "y"]


@pytest.mark.parametrize("decision", [Delivered(), Failed(reason="no")])
def test_settling_the_head_promotes_and_claims_the_next(store: Store, decision: Decision) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1), call("1c", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    assert names(hand.settle(head, decision, limit=10)) == ["1b"]


def test_a_retry_keeps_its_place_until_it_is_due(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    assert hand.settle(head, Retry(after=30.0, reason="HTTP 503"), DOWN, limit=10) == []
    due_in = hand.turn().due_in
    assert due_in is not None
    assert 29 < due_in <= 30


def test_a_retry_is_claimed_with_its_history_and_each_attempt_is_stored(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    (again,) = hand.settle(head, Retry(after=0.0, reason="HTTP 503"), DOWN, limit=10)
    assert (again.call, again.tries) == ("1a", 1)
    assert 0 <= again.failing_for < 5
    hand.settle(again, Delivered())
    with database.engine.connect() as connection:
        rows = connection.execute(select(attempts.c.status, attempts.c.reason).order_by(attempts.c.id)).all()
        row = connection.execute(select(deliveries)).one()
    assert [tuple(row) for row in rows] == [(503, "HTTP 503"), (200, None)]
    assert (row.status, row.tries, row.reason, row.lease) == ("delivered", 2, None, None)
    assert row.settled_at is not None


def test_nobody_else_can_claim_a_delivery_until_its_lease_ends(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1))])
    Hand(store, lease=1).claim(seconds=600.0)
    for passed, claimable in ((300.0, []), (301.0, ["1a"])):
        with database.transaction() as connection:
            connection.execute(update(deliveries).values(due_at=deliveries.c.due_at - passed))
        assert names(Hand(store, lease=2).claim()) == claimable


def test_a_worker_that_has_lost_its_lease_cannot_settle(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1))])
    (lost,) = Hand(store, lease=1).claim(seconds=-1)
    (held,) = Hand(store, lease=2).claim()
    Hand(store, lease=1).settle(lost, Failed(reason="too late"))
    assert statuses(database) == {"1a": "pending", "1b": "parked"}
    Hand(store, lease=2).settle(held, Delivered())
    Hand(store, lease=2).settle(held, Failed(reason="twice"))
    assert statuses(database) == {"1a": "delivered", "1b": "pending"}


def test_a_released_delivery_can_be_claimed_at_once_unless_its_lease_was_lost(store: Store) -> None:
    store.record([event("a", call("1a", 1))])
    store.release(Hand(store, lease=1).claim())
    lost = Hand(store, lease=2).claim(seconds=-1)
    assert names(lost) == ["1a"]
    Hand(store, lease=3).claim()
    store.release(lost)
    assert Hand(store, lease=4).claim() == []


def test_a_claim_takes_the_oldest_first_and_not_more_than_its_limit(store: Store) -> None:
    store.record([event("a", *(call(f"c{number}", number) for number in range(5)))])
    assert names(Hand(store).claim(limit=2)) == ["c0", "c1"]
    assert names(Hand(store).claim(limit=2)) == ["c2", "c3"]


def test_a_call_in_two_lanes_waits_until_it_is_first_in_both(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2), call("merge", 1, 2), call("1b", 1), call("2b", 2))])
    hand = Hand(store)
    one, two = hand.claim()
    assert hand.settle(one, Delivered(), limit=10) == []
    (merge,) = hand.settle(two, Delivered(), limit=10)
    assert (merge.call, merge.lanes) == ("merge", (1, 2))
    assert names(hand.settle(merge, Delivered(), limit=10)) == ["1b", "2b"]
    assert "parked" not in statuses(database).values()


def test_a_call_in_two_lanes_holds_back_both_even_where_it_is_alone(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("merge", 1, 2))])
    store.record([event("b", call("2a", 2))])
    hand = Hand(store)
    (one,) = hand.claim()
    assert one.call == "1a"
    (merge,) = hand.settle(one, Delivered(), limit=10)
    assert merge.call == "merge"
    assert names(hand.settle(merge, Delivered(), limit=10)) == ["2a"]


def test_nothing_is_due_in_an_empty_store(store: Store) -> None:
    assert Hand(store).turn().due_in is None


# A database that is away


def test_a_server_that_is_away_is_an_error_of_the_database() -> None:
    store = Store(connect("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    for use in (store.counts, store.wake):
        with pytest.raises(StoreError, match="the database cannot be used: "):
            use()


# Several processes


def test_a_delivery_waits_behind_another_that_is_being_recorded_in_its_lane(database: Database) -> None:
    first = {"event_id": 1, "identity": b"1", "connection": "default", "lane": 1, "call": "first"}
    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            database.lock_lanes(connection, [1])
            connection.execute(insert(deliveries), first | {"status": "pending", "due_at": 0.0})
            recording = record_elsewhere(pool, database)
        recording.result(10)
    assert statuses(database) == {"first": "pending", "second": "parked"}


def test_a_delivery_is_not_parked_behind_one_that_is_being_settled(store: Store, database: Database) -> None:
    store.record([event("a", call("first", 1))])
    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            database.lock_lanes(connection, [1])
            connection.execute(update(deliveries).values(status="delivered"))
            recording = record_elsewhere(pool, database)
        recording.result(10)
    assert statuses(database) == {"first": "delivered", "second": "pending"}


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ({"lane": 1}, call("second", 1, happened_at=1000), "cancelled"),
        ({"lane": 2, "chosen_ulid": "U"}, call("second", 1, chosen_ulid="U"), "failed"),
    ],
)
def test_a_call_is_not_sent_for_what_another_process_is_recording(
    database: Database, first: dict[str, Any], second: NewDelivery, status: str
) -> None:
    """A deletion of its person, which the lane's lock protects; an event with its ULID, which the index does."""
    row = {"event_id": 1, "identity": b"1", "connection": "default", "call": "first", **first}
    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            database.lock_lanes(connection, [row["lane"]])
            connection.execute(insert(deliveries), row | {"status": "pending", "due_at": 0.0})
            connection.execute(insert(deletions), {"lane": 1, "delivery_id": 1, "deleted_at": 1000.0})
            recording = record_elsewhere(pool, database, second)
        recording.result(10)
    assert statuses(database) == {"first": "pending", "second": status}


def test_processes_that_record_the_same_ulids_in_another_order_do_not_wait_for_each_other(database: Database) -> None:
    row = {"event_id": 1, "connection": "default", "status": "pending", "due_at": 0.0}
    with ThreadPoolExecutor() as pool:
        with database.transaction(ulid_locks(["U"])) as connection:
            connection.execute(insert(deliveries), row | {"identity": b"1", "call": "first", "chosen_ulid": "U"})
            taken = (call("V of another", 1, chosen_ulid="V"), call("U of another", 2, chosen_ulid="U"))
            recording = record_elsewhere(pool, database, *taken)
            connection.execute(insert(deliveries), row | {"identity": b"2", "call": "second", "chosen_ulid": "V"})
        recording.result(10)
    assert statuses(database) == {
        "first": "pending",
        "second": "pending",
        "V of another": "failed",
        "U of another": "failed",
    }


SECOND = call("second", 1)


def record_elsewhere(pool: ThreadPoolExecutor, database: Database, *new_deliveries: NewDelivery) -> Future[None]:
    """Begin to record deliveries as another process would; return once it waits, or is done."""

    def record() -> None:
        with opened_again(database) as again:
            Store(again).record([event("b", *(new_deliveries or [SECOND]))])

    recording = pool.submit(record)
    wait([recording], timeout=0.5)
    return recording


def test_racing_recorders_and_workers_keep_the_order_of_every_lane(database: Database) -> None:
    """Two recorders and three workers use few lanes: no two calls of one lane are sent at a time, and none is lost."""
    race = Race(database)
    recorders = [threading.Thread(target=race.record, args=(number,)) for number in range(2)]
    workers = [threading.Thread(target=race.work, args=(number,)) for number in range(1, 4)]
    for thread in recorders + workers:
        thread.start()
    for thread in recorders:
        thread.join(60)
    race.recorded.set()
    for thread in workers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in recorders + workers)
    assert race.overtaking == []
    assert set(statuses(database).values()) == {"delivered"}
    for lane, recorder in itertools.product(range(race.LANES), "01"):
        numbers = [int(name.split("-")[1]) for name in race.sent[lane] if name.startswith(recorder)]
        assert numbers == list(range(race.EVENTS))


class Race:
    """Recorders and workers on one database, each with connections of its own, and what they have sent."""

    LANES = 6
    EVENTS = 40

    def __init__(self, database: Database) -> None:
        self.sent: dict[int, list[str]] = {lane: [] for lane in range(self.LANES)}
        self.overtaking: list[str] = []  # calls that were sent while another of their lane was
        self.recorded = threading.Event()
        self._database = database
        self._busy: set[int] = set()
        self._guard = threading.Lock()

    def record(self, recorder: int) -> None:
        with opened_again(self._database) as again:
            store = Store(again)
            for number in range(self.EVENTS):
                calls = (call(f"{recorder}-{number}-{lane}", lane) for lane in range(self.LANES))
                store.record([event(f"{recorder}-{number}", *calls)])

    def work(self, lease: int) -> None:
        with opened_again(self._database) as again:
            store = Store(again)
            hand = Hand(store, lease=lease)
            while not (self.recorded.is_set() and store.counts()["deliveries"].keys() == {"delivered"}):
                held = hand.claim(limit=4)
                for claimed in held:
                    self._begin(claimed)
                for claimed in held:
                    with self._guard:
                        self._busy.discard(claimed.lanes[0])
                    hand.settle(claimed, Delivered())

    def _begin(self, claimed: Claimed) -> None:
        (lane,) = claimed.lanes
        with self._guard:
            if lane in self._busy:
                self.overtaking.append(claimed.call)
            self._busy.add(lane)
            self.sent[lane].append(claimed.call)
