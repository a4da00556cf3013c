"""Rebuild marketplace/data/tiers.json from a CSV of market listings.

Usage: python scripts/lib/tiers.py LISTINGS.csv > marketplace/data/tiers.json
The CSV has the columns source, gpu, gpus, usd_per_hour, region; a price is for a whole listing.
"""

import csv
import json
import sys
from decimal import Decimal
from statistics import median

# a listing's name -> (tier, GPU, GiB of its memory by its data sheet)
TIERS = {
    "B200": ("B200-180GB", "B200", 180),
    "H200": ("H200-141GB-SXM", "H200", 141),
    "H100-SXM": ("H100-80GB-SXM", "H100", 80),
    "H100-PCIE": ("H100-80GB-PCIE", "H100", 80),
    "H100-NVL": ("H100-94GB-NVL", "H100", 94),
    "A100-SXM4-80GB": ("A100-80GB-SXM", "A100", 80),
    "A100-PCIE-80GB": ("A100-80GB-PCIE", "A100", 80),
    "A100-SXM4-40GB": ("A100-40GB-SXM", "A100", 40),
    "RTX-PRO-6000-S": ("RTXPRO6000-96GB", "RTXPRO6000", 96),
    "L40S": ("L40S-48GB", "L40S", 48),
    "L40": ("L40-48GB", "L40", 48),
    "A40": ("A40-48GB", "A40", 48),
    "RTX-A6000": ("A6000-48GB", "A6000", 48),
    "A6000": ("A6000-48GB", "A6000", 48),
    "RTX-6000-Ada": ("RTX6000ADA-48GB", "RTX6000ADA", 48),
    "RTX-5090": ("RTX5090-32GB", "RTX5090", 32),
    "RTX-4090": ("RTX4090-24GB", "RTX4090", 24),
    "RTX-3090": ("RTX3090-24GB", "RTX3090", 24),
    "RTX-3080": ("RTX3080-10GB", "RTX3080", 10),
    "RTX-3060": ("RTX3060-12GB", "RTX3060", 12),
    "A10": ("A10-24GB", "A10", 24),
    "L4": ("L4-24GB", "L4", 24),
    "V100": ("V100-16GB", "V100", 16),
    "V100-32GB": ("V100-32GB", "V100", 32),
}
SOURCES = "skypilot-catalog v8, vast and shadeform listings"


def text(value: Decimal) -> str:
    """Dollars with four decimal places."""
    return str(value.quantize(Decimal("0.0001")))


def main() -> None:
    """Group the listings by tier and print their median, lowest and highest price per GPU."""
    with open(sys.argv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    listings: dict[tuple[str, str, int], list[tuple[Decimal, str]]] = {}
    for row in rows:
        price = Decimal(row["usd_per_hour"]) / int(row["gpus"])
        listings.setdefault(TIERS[row["gpu"]], []).append((price, row["source"]))
    tiers = []
    for name, gpu, memory in dict.fromkeys(TIERS.values()):
        prices = sorted(price for price, _ in listings[name, gpu, memory])
        tiers.append(
            {
                "name": name,
                "gpu": gpu,
                "memory_gib": memory,
                "usd_per_gpu_hour": {
                    "median": text(median(prices)),
                    "low": text(prices[0]),
                    "high": text(prices[-1]),
                },
                "listings": len(prices),
                "markets": sorted({source for _, source in listings[name, gpu, memory]}),
            }
        )
    cpu = {"name": "CPU", "gpu": "", "memory_gib": 0, "usd_per_gpu_hour": None}
    tiers.append({**cpu, "listings": 0, "markets": []})  # processor, memory and disk without a GPU
    json.dump({"source": SOURCES, "tiers": tiers}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
