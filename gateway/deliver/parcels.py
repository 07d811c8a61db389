"""What a worker sends in one request: a delivery alone, or many of different customers together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.customerio.batching import Ready, pack
from gateway.customerio.calls import Call, from_json
from gateway.store import Claimed
from gateway.store.connection_state import Target


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Deliveries to one target that go out together.

    Attributes:
        ready: Their calls, where they are a batch; a single delivery is only read when it is sent.
        claimed_at: When the claim was asked for, by the monotonic clock: the lease began no earlier.
    """

    target: Target
    deliveries: tuple[Claimed, ...]
    ready: tuple[Ready, ...] = ()
    claimed_at: float


def parcels_of(claimed: Sequence[Claimed], idle: Mapping[Target, int], claimed_at: float) -> Iterator[Parcel]:
    """Divide deliveries into parcels: singly while there are senders idle for all of them, else in batches.

    What has failed before goes singly, so that it is seen whose fault it is, and so does what has no form
    for a batch or cannot be read.

    Args:
        idle: How many requests can be sent to each target at once.
    """
    for target in dict.fromkeys(each.target for each in claimed):
        its = [each for each in claimed if each.target == target]
        batched = list(_batchable(its)) if len(its) > idle.get(target, 0) else []
        for span in pack([len(ready.item or b"") for _, ready in batched]):
            deliveries, ready = zip(*batched[span.start : span.stop], strict=True)
            yield Parcel(target=target, deliveries=deliveries, ready=ready, claimed_at=claimed_at)
        together = {each.id for each, _ in batched}
        for each in its:
            if each.id not in together:
                yield Parcel(target=target, deliveries=(each,), claimed_at=claimed_at)


def read(delivery: Claimed) -> Call:
    """Read the call of a delivery. Raises whatever a call that cannot be read makes fail."""
    return from_json(json.loads(delivery.call))


def _batchable(deliveries: Sequence[Claimed]) -> Iterator[tuple[Claimed, Ready]]:
    for each in deliveries:
        if each.tries:
            continue
        try:
            ready = Ready(read(each))
        except Exception:  # noqa: BLE001, S112  # alone it fails again, and then it is settled as what it is
            continue
        if ready.item is not None:
            yield each, ready
