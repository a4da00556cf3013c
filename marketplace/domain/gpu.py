"""The GPU grammar of job files: names, memory and count, in any order, joined by colons.

`A100,H100:80GB..:1` · `24GB` · `RTX4090:2` · `H100:0.5` (half of one GPU, shared) · `1`.
Memory is a bound on the tier (`80GB`, `24GB..`, `..48GB`, `24GB..48GB`); the count is what is
bought.
"""

import re
from dataclasses import dataclass
from typing import Any

from marketplace.domain.reader import mib_of, milli_text, size_text, thousandths_of
from marketplace.limits import JOB_GPU_MILLI_MAX

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,39}\Z")
_COUNT = re.compile(r"[0-9.]+\Z")


@dataclass(frozen=True, slots=True)
class GpuWish:
    """Which GPUs a job accepts and how many it takes.

    `names` empty: any. Memory bounds in MiB, inclusive, None: open. `gpu_milli` below 1000 is a
    share of one GPU; from 1000 on whole GPUs.
    """

    names: tuple[str, ...] = ()
    memory_mib_min: int | None = None
    memory_mib_max: int | None = None
    gpu_milli: int = 1000

    @property
    def shared(self) -> bool:
        """Whether less than one whole GPU is taken."""
        return self.gpu_milli < 1000

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
        milli = thousandths_of(1, JOB_GPU_MILLI_MAX)(part)
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
