"""What to do after an attempt: pure decisions about a delivery, and about the connection that it goes to.

A failure is judged by its kind. What could be the connection's fault is doubtful until a probe has told: a
bad probe pauses the connection and counts against no delivery, a good one leaves the delivery to blame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from gateway.event import JSON

HOUR = 3600.0
#: Seconds between two tries of one delivery, at most.
LONGEST_DELAY = 600.0
#: Seconds between two probes of a connection, at most.
LONGEST_PAUSE = 60.0
#: Different lanes that fail in a row, without a success between, before the connection is to blame.
MOST_SUSPECTS = 5

Cause: TypeAlias = Literal["unreachable", "misconfigured", "throttled", "failing"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One HTTP try of a delivery and its outcome.

    Attributes:
        status: The HTTP status; None when no whole answer came.
        reason: What went wrong, in words without any secret or body; None when nothing did.
        understood: The answer was Customer.io's JSON (or rightly empty), not some proxy's page.
        refused_items: Which items of a batch were refused, by their number from 0, and why; all others arrived.
        about_call: The answer names something of the call that is wrong; a 404 without it is the endpoint's own.
        retry_after: Seconds that the answer asked us to wait.
        at: When it began, in unix seconds.
        seconds: How long it took.
        sendable: False when no request could be made of the delivery at all.
        debug: What was sent and answered, without credentials, where a raw request asks for it.
    """

    status: int | None
    reason: str | None = None
    understood: bool = True
    refused_items: Mapping[int, str] = field(default_factory=dict)
    about_call: bool = False
    retry_after: float | None = None
    at: float = 0.0
    seconds: float = 0.0
    sendable: bool = True
    debug: str | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a connection's calls are retried.

    Attributes:
        max: Tries beside the first, at most; None leaves it to the time (or, within one process, to RETRIES).
        delay: Seconds before the first retry.
        exponential: The delay doubles from one retry to the next.
        jitter: The delay is spread at random over its upper half.
        all_errors: What Customer.io refuses for good is tried again too.
        max_age: Seconds of failing after which a delivery is given up.
    """

    max: int | None = None
    delay: float = 1.0
    exponential: bool = True
    jitter: bool = True
    all_errors: bool = False
    max_age: float = 72 * HOUR


#: Tries beside the first of a call that is sent at once, by the command line or the library, unless its policy says.
RETRIES = 3


def policy_with(policy: Policy, own: Mapping[str, JSON]) -> Policy:
    """Put a raw request's own settings (`max`, `delay_ms`, `exponential`, `all_errors`) in a policy's place."""
    settings: dict[str, Any] = dict(own)
    if "delay_ms" in settings:
        settings["delay"] = settings.pop("delay_ms") / 1_000
    return replace(policy, **settings)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The call arrived."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Try the same delivery again *after* so many seconds.

    Attributes:
        suspect: The connection may be to blame, so it counts when several fail in a row.
    """

    after: float
    reason: str
    suspect: bool = True


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Give the delivery up and keep it for the operator."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Postponed:
    """Nothing is held against the delivery: it goes out again as soon as its connection does.

    Attributes:
        throttled: Customer.io asked for less; the connection pauses.
        asked: For how many seconds, if it said so.
    """

    reason: str
    throttled: bool = False
    asked: float | None = None


@dataclass(frozen=True, kw_only=True)
class Doubtful:
    """The connection may be to blame: a probe has to tell before anything is decided."""

    reason: str


Decision: TypeAlias = Delivered | Retry | Failed | Postponed


# A delivery


def judge(attempt: Attempt, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Decision | Doubtful:
    """Decide what follows an attempt, as far as it can be told without a probe.

    Args:
        tries: Attempts of this delivery that count, this one included.
        failing_for: Seconds since its first failure, without those in which its connection was paused.
        jitter: A random number in [0, 1).
    """
    reason = _reason(attempt)
    match _kind(attempt):
        case "good":
            return Delivered()
        case "unsendable":
            return Failed(reason=reason)
        case "refused":
            return _refused(reason, tries=tries, failing_for=failing_for, policy=policy, jitter=jitter)
        case "throttled":
            return Postponed(reason=reason, throttled=True, asked=attempt.retry_after)
        case "again":
            return _retry(reason, tries=tries, failing_for=failing_for, policy=policy, jitter=jitter)
        case _:
            return Doubtful(reason=reason)


def judge_alone(attempt: Attempt, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Decision:
    """Decide what follows a doubtful attempt once a probe has found that the connection is well."""
    reason = _reason(attempt)
    status = attempt.status or 0
    # A 401 or 403 is about the key, and a 404 mostly about the endpoint: no call is at fault for these, so none
    # is lost for an answer that was wrong for a moment.
    is_endpoints = status in (401, 403) or (status == 404 and not attempt.about_call)
    if attempt.understood and 400 <= status < 500 and not is_endpoints:
        return _refused(reason, tries=tries, failing_for=failing_for, policy=policy, jitter=jitter)
    return _retry(reason, tries=tries, failing_for=failing_for, policy=policy, jitter=jitter)


def postpone(attempt: Attempt) -> Postponed:
    """Put off a doubtful attempt: its connection was not well, so it does not count against the call."""
    return Postponed(reason=_reason(attempt))


def _kind(
    attempt: Attempt,
) -> Literal["good", "unsendable", "refused", "throttled", "again", "doubtful"]:
    status = attempt.status or 0
    if not attempt.sendable:
        return "unsendable"
    if attempt.refused_items:
        return "refused"
    if status == 429 or (status >= 500 and attempt.retry_after is not None):
        return "throttled"
    if not attempt.understood or status in (401, 403, 404):
        return "doubtful"
    if 200 <= status < 300:
        return "good"
    if 400 <= status < 500:
        return "again" if status in (408, 425) else "refused"
    return "doubtful"


def _reason(attempt: Attempt) -> str:
    return attempt.reason or f"HTTP {attempt.status}"


def _refused(reason: str, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Retry | Failed:
    if not policy.all_errors:
        return Failed(reason=reason)
    decision = _retry(reason, tries=tries, failing_for=failing_for, policy=policy, jitter=jitter)
    return replace(decision, suspect=False) if isinstance(decision, Retry) else decision


def _retry(reason: str, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Retry | Failed:
    if failing_for >= policy.max_age:
        return Failed(reason=f"{reason} (given up after {failing_for / HOUR:.0f} hours of trying)")
    if policy.max is not None and tries > policy.max:
        return Failed(reason=f"{reason} (given up after {tries} {'try' if tries == 1 else 'tries'})")
    return Retry(after=_delay(policy, tries, jitter), reason=reason)


def _delay(policy: Policy, tries: int, jitter: float) -> float:
    doublings = tries - 1 if policy.exponential else 0
    return _spread(policy.delay, doublings, LONGEST_DELAY, jitter if policy.jitter else 1.0)


def again_after(attempt: Attempt, *, tries: int, policy: Policy, jitter: float) -> float | None:
    """Decide whether a call that is sent at once is tried again, and after how many seconds; None: no more.

    Here nobody asks whether the connection is well: what a proxy, a wrong key or a wrong region could have
    answered is as final as a refusal. A longer wait than a minute is left to whoever waits.
    """
    kind = _kind(attempt)
    most = RETRIES if policy.max is None else policy.max
    if kind in ("good", "unsendable") or tries > most:
        return None
    status = attempt.status or 0
    if not policy.all_errors and kind not in ("throttled", "again") and 200 <= status < 500:
        return None
    delay = _delay(policy, tries, jitter) if attempt.retry_after is None else attempt.retry_after
    return delay if delay <= LONGEST_PAUSE or attempt.retry_after is None else None


def _spread(first: float, doublings: int, most: float, jitter: float) -> float:
    """Double with each try, and spread over the upper half."""
    return min(first * 2.0 ** min(doublings, 30), most) * (0.5 + jitter / 2)


# A connection


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What asking Customer.io for the connection's region came to; *cause* is None when all is well."""

    cause: Literal["unreachable", "misconfigured"] | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConnectionState:
    """How a connection is: open, or paused for a cause. Times are those of the database, in unix seconds.

    Attributes:
        resumes_at: When the pause ends by itself, or when the next probe may end it.
        level: How many pauses there were without a success between: each is longer than the last.
        suspects: The lanes that failed since the last success.
        paused_for: Seconds of all pauses that have ended.
    """

    cause: Cause | None = None
    reason: str | None = None
    paused_at: float | None = None
    resumes_at: float | None = None
    level: int = 0
    suspects: tuple[int, ...] = ()
    paused_for: float = 0.0

    @property
    def on_trial(self) -> bool:
        """One delivery at a time, until one arrives: the last five all failed."""
        return len(self.suspects) >= MOST_SUSPECTS

    def paused_in_all(self, now: float) -> float:
        """Count the seconds of all pauses, the present one included."""
        return self.paused_for + (max(now - self.paused_at, 0.0) if self.paused_at is not None else 0.0)


# Pauses that only a good probe ends.
_PROBED = ("unreachable", "misconfigured")


def needs_probe(health: ConnectionState, now: float) -> bool:
    """Tell that a paused connection is due to be probed."""
    return health.cause in _PROBED and health.resumes_at is not None and health.resumes_at <= now


def after_time(health: ConnectionState, now: float) -> ConnectionState:
    """Resume a connection whose pause ends by itself."""
    over = health.resumes_at is not None and health.resumes_at <= now
    return _resumed(health, now) if over and health.cause in ("throttled", "failing") else health


def after_probe(health: ConnectionState, probe: Probe, now: float, *, policy: Policy, jitter: float) -> ConnectionState:
    """Resume a connection, or pause it until the next probe."""
    if probe.cause is not None:
        return _paused(health, probe.cause, probe.reason, None, now, policy=policy, jitter=jitter)
    return _resumed(health, now) if health.cause in _PROBED else health


def after_decision(
    health: ConnectionState, lane: int, decision: Decision, now: float, *, policy: Policy, jitter: float
) -> ConnectionState:
    """Weigh what a delivery came to: throttling pauses its connection, and so do too many that fail in a row.

    Args:
        lane: Of the delivery; for one without a lane, anything that is its own.
    """
    match decision:
        case Delivered():
            return replace(health, suspects=(), level=0) if health.suspects or health.level else health
        case Postponed(throttled=True) if health.cause not in _PROBED:
            reason, asked = decision.reason, decision.asked
            return _paused(health, "throttled", reason, asked, now, policy=policy, jitter=jitter)
        case Retry(suspect=True) if lane not in health.suspects or health.on_trial:
            suspects = tuple(dict.fromkeys((*health.suspects, lane)))[-MOST_SUSPECTS:]
            suspected = replace(health, suspects=suspects)
            if not suspected.on_trial or health.cause is not None:
                return suspected
            reason = f"{MOST_SUSPECTS} customers' calls failed in a row; the last: {decision.reason}"
            return _paused(suspected, "failing", reason, None, now, policy=policy, jitter=jitter)
        case _:
            return health


def _paused(
    health: ConnectionState,
    cause: Cause,
    reason: str | None,
    asked: float | None,
    now: float,
    *,
    policy: Policy,
    jitter: float,
) -> ConnectionState:
    growing = _spread(policy.delay, health.level, LONGEST_PAUSE, jitter)
    resumes_at = now + (growing if asked is None else min(asked, HOUR))
    if health.cause == cause == "throttled":
        # Several answers of one burst ask for the same: they are one pause, as long as the longest.
        return replace(health, reason=reason, resumes_at=max(resumes_at, health.resumes_at or 0.0))
    return replace(
        health,
        cause=cause,
        reason=reason,
        paused_at=now if health.paused_at is None else health.paused_at,
        resumes_at=resumes_at,
        level=health.level + 1,
    )


def _resumed(health: ConnectionState, now: float) -> ConnectionState:
    return replace(
        health,
        cause=None,
        reason=None,
        paused_at=None,
        resumes_at=None,
        paused_for=health.paused_in_all(now),
    )


def weigh(
    health: ConnectionState,
    decided: Sequence[tuple[int, Decision]],
    probes: Sequence[Probe],
    now: float,
    *,
    policy: Policy,
    jitter: float,
) -> ConnectionState:
    """Work out how a connection is after all that became of it in one turn of a worker."""
    health = after_time(health, now)
    for lane, decision in decided:
        health = after_decision(health, lane, decision, now, policy=policy, jitter=jitter)
    for probe in probes:
        health = after_probe(health, probe, now, policy=policy, jitter=jitter)
    return health
