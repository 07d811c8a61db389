"""What follows an attempt, as a table."""

from __future__ import annotations

import pytest

from gateway.retry import HOUR, Attempt, Decision, Delivered, Failed, Policy, Retry, decide


def after(attempt: Attempt, *, tries: int = 1, failing_for: float = 0.0, jitter: float = 0.0) -> Decision:
    return decide(attempt, tries=tries, failing_for=failing_for, policy=Policy(delay=1.0), jitter=jitter)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_understood_success_is_delivered(status: int) -> None:
    assert after(Attempt(status=status)) == Delivered()


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504, None])
def test_what_may_pass_is_tried_again(status: int | None) -> None:
    assert isinstance(after(Attempt(status=status, reason="x")), Retry)


def test_a_success_that_is_not_customerios_is_tried_again() -> None:
    assert isinstance(after(Attempt(status=200, understood=False, reason="not JSON")), Retry)


@pytest.mark.parametrize("status", [400, 405, 409, 413, 422])
def test_what_customerio_will_never_take_fails(status: int) -> None:
    assert after(Attempt(status=status, reason="no")) == Failed(reason="no")


def test_a_delivery_is_given_up_when_its_time_is_over() -> None:
    attempt = Attempt(status=503, reason="HTTP 503")
    assert isinstance(after(attempt, failing_for=72 * HOUR - 1), Retry)
    assert after(attempt, failing_for=72 * HOUR) == Failed(
        reason="HTTP 503 (given up after 72 hours of trying)"
    )


@pytest.mark.parametrize(
    ("tries", "jitter", "delay"),
    [(1, 0.0, 0.5), (1, 0.999, 0.9995), (2, 0.0, 1.0), (5, 0.0, 8.0), (11, 0.0, 300.0), (1000, 0.5, 450.0)],
)
def test_the_delay_doubles_within_its_spread_up_to_ten_minutes(
    tries: int, jitter: float, delay: float
) -> None:
    assert after(Attempt(status=503, reason="x"), tries=tries, jitter=jitter) == Retry(
        after=pytest.approx(delay),  # type: ignore[arg-type]  # approx stands for a float
        reason="x",
    )


@pytest.mark.parametrize(("asked", "delay"), [(30.0, 30.0), (0.0, 0.5), (86_400.0, HOUR)])
def test_customerios_retry_after_is_kept_up_to_an_hour(asked: float, delay: float) -> None:
    assert after(Attempt(status=429, reason="x", retry_after=asked)) == Retry(after=delay, reason="x")
