"""Measuring a job: running time by the monotonic clock, and what it consumed meanwhile.

Running time starts when the job is ready and stops with it; the wall clock never enters. Cumulative
figures never fall, also when processes exit and take their counters along.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from marketplace.agent.inventory import GpuReading
from marketplace.limits import MIB
from settlement.units import gpu_ms
from settlement.usage import UsageVector

Clock = Callable[[], int]  # monotonic nanoseconds


@dataclass(frozen=True, slots=True)
class CpuMemory:
    """Processor time used so far, and memory in use now (None: not known)."""

    cpu_ms: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One raw sample, kept as it is: `evidence` in attestations is a hash chain over these."""

    at_ms: int  # Unix time, for people
    ms: int = 0
    cpu_ms: int = 0
    memory_mib: int = 0
    storage_mib: int = 0
    units: int = 0
    heartbeats: int = 0
    gpus: tuple[GpuReading, ...] = ()


class JobMeter:
    """Cumulative usage of one job. `memory_mib` is what it held at the last sample, rounded up.

    Memory and storage are integrated over running time from samples, each holding until the next.
    """

    def __init__(self, gpu_milli: int, units_max: int, clock: Clock = time.monotonic_ns) -> None:
        self._clock = clock
        self._gpu_milli = gpu_milli
        self._units_max = units_max
        self.ms_max = 0  # beyond it nothing was sold; a top-up raises it
        self._started_ns: int | None = None
        self._stopped_ns: int | None = None
        self._cpu_base_ms = 0
        self._usage = UsageVector()
        self.memory_mib = 0
        self._storage_mib = 0

    def start(self, seen: CpuMemory | None, ms_max: int) -> None:
        """The job is ready: time runs from now on, up to `ms_max`."""
        self.ms_max = max(0, ms_max)
        self._cpu_base_ms = seen.cpu_ms if seen is not None else 0
        self._started_ns = self._clock()

    def stop(self) -> None:
        """The job is over: time stands still. Only the first call counts."""
        if self._stopped_ns is None:
            self._stopped_ns = self._clock()

    @property
    def started(self) -> bool:
        return self._started_ns is not None

    @property
    def ms(self) -> int:
        """Running time so far in whole milliseconds, at most `ms_max`."""
        if self._started_ns is None:
            return 0
        until = self._stopped_ns if self._stopped_ns is not None else self._clock()
        return min(max(0, until - self._started_ns) // 1_000_000, self.ms_max)

    def take_ready(self, seen: CpuMemory | None, storage_mib: int) -> UsageVector:
        """The ready reading: nothing is used yet, however long it took to look."""
        self._hold(seen, storage_mib)
        return self._usage

    def take(self, seen: CpuMemory | None, storage_mib: int, units: int) -> UsageVector:
        """Sample: usage up to now. Without figures (`seen` None) the last ones hold."""
        before = self._usage
        ms = max(self.ms, before.ms)
        span = ms - before.ms
        cpu_ms = seen.cpu_ms - self._cpu_base_ms if seen is not None and self.started else 0
        self._usage = UsageVector(  # without egress: the sandbox has no network
            ms=ms, gpu_ms=gpu_ms(ms, self._gpu_milli), cpu_core_ms=max(before.cpu_core_ms, cpu_ms),
            memory_mib_ms=before.memory_mib_ms + self.memory_mib * span,
            storage_mib_ms=before.storage_mib_ms + self._storage_mib * span,
            units=max(before.units, min(units, self._units_max)),
        )  # fmt: skip
        self._hold(seen, storage_mib)
        return self._usage

    def _hold(self, seen: CpuMemory | None, storage_mib: int) -> None:
        if seen is not None and seen.memory_bytes is not None:
            self.memory_mib = -(-seen.memory_bytes // MIB)
        self._storage_mib = storage_mib
