"""An answer that is remembered for a second, for addresses that anybody may ask as often as they like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.errors import StoreError

Answer = TypeVar("Answer")

#: Seconds for which an answer counts, and those that others wait for the one who asks.
VALID_FOR = 1.0
PATIENCE = 2.0


class Remembered(Generic[Answer]):
    """What a function returns, or the StoreError that it raises; one at a time calls it.

    Args:
        clock: Returns seconds.
    """

    def __init__(
        self, ask: Callable[[], Answer], *, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._clock = clock
        self._asking = threading.Lock()
        self._valid_until = float("-inf")
        self._answer: Callable[[], Answer]

    def get(self) -> Answer:
        """Return the answer, which is a second old at most.

        Raises:
            StoreError: The function raised it, or did not return in time.
        """
        if self._valid_until <= self._clock():
            if not self._asking.acquire(timeout=self._patience):
                raise StoreError("the database does not answer in time")
            try:
                if self._valid_until <= self._clock():  # nobody asked while this one waited
                    self._answer = self._ask_once()
                    self._valid_until = self._clock() + VALID_FOR
            finally:
                self._asking.release()
        return self._answer()

    def _ask_once(self) -> Callable[[], Answer]:
        """Return what gives the answer again, or raises the error again."""
        try:
            answer = self._ask()
        except StoreError as error:
            problem = str(error)

            def fail() -> Answer:
                raise StoreError(problem)

            return fail
        return lambda: answer
