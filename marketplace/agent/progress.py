"""What the threads that work on one lease tell each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from marketplace.wire.leases import Lease

# What the server wishes → how the job ends here. Any other wish fails it under its own name.
_WISHES = {"cancelled": ("cancelled", "cancelled"), "over_budget": ("over_budget", "budget")}


@dataclass(frozen=True, slots=True)
class Order:
    """Why a job is to stop: its outcome and reason, and whether it gets time to end by itself."""

    outcome: str
    reason: str
    grace: bool = True


@dataclass(frozen=True, slots=True)
class Beats:
    """Signs of life so far, and the Unix time of the last."""

    count: int = 0
    last_at: float | None = None


class Progress:
    """Thread-safe state of one lease on this node."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._order: Order | None = None
        self._ordered = threading.Event()
        self._news = threading.Event()
        self._countersigned_ms = 0
        self._covered_at_s = clock_s()
        self._beats = Beats()
        self._wish: str | None = None

    def observe(self, lease: Lease) -> None:
        """Take in what the server knows: a wish to stop, the lease's end."""
        with self._lock:
            self._wish = lease.stop_requested
        if lease.stop_requested is not None:
            outcome, reason = _WISHES.get(lease.stop_requested, ("failed", lease.stop_requested))
            self.stop(Order(outcome, reason))
        elif lease.state not in ("opening", "active"):
            self.stop(Order("failed", f"lease_{lease.state}"))
        self.tell()

    def stop(self, order: Order) -> None:
        """Have the job stopped; the first order stands."""
        with self._lock:
            self._order = self._order or order
        self._ordered.set()

    @property
    def order(self) -> Order | None:
        """The order to stop, if there is one."""
        with self._lock:
            return self._order

    def wait_for_order(self, timeout_s: float) -> None:
        """Sleep, but not past an order."""
        self._ordered.wait(timeout_s)

    def start_covering(self) -> None:
        """The job is ready: from now on countersignatures are due."""
        with self._lock:
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
        with self._lock:
            return int((self._clock_s() - self._covered_at_s) * 1000)

    def unsigned_ms(self, metered_ms: int) -> int:
        """How much of the usage metered so far no witness has countersigned."""
        with self._lock:
            return max(0, metered_ms - self._countersigned_ms)

    def beat(self, beats: Beats) -> None:
        """Note signs of life; the count never falls."""
        with self._lock:
            if beats.count > self._beats.count:
                self._beats = beats

    @property
    def beats(self) -> Beats:
        """Signs of life so far."""
        with self._lock:
            return self._beats

    @property
    def wish(self) -> str | None:
        """What the server wished when it was last heard."""
        with self._lock:
            return self._wish

    def tell(self) -> None:
        """There is something new to send or to look at."""
        self._news.set()

    def wait_for_news(self, timeout_s: float) -> None:
        """Sleep until something is new."""
        self._news.wait(timeout_s)
        self._news.clear()
