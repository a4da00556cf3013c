"""Estimates pi by throwing points at a square, with the standard error of the estimate."""

from __future__ import annotations

import math
import os

import coulomb_job
import numpy as np

BATCH = 1_000_000


def estimate(samples: int, seed: int) -> tuple[float, float, int]:
    """Pi, its standard error, and the number of points thrown (whole batches)."""
    random = np.random.default_rng(seed)
    batches = max(1, samples // BATCH)
    inside = 0
    for number in range(1, batches + 1):
        x, y = random.random(BATCH), random.random(BATCH)
        inside += int(np.count_nonzero(x * x + y * y <= 1.0))
        if number % max(1, batches // 8) == 0:
            pi, error = from_count(inside, number * BATCH)
            coulomb_job.progress(f"{number * BATCH:>12,} points: {pi:.6f} ± {error:.6f}")
    return *from_count(inside, batches * BATCH), batches * BATCH


def from_count(inside: int, thrown: int) -> tuple[float, float]:
    """Four times the share inside the quarter circle, and four times that share's error."""
    share = inside / thrown
    return 4 * share, 4 * math.sqrt(share * (1 - share) / thrown)


def main() -> int:
    samples, seed = int(os.environ.get("SAMPLES", "100000000")), int(os.environ.get("SEED", "1"))
    coulomb_job.ready()
    pi, error, thrown = estimate(samples, seed)
    result = {"pi": pi, "standard_error": error, "points": thrown, "seed": seed}
    coulomb_job.write_result("pi.json", result)
    # Five standard errors: a sound estimate misses by more once in two million runs.
    return 0 if abs(pi - math.pi) < 5 * error else 1


if __name__ == "__main__":
    raise SystemExit(main())
