"""Deciding what follows each attempt, with one probe for all attempts that may be the connection's fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from gateway.customerio.retry import (
    Attempt,
    Decision,
    Failed,
    Policy,
    Postponed,
    Retry,
    is_doubtful,
    judge,
    policy_with,
    postpone,
)
from gateway.deliver.send import SendResult
from gateway.store import Outcome
from gateway.store.connection_state import ProbeResult, Target

log = logging.getLogger(__name__)


class Decisions:
    """Decides about the results of a worker, and keeps those in doubt until their connection is probed.

    Args:
        policies: How the deliveries of each connection are retried.
        jitter: Returns a random number in [0, 1).
    """

    def __init__(self, policies: Mapping[str, Policy], jitter: Callable[[], float]) -> None:
        self._policies = policies
        self._jitter = jitter
        self._doubtful: list[SendResult] = []  # no probe that can decide about them has begun
        self._probing: dict[Target, list[SendResult]] = {}  # those that each running probe decides about

    @property
    def probing(self) -> set[Target]:
        """The connections that this worker is probing."""
        return set(self._probing)

    @property
    def doubted(self) -> set[Target]:
        """The connections that have to be probed."""
        return {result.target for result in self._in_doubt()}

    @property
    def stopped(self) -> set[Target]:
        """Those of them to which nothing more is sent until then: what had not failed before has failed now."""
        return {result.target for result in self._in_doubt() if not result.deliveries[0].is_retried}

    @property
    def number_in_doubt(self) -> int:
        """How many deliveries wait for a probe."""
        return sum(len(result.deliveries) for result in self._in_doubt())

    def decide(self, result: SendResult) -> list[Outcome]:
        """Return the outcomes of a result; none while only a probe can tell whose fault it is."""
        if is_doubtful(result.attempt):
            self._doubtful.append(result)
            return []
        return self._judge(result)

    def begin_probe(self, target: Target) -> None:
        """Let a probe that begins now decide about what is in doubt; what comes later waits for the next probe."""
        self._probing[target] = [result for result in self._doubtful if result.target == target]
        self._doubtful = [result for result in self._doubtful if result.target != target]

    def on_probe(self, probe_result: ProbeResult) -> list[Outcome]:
        """Return the outcomes that a probe decides."""
        decide = self._judge if probe_result.probe.cause is None else _postpone
        return [outcome for result in self._probing.pop(probe_result.target) for outcome in decide(result)]

    def on_pause(self, paused: Collection[Target]) -> list[Outcome]:
        """Return the outcomes of what is in doubt on connections that another worker's probe has paused."""
        paused = set(paused) - self._probing.keys()
        postponed = [result for result in self._doubtful if result.target in paused]
        self._doubtful = [result for result in self._doubtful if result.target not in paused]
        return [outcome for result in postponed for outcome in _postpone(result)]

    def on_stop(self) -> list[Outcome]:
        """Return the outcomes of all that is in doubt: no probe is waited for."""
        return [outcome for result in self._in_doubt() for outcome in _postpone(result)]

    def _in_doubt(self) -> list[SendResult]:
        return [*self._doubtful, *(result for results in self._probing.values() for result in results)]

    def _judge(self, result: SendResult) -> list[Outcome]:
        policy = self._policies.get(result.target.connection, Policy())
        if result.retry:
            policy = policy_with(policy, result.retry)
        decisions = [
            judge(
                result.attempt,
                tries=delivery.tries + 1,
                failing_for=delivery.failing_for,
                policy=policy,
                jitter=self._jitter(),
            )
            for delivery in result.deliveries
        ]
        return _outcomes(result, decisions)


def _postpone(result: SendResult) -> list[Outcome]:
    return _outcomes(result, [postpone(result.attempt)] * len(result.deliveries))


def _outcomes(result: SendResult, decisions: Sequence[Decision]) -> list[Outcome]:
    log_decision(result, decisions[0])
    outcomes = []
    for number, (delivery, decision) in enumerate(zip(result.deliveries, decisions, strict=True)):
        if isinstance(decision, Retry):
            # A batch is one failure, not one of each of its customers, so only its first accuses the connection.
            # What has failed before says nothing new.
            suspect = decision.suspect and not number and not delivery.is_retried
            decision = replace(decision, suspect=suspect, alone=decision.alone and len(result.deliveries) == 1)
        outcomes.append(Outcome(delivery=delivery, attempt=result.attempt, decision=decision))
    return outcomes


def log_decision(result: SendResult, decision: Decision) -> None:
    """Log what did not arrive; of a batch only its first delivery and its size."""
    subject = f"delivery {result.deliveries[0].id}"
    if more := len(result.deliveries) - 1:
        subject += f" and {more} sent with it"
    match decision:
        case Retry(after=after):
            log.warning("%s: %s; next try in %.1f s", subject, _summary(result.attempt), after)
        case Postponed():
            log.warning("%s: %s; it waits for its connection", subject, _summary(result.attempt))
        case Failed():
            log.error("%s: failed: %s", subject, _summary(result.attempt))


def _summary(attempt: Attempt) -> str:
    # Customer.io's own words may quote what was sent, so they stay in the database.
    return f"HTTP {attempt.status}" if attempt.status is not None else attempt.reason or "no answer"
