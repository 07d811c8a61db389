"""Several calls in one request, and what came of each: no bad call fails its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat

from gateway.customerio import wire
from gateway.customerio.calls import Call
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

#: Calls in one batch, at most: what fails as a whole is not too much, and its bytes seldom come near their limit.
MOST_ITEMS = 100


class Ready:
    """A call as it can go out: alone, and (unless *item* is None) as a part of a batch."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.item = call.item()

    @property
    def request(self) -> HttpRequest:
        """The single request, which is seldom needed where there is an item."""
        return self.call.request()


def pack(sizes: Sequence[int], *, most: int = MOST_ITEMS) -> Iterator[range]:
    """Divide items of these sizes, in their order, into batches that Customer.io takes."""
    first, used = 0, wire.batch_size([])
    for number, size in enumerate(sizes):
        more = size + (1 if number > first else 0)
        if number > first and (number - first == most or used + more > wire.MAX_BATCH_BYTES):
            yield range(first, number)
            first, used, more = number, wire.batch_size([]), size
        used += more
    if first < len(sizes):
        yield range(first, len(sizes))


def send_together(
    batch: Sequence[Ready],
    send: Callable[[HttpRequest], Attempt],
    may_send: Callable[[], bool] = lambda: True,
) -> list[Attempt | None]:
    """Send calls as one batch and tell what came of each; None: there was no time for it.

    What is refused as a whole (400 or 413), or in part without saying which, is halved until each call stands
    alone, and that one goes singly. Every other failure is that of all its calls.

    Args:
        send: Makes one attempt.
        may_send: Tells whether there is time for another.
    """
    if not may_send():
        return list(repeat(None, len(batch)))
    if len(batch) == 1:
        return [send(batch[0].request)]
    items = [each.item for each in batch if each.item is not None]
    assert len(items) == len(batch), "what has no item goes singly"
    attempt = send(wire.batch(items))
    if attempt.status == 207 and _is_told(attempt, len(batch)):
        return [_of_item(attempt, number) for number in range(len(batch))]
    if attempt.status in (207, 413) or (attempt.status == 400 and attempt.understood):
        middle = len(batch) // 2
        halves = (batch[:middle], batch[middle:])
        return [each for half in halves for each in send_together(half, send, may_send)]
    return list(repeat(attempt, len(batch)))


def _is_told(attempt: Attempt, number: int) -> bool:
    return bool(attempt.refused_items) and max(attempt.refused_items) < number


def _of_item(attempt: Attempt, number: int) -> Attempt:
    reason = attempt.refused_items.get(number)
    return replace(attempt, reason=reason, refused_items={} if reason is None else {0: reason})
