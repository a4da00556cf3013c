"""What every job on a node shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.api import AgentApi
from marketplace.agent.attestor import Attestor, unix_ms
from marketplace.agent.inventory import Nvml
from marketplace.agent.journal import Journal, LeaseEntry
from marketplace.agent.runtime.base import JobFolders, Runtime
from settlement.signing import Signer


@dataclass(frozen=True, slots=True)
class Node:
    """The node's parts. Times end in their unit; `wall_ms` is Unix time."""

    api: AgentApi
    journal: Journal
    runtime: Runtime
    signer: Signer
    jobs_folder: Path
    nvml: Nvml | None = None
    stop_grace_s: float = 10.0
    pids_max: int = 512
    poll_s: float = 1.0
    wall_ms: Callable[[], int] = unix_ms

    def attestor(self, entry: LeaseEntry) -> Attestor:
        """The pen for one lease."""
        return Attestor(self.journal, self.signer, entry, self.wall_ms)

    def folders(self, lease_id: str) -> JobFolders:
        """Where a lease's job has its files."""
        return JobFolders(self.jobs_folder / lease_id)
