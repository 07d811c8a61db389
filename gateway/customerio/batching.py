"""Several calls in one request: pack them by size, send them, and halve what is refused as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.customerio import wire
from gateway.customerio.calls import Call, WorkspaceIdentifiers
from gateway.customerio.retry import Attempt
from gateway.customerio.wire import HttpRequest

#: Calls in one batch, at most. More are seldom within its bytes, and all of them wait for one answer.
MOST_ITEMS = 100


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """A call that can go in a batch; *body* is its v2 form."""

    call: Call
    body: bytes


def batch_item(call: Call, workspace: WorkspaceIdentifiers | None = None) -> BatchItem | None:
    """Return a call as an item of a batch; None when it goes singly only (see `Call.item`)."""
    body = call.item(workspace)
    return None if body is None else BatchItem(call=call, body=body)


def pack(sizes: Sequence[int], *, most: int = MOST_ITEMS) -> Iterator[range]:
    """Divide items of these sizes (in bytes), in their order, into batches that Customer.io takes."""
    first, used = 0, wire.batch_size([])
    for number, size in enumerate(sizes):
        more = size + (1 if number > first else 0)
        if number > first and (number - first == most or used + more > wire.MAX_BATCH_BYTES):
            yield range(first, number)
            first, used, more = number, wire.batch_size([]), size
        used += more
    if first < len(sizes):
        yield range(first, len(sizes))


def send_batch(
    items: Sequence[BatchItem],
    send: Callable[[HttpRequest], Attempt],
    may_send: Callable[[], bool] = lambda: True,
) -> list[Attempt | None]:
    """Send calls as one batch and return the attempt of each; None for what there was no time to send.

    A batch that is refused as a whole (400 or 413), or in part without saying which, is halved until each call
    stands alone and is sent singly. So no bad call fails its neighbours. Any other failure is that of all its calls.
    An item that a batch refused is still to be tried singly, where v1 has a form for it: `Attempt.refused_in_batch`.

    Args:
        send: Makes one attempt.
        may_send: Returns whether there is time for another attempt.
    """
    if not may_send():
        return [None] * len(items)
    if len(items) == 1:
        return [send(items[0].call.request())]
    attempt = send(wire.batch(item.body for item in items))
    refused = attempt.refused_items
    if attempt.status == 207 and refused and max(refused) < len(items):
        reasons = [refused.get(number) for number in range(len(items))]
        return [
            replace(attempt, reason=reason, refused_items={0: reason}, refused_in_batch=item.call.has_v1_form)
            if reason
            else replace(attempt, reason=None, refused_items={})
            for reason, item in zip(reasons, items, strict=True)
        ]
    if attempt.status in (207, 413) or (attempt.status == 400 and attempt.understood):
        middle = len(items) // 2
        return send_batch(items[:middle], send, may_send) + send_batch(items[middle:], send, may_send)
    return [attempt] * len(items)
