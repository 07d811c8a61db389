"""Which deliveries are claimed first: live ones, equally between sources, then bulk, then what has failed before."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import insert, select, update

from gateway.customerio.retry import Attempt, Delivered, Retry
from gateway.store import Claimed, ClaimRequest, Outcome, Store
from gateway.store.connection_state import Target
from gateway.store.database import Database
from gateway.store.tables import BULK, RETRIED, connections, deliveries
from tests.support.rows import Hand, call, event, names

DOWN = Attempt(status=500, reason="HTTP 500", at=1.0, seconds=0.1)
RETRY = Retry(after=0.0, reason="HTTP 500")


def record(store: Store, queue: str, number: int, *, first_lane: int = 0) -> None:
    lanes = range(first_lane, first_lane + number)
    store.record([event(f"{queue} {first_lane}", *(call(f"{queue}-{lane}", lane, queue=queue) for lane in lanes))])


def claim(store: Store, limit: int, **changes: Any) -> list[Claimed]:
    return store.settle_and_claim([], ClaimRequest(limit=limit, lease=1, lease_seconds=60.0, **changes)).claimed


def numbers(claimed: list[Claimed]) -> dict[str, int]:
    return dict(Counter(delivery.queue for delivery in claimed))


def fail(store: Store, queue: str, number: int, *, first_lane: int, after: float = 0.0) -> None:
    """Record deliveries that fail at once, each by itself."""
    record(store, queue, number, first_lane=first_lane)
    retry = Retry(after=after, reason="HTTP 500", suspect=False)
    failures = [Outcome(delivery=delivery, attempt=DOWN, decision=retry) for delivery in claim(store, number)]
    Hand(store).turn(*failures, limit=0)


def test_sources_share_what_can_be_sent_and_the_rest_of_a_share_is_for_the_others(store: Store) -> None:
    record(store, "noisy", 500)
    record(store, "quiet", 3, first_lane=1_000)
    record(store, "busy", 200, first_lane=2_000)
    assert numbers(claim(store, 101)) == {"busy": 34, "quiet": 3, "noisy": 64}, "it is behind"
    assert numbers(claim(store, 1_000)) == {"busy": 166, "noisy": 436}


def test_bulk_goes_behind_what_is_live_with_a_tenth_of_what_can_be_sent(store: Store) -> None:
    record(store, BULK, 500)
    assert numbers(claim(store, 20)) == {BULK: 20}, "it may have all where nothing else waits"
    record(store, "shop", 100, first_lane=1_000)
    assert numbers(claim(store, 60)) == {"shop": 54, BULK: 6}
    assert numbers(claim(store, 60)) == {"shop": 46, BULK: 14}


def test_a_lane_keeps_the_order_of_receipt_between_bulk_and_live_and_between_sources(store: Store) -> None:
    calls = (call("old", 1, queue=BULK), call("live", 1, queue="shop"), call("other", 1, queue="crm"))
    store.record([event("a", *calls)])
    hand, sent = Hand(store), []
    claimed = hand.claim()
    while claimed:
        sent += names(claimed)
        claimed = hand.settle(claimed[0], Delivered(), limit=10)
    assert sent == ["old", "live", "other"]


def test_what_failed_by_itself_leaves_most_of_the_room_to_what_did_not(store: Store) -> None:
    fail(store, "shop", 40, first_lane=0)
    record(store, "shop", 100, first_lane=1_000)
    assert numbers(claim(store, 40, most_retried=4)) == {"shop": 36, RETRIED: 4}
    assert numbers(claim(store, 40)) == {"shop": 30, RETRIED: 10}
    assert numbers(claim(store, 40, most_retried=0)) == {"shop": 34}
    assert numbers(claim(store, 40, doubted=[Target("default", "")])) == {}, "it waits for the probe"
    assert numbers(claim(store, 40)) == {RETRIED: 26}


def test_what_failed_in_a_batch_is_not_known_to_fail(store: Store) -> None:
    record(store, "shop", 2)
    in_batch = Retry(after=0.0, reason="HTTP 500", alone=False)
    outcomes = [Outcome(delivery=delivery, attempt=DOWN, decision=in_batch) for delivery in claim(store, 2)]
    again = Hand(store).turn(*outcomes).claimed
    assert [(delivery.queue, delivery.tries) for delivery in again] == [("shop", 1)] * 2
    outcomes = [Outcome(delivery=delivery, attempt=DOWN, decision=RETRY) for delivery in again]
    assert numbers(Hand(store).turn(*outcomes).claimed) == {RETRIED: 2}


def test_the_newest_that_have_not_failed_are_on_trial(store: Store, database: Database) -> None:
    fail(store, "shop", 40, first_lane=1_000)
    record(store, "shop", 30)
    record(store, "shop", 5, first_lane=100)
    with database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.queue == "shop").values(due_at=deliveries.c.id))
        connection.execute(update(connections).values(suspects="[1, 2, 3, 4, 5]"))
    on_trial = claim(store, 100, most_retried=4)
    assert numbers(on_trial) == {"shop": 5, RETRIED: 4}
    assert [delivery.lanes for delivery in on_trial if not delivery.is_retried] == [(lane,) for lane in range(100, 105)]
    assert numbers(claim(store, 100, most_retried=0, busy=[Target("default", "")])) == {}


def test_a_success_after_failures_brings_their_retries_forward(store: Store, database: Database) -> None:
    fail(store, "shop", 60, first_lane=0, after=300.0)
    record(store, "shop", 1, first_lane=200)
    suspect = Retry(after=300.0, reason="HTTP 500")
    hand = Hand(store)
    hand.settle(claim(store, 1)[0], suspect, DOWN)
    fail(store, "shop", 1, first_lane=500, after=400.0)
    with database.transaction() as connection:  # one has failed for an hour, and one is being sent
        connection.execute(update(deliveries).where(deliveries.c.lane == 500).values(first_failed_at=1.0))
        connection.execute(update(deliveries).where(deliveries.c.lane == 0).values(lease=7))
    record(store, "shop", 1, first_lane=100)
    (good,) = claim(store, 1)
    hand.settle(good, Delivered())
    due_in = due_in_of(database)
    assert due_in.pop(500) > 300
    assert due_in.pop(0) > 200
    assert all(-2 < seconds <= 5 for seconds in due_in.values())
    assert max(due_in.values()) - min(due_in.values()) > 3, "they are spread"
    with database.engine.connect() as connection:
        assert set(connection.scalars(select(deliveries.c.tries).where(deliveries.c.status == "pending"))) == {1}


def due_in_of(database: Database) -> dict[int, float]:
    query = select(deliveries.c.lane, (deliveries.c.due_at - database.now).label("due_in"))
    with database.engine.connect() as connection:
        return {row.lane: row.due_in for row in connection.execute(query.where(deliveries.c.status == "pending"))}


def test_a_success_without_failures_brings_nothing_forward(store: Store, database: Database) -> None:
    fail(store, "shop", 3, first_lane=0, after=300.0)
    record(store, "shop", 1, first_lane=100)
    (good,) = claim(store, 1)
    Hand(store).settle(good, Delivered())
    assert min(due_in_of(database).values()) > 200


def test_deliveries_of_the_version_before_are_a_queue_of_their_own(store: Store, database: Database) -> None:
    record(store, "shop", 1)
    row = {"event_id": 1, "identity": b"x", "connection": "default", "region": "", "lane": 9, "call": "old"}
    with database.transaction() as connection:
        connection.execute(insert(deliveries), row | {"status": "pending", "due_at": 0.0})
    assert set(names(claim(store, 10))) == {"shop-0", "old"}
