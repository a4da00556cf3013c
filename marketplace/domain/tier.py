"""GPUs: tiers, which asks name, and the grammar in which job files wish for them.

The grammar has names, memory and count, in any order, joined by colons: `A100,H100:80GB..:1` ·
`24GB` · `RTX4090:2` · `H100:0.5` (half of one GPU, shared) · `1`. Memory is a bound on the tier
(`80GB`, `24GB..`, `..48GB`, `24GB..48GB`); the count is what is bought. `0`: none, only CPU.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from marketplace.domain.pricing import to_nano
from marketplace.domain.reader import mib_of, milli_text, size_text, thousandths_of
from marketplace.limits import JOB_GPU_MILLI_MAX
from settlement.units import UINT32_MAX

CPU_TIER = "CPU"  # of processor, memory and disk without a GPU
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,39}\Z")
_COUNT = re.compile(r"[0-9.]+\Z")


@dataclass(frozen=True, slots=True)
class GpuWish:
    """Which GPUs a job accepts and how many it takes.

    `names` empty: any. Memory bounds in MiB, inclusive, None: open. `gpu_milli` below 1000 is a
    share of one GPU; from 1000 on whole GPUs. 0: no GPU, so no names and no bounds either.
    """

    names: tuple[str, ...] = ()
    memory_mib_min: int | None = None
    memory_mib_max: int | None = None
    gpu_milli: int = 1000

    @property
    def shared(self) -> bool:
        """Whether less than one whole GPU is taken."""
        return 0 < self.gpu_milli < 1000

    def to_text(self) -> str:
        """The canonical text, which `parse_gpu` reads back to the same wish."""
        parts = [",".join(self.names)] if self.names else []
        low, high = self.memory_mib_min, self.memory_mib_max
        if low is not None and low == high:
            parts.append(size_text(low))
        elif low is not None or high is not None:
            bounds = (size_text(b) if b is not None else "" for b in (low, high))
            parts.append("..".join(bounds))
        return ":".join([*parts, milli_text(self.gpu_milli)])


def parse_gpu(value: object) -> GpuWish:
    """Read the grammar; ValueError says which part is wrong and what is allowed."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError('must be text such as "A100,H100:80GB..:1"')
    seen: dict[str, Any] = {}
    for part in (p.strip() for p in value.split(":")):
        kind, parsed = _part(part)
        if kind in seen:
            raise ValueError(f"gives the {kind} twice in {value!r}")
        seen[kind] = parsed
    if seen.get("count") == 0 and len(seen) > 1:
        raise ValueError(f"{value!r} names GPUs and takes none; for a job without a GPU write 0")
    low, high = seen.get("memory", (None, None))
    return GpuWish(seen.get("names", ()), low, high, seen.get("count", 1000))


def _part(part: str) -> tuple[str, Any]:
    if part and part[0].isalpha():
        names = tuple(dict.fromkeys(n.strip() for n in part.split(",")))
        for name in names:
            if not _NAME.match(name):
                raise ValueError(f"{name!r} is not a GPU name")
        return "names", names
    if _COUNT.match(part) and ".." not in part:
        milli = thousandths_of(0, JOB_GPU_MILLI_MAX)(part)
        if milli > 1000 and milli % 1000:
            raise ValueError(f"{part} GPUs: above one, only whole GPUs can be taken")
        return "count", milli
    if part.upper().endswith("B") or ".." in part:
        return "memory", _memory(part)
    raise ValueError(f"{part!r} is neither GPU names, nor memory such as 80GB.., nor a count")


def _memory(part: str) -> tuple[int | None, int | None]:
    low, dots, high = part.partition("..")
    if not dots:
        return mib_of(low), mib_of(low)
    if not low and not high:
        raise ValueError('".." needs a bound on at least one side')
    if (low or high)[-1] not in "bB":
        raise ValueError(f"{part!r}: a range of counts cannot be bought; give one count")
    bounds = (mib_of(low) if low else None, mib_of(high) if high else None)
    if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
        raise ValueError(f"{part!r} has its bounds the wrong way round")
    return bounds


@dataclass(frozen=True, slots=True)
class Tier:
    """One class of GPU and what real markets asked for it.

    Prices are in 1e-9 USD per GPU and hour over `listings` listings of `markets`; reference only.
    The tier CPU has no GPU, and no prices.
    """

    name: str
    gpu: str
    memory_gib: int
    median_nano_per_hour: int
    low_nano_per_hour: int
    high_nano_per_hour: int
    listings: int
    markets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TierRegistry:
    """All tiers of a market, by name, in the order they were listed."""

    tiers: Mapping[str, Tier]
    source: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TierRegistry":
        """Read the shipped table, {source, tiers}; prices are dollars per GPU and hour."""
        tiers = {}
        for row in data["tiers"]:
            usd = row["usd_per_gpu_hour"] or {}
            median, low, high = (to_nano(usd.get(key, "0")) for key in ("median", "low", "high"))
            tiers[row["name"]] = Tier(
                row["name"], row["gpu"], row["memory_gib"], median, low, high,
                row["listings"], tuple(row["markets"]),
            )  # fmt: skip
        return cls(tiers, data.get("source", ""))

    def __iter__(self) -> Iterator[Tier]:
        return iter(self.tiers.values())

    def get(self, name: str) -> Tier | None:
        """The tier of exactly this name."""
        return self.tiers.get(name)

    def named(self, name: str) -> tuple[Tier, ...]:
        """Tiers with this GPU or tier name, in any case, hyphens aside; may be empty."""
        wanted = _plain(name)
        return tuple(t for t in self if t.gpu and wanted in (_plain(t.gpu), _plain(t.name)))

    def tier_problem(self, name: str) -> str | None:
        """Why this is not a tier's name, and which may be meant; None if it is one."""
        if name in self.tiers:
            return None
        names = {_plain(tier.name): tier.name for tier in self}
        meant = [tier.name for tier in self.named(name)] or [
            names[close] for close in get_close_matches(_plain(name), names, n=1, cutoff=0.5)
        ]
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
        return f"{name!r} is not a tier of this market{hint}"

    def suggest(self, name: str) -> str | None:
        """The known GPU or tier name that looks most like `name`."""
        known = {_plain(n): n for t in self if t.gpu for n in (t.name, t.gpu)}
        close = get_close_matches(_plain(name), known, n=1, cutoff=0.5)
        return known[close[0]] if close else None

    def select(self, wish: GpuWish) -> tuple[str, ...]:
        """Names of the tiers that have such GPUs, sorted; if it names none, of any GPU."""
        if not wish.gpu_milli:
            return (CPU_TIER,)
        wanted = {tier.name for name in wish.names for tier in self.named(name)}
        low, high = wish.memory_mib_min or 0, wish.memory_mib_max
        high = UINT32_MAX if high is None else high
        fitting = (tier.name for tier in self if tier.gpu and low <= 1024 * tier.memory_gib <= high)
        return tuple(sorted(name for name in fitting if not wish.names or name in wanted))


def _plain(name: str) -> str:
    return "".join(c for c in name.upper() if c.isalnum())
