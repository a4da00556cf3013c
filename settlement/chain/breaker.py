"""A circuit breaker: after several calls in a row went unanswered, callers are refused at once.

Without it every request that needs the chain waits out its own time-out while the node is down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from settlement.errors import ChainUnavailable


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`failures` in a row open it, for `first_seconds`, doubled each time up to `most_seconds`."""

    failures: int = 5
    first_seconds: float = 0.5
    most_seconds: float = 15.0


class Breaker:
    """Counts what went unanswered. Safe for many threads."""

    def __init__(self, clock: Callable[[], float], settings: BreakerSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or BreakerSettings()
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def admit(self) -> None:
        """Pass, or raise ChainUnavailable while open. The first caller after that is the trial."""
        with self._lock:
            if self._failures < self._settings.failures:
                return
            now = self._clock()
            if now < self._open_until:
                left = self._open_until - now
                raise ChainUnavailable(
                    f"{self._failures} calls in a row went unanswered; next try in {left:.1f} s"
                )
            self._open_until = now + self._pause()

    def answered(self) -> None:
        """A call was answered, whatever the answer: closed again."""
        with self._lock:
            self._failures = 0

    def unanswered(self) -> None:
        """A call was not."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._settings.failures:
                self._open_until = self._clock() + self._pause()

    def _pause(self) -> float:
        doublings = min(self._failures - self._settings.failures, 16)
        return min(self._settings.most_seconds, self._settings.first_seconds * 2.0**doublings)
