"""A lease's cumulative usage of every measured resource."""

from dataclasses import dataclass, fields
from typing import Self

from settlement.errors import FieldError


@dataclass(frozen=True, slots=True)
class UsageVector:
    """Cumulative measured usage. `ms` is running time; the other fields are what it consumed.

    Units: milliseconds, GPU-ms, CPU-core-ms, MiB-ms, MiB, counts.
    """

    ms: int = 0
    gpu_ms: int = 0
    cpu_core_ms: int = 0
    memory_mib_ms: int = 0
    storage_mib_ms: int = 0
    egress_mib: int = 0
    units: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise FieldError(f"/{field.name}", "must not be negative")

    def covers(self, earlier: Self) -> bool:
        """Whether no component is below `earlier`'s; cumulative usage never falls."""
        return all(getattr(self, f.name) >= getattr(earlier, f.name) for f in fields(self))
