"""Large bodies wait for their turn, in a queue for each source that refuses instead of growing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gateway.receive.large_bodies import LARGE_BODY, MOST_WAITING, LargeBodies, NoTurnError

LARGE = b"x" * LARGE_BODY
#: Seconds after which a thread that should have ended has hung.
LONG = 30.0


@contextmanager
def waiting(bodies: LargeBodies, source: str, number: int, order: list[str]) -> Iterator[None]:
    """Let so many threads ask for a turn, one after the other; on exit wait until all have had it."""
    threads: list[threading.Thread] = []
    for _ in range(number):
        before = bodies.waiting(source)

        def take() -> None:
            with bodies.turn(source, LARGE):
                order.append(source)

        threads.append(threading.Thread(target=take))
        threads[-1].start()
        while bodies.waiting(source) == before:
            threads[-1].join(0.001)
            assert threads[-1].is_alive()
    yield
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_full_queue_refuses_at_once_and_hinders_no_other_source() -> None:
    bodies, order = LargeBodies(patience=LONG), list[str]()
    with ExitStack() as later, bodies.turn("other", LARGE):
        later.enter_context(waiting(bodies, "flooded", MOST_WAITING, order))
        with pytest.raises(NoTurnError), bodies.turn("flooded", LARGE):
            pass
        with bodies.turn("flooded", LARGE[1:]):  # small: it does not wait
            pass
        later.enter_context(waiting(bodies, "quiet", 1, order))
    # Usually only one of the flooded queue comes before it, but locks of threads are not fair.
    assert order.index("quiet") < MOST_WAITING
    assert len(order) == MOST_WAITING + 1
    with bodies.turn("flooded", LARGE):
        pass


def test_a_turn_that_does_not_come_in_time_is_refused_and_leaves_the_queue() -> None:
    bodies = LargeBodies(patience=0.0)
    with bodies.turn("shop", LARGE):
        for source in ("shop", "other") * MOST_WAITING:
            with pytest.raises(NoTurnError), bodies.turn(source, LARGE):
                pass
    assert (bodies.waiting("shop"), bodies.waiting("other")) == (0, 0)
    with bodies.turn("other", LARGE):
        pass


def test_an_error_while_a_body_is_verified_ends_its_turn() -> None:
    bodies = LargeBodies(patience=0.0)
    with pytest.raises(ZeroDivisionError), bodies.turn("shop", LARGE):
        _ = 1 / 0
    with bodies.turn("shop", LARGE):
        pass
