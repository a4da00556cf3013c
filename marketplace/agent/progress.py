"""What the threads that work on one lease tell each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from marketplace.wire.leases import Lease

LIVE = ("opening", "active")  # states of a lease whose job may run
# Why the server wants a job to stop → its outcome and reason. Any other fails it under its name.
_STOPS = {"cancelled": ("cancelled", "cancelled"), "over_budget": ("over_budget", "budget")}


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a job is to stop: its outcome and reason, and whether it gets time to end by itself."""

    outcome: str
    reason: str
    grace: bool = True


@dataclass(frozen=True, slots=True)
class Beats:
    """Signs of life so far, and the Unix time of the last."""

    count: int = 0
    last_at: float | None = None


class JobProgress:
    """Thread-safe state of one lease on this node.

    `halt` is why its job is to stop, if it is; `beats` are the job's signs of life so far.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.halt: Halt | None = None
        self.beats = Beats()
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._halted = threading.Event()
        self._news = threading.Event()
        self._countersigned_ms = 0
        self._covered_at_s = clock_s()

    def observe(self, lease: Lease) -> None:
        """Take in what the server knows: that the job is to stop, or that the lease is over."""
        if lease.stop_requested is not None:
            outcome, reason = _STOPS.get(lease.stop_requested, ("failed", lease.stop_requested))
            self.stop(Halt(outcome, reason))
        elif lease.state not in LIVE:
            self.stop(Halt("failed", f"lease_{lease.state}"))
        self.tell()

    def stop(self, halt: Halt) -> None:
        """Have the job stopped; the first reason stands."""
        with self._lock:
            self.halt = self.halt or halt
        self._halted.set()

    def wait_for_halt(self, timeout_s: float) -> None:
        """Sleep, but wake up if the job is to stop."""
        self._halted.wait(timeout_s)

    def start_covering(self) -> None:
        """The job is ready: from now on countersignatures are due."""
        self._covered_at_s = self._clock_s()

    def cover(self, countersigned_ms: int) -> None:
        """Take in how much the witness has countersigned; only growth renews the grace."""
        with self._lock:
            if countersigned_ms > self._countersigned_ms:
                self._countersigned_ms = countersigned_ms
                self._covered_at_s = self._clock_s()

    @property
    def uncovered_ms(self) -> int:
        """Time since the countersigned usage last grew."""
        return int((self._clock_s() - self._covered_at_s) * 1000)

    def unsigned_ms(self, metered_ms: int) -> int:
        """How much of the usage metered so far no witness has countersigned."""
        return max(0, metered_ms - self._countersigned_ms)

    def beat(self, beats: Beats) -> None:
        """Note signs of life; the count never falls."""
        with self._lock:
            if beats.count > self.beats.count:
                self.beats = beats

    def tell(self) -> None:
        """There is something new to send or to look at."""
        self._news.set()

    def wait_for_news(self, timeout_s: float) -> None:
        """Sleep until something is new."""
        self._news.wait(timeout_s)
        self._news.clear()
