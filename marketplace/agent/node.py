"""What the leases of this node share, and what the threads that work on one lease share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.api import AgentApi
from marketplace.agent.attestor import Attestor, unix_ms
from marketplace.agent.folders import make_folders
from marketplace.agent.inventory import Inventory, Nvml
from marketplace.agent.journal import AgentJournal, LeaseEntry
from marketplace.agent.logs import JobLogs
from marketplace.agent.progress import JobProgress
from marketplace.agent.runtime.base import JobFolders, JobRuntime
from marketplace.agent.vouchers import Vouchers
from marketplace.wire.leases import Lease
from settlement.eip712 import Domain
from settlement.signing import Signer


@dataclass(frozen=True, slots=True)
class ThisNode:
    """The node that this agent runs: its parts and its settings. `wall_ms` is Unix time."""

    api: AgentApi
    journal: AgentJournal
    runtime: JobRuntime
    signer: Signer
    domain: Domain  # of the escrow that it signs for
    inventory: Inventory
    jobs_folder: Path
    node_id: str = ""
    shared: bool = False
    nvml: Nvml | None = None
    stop_grace_s: float = 10.0
    pids_max: int = 512
    poll_s: float = 1.0
    wall_ms: Callable[[], int] = unix_ms


class HeldLease:
    """One lease in hand: what the threads of its job and of its courier work with."""

    def __init__(
        self, node: ThisNode, entry: LeaseEntry, progress: JobProgress | None = None
    ) -> None:
        self.node = node
        self.entry = entry
        self.id = entry.lease_id
        self.folders = JobFolders(node.jobs_folder / entry.lease_id)
        self.progress = progress or JobProgress()
        self.attestor = Attestor(node.journal, node.signer, entry, node.wall_ms)
        self.vouchers = Vouchers(node.api, node.journal, entry)
        self.logs: JobLogs | None = None  # None: no job runs and none is to be reported

    def observe(self, lease: Lease) -> None:
        """Pass on what the server says, and what the witness verifiably signed.

        Raises ApiDown, ApiError, JournalError.
        """
        self.progress.observe(lease)
        # Also once the job has ended: the last voucher pays the most.
        self.progress.cover(self.vouchers.learn(lease))

    def make_folders(self) -> JobLogs:
        """Make the job's folders anew and open its logs. Raises OSError."""
        make_folders(self.folders)
        return self.open_logs()

    def open_logs(self) -> JobLogs:
        """Open the job's logs, as they are."""
        self.logs = JobLogs(self.folders.logs)
        return self.logs

    def say(self, text: str) -> None:
        """Add a line to the job's `agent` log, if it has logs."""
        if self.logs is not None:
            self.logs.say(text)
