"""One job from its lease to its end, on a thread of its own.

Only the inputs need the network: what has to reach the server goes through the journal, so a server
that is away stops nothing within the grace.
"""

import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from marketplace.agent.channel import JobChannel, JobLogs
from marketplace.agent.errors import SERVER_AWAY, JournalError, NotOurs, StartFailed
from marketplace.agent.folders import DiskWatch, give_to
from marketplace.agent.inventory import Grant
from marketplace.agent.journal import Ending, LeaseEntry
from marketplace.agent.meters import CpuMemory, JobMeter, Reading
from marketplace.agent.node import Halt, HeldLease, ThisNode, unix_ms
from marketplace.agent.onchain import first_look
from marketplace.agent.runtime.process import RunningProcess
from marketplace.agent.runtime.sandbox import Launch, SandboxLimits
from marketplace.domain.job import JobSpec, parse_job
from marketplace.domain.life import LEFT, Outcome
from marketplace.domain.placing import sizes_of
from marketplace.errors import InvalidJob
from marketplace.limits import MIB
from marketplace.sdk.archive import ArchiveError, unpack
from marketplace.sdk.errors import CoulombError
from marketplace.wire.leases import Lease
from settlement.leases import LeaseView
from settlement.orders import Ask, Bid, OpenedFrom
from settlement.silence import unseen_ms
from settlement.units import Sizes

log = structlog.get_logger("coulomb.agent")
_CPU_SECONDS_SLACK = 60
_AGAIN_S = 0.5
_TICK_S = 0.05
_WITNESS_SILENT = "witness_silent"
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The job of one lease and what it may use."""

    entry: LeaseEntry
    spec: JobSpec
    sizes: Sizes  # never zero, except for the GPUs
    gpus: tuple[int, ...]  # reserved for it
    interval_ms: int
    grace_ms: int  # how long work goes on without a countersignature
    start_deadline_ms: int  # Unix ms by which the job must be ready
    longest_seconds: int  # with every top-up that its ask allows
    budget_limited: bool
    units_cap: int
    notice_s: int | None = None  # after which the node may be taken back; None: it may not
    shown: LeaseView | None = None  # by our own node of the chain, if there is one


def assign(node: ThisNode, lease: Lease, ask: Ask, bid: Bid) -> Assignment:
    """Check a lease against its signed orders and read its job.

    What the server says beyond them decides nothing: the lease number must follow from the orders
    and our meter key, and the job must have the hash that the buyer signed. If there is a node of
    our own, it must show the lease as well. Raises NotOurs, NotShown.
    """
    if not _ID.fullmatch(lease.id):  # it names a folder and a cgroup here
        raise NotOurs(f"{lease.id!r:.100} is not a lease id")
    meter = node.signer.address
    terms = lease.terms
    if terms is None or lease.job is None:
        raise NotOurs(f"{lease.id}: no terms or no job yet")
    opened = OpenedFrom(ask, bid, terms.prices)
    number = opened.lease_no
    if ask.meter != meter or number != lease.lease_no:
        raise NotOurs(f"{lease.id}: the orders and our meter key open another lease")
    if (lease.buyer, lease.provider) != (bid.buyer, ask.provider):
        raise NotOurs(f"{lease.id}: buyer or provider is not who signed the orders")
    try:
        spec = parse_job(lease.job.spec, packed=True)
    except InvalidJob as error:
        raise NotOurs(f"{lease.id}: the job cannot be read: {error}") from error
    if spec.hash() != bid.job_hash:
        raise NotOurs(f"{lease.id}: the job is not the one whose hash the buyer signed")
    if terms.prices.rate(bid.sizes()) < ask.floor.rate(bid.sizes()):
        raise NotOurs(f"{lease.id}: its rate is below the ask's lowest")
    start_s, start_limit_s = terms.start, terms.start_limit_seconds
    shown = None
    if node.shows is not None:
        shown = first_look(node.shows, lease.id, opened)
        start_s, start_limit_s = shown.start, shown.start_seconds
    metered = bid.egress_mib > 0 or bid.units > 0
    names = (lease.id, lease.job_id, bid.buyer, ask.provider, number, node.domain, bid.witness)
    return Assignment(
        entry=LeaseEntry(*names, metered, spec.outputs, spec.retry_on), spec=spec,
        sizes=_sizes(ask, bid), gpus=lease.gpus, interval_ms=lease.interval_ms,
        grace_ms=unseen_ms(lease.interval_ms),
        budget_limited=terms.budget_limited, units_cap=bid.units,
        start_deadline_ms=(start_s + start_limit_s) * 1000,
        longest_seconds=ask.max_seconds,
        notice_s=ask.notice, shown=shown,
    )  # fmt: skip


def _sizes(ask: Ask, bid: Bid) -> Sizes:
    """What the matcher counted for the lease, but never nothing: a sandbox needs a bound."""
    taken = sizes_of(ask, bid)
    others = (taken.cpu_milli, taken.memory_mib, taken.storage_mib)
    return Sizes(taken.gpu_milli, *(max(1, size) for size in others))


class JobRun:
    """Runs one job. `run` returns once its end is in the journal and nothing of it is left."""

    def __init__(self, lease: HeldLease, job: Assignment, grant: Grant, logs: JobLogs) -> None:
        self._lease = lease
        self._node = lease.node
        self._job = job
        self._grant = grant
        self._logs = logs

    def run(self) -> None:
        """Run the job to its end and put down how it ended.

        If the journal fails, the job is dead, and the end is put down when it works again.
        """
        try:
            ending = self._ending()
            code = f" {ending.exit_code}" if ending.reason == "exit_code" else ""
            self._logs.say(f"job {ending.outcome}: {ending.reason}{code}")
            self._lease.attestor.conclude(ending)
        except JournalError as error:
            log.critical("journal_failed", lease=self._lease.id, error=str(error))
        self._lease.tell()

    def _ending(self) -> Ending:
        try:
            needed, here = self._job.spec.runtime, self._node.runtime.name
            if needed != here:
                raise StartFailed("wrong_runtime", f"the job needs {needed}, this node runs {here}")
            halt = self._fetch_inputs()
            return Ending(halt.outcome, halt.reason) if halt else self._run()
        except StartFailed as error:
            self._logs.say(str(error))
            return Ending(Outcome.FAILED, error.reason)
        except OSError as error:  # the node's disk or process table is full, most likely
            self._logs.say(f"the node could not run the job: {error}")
            return Ending(Outcome.FAILED, "node_error")

    def _run(self) -> Ending:
        channel = JobChannel(self._lease.folders.run, self._logs, self._job.units_cap)
        try:
            running = self._node.runtime.start(self._launch())
            channel.start(running.stdout, running.stderr)
            try:
                self._node.journal.note_process(self._lease.id, running.record)
                watch = JobWatch(self._lease, self._job, self._grant, running, channel)
            except (JournalError, OSError):
                running.close()
                raise
            return watch.to_the_end()
        finally:
            channel.finish()

    def _fetch_inputs(self) -> Halt | None:
        """Fetch and unpack the job's folder; return why to stop, if a halt comes first."""
        inputs = self._job.spec.inputs
        lease = self._lease
        while inputs is not None and lease.halt is None:
            if unix_ms() > self._job.start_deadline_ms:
                return Halt(Outcome.FAILED, "start_limit")
            try:
                archive = self._node.api.blobs.get(inputs.sha256)  # has this SHA-256
                unpack(io.BytesIO(archive), lease.folders.work, self._job.sizes.storage_mib * MIB)
                break
            except SERVER_AWAY:
                lease.wait_for_halt(_AGAIN_S)
            except CoulombError as error:
                reason = error.reason if isinstance(error, ArchiveError) else "missing"
                raise StartFailed(f"inputs_{reason}", f"inputs: {error}") from error
        give_to(lease.folders, self._node.runtime.owner(self._grant.slot))
        return lease.halt

    def _launch(self) -> Launch:
        lease, job, sizes, grant = self._lease, self._job, self._job.sizes, self._grant
        cores = max(1, -(-sizes.cpu_milli // 1000))
        cpu_seconds = job.longest_seconds * cores + _CPU_SECONDS_SLACK
        limits = SandboxLimits(
            sizes.memory_mib, sizes.storage_mib, self._node.pids_max, cpu_seconds, sizes.cpu_milli
        )
        env = self._environment()
        folders = lease.folders
        return Launch(lease.id, job.spec.command, env, folders, limits, grant.gpus, grant.slot)

    def _environment(self) -> dict[str, str]:
        """The job's own variables and where it finds things; nothing of the node's environment."""
        gpus, milli = self._grant.gpus, self._grant.gpu_milli_each
        own = dict(self._job.spec.env)
        ours = self._node.runtime.environment(self._lease.folders)
        if "PYTHONPATH" in own:
            ours["PYTHONPATH"] = f"{own['PYTHONPATH']}:{ours['PYTHONPATH']}"
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus if not gpu.simulated),
            **own,
            **ours,
            "COULOMB_JOB_ID": self._job.entry.job_id,
            "COULOMB_GPUS": json.dumps([{**gpu.to_json(), "milli": milli} for gpu in gpus]),
        }


class JobWatch:
    """A job while it runs: measured, attested every interval, and stopped when it has to be."""

    def __init__(
        self, lease: HeldLease, job: Assignment, grant: Grant, running: RunningProcess,
        channel: JobChannel, clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._lease = lease
        self._node = lease.node
        self._job = job
        self._running = running
        self._channel = channel
        self._real_gpus = tuple(gpu.uuid for gpu in grant.gpus if not gpu.simulated)
        self._meter = JobMeter(job.sizes.gpu_milli, job.units_cap, clock_ns)
        self._due_ms = job.interval_ms
        self._silent_checks = 0
        self._seen: CpuMemory | None = None
        work, out = lease.folders.work, lease.folders.out
        device = work.stat().st_dev
        self._disk = DiskWatch((work, out), lambda: running.hidden_bytes(device))

    def to_the_end(self) -> Ending:
        """Watch until the job is dead, and sign its final usage. Raises JournalError."""
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
            halt = self._lease.halt or self._breach()
            if halt is not None:
                return self._stopped(halt)
            if self._meter.started and self._meter.ms >= self._due_ms:
                whole = self._meter.ms // self._job.interval_ms  # one, even if some were missed
                self._due_ms = (whole + 1) * self._job.interval_ms
                self._attest()

    def _note_ready(self) -> None:
        at_once = self._job.spec.ready == "start"
        if self._meter.started or not (at_once or self._channel.signs.ready):
            return
        self._meter.start(self._sample(), self._lease.paid_ms)
        self._lease.start_covering()
        self._attest(ready=True)

    def _breach(self) -> Halt | None:
        """Why the job has to stop now, if it has to. Beyond a limit it gets no time to use more."""
        sizes = self._job.sizes
        self._meter.ms_max = max(self._meter.ms_max, self._lease.paid_ms)
        ms = self._meter.ms
        if not self._meter.started:
            late = unix_ms() > self._job.start_deadline_ms
            return Halt(Outcome.FAILED, "start_limit") if late else None
        if ms >= self._meter.ms_max:
            if self._job.budget_limited:
                return Halt(Outcome.OVER_BUDGET, "budget")
            return Halt(Outcome.FAILED, "max_duration")
        if self._lease.uncovered_ms(ms) > self._job.grace_ms:
            return Halt(Outcome.FAILED, _WITNESS_SILENT)
        if self._disk.mib > sizes.storage_mib:
            return Halt(Outcome.FAILED, "storage_limit", grace=False)
        seen = self._sample()
        if seen is not None and (seen.memory_bytes or 0) > sizes.memory_mib * MIB:
            return Halt(Outcome.FAILED, "memory_limit", grace=False)
        return None

    def _sample(self) -> CpuMemory | None:
        """Processor time and memory now; once the processes are gone, as last seen."""
        self._seen = self._running.read() or self._seen
        return self._seen

    def _ended(self, code: int) -> Ending:
        self._meter.stop()
        out_of_memory = self._running.out_of_memory()
        self._running.kill()
        self._channel.finish()  # a short job may have said that it is ready, unheard so far
        self._note_ready()
        if out_of_memory:
            return Ending(Outcome.FAILED, "memory_limit", code)
        if code != 0 and self._lease.has_notice:  # it has left the node that is taken back
            return Ending(Outcome.LOST, LEFT, code)
        if not self._meter.started:
            return Ending(Outcome.FAILED, "never_ready", code)
        if code != 0:
            return Ending(Outcome.FAILED, "exit_code", code)
        return Ending(Outcome.SUCCEEDED, "completed", 0)

    def _stopped(self, halt: Halt) -> Ending:
        """Stop the clock, then the job: the time it takes to end is not sold."""
        self._meter.stop()
        code = None
        if halt.grace:
            self._running.terminate()
            code = self._running.wait(self._node.stop_grace_s)
        self._running.kill()
        return Ending(halt.outcome, halt.reason, code, signs_stop=halt.reason == _WITNESS_SILENT)

    def _attest(self, ready: bool = False) -> None:
        signs = self._channel.signs
        storage_mib = self._disk.mib
        if signs.heartbeats == 0:  # it says nothing: all we know is that it lives
            self._silent_checks += 1
        last_at = signs.last_at or unix_ms() / 1000
        self._lease.beats = (signs.heartbeats + self._silent_checks, last_at)
        if ready:
            usage = self._meter.take_ready(self._seen, storage_mib)
        else:
            usage = self._meter.take(self._seen, storage_mib, signs.units)
        reading = Reading(
            at_ms=unix_ms(), ms=usage.ms, cpu_ms=usage.cpu_core_ms, units=usage.units,
            memory_mib=self._meter.memory_mib, storage_mib=storage_mib, heartbeats=signs.heartbeats,
            gpus=self._node.nvml.sample(self._real_gpus) if self._node.nvml else (),
        )  # fmt: skip
        self._lease.attestor.attest(usage, reading)
        self._lease.tell()
