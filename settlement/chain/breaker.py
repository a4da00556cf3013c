"""A circuit breaker: after several unanswered calls in a row, further calls fail at once.

Without it, every request that needs the chain would wait for its own time-out while the node is
down.
"""

import threading
from collections.abc import Callable

from settlement.errors import ChainUnavailable

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0


class Breaker:
    """Opens after `failures_max` unanswered calls in a row. Safe for many threads.

    It stays open for half a second; each further failure doubles that, up to 15 seconds.
    """

    def __init__(self, clock: Callable[[], float], failures_max: int = 5) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def admit(self) -> None:
        """Raise ChainUnavailable while open. The first caller after the pause is let through."""
        with self._lock:
            if self._failures < self._failures_max:
                return
            now = self._clock()
            if now < self._open_until:
                left = self._open_until - now
                raise ChainUnavailable(
                    f"the node left {self._failures} calls in a row unanswered; "
                    f"next try in {left:.1f} s"
                )
            self._open_until = now + self._pause()

    def answered(self) -> None:
        """A call was answered, even if with an error: close."""
        with self._lock:
            self._failures = 0

    def unanswered(self) -> None:
        """A call was not answered: count it."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._failures_max:
                self._open_until = self._clock() + self._pause()

    def _pause(self) -> float:
        doublings = min(self._failures - self._failures_max, 16)
        return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**doublings)
