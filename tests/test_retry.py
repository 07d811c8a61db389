"""What follows an attempt, and what becomes of its connection, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway.retry import (
    HOUR,
    Attempt,
    Cause,
    Decision,
    Delivered,
    Doubtful,
    Failed,
    Health,
    Policy,
    Postponed,
    Probe,
    Retry,
    judge,
    judge_alone,
    needs_probe,
    weigh,
)

POLICY = Policy(delay=1.0)
NOW = 1_767_225_600.0

RETRY = Retry(after=0.5, reason="x")
FAILED = Failed(reason="x")
DOUBTFUL = Doubtful(reason="x")


def attempt(status: int | None, **more: object) -> Attempt:
    return Attempt(**{"status": status, "reason": "x", **more})  # type: ignore[arg-type]  # a table's own values


CASES: list[tuple[str, Attempt, Decision | Doubtful, Decision | None]] = [
    # what happened, the attempt, what follows, and what follows once a good probe has told
    ("arrived", attempt(200), Delivered(), None),
    ("arrived without a body", attempt(204), Delivered(), None),
    ("outage: no answer", attempt(None), DOUBTFUL, RETRY),
    ("outage: a server error", attempt(500), DOUBTFUL, RETRY),
    ("outage: unavailable", attempt(503), DOUBTFUL, RETRY),
    ("outage: something else answers", attempt(200, understood=False), DOUBTFUL, RETRY),
    ("outage: a proxy refuses", attempt(400, understood=False), DOUBTFUL, RETRY),
    ("throttling", attempt(429), Postponed(reason="x", throttled=True), None),
    (
        "throttling for a time",
        attempt(429, retry_after=7.0),
        Postponed(reason="x", throttled=True, asked=7.0),
        None,
    ),
    (
        "throttling by a 503",
        attempt(503, retry_after=7.0),
        Postponed(reason="x", throttled=True, asked=7.0),
        None,
    ),
    ("misconfiguration: redirected", attempt(302), DOUBTFUL, RETRY),
    ("misconfiguration: wrong key", attempt(401), DOUBTFUL, FAILED),
    ("misconfiguration: forbidden", attempt(403), DOUBTFUL, FAILED),
    ("misconfiguration: wrong address", attempt(404), DOUBTFUL, FAILED),
    ("too early", attempt(408), RETRY, None),
    ("too early", attempt(425), RETRY, None),
    ("permanent failure", attempt(400), FAILED, None),
    ("permanent failure: too large", attempt(413), FAILED, None),
    ("permanent failure: unprocessable", attempt(422), FAILED, None),
    ("poison: no request can be made of it", attempt(None, sendable=False), FAILED, None),
]


@pytest.mark.parametrize(("name", "made", "first", "_alone"), CASES)
def test_a_failure_is_judged_by_its_kind(
    name: str, made: Attempt, first: Decision | Doubtful, _alone: Decision | None
) -> None:
    assert judge(made, tries=1, failing_for=0.0, policy=POLICY, jitter=0.0) == first


@pytest.mark.parametrize(("name", "made", "_first", "alone"), [case for case in CASES if case[3] is not None])
def test_where_the_connection_is_well_the_delivery_is_to_blame(
    name: str, made: Attempt, _first: Decision | Doubtful, alone: Decision
) -> None:
    assert judge_alone(made, tries=1, failing_for=0.0, policy=POLICY, jitter=0.0) == alone


def test_a_delivery_is_given_up_when_its_time_is_over() -> None:
    def after(failing_for: float) -> Decision:
        return judge_alone(attempt(503), tries=9, failing_for=failing_for, policy=POLICY, jitter=0.0)

    assert isinstance(after(72 * HOUR - 1), Retry)
    assert after(72 * HOUR) == Failed(reason="x (given up after 72 hours of trying)")


@pytest.mark.parametrize(
    ("tries", "jitter", "delay"),
    [(1, 0.0, 0.5), (1, 0.999, 0.9995), (2, 0.0, 1.0), (5, 0.0, 8.0), (11, 0.0, 300.0), (1000, 0.5, 450.0)],
)
def test_the_delay_doubles_within_its_spread_up_to_ten_minutes(
    tries: int, jitter: float, delay: float
) -> None:
    retry = judge_alone(attempt(503), tries=tries, failing_for=0.0, policy=POLICY, jitter=jitter)
    assert isinstance(retry, Retry)
    assert retry.after == pytest.approx(delay)


# Connections

UNREACHABLE = Probe(cause="unreachable", reason="down")
WRONG_KEY = Probe(cause="misconfigured", reason="HTTP 401")
GOOD = Probe()


def weighed(
    health: Health,
    *decisions: tuple[int, Decision],
    probes: Sequence[Probe] = (),
    now: float = NOW,
    jitter: float = 1.0,
) -> Health:
    return weigh(health, decisions, probes, now, policy=POLICY, jitter=jitter)


def paused(cause: Cause, **more: object) -> Health:
    values = {
        "cause": cause,
        "reason": "x",
        "paused_at": NOW - 10,
        "resumes_at": NOW + 10,
        "level": 1,
        **more,
    }
    return Health(**values)  # type: ignore[arg-type]  # a table's own values


@pytest.mark.parametrize(("probe", "cause"), [(UNREACHABLE, "unreachable"), (WRONG_KEY, "misconfigured")])
def test_a_bad_probe_pauses_the_connection_until_a_good_one(probe: Probe, cause: Cause) -> None:
    health = weighed(Health(), probes=[probe])
    assert (health.cause, health.reason, health.paused_at) == (cause, probe.reason, NOW)
    assert not needs_probe(health, NOW + 0.9)
    assert needs_probe(health, NOW + 1.0)
    assert weighed(health, now=NOW + 1_000) == health, "time alone does not resume it"
    resumed = weighed(health, probes=[GOOD], now=NOW + 30)
    assert (resumed.cause, resumed.paused_for) == (None, 30.0)


def test_probes_of_an_outage_become_rare_up_to_one_a_minute() -> None:
    health, delays = Health(), []
    for _ in range(9):
        health = weighed(health, probes=[UNREACHABLE])
        assert health.resumes_at is not None
        delays.append(health.resumes_at - NOW)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_is_counted_from_its_first_bad_probe() -> None:
    health = weighed(Health(), probes=[UNREACHABLE])
    health = weighed(health, probes=[UNREACHABLE], now=NOW + 60)
    assert health.paused_in_all(NOW + 100) == 100
    assert weighed(health, probes=[GOOD], now=NOW + 100).paused_for == 100


@pytest.mark.parametrize(("asked", "seconds"), [(30.0, 30.0), (0.0, 0.0), (86_400.0, HOUR), (None, 1.0)])
def test_throttling_pauses_the_connection_as_long_as_asked_but_an_hour_at_most(
    asked: float | None, seconds: float
) -> None:
    health = weighed(Health(), (1, Postponed(reason="x", throttled=True, asked=asked)))
    assert (health.cause, health.resumes_at) == ("throttled", NOW + seconds)
    assert weighed(health, now=NOW + seconds).cause is None


def test_the_answers_of_one_burst_are_one_pause() -> None:
    asks = [
        (lane, Postponed(reason="x", throttled=True, asked=asked))
        for lane, asked in enumerate((5.0, 9.0, 2.0))
    ]
    health = weighed(Health(), *asks)
    assert (health.resumes_at, health.level) == (NOW + 9, 1)


def test_throttling_does_not_end_a_pause_that_waits_for_a_probe() -> None:
    health = paused("unreachable")
    assert weighed(health, (1, Postponed(reason="x", throttled=True, asked=0.0))) == health


def test_what_is_put_off_because_of_a_pause_changes_nothing() -> None:
    assert weighed(Health(), (1, Postponed(reason="x"))) == Health()


def test_five_different_lanes_that_fail_in_a_row_pause_the_connection() -> None:
    health = weighed(Health(), *((lane, RETRY) for lane in (1, 2, 2, 3, 1, 4)))
    assert (health.cause, health.suspects) == (None, (1, 2, 3, 4))
    health = weighed(health, (5, RETRY))
    assert (health.cause, health.resumes_at) == ("failing", NOW + 1)


def test_a_success_between_clears_everybody() -> None:
    health = weighed(Health(level=3), *((lane, RETRY) for lane in (1, 2, 3, 4)), (9, Delivered()))
    assert health == Health()


def test_after_such_a_pause_one_delivery_is_on_trial_and_decides() -> None:
    health = weighed(Health(), *((lane, RETRY) for lane in (1, 2, 3, 4, 5)))
    health = weighed(health, now=NOW + 1)
    assert (health.cause, health.on_trial) == (None, True)
    again = weighed(health, (3, RETRY), now=NOW + 2)
    assert (again.cause, again.resumes_at) == ("failing", NOW + 4)
    assert not weighed(health, (3, Delivered()), now=NOW + 2).on_trial


def test_a_good_probe_does_not_end_a_pause_of_another_cause() -> None:
    for health in (paused("throttled"), paused("failing")):
        assert weighed(health, probes=[GOOD]) == health


def test_a_delivery_that_failed_for_good_is_nobody_elses_matter() -> None:
    health = Health(suspects=(1, 2, 3, 4))
    assert weighed(health, (5, FAILED)) == health
    assert replace(health, suspects=()) == weighed(health, (5, Delivered()))
