"""Several calls in one request, and what comes of each: the server is played by a function."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio import wire
from gateway.customerio.batching import MOST_ITEMS, Ready, pack, send_together
from gateway.customerio.calls import Identify
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

# Packing

SIZES = st.lists(st.integers(1, wire.MAX_ITEM_BYTES), max_size=40)
LARGE = st.lists(st.integers(wire.MAX_ITEM_BYTES - 3_000, wire.MAX_ITEM_BYTES), max_size=40)


@given(SIZES | LARGE, st.integers(1, 30) | st.just(MOST_ITEMS))
def test_items_are_packed_in_order_each_once_and_no_batch_is_too_large(sizes: list[int], most: int) -> None:
    spans = list(pack(sizes, most=most))
    assert [number for span in spans for number in span] == list(range(len(sizes)))
    for span in spans:
        items = [b"x" * sizes[number] for number in span]
        body = wire.batch(items).body or b""
        assert 1 <= len(items) <= most
        assert len(body) <= wire.MAX_BATCH_BYTES
        assert len(body) == wire.batch_size([len(each) for each in items])


@given(SIZES | LARGE, st.integers(1, 30) | st.just(MOST_ITEMS))
def test_no_batch_could_have_taken_the_first_of_the_next(sizes: list[int], most: int) -> None:
    spans = list(pack(sizes, most=most))
    for span in spans[:-1]:
        one_more = sizes[span.start : span.stop + 1]
        assert len(span) == most or wire.batch_size(one_more) > wire.MAX_BATCH_BYTES


# 15 of the largest items leave this much for a sixteenth, with the comma before it.
ROOM = wire.MAX_BATCH_BYTES - wire.batch_size([wire.MAX_ITEM_BYTES] * 15) - 1


@pytest.mark.parametrize(
    ("sizes", "most", "lengths"),
    [
        ([], 100, []),
        ([wire.MAX_ITEM_BYTES], 100, [1]),
        ([10] * 250, 100, [100, 100, 50]),
        ([10] * 3, 1, [1, 1, 1]),
        ([wire.MAX_ITEM_BYTES] * 31, 100, [15, 15, 1]),
        ([wire.MAX_ITEM_BYTES] * 15 + [ROOM], 100, [16]),
        ([wire.MAX_ITEM_BYTES] * 15 + [ROOM + 1], 100, [15, 1]),
        ([ROOM + 1] + [wire.MAX_ITEM_BYTES] * 15, 100, [15, 1]),
        ([wire.MAX_ITEM_BYTES] * 15 + [ROOM, 10], 100, [16, 1]),
        (([wire.MAX_ITEM_BYTES] * 15 + [ROOM]) * 2 + [10], 100, [16, 16, 1]),
        (([wire.MAX_ITEM_BYTES] * 15 + [ROOM]) + [wire.MAX_ITEM_BYTES] * 15 + [ROOM + 1], 100, [16, 15, 1]),
    ],
)
def test_a_batch_is_full_by_its_count_or_by_its_bytes(sizes: list[int], most: int, lengths: list[int]) -> None:
    assert [len(span) for span in pack(sizes, most=most)] == lengths


def test_a_batch_is_of_a_hundred_unless_told_otherwise() -> None:
    assert [len(span) for span in pack([10] * 101)] == [MOST_ITEMS, 1]


# Sending

GOOD = Attempt(status=200)
REFUSED = Attempt(status=400, reason="HTTP 400: poison")
Rule = Callable[[list[int]], Attempt]


def calls(number: int) -> list[Ready]:
    return [Ready(Identify(id=str(each))) for each in range(number)]


class Playing:
    """A server that takes requests for numbered people and answers by a rule.

    Attributes:
        requests: Whom each request was about, and
        paths: where it went.
        arrived: Whom the good ones were about, in their order.
    """

    def __init__(self, rule: Rule) -> None:
        self.requests: list[list[int]] = []
        self.paths: list[str] = []
        self.arrived: list[int] = []
        self._rule = rule

    def send(self, request: HttpRequest) -> Attempt:
        people = self._people(request)
        attempt = self._rule(people)
        self.requests.append(people)
        self.paths.append(request.path)
        if attempt.status in (200, 207):
            taken = [each for number, each in enumerate(people) if number not in attempt.refused_items]
            self.arrived += taken
        return attempt

    def _people(self, request: HttpRequest) -> list[int]:
        if request.path == wire.BATCH_PATH:
            items = json.loads(request.body or b"")["batch"]
            return [int(each["identifiers"]["id"]) for each in items]
        return [int(request.path.rpartition("/")[2])]


def refusing(poison: Sequence[int], *, singly: bool = True) -> Rule:
    """Refuse every batch that holds a poison, as a whole and without saying why; and the poison when it is alone."""

    def rule(people: list[int]) -> Attempt:
        bad = not set(poison).isdisjoint(people)
        return REFUSED if bad and (singly or len(people) > 1) else GOOD

    return rule


def test_where_all_is_well_one_request_tells_of_all() -> None:
    server = Playing(lambda _: GOOD)
    assert send_together(calls(10), server.send) == [GOOD] * 10
    assert server.requests == [list(range(10))]
    assert server.paths == [wire.BATCH_PATH]


def test_one_call_goes_out_as_its_single_request() -> None:
    server = Playing(lambda _: GOOD)
    assert send_together(calls(1), server.send) == [GOOD]
    assert server.paths == ["/api/v1/customers/0"]


def test_what_a_207_names_has_failed_and_all_else_has_arrived() -> None:
    refused = {1: "HTTP 207: a", 4: "HTTP 207: b", 9: "HTTP 207: c"}
    answer = Attempt(status=207, reason="HTTP 207: a; b; c", refused_items=refused, at=3.0, seconds=0.5)
    server = Playing(lambda _: answer)
    told = send_together(calls(10), server.send)
    assert [each.reason if each else "not sent" for each in told] == [refused.get(number) for number in range(10)]
    assert [dict(each.refused_items) for each in told if each] == [
        {0: refused[number]} if number in refused else {} for number in range(10)
    ]
    assert {(each.status, each.at, each.seconds) for each in told if each} == {(207, 3.0, 0.5)}
    assert len(server.requests) == 1


@pytest.mark.parametrize("number", [2, 3, 10, 64, 100])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_poison_fails_alone_and_is_found_in_few_requests(number: int, where: str) -> None:
    poison = {"first": 0, "middle": number // 2, "last": number - 1}[where]
    server = Playing(refusing([poison]))
    told = send_together(calls(number), server.send)
    assert told == [REFUSED if each == poison else GOOD for each in range(number)]
    assert server.arrived == [each for each in range(number) if each != poison]
    assert len(server.requests) <= 1 + 2 * math.ceil(math.log2(number))
    assert server.requests.count([poison]) == 1


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_whichever_are_poison_exactly_they_fail_and_the_others_arrive_once_in_order(
    number: int, poison: set[int]
) -> None:
    server = Playing(refusing(sorted(poison)))
    told = send_together(calls(number), server.send)
    assert told == [REFUSED if each in poison else GOOD for each in range(number)]
    assert server.arrived == [each for each in range(number) if each not in poison]
    assert len(server.requests) < 2 * number


def test_what_only_a_batch_refuses_arrives_singly() -> None:
    server = Playing(refusing([3], singly=False))
    assert send_together(calls(8), server.send) == [GOOD] * 8
    assert server.arrived == list(range(8))
    assert [3] in server.requests


@pytest.mark.parametrize("understood", [True, False])
def test_what_is_too_large_together_goes_in_smaller_batches(understood: bool) -> None:
    too_large = Attempt(status=413, reason="HTTP 413", understood=understood)
    server = Playing(lambda people: GOOD if len(people) <= 3 else too_large)
    assert send_together(calls(10), server.send) == [GOOD] * 10
    assert server.arrived == list(range(10))


@pytest.mark.parametrize(
    "unclear",
    [
        Attempt(status=207, reason="HTTP 207", understood=False),
        Attempt(status=207, reason="HTTP 207: a", refused_items={8: "HTTP 207: a"}),
        Attempt(status=207, reason="HTTP 207: a", refused_items={0: "HTTP 207: a", 99: "HTTP 207: b"}),
    ],
)
def test_a_207_that_does_not_tell_who_is_meant_is_asked_again_singly(unclear: Attempt) -> None:
    server = Playing(lambda people: unclear if len(people) > 1 else refusing([5])(people))
    told = send_together(calls(8), server.send)
    assert told == [REFUSED if each == 5 else GOOD for each in range(8)]
    assert sorted(each for each in server.requests if len(each) == 1) == [[each] for each in range(8)]


@pytest.mark.parametrize(
    "failure",
    [
        Attempt(status=None, reason="the connection failed"),
        Attempt(status=500, reason="HTTP 500"),
        Attempt(status=503, reason="HTTP 503", retry_after=7.0),
        Attempt(status=429, reason="HTTP 429"),
        Attempt(status=401, reason="HTTP 401"),
        Attempt(status=403, reason="HTTP 403"),
        Attempt(status=404, reason="HTTP 404"),
        Attempt(status=408, reason="HTTP 408"),
        Attempt(status=301, reason="HTTP 301"),
        Attempt(status=400, reason="HTTP 400", understood=False),
        Attempt(status=200, reason="HTTP 200", understood=False),
    ],
    ids=lambda failure: f"{failure.status} {'' if failure.understood else 'not '}understood",
)
def test_a_failure_of_the_whole_is_that_of_each_and_takes_one_request(failure: Attempt) -> None:
    server = Playing(lambda _: failure)
    told = send_together(calls(10), server.send)
    assert all(each is failure for each in told)
    assert len(told) == 10
    assert len(server.requests) == 1


def test_an_outage_in_the_middle_fails_only_what_had_not_arrived() -> None:
    away = Attempt(status=None, reason="away")
    server = Playing(lambda people: refusing([0])(people) if len(server.requests) < 4 else away)
    told = send_together(calls(8), server.send)
    # together, the first four, the first two, the first alone; then nothing comes through
    assert told == [REFUSED, *[away] * 7]
    assert server.requests == [list(range(8)), [0, 1, 2, 3], [0, 1], [0], [1], [2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (0, [None] * 8),
        (1, [None] * 8),
        (2, [None] * 8),
        (3, [None] * 8),
        (4, [REFUSED, *[None] * 7]),
        (5, [REFUSED, GOOD, *[None] * 6]),
        (6, [REFUSED, GOOD, GOOD, GOOD, *[None] * 4]),
        (7, [REFUSED, *[GOOD] * 7]),
    ],
)
def test_what_there_is_no_time_for_is_not_sent_and_told_as_such(requests: int, expected: list[Attempt | None]) -> None:
    server = Playing(refusing([0]))
    assert send_together(calls(8), server.send, lambda: len(server.requests) < requests) == expected
    assert len(server.requests) == requests


def test_a_single_call_that_there_is_no_time_for_is_not_sent_either() -> None:
    server = Playing(lambda _: GOOD)
    assert send_together(calls(1), server.send, lambda: False) == [None]
    assert server.requests == []
