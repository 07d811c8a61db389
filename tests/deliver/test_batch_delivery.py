"""Batches: a worker, the real client and the stand-in for the Track API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest

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
    IdentifyAnonymous,
    IdentifyObject,
    Merge,
    Page,
    RawRequest,
    Screen,
    SubmitForm,
    Suppress,
    Track,
    Unsuppress,
    WorkspaceIdentifiers,
)
from gateway.customerio.client import Client
from gateway.customerio.connection import Connection
from gateway.customerio.ulids import ulid_of_text
from gateway.operate.queries import Queries
from gateway.store import Store
from gateway.store.database import Database
from tests.deliver.running import reasons, record_calls, statuses, wait_for
from tests.deliver.running import running as running_worker
from tests.support.trackapi import Fault, Hang, ParsedRequest, Reply, Reset, TrackAPI

NOW = 1_767_225_600


def client_of(api: TrackAPI, deadline: float = 5.0) -> Client:
    return Client(Connection(site_id="site", api_key="key", base_url=api.url), deadline=deadline)


@contextmanager
def running(
    database: Database,
    api: TrackAPI,
    *,
    threads: int = 2,
    deadline: float = 5.0,
    rate: float | None = None,
    identifiers: WorkspaceIdentifiers | None = None,
) -> Iterator[None]:
    rates = None if rate is None else {"default": rate}
    with (
        client_of(api, deadline) as client,
        running_worker(database, client, threads=threads, deadline=deadline, rates=rates, identifiers=identifiers),
    ):
        yield


def first_time(fault: Fault, concerns: Callable[[ParsedRequest], bool]) -> Callable[[ParsedRequest], Fault | None]:
    """Answer the first such request with a fault."""
    first = threading.Semaphore(1)
    return lambda request: fault if concerns(request) and first.acquire(blocking=False) else None


def is_batch(request: ParsedRequest) -> bool:
    return request.target == wire.BATCH_PATH.encode()


def track(person: str, name: str = "Paid", **attributes: Any) -> Track:
    event_id = ulid_of_text(f"{person} {name}")
    return Track(id=person, name=name, attributes=attributes, timestamp=NOW, event_id=event_id)


def tracks(number: int) -> list[Call]:
    return [track(f"p{person}") for person in range(number)]


def life_of(number: int) -> list[Call]:
    """Every kind of call about a person, in an order in which it matters."""
    person = f"p/{number} +ü"
    acme: dict[str, Any] = {"object_type_id": "1", "object_id": f"acme {person}"}
    old = f"p{number}@old.example"
    return [
        Identify(id=person, email=f"p{number}@example.com", attributes={"plan": "free", "a.b": [1]}),
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
        IdentifyObject(cio_object_id=f"obj {person}", people=[{"anonymous_id": f"anon {person}"}]),
        IdentifyAnonymous(**acme, anonymous_id=f"anon {person}"),
        Track(anonymous=True, name="Invited", attributes={"recipient": old}, event_id=ulid_of_text(f"in {person}")),
        Identify(phone=f"+1415555{number:04}", attributes={"plan": "pro"}),
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


def test_calls_sent_in_batches_leave_the_same_state_as_calls_sent_singly(database: Database, store: Store) -> None:
    made = [call for number in range(12) for call in life_of(number)]
    assert {call.name_of_call for call in made} == set(calls.CALLS) - {"request"}
    record_calls(store, made)
    with TrackAPI() as batched, TrackAPI() as singly:
        with running(database, batched):
            wait_for(database, *["delivered"] * len(made))
        with client_of(singly) as client:
            for call in made:
                assert client.send(call.request(), "default").reason is None
        assert batched.refused == singly.refused == []
        assert max(batched.batches) > 5
        assert batched.state == singly.state


def calls_about(person: str) -> list[Call]:
    """Calls to six people whose ids and emails can be read in two ways."""
    return [
        Identify(id=f"{person}@example.com", email=f"{person}@example.com", attributes={"n": 1}),
        Track(id=f"{person}@1", name="Paid", event_id=ulid_of_text(f"1 {person}")),
        Identify(id=f"cio_{person}_42", attributes={"n": 2}),
        Track(email=f"{person.upper()}@Example.org", name="Seen", event_id=ulid_of_text(f"2 {person}")),
        AddDevice(id=f"@{person}", token="t", platform="ios"),
        Identify(id=person, attributes={"n": 3}),
    ]


@pytest.mark.parametrize(
    ("knows", "said", "in_batches", "refused"),
    [
        (("id", "email"), None, 50, 0),
        (("id", "email"), "id,email", 100, 0),
        (("id",), None, 50, 25),
        (("id",), "id", 125, 0),
    ],
)
def test_a_call_reaches_the_same_person_in_a_batch_as_singly(
    database: Database,
    store: Store,
    knows: tuple[str, ...],
    said: WorkspaceIdentifiers | None,
    in_batches: int,
    refused: int,
) -> None:
    made = [call for number in range(25) for call in calls_about(f"p{number}")]
    record_calls(store, made)
    with TrackAPI(identifiers=knows) as batched, TrackAPI(identifiers=knows) as singly:
        with running(database, batched, identifiers=said):
            wait_for(database, *["delivered"] * 150)
        with client_of(singly) as client:
            for call in made:
                assert client.send(call.request(), "default").reason is None
        assert (sum(batched.batches), len(batched.refused), len(singly.refused)) == (in_batches, refused, 0)
        assert batched.state == singly.state


def test_items_that_only_a_batch_refuses_arrive_singly_before_the_next_of_their_lanes(
    database: Database, store: Store
) -> None:
    refused: set[str] = set()

    def refuse_first(operation: dict[str, Any]) -> str | None:
        is_first = operation["person"] not in refused
        refused.add(operation["person"])
        return "not in a batch" if is_first else None

    record_calls(store, [*tracks(100), *(track(f"p{person}", "Later") for person in range(10))])
    with TrackAPI(refuse_item=refuse_first) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 110)
        assert (api.batches[0], len(api.refused), api.repeats) == (100, 100, 0)
        assert api.singles >= 100
        names = [[event.body["name"] for event in api.applied(f"p{person}")] for person in range(100)]
    assert names == [["Paid", "Later"]] * 10 + [["Paid"]] * 90
    delivery = Queries(database).delivery(1)
    assert delivery is not None
    assert [attempt.status for attempt in delivery.attempts] == [207, 200]


def test_an_item_without_a_v1_form_that_is_refused_is_not_tried_again(database: Database, store: Store) -> None:
    record_calls(store, [DeleteObject(object_type_id="1", object_id=str(number)) for number in range(10)])
    with TrackAPI(refuse_item=lambda operation: "no" if operation["person"] == "object:1:4" else None) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 9, "failed")
        assert (api.batches, api.singles) == ([10], 0)


def test_three_bad_calls_of_ten_fail_and_the_other_seven_arrive(database: Database, store: Store) -> None:
    bad = {"id:p2", "id:p5", "id:p9"}
    record_calls(store, tracks(10))
    with TrackAPI(refuse_item=lambda operation: "not this one" if operation["person"] in bad else None) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 7, *["failed"] * 3)
        assert api.batches == [10]
        assert api.singles == 3
    assert [number for number, status in enumerate(statuses(database)) if status == "failed"] == [2, 5, 9]
    assert set(reasons(database)) == {None, "HTTP 400: not this one"}
    delivery = Queries(database).delivery(3)
    assert delivery is not None
    assert [attempt.reason for attempt in delivery.attempts] == [
        "HTTP 207: operation: invalid: not this one",
        "HTTP 400: not this one",
    ]


def test_a_bad_call_whose_whole_batch_is_refused_fails_alone(database: Database, store: Store) -> None:
    def answer(request: ParsedRequest) -> Fault | None:
        if b'"p37"' in request.body or b"/p37/" in request.target:
            return Reply(status=400, body=b'{"errors":[{"reason":"malformed"}]}')
        return None

    record_calls(store, tracks(64))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 63, "failed")
        assert sorted(api.batches) == [2, 4, 8, 16, 32], "the other half each time"
        assert (api.singles, api.count_applied(), api.repeats) == (1, 63, 0)
        assert api.requests == 1 + 2 * 6
    assert (statuses(database)[37], reasons(database)[37]) == ("failed", "HTTP 400: malformed")


def test_a_customer_for_whom_the_api_fails_holds_up_no_other_of_the_batch(
    database: Database, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: ParsedRequest) -> Fault | None:
        poisoned = b'"p3"' in request.body or b"/p3/" in request.target
        return Reply(status=500) if poisoned else None

    record_calls(store, tracks(40))
    with TrackAPI(answer=answer) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * 39, "pending")
        assert api.batches == []
        assert api.count_applied() == 39
    assert "is paused" not in caplog.text, "one batch is one failure"


@pytest.mark.parametrize("fault", [Reset(applied=True), Reply(status=503), Reset(applied=False)])
def test_a_batch_that_may_have_been_applied_counts_once(database: Database, store: Store, fault: Fault) -> None:
    record_calls(store, tracks(40))
    with TrackAPI(answer=first_time(fault, is_batch)) as api:
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
    moments: list[float] = []

    def answer(_: ParsedRequest) -> Fault | None:
        moments.append(time.monotonic())
        return fault if moments[-1] < moments[0] + 0.15 else None

    recorded = tracks(43)
    with TrackAPI(answer=answer) as api:
        with running(database, api, threads=16, deadline=0.5):
            for some in (recorded[:3], recorded[3:]):
                moments.clear()
                record_calls(store, some)
                wait_for(database, *["delivered"] * (recorded.index(some[-1]) + 1))
                assert len(moments) > 1
        assert (api.count_applied(), api.refused, api.conflicts) == (43, [], [])
        assert {len(api.applied(f"p{person}")) for person in range(43)} == {1}


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b'{"meta":{"error":"Unauthorized"}}'), (403, b"{}"), (404, b'{"meta":{"error":"Not Found"}}'), (404, b"")],
)
@pytest.mark.parametrize("number", [1, 40])
def test_a_call_survives_one_answer_about_the_key_or_the_endpoint_when_the_probe_is_good(
    database: Database, store: Store, status: int, body: bytes, number: int
) -> None:
    fault = Reply(status=status, body=body)
    record_calls(store, tracks(number))
    with TrackAPI(answer=first_time(fault, lambda request: request.target != wire.REGION_PATH.encode())) as api:
        with running(database, api):
            wait_for(database, *["delivered"] * number)
        assert (api.count_applied(), api.repeats) == (number, 0)


def test_a_raw_request_to_a_path_that_does_not_exist_fails_at_once(database: Database, store: Store) -> None:
    record_calls(store, [RawRequest(path="/v1/no_such_path")])
    with TrackAPI() as api, running(database, api):
        wait_for(database, "failed")
    assert reasons(database) == ["HTTP 404: no such path"]


def test_requests_keep_to_the_rate_of_their_connection(database: Database, store: Store) -> None:
    moments: list[float] = []

    def answer(request: ParsedRequest) -> Fault | None:
        moments.append(time.monotonic())
        return None

    record_calls(store, [SubmitForm(form_id="1", id=f"p{person}", attributes={}) for person in range(30)])
    with TrackAPI(answer=answer) as api, running(database, api, threads=16, rate=25):
        wait_for(database, *["delivered"] * 30)
    assert len(moments) == 30
    # Two may go at once, and what nobody booked in the last tenth of a second: 2.5. Then one goes each 40 ms.
    assert max(moments) - min(moments) > 24 / 25
    assert sum(later - earlier < 0.02 for earlier, later in pairwise(moments)) < 15


def test_calls_that_the_rate_holds_up_go_in_batches(database: Database, store: Store) -> None:
    record_calls(store, tracks(300))
    with TrackAPI() as api:
        began = time.monotonic()
        with running(database, api, threads=16, rate=10):
            wait_for(database, *["delivered"] * 300)
        assert time.monotonic() - began < 5
        assert sum(api.batches) + api.singles == 300
        assert len(api.batches) + api.singles <= 6


def test_a_raw_request_is_retried_by_its_own_settings_and_debug_keeps_what_was_sent(
    database: Database, store: Store
) -> None:
    request = RawRequest(
        path="/v1/customers/p1/events",
        data={"name": "x", "data": {"canary": 1}},
        debug=True,
        retry={"max": 2, "delay_ms": 10, "all_errors": True},
    )
    record_calls(store, [request])
    with TrackAPI(answer=lambda _: Reply(status=400, body=b'{"meta":{"error":"no"}}')) as api:
        with running(database, api):
            wait_for(database, "failed")
        assert api.requests == 3
    assert reasons(database) == ["HTTP 400: no (given up after 3 tries)"]
    delivery = Queries(database).delivery(1)
    assert delivery is not None
    assert len(delivery.attempts) == 3
    assert delivery.attempts[0].debug == (
        "POST /api/v1/customers/p1/events\nContent-Type: application/json\n\n"
        '{"name":"x","data":{"canary":1}}\n\nHTTP 400\ncontent-length: 23\n\n{"meta":{"error":"no"}}'
    )
