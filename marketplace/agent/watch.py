"""A job while it runs: measured, attested every interval, and stopped when it has to be."""

from __future__ import annotations

import time
from collections.abc import Callable

from marketplace.agent.assignment import Assignment
from marketplace.agent.capacity import Grant
from marketplace.agent.channel import JobChannel
from marketplace.agent.folders import DiskWatch
from marketplace.agent.journal import Ending
from marketplace.agent.meters import CpuMemory, JobMeter, Reading
from marketplace.agent.node import HeldLease
from marketplace.agent.progress import Beats, Halt
from marketplace.agent.runtime.base import Running
from marketplace.limits import MIB

_TICK_S = 0.05


class JobWatch:
    """Watches one running job; `to_the_end` is the whole of its life."""

    def __init__(
        self,
        lease: HeldLease,
        job: Assignment,
        grant: Grant,
        running: Running,
        channel: JobChannel,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lease = lease
        self._node = lease.node
        self._progress = lease.progress
        self._job = job
        self._running = running
        self._channel = channel
        self._real_gpus = tuple(gpu.uuid for gpu in grant.gpus if not gpu.simulated)
        self._meter = JobMeter(job.sizes.gpu_milli, job.units_cap, clock_ns)
        self._limit_ms = 0
        self._at_limit = Halt("failed", "max_duration")
        self._due_ms = job.interval_ms
        self._silent_checks = 0
        self._seen: CpuMemory | None = None
        work, out = lease.folders.work, lease.folders.out
        device = work.stat().st_dev
        self._disk = DiskWatch((work, out), lambda: running.hidden_bytes(device))

    def to_the_end(self) -> Ending:
        """JobWatch until the job has ended or was stopped, and sign its final usage.

        Raises JournalError; the job is dead then as well.
        """
        try:
            ending = self._until_over()
        finally:
            self._meter.stop()
            self._sample()
            self._running.close()
            self._channel.finish()
        if self._meter.started:
            self._attest()
        return ending

    def _until_over(self) -> Ending:
        while True:
            self._note_ready()
            code = self._running.wait(_TICK_S)
            if code is not None:
                return self._ended(code)
            halt = self._progress.halt or self._breach()
            if halt is not None:
                return self._stopped(halt)
            if self._meter.started and self._meter.ms >= self._due_ms:
                whole = self._meter.ms // self._job.interval_ms  # one, even if some were missed
                self._due_ms = (whole + 1) * self._job.interval_ms
                self._attest()

    def _note_ready(self) -> None:
        """Start the clock of usage at the first sign that the job is ready."""
        at_once = self._job.spec.ready == "start"
        if self._meter.started or not (at_once or self._channel.signs.ready):
            return
        most_ms = self._job.max_seconds * 1000
        funded_ms = max(0, self._job.end * 1000 - self._node.wall_ms())
        if funded_ms < most_ms and self._job.budget_limited:
            self._at_limit = Halt("over_budget", "budget")
        self._limit_ms = min(most_ms, funded_ms)
        self._meter.start(self._sample(), self._limit_ms)
        self._progress.start_covering()
        self._attest(ready=True)

    def _breach(self) -> Halt | None:
        """Why the job has to stop now, if it has to."""
        if not self._meter.started:
            late = self._node.wall_ms() > self._job.start_deadline_ms
            return Halt("failed", "start_limit") if late else None
        if self._meter.ms >= self._limit_ms:
            return self._at_limit
        if self._unwitnessed():
            return Halt("failed", "witness_silent")
        return self._excess()

    def _unwitnessed(self) -> bool:
        """Whether countersignatures stay away, or fall too far behind the meter.

        A witness that signs a little in every grace is not silent, yet leaves most of it unpaid.
        """
        grace_ms = self._job.grace_ms
        unsigned_ms = self._progress.unsigned_ms(self._meter.ms)
        return self._progress.uncovered_ms > grace_ms or unsigned_ms > grace_ms

    def _excess(self) -> Halt | None:
        """What the job uses beyond its limits; it gets no time to use more."""
        if self._disk.mib > self._job.sizes.storage_mib:
            return Halt("failed", "storage_limit", grace=False)
        seen = self._sample()
        if seen is not None and (seen.memory_bytes or 0) > self._job.sizes.memory_mib * MIB:
            return Halt("failed", "memory_limit", grace=False)
        return None

    def _sample(self) -> CpuMemory | None:
        """Processor time and memory now; once the processes are gone, as last seen."""
        self._seen = self._running.read() or self._seen
        return self._seen

    def _ended(self, code: int) -> Ending:
        self._meter.stop()
        out_of_memory = self._running.out_of_memory()
        self._running.kill()
        self._channel.finish()  # a short job may have said that it is ready, and not been heard yet
        self._note_ready()
        if out_of_memory:
            return Ending("failed", "memory_limit", code)
        if not self._meter.started:
            return Ending("failed", "never_ready", code)
        if code != 0:
            return Ending("failed", "exit_code", code)
        return Ending("succeeded", "completed", 0)

    def _stopped(self, halt: Halt) -> Ending:
        """Stop the clock, then the job: the time it takes to end is not sold."""
        self._meter.stop()
        code = None
        if halt.grace:
            self._running.terminate()
            code = self._running.wait(self._node.stop_grace_s)
        self._running.kill()
        return Ending(halt.outcome, halt.reason, code, stop=halt.reason == "witness_silent")

    def _attest(self, ready: bool = False) -> None:
        signs = self._channel.signs
        if signs.heartbeats == 0:  # it says nothing: what we can vouch for is that it lives
            self._silent_checks += 1
        beats = signs.heartbeats + self._silent_checks
        self._progress.beat(Beats(beats, signs.last_at or self._node.wall_ms() / 1000))
        storage_mib = self._disk.mib
        if ready:
            usage = self._meter.take_ready(self._seen, storage_mib)
        else:
            usage = self._meter.take(self._seen, storage_mib, signs.units)
        gpus = self._node.nvml.sample(self._real_gpus) if self._node.nvml else ()
        reading = Reading(
            at_ms=self._node.wall_ms(),
            ms=usage.ms,
            cpu_ms=usage.cpu_core_ms,
            memory_mib=self._meter.memory_mib,
            storage_mib=storage_mib,
            units=usage.units,
            heartbeats=signs.heartbeats,
            gpus=gpus,
        )
        self._lease.attestor.attest(usage, reading)
        self._progress.tell()
