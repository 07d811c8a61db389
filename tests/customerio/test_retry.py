"""What follows an attempt, and what becomes of its connection, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from gateway.customerio.retry import (
    HOUR,
    LONGEST_PAUSE,
    RETRIES,
    Attempt,
    Cause,
    ConnectionState,
    Decision,
    Delivered,
    Doubtful,
    Failed,
    Policy,
    Postponed,
    Probe,
    Retry,
    again_after,
    judge,
    judge_alone,
    needs_probe,
    policy_with,
    weigh,
)
from gateway.event import JSON

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
    ("misconfiguration: wrong key", attempt(401), DOUBTFUL, RETRY),
    ("misconfiguration: wrong key, whatever is named", attempt(401, about_call=True), DOUBTFUL, RETRY),
    ("misconfiguration: forbidden", attempt(403), DOUBTFUL, RETRY),
    ("misconfiguration: wrong address", attempt(404), DOUBTFUL, RETRY),
    ("what the call names is not there", attempt(404, about_call=True), DOUBTFUL, FAILED),
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
    def after(failing_for: float, status: int) -> Decision:
        return judge_alone(attempt(status), tries=9, failing_for=failing_for, policy=POLICY, jitter=0.0)

    for status in (503, 401, 404):
        assert after(72 * HOUR - 1, status) == Retry(after=128.0, reason="x")
        assert after(72 * HOUR, status) == Failed(reason="x (given up after 72 hours of trying)")


@pytest.mark.parametrize(
    ("tries", "jitter", "delay"),
    [(1, 0.0, 0.5), (1, 0.999, 0.9995), (2, 0.0, 1.0), (5, 0.0, 8.0), (11, 0.0, 300.0), (1000, 0.5, 450.0)],
)
def test_the_delay_doubles_within_its_spread_up_to_ten_minutes(tries: int, jitter: float, delay: float) -> None:
    retry = judge_alone(attempt(503), tries=tries, failing_for=0.0, policy=POLICY, jitter=jitter)
    assert isinstance(retry, Retry)
    assert retry.after == pytest.approx(delay)


# Connections

UNREACHABLE = Probe(cause="unreachable", reason="down")
WRONG_KEY = Probe(cause="misconfigured", reason="HTTP 401")
GOOD = Probe()


def weighed(
    health: ConnectionState,
    *decisions: tuple[int, Decision],
    probes: Sequence[Probe] = (),
    now: float = NOW,
    jitter: float = 1.0,
) -> ConnectionState:
    return weigh(health, decisions, probes, now, policy=POLICY, jitter=jitter)


def paused(cause: Cause, **more: object) -> ConnectionState:
    values = {
        "cause": cause,
        "reason": "x",
        "paused_at": NOW - 10,
        "resumes_at": NOW + 10,
        "level": 1,
        **more,
    }
    return ConnectionState(**values)  # type: ignore[arg-type]  # a table's own values


@pytest.mark.parametrize(("probe", "cause"), [(UNREACHABLE, "unreachable"), (WRONG_KEY, "misconfigured")])
def test_a_bad_probe_pauses_the_connection_until_a_good_one(probe: Probe, cause: Cause) -> None:
    health = weighed(ConnectionState(), probes=[probe])
    assert (health.cause, health.reason, health.paused_at) == (cause, probe.reason, NOW)
    assert not needs_probe(health, NOW + 0.9)
    assert needs_probe(health, NOW + 1.0)
    assert weighed(health, now=NOW + 1_000) == health, "time alone does not resume it"
    resumed = weighed(health, probes=[GOOD], now=NOW + 30)
    assert (resumed.cause, resumed.paused_for) == (None, 30.0)


def test_probes_of_an_outage_become_rare_up_to_one_a_minute() -> None:
    health, delays = ConnectionState(), []
    for _ in range(9):
        health = weighed(health, probes=[UNREACHABLE])
        assert health.resumes_at is not None
        delays.append(health.resumes_at - NOW)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_pause_is_counted_from_its_first_bad_probe() -> None:
    health = weighed(ConnectionState(), probes=[UNREACHABLE])
    health = weighed(health, probes=[UNREACHABLE], now=NOW + 60)
    assert health.paused_in_all(NOW + 100) == 100
    assert weighed(health, probes=[GOOD], now=NOW + 100).paused_for == 100


@pytest.mark.parametrize(("asked", "seconds"), [(30.0, 30.0), (0.0, 0.0), (86_400.0, HOUR), (None, 1.0)])
def test_throttling_pauses_the_connection_as_long_as_asked_but_an_hour_at_most(
    asked: float | None, seconds: float
) -> None:
    health = weighed(ConnectionState(), (1, Postponed(reason="x", throttled=True, asked=asked)))
    assert (health.cause, health.resumes_at) == ("throttled", NOW + seconds)
    assert weighed(health, now=NOW + seconds).cause is None


def test_the_answers_of_one_burst_are_one_pause() -> None:
    asks = [(lane, Postponed(reason="x", throttled=True, asked=asked)) for lane, asked in enumerate((5.0, 9.0, 2.0))]
    health = weighed(ConnectionState(), *asks)
    assert (health.resumes_at, health.level) == (NOW + 9, 1)


def test_throttling_does_not_end_a_pause_that_waits_for_a_probe() -> None:
    health = paused("unreachable")
    assert weighed(health, (1, Postponed(reason="x", throttled=True, asked=0.0))) == health


def test_what_is_put_off_because_of_a_pause_changes_nothing() -> None:
    assert weighed(ConnectionState(), (1, Postponed(reason="x"))) == ConnectionState()


def test_five_different_lanes_that_fail_in_a_row_pause_the_connection() -> None:
    health = weighed(ConnectionState(), *((lane, RETRY) for lane in (1, 2, 2, 3, 1, 4)))
    assert (health.cause, health.suspects) == (None, (1, 2, 3, 4))
    health = weighed(health, (5, RETRY))
    assert (health.cause, health.resumes_at) == ("failing", NOW + 1)


def test_a_success_between_clears_everybody() -> None:
    health = weighed(ConnectionState(level=3), *((lane, RETRY) for lane in (1, 2, 3, 4)), (9, Delivered()))
    assert health == ConnectionState()


def test_after_such_a_pause_one_delivery_is_on_trial_and_decides() -> None:
    health = weighed(ConnectionState(), *((lane, RETRY) for lane in (1, 2, 3, 4, 5)))
    health = weighed(health, now=NOW + 1)
    assert (health.cause, health.on_trial) == (None, True)
    again = weighed(health, (3, RETRY), now=NOW + 2)
    assert (again.cause, again.resumes_at) == ("failing", NOW + 4)
    assert not weighed(health, (3, Delivered()), now=NOW + 2).on_trial


def test_a_good_probe_does_not_end_a_pause_of_another_cause() -> None:
    for health in (paused("throttled"), paused("failing")):
        assert weighed(health, probes=[GOOD]) == health


def test_a_delivery_that_failed_for_good_is_nobody_elses_matter() -> None:
    health = ConnectionState(suspects=(1, 2, 3, 4))
    assert weighed(health, (5, FAILED)) == health
    assert replace(health, suspects=()) == weighed(health, (5, Delivered()))


# Policies


def delays(policy: Policy, *, jitter: float = 0.5, number: int = 4) -> list[float]:
    found = []
    for tries in range(1, number + 1):
        retry = judge(attempt(408), tries=tries, failing_for=0.0, policy=policy, jitter=jitter)
        assert isinstance(retry, Retry)
        found.append(retry.after)
    return found


@pytest.mark.parametrize(
    ("policy", "jitter", "expected"),
    [
        (Policy(), 0.0, [0.5, 1, 2, 4]),
        (Policy(), 0.5, [0.75, 1.5, 3, 6]),
        (Policy(jitter=False), 0.0, [1, 2, 4, 8]),
        (Policy(jitter=False, delay=0.2), 0.5, [0.2, 0.4, 0.8, 1.6]),
        (Policy(jitter=False, exponential=False), 0.5, [1, 1, 1, 1]),
        (Policy(exponential=False), 0.0, [0.5, 0.5, 0.5, 0.5]),
        (Policy(jitter=False, delay=200.0), 0.5, [200, 400, 600, 600]),
        (Policy(jitter=False, exponential=False, delay=900.0), 0.5, [600, 600, 600, 600]),
    ],
)
def test_the_delay_is_that_of_the_policy(policy: Policy, jitter: float, expected: list[float]) -> None:
    assert delays(policy, jitter=jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("most", "tries", "reason"),
    [
        (None, 1_000, None),
        (3, 3, None),
        (3, 4, "x (given up after 4 tries)"),
        (3, 9, "x (given up after 9 tries)"),
        (0, 1, "x (given up after 1 try)"),
    ],
)
@pytest.mark.parametrize(("rule", "made"), [(judge, attempt(408)), (judge_alone, attempt(500))])
def test_no_more_tries_are_made_than_the_policy_allows(
    rule: Callable[..., Decision | Doubtful],
    made: Attempt,
    most: int | None,
    tries: int,
    reason: str | None,
) -> None:
    decision = rule(made, tries=tries, failing_for=0.0, policy=Policy(max=most), jitter=0.0)
    assert isinstance(decision, Retry) is (reason is None)
    assert reason is None or decision == Failed(reason=reason)


def test_a_connection_that_is_in_doubt_counts_no_tries() -> None:
    policy = Policy(max=0)
    assert judge(attempt(500), tries=9, failing_for=0.0, policy=policy, jitter=0.0) == DOUBTFUL
    throttled = judge(attempt(429), tries=9, failing_for=0.0, policy=policy, jitter=0.0)
    assert throttled == Postponed(reason="x", throttled=True)


OF_A_BATCH = attempt(207, refused_items={0: "x"})
NOT_SUSPECT = Retry(after=0.5, reason="x", suspect=False)
# Where all errors are tried again: the attempt, what follows, and what follows once a good probe has told.
ALL_ERRORS: list[tuple[Attempt, Decision | Doubtful, Decision | None]] = [
    (attempt(400), NOT_SUSPECT, None),
    (attempt(413), NOT_SUSPECT, None),
    (attempt(422), NOT_SUSPECT, None),
    (OF_A_BATCH, NOT_SUSPECT, None),
    (attempt(404, about_call=True), DOUBTFUL, NOT_SUSPECT),
    (attempt(None, sendable=False), FAILED, None),
    # What is tried again anyway may be the connection's fault as before.
    (attempt(401), DOUBTFUL, RETRY),
    (attempt(404), DOUBTFUL, RETRY),
    (attempt(408), RETRY, None),
    (attempt(500), DOUBTFUL, RETRY),
    (attempt(None), DOUBTFUL, RETRY),
]


@pytest.mark.parametrize(("made", "first", "alone"), ALL_ERRORS)
def test_where_all_errors_are_tried_again_a_refusal_is_and_accuses_nobody(
    made: Attempt, first: Decision | Doubtful, alone: Decision | None
) -> None:
    policy = replace(POLICY, all_errors=True)
    assert judge(made, tries=1, failing_for=0.0, policy=policy, jitter=0.0) == first
    if alone is not None:
        assert judge_alone(made, tries=1, failing_for=0.0, policy=policy, jitter=0.0) == alone


@pytest.mark.parametrize(
    ("policy", "failing_for", "reason"),
    [
        (Policy(all_errors=True, max=2), 0.0, "x (given up after 3 tries)"),
        (Policy(all_errors=True), 72 * HOUR, "x (given up after 72 hours of trying)"),
        (Policy(all_errors=True, max_age=2 * HOUR), 2 * HOUR, "x (given up after 2 hours of trying)"),
    ],
)
def test_all_errors_are_not_tried_again_for_ever(policy: Policy, failing_for: float, reason: str) -> None:
    decision = judge(attempt(400), tries=3, failing_for=failing_for, policy=policy, jitter=0.0)
    assert decision == Failed(reason=reason)


def test_a_refused_item_of_a_batch_has_failed_and_the_others_arrived() -> None:
    refused = judge(OF_A_BATCH, tries=1, failing_for=0.0, policy=POLICY, jitter=0.0)
    arrived = judge(Attempt(status=207), tries=1, failing_for=0.0, policy=POLICY, jitter=0.0)
    assert (refused, arrived) == (FAILED, Delivered())


def test_refusals_that_are_tried_again_pause_no_connection() -> None:
    health = weighed(ConnectionState(), *((lane, NOT_SUSPECT) for lane in range(50)))
    assert health == ConnectionState()
    suspects = weighed(ConnectionState(), *((lane, RETRY) for lane in range(4)))
    assert weighed(suspects, *((lane, NOT_SUSPECT) for lane in range(4, 50))) == suspects
    on_trial = weighed(weighed(ConnectionState(), *((lane, RETRY) for lane in range(5))), now=NOW + 1)
    assert on_trial.on_trial
    assert weighed(on_trial, (1, NOT_SUSPECT), now=NOW + 2) == on_trial


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, Policy(max=5, delay=2.0)),
        ({"max": 1}, Policy(max=1, delay=2.0)),
        ({"max": 0}, Policy(max=0, delay=2.0)),
        ({"delay_ms": 250}, Policy(max=5, delay=0.25)),
        ({"delay_ms": 1}, Policy(max=5, delay=0.001)),
        ({"exponential": False}, Policy(max=5, delay=2.0, exponential=False)),
        ({"all_errors": True}, Policy(max=5, delay=2.0, all_errors=True)),
        (
            {"max": 9, "delay_ms": 600_000, "exponential": False, "all_errors": True},
            Policy(max=9, delay=600.0, exponential=False, all_errors=True),
        ),
    ],
)
def test_a_requests_own_settings_stand_in_the_place_of_the_policys(own: dict[str, JSON], expected: Policy) -> None:
    given = dict(own)
    assert policy_with(Policy(max=5, delay=2.0), own) == expected
    assert own == given


# Sent at once


@pytest.mark.parametrize(
    ("name", "made", "after", "with_all_errors"),
    [
        ("arrived", attempt(200), None, None),
        ("arrived in a batch", attempt(207), None, None),
        ("no request can be made of it", attempt(None, sendable=False), None, None),
        ("no answer", attempt(None), 0.5, 0.5),
        ("a server error", attempt(500), 0.5, 0.5),
        ("unavailable", attempt(503), 0.5, 0.5),
        ("a proxy's error", attempt(502, understood=False), 0.5, 0.5),
        ("unavailable for a time", attempt(503, retry_after=7.0), 7.0, 7.0),
        ("throttled", attempt(429), 0.5, 0.5),
        ("throttled for a time", attempt(429, retry_after=7.0), 7.0, 7.0),
        ("throttled for no time", attempt(429, retry_after=0.0), 0.0, 0.0),
        ("throttled for a minute", attempt(429, retry_after=LONGEST_PAUSE), 60.0, 60.0),
        ("throttled for longer", attempt(429, retry_after=LONGEST_PAUSE + 0.1), None, None),
        ("too early", attempt(408), 0.5, 0.5),
        ("too early", attempt(425, retry_after=7.0), 7.0, 7.0),
        ("refused", attempt(400), None, 0.5),
        ("refused for a time", attempt(400, retry_after=7.0), None, 7.0),
        ("refused in a batch", OF_A_BATCH, None, 0.5),
        ("too large", attempt(413), None, 0.5),
        ("wrong key", attempt(401), None, 0.5),
        ("forbidden", attempt(403), None, 0.5),
        ("wrong address", attempt(404), None, 0.5),
        ("wrong region", attempt(301), None, 0.5),
        ("something else answers", attempt(200, understood=False), None, 0.5),
        ("a proxy refuses", attempt(400, understood=False), None, 0.5),
        ("a batch of which nothing is told", attempt(207, understood=False), None, 0.5),
    ],
)
def test_what_is_sent_at_once_is_tried_again_where_that_may_help(
    name: str, made: Attempt, after: float | None, with_all_errors: float | None
) -> None:
    assert again_after(made, tries=1, policy=POLICY, jitter=0.0) == after
    stubborn = replace(POLICY, all_errors=True)
    assert again_after(made, tries=1, policy=stubborn, jitter=0.0) == with_all_errors


@pytest.mark.parametrize(("most", "retries"), [(None, RETRIES), (0, 0), (1, 1), (7, 7)])
@pytest.mark.parametrize("made", [attempt(500), attempt(None), attempt(429, retry_after=1.0)])
def test_what_is_sent_at_once_is_tried_three_times_again_unless_its_policy_says(
    made: Attempt, most: int | None, retries: int
) -> None:
    policy = Policy(max=most)
    waits = [again_after(made, tries=tries, policy=policy, jitter=0.0) for tries in range(1, 12)]
    assert [wait is not None for wait in waits] == [number < retries for number in range(11)]


def test_a_delay_of_the_policy_is_waited_for_however_long_it_is() -> None:
    policy = Policy(delay=400.0, jitter=False)
    assert [again_after(attempt(500), tries=tries, policy=policy, jitter=0.0) for tries in (1, 2)] == [
        400,
        600,
    ]
