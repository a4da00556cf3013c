"""Measuring a job: running time by the monotonic clock, and what it consumed meanwhile.

Running time starts when the job is ready and stops with it; the wall clock never enters. Cumulative
figures never fall, also when processes exit and take their counters along.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from marketplace.agent.inventory import GpuReading
from marketplace.limits import MIB
from settlement.units import gpu_ms
from settlement.usage import UsageVector

Clock = Callable[[], int]  # monotonic nanoseconds
_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TABLE_NS = 50_000_000  # how old a process table may be: jobs of one node share it


@dataclass(frozen=True, slots=True)
class CpuMemory:
    """Processor time used so far, and memory in use now (None: not known)."""

    cpu_ms: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One process as /proc shows it; `cpu_ticks` includes children it has waited for."""

    pid: int
    parent: int
    session: int
    cpu_ticks: int
    started_ticks: int
    memory_bytes: int
    zombie: bool = False


class ProcessTable:
    """All processes of the machine, read at most every 50 ms."""

    def __init__(self, clock: Clock = time.monotonic_ns, root: Path = Path("/proc")) -> None:
        self._clock = clock
        self._root = root
        self._read_at: int | None = None
        self._processes: dict[int, ProcessStat] = {}
        self._lock = threading.Lock()

    def tree(self, root_pid: int, fresh: bool = False) -> list[ProcessStat]:
        """A process, its descendants, and everything in its session; `fresh`: as of right now."""
        processes = self._current(fresh)
        children: dict[int, list[int]] = {}
        for process in processes.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: dict[int, ProcessStat] = {}
        queue = [p.pid for p in processes.values() if root_pid in (p.pid, p.session)]
        while queue:
            pid = queue.pop()
            if pid not in found:
                found[pid] = processes[pid]
                queue += children.get(pid, [])
        return list(found.values())

    def cpu_memory(self, root_pid: int) -> CpuMemory | None:
        """Processor time and memory of a tree, for machines without cgroups; None if it is gone.

        A child's time moves to whoever waits for it and so stays counted. Memory is the sum of
        resident sets: an upper bound, as shared pages count once per process.
        """
        tree = self.tree(root_pid)
        if not tree:
            return None
        ticks = sum(process.cpu_ticks for process in tree)
        return CpuMemory(ticks * _TICK_MS, sum(process.memory_bytes for process in tree))

    def _current(self, fresh: bool) -> dict[int, ProcessStat]:
        with self._lock:
            now = self._clock()
            if fresh or self._read_at is None or now - self._read_at > _TABLE_NS:
                self._processes = {p.pid: p for p in self._scan()}
                self._read_at = now
            return self._processes

    def _scan(self) -> Iterable[ProcessStat]:
        for entry in os.scandir(self._root):
            if entry.name.isdigit():
                stat = read_stat(int(entry.name), self._root)
                if stat is not None:
                    yield stat


def read_stat(pid: int, root: Path = Path("/proc")) -> ProcessStat | None:
    """One line of /proc/PID/stat, or None once the process is gone. Source: proc(5)."""
    try:
        text = (root / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    return ProcessStat(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_ticks=sum(int(ticks) for ticks in fields[11:15]),
        started_ticks=int(fields[19]),
        memory_bytes=int(fields[21]) * _PAGE_BYTES,
        zombie=fields[0] in ("Z", "X"),
    )


def completed(group: CpuMemory | None, tree: CpuMemory | None) -> CpuMemory | None:
    """A cgroup's figures; what it does not count is taken from the process tree."""
    if group is None or group.memory_bytes is not None:
        return group or tree
    return replace(group, memory_bytes=(tree.memory_bytes if tree else 0))


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
        self._ms_max = 0
        self._units_max = units_max
        self._started_ns: int | None = None
        self._stopped_ns: int | None = None
        self._cpu_base_ms: int | None = None
        self._usage = UsageVector()
        self.memory_mib = 0
        self._storage_mib = 0

    def start(self, seen: CpuMemory | None, ms_max: int) -> None:
        """The job is ready: time runs from now on, up to `ms_max`: beyond it nothing was sold."""
        self._ms_max = max(0, ms_max)
        self._cpu_base_ms = seen.cpu_ms if seen is not None else 0
        self._started_ns = self._clock()

    def stop(self) -> None:
        """The job is over: time stands still. Only the first call counts."""
        if self._stopped_ns is None:
            self._stopped_ns = self._clock()

    @property
    def started(self) -> bool:
        """Whether the job was ever ready."""
        return self._started_ns is not None

    @property
    def ms(self) -> int:
        """Running time so far in whole milliseconds, at most `ms_max`."""
        if self._started_ns is None:
            return 0
        until = self._stopped_ns if self._stopped_ns is not None else self._clock()
        return min(max(0, until - self._started_ns) // 1_000_000, self._ms_max)

    def take_ready(self, seen: CpuMemory | None, storage_mib: int) -> UsageVector:
        """The ready reading: nothing is used yet, however long it took to look."""
        self._hold(seen, storage_mib)
        return self._usage

    def take(self, seen: CpuMemory | None, storage_mib: int, units: int) -> UsageVector:
        """Sample: usage up to now. Without figures (`seen` None) the last ones hold."""
        ms = max(self.ms, self._usage.ms)
        span = ms - self._usage.ms
        cpu = self._usage.cpu_core_ms
        if seen is not None and self._cpu_base_ms is not None:
            cpu = max(cpu, seen.cpu_ms - self._cpu_base_ms)
        before = self._usage
        self._usage = UsageVector(
            ms=ms,
            gpu_ms=gpu_ms(ms, self._gpu_milli),
            cpu_core_ms=cpu,
            memory_mib_ms=before.memory_mib_ms + self.memory_mib * span,
            storage_mib_ms=before.storage_mib_ms + self._storage_mib * span,
            egress_mib=0,  # the sandbox has no network
            units=max(before.units, min(units, self._units_max)),
        )
        self._hold(seen, storage_mib)
        return self._usage

    def _hold(self, seen: CpuMemory | None, storage_mib: int) -> None:
        if seen is not None and seen.memory_bytes is not None:
            self.memory_mib = -(-seen.memory_bytes // MIB)
        self._storage_mib = storage_mib
