"""One job from its lease to its end, on a thread of its own.

The network is needed for the inputs alone: what has to reach the server goes through the journal,
so a server that is away stops nothing within the grace.
"""

from __future__ import annotations

import io
import json

import structlog

from marketplace.agent.assignment import Assignment
from marketplace.agent.capacity import Grant
from marketplace.agent.channel import JobChannel
from marketplace.agent.errors import ApiDown, JournalError, StartFailed
from marketplace.agent.folders import give_to, make_folders
from marketplace.agent.journal import Ending, LeaseEntry
from marketplace.agent.logs import JobLogs
from marketplace.agent.meters import MIB
from marketplace.agent.node import Node
from marketplace.agent.progress import Order, Progress
from marketplace.agent.runtime.base import Launch, Limits, Running
from marketplace.agent.watch import Watch
from marketplace.sdk.archive import ArchiveError, unpack
from marketplace.sdk.errors import CoulombError

log = structlog.get_logger("coulomb.agent")
_CPU_SECONDS_SLACK = 60
_AGAIN_S = 0.5


class JobRun:
    """Runs one job. `run` returns once its end is in the journal and nothing of it is left."""

    def __init__(
        self,
        node: Node,
        job: Assignment,
        grant: Grant,
        entry: LeaseEntry,
        progress: Progress,
        logs: JobLogs,
    ) -> None:
        self._node = node
        self._job = job
        self._grant = grant
        self._progress = progress
        self._logs = logs
        self._attestor = node.attestor(entry)
        self._folders = node.folders(job.lease_id)

    def run(self) -> None:
        """Run the job to its end and put down how it ended.

        Where the journal fails the job is dead and nothing more is signed; the end is put down when
        the journal works again.
        """
        try:
            self._run_and_conclude()
        except JournalError as error:
            log.critical("journal_failed", lease=self._job.lease_id, error=str(error))
        self._progress.tell()

    def _run_and_conclude(self) -> None:
        try:
            ending = self._run()
        except StartFailed as error:
            self._logs.say(str(error))
            ending = Ending("failed", error.reason)
        except OSError as error:  # the node's disk or process table is full, most likely
            self._logs.say(f"the node could not run the job: {error}")
            ending = Ending("failed", "node_error")
        code = f" {ending.exit_code}" if ending.reason == "exit_code" else ""
        self._logs.say(f"job {ending.outcome}: {ending.reason}{code}")
        self._attestor.conclude(ending)

    def _run(self) -> Ending:
        needed, here = self._job.spec.runtime, self._node.runtime.name
        if needed != here:
            raise StartFailed("wrong_runtime", f"the job needs {needed}, this node runs {here}")
        order = self._fetch_inputs()
        if order is not None:
            return Ending(order.outcome, order.reason)
        channel = JobChannel(self._folders.run, self._logs, self._job.units_cap)
        try:
            running = self._node.runtime.start(self._launch())
        except StartFailed:
            channel.finish()
            raise
        channel.start(running.stdout, running.stderr)
        return self._watch(running, channel).to_the_end()

    def _watch(self, running: Running, channel: JobChannel) -> Watch:
        try:
            self._node.journal.note_process(self._job.lease_id, running.record())
            return Watch(
                self._node,
                self._job,
                self._grant,
                self._attestor,
                self._progress,
                running,
                channel,
            )
        except (JournalError, OSError):
            running.close()
            channel.finish()
            raise

    def _fetch_inputs(self) -> Order | None:
        """Fetch and unpack the job's folder; the order to stop, should one come first."""
        inputs = self._job.spec.inputs
        while inputs is not None and self._progress.order is None:
            if self._node.wall_ms() > self._job.start_deadline_ms:
                return Order("failed", "start_limit")
            try:
                archive = self._node.api.get_blob(inputs.sha256)  # has this SHA-256
            except ApiDown:
                self._progress.wait_for_order(_AGAIN_S)
                continue
            except CoulombError as error:
                raise StartFailed("inputs_missing", f"inputs: {error}") from error
            try:
                unpack(io.BytesIO(archive), self._folders.work, self._job.storage_mib * MIB)
            except ArchiveError as error:
                raise StartFailed(f"inputs_{error.reason}", f"inputs: {error}") from error
            break
        give_to(self._folders, self._node.runtime.owner(self._grant.slot))
        return self._progress.order

    def _launch(self) -> Launch:
        job = self._job
        cores = max(1, -(-job.cpu_milli // 1000))
        return Launch(
            lease_id=job.lease_id,
            argv=job.spec.command,
            env=self._environment(),
            folders=self._folders,
            limits=Limits(
                memory_mib=job.memory_mib,
                storage_mib=job.storage_mib,
                pids=self._node.pids_max,
                cpu_seconds=job.max_seconds * cores + _CPU_SECONDS_SLACK,
                cpu_milli=job.cpu_milli,
            ),
            gpus=self._grant.gpus,
            slot=self._grant.slot,
        )

    def _environment(self) -> dict[str, str]:
        """The job's own variables and where it is; nothing of the node's environment."""
        real = ",".join(gpu.uuid for gpu in self._grant.gpus if not gpu.simulated)
        gpus = [
            {
                "uuid": gpu.uuid,
                "model": gpu.model,
                "memory_mib": gpu.memory_mib,
                "simulated": gpu.simulated,
                "milli": self._grant.gpu_milli_each,
            }
            for gpu in self._grant.gpus
        ]
        return {
            "CUDA_VISIBLE_DEVICES": real,
            **dict(self._job.spec.env),
            **self._node.runtime.paths(self._folders),
            "COULOMB_JOB_ID": self._job.job_id,
            "COULOMB_GPUS": json.dumps(gpus),
        }


def prepare(node: Node, lease_id: str) -> JobLogs:
    """Make a job's folders anew and open its logs."""
    folders = node.folders(lease_id)
    make_folders(folders)
    return JobLogs(folders.logs)
