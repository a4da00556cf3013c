"""Tiers: classes of GPU that asks name and jobs select by GPU name and memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from marketplace.domain.gpu import GpuWish
from marketplace.domain.pricing import to_nano


@dataclass(frozen=True, slots=True)
class Tier:
    """One class of GPU and what real markets asked for it.

    Prices are in 1e-9 USD per GPU and hour over `listings` listings of `markets`; reference only.
    """

    name: str
    gpu: str
    memory_gib: int
    median_nano_per_hour: int = 0
    low_nano_per_hour: int = 0
    high_nano_per_hour: int = 0
    listings: int = 0
    markets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TierRegistry:
    """All tiers of a market, by name, in the order they were listed."""

    tiers: Mapping[str, Tier]
    source: str = ""

    @classmethod
    def of(cls, tiers: Iterable[Tier], source: str = "") -> "TierRegistry":
        """A registry of the given tiers."""
        return cls({tier.name: tier for tier in tiers}, source)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TierRegistry":
        """Read the shipped table, {source, tiers}; prices are dollars per GPU and hour."""
        tiers = []
        for row in data["tiers"]:
            price = {key: to_nano(text) for key, text in row["usd_per_gpu_hour"].items()}
            tiers.append(
                Tier(
                    name=row["name"],
                    gpu=row["gpu"],
                    memory_gib=row["memory_gib"],
                    median_nano_per_hour=price["median"],
                    low_nano_per_hour=price["low"],
                    high_nano_per_hour=price["high"],
                    listings=row["listings"],
                    markets=tuple(row["markets"]),
                )
            )
        return cls.of(tiers, data.get("source", ""))

    def __iter__(self) -> Iterator[Tier]:
        return iter(self.tiers.values())

    def get(self, name: str) -> Tier | None:
        """The tier of exactly this name."""
        return self.tiers.get(name)

    def named(self, name: str) -> tuple[Tier, ...]:
        """Tiers of this GPU or tier name, in any case, hyphens aside; may be empty."""
        wanted = _plain(name)
        return tuple(t for t in self if wanted in (_plain(t.gpu), _plain(t.name)))

    def suggest(self, name: str) -> str | None:
        """The known GPU or tier name that looks most like `name`."""
        known = {_plain(n): n for t in self for n in (t.name, t.gpu)}
        close = get_close_matches(_plain(name), known, n=1, cutoff=0.5)
        return known[close[0]] if close else None

    def select(self, wish: GpuWish) -> tuple[str, ...]:
        """Names of the tiers that have such GPUs, sorted; if it names none, of any GPU."""
        wanted = {tier.name for name in wish.names for tier in self.named(name)}
        low, high = wish.memory_mib_min or 0, wish.memory_mib_max
        return tuple(
            sorted(
                tier.name
                for tier in self
                if (not wish.names or tier.name in wanted)
                and low <= 1024 * tier.memory_gib
                and (high is None or 1024 * tier.memory_gib <= high)
            )
        )


def _plain(name: str) -> str:
    return "".join(c for c in name.upper() if c.isalnum())
