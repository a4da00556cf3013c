"""Jobs: the normalised spec whose hash a bid signs."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from marketplace.domain.gpu import GpuWish
from marketplace.domain.pricing import DECIMALS, from_nano, from_scaled
from marketplace.domain.reader import duration_text, milli_text, size_text
from settlement.units import cost_up, counted_lock


@dataclass(frozen=True, slots=True)
class Inputs:
    """A job's packed working folder: SHA-256 (64 hex digits) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class UnitsWish:
    """Counted units a job may emit: their name, the cap, the most paid per unit (1e-9 token)."""

    name: str
    maximum: int
    max_price_nano: int


@dataclass(frozen=True, slots=True)
class EgressWish:
    """Egress a job may use: the cap in MiB, the most paid per GiB (1e-9 token)."""

    max_mib: int
    max_price_nano: int


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a buyer wants run, where, and for how much at most. Made by `parse_job`.

    Sizes in thousandths or MiB, times in seconds, prices in 1e-9 token, `max_total_atoms` in atoms,
    reliability in thousandths. Exactly one of `workdir` (before packing) and `inputs` may be set.
    """

    name: str
    command: tuple[str, ...]
    gpu: GpuWish
    max_gpu_hour_nano: int
    max_seconds: int
    max_total_atoms: int
    cpu_milli: int = 0
    memory_mib: int = 0
    storage_mib: int = 0
    workdir: str | None = None
    inputs: Inputs | None = None
    image: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    regions: tuple[str, ...] = ()
    min_reliability_milli: int = 0
    verified_only: bool = False
    on_exceed: str = "stop"
    start_deadline_seconds: int = 600
    retry_on: tuple[str, ...] = ()
    retry_seconds: int = 0
    outputs: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    units: UnitsWish | None = None
    egress: EgressWish | None = None
    ready: str = "start"

    @property
    def runtime(self) -> str:
        """`docker` where an image is named, else `process`."""
        return "docker" if self.image else "process"

    @property
    def limit_rate(self) -> int:
        """The most paid for time, all in, in 1e-12 token per hour."""
        return self.max_gpu_hour_nano * self.gpu.gpu_milli

    @property
    def rests(self) -> bool:
        """Whether the job waits in the book when nothing matches at once."""
        return "no-capacity" in self.retry_on

    def packed(self, sha256: str, size: int) -> "JobSpec":
        """The spec with its working folder replaced by the blob it was packed into."""
        return replace(self, workdir=None, inputs=Inputs(sha256, size))

    def hash(self) -> bytes:
        """SHA-256 of the canonical JSON: what `Bid.jobHash` binds."""
        return hashlib.sha256(canonical_json(self.to_json())).digest()

    def to_json(self) -> dict[str, Any]:
        """The normalised spec; `parse_job` reads it back to an equal one."""
        out: dict[str, Any] = {
            "name": self.name,
            "command": list(self.command),
            "resources": {
                "gpu": self.gpu.to_text(),
                "cpu": milli_text(self.cpu_milli),
                "memory": size_text(self.memory_mib),
                "disk": size_text(self.storage_mib),
            },
            "placement": {
                "regions": list(self.regions),
                "min_reliability": milli_text(self.min_reliability_milli),
                "verified_only": self.verified_only,
            },
            "pricing": {"max_gpu_hour": from_nano(self.max_gpu_hour_nano)},
            "budget": {
                "max_total": from_scaled(self.max_total_atoms, DECIMALS),
                "on_exceed": self.on_exceed,
            },
            "max_duration": duration_text(self.max_seconds),
            "start_deadline": duration_text(self.start_deadline_seconds),
            "ready": self.ready,
        }
        out.update(self._optional_json())
        return out

    def _optional_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if self.workdir is not None:
            out["workdir"] = self.workdir
        if self.inputs is not None:
            out["inputs"] = {"sha256": self.inputs.sha256, "size": self.inputs.size}
        if self.image is not None:
            out["image"] = self.image
        if self.env:
            out["env"] = dict(self.env)
        if self.retry_on:
            out["retry"] = {
                "on_events": list(self.retry_on),
                "duration": duration_text(self.retry_seconds),
            }
        if self.outputs:
            out["outputs"] = [{"path": path} for path in self.outputs]
        if self.tags:
            out["tags"] = dict(self.tags)
        if self.units is not None:
            out["units"] = {
                "name": self.units.name,
                "max": self.units.maximum,
                "max_price": from_nano(self.units.max_price_nano),
            }
        if self.egress is not None:
            out["egress"] = {
                "max": size_text(self.egress.max_mib),
                "max_price": from_nano(self.egress.max_price_nano),
            }
        return out


def canonical_json(data: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: one text per value."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def full_budget(spec: JobSpec) -> int:
    """Atoms that fund the whole maximum duration at the limits the spec names, rounded up."""
    time = cost_up(spec.limit_rate, (spec.max_seconds + spec.start_deadline_seconds) * 1000)
    return time + counted_lock(
        spec.egress.max_price_nano if spec.egress else 0,
        spec.units.max_price_nano if spec.units else 0,
        spec.egress.max_mib if spec.egress else 0,
        spec.units.maximum if spec.units else 0,
    )
