"""What follows an attempt: pure decisions about its delivery, and about the connection that it used.

A failure is judged by its kind. Where the connection may be at fault, the attempt is doubtful, and one probe is
made for all such attempts. A bad probe pauses the connection and counts against no delivery. After a good probe the
delivery itself is retried or fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from gateway.event import JSON

HOUR = 3600.0
#: Seconds between two attempts of one delivery, at most.
LONGEST_DELAY = 600.0
#: Seconds of a pause whose end nobody can tell, at most.
LONGEST_PAUSE = 60.0
#: The same where Customer.io may be well again at any moment: a probe, or five calls on trial, in each 5 seconds are
#: nothing beside the 1,000 requests a second that it takes.
LONGEST_OUTAGE_PAUSE = 5.0
#: Failures in a row, each of another lane, after which the connection is paused; as many calls are then on trial.
MOST_SUSPECTS = 5
#: Retries of a call that is sent at once, by the command line or the library, unless its policy says.
RETRIES = 3

Cause: TypeAlias = Literal["unreachable", "misconfigured", "throttled", "failing"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One HTTP try of a delivery and its outcome.

    Attributes:
        status: The HTTP status; None when no whole answer came.
        reason: What went wrong, without any secret or body; None when nothing did.
        understood: The answer was Customer.io's JSON (or rightly empty), not the page of a proxy.
        refused_items: The items of a batch that were refused, by their number from 0, and why. All others arrived.
        refused_in_batch: It was an item of a batch, and its call has yet to be sent singly, in its v1 form: a workspace
            may take that where it refuses the item.
        about_call: The answer names something of the call that is wrong. A 404 that does not is the endpoint's own.
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
    refused_in_batch: bool = False
    about_call: bool = False
    retry_after: float | None = None
    at: float = 0.0
    seconds: float = 0.0
    sendable: bool = True
    debug: str | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How the calls of a connection are retried.

    Attributes:
        max: Retries, at most; None leaves it to *max_age* (or, for a call that is sent at once, to RETRIES).
        delay: Seconds before the first retry.
        exponential: Double the delay with each retry.
        jitter: Spread the delay at random over its upper half.
        all_errors: Retry also what Customer.io refuses for good.
        max_age: Seconds of failing after which a delivery is given up.
    """

    max: int | None = None
    delay: float = 1.0
    exponential: bool = True
    jitter: bool = True
    all_errors: bool = False
    max_age: float = 72 * HOUR


def policy_with(policy: Policy, own: Mapping[str, JSON]) -> Policy:
    """Return *policy* with a raw request's own settings: `max`, `delay_ms`, `exponential`, `all_errors`."""
    settings: dict[str, Any] = dict(own)
    if "delay_ms" in settings:
        settings["delay"] = settings.pop("delay_ms") / 1_000
    return replace(policy, **settings)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The call arrived."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Try the delivery again *after* so many seconds.

    Attributes:
        suspect: The connection may be at fault: such failures of several lanes in a row pause it.
        alone: The delivery failed by itself and not as an item of a batch, so its next failure would be no surprise.
    """

    after: float
    reason: str
    suspect: bool = True
    alone: bool = True


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Give the delivery up and keep it for the operator."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Postponed:
    """Send the delivery again as soon as its connection is open; the attempt does not count.

    Attributes:
        throttled: Customer.io asked for fewer requests, so the connection pauses.
        retry_after: Seconds that it asked us to wait.
    """

    reason: str
    throttled: bool = False
    retry_after: float | None = None


Decision: TypeAlias = Delivered | Retry | Failed | Postponed


# Deliveries

_Kind: TypeAlias = Literal["delivered", "unsendable", "throttled", "refused", "retryable", "doubtful"]


def _kind(attempt: Attempt) -> _Kind:
    status = attempt.status or 0
    if not attempt.sendable:
        return "unsendable"
    if attempt.refused_items:
        return "refused"
    # Asking us to wait is about all requests, whatever this one was.
    if status == 429 or (status >= 500 and attempt.retry_after is not None):
        return "throttled"
    # A proxy or a captive portal answers anything, 200 too. A wrong key or region answers 401, 403 or 404.
    if not attempt.understood or status in (401, 403, 404):
        return "doubtful"
    if 200 <= status < 300:
        return "delivered"
    # Customer.io took too long to read the request, or is not ready for it yet.
    if status in (408, 425):
        return "retryable"
    if 400 <= status < 500:
        return "refused"
    # No answer, a redirect (we send to the wrong region), or an error of the server.
    return "doubtful"


def is_doubtful(attempt: Attempt) -> bool:
    """Return whether the connection may be at fault, so that nothing is decided before it is probed."""
    return _kind(attempt) == "doubtful"


def judge(attempt: Attempt, *, tries: int, failing_for: float, policy: Policy, jitter: float) -> Decision:
    """Decide what follows an attempt; what follows a doubtful one if the probe was good.

    Args:
        tries: Attempts of this delivery that count, this one included.
        failing_for: Seconds since its first failure, without those in which its connection was paused.
        jitter: A random number in [0, 1).
    """
    kind, reason = _kind(attempt), attempt.reason or f"HTTP {attempt.status}"
    if attempt.refused_in_batch:
        return Retry(after=0.0, reason=reason, suspect=False, alone=False)
    if kind == "doubtful":
        # The connection is well, so a 4xx is the call's own fault. But a 401 or 403 is about the key, and a 404 about
        # the endpoint unless it names something of the call: no call is lost for an answer wrong for a moment.
        status = attempt.status or 0
        own_fault = 400 <= status < 500 and attempt.understood and status not in (401, 403)
        kind = "refused" if own_fault and (status != 404 or attempt.about_call) else "retryable"
    match kind:
        case "delivered":
            return Delivered()
        case "throttled":
            return Postponed(reason=reason, throttled=True, retry_after=attempt.retry_after)
        case "unsendable":
            return Failed(reason=reason)
        case "refused" if not policy.all_errors:
            return Failed(reason=reason)
    if failing_for >= policy.max_age:
        return Failed(reason=f"{reason} (given up after {failing_for / HOUR:.0f} hours of trying)")
    if policy.max is not None and tries > policy.max:
        return Failed(reason=f"{reason} (given up after {tries} {'try' if tries == 1 else 'tries'})")
    # A refusal says that Customer.io is well, so retrying it accuses nobody.
    return Retry(after=_delay(policy, tries, jitter), reason=reason, suspect=kind != "refused")


def postpone(attempt: Attempt) -> Postponed:
    """Decide what follows a doubtful attempt after a bad probe: it does not count against the delivery."""
    return Postponed(reason=attempt.reason or f"HTTP {attempt.status}")


def retry_delay_at_once(attempt: Attempt, *, tries: int, policy: Policy, jitter: float) -> float | None:
    """Return the seconds until the next attempt of a call that is sent at once; None: there is none.

    No probe is made here, and the caller gets the error. So what a proxy, a wrong key or a wrong region may have
    answered is as final as a refusal, and a wait of over a minute is left to the caller.
    """
    if attempt.refused_in_batch:
        return 0.0
    kind = _kind(attempt)
    if kind in ("delivered", "unsendable") or tries > (RETRIES if policy.max is None else policy.max):
        return None
    is_final = kind == "refused" or (kind == "doubtful" and 200 <= (attempt.status or 0) < 500)
    if is_final and not policy.all_errors:
        return None
    if attempt.retry_after is not None:
        return attempt.retry_after if attempt.retry_after <= LONGEST_PAUSE else None
    return _delay(policy, tries, jitter)


def _delay(policy: Policy, tries: int, jitter: float) -> float:
    doublings = tries - 1 if policy.exponential else 0
    return _backoff(policy.delay, doublings, LONGEST_DELAY, jitter if policy.jitter else 1.0)


def _backoff(first: float, doublings: int, longest: float, jitter: float) -> float:
    return min(first * 2.0 ** min(doublings, 30), longest) * (0.5 + jitter / 2)


# Connections


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The result of asking Customer.io for the connection's region; *cause* is None when all is well."""

    cause: Literal["unreachable", "misconfigured"] | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConnectionState:
    """The circuit breaker of a connection: it lets deliveries through, or is paused for a cause.

    All workers share it. Times are unix seconds by the clock of the database.

    Attributes:
        resumes_at: When the pause ends by itself, or when the next probe may end it.
        level: Pauses in a row without a success between. Each is longer than the one before.
        suspects: The lanes that failed since the last success.
        failing_since: When the first of them failed.
        paused_for: Seconds of all pauses that have ended.
    """

    cause: Cause | None = None
    reason: str | None = None
    paused_at: float | None = None
    resumes_at: float | None = None
    level: int = 0
    suspects: tuple[int, ...] = ()
    failing_since: float | None = None
    paused_for: float = 0.0

    @property
    def on_trial(self) -> bool:
        """Whether only a few deliveries at a time are sent, until one arrives ("half-open")."""
        return len(self.suspects) >= MOST_SUSPECTS

    def paused_in_all(self, now: float) -> float:
        """Return the seconds of all pauses, the present one included."""
        return self.paused_for + (max(now - self.paused_at, 0.0) if self.paused_at is not None else 0.0)


# Only a good probe ends a pause for one of these causes; the others end with time.
_ENDED_BY_PROBE = ("unreachable", "misconfigured")


def needs_probe(state: ConnectionState, now: float) -> bool:
    """Return whether a paused connection is due to be probed."""
    return state.cause in _ENDED_BY_PROBE and state.resumes_at is not None and state.resumes_at <= now


def next_state(
    state: ConnectionState,
    decisions: Sequence[tuple[int, Decision]],
    probes: Sequence[Probe],
    now: float,
    *,
    policy: Policy,
    jitter: float,
) -> ConnectionState:
    """Return the state of a connection after one turn of a worker.

    Args:
        decisions: Each with the lane of its delivery; for a delivery without a lane, a number of its own.
        probes: Results of the probes that this worker had the right to make.
    """
    is_over = state.resumes_at is not None and state.resumes_at <= now
    if is_over and state.cause in ("throttled", "failing"):
        state = _resumed(state, now)
    for lane, decision in decisions:
        state = _after_decision(state, lane, decision, now, policy=policy, jitter=jitter)
    for probe in probes:
        if probe.cause is not None:
            state = _paused(state, probe.cause, probe.reason, now, policy=policy, jitter=jitter)
        elif state.cause in _ENDED_BY_PROBE:
            state = _resumed(state, now)
    return state


def _after_decision(
    state: ConnectionState, lane: int, decision: Decision, now: float, *, policy: Policy, jitter: float
) -> ConnectionState:
    match decision:
        case Delivered():
            if state.cause == "failing":
                state = _resumed(state, now)
            return replace(state, suspects=(), failing_since=None, level=0) if state.suspects or state.level else state
        case Postponed(throttled=True) if state.cause not in _ENDED_BY_PROBE:
            return _paused(
                state, "throttled", decision.reason, now, retry_after=decision.retry_after, policy=policy, jitter=jitter
            )
        case Retry(suspect=True) if lane not in state.suspects or state.on_trial:
            suspects = tuple(dict.fromkeys((*state.suspects, lane)))[-MOST_SUSPECTS:]
            state = replace(state, suspects=suspects, failing_since=state.failing_since or now)
            if not state.on_trial or state.cause is not None:
                return state
            reason = f"{MOST_SUSPECTS} customers' calls failed in a row; the last: {decision.reason}"
            return _paused(state, "failing", reason, now, policy=policy, jitter=jitter)
        case _:
            return state


def _paused(
    state: ConnectionState,
    cause: Cause,
    reason: str | None,
    now: float,
    *,
    retry_after: float | None = None,
    policy: Policy,
    jitter: float,
) -> ConnectionState:
    longest = LONGEST_OUTAGE_PAUSE if cause in ("unreachable", "failing") else LONGEST_PAUSE
    seconds = _backoff(policy.delay, state.level, longest, jitter)
    resumes_at = now + (seconds if retry_after is None else min(retry_after, HOUR))
    if state.cause == cause == "throttled":
        # Several answers of one burst ask for the same: they are one pause, as long as the longest.
        return replace(state, reason=reason, resumes_at=max(resumes_at, state.resumes_at or 0.0))
    return replace(
        state,
        cause=cause,
        reason=reason,
        paused_at=now if state.paused_at is None else state.paused_at,
        resumes_at=resumes_at,
        level=state.level + 1,
    )


def _resumed(state: ConnectionState, now: float) -> ConnectionState:
    paused_for = state.paused_in_all(now)
    return replace(state, cause=None, reason=None, paused_at=None, resumes_at=None, paused_for=paused_for)
