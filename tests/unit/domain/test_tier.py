"""Tiers: the shipped table and its prices; the grammar that chooses by name and memory."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from marketplace.data import load_tiers
from marketplace.domain.tier import CPU_TIER, GpuWish, parse_gpu
from marketplace.services.views import tier_view
from settlement.eip712 import text32

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("COULOMB_DATA", ROOT.parent / "shared" / "data"))
TIERS = load_tiers()


def test_every_tier_fits_an_order_and_has_real_prices() -> None:
    assert len({text32(tier.name) for tier in TIERS}) == len(list(TIERS)) <= 32
    for tier in (tier for tier in TIERS if tier.name != CPU_TIER):
        prices = (tier.low_nano_per_hour, tier.median_nano_per_hour, tier.high_nano_per_hour)
        assert 0 < prices[0] <= prices[1] <= prices[2]
        assert tier.listings
        assert tier.markets
        assert tier.name.startswith(f"{tier.gpu}-{tier.memory_gib}GB")
    assert TIERS.source == "skypilot-catalog v8, vast and shadeform listings"


def test_tiers_say_what_the_shipped_table_says() -> None:
    table = json.loads(files("marketplace.data").joinpath("tiers.json").read_text())
    rows = [tier_view(tier).to_json() for tier in TIERS]
    assert TIERS.source == table["source"]
    for row, shipped in zip(rows, table["tiers"], strict=True):
        assert (row["model"], row["memory_mib"]) == (shipped["gpu"], shipped["memory_gib"] * 1024)
        for name in ("name", "listings", "markets"):
            assert row[name] == shipped[name]
        assert (row["usd_per_gpu_hour"] is None) is (row["name"] == CPU_TIER)
        for name, price in (shipped["usd_per_gpu_hour"] or {}).items():
            assert Decimal(row["usd_per_gpu_hour"][name]) == Decimal(price)


def test_names_are_found_in_any_spelling_and_guessed_when_wrong() -> None:
    assert [t.name for t in TIERS.named("h100")] == [
        "H100-80GB-SXM", "H100-80GB-PCIE", "H100-94GB-NVL",
    ]  # fmt: skip
    assert [t.name for t in TIERS.named("rtx-4090")] == ["RTX4090-24GB"]
    assert [t.name for t in TIERS.named("H100-94GB-NVL")] == ["H100-94GB-NVL"]
    assert TIERS.named("H1000") == ()
    assert TIERS.suggest("H1000") == "H100"
    assert TIERS.suggest("zzzz") is None
    assert TIERS.get("L4-24GB") is not None
    assert TIERS.get("L4") is None


def test_memory_bounds_are_inclusive_and_no_name_means_any() -> None:
    wishes = {
        "141GB..:1": {"B200-180GB", "H200-141GB-SXM"},
        "..12GB:1": {"RTX3060-12GB", "RTX3080-10GB"},
        "A100:40GB:1": {"A100-40GB-SXM"},
        "A100:81GB..:1": set(),
    }
    assert {text: set(TIERS.select(parse_gpu(text))) for text in wishes} == wishes


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no market listings at {DATA}")
def test_shipped_table_is_what_the_listings_give() -> None:
    script = [sys.executable, "scripts/lib/tiers.py", str(DATA / "gpu_prices.csv")]
    built = subprocess.run(script, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    shipped = files("marketplace.data").joinpath("tiers.json").read_text()
    assert json.loads(built) == json.loads(shipped)


GIB = 1024


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("A100,H100:80GB..:1", GpuWish(("A100", "H100"), 80 * GIB, None, 1000)),
        ("24GB", GpuWish((), 24 * GIB, 24 * GIB, 1000)),
        ("24GB..48GB:2", GpuWish((), 24 * GIB, 48 * GIB, 2000)),
        ("..48GB", GpuWish((), None, 48 * GIB, 1000)),
        ("8:H100", GpuWish(("H100",), None, None, 8000)),
        ("H100:0.5", GpuWish(("H100",), None, None, 500)),
        ("H100, H100", GpuWish(("H100",), None, None, 1000)),
        (2, GpuWish((), None, None, 2000)),
        (0.25, GpuWish((), None, None, 250)),
        (0, GpuWish((), None, None, 0)),
        ("0", GpuWish((), None, None, 0)),
    ],
)
def test_gpu_text_is_read(text: object, wish: GpuWish) -> None:
    assert parse_gpu(text) == wish
    assert parse_gpu(wish.to_text()) == wish


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be text"),
        (True, "must be text"),
        (["H100"], "must be text"),
        ("1..8", "a range of counts"),
        ("..", "a bound on at least one side"),
        ("80GB:40GB", "gives the memory twice"),
        ("1:2", "gives the count twice"),
        ("1.5", "only whole GPUs"),
        ("H100:0", "names GPUs and takes none"),
        ("24GB:0", "names GPUs and takes none"),
        ("65", "must be from 0 to 64"),
        ("48GB..24GB", "wrong way round"),
        ("H100:fast!", "is not a GPU name"),
        ("H100:", "is neither"),
        ("80XB", "must be a size"),
    ],
)
def test_gpu_text_that_cannot_be_bought_is_refused_with_the_reason(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_gpu(text)


def test_no_gpu_selects_the_tier_without_one_and_every_other_wish_never_does() -> None:
    assert TIERS.select(parse_gpu(0)) == (CPU_TIER,)
    for text in ("1", "0.5", "24GB..", "..1024GB"):
        assert CPU_TIER not in TIERS.select(parse_gpu(text))
    assert TIERS.named("cpu") == ()


def test_only_less_than_one_gpu_is_shared() -> None:
    assert not GpuWish(gpu_milli=0).shared
    assert GpuWish(gpu_milli=999).shared
    assert not GpuWish(gpu_milli=1000).shared
