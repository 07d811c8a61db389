"""The store on both databases: what is recorded, who may send what when, and in which order."""

from __future__ import annotations

import hashlib
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, update

from gateway.config import load
from gateway.customerio.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.errors import StoreError
from gateway.store import Claimed, ClaimRequest, NewDelivery, NewEvent, Outcome, Recorded, Store, Turn
from gateway.store.database import Database, connect
from gateway.store.schema import require_schema
from gateway.store.tables import attempts, deliveries, events, metadata

OK = Attempt(status=200, at=1.0, seconds=0.1)
DOWN = Attempt(status=503, reason="HTTP 503", at=1.0, seconds=0.1)
LEASE = 60.0


def call(name: str, *lanes: int, region: str | None = None) -> NewDelivery:
    """A delivery whose call is just its name."""
    return NewDelivery(
        identity=hashlib.sha256(name.encode()).digest(),
        connection="default",
        region=region,
        lanes=lanes,
        call=name,
    )


def event(key: str, *made: NewDelivery, **changes: Any) -> NewEvent:
    """An event with these deliveries."""
    values: dict[str, Any] = {
        "source": "shop",
        "key": hashlib.sha256(key.encode()).digest(),
        "received_at": 1_767_225_600.0,
        "headers": b"{}",
        "query": b"{}",
        "body": b"{}",
        "event_type": "x",
        "status": "accepted",
        "deliveries": made,
    }
    return NewEvent(**values | changes)


class Hand:
    """A worker's hand on the store: claims and settles with a lease of its own."""

    def __init__(self, store: Store, lease: int = 1) -> None:
        self._store = store
        self._lease = lease

    def claim(self, limit: int = 100, seconds: float = LEASE) -> list[Claimed]:
        return self.turn(limit=limit, seconds=seconds).claimed

    def settle(self, claimed: Claimed, decision: Decision, attempt: Attempt = OK, limit: int = 0) -> list[Claimed]:
        outcome = Outcome(delivery=claimed, attempt=attempt, decision=decision)
        return self.turn(outcome, limit=limit).claimed

    def turn(self, *outcomes: Outcome, limit: int = 100, seconds: float = LEASE) -> Turn:
        return self._store.settle_and_claim(
            outcomes, ClaimRequest(limit=limit, lease=self._lease, lease_seconds=seconds)
        )


def names(claimed: list[Claimed]) -> list[str]:
    return [each.call for each in claimed]


def statuses(database: Database) -> dict[str, str]:
    with database.engine.connect() as connection:
        rows = connection.execute(select(deliveries.c.call, deliveries.c.status).order_by(deliveries.c.id))
        return {row.call: row.status for row in rows}


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # the next test compares those
def test_migrations_give_the_tables_that_the_code_uses(database: Database) -> None:
    assert require_schema(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_indexes_of_the_migrations_are_those_of_the_tables(database: Database) -> None:
    migrated = indexes(database)
    metadata.drop_all(database.engine)
    metadata.create_all(database.engine)
    assert migrated == indexes(database)
    assert "deliveries_parked" in migrated


def indexes(database: Database) -> dict[str, str]:
    """How each index is defined, with its conditions and expressions, in the database's own words."""
    asked = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if database.engine.dialect.name == "postgresql":
        asked = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    with database.engine.connect() as connection:
        found = {row[0]: " ".join(row[1].split()) for row in connection.exec_driver_sql(asked)}
    return {name: definition for name, definition in found.items() if not name.startswith("alembic")}


def test_an_event_is_kept_as_it_came(store: Store, database: Database) -> None:
    store.record([event("a", body=b"\x00\xff", headers=b'{"x": "y"}', status="failed", problem="shop.yaml:3:1: …")])
    with database.engine.connect() as connection:
        row = connection.execute(select(events)).one()
    assert (row.source, row.body, row.headers) == ("shop", b"\x00\xff", b'{"x": "y"}')
    assert (row.status, row.problem, row.event_type) == ("failed", "shop.yaml:3:1: …", "x")


def test_a_repeat_of_an_event_key_names_the_first_and_records_nothing(store: Store) -> None:
    (first,) = store.record([event("a", call("one", 1))])
    (again,) = store.record([event("a", call("two", 1))])
    assert (first.duplicate, again) == (False, Recorded(id=first.id, duplicate=True))
    assert store.counts()["deliveries"] == {"pending": 1}


def test_a_repeat_within_one_group_is_told_apart_too(store: Store) -> None:
    first, again, other = store.record([event("a", call("one", 1)), event("a", call("two", 1)), event("b")])
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert (first.id == again.id, first.id == other.id) == (True, False)
    assert store.counts()["deliveries"] == {"pending": 1}


def test_one_group_may_hold_more_deliveries_than_a_statement_holds_values(store: Store) -> None:
    """PostgreSQL takes 65,535 values in a statement, and each lane is asked for three times."""
    group = [event(f"{n}", *(call(f"{n}-{each}", n * 1000 + each) for each in range(1000))) for n in range(24)]
    store.record(group)
    assert store.counts()["deliveries"] == {"pending": 24_000}


def test_the_same_key_of_two_sources_is_two_events(store: Store) -> None:
    first, second = store.record([event("a"), event("a", source="other")])
    assert not first.duplicate
    assert not second.duplicate


def test_a_delivery_with_a_known_identity_is_not_recorded_again(store: Store, database: Database) -> None:
    store.record([event("a", call("one", 1))])
    store.record([event("b", call("one", 1), call("two", 1)), event("c", call("two", 1))])
    assert statuses(database) == {"one": "pending", "two": "parked"}


def test_only_the_head_of_a_lane_may_be_claimed(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2), call("1b", 1)), event("b", call("1c", 1))])
    assert names(Hand(store).claim()) == ["1a", "2a"]


def test_calls_without_a_lane_wait_for_nothing(store: Store) -> None:
    store.record([event("a", call("x"), call("y"))])
    assert names(Hand(store).claim()) == ["x", "y"]


@pytest.mark.parametrize("decision", [Delivered(), Failed(reason="no")])
def test_settling_the_head_promotes_the_next_and_claims_it_at_once(store: Store, decision: Decision) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1), call("1c", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    assert names(hand.settle(head, decision, limit=10)) == ["1b"]


def test_a_retry_keeps_its_place_and_comes_when_it_is_due(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    assert hand.settle(head, Retry(after=30.0, reason="HTTP 503"), DOWN, limit=10) == []
    due = hand.turn().due_in
    assert due is not None
    assert 29 < due <= 30


def test_a_due_retry_is_claimed_with_its_history(store: Store) -> None:
    store.record([event("a", call("1a", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    (again,) = hand.settle(head, Retry(after=0.0, reason="HTTP 503"), DOWN, limit=10)
    assert (again.call, again.tries) == ("1a", 1)
    assert 0 <= again.failing_for < 5


def test_each_attempt_is_kept(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1))])
    hand = Hand(store)
    (head,) = hand.claim()
    (again,) = hand.settle(head, Retry(after=0.0, reason="HTTP 503"), DOWN, limit=1)
    hand.settle(again, Delivered())
    with database.engine.connect() as connection:
        rows = connection.execute(select(attempts.c.status, attempts.c.reason).order_by(attempts.c.id)).all()
        row = connection.execute(select(deliveries)).one()
    assert [tuple(row) for row in rows] == [(503, "HTTP 503"), (200, None)]
    assert (row.status, row.tries, row.reason, row.lease) == ("delivered", 2, None, None)
    assert row.settled_at is not None


def test_a_lease_keeps_others_away_until_it_ends(store: Store) -> None:
    store.record([event("a", call("1a", 1))])
    Hand(store, lease=1).claim(seconds=0.05)
    other = Hand(store, lease=2)
    assert other.claim() == []
    threading.Event().wait(0.1)
    assert names(other.claim()) == ["1a"]


def test_whoever_lost_the_lease_cannot_settle(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("1b", 1))])
    (lost,) = Hand(store, lease=1).claim(seconds=-1)
    (held,) = Hand(store, lease=2).claim()
    Hand(store, lease=1).settle(lost, Failed(reason="too late"))
    assert statuses(database) == {"1a": "pending", "1b": "parked"}
    Hand(store, lease=2).settle(held, Delivered())
    Hand(store, lease=2).settle(held, Failed(reason="twice"))
    assert statuses(database) == {"1a": "delivered", "1b": "pending"}


def test_a_released_delivery_may_be_claimed_at_once(store: Store) -> None:
    store.record([event("a", call("1a", 1))])
    store.release(Hand(store, lease=1).claim())
    assert names(Hand(store, lease=2).claim()) == ["1a"]


def test_releasing_a_lost_lease_changes_nothing(store: Store) -> None:
    store.record([event("a", call("1a", 1))])
    lost = Hand(store, lease=1).claim(seconds=-1)
    Hand(store, lease=2).claim()
    store.release(lost)
    assert Hand(store, lease=3).claim() == []


def test_a_claim_takes_the_oldest_first_and_no_more_than_asked(store: Store) -> None:
    store.record([event("a", *(call(f"c{number}", number) for number in range(5)))])
    assert names(Hand(store).claim(limit=2)) == ["c0", "c1"]
    assert names(Hand(store).claim(limit=2)) == ["c2", "c3"]


def test_a_call_in_two_lanes_waits_until_it_is_first_in_both(store: Store, database: Database) -> None:
    store.record([event("a", call("1a", 1), call("2a", 2), call("merge", 1, 2), call("1b", 1), call("2b", 2))])
    hand = Hand(store)
    one, two = hand.claim()
    assert hand.settle(one, Delivered(), limit=10) == []
    (merge,) = hand.settle(two, Delivered(), limit=10)
    assert merge.call == "merge"
    assert merge.lanes == (1, 2)
    assert names(hand.settle(merge, Delivered(), limit=10)) == ["1b", "2b"]
    assert "parked" not in statuses(database).values()


def test_a_call_in_two_lanes_holds_back_both_even_where_it_is_alone(store: Store) -> None:
    store.record([event("a", call("1a", 1), call("merge", 1, 2))])
    store.record([event("b", call("2a", 2))])
    hand = Hand(store)
    (one,) = hand.claim()
    assert one.call == "1a"
    (merge,) = hand.settle(one, Delivered(), limit=10)
    assert names([merge]) == ["merge"]
    assert names(hand.settle(merge, Delivered(), limit=10)) == ["2a"]


def test_nothing_is_due_in_an_empty_store(store: Store) -> None:
    assert Hand(store).turn().due_in is None


def test_a_database_that_is_gone_is_an_error_that_says_so(tmp_path: Any) -> None:
    gone = Store(connect("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    with pytest.raises(StoreError, match="the database cannot be used: "):
        gone.counts()


def test_a_delivery_waits_for_another_that_is_being_recorded_in_its_lane(database: Database) -> None:
    """Of two that are recorded at the same time one is the head, and the other waits behind it."""
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


def record_elsewhere(pool: ThreadPoolExecutor, database: Database) -> Future[None]:
    """Begin to record a delivery of lane 1 as another process would; comes back once it has to wait, or is done."""

    def record() -> None:
        own = connect(database.engine.url.render_as_string(hide_password=False))
        Store(own).record([event("b", call("second", 1))])
        own.engine.dispose()

    recording = pool.submit(record)
    wait([recording], timeout=0.5)
    return recording


def test_a_database_without_the_tables_says_what_to_run(database_url: str) -> None:
    empty = connect(load({"DATABASE_URL": database_url}).database_url)
    with pytest.raises(StoreError, match="gateway migrate"):
        Store(empty).record([event("a")])
    empty.engine.dispose()


def test_waking_workers_by_a_server_that_is_away_is_told_as_any_other_error_of_the_database() -> None:
    database = connect("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreError, match="the database cannot be used: "):
        Store(database).wake()


def test_many_writers_and_workers_keep_every_lane_whole(database: Database) -> None:
    """Two recorders and three workers race on few lanes: one head a lane at most, and none is left behind."""
    race = Race(database.engine.url.render_as_string(hide_password=False))
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
    assert race.broken == []
    assert set(statuses(database).values()) == {"delivered"}
    for lane, recorder in itertools.product(range(race.LANES), "01"):
        numbers = [int(each.split("-")[1]) for each in race.sent[lane] if each.startswith(recorder)]
        assert numbers == list(range(race.EVENTS))


class Race:
    """Recorders and workers on one database, each with connections of its own, and what they saw."""

    LANES = 6
    EVENTS = 40

    def __init__(self, url: str) -> None:
        self.sent: dict[int, list[str]] = {lane: [] for lane in range(self.LANES)}
        self.broken: list[str] = []
        self.recorded = threading.Event()
        self._url = url
        self._busy: set[int] = set()
        self._guard = threading.Lock()

    def record(self, recorder: int) -> None:
        own = connect(self._url)
        store = Store(own)
        for number in range(self.EVENTS):
            made = (call(f"{recorder}-{number}-{lane}", lane) for lane in range(self.LANES))
            store.record([event(f"{recorder}-{number}", *made)])
        own.engine.dispose()

    def work(self, lease: int) -> None:
        own = connect(self._url)
        store = Store(own)
        hand = Hand(store, lease=lease)
        while not self._is_done(store):
            held = hand.claim(limit=4)
            for claimed in held:
                self._begin(claimed)
            for claimed in held:
                with self._guard:
                    self._busy.discard(claimed.lanes[0])
                hand.settle(claimed, Delivered())
        own.engine.dispose()

    def _begin(self, claimed: Claimed) -> None:
        """Note a call as sent; two at a time in one lane is what must not happen."""
        (lane,) = claimed.lanes
        with self._guard:
            if lane in self._busy:
                self.broken.append(claimed.call)
            self._busy.add(lane)
            self.sent[lane].append(claimed.call)

    def _is_done(self, store: Store) -> bool:
        return self.recorded.is_set() and store.counts()["deliveries"].keys() == {"delivered"}
