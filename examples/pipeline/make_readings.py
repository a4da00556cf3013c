"""Makes readings.csv: two weeks of hourly power and temperature of twelve GPUs, with the faults of
real logs. Generated, not measured; the same seed gives the same file.
"""

from __future__ import annotations

import csv
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

SEED = 20_240_229
GPUS, HOURS = 12, 14 * 24
START = datetime(2024, 1, 1, tzinfo=UTC)


def rows() -> list[list[str]]:
    """One row per GPU and hour; some missing, some empty, some absurd, some twice."""
    chance = random.Random(SEED)  # noqa: S311 - data, not secrets
    made = []
    for hour in range(HOURS):
        at = (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for gpu in range(GPUS):
            day = 0.5 + 0.4 * math.sin((hour % 24 - 6) / 24 * 2 * math.pi)
            load = min(1.0, max(0.0, day + chance.uniform(-0.2, 0.2)))
            watts = 60 + 390 * load + chance.uniform(-10, 10)
            celsius = 34 + 41 * load + chance.uniform(-2, 2)
            row = [at, f"gpu-{gpu:02d}", f"{watts:.1f}", f"{celsius:.1f}"]
            fault = chance.random()
            if fault < 0.004:
                continue
            if fault < 0.008:
                row[2] = ""
            elif fault < 0.010:
                row[2] = f"{watts * 1000:.1f}"  # milliwatts, as some drivers say
            made.append(row)
            if fault > 0.997:
                made.append(row)
    return made


def write(path: Path) -> None:
    """Write the file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["at", "gpu", "watts", "celsius"])
        writer.writerows(rows())


if __name__ == "__main__":
    write(Path(__file__).with_name("readings.csv"))
