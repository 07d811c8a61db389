"""An answer is asked for once a second, however many want it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from gateway.errors import StoreError
from gateway.receive.remembered import Remembered


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_counts_for_a_second() -> None:
    clock, numbers = Clock(), count()
    remembered = Remembered(lambda: next(numbers), clock=clock)
    assert [remembered.get(), remembered.get()] == [0, 0]
    clock.now = 0.99
    assert remembered.get() == 0
    clock.now = 1.0
    assert [remembered.get(), remembered.get()] == [1, 1]


def test_an_error_counts_for_a_second_too() -> None:
    clock, numbers = Clock(), count()

    def ask() -> int:
        if (number := next(numbers)) < 2:
            raise StoreError(f"problem {number}")
        return number

    remembered = Remembered(ask, clock=clock)
    for now, problem in ((0.0, "problem 0"), (0.5, "problem 0"), (1.0, "problem 1")):
        clock.now = now
        with pytest.raises(StoreError, match=problem):
            remembered.get()
    clock.now = 2.0
    assert remembered.get() == 2


def test_one_asks_while_the_others_wait_for_its_answer() -> None:
    asked, may_answer = count(), threading.Event()

    def ask() -> int:
        number = next(asked)
        assert may_answer.wait(30)
        return number

    remembered = Remembered(ask, patience=30.0, clock=Clock())
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(remembered.get) for _ in range(20)]
        may_answer.set()
        assert {answer.result(30) for answer in answers} == {0}
    assert next(asked) == 1


def test_who_waits_too_long_for_the_answer_of_another_gets_an_error() -> None:
    asking, may_answer = threading.Event(), threading.Event()

    def ask() -> int:
        asking.set()
        assert may_answer.wait(30)
        return 1

    remembered = Remembered(ask, patience=0.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(remembered.get)
        assert asking.wait(30)
        with pytest.raises(StoreError, match="does not answer in time"):
            remembered.get()
        may_answer.set()
        assert first.result(30) == 1
