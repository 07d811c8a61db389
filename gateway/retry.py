"""What to do after an attempt: a pure decision from what happened, how often, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

HOUR = 3600.0
LONGEST_DELAY = 600.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One HTTP try of a delivery and its outcome.

    Attributes:
        status: The HTTP status; None when no whole answer came.
        reason: What went wrong, in words without any secret or body; None when nothing did.
        understood: The answer was Customer.io's JSON (or rightly empty), not some proxy's page.
        retry_after: Seconds that the answer asked us to wait.
        at: When it began, in unix seconds.
        seconds: How long it took.
    """

    status: int | None
    reason: str | None = None
    understood: bool = True
    retry_after: float | None = None
    at: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a connection's deliveries are retried; both in seconds."""

    delay: float = 1.0
    max_age: float = 72 * HOUR


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The call arrived."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Try the same delivery again *after* so many seconds."""

    after: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Give the delivery up and keep it for the operator."""

    reason: str


Decision: TypeAlias = Delivered | Retry | Failed

# Statuses of a request that is right but comes at the wrong time or to the wrong place: it is kept until the
# outage is over or the credentials, the region or the address are put right.
_PASSING = frozenset({401, 403, 404, 408, 425, 429})


def decide(attempt: Attempt, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Decision:
    """Decide what follows an attempt.

    Args:
        tries: Attempts of this delivery so far, this one included.
        failing_for: Seconds since its first failure.
        jitter: A random number in [0, 1).
    """
    status = attempt.status
    if status is not None and 200 <= status < 300 and attempt.understood:
        return Delivered()
    reason = attempt.reason or f"HTTP {status}"
    if status is not None and 400 <= status < 500 and status not in _PASSING:
        return Failed(reason=reason)
    if failing_for >= policy.max_age:
        return Failed(reason=f"{reason} (given up after {failing_for / HOUR:.0f} hours of trying)")
    return Retry(after=_delay(attempt, tries=tries, policy=policy, jitter=jitter), reason=reason)


def _delay(attempt: Attempt, *, tries: int, policy: Policy, jitter: float) -> float:
    """Doubles with each try, spread over its upper half; never sooner than Customer.io asked, an hour at most."""
    doubled = min(policy.delay * 2.0 ** min(tries - 1, 30), LONGEST_DELAY)
    return max(doubled * (0.5 + jitter / 2), min(attempt.retry_after or 0.0, HOUR))
