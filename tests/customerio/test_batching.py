"""Several calls in one request, and the attempt of each: a function plays the server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio import wire
from gateway.customerio.batching import MOST_ITEMS, BatchItem, batch_item, pack, send_batch
from gateway.customerio.calls import Identify
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

# Packing

SIZES = st.lists(st.integers(1, wire.MAX_ITEM_BYTES), max_size=40) | st.lists(
    st.integers(wire.MAX_ITEM_BYTES - 3_000, wire.MAX_ITEM_BYTES), max_size=40
)


@given(SIZES, st.integers(1, 30) | st.just(MOST_ITEMS))
def test_items_are_packed_in_order_each_once_into_batches_as_large_as_allowed(sizes: list[int], most: int) -> None:
    spans = list(pack(sizes, most=most))
    assert [number for span in spans for number in span] == list(range(len(sizes)))
    for span in spans:
        items = [b"x" * sizes[number] for number in span]
        body = wire.batch(items).body or b""
        assert 1 <= len(items) <= most
        assert len(body) <= wire.MAX_BATCH_BYTES
        assert len(body) == wire.batch_size([len(item) for item in items])
    for span in spans[:-1]:
        one_more = sizes[span.start : span.stop + 1]
        assert len(span) == most or wire.batch_size(one_more) > wire.MAX_BATCH_BYTES


FULL = [wire.MAX_ITEM_BYTES] * 15
# 15 of the largest items leave this much for a sixteenth, with the comma before it.
ROOM = wire.MAX_BATCH_BYTES - wire.batch_size(FULL) - 1


@pytest.mark.parametrize(
    ("sizes", "most", "lengths"),
    [
        ([], 100, []),
        ([wire.MAX_ITEM_BYTES], 100, [1]),
        ([10] * 250, MOST_ITEMS, [100, 100, 50]),
        ([10] * 3, 1, [1, 1, 1]),
        (FULL + FULL + [wire.MAX_ITEM_BYTES], 100, [15, 15, 1]),
        ([*FULL, ROOM], 100, [16]),
        ([*FULL, ROOM + 1], 100, [15, 1]),
        ([ROOM + 1, *FULL], 100, [15, 1]),
        ([*FULL, ROOM, 10], 100, [16, 1]),
        ([*FULL, ROOM, *FULL, ROOM, 10], 100, [16, 16, 1]),
        ([*FULL, ROOM, *FULL, ROOM + 1], 100, [16, 15, 1]),
    ],
)
def test_a_batch_is_full_by_its_count_or_by_its_bytes(sizes: list[int], most: int, lengths: list[int]) -> None:
    assert [len(span) for span in pack(sizes, most=most)] == lengths


# Sending

GOOD = Attempt(status=200)
REFUSED = Attempt(status=400, reason="HTTP 400: poison")
Rule = Callable[[list[int]], Attempt]


def items(number: int) -> list[BatchItem]:
    made = [batch_item(Identify(id=str(person))) for person in range(number)]
    return [item for item in made if item is not None]


class Server:
    """Takes requests for numbered people and answers by a rule.

    Attributes:
        requests: The people of each request.
        paths: The path of each request.
        arrived: The people whose calls were taken, in their order.
    """

    def __init__(self, rule: Rule) -> None:
        self.requests: list[list[int]] = []
        self.paths: list[str] = []
        self.arrived: list[int] = []
        self._rule = rule

    def send(self, request: HttpRequest) -> Attempt:
        if request.path == wire.BATCH_PATH:
            batch = json.loads(request.body or b"")["batch"]
            people = [int(operation["identifiers"]["id"]) for operation in batch]
        else:
            people = [int(request.path.rpartition("/")[2])]
        attempt = self._rule(people)
        self.requests.append(people)
        self.paths.append(request.path)
        if attempt.status in (200, 207):
            self.arrived += [person for number, person in enumerate(people) if number not in attempt.refused_items]
        return attempt


def refusing(poison: Sequence[int], *, singly: bool = True) -> Rule:
    """Refuse every batch that holds a poison, as a whole and without saying why; and the poison when it is alone."""

    def rule(people: list[int]) -> Attempt:
        bad = not set(poison).isdisjoint(people)
        return REFUSED if bad and (singly or len(people) > 1) else GOOD

    return rule


@pytest.mark.parametrize(("number", "path"), [(10, wire.BATCH_PATH), (1, "/api/v1/customers/0")])
def test_where_all_is_well_one_request_is_enough(number: int, path: str) -> None:
    server = Server(lambda _: GOOD)
    assert send_batch(items(number), server.send) == [GOOD] * number
    assert (server.requests, server.paths) == ([list(range(number))], [path])


def test_the_items_that_a_207_names_have_failed_and_all_others_have_arrived() -> None:
    refused = {1: "HTTP 207: a", 4: "HTTP 207: b", 9: "HTTP 207: c"}
    server = Server(lambda _: Attempt(status=207, reason="HTTP 207: a; b; c", refused_items=refused, at=3, seconds=0.5))
    assert send_batch(items(10), server.send) == [
        Attempt(
            status=207,
            reason=refused[number],
            refused_items={0: refused[number]},
            refused_in_batch=True,
            at=3,
            seconds=0.5,
        )
        if number in refused
        else Attempt(status=207, at=3, seconds=0.5)
        for number in range(10)
    ]
    assert len(server.requests) == 1


@pytest.mark.parametrize("number", [2, 3, 10, 64, 100])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_poison_fails_alone_and_is_found_in_few_requests(number: int, where: str) -> None:
    poison = {"first": 0, "middle": number // 2, "last": number - 1}[where]
    server = Server(refusing([poison]))
    attempts = send_batch(items(number), server.send)
    assert attempts == [REFUSED if person == poison else GOOD for person in range(number)]
    assert len(server.requests) <= 1 + 2 * math.ceil(math.log2(number))
    assert server.requests.count([poison]) == 1


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_all_poison_fails_and_all_others_arrive_once_and_in_order(number: int, poison: set[int]) -> None:
    server = Server(refusing(sorted(poison)))
    attempts = send_batch(items(number), server.send)
    assert attempts == [REFUSED if person in poison else GOOD for person in range(number)]
    assert server.arrived == [person for person in range(number) if person not in poison]
    assert len(server.requests) < 2 * number


def test_a_call_that_only_a_batch_refuses_arrives_singly() -> None:
    server = Server(refusing([3], singly=False))
    assert send_batch(items(8), server.send) == [GOOD] * 8
    assert server.arrived == list(range(8))
    assert [3] in server.requests


@pytest.mark.parametrize("understood", [True, False])
def test_a_batch_that_is_too_large_goes_in_smaller_ones(understood: bool) -> None:
    too_large = Attempt(status=413, reason="HTTP 413", understood=understood)
    server = Server(lambda people: GOOD if len(people) <= 3 else too_large)
    assert send_batch(items(10), server.send) == [GOOD] * 10
    assert server.arrived == list(range(10))


@pytest.mark.parametrize(
    "unclear",
    [
        Attempt(status=207, reason="HTTP 207", understood=False),
        Attempt(status=207, reason="HTTP 207: a", refused_items={8: "HTTP 207: a"}),
        Attempt(status=207, reason="HTTP 207: a", refused_items={0: "HTTP 207: a", 99: "HTTP 207: b"}),
    ],
)
def test_after_a_207_that_does_not_name_the_items_each_call_goes_singly(unclear: Attempt) -> None:
    server = Server(lambda people: unclear if len(people) > 1 else refusing([5])(people))
    attempts = send_batch(items(8), server.send)
    assert attempts == [REFUSED if person == 5 else GOOD for person in range(8)]
    assert sorted(people for people in server.requests if len(people) == 1) == [[person] for person in range(8)]


@pytest.mark.parametrize(
    "failure",
    [
        Attempt(status=None, reason="the connection failed"),
        *(Attempt(status=status, reason="x") for status in (500, 429, 401, 403, 404, 408, 301)),
        Attempt(status=503, reason="x", retry_after=7.0),
        Attempt(status=400, reason="x", understood=False),
        Attempt(status=200, reason="x", understood=False),
    ],
    ids=lambda failure: f"{failure.status} {'' if failure.understood else 'not '}understood",
)
def test_another_failure_of_the_whole_is_that_of_each_call_and_takes_one_request(failure: Attempt) -> None:
    server = Server(lambda _: failure)
    attempts = send_batch(items(10), server.send)
    assert len(attempts) == 10
    assert all(attempt is failure for attempt in attempts)
    assert len(server.requests) == 1


def test_an_outage_in_the_middle_fails_only_what_had_not_arrived() -> None:
    away = Attempt(status=None, reason="away")
    server = Server(lambda people: refusing([0])(people) if len(server.requests) < 4 else away)
    # together, the first four, the first two, the first alone; then nothing comes through
    assert send_batch(items(8), server.send) == [REFUSED, *[away] * 7]
    assert server.requests == [list(range(8)), [0, 1, 2, 3], [0, 1], [0], [1], [2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("number", "requests", "expected"),
    [
        (1, 0, [None]),
        *((8, requests, [None] * 8) for requests in range(4)),
        (8, 4, [REFUSED, *[None] * 7]),
        (8, 5, [REFUSED, GOOD, *[None] * 6]),
        (8, 6, [REFUSED, GOOD, GOOD, GOOD, *[None] * 4]),
        (8, 7, [REFUSED, *[GOOD] * 7]),
    ],
)
def test_a_call_that_there_is_no_time_for_is_not_sent(
    number: int, requests: int, expected: list[Attempt | None]
) -> None:
    server = Server(refusing([0]))
    assert send_batch(items(number), server.send, lambda: len(server.requests) < requests) == expected
    assert len(server.requests) == requests
