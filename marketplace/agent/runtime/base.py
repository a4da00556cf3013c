"""The port between the agent and whatever runs jobs: a sandboxed process now, a container later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from marketplace.agent.inventory import InstalledGpu
from marketplace.agent.meters import CpuMemory

WORK = "/work"
OUT = "/out"


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a job may use at most. `cpu_milli` 0: no limit but the machine's."""

    memory_mib: int
    storage_mib: int
    pids: int
    cpu_seconds: int
    cpu_milli: int = 0


@dataclass(frozen=True, slots=True)
class JobFolders:
    """A job's folders on the node: working folder, outputs, and the socket's folder."""

    root: Path

    @property
    def work(self) -> Path:
        """Seen by the job as /work."""
        return self.root / "work"

    @property
    def out(self) -> Path:
        """Seen by the job as /out."""
        return self.root / "out"

    @property
    def logs(self) -> Path:
        """The job's output until the server has it; the job does not see it."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Holds the socket and the small system files made for the job."""
        return self.root / "run"


@dataclass(frozen=True, slots=True)
class Launch:
    """One job to start. `slot` is unique among the jobs that run on this node now."""

    lease_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    folders: JobFolders
    limits: SandboxLimits
    gpus: tuple[InstalledGpu, ...]
    slot: int


class Running(Protocol):
    """A started job. After `close` nothing of it is left but its folders."""

    @property
    def stdout(self) -> int:
        """Descriptor to read the job's output from; whoever takes it closes it."""
        ...

    @property
    def stderr(self) -> int:
        """Descriptor to read the job's error output from; whoever takes it closes it."""
        ...

    def wait(self, timeout_s: float) -> int | None:
        """The exit code (128 + signal) as soon as there is one, None after the timeout."""
        ...

    def terminate(self) -> None:
        """Ask the job's processes to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End every process of the job at once."""
        ...

    def close(self) -> None:
        """Make sure that nothing of the job is left."""
        ...

    def read(self) -> CpuMemory | None:
        """Processor time and memory of all its processes."""
        ...

    def hidden_bytes(self, device: int) -> int:
        """Bytes on a device in files that its processes hold open although they are deleted."""
        ...

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        ...

    def record(self) -> dict[str, Any]:
        """What a later agent needs to find and end it: see `JobRuntime.reap`."""
        ...


class JobRuntime(Protocol):
    """Starts jobs."""

    @property
    def name(self) -> str:
        """What the node is listed with."""
        ...

    def owner(self, slot: int) -> tuple[int, int] | None:
        """The user and group that must own the folders of a job in this slot; None: the agent's."""
        ...

    def environment(self, folders: JobFolders) -> dict[str, str]:
        """Where the job finds COULOMB_WORK, _OUT, _SOCKET and _HELPER; PYTHONPATH to the last."""
        ...

    def start(self, launch: Launch) -> Running:
        """Start a job. Raises StartFailed; then nothing of it runs."""
        ...

    def reap(self, record: Mapping[str, Any]) -> None:
        """End what a dead agent left running under this record, if anything."""
        ...
