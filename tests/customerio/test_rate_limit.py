"""How fast requests may follow each other, in simulated time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.customerio.rate_limit import RateLimit

# The clock of a machine that has been up for months or has just been started.
STARTS = st.sampled_from([0.0, 12.25, 86_400.0, 1e7])
RATES = st.sampled_from([0.5, 1.0, 3.0, 7.5, 20.0, 100.0, 999.0, 1_000.0])
BURSTS = st.sampled_from([None, 1, 2, 5, 100])
# In intervals of the rate: none at all, less than one, about one, a pause.
GAPS = st.lists(st.sampled_from([0.0, 0.0, 0.3, 0.99, 1.0, 1.01, 2.5, 40.0]), max_size=80)
# Of the clock's own precision.
SLACK = 1e-6


def burst_of(rate: float, burst: int | None) -> int:
    return max(int(rate / 10), 1) if burst is None else burst


@pytest.mark.parametrize(
    ("rate", "burst", "at_once"),
    [
        (0.5, None, 1),
        (1, None, 1),
        (19, None, 1),
        (20, None, 2),
        (100, None, 10),
        (1_000, None, 100),
        (100, 1, 1),
        (100, 3, 3),
        (1, 50, 50),
    ],
)
def test_after_a_pause_a_burst_goes_at_once_and_then_one_in_each_interval(
    rate: float, burst: int | None, at_once: int
) -> None:
    limit, now = RateLimit(rate, burst), 1_000.0
    assert limit.room(now) == at_once
    assert [limit.take(now) for _ in range(at_once)] == [0.0] * at_once
    assert limit.room(now) == 0
    waits = [limit.take(now) for _ in range(5)]
    assert waits == pytest.approx([number / rate for number in range(1, 6)])


def test_a_burst_recovers_one_request_in_each_interval() -> None:
    limit = RateLimit(10, 3)
    for _ in range(3):
        limit.take(100.0)
    assert [limit.room(100.0 + passed) for passed in (0.05, 0.15, 0.25, 0.35, 9.0)] == [0, 1, 2, 3, 3]


@given(RATES, BURSTS, STARTS, GAPS, st.booleans())
def test_no_stretch_of_time_has_more_requests_than_the_rate_and_one_burst(
    rate: float, burst: int | None, now: float, gaps: list[float], sleeps: bool
) -> None:
    limit, moments = RateLimit(rate, burst), []
    for gap in gaps:
        now += gap / rate
        moments.append(now + limit.take(now))
        if sleeps:  # else it is one of many threads, and the next does not wait for it
            now = moments[-1]
    for first, start in enumerate(moments):
        for number, end in enumerate(moments[first:], start=1):
            assert number <= (end - start) * rate + burst_of(rate, burst) + SLACK * rate
    assert all(later >= earlier - SLACK for earlier, later in pairwise(moments))


@given(RATES, BURSTS, STARTS, st.integers(1, 300))
def test_no_request_waits_longer_than_the_rate_requires(
    rate: float, burst: int | None, now: float, number: int
) -> None:
    limit = RateLimit(rate, burst)
    waits = [limit.take(now) for _ in range(number)]
    assert waits[-1] == pytest.approx(max(number - burst_of(rate, burst), 0) / rate, abs=SLACK)


@given(RATES, BURSTS, STARTS, GAPS, st.integers(0, 120))
def test_the_room_is_the_number_of_requests_that_need_not_wait(
    rate: float, burst: int | None, now: float, gaps: list[float], more: int
) -> None:
    limit = RateLimit(rate, burst)
    for gap in gaps:
        now += gap / rate
        limit.take(now)
    now += more / rate + 0.01 / rate  # not just when an interval ends, where the last bit decides
    room = limit.room(now)
    assert 0 <= room <= burst_of(rate, burst)
    assert [limit.take(now) for _ in range(room)] == pytest.approx([0.0] * room, abs=SLACK)
    assert limit.take(now) > 0
    assert limit.room(now) == 0


@given(RATES, BURSTS, STARTS, GAPS)
def test_reading_the_wait_books_nothing(rate: float, burst: int | None, now: float, gaps: list[float]) -> None:
    limit = RateLimit(rate, burst)
    for gap in gaps:
        now += gap / rate
        waits = (limit.wait(now), limit.wait(now))
        assert waits == (limit.take(now),) * 2
