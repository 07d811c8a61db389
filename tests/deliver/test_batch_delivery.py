"""Batches at work: a worker, the real client and the stand-in for the Track API."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from gateway.customerio import calls, wire
from gateway.customerio.calls import (
    AddDevice,
    AddRelationships,
    Call,
    DeleteDevice,
    DeleteObject,
    DeleteRelationships,
    Destroy,
    Identify,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    Track,
    Unsuppress,
    as_json,
)
from gateway.customerio.client import Client
from gateway.customerio.connection import Connection
from gateway.customerio.retry import Policy
from gateway.customerio.ulids import ulid_of_text
from gateway.deliver.worker import Worker
from gateway.operate.queries import Queries
from gateway.store import NewDelivery, Store
from gateway.store.database import Database, connect
from gateway.store.tables import deliveries
from tests.support.rows import event
from tests.support.trackapi import Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

NOW = 1_767_225_600


def record(store: Store, made: Sequence[Call]) -> None:
    """Record one event with these calls."""
    new = []
    for number, call in enumerate(made):
        text = json.dumps(as_json(call))
        new.append(
            NewDelivery(
                identity=hashlib.sha256(f"{number} {text}".encode()).digest(),
                connection="default",
                region=None,
                lanes=call.lanes("default"),
                call=text,
            )
        )
    store.record([event(repr(made), *new)])


def client_of(api: TrackAPI, deadline: float = 5.0) -> Client:
    return Client(Connection(site_id="site", api_key="key", base_url=api.url), deadline=deadline)


@contextmanager
def running(
    database: Database,
    api: TrackAPI,
    *,
    threads: int = 2,
    delay: float = 0.05,
    deadline: float = 5.0,
    rates: Mapping[str, float] | None = None,
) -> Iterator[None]:
    own = connect(database.engine.url.render_as_string(hide_password=False))
    with client_of(api, deadline) as client:
        policies = {"default": Policy(delay=delay)}
        worker = Worker(own, client, policies=policies, threads=threads, deadline=deadline, rates=rates or {})
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join(20)
            assert not thread.is_alive()
            own.engine.dispose()


def statuses(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(select(deliveries.c.status).order_by(deliveries.c.id)))


def reasons(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        found = connection.scalars(select(deliveries.c.reason).order_by(deliveries.c.id))
        return [reason for reason in found if reason is not None]


def wait_until(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, "it did not come to pass in time"
        time.sleep(0.02)


def wait_for(database: Database, *expected: str) -> None:
    wait_until(lambda: sorted(statuses(database)) == sorted(expected))


def track(person: str, name: str = "Paid", **attributes: Any) -> Track:
    return Track(
        id=person,
        name=name,
        attributes=attributes,
        timestamp=NOW,
        event_id=ulid_of_text(f"{person} {name}"),
    )


def tracks(number: int) -> list[Call]:
    return [track(f"p{each}") for each in range(number)]


def life_of(person: str) -> list[Call]:
    """Everything that can be said of somebody, in an order in which it matters."""
    acme = {"object_type_id": "1", "object_id": f"acme {person}"}
    old = f"{person}@old.example"
    return [
        Identify(id=person, email=f"{person}@example.com", attributes={"plan": "free", "a.b": [1]}),
        Identify(id=person, attributes={"plan": "pro", "left": None}, timestamp=NOW),
        Identify(id=person, attributes={"anonymous_id": f"anon {person}"}),
        track(person, total=49.5, note="ü" * 20),
        track(person, "Large", body="x" * wire.MAX_ITEM_BYTES),
        Track(anonymous_id=f"anon {person}", name="Seen", event_id=ulid_of_text(f"seen {person}")),
        Page(id=person, url="https://example.com/ü", event_id=ulid_of_text(f"page {person}")),
        Screen(id=person, name="Home", timestamp=NOW, event_id=ulid_of_text(f"screen {person}")),
        AddDevice(id=person, token="t/1", platform="ios", last_used=NOW, attributes={"v": "1"}),
        AddDevice(id=person, token="t 2", platform="android"),
        DeleteDevice(id=person, token="t/1"),
        IdentifyObject(**acme, attributes={"name": "Acme"}, people=[{"id": person}]),
        AddRelationships(id=person, objects=[{**acme, "attributes": {"role": "owner"}}]),
        DeleteRelationships(id=person, objects=[{"object_type_id": "1", "object_id": "other"}]),
        SubmitForm(form_id="signup", id=person, attributes={"color": "red"}),
        Identify(email=old, attributes={"city": "Oslo"}),
        Merge(into={"id": person}, from_={"email": old}),
        Identify(id=f"{person} gone", attributes={"a": 1}),
        Suppress(id=f"{person} gone"),
        Identify(id=f"{person} gone", attributes={"a": 2}),
        Unsuppress(id=f"{person} gone"),
        Identify(id=f"{person} left", attributes={"a": 1}),
        Destroy(id=f"{person} left"),
        DeleteObject(object_type_id="1", object_id=f"void {person}"),
    ]


def test_calls_in_batches_end_in_the_same_state_as_calls_sent_singly(database: Database, store: Store) -> None:
    made = [call for number in range(12) for call in life_of(f"p/{number} +ü")]
    assert {call.name_of_call for call in made} == set(calls.CALLS) - {"request"}
    record(store, made)
    with TrackAPI() as batched, TrackAPI() as singly:
        with running(database, batched):
            wait_for(database, *["delivered"] * len(made))
        with client_of(singly) as client:
            for call in made:
                assert client.send(call.request(), "default").reason is None
        assert batched.refused == singly.refused == []
        assert max(batched.batches) > 5
        assert batched.state == singly.state


def test_of_a_batch_in_which_three_of_ten_are_bad_the_seven_arrive(database: Database, store: Store) -> None:
    bad = {"id:p2", "id:p5", "id:p9"}
    record(store, tracks(10))
    with TrackAPI(refuse_item=lambda each: "not this one" if each["person"] in bad else None) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 7, *["failed"] * 3)
        assert api.batches == [10]
        assert api.singles == 0
    assert [number for number, status in enumerate(statuses(database)) if status == "failed"] == [2, 5, 9]
    assert set(reasons(database)) == {"HTTP 207: operation: invalid: not this one"}


def test_a_bad_call_that_has_its_whole_batch_refused_fails_alone(database: Database, store: Store) -> None:
    def answer(request: ParsedRequest) -> Fault | None:
        if b'"p37"' in request.body or b"/p37/" in request.target:
            return Reply(status=400, body=b'{"errors":[{"reason":"malformed"}]}')
        return None

    record(store, tracks(64))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 63, "failed")
        assert sorted(api.batches) == [2, 4, 8, 16, 32], "the other half each time"
        assert (api.singles, api.count_applied(), api.repeats) == (1, 63, 0)
        assert api.requests == 1 + 2 * 6
    assert statuses(database)[37] == "failed"
    assert reasons(database) == ["HTTP 400: malformed"]


def test_a_customer_at_whom_the_api_fails_holds_up_none_of_the_batch(
    database: Database, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: ParsedRequest) -> Fault | None:
        poisoned = b'"p3"' in request.body or b"/p3/" in request.target
        return Reply(status=500) if poisoned else None

    record(store, tracks(40))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 39, "pending")
        assert api.batches == []
        assert api.count_applied() == 39
    assert "is paused" not in caplog.text, "one batch is one failure"


@pytest.mark.parametrize("fault", [Reset(applied=True), Reply(status=503), Reset(applied=False)])
def test_a_batch_of_which_nobody_knows_whether_it_was_applied_counts_once(
    database: Database, store: Store, fault: Fault
) -> None:
    first = threading.Semaphore(1)

    def answer(request: ParsedRequest) -> Fault | None:
        is_batch = request.target == wire.BATCH_PATH.encode()
        return fault if is_batch and first.acquire(blocking=False) else None

    record(store, tracks(40))
    with TrackAPI(answer=answer) as api:
        with running(database, api, threads=16):
            wait_for(database, *["delivered"] * 40)
        assert api.count_applied() == 40
        assert api.repeats == (40 if fault == Reset(applied=True) else 0)
        assert (api.refused, api.conflicts) == ([], [])


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=401, body=b'{"meta":{"error":"Unauthorized"}}'),
        Reply(status=429, headers={"Retry-After": "1"}),
        Reply(status=429, headers={"Retry-After": formatdate(0, usegmt=True)}),
        Reply(status=500),
        Reply(status=503, headers={"Retry-After": "0"}),
        Reply(status=307, headers={"Location": "http://127.0.0.1:9/api/v2/batch"}),
        Reply(status=200, body=b"<html>Welcome to the airport</html>"),
        Hang(),
    ],
    ids=["401", "429 in seconds", "429 as a date", "500", "503", "redirect", "HTML", "hangs after applying"],
)
def test_whatever_the_api_answers_for_a_while_each_call_arrives_once(
    database: Database, store: Store, fault: Fault
) -> None:
    """First with three calls, which go out singly, then with forty, which go out together."""
    asked: list[float] = []

    def answer(_: ParsedRequest) -> Fault | None:
        asked.append(time.monotonic())
        return fault if asked[-1] < asked[0] + 0.15 else None

    made = tracks(43)
    with TrackAPI(answer=answer) as api:
        with running(database, api, threads=16, deadline=0.5):
            for some in (made[:3], made[3:]):
                asked.clear()
                record(store, some)
                store.wake()
                wait_for(database, *["delivered"] * (made.index(some[-1]) + 1))
                assert len(asked) > 1
        assert (api.count_applied(), api.refused, api.conflicts) == (43, [], [])
        assert {len(api.applied(f"p{each}")) for each in range(43)} == {1}


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b'{"meta":{"error":"Unauthorized"}}'), (403, b"{}"), (404, b'{"meta":{"error":"Not Found"}}'), (404, b"")],
)
@pytest.mark.parametrize("number", [1, 40])
def test_a_call_is_not_lost_when_one_answer_blames_the_key_or_the_endpoint_and_the_probe_is_good(
    database: Database, store: Store, status: int, body: bytes, number: int
) -> None:
    first = threading.Semaphore(1)

    def answer(request: ParsedRequest) -> Fault | None:
        is_call = request.target != wire.REGION_PATH.encode()
        return Reply(status=status, body=body) if is_call and first.acquire(blocking=False) else None

    record(store, tracks(number))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * number)
        assert (api.count_applied(), api.repeats) == (number, 0)


def test_a_raw_request_to_a_path_that_does_not_exist_fails_at_once(database: Database, store: Store) -> None:
    record(store, [RawRequest(path="/v1/no_such_path")])
    with TrackAPI() as api, running(database, api):
        wait_for(database, "failed")
    assert reasons(database) == ["HTTP 404: no such path"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=413, body=b"<html>Request Entity Too Large</html>"),
        Reply(status=207, body=b"{}"),
        Reply(status=207, body=b'{"errors":[{"batch_index":999}]}'),
        Reply(status=207, body=b'{"errors":[{"batch_index":"0"}]}'),
    ],
)
def test_a_batch_that_is_refused_without_saying_what_is_sent_in_smaller_ones(
    database: Database, store: Store, reply: Reply
) -> None:
    def answer(request: ParsedRequest) -> Fault | None:
        return reply if request.target == wire.BATCH_PATH.encode() else None

    record(store, tracks(10))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 10)
        assert (api.singles, api.count_applied(), api.repeats) == (10, 10, 0)


def test_requests_keep_to_the_rate_of_their_connection(database: Database, store: Store) -> None:
    moments: list[float] = []

    def answer(request: ParsedRequest) -> Fault | None:
        moments.append(time.monotonic())
        return None

    forms = [SubmitForm(form_id="1", id=f"p{each}", attributes={}) for each in range(30)]
    record(store, forms)
    with TrackAPI(answer=answer) as api, running(database, api, threads=16, rates={"default": 25}):
        wait_for(database, *["delivered"] * 30)
    assert len(moments) == 30
    assert max(moments) - min(moments) > 27 / 25 - 0.05, "two may go at once, then one each 40 ms"
    assert sum(later - earlier < 0.02 for earlier, later in pairwise(moments)) < 15


def test_what_may_not_go_at_once_within_the_rate_goes_together(database: Database, store: Store) -> None:
    record(store, tracks(300))
    with TrackAPI() as api:
        began = time.monotonic()
        with running(database, api, threads=16, rates={"default": 10}):
            wait_for(database, *["delivered"] * 300)
        assert time.monotonic() - began < 5
        assert sum(api.batches) + api.singles == 300
        assert len(api.batches) + api.singles <= 6


def test_a_raw_request_is_retried_by_its_own_settings_and_keeps_what_was_sent(database: Database, store: Store) -> None:
    request = RawRequest(
        path="/v1/customers/p1/events",
        data={"name": "x", "data": {"canary": 1}},
        debug=True,
        retry={"max": 2, "delay_ms": 10, "all_errors": True},
    )
    record(store, [request])
    with TrackAPI(answer=lambda _: Reply(status=400, body=b'{"meta":{"error":"no"}}')) as api:
        with running(database, api):
            wait_for(database, "failed")
        assert api.requests == 3
    assert reasons(database) == ["HTTP 400: no (given up after 3 tries)"]
    found = Queries(database).delivery(1)
    assert found is not None
    shown = [each.debug for each in found.attempts]
    assert len(shown) == 3
    assert shown[0] == (
        "POST /api/v1/customers/p1/events\nContent-Type: application/json\n\n"
        '{"name":"x","data":{"canary":1}}\n\nHTTP 400\ncontent-length: 23\n\n{"meta":{"error":"no"}}'
    )
