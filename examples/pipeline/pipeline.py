"""Cleans readings.csv, sums up energy and heat per GPU, and finds which hours are the busiest.

Four steps with checks between them: what goes in is either in a report or in a count of what was
left out. Ends with exit code 1 where that does not add up.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import coulomb_job
import numpy as np

WATTS_MAX = 1_000.0
DRAWS = 4_000


def read(path: Path) -> list[dict[str, str]]:
    """All rows as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clean(rows: list[dict[str, str]]) -> tuple[dict[tuple[str, str], tuple[float, float]], Counter]:
    """Readings by GPU and hour, and how many rows were left out or mended, by reason."""
    kept: dict[tuple[str, str], tuple[float, float]] = {}
    reasons: Counter = Counter()
    for row in rows:
        place = (row["gpu"], row["at"])
        if place in kept:
            reasons["twice"] += 1
            continue
        if not row["watts"]:
            reasons["empty"] += 1
            continue
        watts = float(row["watts"])
        if watts > WATTS_MAX:
            reasons["mended_milliwatts"] += 1
            watts /= 1000
        kept[place] = (watts, float(row["celsius"]))
    return kept, reasons


def per_gpu(kept: dict[tuple[str, str], tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Energy in kWh and mean temperature of each GPU with a 95 % interval by resampling."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (gpu, _), reading in kept.items():
        series[gpu].append(reading)
    random = np.random.default_rng(1)
    report = {}
    for number, (gpu, readings) in enumerate(sorted(series.items()), 1):
        watts, celsius = np.array(readings).T
        picks = random.integers(0, len(celsius), (DRAWS, len(celsius)))
        low, high = np.percentile(celsius[picks].mean(axis=1), [2.5, 97.5])
        report[gpu] = {
            "kwh": round(float(watts.sum()) / 1000, 3),
            "celsius": round(float(celsius.mean()), 2),
            "celsius_low": round(float(low), 2),
            "celsius_high": round(float(high), 2),
            "hours": len(readings),
        }
        if number % 4 == 0:
            coulomb_job.progress(f"{number} GPUs summed up")
    return report


def busiest(kept: dict[tuple[str, str], tuple[float, float]]) -> list[str]:
    """The three hours of the day with the highest mean power."""
    by_hour: dict[str, list[float]] = defaultdict(list)
    for (_, at), (watts, _celsius) in kept.items():
        by_hour[at[11:13]].append(watts)
    means = {hour: sum(watts) / len(watts) for hour, watts in by_hour.items()}
    return sorted(means, key=lambda hour: -means[hour])[:3]


def main() -> int:
    coulomb_job.ready()
    rows = read(Path(__file__).with_name("readings.csv"))
    coulomb_job.progress(f"read {len(rows)} rows")
    kept, reasons = clean(rows)
    coulomb_job.progress(f"kept {len(kept)}; {dict(reasons)}")
    report = per_gpu(kept)
    hours = busiest(kept)
    coulomb_job.progress(f"busiest hours (UTC): {', '.join(hours)}")
    result = {"rows": len(rows), "kept": len(kept), "left_out": dict(reasons), "gpus": report}
    coulomb_job.write_result("report.json", {**result, "busiest_hours": hours})
    dropped = reasons["twice"] + reasons["empty"]
    counted = sum(int(gpu["hours"]) for gpu in report.values())
    return 0 if len(rows) == len(kept) + dropped and counted == len(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
