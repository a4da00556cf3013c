"""One job from its lease to its end, on a thread of its own.

Only the inputs need the network: what has to reach the server goes through the journal, so a server
that is away stops nothing within the grace.
"""

from __future__ import annotations

import io
import json

import structlog

from marketplace.agent.assignment import Assignment
from marketplace.agent.capacity import Grant
from marketplace.agent.channel import JobChannel
from marketplace.agent.errors import ApiDown, JournalError, StartFailed
from marketplace.agent.folders import give_to
from marketplace.agent.journal import Ending
from marketplace.agent.logs import JobLogs
from marketplace.agent.node import HeldLease
from marketplace.agent.progress import Halt
from marketplace.agent.runtime.base import Launch, SandboxLimits
from marketplace.agent.watch import JobWatch
from marketplace.limits import MIB
from marketplace.sdk.archive import ArchiveError, unpack
from marketplace.sdk.errors import CoulombError

log = structlog.get_logger("coulomb.agent")
_CPU_SECONDS_SLACK = 60
_AGAIN_S = 0.5


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

        If the journal fails, the job is dead and nothing more is signed; the end is put down when
        the journal works again.
        """
        try:
            ending = self._ending()
            code = f" {ending.exit_code}" if ending.reason == "exit_code" else ""
            self._logs.say(f"job {ending.outcome}: {ending.reason}{code}")
            self._lease.attestor.conclude(ending)
        except JournalError as error:
            log.critical("journal_failed", lease=self._lease.id, error=str(error))
        self._lease.progress.tell()

    def _ending(self) -> Ending:
        try:
            needed, here = self._job.spec.runtime, self._node.runtime.name
            if needed != here:
                raise StartFailed("wrong_runtime", f"the job needs {needed}, this node runs {here}")
            halt = self._fetch_inputs()
            return Ending(halt.outcome, halt.reason) if halt else self._run()
        except StartFailed as error:
            self._logs.say(str(error))
            return Ending("failed", error.reason)
        except OSError as error:  # the node's disk or process table is full, most likely
            self._logs.say(f"the node could not run the job: {error}")
            return Ending("failed", "node_error")

    def _run(self) -> Ending:
        channel = JobChannel(self._lease.folders.run, self._logs, self._job.units_cap)
        try:
            running = self._node.runtime.start(self._launch())
        except StartFailed:
            channel.finish()
            raise
        channel.start(running.stdout, running.stderr)
        try:
            self._node.journal.note_process(self._lease.id, running.record())
            watch = JobWatch(self._lease, self._job, self._grant, running, channel)
        except (JournalError, OSError):
            running.close()
            channel.finish()
            raise
        return watch.to_the_end()

    def _fetch_inputs(self) -> Halt | None:
        """Fetch and unpack the job's folder; why to stop, should that come first."""
        inputs, progress, folders = self._job.spec.inputs, self._lease.progress, self._lease.folders
        while inputs is not None and progress.halt is None:
            if self._node.wall_ms() > self._job.start_deadline_ms:
                return Halt("failed", "start_limit")
            try:
                archive = self._node.api.get_blob(inputs.sha256)  # has this SHA-256
            except ApiDown:
                progress.wait_for_halt(_AGAIN_S)
                continue
            except CoulombError as error:
                raise StartFailed("inputs_missing", f"inputs: {error}") from error
            try:
                unpack(io.BytesIO(archive), folders.work, self._job.sizes.storage_mib * MIB)
            except ArchiveError as error:
                raise StartFailed(f"inputs_{error.reason}", f"inputs: {error}") from error
            break
        give_to(folders, self._node.runtime.owner(self._grant.slot))
        return progress.halt

    def _launch(self) -> Launch:
        job, sizes = self._job, self._job.sizes
        cores = max(1, -(-sizes.cpu_milli // 1000))
        return Launch(
            lease_id=self._lease.id,
            argv=job.spec.command,
            env=self._environment(),
            folders=self._lease.folders,
            limits=SandboxLimits(
                memory_mib=sizes.memory_mib,
                storage_mib=sizes.storage_mib,
                pids=self._node.pids_max,
                cpu_seconds=job.max_seconds * cores + _CPU_SECONDS_SLACK,
                cpu_milli=sizes.cpu_milli,
            ),
            gpus=self._grant.gpus,
            slot=self._grant.slot,
        )

    def _environment(self) -> dict[str, str]:
        """The job's own variables and where it finds things; nothing of the node's environment."""
        gpus, milli = self._grant.gpus, self._grant.gpu_milli_each
        own, ours = dict(self._job.spec.env), self._node.runtime.environment(self._lease.folders)
        if "PYTHONPATH" in own:
            ours["PYTHONPATH"] = f"{own['PYTHONPATH']}:{ours['PYTHONPATH']}"
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus if not gpu.simulated),
            **own,
            **ours,
            "COULOMB_JOB_ID": self._job.entry.job_id,
            "COULOMB_GPUS": json.dumps([{**gpu.to_json(), "milli": milli} for gpu in gpus]),
        }
