"""Loops: threads that do one role's work when something happens, and from time to time anyway."""

import threading
from collections.abc import Callable

import structlog

from marketplace.errors import Unavailable
from settlement.errors import ChainError, OutboxConflict

SLOWEST_S = 15.0  # the longest pause between two tries while chain or database fail
log = structlog.get_logger("market")


class Loop:
    """One thread that ticks when woken, and at the latest `period_s` after its last tick.

    A tick that returns True has more to do: the next follows at once. `due`: seconds until time
    alone makes a tick worthwhile; None: never. Faults of chain or database slow the loop down; any
    other fault ends it and calls `on_fault`.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], object],
        period_s: float,
        due: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.name = name
        self.on_fault: Callable[[], None] = lambda: None
        self.broken = False
        self._tick = tick
        self._period_s = period_s
        self._due = due
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin ticking."""
        self._thread.start()

    def wake(self) -> None:
        """Tick now rather than at the end of the period."""
        self._wake.set()

    def is_alive(self) -> bool:
        """Whether the loop still ticks."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the tick at hand and end."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failures = 0
        self.broken = True  # until the loop ends in order: any other way out of it is a fault
        try:
            while not self._stopping:
                self._wake.clear()
                try:
                    if self._tick() is True:
                        self._wake.set()
                    failures = 0
                except (ChainError, Unavailable, OutboxConflict) as error:
                    failures += 1
                    log.warning("tick failed", role=self.name, error=str(error), failures=failures)
                self._wake.wait(self._rest_s(failures))
            self.broken = False
        finally:
            if self.broken:
                self.on_fault()

    def _rest_s(self, failures: int) -> float:
        if failures:
            return min(0.05 * 2.0 ** min(failures, 20), max(self._period_s, SLOWEST_S))
        due = self._due()
        return self._period_s if due is None else min(max(0.0, due), self._period_s)
