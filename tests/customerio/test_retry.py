"""What follows an attempt, and what becomes of its connection, as tables."""

from __future__ import annotations

from collections.abc import Sequence
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
    Failed,
    Policy,
    Postponed,
    Probe,
    Retry,
    is_doubtful,
    judge,
    needs_probe,
    next_state,
    policy_with,
    retry_delay_at_once,
)
from gateway.event import JSON

POLICY = Policy(delay=1.0)
ALL_ERRORS = Policy(delay=1.0, all_errors=True)
NOW = 1_767_225_600.0

DELIVERED = Delivered()
FAILED = Failed(reason="x")
RETRY = Retry(after=0.5, reason="x")
NOT_SUSPECT = Retry(after=0.5, reason="x", suspect=False)
AT_ONCE = Retry(after=0.0, reason="x", suspect=False, alone=False)


def attempt(status: int | None, **more: object) -> Attempt:
    return Attempt(**{"status": status, "reason": "x", **more})  # type: ignore[arg-type]  # a table's own values


def throttled(retry_after: float | None = None) -> Postponed:
    return Postponed(reason="x", throttled=True, retry_after=retry_after)


REFUSED_ITEM = attempt(207, refused_items={0: "x"})
SINGLY_NEXT = attempt(207, refused_items={0: "x"}, refused_in_batch=True)

# What happened · the attempt · is it doubtful · what follows (after a good probe, if it is) · the same where the policy
# retries all errors.
CASES: list[tuple[str, Attempt, bool, Decision, Decision]] = [
    ("arrived", attempt(200), False, DELIVERED, DELIVERED),
    ("arrived without a body", attempt(204), False, DELIVERED, DELIVERED),
    ("arrived in a batch", Attempt(status=207), False, DELIVERED, DELIVERED),
    ("refused in a batch", REFUSED_ITEM, False, FAILED, NOT_SUSPECT),
    ("refused in a batch, and still to be sent singly", SINGLY_NEXT, False, AT_ONCE, AT_ONCE),
    ("outage: no answer", attempt(None), True, RETRY, RETRY),
    ("outage: a server error", attempt(500), True, RETRY, RETRY),
    ("outage: unavailable", attempt(503), True, RETRY, RETRY),
    ("outage: something else answers", attempt(200, understood=False), True, RETRY, RETRY),
    ("outage: a proxy refuses", attempt(400, understood=False), True, RETRY, RETRY),
    ("throttled", attempt(429), False, throttled(), throttled()),
    ("throttled for a time", attempt(429, retry_after=7.0), False, throttled(7.0), throttled(7.0)),
    ("throttled by a 503", attempt(503, retry_after=7.0), False, throttled(7.0), throttled(7.0)),
    ("redirected", attempt(302), True, RETRY, RETRY),
    # Nothing of the key or of the endpoint is ever the call's own fault.
    ("wrong key", attempt(401), True, RETRY, RETRY),
    ("wrong key, whatever is named", attempt(401, about_call=True), True, RETRY, RETRY),
    ("forbidden", attempt(403), True, RETRY, RETRY),
    ("no such endpoint", attempt(404), True, RETRY, RETRY),
    ("what the call names does not exist", attempt(404, about_call=True), True, FAILED, NOT_SUSPECT),
    ("timeout of the request", attempt(408), False, RETRY, RETRY),
    ("too early", attempt(425), False, RETRY, RETRY),
    ("refused", attempt(400), False, FAILED, NOT_SUSPECT),
    ("refused: too large", attempt(413), False, FAILED, NOT_SUSPECT),
    ("refused: unprocessable", attempt(422), False, FAILED, NOT_SUSPECT),
    ("no request can be made of it", attempt(None, sendable=False), False, FAILED, FAILED),
]


@pytest.mark.parametrize(("name", "made", "doubtful", "decision", "with_all_errors"), CASES)
def test_a_failure_is_judged_by_its_kind(
    name: str, made: Attempt, doubtful: bool, decision: Decision, with_all_errors: Decision
) -> None:
    assert is_doubtful(made) is doubtful
    assert judge(made, tries=1, failing_for=0.0, policy=POLICY, jitter=0.0) == decision
    assert judge(made, tries=1, failing_for=0.0, policy=ALL_ERRORS, jitter=0.0) == with_all_errors


@pytest.mark.parametrize(
    ("status", "policy", "hours"),
    [
        *((status, POLICY, 72) for status in (503, 401, 404, 408)),
        (400, ALL_ERRORS, 72),
        (400, replace(ALL_ERRORS, max_age=2 * HOUR), 2),
    ],
)
def test_a_delivery_is_given_up_when_it_has_failed_for_too_long(status: int, policy: Policy, hours: int) -> None:
    def after(failing_for: float) -> Decision:
        return judge(attempt(status), tries=9, failing_for=failing_for, policy=policy, jitter=0.0)

    assert after(hours * HOUR - 1) == Retry(after=128.0, reason="x", suspect=status != 400)
    assert after(hours * HOUR) == Failed(reason=f"x (given up after {hours} hours of trying)")


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
@pytest.mark.parametrize("status", [400, 401, 408, 500])
def test_no_more_retries_are_made_than_the_policy_allows(
    status: int, most: int | None, tries: int, reason: str | None
) -> None:
    policy = Policy(max=most, all_errors=True)
    decision = judge(attempt(status), tries=tries, failing_for=0.0, policy=policy, jitter=0.0)
    assert isinstance(decision, Retry) if reason is None else decision == Failed(reason=reason)


def test_an_item_that_a_batch_refused_is_sent_singly_however_few_retries_are_allowed() -> None:
    assert judge(SINGLY_NEXT, tries=1, failing_for=0.0, policy=Policy(max=0), jitter=0.0) == AT_ONCE
    assert retry_delay_at_once(SINGLY_NEXT, tries=1, policy=Policy(max=0), jitter=0.0) == 0.0


def test_throttling_counts_no_tries() -> None:
    assert judge(attempt(429), tries=9, failing_for=0.0, policy=Policy(max=0), jitter=0.0) == throttled()


@pytest.mark.parametrize(
    ("policy", "jitter", "expected"),
    [
        (Policy(), 0.0, [0.5, 1, 2, 4]),
        (Policy(), 0.5, [0.75, 1.5, 3, 6]),
        (Policy(), 0.999, [0.9995, 1.999, 3.998, 7.996]),
        (Policy(jitter=False), 0.0, [1, 2, 4, 8]),
        (Policy(jitter=False, delay=0.2), 0.5, [0.2, 0.4, 0.8, 1.6]),
        (Policy(jitter=False, exponential=False), 0.5, [1, 1, 1, 1]),
        (Policy(exponential=False), 0.0, [0.5, 0.5, 0.5, 0.5]),
        (Policy(jitter=False, delay=200.0), 0.5, [200, 400, 600, 600]),
        (Policy(jitter=False, exponential=False, delay=900.0), 0.5, [600, 600, 600, 600]),
    ],
)
def test_the_delay_is_that_of_the_policy(policy: Policy, jitter: float, expected: list[float]) -> None:
    made = attempt(408)
    decisions = [judge(made, tries=tries, failing_for=0.0, policy=policy, jitter=jitter) for tries in (1, 2, 3, 4)]
    assert [retry.after for retry in decisions if isinstance(retry, Retry)] == pytest.approx(expected)


@pytest.mark.parametrize(("tries", "jitter", "delay"), [(11, 0.0, 300.0), (1_000, 0.5, 450.0)])
def test_the_delay_grows_up_to_ten_minutes(tries: int, jitter: float, delay: float) -> None:
    assert judge(attempt(503), tries=tries, failing_for=0.0, policy=POLICY, jitter=jitter) == replace(
        RETRY, after=delay
    )


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
def test_a_raw_requests_own_settings_replace_those_of_the_policy(own: dict[str, JSON], expected: Policy) -> None:
    before = dict(own)
    assert policy_with(Policy(max=5, delay=2.0), own) == expected
    assert own == before


# Connections

UNREACHABLE = Probe(cause="unreachable", reason="down")
WRONG_KEY = Probe(cause="misconfigured", reason="HTTP 401")
GOOD = Probe()
NEW = ConnectionState()


def following(
    state: ConnectionState, *decisions: tuple[int, Decision], probes: Sequence[Probe] = (), now: float = NOW
) -> ConnectionState:
    return next_state(state, decisions, probes, now, policy=POLICY, jitter=1.0)


def retries(*lanes: int) -> list[tuple[int, Decision]]:
    return [(lane, RETRY) for lane in lanes]


def paused(cause: Cause) -> ConnectionState:
    return ConnectionState(cause=cause, reason="x", paused_at=NOW - 10, resumes_at=NOW + 10, level=1)


@pytest.mark.parametrize(("probe", "cause"), [(UNREACHABLE, "unreachable"), (WRONG_KEY, "misconfigured")])
def test_a_bad_probe_pauses_the_connection_until_a_good_one(probe: Probe, cause: Cause) -> None:
    state = following(NEW, probes=[probe])
    assert (state.cause, state.reason, state.paused_at) == (cause, probe.reason, NOW)
    assert not needs_probe(state, NOW + 0.9)
    assert needs_probe(state, NOW + 1.0)
    assert following(state, now=NOW + 1_000) == state, "time alone does not resume it"
    resumed = following(state, probes=[GOOD], now=NOW + 30)
    assert (resumed.cause, resumed.paused_for) == (None, 30.0)


@pytest.mark.parametrize(
    ("probe", "expected"), [(UNREACHABLE, [1, 2, 4, 5, 5, 5, 5, 5]), (WRONG_KEY, [1, 2, 4, 8, 16, 32, 60, 60])]
)
def test_probes_become_rare_and_in_an_outage_up_to_one_in_five_seconds(probe: Probe, expected: list[float]) -> None:
    state, delays = NEW, []
    for _ in expected:
        state = following(state, probes=[probe])
        assert state.resumes_at is not None
        delays.append(state.resumes_at - NOW)
    assert delays == expected


def test_a_pause_counts_from_its_first_bad_probe() -> None:
    state = following(NEW, probes=[UNREACHABLE])
    state = following(state, probes=[UNREACHABLE], now=NOW + 60)
    assert state.paused_in_all(NOW + 100) == 100
    assert following(state, probes=[GOOD], now=NOW + 100).paused_for == 100


@pytest.mark.parametrize(("retry_after", "seconds"), [(30.0, 30.0), (0.0, 0.0), (86_400.0, HOUR), (None, 1.0)])
def test_throttling_pauses_the_connection_for_as_long_as_asked_but_an_hour_at_most(
    retry_after: float | None, seconds: float
) -> None:
    state = following(NEW, (1, throttled(retry_after)))
    assert (state.cause, state.resumes_at) == ("throttled", NOW + seconds)
    assert following(state, now=NOW + seconds).cause is None


def test_the_answers_of_one_burst_are_one_pause() -> None:
    state = following(NEW, (0, throttled(5.0)), (1, throttled(9.0)), (2, throttled(2.0)))
    assert (state.resumes_at, state.level) == (NOW + 9, 1)


@pytest.mark.parametrize(
    ("state", "decisions", "probes"),
    [
        pytest.param(paused("unreachable"), [(1, throttled(0.0))], [], id="throttling, while a probe is waited for"),
        pytest.param(NEW, [(1, Postponed(reason="x"))], [], id="a delivery that is postponed by a pause"),
        pytest.param(paused("throttled"), [], [GOOD], id="a good probe, while throttled"),
        pytest.param(paused("failing"), [], [GOOD], id="a good probe, while failing"),
        pytest.param(ConnectionState(suspects=(1, 2, 3, 4)), [(5, FAILED)], [], id="a delivery that failed for good"),
        pytest.param(NEW, [(lane, NOT_SUSPECT) for lane in range(50)], [], id="refusals that are retried"),
        pytest.param(ConnectionState(suspects=(1, 2, 3, 4)), [(5, NOT_SUSPECT)], [], id="one, beside suspects"),
        pytest.param(ConnectionState(suspects=(1, 2, 3, 4, 5)), [(1, NOT_SUSPECT)], [], id="one, while on trial"),
    ],
)
def test_some_things_change_nothing(
    state: ConnectionState, decisions: list[tuple[int, Decision]], probes: list[Probe]
) -> None:
    assert following(state, *decisions, probes=probes) == state


def test_five_different_lanes_that_fail_in_a_row_pause_the_connection() -> None:
    state = following(NEW, *retries(1, 2, 2, 3, 1, 4))
    assert (state.cause, state.suspects) == (None, (1, 2, 3, 4))
    state = following(state, *retries(5))
    assert (state.cause, state.resumes_at) == ("failing", NOW + 1)


def test_a_success_clears_all_suspects() -> None:
    assert following(ConnectionState(level=3), *retries(1, 2, 3, 4), (9, DELIVERED)) == NEW


def test_trouble_lasts_from_the_first_suspect_to_a_success() -> None:
    state = following(following(NEW, *retries(1)), *retries(2), now=NOW + 9)
    assert state.failing_since == NOW
    assert following(state, (3, DELIVERED)).failing_since is None


def test_a_call_that_arrives_ends_the_pause_for_calls_that_failed() -> None:
    state = following(NEW, *retries(1, 2, 3, 4, 5))
    assert following(state, (6, DELIVERED), now=NOW + 0.5) == ConnectionState(paused_for=0.5)


def test_after_such_a_pause_a_few_deliveries_are_on_trial_and_decide() -> None:
    state = following(NEW, *retries(1, 2, 3, 4, 5))
    state = following(state, now=NOW + 1)
    assert (state.cause, state.on_trial) == (None, True)
    again = following(state, *retries(3), now=NOW + 2)
    assert (again.cause, again.resumes_at) == ("failing", NOW + 4)
    assert not following(state, (3, DELIVERED), now=NOW + 2).on_trial


# Calls that are sent at once


@pytest.mark.parametrize(
    ("name", "made", "delay", "with_all_errors"),
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
        ("timeout of the request", attempt(408), 0.5, 0.5),
        ("too early", attempt(425, retry_after=7.0), 7.0, 7.0),
        ("refused", attempt(400), None, 0.5),
        ("refused for a time", attempt(400, retry_after=7.0), None, 7.0),
        ("refused in a batch", REFUSED_ITEM, None, 0.5),
        ("refused in a batch, and still to be sent singly", SINGLY_NEXT, 0.0, 0.0),
        ("too large", attempt(413), None, 0.5),
        ("wrong key", attempt(401), None, 0.5),
        ("forbidden", attempt(403), None, 0.5),
        ("no such endpoint", attempt(404), None, 0.5),
        ("wrong region", attempt(301), None, 0.5),
        ("something else answers", attempt(200, understood=False), None, 0.5),
        ("a proxy refuses", attempt(400, understood=False), None, 0.5),
        ("a batch without a clear answer", attempt(207, understood=False), None, 0.5),
    ],
)
def test_a_call_that_is_sent_at_once_is_retried_where_that_may_help(
    name: str, made: Attempt, delay: float | None, with_all_errors: float | None
) -> None:
    assert retry_delay_at_once(made, tries=1, policy=POLICY, jitter=0.0) == delay
    assert retry_delay_at_once(made, tries=1, policy=ALL_ERRORS, jitter=0.0) == with_all_errors


@pytest.mark.parametrize(("most", "number"), [(None, RETRIES), (0, 0), (1, 1), (7, 7)])
@pytest.mark.parametrize("made", [attempt(500), attempt(None), attempt(429, retry_after=1.0)])
def test_a_call_that_is_sent_at_once_is_retried_three_times_unless_its_policy_says(
    made: Attempt, most: int | None, number: int
) -> None:
    delays = [retry_delay_at_once(made, tries=tries, policy=Policy(max=most), jitter=0.0) for tries in range(1, 12)]
    assert [delay is not None for delay in delays] == [retry < number for retry in range(11)]


def test_a_delay_of_the_policy_is_kept_however_long_it_is() -> None:
    policy = Policy(delay=400.0, jitter=False)
    delays = [retry_delay_at_once(attempt(500), tries=tries, policy=policy, jitter=0.0) for tries in (1, 2)]
    assert delays == [400, 600]
