"""A deleted person stays deleted: from the webhook to the stand-in for the Track API."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from gateway.customerio.client import Client
from gateway.customerio.connection import Connection
from gateway.customerio.retry import Attempt, Delivered, Failed
from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.replay import UNDER_ANOTHER_ID, Replay, Replayed
from gateway.operate.requeue import Requeue
from gateway.receive.record import build_event
from gateway.store import NewEvent, Recorded, Store
from gateway.store.database import Database
from gateway.store.tables import deliveries
from tests.deliver.running import column, reasons, running, statuses, wait_for
from tests.support.rows import Hand, fail, open_notices
from tests.support.trackapi import TrackAPI

NOON = 1_767_268_800  # 2026-01-01 12:00:00Z
KEYS = itertools.count()

MAPPING = """\
version: 1
source: shop
verify: none
event_type: =type
event_key: =key
defaults: {id: =id, timestamp: =at}
events:
  deleted: [{call: destroy}]
  deleted with email: [{call: destroy, id: =id, email: =email}]
  deleted with cio_id: [{call: destroy, cio_id: =cio_id, id: =id, email: =email}]
  closed: [{call: destroy}, {call: track, name: Account Closed}]
  ignored: []
  suppressed: [{call: suppress}]
  identify: [{call: identify, attributes: {plan: free}}]
  by email: [{call: identify, id: null, email: =email}]
  track: [{call: track, name: Subscription Ended}]
  page: [{call: page, url: "https://shop.example/"}]
  screen: [{call: screen, name: Home}]
  device: [{call: add_device, token: =type, platform: ios, last_used: =at}]
  device without a time: [{call: add_device, token: =type, platform: ios}]
  form: [{call: submit_form, form_id: f, attributes: {a: b}}]
  relate: [{call: add_relationships, objects: [{object_type_id: "1", object_id: =type}]}]
  unrelate: [{call: delete_relationships, objects: [{object_type_id: "1", object_id: =type}]}]
  delete device: [{call: delete_device, token: =type}]
  unsuppress: [{call: unsuppress}]
  object: [{call: identify_object, object_type_id: "1", object_id: =type, people: [{id: =id}]}]
  merge: [{call: merge, into: {id: =id}, from: {id: =type}}]
"""


def mapped(before: str = "", after: str = "") -> MappingFile:
    return parse(MAPPING.replace(before, after) if before else MAPPING, "shop.yaml")[0]


def event_of(mapping: MappingFile, *, received: int = NOON, **payload: Any) -> NewEvent:
    body = json.dumps({"key": next(KEYS), **payload}).encode()
    webhook = Webhook(method="POST", url="", headers={"content-type": "application/json"}, query={}, body=body)
    return build_event(mapping, webhook, received)


def receive(
    store: Store, type_: str, at: int | None = NOON, *, mapping: MappingFile | None = None, **changes: Any
) -> Recorded:
    """Record a webhook about Ann that says *at* for its own time, received at noon."""
    payload = {"type": type_, "at": at, "id": "ann", "email": "Ann@example.com", **changes}
    return store.record([event_of(mapping or mapped(), **payload)])[0]


def settle_all(store: Store) -> None:
    hand = Hand(store)
    while claimed := hand.claim():
        for delivery in claimed:
            hand.settle(delivery, Delivered())


def test_late_calls_do_not_bring_a_deleted_person_back_and_a_new_sign_up_does(database: Database, store: Store) -> None:
    with (
        TrackAPI() as api,
        Client(Connection(site_id="site", api_key="key", base_url=api.url)) as client,
        running(database, client),
    ):
        receive(store, "identify", NOON - 10)
        receive(store, "deleted", NOON)
        late = [receive(store, "identify", NOON - 5), receive(store, "track", NOON), receive(store, "track", NOON + 1)]
        receive(store, "identify", NOON, id="bob")
        store.wake()
        wait_for(database, *["delivered"] * 3, *["cancelled"] * 3)
        assert [operation.kind for operation in api.applied("ann")] == ["identify", "delete"]
        receive(store, "identify", NOON + 120, received=NOON + 120)
        store.wake()
        wait_for(database, *["delivered"] * 4, *["cancelled"] * 3)
        assert [operation.kind for operation in api.applied("ann")] == ["identify", "delete", "identify"]
    reason = "the person was deleted at 2026-01-01 12:00:00Z; this call is from 2026-01-01 {}Z"
    assert [why_unsent(each) for each in late] == [
        [reason.format(time)] for time in ("11:59:55", "12:00:00", "12:00:01")
    ]
    assert set(reasons(database)) == {None, *(reason for each in late for reason in why_unsent(each))}


#: The webhook that deletes somebody, a later one, and whether its call goes. Times are seconds after noon.
AFTER_A_DELETION: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    # By the call's own time, with a minute of tolerance.
    ({"type": "deleted"}, {"type": "identify", "at": 60}, False),
    ({"type": "deleted"}, {"type": "identify", "at": 61}, True),
    ({"type": "deleted"}, {"type": "identify", "at": -86_400, "received": 86_400}, False),
    # Without one, by its receipt.
    ({"type": "deleted"}, {"type": "identify", "at": None, "received": 60}, False),
    ({"type": "deleted"}, {"type": "identify", "at": None, "received": 61}, True),
    ({"type": "deleted", "at": None}, {"type": "identify", "at": 60}, False),
    ({"type": "deleted", "at": -100}, {"type": "track"}, True),
    # Nobody is deleted after the webhook that says so.
    ({"type": "deleted", "at": 86_400}, {"type": "track", "at": 61}, True),
    # Every call that makes a person, and no other.
    *(({"type": "deleted"}, {"type": type_}, False) for type_ in ("track", "page", "screen", "device", "form")),
    *(({"type": "deleted"}, {"type": type_}, False) for type_ in ("relate", "device without a time")),
    ({"type": "deleted"}, {"type": "device", "at": -100, "received": 100}, False),
    ({"type": "deleted"}, {"type": "device without a time", "received": 100}, True),
    *(({"type": "deleted"}, {"type": type_}, True) for type_ in ("deleted", "unrelate", "delete device")),
    *(({"type": "deleted"}, {"type": type_}, True) for type_ in ("suppressed", "unsuppress", "object", "merge")),
    ({"type": "suppressed"}, {"type": "identify"}, True),
    # Also in the same event.
    ({"type": "ignored"}, {"type": "closed", "at": None}, False),
    # Not another person, nor another address of the same one, unless the deletion names it.
    ({"type": "deleted"}, {"type": "identify", "id": "bob"}, True),
    ({"type": "deleted"}, {"type": "by email"}, True),
    ({"type": "deleted with email"}, {"type": "by email", "email": "ann@EXAMPLE.com"}, False),
    ({"type": "deleted with email"}, {"type": "identify"}, False),
    ({"type": "deleted with cio_id"}, {"type": "identify"}, False),
]


def test_which_calls_go_after_a_deletion(database: Database, store: Store) -> None:
    for number, (deletion, later, goes) in enumerate(AFTER_A_DELETION):
        for values in (deletion, later):
            at, received = values.get("at", 0), values.get("received", 0)
            # Each case has a person of its own.
            person = {"id": "ann", "email": "Ann@example.com", "cio_id": "c"} | values
            own: dict[str, Any] = {name: f"{number}{person[name]}" for name in ("id", "email", "cio_id")}
            unsent = receive(
                store, values["type"], None if at is None else NOON + at, received=NOON + received, **own
            ).unsent
        assert (not unsent) is goes, (deletion, later)


def test_a_deletion_counts_while_it_waits_and_not_when_it_failed_or_was_cancelled(
    database: Database, store: Store
) -> None:
    receive(store, "deleted")
    receive(store, "track")
    Requeue(database).cancel([1])
    receive(store, "track", NOON + 1)
    receive(store, "deleted", id="bob")
    fail(store)
    receive(store, "track", id="bob")
    assert statuses(database) == ["cancelled", "cancelled", "failed", "failed", "pending"]
    Requeue(database).retry([4])
    assert receive(store, "track", NOON + 1, id="bob").unsent


def test_a_deletion_by_two_identifiers_is_sent_after_the_calls_to_both(database: Database, store: Store) -> None:
    receive(store, "by email")
    receive(store, "identify")
    receive(store, "deleted with email")
    assert statuses(database) == ["pending", "pending", "parked"]
    settle_all(store)
    assert statuses(database) == ["delivered"] * 3


def test_a_deletion_and_a_late_call_in_one_group(database: Database, store: Store) -> None:
    recorded = store.record([event_of(mapped(), type=type_, id="ann", at=NOON) for type_ in ("deleted", "track")])
    assert [bool(each.unsent) for each in recorded] == [False, True]
    assert statuses(database) == ["pending", "cancelled"]


# Sending again


def test_an_older_call_that_failed_is_not_retried_after_a_deletion(database: Database, store: Store) -> None:
    receive(store, "identify", NOON - 5)
    receive(store, "identify", None, received=NOON - 5)
    fail(store)
    fail(store)
    receive(store, "deleted")
    settle_all(store)
    requeue = Requeue(database)
    refused = requeue.retry([1, 2]).refused
    deleted = "would undo a deletion: the person was deleted at 2026-01-01 12:00:00Z;"
    assert refused == {id_: f"delivery {id_} {deleted} this call is from 2026-01-01 11:59:55Z" for id_ in (1, 2)}
    assert requeue.refusals([1, 2]) == refused
    assert statuses(database) == ["failed", "failed", "delivered"]


def test_calls_that_are_retried_behind_a_deletion_are_refused(database: Database, store: Store) -> None:
    receive(store, "deleted")
    fail(store)
    receive(store, "identify")
    fail(store)
    assert Requeue(database).retry([2, 1]).ids == [2, 1]
    fail(store)
    fail(store)
    assert list(Requeue(database).retry([1, 2]).refused) == [2]


def test_a_replay_does_not_undo_a_deletion(database: Database, store: Store) -> None:
    """Whatever became of the call before, and also with `again`; what is not sent is recorded with the reason."""
    nothing = mapped("  identify: [{call: identify, attributes: {plan: free}}]\n", "")
    befores = ("failed", "cancelled", "delivered", "nothing")
    people = {f"{before} {again}": (before, again) for before in befores for again in (False, True)}
    events = {}
    for person, (before, _) in people.items():
        events[person] = receive(
            store, "identify", NOON - 5, id=person, mapping=nothing if before == "nothing" else None
        ).id
        if before == "failed":
            fail(store)
        elif before == "cancelled":
            Requeue(database).cancel(column(database, deliveries.c.id, deliveries.c.status == "pending"))
        settle_all(store)
        receive(store, "deleted", id=person)
        settle_all(store)
    replay = Replay(database)
    for person, (before, again) in people.items():
        is_left_alone = before == "delivered" and not again
        expected = Replayed(status="accepted", delivered=1) if is_left_alone else Replayed(status="accepted", deleted=1)
        assert replay.preview(events[person], mapped(), again=again) == expected
        assert replay.replay(events[person], mapped(), again=again) == expected
        own = deliveries.c.event_id == events[person]
        assert column(database, deliveries.c.status, own) == ["delivered" if before == "delivered" else "cancelled"]
        if before != "delivered":
            assert "the person was deleted at" in column(database, deliveries.c.reason, own)[0]


def test_a_replay_that_cancels_a_wrong_deletion_sends_the_right_call(database: Database, store: Store) -> None:
    receive(store, "deleted")
    right = mapped("deleted: [{call: destroy}]", "deleted: [{call: identify}]")
    expected = Replayed(status="accepted", new=1, cancelled=1)
    assert Replay(database).preview(1, right) == expected
    assert Replay(database).replay(1, right) == expected
    assert statuses(database) == ["cancelled", "pending"]


def test_a_replay_that_cancels_one_of_two_deletions_keeps_to_the_other(database: Database, store: Store) -> None:
    receive(store, "deleted")
    receive(store, "deleted", NOON)
    right = mapped("deleted: [{call: destroy}]", "deleted: [{call: identify}]")
    expected = Replayed(status="accepted", deleted=1, cancelled=1)
    assert Replay(database).preview(2, right) == expected
    assert Replay(database).replay(2, right) == expected
    assert statuses(database) == ["pending", "cancelled", "cancelled"]


# Event ids

PAID = """\
version: 1
source: shop
verify: none
event_type: =type
event_key: =key
events:
  paid:
    - call: track
      id: =id
      name: Paid
      event_id: =order
      attributes:
        total: =total
"""
TAKEN = (
    "the call of delivery 1 (event 1) has the same 'event_id' and other content, so Customer.io would drop this one;"
    " let 'event_id' differ in the mapping, then replay the event"
)


ONCE_MORE = (
    "the call of delivery {} (event {}) has the same 'event_id', person and name, so this one reports the same once"
    " more; Customer.io keeps the first"
)


def why_unsent(recorded: Recorded) -> list[str]:
    return [each.reason for each in recorded.unsent]


def paid(**values: Any) -> dict[str, Any]:
    """A webhook; a ULID of its own choice is the same for every person."""
    return {
        "type_": "paid",
        "order": "01KDWXEH00000000000000ABCD",
        "total": 9,
        "mapping": parse(PAID, "shop.yaml")[0],
        **values,
    }


@pytest.mark.parametrize("other", [{"total": 10}, {"id": "bob", "order": "01kdwxeh00000000000000abcd"}])
def test_another_event_with_the_same_id_fails_and_says_so(
    database: Database, store: Store, other: dict[str, Any]
) -> None:
    receive(store, **paid())
    repeat = receive(store, **paid())
    taken = receive(store, **paid(**other))
    behind = receive(store, "identify", id=other.get("id", "ann"))
    assert [why_unsent(each) for each in (repeat, taken, behind)] == [[], [TAKEN], []]
    assert column(database, deliveries.c.event_id) == [1, 3, 4]
    assert (statuses(database)[:2], reasons(database)[:2]) == (["pending", "failed"], [None, TAKEN])
    assert open_notices(database) == [("failed", "shop")]
    settle_all(store)
    assert statuses(database) == ["delivered", "failed", "delivered"]
    (failed,) = column(database, deliveries.c.id, deliveries.c.status == "failed")
    assert Requeue(database).retry([failed]).refused == {failed: f"delivery {failed}: {TAKEN}"}


def test_an_event_that_would_undo_a_deletion_and_has_a_known_id_is_cancelled(database: Database, store: Store) -> None:
    receive(store, **paid())
    receive(store, "deleted")
    settle_all(store)
    mapping = paid()["mapping"]
    same = {"type": "paid", "order": paid()["order"], "total": 10}
    undone, taken = store.record([event_of(mapping, id=id_, **same) for id_ in ("ann", "bob")])
    assert [each.status for each in (*undone.unsent, *taken.unsent)] == ["cancelled", "failed"]
    assert "the person was deleted at" in why_unsent(undone)[0]
    assert sorted(statuses(database)) == ["cancelled", "delivered", "delivered", "failed"]


def test_events_with_the_same_id_in_one_group_and_in_two_connections(database: Database, store: Store) -> None:
    eu = parse(PAID.replace("event_key", "connection: eu\nevent_key"), "shop.yaml")[0]
    receive(store, **paid())
    receive(store, **paid(mapping=eu, total=10))
    assert statuses(database) == ["pending", "pending"]
    mapping = parse(PAID, "shop.yaml")[0]
    first, second = store.record(
        [event_of(mapping, type="paid", id="ann", order="o1", total=total) for total in (1, 2)]
    )
    assert (why_unsent(first), why_unsent(second)) == ([], [ONCE_MORE.format(3, first.id)])
    assert statuses(database)[2:] == ["parked", "cancelled"]
    assert open_notices(database) == []


def test_a_replay_that_changes_a_delivered_event_says_that_it_would_be_dropped(
    database: Database, store: Store
) -> None:
    """Before it was sent it is replaced; afterwards only `again` sends it, under another id."""
    replay = Replay(database)
    changed = [parse(PAID.replace("=total", f"=add(total, `{number}`)"), "shop.yaml")[0] for number in range(4)]
    receive(store, **paid(mapping=changed[0]))
    assert replay.replay(1, changed[1]) == Replayed(status="accepted", new=1, cancelled=1)
    fail(store)
    assert replay.replay(1, changed[2]) == Replayed(status="accepted", new=1, cancelled=1)
    settle_all(store)
    assert statuses(database) == ["cancelled", "cancelled", "delivered"]
    for once_more in (replay.preview, replay.replay):
        assert once_more(1, changed[3]) == Replayed(status="accepted", taken=1, delivered=1)
    assert statuses(database) == ["cancelled", "cancelled", "delivered"]
    assert replay.replay(1, changed[3], again=True) == Replayed(status="accepted", again=1, delivered=1)
    settle_all(store)
    assert statuses(database)[3:] == ["delivered"]
    assert len(set(column(database, deliveries.c.call, deliveries.c.status == "delivered"))) == 2
    assert replay.replay(1, changed[3]) == Replayed(status="accepted", delivered=2)


def test_an_event_whose_id_is_taken_is_sent_by_a_replay_under_another(database: Database, store: Store) -> None:
    receive(store, **paid())
    receive(store, **paid(total=10))
    settle_all(store)
    mapping, replay = parse(PAID, "shop.yaml")[0], Replay(database)
    assert replay.replay(2, mapping) == Replayed(status="accepted", taken=1)
    assert statuses(database) == ["delivered", "failed"]
    by_order = parse(PAID.replace("=order", "=format('{}-{}', order, total)"), "shop.yaml")[0]
    assert replay.preview(2, by_order) == Replayed(status="accepted", new=1, cancelled=1)
    assert replay.replay(2, mapping, again=True) == Replayed(status="accepted", again=1)
    assert reasons(database) == [None, UNDER_ANOTHER_ID, None]
    settle_all(store)
    assert statuses(database) == ["delivered", "cancelled", "delivered"]
    assert open_notices(database) == []


def test_an_event_that_failed_without_arriving_leaves_its_id_to_none_before_it_is_cancelled(
    database: Database, store: Store
) -> None:
    receive(store, **paid())
    (claimed,) = Hand(store).claim()
    Hand(store).settle(claimed, Failed(reason="HTTP 503 for 72 hours"), Attempt(status=503, at=1.0, seconds=0.1))
    assert why_unsent(receive(store, **paid(total=10))) == [TAKEN]
    Requeue(database).cancel([1])
    (taken,) = column(database, deliveries.c.id, deliveries.c.status == "failed")
    assert Requeue(database).retry([taken]).ids == [taken]
    assert statuses(database) == ["cancelled", "pending"]
    assert Replay(database).replay(1, parse(PAID, "shop.yaml")[0]) == Replayed(status="accepted", taken=1)
