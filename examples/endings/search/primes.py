"""Looks for twin primes, further and further, until it is told to stop; then writes how far it got.

SIGTERM is how an agent says that time, money or the buyer's patience is over.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

import coulomb_job

REPORT_SECONDS = 1.0


class Search:
    """Twin primes found so far."""

    def __init__(self) -> None:
        self.stopping = False
        self.at = 5
        self.pairs = 1  # 3 and 5
        self.latest = (3, 5)

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """End after the number at hand."""
        self.stopping = True

    def run(self) -> None:
        """Go on until stopped; twins beyond 5 lie around a multiple of six."""
        told = time.monotonic()
        middle = 6
        while not self.stopping:
            if is_prime(middle - 1) and is_prime(middle + 1):
                self.pairs += 1
                self.latest = (middle - 1, middle + 1)
            self.at = middle + 1
            middle += 6
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                coulomb_job.progress(f"{self.pairs} pairs up to {self.at}, the last {self.latest}")


def is_prime(number: int) -> bool:
    """By trial division; `number` is no multiple of 2 or 3."""
    divisor = 5
    while divisor * divisor <= number:
        if number % divisor == 0 or number % (divisor + 2) == 0:
            return False
        divisor += 6
    return number > 1


def main() -> int:
    search = Search()
    signal.signal(signal.SIGTERM, search.stop)
    coulomb_job.ready()
    search.run()
    result = {"up_to": search.at, "pairs": search.pairs, "latest": search.latest}
    coulomb_job.write_result("checkpoint.json", result)
    print(f"stopped at {search.at}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
